"""KSampler and the parts it is made of: sampler, schedule, noise, guider, SamplerCustomAdvanced."""

from __future__ import annotations

from typing import Any

import torch

from ....models.diffusion.diffusers import CFGGuider
from ....models.diffusion.sampling import SAMPLERS, Sampler, prepare_noise, schedule
from ....models.host import current
from .latents import Latent

MAX_SEED = 0xFFFFFFFFFFFFFFFF

SCHEDULERS = ["simple", "sgm_uniform", "karras", "exponential", "normal"]
"""In ComfyUI's order: the first one is the default. `sampling.SCHEDULES` implements them."""


def _steps() -> tuple[str, dict[str, Any]]:
    return ("INT", {"default": 20, "min": 1, "max": 10000, "tooltip": "The number of denoising steps."})


def _cfg() -> tuple[str, dict[str, Any]]:
    return (
        "FLOAT",
        {
            "default": 8.0,
            "min": 0.0,
            "max": 100.0,
            "step": 0.1,
            "round": 0.01,
            "tooltip": "The scale of classifier-free guidance.",
        },
    )


def _denoise() -> tuple[str, dict[str, Any]]:
    return (
        "FLOAT",
        {
            "default": 1.0,
            "min": 0.0,
            "max": 1.0,
            "step": 0.01,
            "tooltip": "Lower values keep more of the latent that comes in.",
        },
    )


def _seed() -> tuple[str, dict[str, Any]]:
    return (
        "INT",
        {
            "default": 0,
            "min": 0,
            "max": MAX_SEED,
            "control_after_generate": True,
            "tooltip": "The random seed of the noise.",
        },
    )


class RandomNoiseSource:
    """The NOISE socket: noise of a seed from the CPU's generator."""

    def __init__(self, seed: int):
        self.seed = seed

    def generate_noise(self, latent: Latent) -> torch.Tensor:
        return prepare_noise(latent["samples"], self.seed, latent.get("batch_index"))


class NoNoiseSource:
    """The NOISE socket of DisableNoise: zeros."""

    seed = 0

    def generate_noise(self, latent: Latent) -> torch.Tensor:
        return torch.zeros_like(latent["samples"], device="cpu")


def sample(
    guider: Any, noise: Any, sampler: Sampler, sigmas: torch.Tensor, latent: Latent
) -> tuple[Latent, torch.Tensor | None]:
    """(the sampled LATENT, the last clean prediction in the denoiser's scale or None), with a bar for the steps."""
    latent = {**latent, "samples": guider.model.fit_empty(latent["samples"])}
    last: dict[str, torch.Tensor] = {}
    bar = current().progress(max(0, len(sigmas) - 1), "steps")

    def callback(step: int, denoised: torch.Tensor, x: torch.Tensor, total: int) -> None:
        current().check_interrupted()
        last["denoised"] = denoised
        bar.update(1)

    try:
        samples = guider.sample(
            noise.generate_noise(latent),
            latent["samples"],
            sampler,
            sigmas,
            denoise_mask=latent.get("noise_mask"),
            callback=callback,
            seed=noise.seed,
        )
    finally:
        bar.close()
    return {**latent, "samples": samples}, last.get("denoised")


class KSampler:
    """Noise of the seed, classifier-free guidance, a sampler and a schedule in one node."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The model that denoises."}),
                "seed": _seed(),
                "steps": _steps(),
                "cfg": _cfg(),
                "sampler_name": (list(SAMPLERS), {"tooltip": "The algorithm of sampling."}),
                "scheduler": (SCHEDULERS, {"tooltip": "How noise is removed over the steps."}),
                "positive": ("CONDITIONING", {"tooltip": "What the image should show."}),
                "negative": ("CONDITIONING", {"tooltip": "What it should not."}),
                "latent_image": ("LATENT", {"tooltip": "The latent to denoise."}),
                "denoise": _denoise(),
            }
        }

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "sample"
    CATEGORY = "sampling"
    DESCRIPTION = "Denoises a latent under a positive and a negative conditioning."

    def sample(
        self,
        model: Any,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        positive: Any,
        negative: Any,
        latent_image: Latent,
        denoise: float = 1.0,
    ) -> tuple[Latent]:
        sigmas = schedule(scheduler, model.sigma_table, steps, denoise)
        guider = CFGGuider(model, positive, negative, cfg)
        return (sample(guider, RandomNoiseSource(seed), Sampler(sampler_name), sigmas, latent_image)[0],)


class KSamplerSelect:
    """A sampler by name, for SamplerCustomAdvanced."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"sampler_name": (list(SAMPLERS),)}}

    RETURN_TYPES = ("SAMPLER",)
    FUNCTION = "get_sampler"
    CATEGORY = "sampling/custom_sampling/samplers"
    DESCRIPTION = "Names the sampler."

    def get_sampler(self, sampler_name: str) -> tuple[Sampler]:
        return (Sampler(sampler_name),)


