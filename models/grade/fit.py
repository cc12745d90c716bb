"""The grade that makes an edit of its source, in closed form.

Bilateral guided upsampling (Chen, Adams, Wadhwa and Hasinoff 2016) asks for the grid whose slices come nearest to the
edit. Theirs is one large sparse system; here each vertex has a small one of its own, a regression over the pixels
around it in place and luminance, which takes milliseconds. Smoothness comes from coarse to fine: one transform for the
whole picture, then one for each luminance, then the cells, each drawn towards what the coarser step found where its own
pixels say little. So flat areas, and cells that hold hardly any pixel of a luminance, stay calm.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from ..tensors.luminance import luminance
from ..tensors.resize import fitted, resized
from .grid import BINS, COLUMNS, ROWS, Grid, identity_row

SIDE = 160
"""Pixels of the longer side at which a grade is fitted: what it can say is coarser by far."""

PRIOR = 3e-4
"""The share of a picture's pixels that the coarser step's answer counts as, at each vertex."""


def fit_grade(
    source: torch.Tensor,
    edited: torch.Tensor,
    detail: float = 0.5,
    mask: torch.Tensor | None = None,
    note: str = "",
) -> Grid:
    """The grade that takes `source` nearest to `edited`, both [B, 3, H, W] in 0..1 and of the same place; of several
    pairs the one that suits all.

    detail  0: one grade for the whole picture, by luminance alone; 1: twice the default's cells, and little smoothness
    mask    [1 or B, 1, H, W] in 0..1: pixels count by it
    """
    h, w = fitted(source.shape[-2:], SIDE)
    source, edited = resized(source.float(), h, w), resized(edited.float(), h, w)
    weight = source.new_ones(1, 1, h, w) if mask is None else resized(mask.float(), h, w)
    moments = _moments(source, edited) * weight
    bins = BINS
    rows, columns = (1, 1) if detail <= 0 else (max(2, round(n * 2 * detail)) for n in _cells(h, w))
    prior = PRIOR * 4.0 ** (1 - 2 * detail)
    sums = [_splat(m, g, (bins, rows, columns)) for m, g in zip(moments.split(1), luminance(source).split(1))]
    cells = torch.stack(sums).sum(dim=0) / (len(source) * h * w)
    levels = cells.sum(dim=(2, 3), keepdim=True)  # a coarser grid's sums are sums of the finer one's
    grid = identity_row().to(source).view(12, 1, 1, 1)
    for level in (levels.sum(dim=1, keepdim=True), levels, cells):
        start = F.interpolate(grid[None], size=level.shape[1:], mode="trilinear", align_corners=True)[0]
        grid = _regress(level, start, prior)
    return Grid(grid.cpu().contiguous(), note)


def _cells(h: int, w: int) -> tuple[int, int]:
    """Rows and columns at detail 0.5: as many cells as by default, as square as may be."""
    aspect = (w / h / (COLUMNS / ROWS)) ** 0.5
    return max(1, min(24, round(ROWS / aspect))), max(1, min(24, round(COLUMNS * aspect)))


_PAIRS = [(i, j) for i in range(4) for j in range(i, 4)]


def _moments(source: torch.Tensor, edited: torch.Tensor) -> torch.Tensor:
    """[B, 22, H, W]: of each pixel the products that normal equations are sums of, (r, g, b, 1) with itself and with
    the edit's three channels."""
    s = torch.cat([source, torch.ones_like(source[:, :1])], dim=1)
    own = torch.stack([s[:, i] * s[:, j] for i, j in _PAIRS], dim=1)
    return torch.cat([own, (edited[:, :, None] * s[:, None]).flatten(1, 2)], dim=1)


def _hats(positions: torch.Tensor, n: int) -> torch.Tensor:
    """[..., n]: the weights that linear interpolation between n vertices over 0..1 gives each."""
    if n == 1:
        return torch.ones_like(positions)[..., None]
    vertices = torch.arange(n, device=positions.device, dtype=positions.dtype)
    return (1 - (positions[..., None] * (n - 1) - vertices).abs()).clamp(min=0)


def _splat(moments: torch.Tensor, guide: torch.Tensor, size: tuple[int, int, int]) -> torch.Tensor:
    """[22, D, H, W]: moments [1, 22, h, w] summed at the vertices, each pixel by its interpolation weights."""
    d, rows, columns = size
    h, w = guide.shape[-2:]
    y, x = ((torch.arange(n, device=guide.device, dtype=guide.dtype) + 0.5) / n for n in (h, w))
    across = _hats(x, columns)  # [w, W]
    down = _hats(y, rows).T  # [H, h]
    by_level = _hats(guide[0, 0].clamp(0, 1), d)  # [h, w, D]
    levels = [down @ ((moments[0] * by_level[..., i]) @ across) for i in range(d)]  # each [22, H, W]
    return torch.stack(levels, dim=1)


def _regress(moments: torch.Tensor, start: torch.Tensor, prior: float) -> torch.Tensor:
    """[12, D, H, W]: at each vertex the transform of least squares, drawn towards `start` as by that share of the
    picture's pixels, spread over all colours."""
    _, d, h, w = moments.shape
    flat = moments.flatten(1).T  # [V, 22]
    normal = flat.new_zeros(len(flat), 4, 4)
    for k, (i, j) in enumerate(_PAIRS):
        normal[:, i, j] = normal[:, j, i] = flat[:, k]
    right = flat[:, len(_PAIRS) :].unflatten(1, (3, 4))  # [V, 3, 4]
    # Pixels of every colour of the cube, all mapped as `start` maps them.
    mean, square = 0.5, 1 / 3
    cube = flat.new_full((4, 4), mean * mean)
    cube[range(3), range(3)] = square
    cube[3, :3] = cube[:3, 3] = mean
    cube[3, 3] = 1.0
    before = start.flatten(1).T.unflatten(1, (3, 4))
    normal = normal + prior * cube
    right = right + prior * before @ cube
    return torch.linalg.solve(normal, right.mT).mT.flatten(1).T.reshape(12, d, h, w)
