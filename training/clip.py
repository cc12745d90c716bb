"""The tiny CLIPs: contrast between scenes and their captions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ..models import tiny
from ..models.diffusion.towers import OpenClipTower
from ..models.networks.clip import MEAN, STD
from ..models.networks.views import view
from .batches import Rows, steps
from .data.pack import PackSpec, make_pack
from .loop import LoopConfig, Losses, fit


@dataclass
class ClipConfig:
    """length: tokens of a caption that training reads; the rest is padding, which causal attention cannot see."""

    n: int = 40000
    captions: str = "content"
    emotions: str = "prior"
    photos: float = 0.04
    variants: int = 4
    unknown: float = 0.03
    length: int = 48
    data_seed: int = 41


def preprocess(images: torch.Tensor) -> torch.Tensor:
    """[B, 3, S, S] in 0..1 -> CLIP's normalisation."""
    mean, std = (images.new_tensor(t).view(1, 3, 1, 1) for t in (MEAN, STD))
    return (images - mean) / std


def drop_words(tokens: torch.Tensor, share: float) -> torch.Tensor:
    """Turns a share of the words into the unknown one, which unseen words share after training."""
    words = (tokens < 49406) & (torch.rand(tokens.shape, device=tokens.device) < share)
    return torch.where(words, torch.full_like(tokens, tiny.UNKNOWN_TOKEN), tokens)


def train(config: ClipConfig, loop: LoopConfig, runs: Path, device: str, name: str) -> tuple[nn.Module, torch.Tensor]:
    """Trains an open_clip model by its symmetric contrast; returns it and the token ids it has seen."""
    spec = PackSpec(
        "train",
        config.n,
        emotions=config.emotions,
        captions=config.captions,
        photos=config.photos,
        variants=config.variants,
        seed=config.data_seed,
    )
    rows = Rows([make_pack(spec, runs / "packs")], device)

    def loss(clip: Any, batch: tuple, step: int) -> Losses:
        index, variant = batch
        images = preprocess(view(rows.pictures(index), strength=0.5, each=True))
        tokens = drop_words(rows.tokens[index, variant], config.unknown)
        image = F.normalize(clip.encode_image(images), dim=-1).float()
        text = F.normalize(OpenClipTower(clip)(tokens[:, : config.length])[1], dim=-1).float()
        scale = clip.logit_scale.exp().clamp(max=100)
        logits = scale * image @ text.T
        # Rows with one caption are positives of each other: a photograph's crops share theirs.
        same = (rows.tokens[index, variant][:, None] == rows.tokens[index, variant][None]).all(dim=-1).float()
        target = same / same.sum(dim=1, keepdim=True)
        total = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        hit = (logits.argmax(dim=1) == torch.arange(len(logits), device=logits.device)).float().mean()
        return {"loss": total, "hit": hit, "scale": scale}

    clip = fit(
        tiny.build_clip(), loss, steps(rows, loop.seed, loop.batch), loop, runs / name, name, config, rows.tokens
    )
    return clip, rows.tokens.unique().cpu()