class BasicScheduler:
    """The sigmas of a schedule, for SamplerCustomAdvanced."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"model": ("MODEL",), "scheduler": (SCHEDULERS,), "steps": _steps(), "denoise": _denoise()}}

    RETURN_TYPES = ("SIGMAS",)
    FUNCTION = "get_sigmas"
    CATEGORY = "sampling/custom_sampling/schedulers"
    DESCRIPTION = "The noise levels of a schedule for a model."

    def get_sigmas(self, model: Any, scheduler: str, steps: int, denoise: float) -> tuple[torch.Tensor]:
        return (schedule(scheduler, model.sigma_table, steps, denoise),)


class RandomNoise:
    """The noise of a seed, for SamplerCustomAdvanced."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"noise_seed": _seed()}}

    RETURN_TYPES = ("NOISE",)
    FUNCTION = "get_noise"
    CATEGORY = "sampling/custom_sampling/noise"
    DESCRIPTION = "Noise of a seed."

    def get_noise(self, noise_seed: int) -> tuple[RandomNoiseSource]:
        return (RandomNoiseSource(noise_seed),)


class DisableNoise:
    """Zeros instead of noise, for SamplerCustomAdvanced."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {}}

    RETURN_TYPES = ("NOISE",)
    FUNCTION = "get_noise"
    CATEGORY = "sampling/custom_sampling/noise"
    DESCRIPTION = "No noise: for latents that contain noise already, such as those of DDIM inversion."

    def get_noise(self) -> tuple[NoNoiseSource]:
        return (NoNoiseSource(),)


class CFGGuiderNode:
    """Classifier-free guidance, for SamplerCustomAdvanced."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": ("MODEL",),
                "positive": ("CONDITIONING",),
                "negative": ("CONDITIONING",),
                "cfg": _cfg(),
            }
        }

    RETURN_TYPES = ("GUIDER",)
    FUNCTION = "get_guider"
    CATEGORY = "sampling/custom_sampling/guiders"
    DESCRIPTION = "A model steered by classifier-free guidance."

    def get_guider(self, model: Any, positive: Any, negative: Any, cfg: float) -> tuple[CFGGuider]:
        return (CFGGuider(model, positive, negative, cfg),)


class SamplerCustomAdvanced:
    """Sampling from its separate parts; the guider may be this package's own."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "noise": ("NOISE",),
                "guider": ("GUIDER",),
                "sampler": ("SAMPLER",),
                "sigmas": ("SIGMAS",),
                "latent_image": ("LATENT",),
            }
        }

    RETURN_TYPES = ("LATENT", "LATENT")
    RETURN_NAMES = ("output", "denoised_output")
    FUNCTION = "sample"
    CATEGORY = "sampling/custom_sampling"
    DESCRIPTION = "Samples with any guider, sampler, noise and noise levels."

    def sample(
        self, noise: Any, guider: Any, sampler: Sampler, sigmas: torch.Tensor, latent_image: Latent
    ) -> tuple[Latent, Latent]:
        out, denoised = sample(guider, noise, sampler, sigmas, latent_image)
        if denoised is None:  # there were no steps
            return out, out
        return out, {**latent_image, "samples": guider.model.latent_out(denoised).cpu()}


CLASSES = {
    "KSampler": KSampler,
    "KSamplerSelect": KSamplerSelect,
    "BasicScheduler": BasicScheduler,
    "RandomNoise": RandomNoise,
    "DisableNoise": DisableNoise,
    "CFGGuider": CFGGuiderNode,
    "SamplerCustomAdvanced": SamplerCustomAdvanced,
}
DISPLAY_NAMES: dict[str, str] = {}
