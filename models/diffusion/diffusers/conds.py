"""A CONDITIONING of the embedded host as a UNet reads it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ...tensors.batch import repeat_to_batch


@dataclass(frozen=True)
class UNetContext:
    """Cross-attention input of a UNet: embeds [B or 1, T, D] and, for SDXL, pooled [B or 1, P]."""

    embeds: torch.Tensor
    pooled: torch.Tensor | None = None

    @property
    def width(self) -> int:
        return self.embeds.shape[-1]

    def append(self, tokens: torch.Tensor) -> UNetContext:
        """A new context with tokens [B, n, D] after the text's."""
        embeds = repeat_to_batch(self.embeds.to(tokens), len(tokens))
        return replace(self, embeds=torch.cat([embeds, tokens], dim=1))

    def rows(self, rows: torch.Tensor) -> UNetContext:
        """The context of some images of a batch, in which a short context's rows are taken in turn."""
        take = lambda t: t if t is None or len(t) == 1 else t[rows % len(t)]
        return replace(self, embeds=take(self.embeds), pooled=take(self.pooled))
