"""Cross-attention under control: the target's maps inside a mask, the source's outside (Moodifier's equations 6 and 7),
and maps recorded to see where a word looks.

A control is called by a denoiser (`Denoiser.attention`) in place of every cross-attention:
    control(q [R, n, C], k [R, T, C], v [R, T, C], heads, (h, w)) -> [R, n, C],  n = h w
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from ..errors import UserError
from ..tensors.masks import coverage


def align(scores: torch.Tensor) -> torch.Tensor:
    """Needleman-Wunsch over scores [S, T] of matching source token i with target token j, gaps at no cost: [T] the
    source token of each target token, -1 for none. Order is kept; only matches of positive score are made."""
    s, t = scores.shape
    rows = scores.tolist()
    table = [[0.0] * (t + 1) for _ in range(s + 1)]
    for i in range(s):
        for j in range(t):
            table[i + 1][j + 1] = max(table[i][j + 1], table[i + 1][j], table[i][j] + rows[i][j])
    out, i, j = [-1] * t, s, t
    while i and j:
        if rows[i - 1][j - 1] > 0 and table[i][j] == table[i - 1][j - 1] + rows[i - 1][j - 1]:
            out[j - 1] = i - 1
            i, j = i - 1, j - 1
        elif table[i][j] == table[i - 1][j]:
            i -= 1
        else:
            j -= 1
    return torch.tensor(out)


def id_scores(source: Sequence[int], target: Sequence[int]) -> torch.Tensor:
    """[S, T]: 1 where token ids agree, else -1."""
    return torch.where(torch.tensor(source)[:, None] == torch.tensor(target)[None], 1.0, -1.0)


ALIKE = 0.7
"""Tokens whose centred embeddings have a cosine above this are taken for the same word."""


def embedding_scores(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """[S, T] from text embeddings [S, D] and [T, D]: cosine of what sets a token apart from the mean of all, less
    `ALIKE`.

    For a CONDITIONING whose token ids are not known. It is rough: every embedding after a new word changes, and with
    the bundled encoder a quarter of the tokens are matched otherwise than by their ids.
    """
    mean = torch.cat([source, target]).float().mean(dim=0)
    a, b = (F.normalize(x.float() - mean, dim=-1) for x in (source, target))
    return (a @ b.T - ALIKE).cpu()


def split_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """[R, n, C] -> [R, H, n, C / H]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def attention_weights(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """[R, H, n, d] x [R, H, T, d] -> softmax in float32 [R, H, n, T]."""
    return (q.float() @ k.float().transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(dim=-1)


class BlendControl:
    """Rows are `batch` sources, `batch` targets, then others, each group with its own number of tokens.

    lengths    tokens of each group: what follows them is padding and is never attended to
    alignment  [T] of `align`: the source token of each target token, or -1
    mask       [B or 1, 1, h, w] in 0..1: where the target's own maps hold
    active     whether maps are blended (Moodifier's equation 6: in early steps); otherwise each row attends as it would
               alone
    """

    def __init__(self, batch: int, lengths: Sequence[int], alignment: torch.Tensor, mask: torch.Tensor):
        self.batch, self.lengths, self.mask = batch, tuple(lengths), mask
        self.known = alignment >= 0
        self.index = alignment.clamp(min=0)
        self.active = True
        self._sized: dict[tuple[int, int], torch.Tensor] = {}

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, size: tuple[int, int]
    ) -> torch.Tensor:
        b = self.batch
        if len(q) != b * len(self.lengths) or k.shape[1] < max(self.lengths):
            raise UserError(
                "Another patch of this MODEL changes the text that cross-attention reads, which the attention blend "
                "cannot follow. Connect the model without it (IPAdapter, attention couple, regional prompts)."
            )
        groups = []
        for i, n in enumerate(self.lengths):
            rows = slice(b * i, b * (i + 1))
            groups.append(
                (split_heads(q[rows], heads), split_heads(k[rows, :n], heads), split_heads(v[rows, :n], heads))
            )
        out = [F.scaled_dot_product_attention(*group) for group in groups]
        if self.active:
            (qs, ks, _), (qt, kt, vt) = groups[:2]
            out[1] = (self.refined(attention_weights(qs, ks), attention_weights(qt, kt), size) @ vt.float()).to(v)
        return torch.cat([x.transpose(1, 2).flatten(2) for x in out])

    def joint(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, text: int, size: tuple[int, int]
    ) -> torch.Tensor:
        """The same for transformers whose text and image attend in one sequence: q, k, v [R, H, N, d], of which the
        first `text` tokens are the text's, padded, and the next h w the image's -> [R, H, N, d].

        Equation 7's maps are the image's rows and the text's columns of that attention. Its other columns stay the
        target's own, and nothing is normalised again, as in cross-attention.
        """
        b, image = self.batch, slice(text, text + size[0] * size[1])
        if len(q) != b * len(self.lengths) or text < max(self.lengths):
            raise UserError(
                "Another patch of this MODEL changes the sequence that its attention reads, which the attention blend "
                "cannot follow. Connect the model without it."
            )
        groups, out = [], []
        for i, n in enumerate(self.lengths):
            rows = slice(b * i, b * (i + 1))
            real = torch.arange(k.shape[2], device=k.device)
            real = real[(real < n) | (real >= text)]  # padding is not attended to
            groups.append((q[rows], k[rows][:, :, real], v[rows][:, :, real]))
            out.append(F.scaled_dot_product_attention(*groups[-1]))
        if self.active:
            (qs, ks, _), (qt, kt, vt) = groups[:2]
            source, target = self.lengths[:2]
            for h in range(q.shape[1]):  # head by head: a map has as many entries as the image has tokens, squared
                one = slice(h, h + 1)
                of_source = attention_weights(qs[:, one, image], ks[:, one])[..., :source]
                of_target = attention_weights(qt[:, one, image], kt[:, one])
                of_target[..., :target] = self.refined(of_source, of_target[..., :target], size)
                out[1][:, one, image] = (of_target @ vt[:, one].float()).to(v)
        return torch.cat(out)

    def refined(self, source: torch.Tensor, target: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Equation 7: source [B, H, n, S] and target [B, H, n, T] maps -> [B, H, n, T]. Outside the mask a target
        token has the map of its source token; one without keeps its own, and nothing is normalised again."""
        known, index = self.known.to(target.device), self.index.to(target.device)
        kept = torch.where(known, source[..., index], target)
        m = self._mask(size, target)
        return m * target + (1 - m) * kept

    def _mask(self, size: tuple[int, int], like: torch.Tensor) -> torch.Tensor:
        if size not in self._sized:
            m = coverage(self.mask.float(), *size)
            self._sized[size] = m.flatten(2).transpose(1, 2)[:, None]  # [B, 1, n, 1]
        return self._sized[size].to(like)


class Recorder:
    """Records where columns of the text are looked at: the mean over heads of their attention, each layer's map brought
    to `size` (h, w). All rows attend as they would alone.

    columns  groups of token positions; a group's map is the sum of its tokens'
    """

    def __init__(self, columns: Sequence[Sequence[int]], size: tuple[int, int], coarsest: int = 8):
        self.columns, self.size, self.coarsest = [list(c) for c in columns], size, coarsest
        self.total: torch.Tensor | None = None
        self.layers = 0

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, size: tuple[int, int]
    ) -> torch.Tensor:
        q, k, v = (split_heads(x, heads) for x in (q, k, v))
        weights = attention_weights(q, k)
        if min(size) * self.coarsest >= min(self.size):
            maps = torch.stack([weights[..., c].sum(dim=-1).mean(dim=1) for c in self.columns], dim=1)  # [R, G, n]
            maps = F.interpolate(maps.unflatten(-1, size), size=self.size, mode="bilinear", align_corners=False)
            self.total = maps if self.total is None else self.total + maps
            self.layers += 1
        return (weights @ v.float()).to(v).transpose(1, 2).flatten(2)

    @property
    def maps(self) -> torch.Tensor:
        """[R, G, h, w] the mean over layers. UserError where no layer read the text through cross-attention."""
        if self.total is None:
            raise UserError(
                "This MODEL has no cross-attention to look into. Choose another grounding: clipseg, boxes or saliency."
            )
        return self.total / self.layers
