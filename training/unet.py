"""The tiny UNet: denoising in the VAE's latents, conditioned on the frozen CLIP text tower."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from ..models import files, tiny
from ..models.diffusion.sampling import sd_sigmas, sigma_to_timestep
from ..models.diffusion.tiny_autoencoder import THUMBNAIL, TinyAutoencoder
from ..models.diffusion.towers import OpenClipTower
from .batches import Rows, steps
from .data.pack import PackSpec, make_pack
from .grounding import Maps, token_loss
from .loop import LoopConfig, Losses, fit


@dataclass
class UnetConfig:
    """start: the bundled model to go on from, for a second round with a fresh optimiser and schedule; else none.
    texts: how many of a row's caption variants are used; their contexts are computed once. level, spread: mean and
    deviation of the logarithm of the noise level (Karras et al. 2022, table 1, moved by ln 2 because these latents
    have deviation 1 where their images have 0.5). grounding: the weight of `grounding.token_loss`; objects: how many
    of a scene's it is taught. thumbnail: how much an error in the thumbnail's channels weighs against one in the
    learned channels, which are mostly noise that nobody could predict."""

    n: int = 40000
    photos: float = 0.04
    variants: int = 4
    texts: int = 2
    thumbnail: float = 3.0
    empty: float = 0.12
    level: float = -0.5
    spread: float = 1.3
    data_seed: int = 41
    start: str = ""
    grounding: float = 0.0
    objects: int = 6


@torch.no_grad()
def encode(vae: TinyAutoencoder, rows: Rows, cache: Path, batch: int = 64) -> torch.Tensor:
    """[N, C, h, w] half: every row's latent. Kept in `cache`, one file for these pictures and this state of the VAE: it
    is the same work for every round and every process."""
    assert rows.images is not None
    every = _digest(rows.images[::97], vae)  # every 97th picture tells the sets apart
    path = cache / f"latents-{len(rows)}-{every}.npy"

    def make(i: int) -> torch.Tensor:
        return vae.encode(rows.pictures(torch.arange(i, min(i + batch, len(rows)), device=rows.device)))

    size = (tiny.LATENT_CHANNELS, *(s // vae.factor for s in rows.images.shape[-2:]))
    return torch.from_numpy(np.array(_kept(path, make, (len(rows), *size), batch))).to(rows.device)


@torch.no_grad()
def encode_texts(clip: nn.Module, tokens: torch.Tensor, cache: Path, batch: int = 64) -> np.ndarray:
    """tokens [N, 77] -> [N, 77, D] half, memory-mapped from a file of `cache` for these tokens and this CLIP."""
    path = cache / f"contexts-{len(tokens)}-{_digest(tokens[::97], clip)}.npy"
    tower = OpenClipTower(clip)
    return _kept(path, lambda i: tower(tokens[i : i + batch])[0], (*tokens.shape, tiny.CONTEXT_WIDTH), batch)


def _digest(sample: torch.Tensor, network: nn.Module) -> str:
    digest = hashlib.sha256(sample.cpu().numpy().tobytes())
    for value in network.state_dict().values():
        digest.update(value.cpu().numpy().tobytes())
    return digest.hexdigest()[:12]


def _kept(path: Path, make: Callable[[int], torch.Tensor], shape: tuple[int, ...], batch: int) -> np.ndarray:
    """The array of a file, made first where it is not there: `make(i)` gives the rows from i on."""
    from accelerate import PartialState

    def write(target: Path) -> None:
        array = np.lib.format.open_memmap(target, mode="w+", dtype=np.float16, shape=shape)
        for i in tqdm(range(0, shape[0], batch), desc=path.name.split("-")[0], mininterval=5):
            array[i : i + batch] = make(i).half().cpu().numpy()
        array.flush()

    with PartialState().main_process_first():  # the others find it done
        if not path.is_file():
            files.write_atomically(path, write)
    return np.load(path, mmap_mode="r")


def train(
    config: UnetConfig, loop: LoopConfig, runs: Path, device: str, vae: TinyAutoencoder, clip: nn.Module, name: str
) -> nn.Module:
    """Trains the UNet to predict v (Salimans and Ho 2022) over SD's schedule. An hour of training leaves errors, and
    predicting the noise would multiply them by sigma, up to 14, where layout and colour are decided; v does not."""
    spec = PackSpec(
        "train",
        config.n,
        emotions="prior",
        photos=config.photos,
        variants=config.variants,
        seed=config.data_seed,
        objects=config.objects if config.grounding else 0,
    )
    pack = make_pack(spec, runs / "packs")
    rows = Rows([pack], device)
    latents = encode(vae, rows, runs)
    rows.images, rows.tokens = None, rows.tokens[:, : config.texts]
    captions = torch.cat([rows.tokens.flatten(0, 1), torch.tensor([empty_tokens()], device=device)])
    contexts = encode_texts(clip, captions, runs)
    sigmas = sd_sigmas().to(device)
    weight = torch.ones(latents.shape[1], device=device)
    weight[:THUMBNAIL] = config.thumbnail
    weight = (weight / weight.mean()).view(1, -1, 1, 1)

    def loss(unet: nn.Module, batch: tuple, step: int) -> Losses:
        index, variant = batch
        n = len(index)
        x0 = latents[index].float()
        caption = torch.where(
            torch.rand(n, device=device) < config.empty, len(captions) - 1, index * config.texts + variant
        )
        context = torch.from_numpy(contexts[caption.cpu().numpy()]).to(device).float()
        level = (config.level + config.spread * torch.randn(n, device=device)).exp().clamp(sigmas[0], sigmas[-1])
        t = sigma_to_timestep(level, sigmas)
        s = sigmas[t].view(-1, 1, 1, 1)
        noise = torch.randn_like(x0)
        scale = (s**2 + 1) ** 0.5
        if maps:
            maps.clear()
        out = unet((x0 + s * noise) / scale, t, context).sample.float()
        error = (out - (noise - s * x0) / scale) ** 2
        total, parts = (weight * error).mean(), {"thumbnail": error[:, :THUMBNAIL].mean()}
        if maps:
            assert pack.places is not None and pack.masks is not None  # `spec.objects` asked for them
            at, said = index.cpu().numpy(), caption.cpu().numpy() < len(captions) - 1
            places = np.where(said[:, None], pack.places[at, variant.cpu().numpy()], -1)
            parts["grounding"] = token_loss(
                maps.kept,
                torch.from_numpy(pack.masks[at] / np.float32(255)).to(device),
                torch.from_numpy(places).long().to(device),
            )
            total = total + config.grounding * parts["grounding"]
        return {"loss": total, **parts}

    unet = tiny.build_unet()
    maps = Maps(unet) if config.grounding else None
    if config.start:
        tiny.load(config.start, unet)
    return fit(
        unet,
        loss,
        steps(rows, loop.seed, loop.batch),
        loop,
        runs / name,
        name,
        config,
        rows.tokens,
        vae,
        clip,
        unet if config.start else "",
    )


def empty_tokens() -> list[int]:
    """The 77 ids of the empty prompt."""
    from ..models.diffusion.text import tokenize

    return [i for i, _ in tokenize("")[0]]
