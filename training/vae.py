"""The tiny VAE: an SD-shaped autoencoder for 128 x 128 scenes and photographs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from ..models import tiny
from .batches import Rows, steps
from .data.pack import PackSpec, make_pack
from .loop import LoopConfig, Losses, fit


@dataclass
class VaeConfig:
    """crop: most steps see random crops of this side, since cost is by the pixel; the steps after `whole_from` of the
    run see whole images, a fourth as many, because group normalisation's statistics are those of what it sees."""

    n: int = 20000
    photos: float = 0.15
    data_seed: int = 31
    kl: float = 1e-5
    structure: float = 0.6
    edge: float = 0.5
    colour: float = 3.0
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
    return (F.l1_loss(a.diff(dim=-1), b.diff(dim=-1)) + F.l1_loss(a.diff(dim=-2), b.diff(dim=-2)))


def train(config: VaeConfig, loop: LoopConfig, runs: Path, device: str) -> nn.Module:
    """Trains the VAE and returns it with latents of zero mean and unit variance after SD's factor."""
    specs = [PackSpec("train", n, domain=domain, photos=config.photos, seed=config.data_seed, variants=1)
             for domain, n in (("a", config.n), ("b", config.n // 5))]
    rows = Rows([make_pack(s, runs / "packs") for s in specs], device)

    def loss(vae: nn.Module, batch: tuple, step: int) -> Losses:
        x = rows.pictures(batch[0]) * 2 - 1
        if step < config.whole_from * loop.steps:
            top, left = torch.randint(x.shape[-1] - config.crop + 1, (2,)).tolist()
            x = x[:, :, top:top + config.crop, left:left + config.crop]
        else:
            x = x[: max(1, len(x) // 4)]
        posterior = vae.encode(x).latent_dist
        y = vae.decode(posterior.sample()).sample.float()
        pixel, structure, edge = F.l1_loss(y, x), structure_loss(y / 2 + 0.5, x / 2 + 0.5), edge_loss(y, x)
        kl = posterior.kl().mean()
        # Colour is the mean of a patch; without a term of its own it is learnt long after the outlines.
        colour = F.l1_loss(F.avg_pool2d(y, 8), F.avg_pool2d(x, 8))
        total = (pixel + config.structure * structure + config.edge * edge + config.colour * colour
                 + config.kl * kl)
        return {"loss": total, "l1": pixel, "1-ssim": structure, "colour": colour, "kl": kl}

    vae = tiny.build_vae()
    with torch.no_grad():
        # Begin almost without noise in the latents: at unit noise nothing passes, and the first thousand steps go on
        # the encoder learning to shout over it.
        vae.quant_conv.bias[len(vae.quant_conv.bias) // 2:] = -6.0
    vae = fit(vae, loss, steps(rows, loop.seed, loop.batch), loop, runs / "vae", "vae")
    fold_statistics(vae, rows)
    return vae


@torch.no_grad()
def fold_statistics(vae: nn.Module, rows: Rows) -> None:
    """Moves each latent channel to zero mean and 1/0.18215 deviation inside the two 1 x 1 convolutions, so that
    SD's own factor and latent format fit this VAE exactly. Images do not change."""
    latents = []
    for step in range(16):
        batch, _ = rows.draw(99, step, 64)
        latents.append(vae.encode(rows.pictures(batch) * 2 - 1).latent_dist.mode().float())
    z = torch.cat(latents)
    mean, std = z.mean(dim=(0, 2, 3)), z.std(dim=(0, 2, 3))
    gain = 1 / (std * tiny.VAE["scaling_factor"])
    c = len(mean)
    out, back = vae.quant_conv, vae.post_quant_conv
    back.bias.add_((back.weight[:, :, 0, 0] @ mean))
    back.weight.div_(gain.view(1, c, 1, 1))
    out.weight[:c].mul_(gain.view(c, 1, 1, 1))
    out.bias[:c].sub_(mean).mul_(gain)
    out.bias[c:].add_(2 * gain.log())  # the log variance scales along
