"""Edge responses of pictures: what retrieval compares."""

from __future__ import annotations

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


def luminance(image: Any) -> np.ndarray:
    """A PIL image, upright -> [SIDE, SIDE] float32 luminance (Rec. 601) in 0..1; the whole picture is squeezed to a
    square."""
    from PIL import Image

    kind = Image.Resampling.BOX if min(image.size) >= SIDE else Image.Resampling.BILINEAR
    return from_uint8(image.convert("L").resize((SIDE, SIDE), kind))


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


def edge_of_file(path: Path, kind: str) -> np.ndarray:
    """A picture file -> [SIDE, SIDE] uint8 edge response. Unreadable as `read_picture` raises it."""
    return edge_response(luminance(read_picture(path, small=True)), kind)
