"""EmoLat's rival: one image optimised against the patch CLIP directional loss and a content loss, as in CLIPstyler
(Kwon and Ye 2022). As there, what moves is a small network's weights: pixels moved one by one become noise that CLIP
alone takes for an emotion.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ..models import host
from ..models.emolat.losses import content_loss, patch_clip_loss
from ..models.networks.backbones import load_backbone, taps
from ..models.networks.scorers import load_scorer
from . import measure

CODE = ("benchmarks.clipstyler:clipstyler", "benchmarks.emolat:picture", "benchmarks.emolat:tasks")


@dataclass(frozen=True)
class Settings:
    """sentence says the emotions in words; patches crops of this size (of a side) weigh crops against the whole image,
    content weighs the features of relu4_4, variation the result's total variation. crops, content and size are
    CLIPstyler's; steps, patches and variation are ours, to fit hours of one core. Rate and sentence were chosen on
    validation scenes (docs/results/emolat.md)."""

    steps: int = 100
    rate: float = 5e-3
    content: float = 0.3
    sentence: str = "an image of {}"
    crops: float = 18.0
    patches: int = 8
    size: float = 0.25
    variation: float = 0.1


class StyleNet(nn.Module):
    """The network that is fitted to one image: three scales with skips. [1, 3, H, W] -> the same, in 0..1."""

    def __init__(self, width: int = 16):
        super().__init__()
        block = lambda a, b, step=1: nn.Sequential(
            nn.Conv2d(a, b, 3, step, 1, padding_mode="reflect"), nn.InstanceNorm2d(b, affine=True), nn.LeakyReLU(0.2)
        )
        self.enter, self.down, self.lower = block(3, width), block(width, 2 * width, 2), block(2 * width, 4 * width, 2)
        self.deep = block(4 * width, 4 * width)
        self.up, self.top = block(6 * width, 2 * width), block(3 * width, width)
        self.leave = nn.Conv2d(width, 3, 1)
        nn.init.zeros_(self.leave.weight)  # at first the image itself
        if self.leave.bias is not None:
            nn.init.zeros_(self.leave.bias)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        a = self.enter(image)
        b = self.down(a)
        c = self.deep(self.lower(b))
        bigger = lambda x: F.interpolate(x, scale_factor=2, mode="bilinear")
        x = self.up(torch.cat([bigger(c), b], dim=1))
        x = self.top(torch.cat([bigger(x), a], dim=1))
        return (image + self.leave(x)).clamp(0, 1)


Job = tuple[str, torch.Tensor, str, str, int]
"""A picture's name, the source [1, 3, H, W] in 0..1, its emotion, the target, a seed."""


@lru_cache(maxsize=1)
def _networks(device: str) -> tuple[Any, Any]:
    return load_scorer("tiny").to(device), taps(load_backbone("tiny-vgg").to(device), ("relu4_4",))


def clipstyler(
    image: torch.Tensor, source: str, target: str, seed: int, settings: Settings = Settings()
) -> torch.Tensor:
    """image [1, 3, H, W] in 0..1 of an emotion `source` -> the same, repainted towards `target`."""
    device = host.current().device
    scorer, maps = _networks(device)
    image = image.to(device)
    torch.manual_seed(seed)
    encode = lambda x: F.normalize(scorer.image_features(x), dim=-1)
    with torch.no_grad():
        text, source_text = (scorer.text_features([settings.sentence.format(word)])[:1] for word in (target, source))
        source_maps = maps(image)
    net = StyleNet().to(device)
    optimizer = torch.optim.Adam(net.parameters(), lr=settings.rate)
    for _ in range(settings.steps):
        optimizer.zero_grad()
        x = net(image)
        crops = patch_clip_loss(encode, x, image, text, source_text, patches=settings.patches, size=settings.size)
        whole = patch_clip_loss(
            encode, x, image, text, source_text, patches=1, size=1.0, threshold=0.0, perspective=0.0
        )
        variation = x.diff(dim=-1).abs().mean() + x.diff(dim=-2).abs().mean()
        (
            settings.crops * crops
            + whole
            + settings.content * content_loss(maps(x), source_maps)
            + settings.variation * variation
        ).backward()
        optimizer.step()
    with torch.no_grad():
        return net(image).cpu()


def _make(folder: Path, job: Job) -> None:
    name, image, source, target, seed = job
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    measure.save_picture(folder / f"{name}.png", clipstyler(image, source, target, seed)[0].permute(1, 2, 0).numpy())


def make_all(folder: Path, jobs: Sequence[Job]) -> torch.Tensor:
    """[n, 3, H, W]: the jobs' results, 8-bit, kept image by image; one process a core makes what is missing."""
    from tqdm import tqdm

    folder.mkdir(parents=True, exist_ok=True)
    missing = [job for job in jobs if not (folder / f"{job[0]}.png").is_file()]
    workers = 1 if torch.cuda.is_available() else host.cores()
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for _ in tqdm(
            pool.map(_make, [folder] * len(missing), missing),
            total=len(missing),
            desc="CLIPstyler-like",
            disable=not missing,
        ):
            pass
    return torch.stack([measure.read_picture(folder / f"{job[0]}.png") for job in jobs])
