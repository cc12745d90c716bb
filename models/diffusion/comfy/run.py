"""What the nodes ask of ComfyUI's own objects: sampling, inversion, the attention blend, attention maps, encoding."""

from __future__ import annotations

from collections.abc import Sequence
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
from ...moodifier.blend import BlendConfig, attention_blend, cells, shifted, token_alignment
from ...moodifier.masks import attention_maps
from .. import INVERTED_NOISE
from ..flow import AddedNoise, noise_scale
from ..protocol import Conditioning
from ..sampling import ddim_inversion
from .conds import CondContext
from .denoiser import ComfyDenoiser, flat
from .families import check_frames
from .memory import asks_for_rows


def sample(
    guider: Any,
    latent_image: dict[str, Any],
    seed: int,
    sampler_name: str,
    scheduler: str,
    steps: int,
    denoise: float,
    add_noise: bool,
) -> dict[str, Any]:
    """Samples a LATENT with a guider as SamplerCustomAdvanced does: preview, progress bar, latent mask."""
    model = guider.model_patcher
    latent = comfy.sample.fix_empty_latent_channels(model, latent_image["samples"])
    noise = (
        comfy.sample.prepare_noise(latent, seed, latent_image.get("batch_index"))
        if add_noise
        else latent_image.get(INVERTED_NOISE, torch.zeros_like(latent, device="cpu"))
    )
    if noise.shape != latent.shape:
        raise UserError(
            f"The inverted noise that comes with this LATENT is {tuple(noise.shape)} and the latent now {tuple(latent.shape)}: "
            "it was resized or batched after DDIM Inversion. Do that before."
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


def invert(
    model: Any, positive: Conditioning, latent: torch.Tensor, steps: int, scheduler: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """DDIM inversion of latents [B, C, h, w] under their description at cfg 1, as a sampler that walks upwards.

    Returns (latent, noise) to sample from: the noised latent and no noise; of a rectified-flow model (SD3, FLUX), whose
    first step holds nothing of a latent, the latent that was given and the noise that leads back to it.
    """
    check_frames(latent)
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), scheduler, steps)
    noise: list[torch.Tensor] = []

    def run(
        denoiser: Any, contexts: dict[str, CondContext], z: torch.Tensor, sigmas: torch.Tensor, callback: Any
    ) -> torch.Tensor:
        text = contexts["positive"]
        x = ddim_inversion(
            lambda x, s: denoiser.guided(x, s, text, text, 1.0),
            z,
            sigmas,
            callback=lambda i, denoised, x, total: callback(i, denoised),
        )
        noise.append(x / (1 + sigmas[0]))  # of a flow: what a sampler that starts at sigma 1 is to start from
        return x

    noised = _SideGuider(model, {"positive": positive}, run, 2)(latent, sigmas, 0)
    if not _is_flow(model):
        return noised, torch.zeros_like(latent)
    return latent, noise[0].view_as(latent).to(latent.device, latent.dtype)


def _is_flow(model: Any) -> bool:
    return isinstance(model.get_model_object("model_sampling"), comfy.model_sampling.CONST)


class _SideGuider(comfy.samplers.CFGGuider):
    """Runs one of our algorithms in a sampler's place, with everything that ComfyUI does around sampling: loading,
    hooks, previews, interruption.

    run   (denoiser, contexts by name, latent [B, C, h, w] in the denoiser's scale, callback(step, prediction)) ->
          latent
    rows  how many rows an image has in a batch of that
    """

    def __init__(self, model: Any, conds: dict[str, Conditioning], run: Any, rows: int):
        super().__init__(model.clone())
        self.inner_set_conds(conds)
        self.run = run
        # They are one batch, which ComfyUI, who reckons with two, can neither foresee nor split.
        self.model_patcher.add_wrapper_with_key(
            comfy.patcher_extension.WrappersMP.PREPARE_SAMPLING, "affect", asks_for_rows(rows)
        )
        self.model_options = self.model_patcher.model_options

    def __call__(self, latent: torch.Tensor, sigmas: torch.Tensor, seed: int) -> torch.Tensor:
        """latent [B, C, h, w] in the VAE's scale -> what `run` made of it, in the same."""
        shape = latent.shape

        def walk(
            _: Any, x: torch.Tensor, sigmas: torch.Tensor, extra_args: dict[str, Any], callback: Any, disable: bool
        ) -> torch.Tensor:
            denoiser, x = ComfyDenoiser(self.inner_model, extra_args["model_options"], seed), flat(x)
            if _is_flow(self.model_patcher):  # which is handed a latent mixed with noise, at sigma 1 nothing of it
                denoiser, x, sigmas = AddedNoise(denoiser), denoiser.latent_in(flat(latent).to(x)), noise_scale(sigmas)
            contexts = {name: CondContext(conds) for name, conds in self.conds.items()}

            def stepped(i: int, prediction: torch.Tensor) -> None:
                comfy.model_management.throw_exception_if_processing_interrupted()
                callback({"i": i, "denoised": prediction, "x": prediction})

            return self.run(denoiser, contexts, x, sigmas, stepped).view(shape)

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


