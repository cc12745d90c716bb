"""The protocol over ComfyUI's own objects: MODEL (a ModelPatcher), VAE, CONDITIONING, and a GUIDER that ComfyUI samples
with. Imported inside ComfyUI alone.

Nothing is patched that outlives a call: the guider works on a clone of the model, gradients run through aliases of
the weights (`inference`), and tokens enter through a copy of the conditioning.
"""

from .denoiser import ComfyDenoiser
from .families import check_pair
from .guider import MuseGuider
from .memory import load
from .run import blend, cross_attention_maps, encode_image, encode_text, invert, sample
from .vae import ComfyVAE

__all__ = [
    "ComfyDenoiser",
    "ComfyVAE",
    "MuseGuider",
    "blend",
    "check_pair",
    "cross_attention_maps",
    "encode_image",
    "encode_text",
    "invert",
    "load",
    "sample",
]
