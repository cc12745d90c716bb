"""Edge responses of pictures: what retrieval compares."""

from __future__ import annotations

from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from .. import pictures
from ..errors import UserError
from ..tensors.uint8 import from_uint8
from . import ssim

SIDE = 128
"""Pixels a side of an edge response: the size at which pictures are compared."""

LARGEST = 100_000_000
"""Pictures of more pixels than this are skipped."""

EDGES = ("scharr", "canny")
"""The kinds of edge response (`edge_response`)."""


_SAME_RATIO = Fraction(1, 400)
"""Ratios that differ by less are the same but for the rounding of sizes to whole pixels."""


def ratio_of(size: tuple[int, int]) -> Fraction:
    """(width, height) -> their ratio, as the simplest fraction within 1/400 of it: 451 x 300 is 3 : 2. Pictures of one
    ratio but for whole pixels share an index, and nothing visible is stretched."""
    ratio = Fraction(*size)
    return _simplest(ratio / (1 + _SAME_RATIO), ratio * (1 + _SAME_RATIO))


def _simplest(low: Fraction, high: Fraction) -> Fraction:
    """The fraction in low..high with the smallest denominator and numerator (by continued fractions)."""
    whole = ceil(low)
    if whole <= high:
        return Fraction(whole)
    return whole - 1 + 1 / _simplest(1 / (high - whole + 1), 1 / (low - whole + 1))


def crop_box(size: tuple[int, int], ratio: Fraction | None) -> tuple[float, float, float, float]:
    """(left, top, right, bottom), in pixels, of the largest centred crop of `ratio` of a picture of (width, height);
    of the whole picture where it is None."""
    width, height = map(Fraction, size)
    w, h = (width, height) if ratio is None else (min(width, height * ratio), min(height, width / ratio))
    return float((width - w) / 2), float((height - h) / 2), float((width + w) / 2), float((height + h) / 2)


def cropped(image: Any, size: tuple[int, int]) -> Any:
    """A PIL image, cropped in its centre to the ratio of (width, height) and resized to it: as a reference is given,
    and as it was compared."""
    from PIL import Image

    return image.resize(size, Image.Resampling.LANCZOS, box=crop_box(image.size, ratio_of(size)))


def luminance(image: Any, ratio: Fraction | None = None) -> np.ndarray:
    """A PIL image, upright -> [SIDE, SIDE] float32 luminance (Rec. 601) in 0..1 of its crop to `ratio` (`crop_box`),
    which is squeezed to a square."""
    from PIL import Image

    box = crop_box(image.size, ratio)
    kind = Image.Resampling.BOX if min(box[2] - box[0], box[3] - box[1]) >= SIDE else Image.Resampling.BILINEAR
    return from_uint8(image.convert("L").resize((SIDE, SIDE), kind, box=box))


def edge_response(grey: np.ndarray, kind: str = "scharr") -> np.ndarray:
    """[H, W] luminance in 0..1 -> [H, W] uint8 edge response.

    scharr  the gradient's magnitude by Scharr's filter (3, 10, 3), 255 for a step from black to white
    canny   255 on Canny's edges (sigma 2), slightly blurred, because SSIM of thin lines is nearly the same for near and
            far misses; needs scikit-image
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
    (never below four times `SIDE`). Unreadable, with a reason, where the file cannot be used."""
    path = Path(path)
    with pictures.opened(path) as image:
        pixels = image.width * image.height
        if pixels >= LARGEST:
            raise pictures.Unreadable(
                path, f"it has {pixels / 1e6:.0f} megapixels; the limit is {LARGEST / 1e6:.0f}", ""
            )
        if min(image.size) < 2 * ssim.RADIUS + 1:
            raise pictures.Unreadable(path, f"it is {image.width} x {image.height} pixels small", "")
        if small:
            image.draft("RGB", (4 * SIDE, 4 * SIDE))
        return pictures.upright(image).convert("RGB")


def edge_of_file(path: Path, kind: str, ratio: Fraction | None = None) -> np.ndarray:
    """A picture file -> [SIDE, SIDE] uint8 edge response of its crop to `ratio`. Unreadable as `read_picture` raises
    it."""
    return edge_response(luminance(read_picture(path, small=True), ratio), kind)
