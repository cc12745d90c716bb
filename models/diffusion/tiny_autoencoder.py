"""The tiny autoencoder: most of its work is done at 16 x 16 and 32 x 32, where two CPU cores do it well.

Stable Diffusion's layout spends nine tenths of its time at full resolution, on few channels; trained for an hour on two
cores it gives fog. This one folds pixels into channels (pixel shuffle, Shi et al. 2016) and has eight latent channels
in place of four. Three of them are the colours of the image's thumbnail, a pixel for each cell; five are learned and
carry the rest. Where all eight were learned, cells were nearly independent of their neighbours, and a small diffusion
model painted blotches of a cell's size. It is a `diffusion.protocol.Autoencoder`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional as F

from ..errors import UserError
from ..tensors.gradients import checkpointed, ordinary_weights
from ..tensors.ranges import clamp01

LATENT_CHANNELS = 8
THUMBNAIL = 3
"""The first channels: red, green and blue of the thumbnail."""


class _Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(8, width), nn.Conv2d(width, width, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(8, width), nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))


class TinyAutoencoder(nn.Module):
    """[B, 3, H, W] in 0..1 <-> latents [B, 8, H/8, W/8], each channel of zero mean and unit deviation over
    MoodScenes."""

    factor = 8
    mean: torch.Tensor
    std: torch.Tensor
    single_precision = True

    def __init__(self, widths: tuple[int, int, int] = (128, 64, 32)):
        super().__init__()
        low, middle, high = widths
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, middle, 3, padding=1),
            _Block(middle),
            nn.PixelUnshuffle(2),
            nn.Conv2d(4 * middle, low, 1),
            _Block(low),
            _Block(low),
            nn.GroupNorm(8, low),
            nn.SiLU(),
            nn.Conv2d(low, LATENT_CHANNELS - THUMBNAIL, 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(LATENT_CHANNELS, low, 3, padding=1),
            _Block(low),
            _Block(low),
            nn.Conv2d(low, 4 * middle, 3, padding=1),
            nn.PixelShuffle(2),
            _Block(middle),
            _Block(middle),
            nn.Conv2d(middle, 4 * high, 3, padding=1),
            nn.PixelShuffle(2),
            _Block(high),
            nn.SiLU(),
            nn.Conv2d(high, 12, 3, padding=1),
            nn.PixelShuffle(2),
        )
        self.register_buffer("mean", torch.zeros(1, LATENT_CHANNELS, 1, 1))
        self.register_buffer("std", torch.ones(1, LATENT_CHANNELS, 1, 1))

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W] in 0..1 -> [B, 8, H/8, W/8]. UserError where a side is not a multiple of 8."""
        h, w = image.shape[-2:]
        if h < self.factor or w < self.factor or h % self.factor or w % self.factor:
            raise UserError(
                f"An image of {w} x {h} pixels cannot be encoded: both sides must be multiples of "
                f"{self.factor}. Scale or crop it first."
            )
        x = image.to(self.mean) * 2 - 1
        return (torch.cat([F.avg_pool2d(x, self.factor), self.encoder(x)], dim=1) - self.mean) / self.std

    def decode_raw(self, latent: torch.Tensor) -> torch.Tensor:
        """As `decode`, without the clamp."""
        return self.decoder(latent.to(self.mean) * self.std + self.mean) / 2 + 0.5

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """[B, 8, h, w] -> [B, 3, 8h, 8w] in 0..1; gradients pass the clamp."""
        return clamp01(self.decode_raw(latent))

    def resident(self) -> None:
        """See `protocol.Autoencoder`: these weights stay where they are."""

    @contextmanager
    def gradients(self, save_memory: bool = False) -> Iterator[None]:
        with ordinary_weights(self), checkpointed(*[self] * save_memory):
            yield
