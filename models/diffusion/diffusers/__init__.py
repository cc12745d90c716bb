"""The engine of the embedded host: what MODEL, VAE and GUIDER sockets carry there, over diffusers' networks."""

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
