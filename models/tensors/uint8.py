"""Float in 0..1 <-> 8 bit.

Two roundings exist. `to_uint8` takes the nearest value; our own pictures are made with it. `truncated` cuts off, as
ComfyUI's SaveImage and Upscale Image (lanczos) do, and is for what must equal ComfyUI's bit for bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch


def to_uint8(values: np.ndarray | torch.Tensor) -> np.ndarray:
    """Values in 0..1 of any shape -> uint8, the nearest; what is out of range becomes 0 or 255."""
    return (_array(values) * 255).round().clip(0, 255).astype(np.uint8)


def truncated(values: np.ndarray | torch.Tensor) -> np.ndarray:
    """Values in 0..1 of any shape -> uint8, the next lower; what is out of range becomes 0 or 255."""
    return (_array(values) * 255.0).clip(0, 255).astype(np.uint8)


def from_uint8(pixels: Any) -> np.ndarray:
    """uint8 values of any shape, or a PIL image -> float32 in 0..1."""
    return np.asarray(pixels, np.float32) / 255


def image_of(pixels: Any) -> torch.Tensor:
    """uint8 pixels [H, W, 3], or a PIL image -> [3, H, W] float32 in 0..1."""
    import torch

    return torch.from_numpy(from_uint8(pixels)).permute(2, 0, 1)


def _array(values: np.ndarray | torch.Tensor) -> np.ndarray:
    return values if isinstance(values, np.ndarray) else values.detach().float().cpu().numpy()
