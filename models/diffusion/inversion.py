"""DDIM inversion of an image on any engine: what to sample from so that its own description leads back to it."""

from __future__ import annotations

from typing import Any

import torch

from . import engine
from .protocol import Conditioning, Denoiser, Step, TextContext
from .sampling import ddim_inversion


def invert(
    model: Any, positive: Conditioning, latent: torch.Tensor, steps: int, scheduler: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """DDIM inversion of latents [B, C, h, w] (VAE scale) under their description at cfg 1 (a choice of ours: at a
    higher scale the way back and the way up differ).

    Returns (latent, noise) to sample from: the noised latent and no noise; of a rectified-flow model (SD3, FLUX), whose
    first step holds nothing of a latent, the latent that was given and the noise that leads back to it.
    """
    here = engine(model)
    noise: list[torch.Tensor] = []

    def walk(
        denoiser: Denoiser[Any], contexts: dict[str, TextContext], z: torch.Tensor, sigmas: torch.Tensor, callback: Step
    ) -> torch.Tensor:
        text = contexts["positive"]
        x = ddim_inversion(
            lambda x, s: denoiser.guided(x, s, text, text, 1.0),
            z,
            sigmas,
            callback=lambda i, denoised, x, total: callback(i, denoised),
        )
        noise.append(x / (1 + sigmas[0]))  # of a flow: what a sampler that starts at sigma 1 is to start from
        return x

    noised = here.run(
        model, {"positive": positive}, walk, latent, here.sigmas(model, scheduler, steps), label="inverting"
    )
    if not here.is_flow(model):
        return noised, torch.zeros_like(latent)
    return latent, noise[0].view_as(latent).to(latent.device, latent.dtype)
