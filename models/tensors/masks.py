"""Masks as [B, 1, H, W] in 0..1, whatever shape they come in."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from .resize import resized


def with_channel(mask: torch.Tensor) -> torch.Tensor:
    """[H, W], [B, H, W] or [B, 1, H, W], all of which ComfyUI's MASK and noise_mask may be -> [B, 1, H, W]."""
    return mask.reshape(-1, 1, *mask.shape[-2:])


def sized_mask(mask: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """A mask as `with_channel` takes it -> [B, 1, H, W] of the size, type and device of an image [*, *, H, W], bilinear
    with antialiasing."""
    return resized(with_channel(mask).to(image), *image.shape[-2:])


def coverage(mask: torch.Tensor, h: int, w: int) -> torch.Tensor:
    """[B, 1, H, W] -> [B, 1, h, w]: the share of each cell of a coarser grid that the mask covers. A cell without a
    pixel of it is exactly 0."""
    return F.interpolate(mask, size=(h, w), mode="area")
