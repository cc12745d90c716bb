"""The adversary of stage one (equations 11 to 14): an eight-class judge of vectors, real or from a codebook."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ..emotions import MIKELS


class Discriminator(nn.Module):
    """Vectors [..., W] -> logits [..., 8]: which emotion a real image feature belongs to."""

    def __init__(self, width: int = 1024, hidden: int = 512):
        super().__init__()
        self.net = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, hidden),
            nn.LeakyReLU(0.2),
            nn.Dropout(0.1),
            nn.Linear(hidden, hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(hidden, len(MIKELS)),
        )

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return self.net(vectors)


def fake_label(emotion: torch.Tensor) -> torch.Tensor:
    """emotion [B] -> [B, 8]: uniform over the seven others. (The paper names this vector without its values.)"""
    other = torch.full((len(emotion), len(MIKELS)), 1.0 / (len(MIKELS) - 1), device=emotion.device)
    return other.scatter(1, emotion[:, None], 0.0)


def _cross_entropy(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """logits [B, S, 8], label [B, 8] -> mean over B and S."""
    return -(label[:, None] * F.log_softmax(logits, dim=-1)).sum(dim=-1).mean()


def real_label(emotion: torch.Tensor) -> torch.Tensor:
    """emotion [B] -> [B, 8]: one-hot (y_real of equation 11)."""
    return F.one_hot(emotion, len(MIKELS)).float()


def discriminator_loss(real: torch.Tensor, fake: torch.Tensor, emotion: torch.Tensor) -> torch.Tensor:
    """Equations 11 to 13: logits [B, S, 8] of real image features and of codes, whose gradients stop before the
    generator."""
    return _cross_entropy(real, real_label(emotion)) + _cross_entropy(fake, fake_label(emotion))


def generator_loss(
    fake: torch.Tensor,
    emotion: torch.Tensor,
    quantisation: torch.Tensor,
    dispersion: torch.Tensor,
    adversary: float = 1.0,
) -> torch.Tensor:
    """Equation 14: the discriminator's logits [B, S, 8] of codes should name the codes' emotion. The printed equation
    lacks y_real, so that a uniform answer would minimise it, and the quantisation's terms, without which entries would
    never change. `adversary` weighs the first term; 0 is the ablation without it."""
    return adversary * _cross_entropy(fake, real_label(emotion)) + quantisation - dispersion
