"""The bundled tiny models in one place, for Python programs: their files, their architectures, and the diffusion model
ready to run. Inside the package each room imports what it needs from where it is.

Weights lie beside this file; `card.json` says how they were made and what they reach.
"""

from __future__ import annotations

from typing import Any

from ..bundled import (
    UNKNOWN_TOKEN,
    checksums,
    load,
    pack_vocabulary,
    path,
    read,
    record,
    save,
    unpack_vocabulary,
    verify,
)
from ..diffusion.tiny import HEAD_WIDTH, LATENT_CHANNELS, NORM_GROUPS, PREDICTION, UNET, build_unet, build_vae
from ..networks.tiny_clip import CLIP, CONTEXT_WIDTH, IMAGE_SIZE, build_clip

__all__ = [
    "CLIP",
    "CONTEXT_WIDTH",
    "HEAD_WIDTH",
    "IMAGE_SIZE",
    "LATENT_CHANNELS",
    "NORM_GROUPS",
    "PREDICTION",
    "UNET",
    "UNKNOWN_TOKEN",
    "build_clip",
    "build_unet",
    "build_vae",
    "checksums",
    "load",
    "load_pipeline",
    "pack_vocabulary",
    "path",
    "read",
    "record",
    "save",
    "unpack_vocabulary",
    "verify",
]


def load_pipeline() -> tuple[Any, Any, Any]:
    """(model, text encoder, vae): the tiny diffusion model as the embedded host's MODEL, CLIP and VAE, on the host's
    device."""
    from ..diffusion.diffusers.tiny import load_pipeline

    return load_pipeline()
