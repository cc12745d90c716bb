"""`apply` in Numba: one row of a picture after another, rows side by side on every core."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numba import prange

from ..tensors.compiled import compiled
from ..tensors.luminance import REC_601

_RED, _GREEN, _BLUE = (np.float32(v) for v in REC_601)


@compiled(os.path.dirname(__file__), parallel=True, fastmath={"contract", "nsz", "arcp", "reassoc"})
def grade_rows(pixels: Any, out: Any, grid: Any, full: Any, mask: Any) -> None:
    """Grades pixels [H, W, C] into out. grid [Gh, D, Gw, 12] float32; full: what 1.0 is in the pixels' type; mask
    [H, W] float32, or empty."""
    height, width = pixels.shape[:2]
    gh, d, gw, _ = grid.shape
    masked = mask.size > 0
    whole = full != np.float32(1.0)
    scale = np.float32(1.0) / full
    for y in prange(height):
        at = (np.float32(y) + np.float32(0.5)) / np.float32(height) * np.float32(gh - 1)
        r = min(int(at), max(gh - 2, 0))
        t = at - np.float32(r)
        below = min(r + 1, gh - 1)
        # The row's own grid: in height it is interpolated once.
        line = np.empty((d, gw, 12), np.float32)
        for i in range(d):
            for j in range(gw):
                for k in range(12):
                    a = grid[r, i, j, k]
                    line[i, j, k] = a + t * (grid[below, i, j, k] - a)
        table = np.empty((d, 12), np.float32)
        for x in range(width):
            red, green, blue = pixels[y, x, 0] * scale, pixels[y, x, 1] * scale, pixels[y, x, 2] * scale
            across = (np.float32(x) + np.float32(0.5)) / np.float32(width) * np.float32(gw - 1)
            c = min(int(across), max(gw - 2, 0))
            u = across - np.float32(c)
            right = min(c + 1, gw - 1)
            light = (_RED * red + _GREEN * green + _BLUE * blue) * np.float32(d - 1)
            light = min(max(light, np.float32(0.0)), np.float32(d - 1))
            low = min(int(light), max(d - 2, 0))
            v = light - np.float32(low)
            high = min(low + 1, d - 1)
            w00 = (np.float32(1.0) - u) * (np.float32(1.0) - v)
            w01, w10, w11 = u * (np.float32(1.0) - v), (np.float32(1.0) - u) * v, u * v
            m = table[0]
            for k in range(12):
                m[k] = (
                    w00 * line[low, c, k]
                    + w01 * line[low, right, k]
                    + w10 * line[high, c, k]
                    + w11 * line[high, right, k]
                )
            share = np.float32(1.0)
            if masked:
                share = mask[y, x]
            for k in range(3):
                before = pixels[y, x, k] * scale
                value = m[4 * k] * red + m[4 * k + 1] * green + m[4 * k + 2] * blue + m[4 * k + 3]
                value = min(max(value, np.float32(0.0)), np.float32(1.0))
                if masked:
                    value = before + share * (value - before)
                if share <= np.float32(0.0):
                    out[y, x, k] = pixels[y, x, k]
                elif whole:
                    out[y, x, k] = int(value * full + np.float32(0.5))
                else:
                    out[y, x, k] = value
