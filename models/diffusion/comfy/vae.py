"""A loaded VAE of ComfyUI as `protocol.Autoencoder`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import torch

from ...tensors.gradients import checkpointed, ordinary_weights
from ...tensors.ranges import clamp01
from .memory import casts
from .weights import own_weights


class ComfyVAE:
    """A loaded VAE as `protocol.Autoencoder`. Never `VAE.decode` with gradients: where memory runs out that goes tiled
    under inference mode, silently."""

    def __init__(self, vae: Any):
        self.vae, self.network = vae, vae.first_stage_model
        self.single_precision = vae.vae_dtype == torch.float32
        self._frames = getattr(vae, "latent_dim", 2) == 3  # a VAE for video takes an image as one frame
        self.factor = vae.downscale_ratio[-1] if self._frames else vae.downscale_ratio
        # process_output is a line and a clamp; the line is read off two inner points, the clamp is ours.
        low, high = vae.process_output(torch.tensor([0.4, 0.6])).tolist()
        self.slope = (high - low) / 0.2
        self.offset = low - 0.4 * self.slope

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W] in 0..1 -> [B, C, h, w]."""
        latent = self.vae.encode(image.movedim(1, -1))
        return latent[:, :, 0] if self._frames else latent

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """[B, C, h, w] -> [B, 3, H, W] in 0..1. Differentiable; gradients pass the clamp. Without gradients (the
        gate's) it is done in tiles where memory runs out."""
        return clamp01(self.decode_raw(latent))

    def decode_raw(self, latent: torch.Tensor) -> torch.Tensor:
        """As `decode`, without the clamp, but where it is done in tiles."""
        framed = latent.unsqueeze(2) if self._frames else latent
        decode = getattr(self.network, "decode_raw", self.network.decode)  # the tiny model's clamps by itself
        try:
            image = decode(framed.to(self.vae.device, self.vae.vae_dtype))
        except comfy.model_management.OOM_EXCEPTION:
            if torch.is_grad_enabled():
                raise
            return self.vae.decode_tiled(framed).flatten(0, -4).movedim(-1, 1).to(latent.device, torch.float32)
        if self._frames:
            image = image[:, :, 0]
        return (image.float() * self.slope + self.offset).to(latent.device)

    def resident(self) -> Any:
        """See `protocol.Autoencoder`."""
        return self.vae.patcher.loaded_size()

    @contextmanager
    def gradients(self, save_memory: bool = False) -> Iterator[None]:
        with (
            ordinary_weights(self.network),
            own_weights(),
            checkpointed(*[self.network] * (save_memory or casts(self.network))),
        ):
            yield
