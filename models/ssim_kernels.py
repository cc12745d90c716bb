"""The numba kernels of `ssim.Scan`: one picture a turn, threads over pictures. A horizontal and a vertical pass with the
symmetric window folded in two; inner loops run along a line, so that they become vector instructions. Everything stands at
the module's top level, because only then does numba find its compiled code on disk again.

This module alone imports numba; `ssim.kernels` imports it where it is installed.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

RADIUS = 5
C1_32, C2_32 = np.float32((0.01 * 255) ** 2), np.float32((0.03 * 255) ** 2)
MEAN_STEP, DEVIATION_STEP = np.float32(255 / 65535), np.float32(127.5 / 65535)

_OPTIONS = dict(parallel=True, fastmath=True, cache=True, nogil=True)


@njit(fastmath=True, cache=True, inline="always")
def _fold(line, weights, out, width):  # pragma: no cover - compiled
    for c in range(width):
        out[c] = weights[RADIUS] * line[c + RADIUS]
    for k in range(RADIUS):
        for c in range(width):
            out[c] += weights[k] * (line[c + k] + line[c + 2 * RADIUS - k])


@njit(fastmath=True, cache=True, inline="always")
def _fold_down(lines, r, weights, out, width):  # pragma: no cover - compiled
    for c in range(width):
        out[c] = weights[RADIUS] * lines[r + RADIUS, c]
    for k in range(RADIUS):
        for c in range(width):
            out[c] += weights[k] * (lines[r + k, c] + lines[r + 2 * RADIUS - k, c])


@njit(**_OPTIONS)
def plain(x, mx, vx, shift, c1, c2, rows, numbers, weights, out):  # pragma: no cover - compiled
    """Scores in the precision of x (float32 or float64), which is that of shift, c1 and c2 too. x [H, W] and its local means mx are less `shift`, as each picture's
    pixels are here: smaller numbers lose less when their squares are subtracted."""
    height, width = x.shape
    h, w = mx.shape
    for i in prange(len(numbers)):
        y, yy, xy = np.empty(width, x.dtype), np.empty(width, x.dtype), np.empty(width, x.dtype)
        ay, ayy, axy = np.empty((height, w), x.dtype), np.empty((height, w), x.dtype), np.empty((height, w), x.dtype)
        by, byy, bxy = np.empty(w, x.dtype), np.empty(w, x.dtype), np.empty(w, x.dtype)
        row = rows[numbers[i]]
        for r in range(height):
            for c in range(width):
                y[c] = row[r * width + c]
            for c in range(width):
                y[c] -= shift
                yy[c] = y[c] * y[c]
                xy[c] = y[c] * x[r, c]
            _fold(y, weights, ay[r], w)
            _fold(yy, weights, ayy[r], w)
            _fold(xy, weights, axy[r], w)
        total = 0.0
        for r in range(h):
            _fold_down(ay, r, weights, by, w)
            _fold_down(ayy, r, weights, byy, w)
            _fold_down(axy, r, weights, bxy, w)
            line = shift - shift  # nought in the right precision
            for c in range(w):
                m, n = mx[r, c], by[c]
                cov, vy = bxy[c] - m * n, byy[c] - n * n
                m, n = m + shift, n + shift
                # Sums for doubles: a whole number would turn the line into float64.
                line += ((m * n + m * n + c1) * (cov + cov + c2)) / ((m * m + n * n + c1) * (vx[r, c] + vy + c2))
            total += line
        out[i] = total / (h * w)


@njit(**_OPTIONS)
def cached(x, mx, dx, shift, rows, numbers, known, weights, out):  # pragma: no cover - compiled
    """Scores in float32 from cached statistics: known [n, 2 h w or more] uint16, means then deviations. x and mx are less
    `shift`."""
    height, width = x.shape
    h, w = mx.shape
    for i in prange(len(numbers)):
        xy, axy, bxy = np.empty(width, np.float32), np.empty((height, w), np.float32), np.empty(w, np.float32)
        row, stats = rows[numbers[i]], known[numbers[i]]
        for r in range(height):
            for c in range(width):
                xy[c] = np.float32(row[r * width + c]) * x[r, c]
            _fold(xy, weights, axy[r], w)
        total = 0.0
        for r in range(h):
            _fold_down(axy, r, weights, bxy, w)
            line = np.float32(0)
            for c in range(w):
                n = np.float32(stats[r * w + c]) * MEAN_STEP
                d = np.float32(stats[h * w + r * w + c]) * DEVIATION_STEP
                cov = bxy[c] - mx[r, c] * n
                m = mx[r, c] + shift
                line += (((m * n + m * n + C1_32) * (cov + cov + C2_32))
                         / ((m * m + n * n + C1_32) * (dx[r, c] * dx[r, c] + d * d + C2_32)))
            total += line
        out[i] = total / (h * w)


@njit(**_OPTIONS)
def bound(mx, dx, known, numbers, out):  # pragma: no cover - compiled
    """No score is above these, but for what 16 bits lose: |cov| <= dx d. mx and dx are the query's whole means and
    deviations."""
    h, w = mx.shape
    for i in prange(len(numbers)):
        stats = known[numbers[i]]
        total = 0.0
        for r in range(h):
            line = np.float32(0)
            for c in range(w):
                m, n = mx[r, c], np.float32(stats[r * w + c]) * MEAN_STEP
                s, d = dx[r, c], np.float32(stats[h * w + r * w + c]) * DEVIATION_STEP
                line += ((m * n + m * n + C1_32) * (s * d + s * d + C2_32)) / ((m * m + n * n + C1_32) * (s * s + d * d + C2_32))
            total += line
        out[i] = total / (h * w)


@njit(**_OPTIONS)
def rough(mx, dx, known, numbers, stride, out):  # pragma: no cover - compiled
    """As `bound` on every `stride`-th place of every `stride`-th line alone: no bound, but it tells who is likely."""
    h, w = mx.shape
    for i in prange(len(numbers)):
        stats = known[numbers[i]]
        total = np.float32(0)
        for r in range(0, h, stride):
            for c in range(0, w, stride):
                m, n = mx[r, c], np.float32(stats[r * w + c]) * MEAN_STEP
                s, d = dx[r, c], np.float32(stats[h * w + r * w + c]) * DEVIATION_STEP
                total += ((m * n + m * n + C1_32) * (s * d + s * d + C2_32)) / ((m * m + n * n + C1_32) * (s * s + d * d + C2_32))
        out[i] = total
