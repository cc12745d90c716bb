"""Reference retrieval (Global image sentiment transfer, section III-A): of the pictures that bear the feeling asked
for, the one whose structure is nearest to the input's, by SSIM between edge responses.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import gallery as index
from . import pictures, ssim
from .emotions import EmotionTarget
from .errors import UserError
from .gallery import SIDE, Gallery, Picture
from .tensors.uint8 import from_uint8

EDGES = ("scharr", "canny")


@dataclass(frozen=True)
class Reference:
    """A picture that was found, and its SSIM (-1..1) with the query."""

    picture: Picture
    score: float


def luminance(image: Any) -> np.ndarray:
    """A PIL image, upright -> [SIDE, SIDE] float32 luminance (Rec. 601) in 0..1; the whole picture is squeezed to a
    square."""
    from PIL import Image

    grey = image.convert("L").resize((SIDE, SIDE), Image.BOX if min(image.size) >= SIDE else Image.BILINEAR)
    return from_uint8(grey)


def edge_response(grey: np.ndarray, kind: str = "scharr") -> np.ndarray:
    """[H, W] luminance in 0..1 -> [H, W] uint8 edge response.

    scharr  the gradient's magnitude by Scharr's filter (3, 10, 3), 255 for a step from black to white
    canny   255 on Canny's edges (sigma 2), blurred a little, because SSIM of bare lines is almost blind to near misses;
            needs scikit-image
    """
    if kind == "scharr":
        p = np.pad(grey.astype(np.float32), 1, mode="edge")
        smooth = lambda a, b, c: (3 * a + 10 * b + 3 * c) / 16
        down = smooth(p[:, :-2], p[:, 1:-1], p[:, 2:])
        across = smooth(p[:-2], p[1:-1], p[2:])
        magnitude = np.hypot(down[2:] - down[:-2], across[:, 2:] - across[:, :-2])
        return np.clip(np.round(255 * magnitude), 0, 255).astype(np.uint8)
    if kind == "canny":
        try:
            from skimage.feature import canny
            from skimage.filters import gaussian
        except ImportError as error:
            raise UserError("Canny edges need scikit-image: pip install scikit-image, or choose scharr.") from error
        lines = gaussian(canny(grey, sigma=2.0).astype(np.float32), sigma=1.0)
        return np.clip(np.round(255 * 2.5 * lines), 0, 255).astype(np.uint8)
    raise UserError(f"There is no edge response '{kind}'. Choose {' or '.join(EDGES)}.")


def read_picture(path: Path | str, small: bool = False) -> Any:
    """A picture file as an upright RGB PIL image; with `small`, decoded at a fraction of its size where the format can
    (never below four times `SIDE`). Unreadable, with a reason, where it is no use."""
    path = Path(path)
    with pictures.opened(path) as image:
        pixels = image.width * image.height
        if pixels >= index.LARGEST:
            raise pictures.Unreadable(
                path, f"it has {pixels / 1e6:.0f} megapixels; fewer than {index.LARGEST / 1e6:.0f} are read", ""
            )
        if min(image.size) < 2 * ssim.RADIUS + 1:
            raise pictures.Unreadable(path, f"it is {image.width} x {image.height} pixels small", "")
        if small:
            image.draft("RGB", (4 * SIDE, 4 * SIDE))
        return pictures.upright(image).convert("RGB")


def _edge_of_file(path: Path, edges: str) -> np.ndarray:
    return edge_response(luminance(read_picture(path, small=True)), edges)


def open_gallery(folder: Path | str, edges: str = "scharr", cache: bool = False) -> Gallery:
    """The gallery of a folder with its index of Scharr or Canny edges brought up to date (see `gallery.build`)."""
    if edges not in EDGES:
        raise UserError(f"There is no edge response '{edges}'. Choose {' or '.join(EDGES)}.")
    edge_response(
        np.zeros((SIDE, SIDE), np.float32), edges
    )  # whatever it lacks is missing before thousands of files are read
    return index.build(folder, lambda path: _edge_of_file(path, edges), edges, cache)


def retrieve(
    query: Any, gallery: Gallery, k: int = 1, noun: str = "", adjective: str = "", emotion: EmotionTarget | None = None
) -> list[Reference]:
    """The k pictures of a gallery with the highest SSIM to `query`, a PIL image, best first; exactly those that brute
    force in float64 finds. Filters: see `Gallery.select`; an emotion keeps the pictures of any emotion that belongs to
    it. UserError where nothing is left.
    """
    return nearest(edge_response(luminance(query), gallery.edges), gallery, k, noun, adjective, emotion)


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
    found, scores, _ = ssim.best(edge, gallery.rows, numbers, k, gallery.cached)
    return [Reference(by_row[row], score) for row, score in zip(found, scores)]
