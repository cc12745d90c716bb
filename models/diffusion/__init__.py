"""Diffusion models under one protocol, over diffusers (`diffusers/`) and over ComfyUI's own objects (`comfy/`). The
methods ask here for an engine and do not know which of the two it is; neither is imported before it is needed.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from .. import host
from ..errors import UserError

if TYPE_CHECKING:
    from .protocol import Engine


def engine(model: Any) -> Engine:
    """The engine of what a MODEL socket carries. UserError for anything else."""
    from .diffusers import DiffusersEngine, DiffusersModel

    if isinstance(model, DiffusersModel):
        return DiffusersEngine()
    if "comfy.model_patcher" in sys.modules:
        from .comfy import ComfyEngine

        return ComfyEngine()
    raise UserError(
        f"What is connected as MODEL is a {type(model).__name__}, not a diffusion model. Connect a checkpoint "
        "loader's MODEL."
    )


def current_engine() -> Engine:
    """The engine of the program around us: ComfyUI's inside ComfyUI, else the embedded host's."""
    if isinstance(host.current(), host.ComfyHost):
        from .comfy import ComfyEngine

        return ComfyEngine()
    from .diffusers import DiffusersEngine

    return DiffusersEngine()
