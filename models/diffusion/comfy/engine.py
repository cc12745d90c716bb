"""ComfyUI as `protocol.Engine`: its sampling, its encoders, its memory."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.model_sampling
import comfy.patcher_extension
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch

from ...errors import UserError
from ..flow import AddedNoise, noise_scale
from ..protocol import INVERTED_NOISE, Algorithm, Conditioning, Method
from . import memory
from .conds import CondContext
from .denoiser import ComfyDenoiser, flat
from .families import check_frames
from .guider import MethodGuider


class ComfyEngine:
    """See `protocol.Engine`."""

    def guider(
        self, model: Any, vae: Any, positive: Conditioning, negative: Conditioning, method: Method
    ) -> MethodGuider:
        return MethodGuider(model, vae, positive, negative, method)

    def sample(
        self,
        guider: Any,
        latent_image: dict[str, Any],
        seed: int,
        sampler_name: str,
        scheduler: str,
        steps: int,
        denoise: float,
        add_noise: bool,
    ) -> dict[str, Any]:
        model = guider.model_patcher
        latent = comfy.sample.fix_empty_latent_channels(model, latent_image["samples"])
        noise = (
            comfy.sample.prepare_noise(latent, seed, latent_image.get("batch_index"))
            if add_noise
            else latent_image.get(INVERTED_NOISE, torch.zeros_like(latent, device="cpu"))
        )
        if noise.shape != latent.shape:
            raise UserError(
                f"The inverted noise that comes with this LATENT is {tuple(noise.shape)} and the latent now "
                f"{tuple(latent.shape)}: it was resized or batched after DDIM Inversion. Do that before."
            )
        # KSampler knows what each sampler's schedule loses at its end.
        sigmas = comfy.samplers.KSampler(model, steps, model.load_device, sampler_name, scheduler, denoise).sigmas
        samples = guider.sample(
            noise,
            latent,
            comfy.samplers.sampler_object(sampler_name),
            sigmas,
            denoise_mask=latent_image.get("noise_mask"),
            seed=seed,
            callback=latent_preview.prepare_callback(model, max(0, len(sigmas) - 1)),
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        )
        kept = {name: value for name, value in latent_image.items() if name != INVERTED_NOISE}
        return {**kept, "samples": samples.to(comfy.model_management.intermediate_device())}

    def run(
        self,
        model: Any,
        texts: dict[str, Conditioning],
        algorithm: Algorithm,
        latent: torch.Tensor,
        sigmas: torch.Tensor,
        seed: int = 0,
        rows: int = 2,
        label: str = "sampling",
    ) -> torch.Tensor:
        check_frames(latent)
        width = model.model.model_config.unet_config.get("context_dim")
        for text in texts.values():
            if width and text[0][0].shape[-1] != width:
                raise UserError(
                    f"This text is {text[0][0].shape[-1]} wide and the MODEL reads texts {width} wide: it was encoded "
                    "for another model. Connect the CLIP of the MODEL's own checkpoint, or a MoodifyCLIP trained from "
                    "it."
                )
        return AlgorithmGuider(model, texts, algorithm, rows)(latent, sigmas, seed)

    def sigmas(self, model: Any, scheduler: str, steps: int) -> torch.Tensor:
        return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), scheduler, steps)

    def is_flow(self, model: Any) -> bool:
        return is_flow(model)

    def encode_text(self, clip: Any, text: str) -> Conditioning:
        return clip.encode_from_tokens_scheduled(clip.tokenize(text))

    def encode_image(self, vae: Any, image: torch.Tensor) -> torch.Tensor:
        return vae.encode(image[..., :3])

    def load(self, *networks: torch.nn.Module) -> None:
        memory.load(*networks)

    def sampling_choices(self) -> tuple[list[str], list[str]]:
        return list(comfy.samplers.KSampler.SAMPLERS), list(comfy.samplers.KSampler.SCHEDULERS)

    def tiny_pipeline(self) -> tuple[Any, Any, Any]:
        from .tiny import load_pipeline

        return load_pipeline()


def is_flow(model: Any) -> bool:
    """See `protocol.Engine.is_flow`."""
    return isinstance(model.get_model_object("model_sampling"), comfy.model_sampling.CONST)


class AlgorithmGuider(comfy.samplers.CFGGuider):
    """Runs an algorithm in a sampler's place (`protocol.Algorithm`), with everything that ComfyUI does around sampling:
    loading, hooks, previews, interruption.

    rows  how many rows an image has in a batch of it
    """

    def __init__(self, model: Any, conds: dict[str, Conditioning], algorithm: Algorithm, rows: int):
        super().__init__(model.clone())
        self.inner_set_conds(conds)
        self.algorithm = algorithm
        # They are one batch, which ComfyUI, who reckons with two, can neither foresee nor split.
        self.model_patcher.add_wrapper_with_key(
            comfy.patcher_extension.WrappersMP.PREPARE_SAMPLING, "affect", memory.asks_for_rows(rows)
        )
        self.model_options = self.model_patcher.model_options

    def __call__(self, latent: torch.Tensor, sigmas: torch.Tensor, seed: int) -> torch.Tensor:
        """latent [B, C, h, w] in the VAE's scale -> what the algorithm made of it, in the same."""
        shape = latent.shape

        def walk(
            _: Any, x: torch.Tensor, sigmas: torch.Tensor, extra_args: dict[str, Any], callback: Any, disable: bool
        ) -> torch.Tensor:
            denoiser: Any = ComfyDenoiser(self.inner_model, extra_args["model_options"], seed)
            x = flat(x)
            if is_flow(self.model_patcher):  # which is handed a latent mixed with noise, at sigma 1 nothing of it
                denoiser, x, sigmas = AddedNoise(denoiser), denoiser.latent_in(flat(latent).to(x)), noise_scale(sigmas)
            contexts = {name: CondContext(conds) for name, conds in self.conds.items()}

            def stepped(i: int, prediction: torch.Tensor) -> None:
                comfy.model_management.throw_exception_if_processing_interrupted()
                callback({"i": i, "denoised": prediction, "x": prediction})

            return self.algorithm(denoiser, contexts, x, sigmas, stepped).view(shape)

        # Without noise the sampler is handed the latent itself.
        out = self.sample(
            torch.zeros_like(latent),
            latent,
            comfy.samplers.KSAMPLER(walk),
            sigmas,
            seed=seed,
            callback=latent_preview.prepare_callback(self.model_patcher, max(1, len(sigmas) - 1)),
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        )
        return out.to(comfy.model_management.intermediate_device())
