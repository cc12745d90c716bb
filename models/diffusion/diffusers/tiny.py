"""The bundled tiny diffusion model in the embedded host."""

from __future__ import annotations

from functools import lru_cache

from ... import bundled, host
from ...networks.tiny_clip import build_clip
from ...tensors.gradients import frozen
from ..text import TextEncoder
from ..tiny import PREDICTION, TinyAutoencoder, build_unet, build_vae
from ..towers import OpenClipTower
from .denoiser import DiffusersModel


@lru_cache(maxsize=1)
def load_pipeline() -> tuple[DiffusersModel, TextEncoder, TinyAutoencoder]:
    """(model, text encoder, vae) on the host's device."""
    unet, vae, clip = build_unet(), build_vae(), build_clip()
    for name, network in (("unet", unet), ("vae", vae), ("clip", clip)):
        bundled.load(name, network)
    frozen([clip, vae])
    for network in (unet, vae, clip):
        network.to(host.current().device)
    return DiffusersModel(unet, PREDICTION, latent_scale=1.0), TextEncoder([OpenClipTower(clip)]), vae
