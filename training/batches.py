"""Batches as pure functions of the step, on the device, and image augmentation there."""

from __future__ import annotations

from typing import Callable

import numpy as np
import torch
from torch.nn import functional as F

from .data.pack import Pack


class Rows:
    """The arrays of one or several packs on a device, drawn at random by step.

    images [N, 3, S, S] uint8, emotions [N], tokens [N, K, 77]
    """

    def __init__(self, packs: list[Pack], device: torch.device | str, images: bool = True):
        join = lambda name: torch.from_numpy(np.concatenate([np.asarray(getattr(p, name)) for p in packs]))
        self.images = join("images").permute(0, 3, 1, 2).contiguous().to(device) if images else None
        self.emotions = join("emotions").to(device)
        self.tokens = join("tokens").long().to(device)
        self.device = torch.device(device)

    def __len__(self) -> int:
        return len(self.emotions)

    def draw(self, seed: int, step: int, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(row indices [n], caption variant of each [n]) of a step."""
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        rows = torch.randint(len(self), (n,), generator=generator)
        variants = torch.randint(self.tokens.shape[1], (n,), generator=generator)
        return rows.to(self.device), variants.to(self.device)

    def pictures(self, rows: torch.Tensor) -> torch.Tensor:
        """[n, 3, S, S] float in 0..1."""
        return self.images[rows].float() / 255


def augment(images: torch.Tensor, strength: float = 1.0) -> torch.Tensor:
    """[B, 3, S, S] in 0..1: mirror, crop and shift, brightness and contrast, blur or noise; the labels survive.

    Colour itself is touched little: a classifier that ignored palettes would miss a cue.
    """
    b, _, s, _ = images.shape
    device = images.device
    u = lambda low, high: torch.empty(b, device=device).uniform_(low, high)
    scale = 1 - 0.15 * strength * u(0, 1)
    theta = torch.zeros(b, 2, 3, device=device)
    theta[:, 0, 0] = scale * torch.where(u(0, 1) < 0.5, -1.0, 1.0)
    theta[:, 1, 1] = scale
    theta[:, 0, 2], theta[:, 1, 2] = (1 - scale) * u(-1, 1), (1 - scale) * u(-1, 1)
    grid = F.affine_grid(theta, [b, 3, s, s], align_corners=False)
    x = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    x = (x - 0.5) * u(1 - 0.15 * strength, 1 + 0.15 * strength).view(-1, 1, 1, 1) + 0.5
    x = x + u(-0.06 * strength, 0.06 * strength).view(-1, 1, 1, 1)
    small = F.interpolate(F.avg_pool2d(x, 2), size=(s, s), mode="bilinear", align_corners=False)
    x = torch.where((u(0, 1) < 0.3).view(-1, 1, 1, 1), small, x)
    return (x + torch.randn_like(x) * u(0, 0.06 * strength).view(-1, 1, 1, 1)).clamp(0, 1)


def steps(rows: Rows, seed: int, n: int) -> Callable[[int], tuple[torch.Tensor, torch.Tensor]]:
    """The `batches` argument of `loop.fit`: step -> `rows.draw`, each process its own rows."""
    from accelerate import PartialState

    process = PartialState().process_index
    return lambda step: rows.draw(seed + 7919 * process, step, n)
