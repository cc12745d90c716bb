"""Images at another size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F


def resized(image: torch.Tensor, h: int, w: int) -> torch.Tensor:
    """[B, C, *, *] -> [B, C, h, w], bilinear with antialiasing; differentiable. The tensor itself where it fits."""
    if image.shape[-2:] == (h, w):
        return image
    return F.interpolate(image, size=(h, w), mode="bilinear", antialias=True, align_corners=False)


def fitted(size: Sequence[int], side: int, least: int = 1) -> tuple[int, int]:
    """The size of a picture of (height, width) whose longer side is at most `side`; neither is under `least`."""
    h, w = size
    share = min(1.0, side / max(h, w))
    return max(least, round(h * share)), max(least, round(w * share))
