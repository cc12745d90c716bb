"""DDIM inversion: the noise that leads back to an image."""

from __future__ import annotations

from typing import Any

from ..models import diffusion, host
from ..models.errors import UserError
from .widgets import choice, integer, socket


class GivenNoise:
    """The NOISE socket with given noise [B, C, h, w]."""

    seed = 0

    def __init__(self, noise: Any):
        self.noise = noise

    def generate_noise(self, input_latent: dict[str, Any]) -> Any:
        """The noise; UserError where the latent has another size."""
        if input_latent["samples"].shape != self.noise.shape:
            raise UserError(
                f"The noise of DDIM Inversion is {tuple(self.noise.shape)} and the latent to sample from "
                f"{tuple(input_latent['samples'].shape)}. Connect DDIM Inversion's own latent beside it."
            )
        return self.noise


class AffectDDIMInversion:
    CATEGORY = "affect/muse"
    SEARCH_ALIASES = ["ddim inverse", "invert image", "image to noise", "unsample", "reverse sampling"]
    DESCRIPTION = (
        "Finds the noise that leads back to an image. Describe the image in the positive prompt, then sample "
        "from the result with add_noise off (or with this node's noise) and the same number of steps."
    )
    RETURN_TYPES = ("LATENT", "NOISE")
    RETURN_NAMES = ("latent", "noise")
    OUTPUT_TOOLTIPS = (
        "What to sample from: the image as noise; of a rectified-flow model (SD3, FLUX, Qwen-Image, ...) the image's "
        "own latent.",
        "The noise to sample with: none; of a rectified-flow model the noise that leads back to the image.",
    )
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": socket("MODEL", "The model that will sample."),
                "positive": socket("CONDITIONING", "What the source image shows. Guidance is off (cfg 1)."),
                "latent_image": socket("LATENT", "The encoded source image."),
                "steps": integer(20, (1, 10000), "The number of steps that the sampler will take."),
            },
            "optional": {
                "scheduler": choice(
                    diffusion.current_engine().sampling_choices()[1], "As the sampler's.", default="normal"
                ),
            },
        }

    def run(
        self, model: Any, positive: Any, latent_image: dict[str, Any], steps: int, scheduler: str = "normal"
    ) -> tuple[Any, Any]:
        from ..models.diffusion.inversion import invert
        from ..models.diffusion.protocol import INVERTED_NOISE

        latent_image = dict(latent_image)
        if latent_image.pop("noise_mask", None) is not None:
            # A sampler would put back what lies outside the mask from this latent, which is noise now.
            host.current().note("DDIM Inversion inverts the whole image and drops the latent's mask.")
        latent, noise = invert(model, positive, latent_image["samples"], steps, scheduler)
        kept = {INVERTED_NOISE: noise} if bool(noise.any()) else {}  # Emotion Sampler finds it there
        return {**latent_image, "samples": latent, **kept}, GivenNoise(noise)


NODES = {
    "AffectDDIMInversion": (AffectDDIMInversion, "DDIM Inversion"),
}
