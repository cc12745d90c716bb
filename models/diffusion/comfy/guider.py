"""The GUIDER with which ComfyUI samples under a method of ours. It works on a clone of the model: nothing is patched
that outlives a run."""

from __future__ import annotations

from typing import Any

import comfy.model_sampling
import comfy.patcher_extension
import comfy.samplers
import torch

from ...errors import UserError
from ...tensors.batch import repeat_to_batch
from ...tensors.gradients import ordinary
from ..flow import LARGEST
from ..protocol import Conditioning, Method, Run
from .conds import CondContext, active
from .denoiser import ComfyDenoiser, flat
from .families import check_areas, check_frames, check_pair
from .memory import asks_for_memory, patcher
from .vae import ComfyVAE


class MethodGuider(comfy.samplers.CFGGuider):
    """A GUIDER whose every prediction is a method's (`protocol.Method`)."""

    def __init__(self, model: Any, vae: Any, positive: Conditioning, negative: Conditioning, method: Method):
        check_pair(model, vae)
        super().__init__(model.clone())
        self.set_conds(positive, negative)
        self.set_cfg(method.cfg)
        self.vae, self.method = ComfyVAE(vae), method
        self._denoiser: ComfyDenoiser | None = None
        self._run: Run | None = None
        self._given: dict[str, Any] = {}  # schedule, latent and mask of the run that is under way
        # All load together: loading one in the middle of sampling could push the diffusion model out.
        self.model_patcher.set_additional_models(
            "affect", [vae.patcher, *(patcher(network) for network in method.networks)]
        )
        if method.differentiates:
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
        """As `CFGGuider.sample`. UserError where there is no step to steer, or nothing to start from."""
        if sigmas.numel() < 2:
            raise UserError("There are no steps to sample: raise denoise above 0 or the number of steps.")
        check_frames(latent_image)
        check_areas(self.model_patcher, self.original_conds)
        flow = isinstance(self.model_patcher.get_model_object("model_sampling"), comfy.model_sampling.CONST)
        if flow and float(sigmas[0]) > LARGEST and not bool(noise.any()):
            raise UserError(
                "This rectified-flow MODEL starts from noise alone, and none is given: connect the `noise` output of "
                "DDIM Inversion, or RandomNoise, to the sampler (or turn add_noise on)."
            )
        try:
            out = super().sample(noise, latent_image, sampler, sigmas, *args, **kwargs)
            if self._run is not None:
                self.method.finish(self._run, out)
            return out
        finally:  # a cached guider outlives a prompt: every run begins anew
            self._denoiser, self._run, self._given = None, None, {}

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
        """As `CFGGuider.inner_sample`: what the run needs to know passes here."""
        latent = latent_image
        if latent is not None and torch.count_nonzero(latent) > 0:  # as CFGGuider does
            latent = self.inner_model.process_latent_in(latent)
        self._given = {"sigmas": sigmas, "latent": flat(latent), "mask": flat(denoise_mask)}
        return super().inner_sample(noise, latent_image, device, sampler, sigmas, denoise_mask, *args, **kwargs)

    def predict_noise(
        self,
        x: torch.Tensor,
        timestep: torch.Tensor,
        model_options: dict[str, Any] = {},  # noqa: B006 (ComfyUI's own signature)
        seed: int | None = None,
    ) -> torch.Tensor:
        """As `CFGGuider.predict_noise`, by the method. (The default is ComfyUI's own signature.)"""
        if not any(active(cond, timestep) for cond in self.conds["positive"]):
            return super().predict_noise(x, timestep, model_options, seed)  # at this step there is no text to steer
        if self._run is None or self._denoiser is None:
            self._denoiser = ComfyDenoiser(self.inner_model, model_options, seed, self.vae.vae)
            self._run = self.method.start(
                self._denoiser,
                self.vae,
                self._denoiser.context(self.conds["positive"]),
                CondContext(self.conds.get("negative", [])),
                flat(x),
                self._given["sigmas"],
                self._given["latent"],
                self._given["mask"],
            )
        self._denoiser.use(model_options, seed)
        soft = model_options.get("denoise_mask_function")
        if soft is not None and self._given["mask"] is not None:
            # Differential Diffusion: another mask at each noise level
            extra = {"model": self.inner_model, "sigmas": self._given["sigmas"]}
            mask = soft(timestep, self._given["mask"], extra_options=extra)
            self._run.mask = ordinary(repeat_to_batch(flat(mask), len(x)))
        return self._run.predict(flat(x), timestep).view_as(x)
