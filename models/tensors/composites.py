"""An edit inside a mask, the source outside."""

from __future__ import annotations

import torch


def composite(source: torch.Tensor, edited: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """`edited` [B, C, H, W] where `mask` [B, 1, H, W] is 1, a mixture where it lies between 0 and 1, and where it is 0
    the source, bit for bit. Without a mask: `edited`."""
    return edited if mask is None else torch.where(mask > 0, source.lerp(edited, mask), source)
