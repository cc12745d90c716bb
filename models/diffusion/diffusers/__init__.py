"""The engine of the embedded host: what MODEL, VAE and GUIDER sockets carry there, over diffusers' networks."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .conds import UNetContext
from .denoiser import DiffusersModel
from .engine import DiffusersEngine
from .guider import CFGGuider, MethodGuider, resize_mask
from .vae import DiffusersVAE

__all__ = [
    "CFGGuider",
    "DiffusersEngine",
    "DiffusersModel",
    "DiffusersVAE",
    "MethodGuider",
    "UNetContext",
    "resize_mask",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """`MuseGuider`, the name under which programs written for 0.1 import `muse.muse_guider`. It is looked up when
        it is asked for: the engine itself imports no method."""
        if name == "MuseGuider":
            return import_module("...muse", __package__).muse_guider
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
