"""Grades on pictures of any size: strip by strip, in constant memory beside input and output, 8 and 16 bits.

Numba, where it is installed (the extra `fast`), runs each row by itself and on every core: along a row the grid is
interpolated in height once, so that a pixel takes two luminances of two columns. Without it the same sums are made in
torch, strip by strip.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import torch

from ..errors import UserError
from .cube import Cube
from .grid import Grid

grade_rows: Any = None
with suppress(ImportError):  # numba is an extra
    from .kernels import grade_rows

STRIP = 1 << 19
"""Pixels that torch grades at once."""


def apply_grade(
    image: torch.Tensor, grade: Grid | Cube, strength: float = 1.0, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Images [B, H, W, C] in 0..1 -> the same, graded and clamped to 0..1, in float32. A fourth channel (alpha) is
    kept.

    mask  [1 or B, H, W] in 0..1: where it is 0 a pixel stays, bit for bit
    """
    out = torch.empty_like(image, dtype=torch.float32, memory_format=torch.contiguous_format)
    for i, one in enumerate(image):
        place = None if mask is None else mask[i % len(mask)].cpu().numpy()
        pixels = one.detach().cpu().contiguous().numpy()
        if out.is_cpu and pixels.dtype == np.float32:  # without another copy: a series may fill the memory
            grade_pixels(pixels, grade, strength, place, out[i].numpy())
        else:
            out[i] = torch.from_numpy(grade_pixels(pixels.astype(np.float32), grade, strength, place)).to(out.device)
    return out


def grade_pixels(
    pixels: np.ndarray[Any, Any],
    grade: Grid | Cube,
    strength: float = 1.0,
    mask: np.ndarray[Any, Any] | None = None,
    out: np.ndarray[Any, Any] | None = None,
) -> np.ndarray[Any, Any]:
    """[H, W, 3 or 4] of uint8, uint16 or float32 (0..1) -> the same type, graded; rounded to the nearest value.
    Alpha is kept. mask [H, W] in 0..1. The result is written to `out`, of the pixels' shape and type, where given."""
    if pixels.ndim != 3 or pixels.shape[2] not in (3, 4) or pixels.dtype not in (np.uint8, np.uint16, np.float32):
        raise UserError(
            f"A picture to grade is [H, W, 3 or 4] of 8 or 16 bits or float32, not {list(pixels.shape)} of "
            f"{pixels.dtype}."
        )
    if mask is not None and mask.shape != pixels.shape[:2]:
        raise UserError(f"The mask is {list(mask.shape)} and the picture {list(pixels.shape[:2])}: make them equal.")
    out = np.empty_like(pixels) if out is None else out
    if strength == 0 or pixels.shape[2] == 4:
        out[...] = pixels  # to the last bit
    if strength == 0:
        return out
    grade = grade.scaled(strength)
    full = {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0}.get(pixels.dtype, 1.0)
    if grade_rows is not None and isinstance(grade, Grid):
        grid = grade.coefficients.permute(2, 1, 3, 0).contiguous().numpy()  # [H, D, W, 12]
        cover = np.empty((0, 0), np.float32) if mask is None else mask.astype(np.float32, copy=False)
        grade_rows(np.ascontiguousarray(pixels), out, grid, np.float32(full), cover)
    else:
        _in_torch(pixels, out, grade, full, mask)
    return out


def _in_torch(
    pixels: np.ndarray[Any, Any],
    out: np.ndarray[Any, Any],
    grade: Grid | Cube,
    full: float,
    mask: np.ndarray[Any, Any] | None,
) -> None:
    h, w = pixels.shape[:2]
    rows = max(1, STRIP // w)
    for top in range(0, h, rows):
        strip = pixels[top : top + rows, :, :3].astype(np.float32) / np.float32(full)
        image = torch.from_numpy(strip).movedim(-1, 0)[None]
        graded = _strip(grade, image, top, h)[0].movedim(0, -1).clamp(0, 1).numpy()
        if mask is not None:
            cover = mask[top : top + rows, :, None].astype(np.float32)
            graded = np.where(cover > 0, strip + cover * (graded - strip), strip)
        out[top : top + rows, :, :3] = graded if full == 1.0 else np.rint(graded * np.float32(full))


def _strip(grade: Grid | Cube, image: torch.Tensor, top: int, height: int) -> torch.Tensor:
    """`Grid.slice` of a strip [1, 3, h, W] that begins at row `top` of a picture `height` rows high."""
    if isinstance(grade, Cube):
        return grade.slice(image)
    grid = grade.coefficients
    n = grid.shape[2]
    if n > 1:
        y = ((torch.arange(image.shape[2]) + top + 0.5) / height * (n - 1)).clamp(0, n - 1)
        low = y.floor().clamp(max=n - 2).long()
        share = (y - low).to(grid)
        out = [
            Grid(grid[:, :, i : i + 1].lerp(grid[:, :, i + 1 : i + 2], s.view(1, 1, 1, 1))).slice(
                image[:, :, k : k + 1]
            )
            for k, (i, s) in enumerate(zip(low.tolist(), share))
        ]
        return torch.cat(out, dim=2)
    return grade.slice(image)
