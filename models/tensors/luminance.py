"""Luminance after Rec. 601."""

from __future__ import annotations

import torch

REC_601 = (0.299, 0.587, 0.114)
"""Weights of red, green and blue."""


def luminance(image: torch.Tensor) -> torch.Tensor:
    """[B, 3, H, W] -> [B, 1, H, W]."""
    weights = torch.tensor(REC_601, device=image.device, dtype=image.dtype).view(1, 3, 1, 1)
    return (image * weights).sum(dim=1, keepdim=True)


def with_luminance(colour: torch.Tensor, light: torch.Tensor) -> torch.Tensor:
    """[B, 3, H, W]: the colour differences of one image on the luminance of another, both in 0..1."""
    return (colour - luminance(colour) + luminance(light)).clamp(0, 1)
