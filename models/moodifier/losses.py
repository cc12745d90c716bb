"""MoodifyCLIP's losses (equations 1 to 5), each by itself. Features are normalised; `scale` is 1 / tau; means over
the batch."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F


def _both_ways(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of logits [..., n, n] along their last and their last but one dimension; target as logits, or
    [n]."""
    flat = lambda t: t.reshape(-1, t.shape[-1])
    turned = logits.transpose(-1, -2)
    back = target.transpose(-1, -2) if target.is_floating_point() else target
    aim = (lambda t: flat(t)) if target.is_floating_point() else (lambda t: t.expand(logits.shape[:-1]).reshape(-1))
    return (F.cross_entropy(flat(logits), aim(target)) + F.cross_entropy(flat(turned), aim(back))) / 2


def global_contrast(
    image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor | float, same: torch.Tensor | None = None
) -> torch.Tensor:
    """Equation 1 in both directions (InfoNCE): image and text [B, D]. `same` [B, B] bool marks pairs whose texts are
    equal; they share the positives, where the paper's captions are all different."""
    n = len(image)
    target = torch.arange(n, device=image.device)
    if same is not None:
        target = same.float() / same.sum(dim=1, keepdim=True)
    return _both_ways(scale * image @ text.T, target)


def regions(patches: torch.Tensor, stimuli: torch.Tensor, scale: torch.Tensor | float) -> torch.Tensor:
    """patches [B, M, D], stimuli [B, 3, D] -> [B, 3, D] normalised: each stimulus's share of the image.

    The paper's weights are not defined as printed: here w = softmax over the image's three stimuli of
    cos(patch, stimulus) / tau, so that stimuli compete for each patch.
    """
    weights = (scale * patches @ stimuli.transpose(1, 2)).softmax(dim=-1)
    return F.normalize(weights.transpose(1, 2) @ patches, dim=-1)


def fine_grained(region: torch.Tensor, stimuli: torch.Tensor, scale: torch.Tensor | float) -> torch.Tensor:
    """Equation 2 in both directions: the three stimuli [B, 3, D] of one image against its three regions [B, 3, D]. (Its
    second line misprints the negatives, which are texts.)"""
    logits = scale * region @ stimuli.transpose(1, 2)
    return _both_ways(logits, torch.arange(logits.shape[-1], device=logits.device))


def sinkhorn(cost: torch.Tensor, epsilon: float = 0.05, iterations: int = 5000) -> torch.Tensor:
    """Equations 3 and 4: cost [n, m] -> the transport plan [n, m] between uniform weights, summing to 1 (Cuturi
    2013). In the log domain, so that no epsilon overflows float32. Ends when rows and columns sum to their weights
    within 1e-6, or after `iterations`: a batch's costs take ten to a hundred at epsilon 0.05, and thousands at 0.01,
    where many are alike."""
    n, m = cost.shape
    k = -cost.float() / epsilon
    a, b = -math.log(n), -math.log(m)
    f, g = k.new_zeros(n), k.new_zeros(m)
    for i in range(iterations):
        rows = torch.logsumexp(k + g, dim=1)
        # The columns are exact once g is fitted; f + rows are the logarithms of what the rows sum to.
        if i and i % 10 == 0 and float(((f + rows).detach().exp() - 1 / n).abs().max()) < 1e-6:
            break
        f = a - rows
        g = b - torch.logsumexp(k + f[:, None], dim=0)
    return (k + f[:, None] + g).exp()


def optimal_transport(
    image: torch.Tensor,
    text: torch.Tensor,
    scale: torch.Tensor | float,
    epsilon: float = 0.05,
    same: torch.Tensor | None = None,
) -> torch.Tensor:
    """Equation 5's last term: cross-entropy of T * S with the identity, image and text [n, D], S their cosines, T the
    plan for the cost 1 - S. `same` as in `global_contrast`: stimuli are short, and half of a batch's have a twin.

    As printed T * S is at most 1 / n and has almost no gradient; here the logits are n T S / tau, T detached, both
    directions.
    """
    s = image @ text.T
    with torch.no_grad():
        plan = sinkhorn(1 - s, epsilon)
    target = torch.arange(len(s), device=s.device) if same is None else same.float() / same.sum(dim=1, keepdim=True)
    return _both_ways(len(s) * plan * s * scale, target)


def drift(hidden: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """How far hidden states [B, T, D] of short captions have left those of the model they began as, relative to
    their own size: a diffusion model reads them, and was trained on the old ones."""
    return (hidden - base).square().mean() / base.square().mean()
