"""The numba kernels of `ssim.Scan`: threads over pictures, one pass over each picture's lines. The window runs down the
picture first, over the last 11 lines, which stay in the fastest cache; then along the line, in the loop that computes
the score. Inner loops run over slices of one line, because only then they are vectorised (for numba an index such as
`row[r * width + c]` may be negative). All functions are at the module's top level, because only then numba finds its
compiled code on disk again.

A picture is abandoned once it cannot reach `floor` even if all remaining lines were equal to the query's: `out` then
holds that bound, which is below the floor and not below the picture's score.

Of the query they take x [H, W], its pixels, and maps [5, h, w..], values of each place that do not depend on the other
picture (`ssim.Scan`): 2 mean, less the shift; 2 mean; mean^2 + C1; variance + C2; 2 deviation. c1 and c2 are SSIM's
constants. All are in the units of the other picture's statistics, so that nothing needs scaling. Each line of the maps
is padded after its w places to a multiple of 32, with values that make the score there 0: a remainder of less than a
vector would be computed one by one.

Numba is imported only here; `ssim.kernels` imports it where numba is installed.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numba import prange

from ..tensors.compiled import compiled

FOLDER = os.path.dirname(__file__)

RADIUS = 5
_RING = 16  # lines kept: a power of two above the window's 11

_OPTIONS = dict(parallel=True, fastmath=True, nogil=True, error_model="numpy")


@compiled(FOLDER, fastmath=True, inline="always")
def _down(ring: np.ndarray, p: int, t: np.ndarray, out: np.ndarray) -> None:  # pragma: no cover - compiled
    """The window over lines p .. p + 10; its weights from the edge to the centre are t."""
    a, b, c, d, e, f = (
        ring[p & 15],
        ring[(p + 1) & 15],
        ring[(p + 2) & 15],
        ring[(p + 3) & 15],
        ring[(p + 4) & 15],
        ring[(p + 5) & 15],
    )
    g, h, i, j, k = ring[(p + 6) & 15], ring[(p + 7) & 15], ring[(p + 8) & 15], ring[(p + 9) & 15], ring[(p + 10) & 15]
    for x in range(len(out)):
        out[x] = (
            t[0] * (a[x] + k[x])
            + t[1] * (b[x] + j[x])
            + t[2] * (c[x] + i[x])
            + t[3] * (d[x] + h[x])
            + t[4] * (e[x] + g[x])
            + t[5] * f[x]
        )


@compiled(FOLDER, fastmath=True, inline="always")
def _along(line: np.ndarray, c: int, t: np.ndarray) -> Any:  # pragma: no cover - compiled
    return (
        t[0] * (line[c] + line[c + 10])
        + t[1] * (line[c + 1] + line[c + 9])
        + t[2] * (line[c + 2] + line[c + 8])
        + t[3] * (line[c + 3] + line[c + 7])
        + t[4] * (line[c + 4] + line[c + 6])
        + t[5] * line[c + 5]
    )


@compiled(FOLDER, **_OPTIONS)
def plain(
    x: np.ndarray,
    maps: np.ndarray,
    shift: Any,
    c1: Any,
    c2: Any,
    rows: np.ndarray,
    numbers: np.ndarray,
    t: np.ndarray,
    floor: float,
    out: np.ndarray,
) -> None:  # pragma: no cover - compiled
    """Scores in the precision of x (float32 or float64), which maps, shift, c1, c2 and the six weights t share. x is
    2 (pixel - shift); the shift is subtracted from each picture's pixels too, because differences of squares of smaller
    numbers lose less precision."""
    height, width = x.shape
    _, h, padded = maps.shape
    w = width - 2 * RADIUS
    for i in prange(len(numbers)):
        y, yy, xy = (
            np.empty((_RING, width), x.dtype),
            np.empty((_RING, width), x.dtype),
            np.empty((_RING, width), x.dtype),
        )
        by, byy, bxy = (
            np.zeros(padded + 2 * RADIUS, x.dtype),
            np.zeros(padded + 2 * RADIUS, x.dtype),
            np.zeros(padded + 2 * RADIUS, x.dtype),
        )
        row = rows[numbers[i]]
        total = 0.0
        for r in range(height):
            pixels, s = row[r * width : (r + 1) * width], r & 15
            for c in range(width):
                v = x.dtype.type(pixels[c]) - shift
                y[s, c], yy[s, c], xy[s, c] = v, v * v, v * x[r, c]
            p = r - 2 * RADIUS
            if p < 0:
                continue
            _down(y, p, t, by[:width])
            _down(yy, p, t, byy[:width])
            _down(xy, p, t, bxy[:width])
            line = shift - shift  # 0 in the right precision
            for c in range(padded):
                n = _along(by, c, t)
                cov, variance = _along(bxy, c, t) - maps[0, p, c] * n, _along(byy, c, t) - n * n
                n += shift
                line += (maps[1, p, c] * n + c1) * (cov + c2) / ((maps[2, p, c] + n * n) * (maps[3, p, c] + variance))
            total += line
            if total + (h - 1 - p) * w < floor * h * w:
                total += (h - 1 - p) * w
                break
        out[i] = total / (h * w)


@compiled(FOLDER, **_OPTIONS)
def cached(
    x: np.ndarray,
    maps: np.ndarray,
    c1: Any,
    c2: Any,
    rows: np.ndarray,
    numbers: np.ndarray,
    known: np.ndarray,
    t: np.ndarray,
    floor: float,
    out: np.ndarray,
) -> None:  # pragma: no cover - compiled
    """Scores in float32 from cached statistics: known [n, 2 h w or more] uint16, means then deviations."""
    height, width = x.shape
    _, h, padded = maps.shape
    w = width - 2 * RADIUS
    for i in prange(len(numbers)):
        xy, bxy = np.empty((_RING, width), np.float32), np.zeros(padded + 2 * RADIUS, np.float32)
        row, means, deviations = rows[numbers[i]], known[numbers[i]], known[numbers[i]][h * w :]
        total = 0.0
        for r in range(height):
            pixels, s = row[r * width : (r + 1) * width], r & 15
            for c in range(width):
                xy[s, c] = np.float32(pixels[c]) * x[r, c]
            p = r - 2 * RADIUS
            if p < 0:
                continue
            _down(xy, p, t, bxy[:width])
            places = (
                padded if p * w + padded <= h * w else w
            )  # after a line follows the next one, except after the last
            line, ns, ds = np.float32(0), means[p * w : p * w + places], deviations[p * w : p * w + places]
            for c in range(places):
                n, d = np.float32(ns[c]), np.float32(ds[c])
                cov = _along(bxy, c, t) - maps[0, p, c] * n
                line += (maps[1, p, c] * n + c1) * (cov + c2) / ((maps[2, p, c] + n * n) * (maps[3, p, c] + d * d))
            total += line
            if total + (h - 1 - p) * w < floor * h * w:
                total += (h - 1 - p) * w
                break
        out[i] = total / (h * w)


@compiled(FOLDER, **_OPTIONS)
def bound(
    maps: np.ndarray,
    w: int,
    c1: Any,
    c2: Any,
    known: np.ndarray,
    numbers: np.ndarray,
    stride: int,
    out: np.ndarray,
) -> None:  # pragma: no cover - compiled
    """With a stride of 1 upper bounds of the scores, except for the rounding to 16 bits: |cov| <= the product of the
    deviations. With a larger one estimates from every `stride`-th line."""
    _, h, padded = maps.shape
    for i in prange(len(numbers)):
        means, deviations = known[numbers[i]], known[numbers[i]][h * w :]
        total = 0.0
        for r in range(0, h, stride):
            places = padded if r * w + padded <= h * w else w
            line, ns, ds = np.float32(0), means[r * w : r * w + places], deviations[r * w : r * w + places]
            for c in range(places):
                n, d = np.float32(ns[c]), np.float32(ds[c])
                line += (
                    (maps[1, r, c] * n + c1)
                    * (maps[4, r, c] * d + c2)
                    / ((maps[2, r, c] + n * n) * (maps[3, r, c] + d * d))
                )
            total += line
        out[i] = total / (w * len(range(0, h, stride)))
