"""Diffusion models behind one protocol, over diffusers (`diffusers`) and over ComfyUI's own objects (`comfy`)."""

from __future__ import annotations

import sys
from typing import Any

from ..errors import UserError


def engine(model: Any) -> Any:
    """The adapter module of what a MODEL socket carries. Both have `MuseGuider`, `sample` and `invert`, alike in their
    arguments. UserError for anything else."""
    from . import diffusers

    if isinstance(model, diffusers.DiffusersModel):
        return diffusers
    if "comfy.model_patcher" in sys.modules:
        from . import comfy

        return comfy
    raise UserError(f"What is connected as MODEL is a {type(model).__name__}, no diffusion model. Connect a checkpoint "
                    "loader's MODEL.")
