"""A UNet's cross-attention learns where each object's word belongs (Wang et al. 2023, "TokenCompose", its token loss):
a small network on few captions otherwise reads a text as a whole, and neither puts objects where they are said to be
nor can say where it put them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from ..models.moodifier.attention import attention_weights, split_heads


class Maps:
    """diffusers' processor of every cross-attention of a UNet: attends as ever, and keeps the maps [B, n, T], the
    mean over heads, of the calls since `clear`."""

    def __init__(self, unet: Any):
        self.kept: list[torch.Tensor] = []
        unet.set_attn_processor({k: self if ".attn2." in k else v for k, v in unet.attn_processors.items()})

    def clear(self) -> None:
        self.kept.clear()

    def __call__(
        self, attn: Any, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor, *_: Any, **__: Any
    ) -> torch.Tensor:
        q, k, v = (
            split_heads(x, attn.heads)
            for x in (attn.to_q(hidden_states), attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states))
        )
        weights = attention_weights(q, k)
        self.kept.append(weights.mean(dim=1))
        return attn.to_out[0]((weights @ v.float()).to(v).transpose(1, 2).flatten(2))


def token_loss(maps: list[torch.Tensor], masks: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Equation 4 of TokenCompose: the mean of (1 - share of a word's attention that lies inside its object)^2.

    maps    of square grids, [B, n, T] each
    masks   [B, K, S, S] in 0..1: where each of an image's objects is
    places  [B, K]: its word's position in the text; -1 where the text does not say it
    """
    there = ((places >= 0) & (masks.flatten(2).sum(dim=2) > 0)).float()
    parts = []
    for m in maps:
        side = int(m.shape[1] ** 0.5)
        inside = F.adaptive_avg_pool2d(masks, side).flatten(2)
        looked = m.transpose(1, 2).gather(1, places.clamp(min=0)[..., None].expand(-1, -1, m.shape[1]))
        share = (looked * inside).sum(dim=2) / looked.sum(dim=2).clamp(min=1e-9)
        parts.append(((1 - share).square() * there).sum() / there.sum().clamp(min=1))
    return torch.stack(parts).mean()
