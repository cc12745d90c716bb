"""The tiny autoencoder: learns scenes of both domains and photographs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional as F

from ..models import tiny
from ..models.diffusion.tiny_autoencoder import THUMBNAIL, TinyAutoencoder
from .batches import Rows, steps
from .data.pack import PackSpec, make_pack
from .loop import LoopConfig, Losses, fit


@dataclass
class VaeConfig:
    """crop: most steps see random crops of this side, since cost is by the pixel; the steps after `whole_from` of the
    run see whole images, a fourth as many, because group normalisation's statistics are those of what it sees.
    noise: the noise that the decoder must bear on the learned channels, relative to each one's deviation. It keeps them
    from coding grain, which a diffusion model would then have to paint.
    thumbnail_noise: the same for the thumbnail's channels."""

    n: int = 6000
    photos: float = 0.15
    data_seed: int = 31
    noise: float = 0.35
    thumbnail_noise: float = 0.05
    prior: float = 1e-3
    structure: float = 0.4
    edge: float = 0.5
    colour: float = 1.0
    crop: int = 64
    whole_from: float = 0.8


def structure_loss(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """1 - SSIM (uniform 7 x 7 window) of images in 0..1: what blurs lines costs more than L1 says."""
    pool = lambda x: F.avg_pool2d(x, 7, stride=2)
    ma, mb = pool(a), pool(b)
    va, vb, cov = pool(a * a) - ma**2, pool(b * b) - mb**2, pool(a * b) - ma * mb
    ssim = ((2 * ma * mb + 1e-4) * (2 * cov + 9e-4)) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4))
    return 1 - ssim.mean()


def edge_loss(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """L1 of horizontal and vertical differences."""
    return F.l1_loss(a.diff(dim=-1), b.diff(dim=-1)) + F.l1_loss(a.diff(dim=-2), b.diff(dim=-2))


def train(config: VaeConfig, loop: LoopConfig, runs: Path, device: str) -> TinyAutoencoder:
    """Trains the autoencoder and returns it with latents of zero mean and unit deviation."""
    specs = [
        PackSpec("train", n, domain=domain, photos=config.photos, seed=config.data_seed, variants=1)
        for domain, n in (("a", config.n), ("b", config.n // 5))
    ]
    rows = Rows([make_pack(s, runs / "packs") for s in specs], device)

    def loss(vae: TinyAutoencoder, batch: tuple, step: int) -> Losses:
        x = rows.pictures(batch[0])
        if step < config.whole_from * loop.steps:
            top, left = torch.randint(x.shape[-1] - config.crop + 1, (2,)).tolist()
            x = x[:, :, top : top + config.crop, left : left + config.crop]
        else:
            x = x[: max(1, len(x) // 4)]
        z = vae.encode(x)
        noise = torch.full_like(z, config.noise)
        noise[:, :THUMBNAIL] = config.thumbnail_noise
        y = vae.decode_raw(z + noise * z.detach().std(dim=(0, 2, 3), keepdim=True) * torch.randn_like(z))
        pixel, structure, edge = F.l1_loss(y, x), structure_loss(y, x), edge_loss(y, x)
        # Colour is the mean of a patch; without a term of its own it is learnt long after the outlines.
        colour = F.l1_loss(F.avg_pool2d(y, 8), F.avg_pool2d(x, 8))
        prior = (z**2).mean()
        total = (
            2 * pixel
            + config.structure * structure
            + config.edge * edge
            + config.colour * colour
            + config.prior * prior
        )
        return {"loss": total, "l1": pixel, "1-ssim": structure, "colour": colour, "z^2": prior}

    vae = fit(
        tiny.build_vae(), loss, steps(rows, loop.seed, loop.batch), loop, runs / "vae", "vae", config, rows.tokens
    )
    standardise(vae, rows)
    return vae


@torch.no_grad()
def standardise(vae: TinyAutoencoder, rows: Rows) -> None:
    """Sets the buffers that give each latent channel zero mean and unit deviation over the training scenes."""
    z = torch.cat([vae.encode(rows.pictures(rows.draw(99, step, 64)[0])) for step in range(16)])
    vae.mean.copy_(z.mean(dim=(0, 2, 3)).view_as(vae.mean))
    vae.std.copy_(z.std(dim=(0, 2, 3)).view_as(vae.std))
