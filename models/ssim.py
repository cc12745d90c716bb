"""SSIM of one picture with very many (Wang et al. 2004): Gaussian window of 11 taps and sigma 1.5, K 0.01 and 0.03, population
statistics, the mean over all places where the window fits. That is scikit-image's `structural_similarity` with
`gaussian_weights=True, sigma=1.5, use_sample_covariance=False`.

Pictures are [H, W] uint8. What counts is `exact`, in float64. `Scan` gives fast scores in float32 with a bound on their
error, from numba where it is installed and from torch elsewhere; a search asks `exact` where that bound leaves a doubt.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

RADIUS = 5
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2

FAST_ERROR = 3e-4
"""No float32 score is further than this from the exact one. It comes near (7e-5) only for white pictures, where squares of
255 are subtracted from one another; on edge responses 2e-6 was measured."""

CACHED_ERROR = 5e-4
"""The same for scores from cached statistics in 16 bits, and for bounds."""

MEAN_STEP, DEVIATION_STEP = 255 / 65535, 127.5 / 65535
"""What one unit of cached mean and deviation stands for, in grey levels."""


def taps() -> np.ndarray:
    """[11] float64 weights of the window along a side, summing to 1."""
    x = np.arange(-RADIUS, RADIUS + 1)
    weights = np.exp(-(x**2) / (2 * 1.5**2))
    return weights / weights.sum()


def _blur(x: np.ndarray) -> np.ndarray:
    """[..., H, W] -> [..., H - 10, W - 10]: the window's mean where it fits."""
    weights = taps().astype(x.dtype)
    for axis in (-1, -2):
        windows = np.lib.stride_tricks.sliding_window_view(x, 2 * RADIUS + 1, axis=axis)
        x = np.ascontiguousarray(windows @ weights)
    return x


def exact(query: np.ndarray, others: np.ndarray) -> np.ndarray:
    """SSIM in float64 of query [H, W] with each of others [n, H, W], both uint8 -> [n]. ValueError below 11 pixels."""
    if min(query.shape) < 2 * RADIUS + 1:
        raise ValueError(f"SSIM's window of 11 pixels does not fit a picture of {query.shape[1]} x {query.shape[0]}.")
    x = query.astype(np.float64)
    mx, vx = _blur(x), _blur(x * x)
    vx -= mx * mx
    out = np.empty(len(others))
    for i, other in enumerate(others):
        y = other.astype(np.float64)
        my, vy, cov = _blur(y), _blur(y * y), _blur(x * y)
        vy -= my * my
        cov -= mx * my
        out[i] = (((2 * mx * my + C1) * (2 * cov + C2)) / ((mx**2 + my**2 + C1) * (vx + vy + C2))).mean()
    return out


def statistics(picture: np.ndarray) -> np.ndarray:
    """[H, W] uint8 -> [2, H - 10, W - 10] uint16: local mean and deviation in `MEAN_STEP` and `DEVIATION_STEP`."""
    y = picture.astype(np.float64)
    mean = _blur(y)
    deviation = np.sqrt(np.maximum(_blur(y * y) - mean * mean, 0))
    return np.stack([np.round(mean / MEAN_STEP), np.round(deviation / DEVIATION_STEP)]).astype(np.uint16)


def has_numba() -> bool:
    """Whether the fast kernels can run."""
    try:
        import numba  # noqa: F401
    except ImportError:
        return False
    return True


