"""Text towers of the embedded host's CLIP socket: transformers' and open_clip's, under one interface.

Classes and no closures, so that a LoRA can be applied to a copy, and each can say where its modules are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn

from ..tensors.gradients import frozen

Vectors = Mapping[tuple[int, int], torch.Tensor]
"""(row, column) of a batch of token ids -> the embedding [D] that replaces the token's own."""


class Place(NamedTuple):
    """Where the weight of a module lies: a parameter of `module`, or some rows of one."""

    module: nn.Module
    weight: str = "weight"
    bias: str = "bias"
    rows: slice = slice(None)


class TransformersTower:
    """A transformers CLIP text model as a tower.

    penultimate  hidden states before the last block and without the final norm (SDXL) in place of those after both
                 (SD1.5)
    """

    def __init__(self, model: Any, penultimate: bool):
        frozen([model])
        self.model, self.penultimate = model, penultimate

    @property
    def width(self) -> int:
        """D: the width of a token's embedding."""
        return self.model.get_input_embeddings().embedding_dim

    def __call__(self, ids: torch.Tensor, vectors: Vectors | None = None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """ids [B, T] -> (hidden [B, T, D], pooled [B, P] or None)."""
        with _replaced(self.model.get_input_embeddings(), vectors):
            out = self.model(ids.to(self.model.device), output_hidden_states=self.penultimate)
        hidden = out.hidden_states[-2] if self.penultimate else out.last_hidden_state
        return hidden, getattr(out, "text_embeds", None)

    def places(self) -> Iterator[tuple[str, Place]]:
        """(name after `text_model.`, place) of every module with a weight."""
        for name, module in self.model.named_modules():
            if isinstance(getattr(module, "weight", None), nn.Parameter):
                yield name.removeprefix("text_model."), Place(module)


class OpenClipTower:
    """The text tower of an open_clip CLIP or TextTransformer as a tower.

    penultimate  hidden states before the last block (SD2, SDXL) in place of those after it (SD1.5)
    norm         through the final norm (not in SDXL)
    """

    def __init__(self, model: Any, penultimate: bool = False, norm: bool = True):
        self.model, self.penultimate, self.norm = model, penultimate, norm

    @property
    def width(self) -> int:
        """D: the width of a token's embedding."""
        return self.model.token_embedding.embedding_dim

    def __call__(self, ids: torch.Tensor, vectors: Vectors | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """ids [B, T] -> (hidden [B, T, D], pooled [B, P])."""
        clip = self.model
        ids = ids.to(clip.positional_embedding.device)
        n = ids.shape[1]
        with _replaced(clip.token_embedding, vectors):
            x = clip.token_embedding(ids)
        x, mask = x + clip.positional_embedding[:n], clip.attn_mask[:n, :n]
        for block in clip.transformer.resblocks:
            before, x = x, block(x, attn_mask=mask)
        last = clip.ln_final(x)
        end = ids.argmax(dim=-1)  # the first end token: it has the largest id
        hidden = before if self.penultimate else x
        return (clip.ln_final(hidden) if self.norm else hidden), last[
            torch.arange(len(last)), end
        ] @ clip.text_projection

    def places(self) -> Iterator[tuple[str, Place]]:
        """As `TransformersTower.places`, under the same names: queries, keys and values are thirds of one matrix
        here."""
        for i, block in enumerate(self.model.transformer.resblocks):
            width = block.attn.embed_dim
            for n, part in enumerate(("q_proj", "k_proj", "v_proj")):
                yield (
                    f"encoder.layers.{i}.self_attn.{part}",
                    Place(block.attn, "in_proj_weight", "in_proj_bias", slice(n * width, (n + 1) * width)),
                )
            for name, module in (
                ("self_attn.out_proj", block.attn.out_proj),
                ("mlp.fc1", block.mlp.c_fc),
                ("mlp.fc2", block.mlp.c_proj),
                ("layer_norm1", block.ln_1),
                ("layer_norm2", block.ln_2),
            ):
                yield f"encoder.layers.{i}.{name}", Place(module)
        yield "final_layer_norm", Place(self.model.ln_final)
        yield "embeddings.token_embedding", Place(self.model.token_embedding)


@contextmanager
def _replaced(embedding: nn.Module, vectors: Vectors | None) -> Iterator[None]:
    """A block in which a token embedding gives `vectors` at their places."""

    def put(_: nn.Module, __: Any, out: torch.Tensor) -> torch.Tensor:
        out = out.clone()
        for place, vector in (vectors or {}).items():
            out[place] = vector.to(out)
        return out

    handle = embedding.register_forward_hook(put) if vectors else None
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()
