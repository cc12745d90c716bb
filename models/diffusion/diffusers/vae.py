"""The VAE socket of the embedded host: a diffusers autoencoder as `protocol.Autoencoder`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ...errors import UserError
from ...tensors.gradients import checkpointed, frozen, ordinary_weights
from ...tensors.ranges import clamp01


class DiffusersVAE:
    """The VAE socket: a diffusers AutoencoderKL as a `protocol.Autoencoder`."""

    def __init__(self, vae: Any):
        frozen([vae])
        self.vae = vae
        self.factor = 2 ** (len(vae.config.block_out_channels) - 1)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.vae.parameters()).dtype

    @torch.no_grad()
    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W] in 0..1 -> [B, C, H/8, W/8]: the distribution's mode. UserError where a side is smaller
        than one latent cell or not divisible by the factor (crop first, as VAEEncode does)."""
        h, w = image.shape[-2:]
        if h < self.factor or w < self.factor or h % self.factor or w % self.factor:
            raise UserError(
                f"An image of {w} x {h} pixels cannot be encoded: both sides must be multiples of "
                f"{self.factor}. Scale or crop it first."
            )
        device = next(self.vae.parameters()).device
        return self.vae.encode(image.to(device, self.dtype) * 2 - 1).latent_dist.mode().float()

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """[B, C, h, w] -> [B, 3, H, W] in 0..1. Differentiable in the latent; gradients pass the clamp."""
        return clamp01(self.decode_raw(latent))

    def decode_raw(self, latent: torch.Tensor) -> torch.Tensor:
        """As `decode`, without the clamp."""
        channels = self.vae.config.latent_channels
        if latent.shape[1] != channels:
            raise UserError(
                f"This VAE decodes latents of {channels} channels and this one has {latent.shape[1]}: VAE and model "
                "belong to different families. Take the VAE of the model's own checkpoint."
            )
        device = next(self.vae.parameters()).device
        image = self.vae.decode(latent.to(device, self.dtype)).sample
        return (image.float() + 1) / 2

    @property
    def single_precision(self) -> bool:
        """See `protocol.Autoencoder`."""
        return self.dtype == torch.float32

    def resident(self) -> None:
        """See `protocol.Autoencoder`: these weights stay where they are."""

    @contextmanager
    def gradients(self, save_memory: bool = False) -> Iterator[None]:
        with ordinary_weights(self.vae), checkpointed(*[self.vae] * save_memory):
            yield
