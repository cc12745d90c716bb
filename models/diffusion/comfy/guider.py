"""The GUIDER with which ComfyUI samples under MUSE. It works on a clone of the model: nothing is patched that
outlives a run."""

from __future__ import annotations

from typing import Any

import comfy.model_sampling
import comfy.patcher_extension
import comfy.samplers
import torch

from ...emotions import EmotionTarget
from ...errors import UserError
from ...muse import EmotionTokens, Muse, MuseConfig, TimingGate, TraceStore
from ...tensors.batch import repeat_to_batch
from ...tensors.gradients import ordinary
from ..flow import LARGEST
from ..protocol import Conditioning
from .conds import CondContext, active
from .denoiser import ComfyDenoiser, flat
from .families import check_areas, check_frames, check_pair
from .memory import asks_for_memory, patcher
from .vae import ComfyVAE


class MuseGuider(comfy.samplers.CFGGuider):
    """A GUIDER whose predictions carry emotional tokens (`muse.Muse`); traces are found by the latent it returned."""

    def __init__(
        self,
        model: Any,
        vae: Any,
        classifier: Any,
        positive: Conditioning,
        negative: Conditioning,
        emotion: EmotionTarget,
        config: MuseConfig,
        gate: TimingGate | None = None,
        init_tokens: EmotionTokens | None = None,
    ):
        check_pair(model, vae)
        super().__init__(model.clone())
        self.set_conds(positive, negative)
        self.set_cfg(config.cfg)
        self.vae, self.classifier, self.emotion, self.config = ComfyVAE(vae), classifier, emotion, config
        self.gate, self.init_tokens = gate, init_tokens
        self.traces = TraceStore()
        self._muse: Muse | None = None
        self._run: dict[str, Any] = {}
        # All load together: loading one in the middle of sampling could push the diffusion model out.
        self.model_patcher.set_additional_models(
            "affect", [vae.patcher, patcher(classifier), *([patcher(gate.scorer)] if gate else [])]
        )
        if emotion.intensity > 0:
            self.model_patcher.add_wrapper_with_key(
                comfy.patcher_extension.WrappersMP.PREPARE_SAMPLING, "affect", asks_for_memory(vae)
            )
        self.model_options = self.model_patcher.model_options

    def sample(
        self,
        noise: torch.Tensor,
        latent_image: torch.Tensor,
        sampler: Any,
        sigmas: torch.Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> torch.Tensor:
        """As `CFGGuider.sample`. UserError where there is no step to optimise in, or nothing to start from."""
        if sigmas.numel() < 2:
            raise UserError("There are no steps to sample: raise denoise above 0 or the number of steps.")
        check_frames(latent_image)
        check_areas(self.model_patcher, self.original_conds)
        flow = isinstance(self.model_patcher.get_model_object("model_sampling"), comfy.model_sampling.CONST)
        if flow and float(sigmas[0]) > LARGEST and not bool(noise.any()):
            raise UserError(
                "This rectified-flow MODEL starts from noise alone, and none is given: connect the `noise` output of DDIM "
                "Inversion, or RandomNoise, to the sampler (or turn add_noise on)."
            )
        self._muse = None  # a cached guider outlives a prompt: every run begins anew
        try:
            out = super().sample(noise, latent_image, sampler, sigmas, *args, **kwargs)
            if self._muse is not None:
                self._muse.finish()
                self.traces.put(out, self._muse.trace, self._muse.result())
            return out
        finally:
            self._muse, self._run = None, {}

    def inner_sample(
        self,
        noise: torch.Tensor,
        latent_image: torch.Tensor,
        device: Any,
        sampler: Any,
        sigmas: torch.Tensor,
        denoise_mask: torch.Tensor | None,
        *args: Any,
        **kwargs: Any,
    ) -> torch.Tensor:
        latent = latent_image
        if latent is not None and torch.count_nonzero(latent) > 0:  # as CFGGuider does
            latent = self.inner_model.process_latent_in(latent)
        self._run = {"sigmas": sigmas, "latent": flat(latent), "mask": flat(denoise_mask)}
        return super().inner_sample(noise, latent_image, device, sampler, sigmas, denoise_mask, *args, **kwargs)

    def predict_noise(
        self, x: torch.Tensor, timestep: torch.Tensor, model_options: dict[str, Any] = {}, seed: int | None = None
    ) -> torch.Tensor:
        if not any(active(cond, timestep) for cond in self.conds["positive"]):
            return super().predict_noise(x, timestep, model_options, seed)  # no text, so nothing to put tokens behind
        if self._muse is None:
            denoiser = ComfyDenoiser(self.inner_model, model_options, seed, self.vae.vae)
            self._muse = Muse(
                denoiser,
                self.vae,
                self.classifier,
                denoiser.context(self.conds["positive"]),
                CondContext(self.conds.get("negative", [])),
                self.emotion,
                self.config,
                self.gate,
                self.init_tokens,
            )
            self._muse.start(flat(x), self._run["sigmas"], self._run["latent"], self._run["mask"])
        self._muse.denoiser.use(model_options, seed)
        soft = model_options.get("denoise_mask_function")
        if (
            soft is not None and self._run["mask"] is not None
        ):  # Differential Diffusion: another mask at each noise level
            mask = soft(
                timestep, self._run["mask"], extra_options={"model": self.inner_model, "sigmas": self._run["sigmas"]}
            )
            self._muse.mask = ordinary(repeat_to_batch(flat(mask), len(x)))
        return self._muse.predict(flat(x), timestep).view_as(x)
