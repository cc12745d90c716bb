"""Reference retrieval (Global image sentiment transfer, section III-A): among the pictures with the wanted sentiment,
those whose structure is nearest to the input's, by SSIM between edge responses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..emotions import EmotionTarget
from ..errors import UserError
from . import ssim
from .edges import edge_response, luminance
from .gallery import Gallery, Picture


@dataclass(frozen=True)
class Reference:
    """A picture of a gallery, and its SSIM (-1..1) with the query."""

    picture: Picture
    score: float


def retrieve(
    query: Any, gallery: Gallery, k: int = 1, noun: str = "", adjective: str = "", emotion: EmotionTarget | None = None
) -> list[Reference]:
    """The k pictures of a gallery with the highest SSIM to `query`, a PIL image, best first: exactly those of a
    brute-force search in float64. Filters: see `Gallery.select`; an emotion keeps the pictures of all emotions that it
    consists of (`EmotionTarget.wanted`). UserError where no picture is left.
    """
    return nearest(edge_response(luminance(query), gallery.kind), gallery, k, noun, adjective, emotion)


def nearest(
    edge: np.ndarray,
    gallery: Gallery,
    k: int = 1,
    noun: str = "",
    adjective: str = "",
    emotion: EmotionTarget | None = None,
) -> list[Reference]:
    """`retrieve` of an edge response [SIDE, SIDE] uint8 of the gallery's kind."""
    if k < 1:
        raise UserError(f"k is the number of references to find: at least 1, got {k}.")
    pictures = gallery.select(noun, adjective, emotion.wanted() if emotion else ())
    by_row = {p.row: p for p in pictures}
    numbers = np.array([p.row for p in pictures], np.int64)
    rows, scores, _ = ssim.best(edge, gallery.rows, numbers, k, gallery.cached)
    return [Reference(by_row[row], score) for row, score in zip(rows, scores)]