def _with_cross_attention(model: Any) -> None:
    if _is_flow(model):
        raise UserError(
            "The grounding 'attention' reads a MODEL's cross-attention: that of SD1.5, SD2 or SDXL. With this MODEL choose "
            "clipseg, boxes or saliency."
        )


def blend(
    model: Any,
    source: Conditioning,
    target: Conditioning,
    negative: Conditioning | None,
    latent_image: dict[str, Any],
    mask: torch.Tensor,
    steps: int,
    scheduler: str,
    config: BlendConfig,
    seed: int,
    texts: tuple[str, str] = ("", ""),
) -> dict[str, Any]:
    """As `diffusers.blend`."""
    latent = latent_image["samples"]
    check_frames(latent)
    generator = torch.Generator().manual_seed(seed)

    def run(
        denoiser: ComfyDenoiser, contexts: dict[str, CondContext], z: torch.Tensor, sigmas: torch.Tensor, callback: Any
    ) -> torch.Tensor:
        of_source, of_target = contexts["source"], contexts["target"]
        # Some models put padding before their text (FLUX.2).
        before = [
            context.embeds.shape[1] - given[0][0].shape[1]
            for context, given in ((of_source, source), (of_target, target))
        ]
        return attention_blend(
            denoiser,
            of_source,
            of_target,
            contexts.get("negative"),
            z,
            cells(mask, z),
            sigmas,
            config,
            lambda: torch.randn(z.shape, generator=generator).to(z),
            shifted(token_alignment(source, target, texts), *before),
            callback,
        )

    width = model.model.model_config.unet_config.get("context_dim")
    for text in (source, target, *([] if negative is None else [negative])):
        if width and text[0][0].shape[-1] != width:
            raise UserError(
                f"This text is {text[0][0].shape[-1]} wide and the MODEL reads texts {width} wide: it was encoded for another "
                "model. Connect the CLIP of the MODEL's own checkpoint, or a MoodifyCLIP trained from it."
            )
    conds = {"source": source, "target": target} | ({} if negative is None else {"negative": negative})
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), scheduler, steps)
    return {
        **latent_image,
        "samples": _SideGuider(model, conds, run, 2 if config.cfg == 1.0 else 3)(latent, sigmas, seed),
    }


def encode_text(clip: Any, text: str) -> Conditioning:
    """As `diffusers.encode_text`."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def encode_image(vae: Any, image: torch.Tensor) -> torch.Tensor:
    """As `diffusers.encode_image`."""
    return vae.encode(image[..., :3])


def cross_attention_maps(
    model: Any, positive: Conditioning, latent: torch.Tensor, columns: Sequence[Sequence[int]], seed: int
) -> torch.Tensor:
    """As `diffusers.cross_attention_maps`."""
    _with_cross_attention(model)
    found: list[torch.Tensor] = []

    def run(
        denoiser: ComfyDenoiser, contexts: dict[str, CondContext], z: torch.Tensor, sigmas: torch.Tensor, callback: Any
    ) -> torch.Tensor:
        found.append(attention_maps(denoiser, contexts["positive"], z, columns, seed))
        return z

    _SideGuider(model, {"positive": positive}, run, 1)(latent, torch.tensor([1.0, 0.0]), seed)
    return found[0].float().cpu()
