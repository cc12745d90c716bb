"""Figures of merit, on torchmetrics where it has them, so that no two places compute one figure differently.

Images are [B, 3, H, W] in 0..1.
"""

from __future__ import annotations

import math
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


def retrieval(image: torch.Tensor, text: torch.Tensor) -> float:
    """R@1: the share of images [n, D] whose own text [n, D] is the nearest of the n (features normalised)."""
    return float(((image @ text.T).argmax(dim=1) == torch.arange(len(image), device=image.device)).float().mean())


def frechet_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Frechet distance between Gaussians fitted to feature rows a [n, D] and b [m, D] (Heusel et al. 2017).

    FID where the features are Inception's. On other features the caller's name for it must say so.
    """
    a, b = a.double(), b.double()
    mean = (a.mean(dim=0) - b.mean(dim=0)).square().sum()
    cov_a, cov_b = torch.cov(a.T), torch.cov(b.T)
    # tr((A B)^(1/2)) is the sum of the square roots of the eigenvalues of AB.
    roots = torch.linalg.eigvals(cov_a @ cov_b).real.clamp(min=0).sqrt().sum()
    return float(mean + cov_a.trace() + cov_b.trace() - 2 * roots)


@torch.no_grad()
def clip_features(scorer: Any, images: torch.Tensor, batch: int = 64) -> torch.Tensor:
    """[n, D] normalised image features of a `clip.ClipScorer`."""
    return torch.cat([F.normalize(scorer.image_features(part), dim=-1) for part in images.split(batch)])
