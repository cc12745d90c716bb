"""Reference retrieval (Global image sentiment transfer, section III-A): among the pictures with the wanted content and
sentiment, those whose structure is nearest to the input's, by SSIM between edge responses.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import dist, inf
from typing import Any

import numpy as np

from .. import host
from ..emotions import EmotionTarget
from ..errors import UserError
from . import ssim
from .edges import edge_response, luminance, ratio_of
from .gallery import Gallery, Picture

SLACK = 0.1
"""How much further from an emotion's point than the k-th nearest picture a candidate may be (valence and arousal in
0..1)."""


@dataclass(frozen=True)
class Reference:
    """A picture of a gallery, its SSIM (-1..1) with the query, and where it was found by people's ratings its distance
    to the emotion's valence and arousal (0..1.41)."""

    picture: Picture
    score: float
    distance: float | None = None


def retrieve(
    query: Any, gallery: Gallery, k: int = 1, noun: str = "", adjective: str = "", emotion: EmotionTarget | None = None
) -> list[Reference]:
    """The k pictures of a gallery with the highest SSIM to `query`, a PIL image, best first: exactly those of a
    brute-force search in float64. Each is compared as it will be used: cropped to the ratio of the query (`cropped`).

    As in the paper a reference has the content *and* the sentiment asked for: noun and adjective, and the emotion
    (`candidates`). What is empty is not asked for. UserError where no picture is left.

    Earlier versions had the same filters and knew no ratings, and they compared whole pictures, squeezed to a square:
    a picture could win for what its crop does not show. Of pictures of the query's own ratio the answers are the same.
    """
    edge = edge_response(luminance(query), gallery.kind)
    return nearest(edge, gallery, k, noun, adjective, emotion, ratio_of(query.size))


def nearest(
    edge: np.ndarray,
    gallery: Gallery,
    k: int = 1,
    noun: str = "",
    adjective: str = "",
    emotion: EmotionTarget | None = None,
    ratio: Fraction | None = None,
) -> list[Reference]:
    """`retrieve` of an edge response [SIDE, SIDE] uint8 of the gallery's kind, among pictures that are cropped to a
    ratio; among whole ones where it is None."""
    if k < 1:
        raise UserError(f"k is the number of references to find: at least 1, got {k}.")
    pictures, distances = candidates(gallery, k, noun, adjective, emotion)
    crops = gallery.crops(ratio)
    by_row = {row: p for p in pictures if (row := crops.numbers.get(p.path)) is not None}
    if not by_row:
        raise UserError(
            f"None of the {len(pictures)} pictures that fit can be read any longer. Look at the gallery's folder "
            f"'{gallery.folder.name}', and load it again."
        )
    rows, scores, _ = ssim.best(edge, crops.rows, np.fromiter(by_row, np.int64, len(by_row)), k, crops.cached)
    return [Reference(by_row[row], score, distances.get(by_row[row].path)) for row, score in zip(rows, scores)]


def candidates(
    gallery: Gallery, k: int, noun: str = "", adjective: str = "", emotion: EmotionTarget | None = None
) -> tuple[list[Picture], dict[str, float]]:
    """(the pictures among which SSIM chooses, path -> distance to the emotion of all that people rated).

    By labels: all pictures of the noun (or its group), the adjective, and any emotion that the target consists of
    (`EmotionTarget.wanted`). Where pictures of the noun and adjective have ratings, an emotion means its point of
    valence and arousal instead: candidates are the pictures at most `SLACK` further from it than the k-th nearest.
    Not a fixed number, because of few pictures most would be far from the emotion; not a fixed radius, because some
    points have no picture near them. SLACK: people's ratings of one picture have a standard deviation of 0.14 to 0.31
    (OASIS, 90 % of them), so that few would feel the difference. Among 354 of OASIS's pictures it leaves 3 to 47
    candidates for each of the eight emotions; the best SSIM rises from 0.18 (the nearest picture alone) to 0.27, the
    distance from 0.12 to 0.15. Twice the slack: 0.32 and 0.25.
    """
    wanted = emotion.wanted() if emotion else ()
    if emotion is None or not gallery.rated:
        return gallery.select(noun, adjective, wanted), {}
    pictures = gallery.select(noun, adjective)
    distances = {p.path: dist(p.rating, emotion.vad[:2]) for p in pictures if p.rating is not None}
    if not distances:
        return gallery.select(noun, adjective, wanted), {}
    if len(distances) < len(pictures):
        host.current().note(
            f"{len(pictures) - len(distances)} of {len(pictures)} pictures have no rating of valence and arousal: a "
            "search by emotion leaves them out."
        )
    reach = sorted(distances.values())[min(k, len(distances)) - 1] + SLACK
    return [p for p in pictures if distances.get(p.path, inf) <= reach], distances
