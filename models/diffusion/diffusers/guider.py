"""The GUIDER socket of the embedded host."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from ...errors import UserError
from ...tensors.batch import repeat_to_batch
from ...tensors.masks import with_channel
from .. import sampling
from ..protocol import Autoencoder, Conditioning, Method, Run
from ..sampling import Callback, Sampler
from .denoiser import DiffusersModel


class CFGGuider:
    """The GUIDER socket: a denoiser steered by classifier-free guidance, with ComfyUI's `sample` interface."""

    def __init__(self, model: DiffusersModel, positive: Conditioning, negative: Conditioning, cfg: float):
        self.model = model
        self.cfg = cfg
        self.positive, self.negative = model.context(positive), model.context(negative)

    def predict(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """x [B, C, h, w], sigma [B] -> guided clean latent."""
        return self.model.guided(x, sigma, self.positive, self.negative, self.cfg)

    def sample(
        self,
        noise: torch.Tensor,
        latent_image: torch.Tensor,
        sampler: Sampler,
        sigmas: torch.Tensor,
        denoise_mask: torch.Tensor | None = None,
        callback: Callback | None = None,
        seed: int = 0,
    ) -> torch.Tensor:
        """noise and latent_image [B, C, h, w] in VAE scale -> samples in VAE scale. denoise_mask [B, h', w'] or
        [B, 1, h', w'] in 0..1 is resized to the latent. An empty `sigmas` returns the latent."""
        model = self.model
        latent = model.latent_in(latent_image)
        mask = None if denoise_mask is None else resize_mask(denoise_mask, latent)
        out = sampling.sample(
            self.predict,
            noise.to(latent),
            latent,
            sigmas,
            sampler,
            float(model.sigma_table[-1]),
            seed=seed or 0,
            mask=mask,
            callback=callback,
        )
        return model.latent_out(out).cpu()


class MethodGuider(CFGGuider):
    """A GUIDER whose every prediction is a method's (`protocol.Method`)."""

    def __init__(
        self,
        model: DiffusersModel,
        vae: Autoencoder,
        positive: Conditioning,
        negative: Conditioning,
        method: Method,
    ):
        super().__init__(model, positive, negative, method.cfg)
        self.vae, self.method = vae, method
        self._run: Run | None = None

    def sample(
        self,
        noise: torch.Tensor,
        latent_image: torch.Tensor,
        sampler: Sampler,
        sigmas: torch.Tensor,
        denoise_mask: torch.Tensor | None = None,
        callback: Callback | None = None,
        seed: int = 0,
    ) -> torch.Tensor:
        """As `CFGGuider.sample`. UserError where there is no step to steer."""
        if sigmas.numel() < 2:
            raise UserError("There are no steps to sample: raise denoise above 0 or the number of steps.")
        latent = self.model.latent_in(latent_image)
        mask = None if denoise_mask is None else resize_mask(denoise_mask, latent)
        # A cached guider outlives a run: every run has a state of its own.
        self._run = self.method.start(self.model, self.vae, self.positive, self.negative, latent, sigmas, latent, mask)
        try:
            out = super().sample(noise, latent_image, sampler, sigmas, denoise_mask, callback, seed)
            self.method.finish(self._run, out)
        finally:
            self._run = None
        return out

    def predict(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """As `CFGGuider.predict`, by the method; outside of `sample` there is no run of it."""
        return super().predict(x, sigma) if self._run is None else self._run.predict(x, sigma)


def resize_mask(mask: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
    """[B or 1, H, W] or [B or 1, 1, H, W] -> [B, 1, h, w] of `latent`, bilinear, as ComfyUI's prepare_mask."""
    mask = F.interpolate(with_channel(mask).to(latent), size=latent.shape[-2:], mode="bilinear")
    return repeat_to_batch(mask, len(latent))
