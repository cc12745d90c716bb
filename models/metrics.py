"""Figures of merit, on torchmetrics and scipy where they have them, so that no two places compute one figure
differently.

Images are [B, 3, H, W] in 0..1; features are rows [n, D], normalised where it says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F


def accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of rows of logits [B, 8] whose largest entry is the label [B]."""
    return float((logits.argmax(dim=-1) == labels).float().mean())


def wilson_interval(share: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """The Wilson score interval (95 % by default) of a share observed in n trials."""
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def ssim(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """[B] structural similarity (Wang et al. 2004; Gaussian window 11, sigma 1.5), by torchmetrics."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    return structural_similarity_index_measure(a, b, data_range=1.0, reduction="none")


def retrieved(image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """[n] bool: whether an image's own text is the nearest of the n, of features [n, D], normalised. Its mean is
    R@1."""
    return (image @ text.T).argmax(dim=1) == torch.arange(len(image), device=image.device)


def frechet_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Frechet distance between Gaussians fitted to feature rows a [n, D] and b [m, D] (Heusel et al. 2017).

    FID where the features are Inception's. On other features the caller's name for it must say so. ValueError for fewer
    than two rows, which have no covariance.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(f"The Frechet distance takes two rows of features at least, got {len(a)} and {len(b)}.")
    a, b = a.cpu().double(), b.cpu().double()
    mean = (a.mean(dim=0) - b.mean(dim=0)).square().sum()
    cov_a, cov_b = torch.cov(a.T), torch.cov(b.T)
    # tr((A B)^(1/2)) is the sum of the square roots of the eigenvalues of AB.
    roots = torch.linalg.eigvals(cov_a @ cov_b).real.clamp(min=0).sqrt().sum()
    return float(mean + cov_a.trace() + cov_b.trace() - 2 * roots)


def kernel_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Squared maximum mean discrepancy of normalised feature rows a [n, D] and b [n, D] under the kernel
    (cosine + 1)^3, unbiased: KID (Binkowski et al. 2018) where the features are Inception's. It may be slightly
    negative. ValueError for fewer than two rows or sets of different sizes."""
    from torchmetrics.image.kid import poly_mmd

    if len(a) != len(b) or len(a) < 2:
        raise ValueError(f"The kernel distance compares sets of one size, got {len(a)} and {len(b)}.")
    return float(poly_mmd(a.cpu().double(), b.cpu().double(), degree=3, gamma=1.0, coef=1.0))


def semantic_diversity(features: torch.Tensor, labels: torch.Tensor) -> float:
    """The variance of normalised feature rows [n, D] inside a class, averaged over the classes of labels [n]: the mean
    squared distance to the class's mean (MUSE figure 4, "averaged intra-class variance of CLIP features")."""
    groups = [features[labels == k] for k in labels.unique()]
    return float(torch.stack([(g - g.mean(dim=0)).square().sum(dim=1).mean() for g in groups]).mean())


def mean_interval(values: torch.Tensor, z: float = 1.96) -> tuple[float, float]:
    """The normal interval (95 % by default) of the mean of values [n]."""
    half = z * float(values.cpu().double().std()) / math.sqrt(len(values))
    mean = float(values.cpu().double().mean())
    return mean - half, mean + half


def jackknife_interval(
    statistic: Callable[..., float],
    *rows: torch.Tensor,
    number: torch.Tensor | None = None,
    groups: int = 32,
    z: float = 1.96,
) -> tuple[float, float]:
    """The interval (95 % by default) of a statistic of rows [n, ..], by the delete-a-group jackknife (Efron 1982): for
    statistics that are not a mean, or that a bootstrap's repeated rows would bias, such as a kernel distance. Rows of
    one `number` [n] are deleted together (default: each by itself)."""
    number = torch.arange(len(rows[0])) if number is None else number
    groups = min(groups, len(number.unique()))
    number, value = number % groups, statistic(*rows)
    left = torch.tensor([statistic(*(r[number != k] for r in rows)) for k in range(groups)], dtype=torch.float64)
    half = z * math.sqrt((groups - 1) / groups * float((left - left.mean()).square().sum()))
    return value - half, value + half


def rank_correlation(a: list[float], b: list[float]) -> float:
    """Spearman's: how monotonic b is in a, -1..1. 0 where b is constant."""
    from scipy.stats import spearmanr

    return 0.0 if len(set(b)) == 1 else float(spearmanr(a, b).statistic)


@torch.no_grad()
def clip_features(scorer: Any, images: torch.Tensor, batch: int = 64) -> torch.Tensor:
    """[n, D] normalised image features of a `clip.ClipScorer`."""
    return torch.cat([F.normalize(scorer.image_features(part), dim=-1) for part in images.split(batch)])


def psnr(a: torch.Tensor, b: torch.Tensor, where: torch.Tensor | None = None) -> torch.Tensor:
    """[B] peak signal-to-noise ratio in dB over the pixels of `where` [B, 1, H, W] bool (None: all); 100 for equal
    ones."""
    return -10 * mean_square(a, b, where).clamp(min=1e-10).log10()


def mean_square(a: torch.Tensor, b: torch.Tensor, where: torch.Tensor | None = None) -> torch.Tensor:
    """[B] mean squared difference over the pixels of `where` [B, 1, H, W] bool (None: all); 0 where there are none."""
    square = (a - b).square()
    if where is None:
        return square.mean(dim=(1, 2, 3))
    inside = where.expand_as(square)
    return (square * inside).sum(dim=(1, 2, 3)) / inside.sum(dim=(1, 2, 3)).clamp(min=1)


def structure_distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """[B] distance of the self-similarities of two feature maps [B, C, h, w]: how differently the places of an image
    relate to one another (Tumanyan et al. 2022, on DINO's keys; here on features of the caller's choice)."""
    similar = lambda x: (lambda n: n.transpose(1, 2) @ n)(F.normalize(x.flatten(2), dim=1))
    return (similar(a) - similar(b)).square().mean(dim=(1, 2))
