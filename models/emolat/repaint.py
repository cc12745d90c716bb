"""Using an EmoLat: an image repainted in one pass, and a picture of its codebooks."""

from __future__ import annotations

import math
from importlib.util import find_spec

import numpy as np
import torch
from torch.nn import functional as F

from .. import host
from ..emotions import MIKELS
from ..errors import UserError
from ..grade import Grid, grade_of_change, some_frames
from ..tensors.composites import composite
from ..tensors.gradients import ordinary
from ..tensors.resize import fitted, resized
from .space import EmoLat, EmoLatCode
from .transfer import LARGEST

SMALLEST = 16

COPY = 384
"""Pixels of the longer side of the copy of a photograph that the network repaints: three times what it was trained
at."""


@torch.no_grad()
def repaint(
    emolat: EmoLat,
    image: torch.Tensor,
    code: EmoLatCode,
    text: str = "",
    strength: float = 1.0,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Images [B, 3, H, W] in 0..1 -> the same repainted in the code's emotion, one after another to bound memory.

    text      a word or sentence (equation 15); empty: the emotion's own (`EmoLat.words`)
    strength  times the emotion's intensity is the share of the change: 0 returns the image, 1 the network's result,
              more exaggerates
    mask      [B or 1, 1, H, W] in 0..1: where the image changes; elsewhere it stays, bit for bit

    UserError where the EmoLat has no transfer network, the code is of another width, or the image is too small for the
    VGG's pools.
    """
    if emolat.network is None:
        raise UserError("This EmoLat holds only codebooks. Train its transfer network: affect train transfer.")
    width = emolat.config.code_width
    if code.codes.shape[-1] != width:
        raise UserError(
            f"This code is {code.codes.shape[-1]} wide and this EmoLat's are {width}: it was drawn from another "
            "EmoLat's codebooks. Connect the same EmoLat to the codebook sampler and to the transfer."
        )
    h, w = image.shape[-2:]
    if min(h, w) < SMALLEST:
        raise UserError(f"An image of {w} x {h} is too small for EmoLat: {SMALLEST} pixels a side at least.")
    share = math.sqrt(min(1.0, LARGEST / (h * w)))
    size = (h, w) if share == 1 else (int(h * share), int(w * share))
    if share < 1:
        host.current().note(f"An image of {w} x {h} is transferred at {size[1]} x {size[0]}, and the change enlarged.")
    device = emolat.codebooks.entries.device
    words = emolat.text([text.strip()]) if text.strip() else emolat.words(code.emotion)
    codes = code.codes[None].to(device)
    out, bar = torch.empty_like(image), host.current().progress(len(image), "transfer")
    try:
        for i in range(len(image)):
            host.current().check_interrupted()
            source = ordinary(image[i : i + 1])
            small = resized(source.to(device), *size)
            change = (emolat.network(small, words, codes) - small) * (strength * code.emotion.intensity)
            after = (source + resized(change, h, w).to(source)).clamp(0, 1)
            out[i : i + 1] = composite(source, after, None if mask is None else mask[i % len(mask)][None].to(source))
            bar.update()
    finally:
        bar.close()
    return out


def grade(emolat: EmoLat, image: torch.Tensor, code: EmoLatCode, text: str = "", strength: float = 1.0) -> Grid:
    """The grade of `repaint`'s change, for photographs: the network sees images [B, 3, H, W] at `COPY` pixels, and
    what it does to colour and light is fitted by one grade, which holds at any size and moves no edge."""
    small = resized(some_frames(image).float().cpu(), *fitted(image.shape[-2:], COPY, SMALLEST))
    return grade_of_change(small, repaint(emolat, small, code, text, strength), note=f"EmoLat, {code.emotion.label}")


METHODS = ("t-SNE", "PCA")
"""How the codebooks become a map: by scikit-learn's t-SNE, or by their first two principal components."""


def flat(vectors: torch.Tensor, method: str, seed: int = 0) -> np.ndarray:
    """[n, W] -> [n, 2] by one of `METHODS`. UserError for another."""
    centred = (vectors - vectors.mean(dim=0)).double()
    if method == "PCA":
        u, s, _ = torch.linalg.svd(centred, full_matrices=False)
        u = u * torch.where(u.abs().max(dim=0).values == u.max(dim=0).values, 1.0, -1.0)  # SVD does not fix the signs
        return (u[:, :2] * s[:2]).numpy()
    if method != "t-SNE":
        raise UserError(f"The map's method is {' or '.join(METHODS)}, not '{method}'.")
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(vectors) - 1) / 3)
    return TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(centred.numpy())


def clustered(points: np.ndarray, books: np.ndarray, neighbours: int = 10) -> float:
    """How well points [n, 2] of a map cluster by their book [n]: the mean share of a point's nearest neighbours that
    are of its own book. One in eight by chance; 1 where the books are disjoint."""
    places = torch.from_numpy(np.asarray(points, np.float64))
    away = torch.cdist(places, places)
    away.fill_diagonal_(float("inf"))
    near = away.topk(neighbours, largest=False).indices.numpy()
    return float((books[near] == books[:, None]).mean())


def map_points(emolat: EmoLat, method: str) -> tuple[np.ndarray, np.ndarray]:
    """(the codebooks' entries on a map [n, 2], the number of each one's book [n])."""
    entries = emolat.codebooks.entries.detach().float().cpu()
    points = flat(F.layer_norm(entries.flatten(0, 1), entries.shape[-1:]), method)
    return points, np.repeat(np.arange(len(MIKELS)), entries.shape[1])


def codebook_map(emolat: EmoLat, method: str = "t-SNE") -> np.ndarray:
    """The codebooks as eight clouds of points (the paper's Figure 3): an image [H, W, 3] in 0..1. A point's size is its
    use. Without scikit-learn, PCA replaces t-SNE, with a note."""
    from ..plots import scatter

    if method == "t-SNE" and find_spec("sklearn") is None:
        host.current().note(
            "t-SNE needs scikit-learn, which is not installed (pip install scikit-learn): this map is by PCA, as the "
            "method PCA draws it."
        )
        method = "PCA"
    use = emolat.codebooks.use
    return scatter(
        *map_points(emolat, method), (use * use.shape[1]).flatten().cpu().numpy(), f"EmoLat's codebooks by {method}"
    )