class Scan:
    """Fast scores of one query against rows of a gallery.

    rows     [n, R] uint8, C-contiguous: each begins with the H * W pixels of a picture
    numbers  which rows to score, [m] int64
    cached   [n, 2, H - 10, W - 10] uint16 from `statistics`, or None
    """

    def __init__(self, query: np.ndarray, fast: bool | None = None):
        self.fast = has_numba() if fast is None else fast
        self.height, self.width = query.shape
        x = query.astype(np.float64)
        mean = _blur(x)
        self._x = x.astype(np.float32)
        self._mean = mean.astype(np.float32)
        self._variance = np.maximum(_blur(x * x) - mean * mean, 0).astype(np.float32)
        self._deviation = np.sqrt(self._variance)
        self._taps = taps().astype(np.float32)

    def scores(self, rows: np.ndarray, numbers: np.ndarray, cached: np.ndarray | None = None) -> np.ndarray:
        """[m] float32, within `FAST_ERROR` of `exact`, or within `CACHED_ERROR` where `cached` is given."""
        out = np.empty(len(numbers), np.float32)
        if not self.fast:
            self._torch_scores(rows, numbers, out)
        elif cached is None:
            _kernels()["plain"](self._x, self._mean, self._variance, rows, numbers, self._taps, out)
        else:
            _kernels()["cached"](self._x, self._mean, self._deviation, rows, numbers, cached, self._taps, out)
        return out

    def bounds(self, cached: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """[m] float32: no picture's SSIM is more than `CACHED_ERROR` above its bound, because |cov| <= sigma_x sigma_y."""
        out = np.empty(len(numbers), np.float32)
        if self.fast:
            _kernels()["bound"](self._mean, self._deviation, cached, numbers, out)
            return out
        for i in range(0, len(numbers), 64):
            part = cached[numbers[i:i + 64]].astype(np.float32)
            mean, deviation = part[:, 0] * np.float32(MEAN_STEP), part[:, 1] * np.float32(DEVIATION_STEP)
            ratio = (2 * self._mean * mean + C1) / (self._mean**2 + mean**2 + C1)
            ratio *= (2 * self._deviation * deviation + C2) / (self._variance + deviation**2 + C2)
            out[i:i + 64] = ratio.mean(axis=(1, 2))
        return out

    def _torch_scores(self, rows: np.ndarray, numbers: np.ndarray, out: np.ndarray) -> None:
        import torch
        from torch.nn import functional as F

        weights = torch.from_numpy(self._taps)
        x, mx, vx = (torch.from_numpy(a) for a in (self._x, self._mean, self._variance))
        size = self.height * self.width
        with torch.no_grad():
            for i in range(0, len(numbers), 16):
                part = rows[numbers[i:i + 16], :size].reshape(-1, self.height, self.width)
                y = torch.from_numpy(part).float()
                maps = torch.stack([y, y * y, x * y], dim=1).flatten(0, 1)[:, None]
                maps = F.conv2d(F.conv2d(maps, weights.view(1, 1, 1, -1)), weights.view(1, 1, -1, 1))
                my, vy, cov = maps.view(-1, 3, *maps.shape[-2:]).unbind(dim=1)
                vy, cov = vy - my * my, cov - mx * my
                score = ((2 * mx * my + C1) * (2 * cov + C2)) / ((mx**2 + my**2 + C1) * (vx + vy + C2))
                out[i:i + 16] = score.mean(dim=(1, 2)).numpy()


@lru_cache(maxsize=1)
def _kernels() -> dict:
    """The three numba kernels: one picture a turn, threads over pictures. A horizontal and a vertical pass with the
    symmetric window folded in two; inner loops run along a line, so that they become vector instructions."""
    from numba import float32, njit, prange

    c1, c2 = np.float32(C1), np.float32(C2)
    mean_step, deviation_step = np.float32(MEAN_STEP), np.float32(DEVIATION_STEP)
    radius = RADIUS
    options = dict(parallel=True, fastmath=True, cache=True, nogil=True)

    @njit(fastmath=True, cache=True, inline="always")
    def fold(line, weights, out, width):  # pragma: no cover - compiled
        for c in range(width):
            out[c] = weights[radius] * line[c + radius]
        for k in range(radius):
            for c in range(width):
                out[c] += weights[k] * (line[c + k] + line[c + 2 * radius - k])

    @njit(fastmath=True, cache=True, inline="always")
    def fold_down(lines, r, weights, out, width):  # pragma: no cover - compiled
        for c in range(width):
            out[c] = weights[radius] * lines[r + radius, c]
        for k in range(radius):
            for c in range(width):
                out[c] += weights[k] * (lines[r + k, c] + lines[r + 2 * radius - k, c])

    @njit(**options)
    def plain(x, mx, vx, rows, numbers, weights, out):  # pragma: no cover - compiled
        height, width = x.shape
        h, w = mx.shape
        for i in prange(len(numbers)):
            y, yy, xy = np.empty(width, np.float32), np.empty(width, np.float32), np.empty(width, np.float32)
            ay, ayy, axy = np.empty((height, w), np.float32), np.empty((height, w), np.float32), np.empty((height, w), np.float32)
            by, byy, bxy = np.empty(w, np.float32), np.empty(w, np.float32), np.empty(w, np.float32)
            row = rows[numbers[i]]
            for r in range(height):
                for c in range(width):
                    v = float32(row[r * width + c])
                    y[c] = v
                    yy[c] = v * v
                    xy[c] = v * x[r, c]
                fold(y, weights, ay[r], w)
                fold(yy, weights, ayy[r], w)
                fold(xy, weights, axy[r], w)
            total = 0.0
            for r in range(h):
                fold_down(ay, r, weights, by, w)
                fold_down(ayy, r, weights, byy, w)
                fold_down(axy, r, weights, bxy, w)
                line = float32(0)
                for c in range(w):
                    m, n = mx[r, c], by[c]
                    line += (((2 * m * n + c1) * (2 * (bxy[c] - m * n) + c2))
                             / ((m * m + n * n + c1) * (vx[r, c] + byy[c] - n * n + c2)))
                total += line
            out[i] = total / (h * w)

    @njit(**options)
    def cached(x, mx, dx, rows, numbers, known, weights, out):  # pragma: no cover - compiled
        height, width = x.shape
        h, w = mx.shape
        for i in prange(len(numbers)):
            xy, axy, bxy = np.empty(width, np.float32), np.empty((height, w), np.float32), np.empty(w, np.float32)
            row, mean, deviation = rows[numbers[i]], known[numbers[i], 0], known[numbers[i], 1]
            for r in range(height):
                for c in range(width):
                    xy[c] = float32(row[r * width + c]) * x[r, c]
                fold(xy, weights, axy[r], w)
            total = 0.0
            for r in range(h):
                fold_down(axy, r, weights, bxy, w)
                line = float32(0)
                for c in range(w):
                    m, n = mx[r, c], float32(mean[r, c]) * mean_step
                    d = float32(deviation[r, c]) * deviation_step
                    line += (((2 * m * n + c1) * (2 * (bxy[c] - m * n) + c2))
                             / ((m * m + n * n + c1) * (dx[r, c] * dx[r, c] + d * d + c2)))
                total += line
            out[i] = total / (h * w)

    @njit(**options)
    def bound(mx, dx, known, numbers, out):  # pragma: no cover - compiled
        h, w = mx.shape
        for i in prange(len(numbers)):
            mean, deviation = known[numbers[i], 0], known[numbers[i], 1]
            total = 0.0
            for r in range(h):
                line = float32(0)
                for c in range(w):
                    m, n = mx[r, c], float32(mean[r, c]) * mean_step
                    s, d = dx[r, c], float32(deviation[r, c]) * deviation_step
                    line += ((2 * m * n + c1) * (2 * s * d + c2)) / ((m * m + n * n + c1) * (s * s + d * d + c2))
                total += line
            out[i] = total / (h * w)

    return {"plain": plain, "cached": cached, "bound": bound}


def warm_up() -> None:
    """Compiles the kernels (once a machine: they are cached on disk), so that the first query is as fast as the next."""
    if has_numba():
        picture = np.zeros((2 * RADIUS + 2, 2 * RADIUS + 2), np.uint8)
        scan, rows, numbers = Scan(picture), picture.reshape(1, -1), np.zeros(1, np.int64)
        known = statistics(picture)[None]
        scan.scores(rows, numbers), scan.scores(rows, numbers, known), scan.bounds(known, numbers)


def best(query: np.ndarray, rows: np.ndarray, numbers: np.ndarray, k: int, cached: np.ndarray | None = None,
         fast: bool | None = None) -> tuple[list[int], list[float], int]:
    """The k rows of `numbers` with the highest exact SSIM: (row numbers, scores, how many were scored at all). Equal scores
    stand in the order of `numbers`. Never an approximation: whatever the float32 scores leave open is asked again in
    float64.

    With cached statistics a look at a sample decides whether bounds pay: in a gallery of near-duplicates most pictures
    cannot come near the best and are never scored.
    """
    scan = Scan(query, fast)
    rows, numbers = np.asarray(rows), np.asarray(numbers, np.int64)
    k = min(k, len(numbers))
    if k == 0:
        return [], [], 0
    cached = np.asarray(cached) if scan.fast and cached is not None else None  # the torch path has nothing to gain from them
    error = FAST_ERROR if cached is None else CACHED_ERROR
    if cached is not None and _bounds_pay(scan, rows, numbers, k, cached):
        visited, scores = _by_bounds(scan, rows, numbers, k, cached)
    else:
        visited, scores = np.arange(len(numbers)), scan.scores(rows, numbers, cached)
    lowest = np.partition(scores, len(scores) - k)[len(scores) - k]
    doubtful = visited[scores >= lowest - 2 * error]
    size = query.shape[0] * query.shape[1]
    sure = exact(query, rows[numbers[doubtful], :size].reshape(-1, *query.shape))
    order = np.lexsort((doubtful, -sure))[:k]
    return [int(numbers[doubtful[i]]) for i in order], [float(sure[i]) for i in order], len(visited)


_SAMPLE = 256


def _bounds_pay(scan: Scan, rows: np.ndarray, numbers: np.ndarray, k: int, cached: np.ndarray) -> bool:
    """Whether most of an even sample is out of reach of what the sample itself and its likeliest pictures come to."""
    if len(numbers) < 8 * _SAMPLE:
        return False
    sample = numbers[np.linspace(0, len(numbers) - 1, _SAMPLE).astype(np.int64)]
    bounds = scan.bounds(cached, sample)
    scores = scan.scores(rows, sample[np.argsort(-bounds)[:max(k, 16)]], cached)
    reached = math.nextafter(float(np.sort(scores)[-k]), -1)
    return float((bounds >= reached).mean()) < 0.3


def _by_bounds(scan: Scan, rows: np.ndarray, numbers: np.ndarray, k: int, cached: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(places in `numbers` that were scored, their scores): in the order of falling bounds, until no bound is left that
    could reach the k best."""
    bounds = scan.bounds(cached, numbers)
    order = np.argsort(-bounds, kind="stable")
    scores = np.empty(0, np.float32)
    step = 64
    while len(scores) < len(order):
        part = order[len(scores):len(scores) + step]
        if len(scores) >= k:
            reached = np.partition(scores, len(scores) - k)[len(scores) - k] - 2 * CACHED_ERROR
            part = part[bounds[part] >= reached]
            if len(part) == 0:
                break
        scores = np.concatenate([scores, scan.scores(rows, numbers[part], cached)])
        step = min(2 * step, 4096)
    return order[:len(scores)], scores
