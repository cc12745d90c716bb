"""Random views of an image: mirrored, cropped, shifted in light and contrast, blurred or noisy. The emotion of a
picture survives them; what only one classifier responds to does not. They augment the classifiers' training, and MUSE's
guidance averages over them.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F


def view(
    images: torch.Tensor, generator: torch.Generator | None = None, strength: float = 1.0, each: bool = False
) -> torch.Tensor:
    """[B, 3, H, W] in 0..1 -> the same shape. Differentiable.

    generator  the CPU's; None draws from the device's own
    strength   0 only mirrors and blurs; 1 crops up to 15 %, changes contrast by 15 % and light by 0.06. Colour changes
               little: a classifier that ignored palettes would miss a cue
    each       one draw for each image; else one for the batch, so that an image's view does not depend on the others
    """
    draws, device = len(images) if each else 1, "cpu" if generator else images.device
    u = lambda low, high: (
        torch.empty(draws, device=device).uniform_(low, high, generator=generator).to(images).view(-1, 1, 1, 1)
    )
    scale, mirror = 1 - 0.15 * strength * u(0, 1), torch.where(u(0, 1) < 0.5, -1.0, 1.0)
    zero, left, top = torch.zeros_like(scale), (1 - scale) * u(-1, 1), (1 - scale) * u(-1, 1)
    theta = torch.cat([torch.cat([scale * mirror, zero, left], -1), torch.cat([zero, scale, top], -1)], -2).squeeze(1)
    grid = F.affine_grid(theta.expand(len(images), -1, -1), list(images.shape), align_corners=False)
    x = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    x = (x - 0.5) * u(1 - 0.15 * strength, 1 + 0.15 * strength) + 0.5 + u(-0.06 * strength, 0.06 * strength)
    blurred = torch.empty(draws, device=device).uniform_(0, 1, generator=generator) < 0.3
    if bool(blurred.any()):  # on the device of the draw: MUSE's inner loop does not wait for a GPU
        small = F.interpolate(F.avg_pool2d(x, 2), size=x.shape[-2:], mode="bilinear", align_corners=False)
        x = torch.where(blurred.to(x.device).view(-1, 1, 1, 1), small, x)
    noise = torch.randn((draws, *x.shape[1:]), generator=generator, device=device).to(x)
    return (x + noise * u(0.0, 0.06 * strength)).clamp(0, 1)
