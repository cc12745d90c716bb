"""Diffusion models behind one protocol, over diffusers (`diffusers`) and over ComfyUI's own objects (`comfy`). Here
stands what those above ask for without knowing which of the two it is; neither is imported before it is needed.
"""

from __future__ import annotations

import sys
from typing import Any

from .. import host
from ..errors import UserError

INVERTED_NOISE = "inverted_noise"
"""Key of a LATENT under which DDIM Inversion of a rectified-flow model leaves the noise [B, C, h, w] that leads back
to `samples`."""


def engine(model: Any) -> Any:
    """The adapter module of what a MODEL socket carries. Both have `MuseGuider`, `sample` and `invert`, alike in their
    arguments. UserError for anything else."""
    from . import diffusers

    if isinstance(model, diffusers.DiffusersModel):
        return diffusers
    if "comfy.model_patcher" in sys.modules:
        from . import comfy

        return comfy
    raise UserError(
        f"What is connected as MODEL is a {type(model).__name__}, no diffusion model. Connect a checkpoint "
        "loader's MODEL."
    )


def _in_comfyui() -> bool:
    return isinstance(host.current(), host.ComfyHost)


def sampling_choices() -> tuple[list[str], list[str]]:
    """The names of the samplers and of the schedulers that there are."""
    if _in_comfyui():
        from comfy.samplers import KSampler

        return list(KSampler.SAMPLERS), list(KSampler.SCHEDULERS)
    from .sampling import SAMPLERS, SCHEDULES

    return list(SAMPLERS), list(SCHEDULES)


def tiny_pipeline() -> tuple[Any, Any, Any]:
    """(MODEL, CLIP, VAE) of the bundled tiny model, as the program around us has them."""
    if _in_comfyui():
        from .comfy.tiny import load_pipeline
    else:
        from ..tiny import load_pipeline
    return load_pipeline()


def load(*networks: Any) -> None:
    """Puts networks of ours on the device they run on, where ComfyUI moves them about."""
    if _in_comfyui():
        from . import comfy

        comfy.load(*networks)
