"""The one place where ComfyUI's layouts meet ours: IMAGE [B, H, W, C] <-> images [B, C, H, W]."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def to_bchw(image: torch.Tensor) -> torch.Tensor:
    """IMAGE [B, H, W, C] in 0..1 -> [B, 3, H, W]; an alpha channel is dropped, as ComfyUI's VAEEncode does."""
    return image[..., :3].movedim(-1, 1).float()


def to_bhwc(image: torch.Tensor) -> torch.Tensor:
    """[B, 3, H, W] -> IMAGE [B, H, W, 3] on the CPU, float32."""
    return image.detach().movedim(1, -1).float().cpu().contiguous()
