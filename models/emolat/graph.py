"""The emotion semantic graph and its encoder (equations 1 to 6). Graphs of a batch are encoded at once.

An image's graph usually has up to `MAX_PAIRS` objects, each pointing to its attribute and to the image's global
adjective. A second graph adds one node for every such edge, into which the emotion is injected. A graph without objects
has no edge that could carry the emotion: it gets a node of the emotion instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn

MAX_PAIRS = 14
"""Pairs that annotations usually have at most. Larger graphs are encoded too, and counted."""


@dataclass(frozen=True)
class GraphBatch:
    """The first graphs of a batch (equation 1): text features of their words, padded to the largest graph's pairs P.

    objects, attributes  [B, P, D]
    present              [B, P] bool: which pairs exist
    adjective, emotion   [B, D]: the global adjective and the emotion word
    """

    objects: torch.Tensor
    attributes: torch.Tensor
    present: torch.Tensor
    adjective: torch.Tensor
    emotion: torch.Tensor

    def edges(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(f_oa [B, 2 P, 2 D], which edges exist [B, 2 P]): features of each directed edge's two ends side by side
        (equation 2), the edges from object to attribute first, then those from object to global adjective."""
        adjective = self.adjective[:, None].expand_as(self.objects)
        first = torch.cat([self.objects, self.attributes], dim=-1)
        second = torch.cat([self.objects, adjective], dim=-1)
        return torch.cat([first, second], dim=1), torch.cat([self.present, self.present], dim=1)


class SemanticInjection(nn.Module):
    """Equations 3 and 4: cross-attention from the emotion to the edges, with one injected node an edge.

    softmax(Q K^T / sqrt(d)) V as printed would be a single vector; the node of edge i is n a_i V_i, whose mean over the
    n edges is that vector.
    """

    def __init__(self, width: int):
        super().__init__()
        self.query, self.key, self.value = (
            nn.Linear(width, width),
            nn.Linear(2 * width, width),
            nn.Linear(2 * width, width),
        )

    def forward(self, emotion: torch.Tensor, edges: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """emotion [B, D], edges [B, E, 2 D], present [B, E] -> [B, E, D]; 0 where there is no edge."""
        scores = (self.key(edges) @ self.query(emotion)[..., None]).squeeze(-1) / emotion.shape[-1] ** 0.5
        scores = scores.masked_fill(~present, float("-inf"))
        weights = torch.nan_to_num(scores.softmax(dim=-1))  # 0 for a graph without edges
        count = present.sum(dim=1, keepdim=True)
        return (count * weights)[..., None] * self.value(edges)


def adjacency(present: torch.Tensor) -> torch.Tensor:
    """present [B, P] -> [B, N, N], N = 4 P + 2: which node sends to which in the second graph (equation 5), row to
    column.

    Nodes: P objects, P attributes, the global adjective, P injected nodes of the edges to attributes, P of those to the
    adjective, the emotion's own node of a graph without objects.
    """
    b, p = present.shape
    links = present.new_zeros(b, 4 * p + 2, 4 * p + 2)
    i = torch.arange(p, device=present.device)
    for source, target in (
        (i, p + i),
        (i, 2 * p + 0 * i),
        (i, 2 * p + 1 + i),
        (p + i, 2 * p + 1 + i),
        (i, 3 * p + 1 + i),
        (2 * p + 0 * i, 3 * p + 1 + i),
    ):
        links[:, source, target] = present
    links[:, 2 * p, -1] = ~present.any(dim=1)
    return links


class GraphConvolution(nn.Module):
    """One layer of a GCN (Kipf and Welling 2017) on directed graphs: each node takes the mean of itself and of those
    that point to it."""

    def __init__(self, width_in: int, width: int):
        super().__init__()
        self.line = nn.Linear(width_in, width)

    def forward(self, nodes: torch.Tensor, links: torch.Tensor) -> torch.Tensor:
        """nodes [B, N, D], links [B, N, N] bool, row sends to column -> [B, N, D']."""
        receives = links.transpose(1, 2).to(nodes) + torch.eye(nodes.shape[1], device=nodes.device)
        return self.line(receives @ nodes / receives.sum(dim=-1, keepdim=True))


class GraphEncoder(nn.Module):
    """Graphs -> graph features (equation 6).

    width   D of the text features
    slots   vectors a graph is pooled to, by attention with learned queries: graphs of any size
    out     width of a pooled vector; two neighbours are one code of 2 out
    """

    def __init__(self, width: int = 512, hidden: int = 512, slots: int = 32, out: int = 512, layers: int = 2):
        super().__init__()
        self.injection = SemanticInjection(width)
        widths = [width] + [hidden] * layers
        self.layers = nn.ModuleList(GraphConvolution(a, b) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(layers))
        self.queries = nn.Parameter(torch.randn(slots, hidden) * hidden**-0.5)
        self.pool = nn.MultiheadAttention(hidden, 4, batch_first=True)
        self.out = nn.Linear(hidden, out)
        self.scale = nn.BatchNorm1d(slots * out, affine=False)

    def forward(self, batch: GraphBatch) -> torch.Tensor:
        """-> [B, slots / 2, 2 out]."""
        edges, edges_present = batch.edges()
        injected = self.injection(batch.emotion, edges, edges_present)
        nodes = torch.cat(
            [batch.objects, batch.attributes, batch.adjective[:, None], injected, batch.emotion[:, None]], dim=1
        )
        always, bare = torch.ones_like(batch.present[:, :1]), ~batch.present.any(dim=1, keepdim=True)
        present = torch.cat([batch.present, batch.present, always, edges_present, bare], dim=1)
        links = adjacency(batch.present)
        for layer, norm in zip(self.layers, self.norms):
            nodes = torch.relu(norm(layer(nodes, links)))
        queries = self.queries.expand(len(nodes), -1, -1)
        pooled, _ = self.pool(queries, nodes, nodes, key_padding_mask=~present, need_weights=False)
        # Each of a graph's vectors is standardised over the batch, as the real ones are over their data. Without it
        # they diverge under the adversary's gradient, and an emotion's graphs collapse onto one vector a slot.
        return self.scale(self.out(pooled).flatten(1)).unflatten(1, (queries.shape[1] // 2, -1))
