"""What a transfer did to a photograph: to its edges, to its flat areas, and to what people feel by a judge."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from ..models import metrics
from ..models.gram import gram
from ..models.networks.backbones import feature_maps, folded, load_backbone
from ..models.tensors.luminance import luminance
from .photograph_pairs import NETWORK

STRONG, DEGREES = 0.1, 15.0
"""Of a picture's pixels those whose luminance gradient is strongest; how far its direction may turn."""

WINDOW, FLAT = 7, 1.0
"""Pixels of the window of a local deviation; grey levels under which a place is flat."""


def _gradient(image: torch.Tensor) -> torch.Tensor:
    """[2, H, W]: Scharr's of luminance."""
    kernel = torch.tensor([[-3.0, 0.0, 3.0], [-10.0, 0.0, 10.0], [-3.0, 0.0, 3.0]])[None, None] / 32
    light = F.pad(luminance(image), (1, 1, 1, 1), mode="replicate")
    return torch.cat([F.conv2d(light, kernel), F.conv2d(light, kernel.mT)])[:, 0]


def edge_agreement(source: torch.Tensor, after: torch.Tensor) -> float:
    """The share of the strong edges of `source` [1, 3, H, W] whose direction `after` keeps. A light edge that became a
    dark one has turned by 180 degrees."""
    a, b = _gradient(source), _gradient(after)
    size = a.norm(dim=0)
    strong = size >= torch.quantile(size.flatten()[:: max(1, size.numel() // 1_000_000)], 1 - STRONG)
    cosine = (a * b).sum(dim=0) / (size * b.norm(dim=0)).clamp(min=1e-9)
    return float((cosine[strong] >= np.cos(np.radians(DEGREES))).float().mean())


def _deviation(image: torch.Tensor) -> torch.Tensor:
    """[H, W]: the deviation of luminance in grey levels, in a window around each pixel."""
    light = F.pad(luminance(image) * 255, (WINDOW // 2,) * 4, mode="reflect").double()
    mean = F.avg_pool2d(light, WINDOW, 1)
    return (F.avg_pool2d(light * light, WINDOW, 1) - mean * mean).clamp(min=0).sqrt()[0, 0]


def flat_excess(source: torch.Tensor, after: torch.Tensor) -> float:
    """Grey levels of deviation that a change adds where the source is flat: the 95th percentile over those places,
    since a stain is small. Not a number where nothing is flat."""
    before = _deviation(source)
    flat = before < FLAT
    if int(flat.sum()) < 100:
        return float("nan")
    return float(np.quantile((_deviation(after) - before)[flat].clamp(min=0).numpy(), 0.95))


@lru_cache(maxsize=1)
def _network() -> Any:
    return folded(load_backbone(NETWORK))


@torch.no_grad()
def gram_loss(image: torch.Tensor, reference: torch.Tensor) -> float:
    """The paper's equation 3 between two pictures at their own sizes, by the network that every transfer used."""
    maps = (feature_maps(_network(), x) for x in (image, reference))
    return float(torch.stack([F.mse_loss(gram(a), gram(b)) for a, b in zip(*maps)]).mean())


def change(source: torch.Tensor, after: torch.Tensor) -> float:
    """Grey levels by which a pixel changes on average."""
    return 255 * float((after - source).abs().mean())


def rank(wanted: Sequence[float], moved: Sequence[float], groups: Sequence[int], draws: int = 1000) -> np.ndarray:
    """[1 + draws]: Spearman's correlation of pairs, then the same of bootstrap samples drawn by group (a photograph's
    pairs go together). The same draws for every method, so that rows may be subtracted."""
    a, b, g = np.asarray(wanted), np.asarray(moved), np.asarray(groups)
    members = [np.flatnonzero(g == k) for k in np.unique(g)]
    rng = np.random.default_rng(0)
    samples = [np.arange(len(a))]
    for _ in range(draws):
        samples.append(np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))]))
    return np.array([metrics.rank_correlation(a[s].tolist(), b[s].tolist()) for s in samples])


def interval(values: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of what `rank` gives, or of a difference of two."""
    low, high = np.quantile(values[1:], (0.025, 0.975))
    return float(low), float(high)
