"""Random views of an image: mirrored, cropped, shifted in light and contrast, blurred or noisy. What a picture makes people feel
survives all of it; what merely pleases one classifier does not.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F


def view(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """[B, 3, H, W] in 0..1 -> the same shape: one draw for the whole batch, so that an image's view does not depend on the
    others. Differentiable. The generator is the CPU's."""
    u = lambda low, high: float(torch.empty(1).uniform_(low, high, generator=generator))
    scale, flip = 1 - u(0.0, 0.15), -1.0 if u(0, 1) < 0.5 else 1.0
    theta = images.new_tensor([[scale * flip, 0.0, (1 - scale) * u(-1, 1)], [0.0, scale, (1 - scale) * u(-1, 1)]])
    grid = F.affine_grid(theta.expand(len(images), -1, -1), list(images.shape), align_corners=False)
    x = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    x = (x - 0.5) * u(0.85, 1.15) + 0.5 + u(-0.06, 0.06)
    if u(0, 1) < 0.3:
        x = F.interpolate(F.avg_pool2d(x, 2), size=x.shape[-2:], mode="bilinear", align_corners=False)
    noise = torch.randn((1, *x.shape[1:]), generator=generator).to(x) * u(0.0, 0.06)
    return (x + noise).clamp(0, 1)
