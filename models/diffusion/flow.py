"""Rectified flow in the convention of `protocol`: models that mix x = (1 - sigma) x0 + sigma noise (SD3, FLUX,
Qwen-Image and their kin).

Divided by 1 - sigma that is x0 + s noise with s = sigma / (1 - sigma). So an algorithm written for added noise
(inversion, the attention blend) runs unchanged on a rectified-flow model, over this view of it.
"""

from __future__ import annotations

from typing import Any

import torch

from .protocol import Denoiser, TextContext

LARGEST = 1 - 1e-4
"""sigma up to which the view holds: at 1, where nothing of the image is left, s is infinite."""


def noise_scale(sigma: torch.Tensor) -> torch.Tensor:
    """sigma in 0..1 of a rectified flow -> s = sigma / (1 - sigma), at most that of `LARGEST`."""
    sigma = sigma.clamp(max=LARGEST)
    return sigma / (1 - sigma)


class AddedNoise:
    """A rectified-flow denoiser as one of x = x0 + s noise. What is not said here is the denoiser's own."""

    def __init__(self, denoiser: Denoiser[Any]):
        self._denoiser = denoiser

    def __getattr__(self, name: str) -> Any:
        return getattr(self._denoiser, name)

    def __call__(self, x: torch.Tensor, s: torch.Tensor, context: TextContext) -> torch.Tensor:
        """x [B, C, h, w], s [B] -> clean latent [B, C, h, w]."""
        return self._denoiser(x / (1 + s).view(-1, 1, 1, 1), s / (1 + s), context)

    def guided(self, x: torch.Tensor, s: torch.Tensor, *rest: Any) -> torch.Tensor:
        """See `protocol.Denoiser`."""
        return self._denoiser.guided(x / (1 + s).view(-1, 1, 1, 1), s / (1 + s), *rest)
