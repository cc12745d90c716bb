"""The tiny UNet: denoising in the VAE's latents, conditioned on the frozen CLIP text tower."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ..models import tiny
from ..models.diffusion.sampling import sd_sigmas
from .batches import Rows, steps
from .data.pack import PackSpec, make_pack
from .loop import LoopConfig, Losses, fit


@dataclass
class UnetConfig:
    """start: the bundled model to go on from, for a second round with a fresh optimiser and schedule; else none."""

    n: int = 40000
    photos: float = 0.04
    variants: int = 4
    empty: float = 0.12
    min_snr: float = 5.0
    data_seed: int = 41
    start: str = ""


@torch.no_grad()
def encode(vae: nn.Module, rows: Rows, batch: int = 256) -> torch.Tensor:
    """[2, N, C, h, w] half: every row's latent, plain and mirrored."""
    out = []
    for flip in (False, True):
        parts = []
        for i in range(0, len(rows), batch):
            x = rows.pictures(torch.arange(i, min(i + batch, len(rows)), device=rows.device))
            parts.append(vae.encode(x.flip(-1) if flip else x).half())
        out.append(torch.cat(parts))
    return torch.stack(out)


def mirrored(tokens: torch.Tensor) -> torch.Tensor:
    """Swaps the words left and right in token ids: what a mirrored scene's caption says."""
    from ..models.diffusion.text import bpe

    left, right = bpe().encode("left")[0], bpe().encode("right")[0]
    return torch.where(tokens == left, right, torch.where(tokens == right, left, tokens))


def train(config: UnetConfig, loop: LoopConfig, runs: Path, device: str, vae: nn.Module, clip: nn.Module,
          name: str) -> nn.Module:
    """Trains the UNet to predict the noise (SD's schedule) with min-SNR weighting (Hang et al. 2023)."""
    spec = PackSpec("train", config.n, emotions="prior", photos=config.photos, variants=config.variants,
                    seed=config.data_seed)
    rows = Rows([make_pack(spec, runs / "packs")], device)
    latents = encode(vae, rows)
    rows.images = None
    sigmas = sd_sigmas().to(device)
    tower = tiny.text_tower(clip)
    empty = torch.tensor(empty_tokens(), device=device)

    def loss(unet: nn.Module, batch: tuple, step: int) -> Losses:
        index, variant = batch
        n = len(index)
        flip = torch.rand(n, device=device) < 0.5
        x0 = latents[flip.long(), index].float()
        tokens = rows.tokens[index, variant]
        tokens = torch.where(flip[:, None], mirrored(tokens), tokens)
        tokens = torch.where((torch.rand(n, device=device) < config.empty)[:, None], empty, tokens)
        with torch.no_grad():
            context, _ = tower(tokens)
        t = torch.randint(len(sigmas), (n,), device=device)
        s = sigmas[t].view(-1, 1, 1, 1)
        noise = torch.randn_like(x0)
        out = unet((x0 + s * noise) / (s**2 + 1) ** 0.5, t, context).sample.float()
        error = ((out - noise) ** 2).mean(dim=(1, 2, 3))
        snr = sigmas[t] ** -2
        weight = snr.clamp(max=config.min_snr) / snr
        return {"loss": (weight * error).mean(), "mse": error.mean()}

    unet = tiny.build_unet()
    if config.start:
        tiny.load(config.start, unet)
    return fit(unet, loss, steps(rows, loop.seed, loop.batch), loop, runs / name, name)


def empty_tokens() -> list[int]:
    """The 77 ids of the empty prompt."""
    from ..models.diffusion.text import tokenize

    return [i for i, _ in tokenize("")[0]]
