"""What MUSE is compared with, against the same protocol."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch

from ..models.diffusion.protocol import Autoencoder, Denoiser, TextContext


def universal_guidance(
    denoiser: Denoiser,
    autoencoder: Autoencoder,
    loss: Callable[[torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    sigmas: torch.Tensor,
    positive: TextContext,
    negative: TextContext,
    cfg: float,
    strength: float,
    recurrences: int,
    noise: Callable[[], torch.Tensor],
) -> torch.Tensor:
    """Universal guidance (Bansal et al. 2023, algorithm 1): forward guidance on the predicted noise, with its
    recurrence steps, along an Euler (DDIM) path; backward guidance is off. Returns latents [B, C, h, w] in the
    denoiser's scale.

    loss   images [B, 3, H, W] -> [B]
    noise  -> fresh noise of x's shape, asked once a recurrence after the first

    The paper adds s sqrt(1 - a) grad_z L to the predicted noise. Here x = z / sqrt(a) and sigma = sqrt((1 - a) / a), so
    that is s sigma grad_x L, and the clean latent moves by -s sigma^2 grad_x L. Going back from z_{t-1} to z_t is
    adding noise of variance sigma_t^2 - sigma_{t-1}^2.
    """
    for now, then in pairwise(sigmas):
        level = now * x.new_ones(len(x))
        for again in reversed(range(recurrences)):
            with denoiser.gradients(), autoencoder.gradients():
                at = x.detach().clone().requires_grad_(True)
                cond, uncond = denoiser(at, level, positive), denoiser(at, level, negative)
                x0 = uncond + cfg * (cond - uncond)
                value = loss(autoencoder.decode(denoiser.latent_out(x0))).sum()
                (gradient,) = torch.autograd.grad(value, at)
            x0 = x0.detach() - strength * now**2 * gradient
            following = x + (x - x0) / now * (then - now)
            x = following + (now**2 - then**2).sqrt() * noise() if again else following
    return x
