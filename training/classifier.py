"""The tiny emotion classifiers, trained on scenes and on what a VAE makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from ..models.diffusion.tiny_autoencoder import TinyAutoencoder
from ..models.networks.classifiers import TINY
from ..models.networks.views import view
from .batches import Rows, steps
from .data.pack import PackSpec, make_pack
from .loop import LoopConfig, Losses, fit


@dataclass
class ClassifierConfig:
    n: int = 20000
    domain: str = "a"
    data_seed: int = 51
    smoothing: float = 0.05
    round_trip: float = 0.25


def train(
    config: ClassifierConfig, loop: LoopConfig, runs: Path, device: str, name: str, vae: TinyAutoencoder
) -> nn.Module:
    """Trains the classifier `name` of `classifiers.TINY` on uniformly drawn emotions. A share `round_trip` of the
    images has been through `vae` and back, because that is how a sampler's images look."""
    spec = PackSpec("train", config.n, domain=config.domain, seed=config.data_seed, variants=1)
    rows = Rows([make_pack(spec, runs / "packs")], device)
    through_vae(rows, vae, int(config.round_trip * len(rows)))

    def loss(model: nn.Module, batch: tuple, step: int) -> Losses:
        index, _ = batch
        logits = model(view(rows.pictures(index), each=True)).float()
        label = rows.emotions[index]
        total = F.cross_entropy(logits, label, label_smoothing=config.smoothing)
        return {"loss": total, "accuracy": (logits.argmax(dim=1) == label).float().mean()}

    return fit(
        TINY[name](), loss, steps(rows, loop.seed, loop.batch), loop, runs / name, name, config, rows.tokens, vae
    )


@torch.no_grad()
def through_vae(rows: Rows, vae: TinyAutoencoder, n: int) -> None:
    """Replaces the first n images by what the VAE gives back of them, once: doing it in every step would cost more
    than the training itself."""
    assert rows.images is not None
    for start in range(0, n, 32):
        part = torch.arange(start, min(start + 32, n), device=rows.device)
        back = vae.decode(vae.encode(rows.pictures(part)))
        rows.images[part] = (back * 255).round().to(torch.uint8)
