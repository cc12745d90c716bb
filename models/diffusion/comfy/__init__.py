"""The engine of ComfyUI, over its own objects: MODEL (a ModelPatcher), VAE, CONDITIONING, and a GUIDER that ComfyUI
samples with. Imported inside ComfyUI alone.

Nothing is patched that outlives a call: the guider works on a clone of the model, gradients run through aliases of
the weights (`inference`), and tokens enter through a copy of the conditioning.
"""

from .denoiser import ComfyDenoiser
from .engine import ComfyEngine
from .families import check_pair
from .guider import MethodGuider
from .vae import ComfyVAE

__all__ = ["ComfyDenoiser", "ComfyEngine", "ComfyVAE", "MethodGuider", "check_pair"]
