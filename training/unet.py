"""The tiny UNet: denoising in the VAE's latents, conditioned on the frozen CLIP text tower."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from ..models import files, tiny
from ..models.diffusion.sampling import sd_sigmas, sigma_to_timestep
from .batches import Rows, steps
from .data.pack import PackSpec, make_pack
from .loop import LoopConfig, Losses, fit


@dataclass
class UnetConfig:
    """start: the bundled model to go on from, for a second round with a fresh optimiser and schedule; else none.
    level, spread: mean and deviation of the logarithm of the noise level (Karras et al. 2022, table 1, moved by ln 2
    because these latents have deviation 1 where their images have 0.5)."""

    n: int = 40000
    photos: float = 0.04
    variants: int = 4
    empty: float = 0.12
    level: float = -0.5
    spread: float = 1.3
    data_seed: int = 41
    start: str = ""


@torch.no_grad()
def encode(vae: nn.Module, rows: Rows, cache: Path, batch: int = 64) -> torch.Tensor:
    """[N, C, h, w] half: every row's latent. Kept in `cache`, one file for these pictures and this state of the VAE: it
    is the same work for every round and every process."""
    from accelerate import PartialState

    digest = hashlib.sha256(rows.images[::97].cpu().numpy().tobytes())  # every 97th picture tells the sets apart
    for value in vae.state_dict().values():
        digest.update(value.cpu().numpy().tobytes())
    path = cache / f"latents-{len(rows)}-{digest.hexdigest()[:12]}.safetensors"
    with PartialState().main_process_first():  # the others find it done
        if not path.is_file():
            parts = []
            for i in tqdm(range(0, len(rows), batch), desc="latents", mininterval=5):
                index = torch.arange(i, min(i + batch, len(rows)), device=rows.device)
                parts.append(vae.encode(rows.pictures(index)).half().cpu())
            files.save_safetensors(path, {"latents": torch.cat(parts)}, {})
    return files.load_safetensors(path)[0]["latents"].to(rows.device)


def train(config: UnetConfig, loop: LoopConfig, runs: Path, device: str, vae: nn.Module, clip: nn.Module,
          name: str) -> nn.Module:
    """Trains the UNet to predict v (Salimans and Ho 2022) over SD's schedule. An hour of training leaves errors, and
    predicting the noise would multiply them by sigma, up to 14, where layout and colour are decided; v does not."""
    spec = PackSpec("train", config.n, emotions="prior", photos=config.photos, variants=config.variants,
                    seed=config.data_seed)
    rows = Rows([make_pack(spec, runs / "packs")], device)
    latents = encode(vae, rows, runs)
    rows.images = None
    sigmas = sd_sigmas().to(device)
    tower = tiny.text_tower(clip)
    empty = torch.tensor(empty_tokens(), device=device)

    def loss(unet: nn.Module, batch: tuple, step: int) -> Losses:
        index, variant = batch
        n = len(index)
        x0 = latents[index].float()
        tokens = rows.tokens[index, variant]
        tokens = torch.where((torch.rand(n, device=device) < config.empty)[:, None], empty, tokens)
        with torch.no_grad():
            context, _ = tower(tokens)
        level = (config.level + config.spread * torch.randn(n, device=device)).exp().clamp(sigmas[0], sigmas[-1])
        t = sigma_to_timestep(level, sigmas)
        s = sigmas[t].view(-1, 1, 1, 1)
        noise = torch.randn_like(x0)
        scale = (s**2 + 1) ** 0.5
        out = unet((x0 + s * noise) / scale, t, context).sample.float()
        return {"loss": ((out - (noise - s * x0) / scale) ** 2).mean()}

    unet = tiny.build_unet()
    if config.start:
        tiny.load(config.start, unet)
    return fit(unet, loss, steps(rows, loop.seed, loop.batch), loop, runs / name, name)


def empty_tokens() -> list[int]:
    """The 77 ids of the empty prompt."""
    from ..models.diffusion.text import tokenize

    return [i for i, _ in tokenize("")[0]]
