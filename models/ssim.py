"""SSIM of one picture with very many (Wang et al. 2004): Gaussian window of 11 taps and sigma 1.5, K 0.01 and 0.03, population
statistics, the mean over all places where the window fits. That is scikit-image's `structural_similarity` with
`gaussian_weights=True, sigma=1.5, use_sample_covariance=False`.

Pictures are [H, W] uint8. What counts is `exact`, in float64. `Scan` gives fast scores with a bound on their error, from
numba where it is installed and from torch elsewhere; a search asks `exact` where that bound leaves a doubt.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any

import numpy as np

from . import host

RADIUS = 5
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2

FAST_ERROR = 1e-3
"""No float32 score is further than this from the exact one. Flat pictures of nearly one grey come nearest (6e-4); on edge
responses 2e-6 was measured."""

SURE_ERROR = 1e-9
"""The same for float64 scores that were added up in another order."""

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


@lru_cache(maxsize=1)
def kernels() -> Any:
    """The module of numba kernels, or None where numba is not installed or does not work: then torch gives the same answers, slower,
    and the user is told once."""
    try:
        from . import ssim_kernels
    except ModuleNotFoundError:
        host.current().note("numba is not installed: galleries are searched by torch, several times slower. The answers are "
                            "the same. pip install numba.")
        return None
    except Exception as error:  # a library of its own that is missing, or no folder that it may keep its code in
        host.current().note(f"numba does not work here ({' '.join(str(error).split())}): galleries are searched by torch, several times "
                            "slower. The answers are the same. Where it asks for a folder, set NUMBA_CACHE_DIR to one that can be written.")
        return None
    return ssim_kernels


class Scan:
    """Fast scores of one query against rows of a gallery.

    rows     [n, R] uint8, C-contiguous: each begins with the H * W pixels of a picture
    numbers  which rows to score, [m] int64
    cached   [n, 2 (H - 10) (W - 10) or more] uint16: `statistics`, flat; or None
    """

    def __init__(self, query: np.ndarray, fast: bool = True):
        self.kernels = kernels() if fast else None
        self.height, self.width = query.shape
        x = query.astype(np.float64)
        self._shift = float(x.mean())
        mean = _blur(x)
        variance = np.maximum(_blur(x * x) - mean * mean, 0)
        self._x, self._mean, self._variance = x - self._shift, mean, variance
        # A cached mean is off by half a step, and so is the covariance by (local mean - shift) times that.
        off = np.abs(mean - self._shift) * MEAN_STEP + np.sqrt(variance) * DEVIATION_STEP
        light = (mean + MEAN_STEP) * MEAN_STEP / (mean**2 + C1)
        self.cached_error = FAST_ERROR + float((off / (variance + C2) + light).mean())
        """No score from cached statistics is further than this from the exact one, and no bound that far below it."""

    def scores(self, rows: np.ndarray, numbers: np.ndarray, cached: np.ndarray | None = None) -> np.ndarray:
        """[m] float32, within `FAST_ERROR` of `exact`, or within `cached_error` where `cached` is given."""
        out = np.empty(len(numbers), np.float32)
        if self.kernels is None:
            self._torch_scores(rows, numbers, out)
        elif cached is None:
            self._plain(rows, numbers, out, np.float32)
        else:
            x, mean, deviation = (np.ascontiguousarray(a, np.float32) for a in (
                self._x, self._mean - self._shift, np.sqrt(self._variance)))
            self.kernels.cached(x, mean, deviation, np.float32(self._shift), rows, numbers, cached,
                                taps().astype(np.float32), out)
        return out

    def sure(self, rows: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """[m] float64, within `SURE_ERROR` of `exact`."""
        out = np.empty(len(numbers), np.float64)
        if self.kernels is None:
            self._torch_scores(rows, numbers, out)
        else:
            self._plain(rows, numbers, out, np.float64)
        return out

    def _plain(self, rows: np.ndarray, numbers: np.ndarray, out: np.ndarray, kind: type) -> None:
        arrays = (np.ascontiguousarray(a, kind) for a in (self._x, self._mean - self._shift, self._variance))
        self.kernels.plain(*arrays, kind(self._shift), kind(C1), kind(C2), rows, numbers, taps().astype(kind), out)

    def bounds(self, cached: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """[m] float32: no picture's SSIM is more than `cached_error` above its bound, because |cov| <= sigma_x sigma_y."""
        out = np.empty(len(numbers), np.float32)
        mean, deviation = self._mean.astype(np.float32), np.sqrt(self._variance).astype(np.float32)
        self.kernels.bound(mean, deviation, cached, numbers, out)
        return out

    def likely(self, cached: np.ndarray, numbers: np.ndarray, n: int) -> np.ndarray:
        """The places of the n of `numbers` that a look at every eighth place of every eighth line puts first."""
        out = np.empty(len(numbers), np.float32)
        mean, deviation = self._mean.astype(np.float32), np.sqrt(self._variance).astype(np.float32)
        self.kernels.rough(mean, deviation, cached, numbers, 8, out)
        return np.argpartition(-out, n - 1)[:n]

    def _torch_scores(self, rows: np.ndarray, numbers: np.ndarray, out: np.ndarray) -> None:
        import torch
        from torch.nn import functional as F

        kind = out.dtype
        weights = torch.from_numpy(taps().astype(kind))
        shift = self._shift
        x, mx, vx = (torch.from_numpy(a.astype(kind)) for a in (self._x, self._mean - shift, self._variance))
        size = self.height * self.width
        with torch.no_grad():
            for i in range(0, len(numbers), 16):
                host.current().check_interrupted()
                part = rows[numbers[i:i + 16], :size].reshape(-1, self.height, self.width)
                y = torch.from_numpy(part.astype(kind)) - shift
                maps = torch.stack([y, y * y, x * y], dim=1).flatten(0, 1)[:, None]
                maps = F.conv2d(F.conv2d(maps, weights.view(1, 1, 1, -1)), weights.view(1, 1, -1, 1))
                my, vy, cov = maps.view(-1, 3, *maps.shape[-2:]).unbind(dim=1)
                vy, cov = vy - my * my, cov - mx * my
                m, n = mx + shift, my + shift
                score = ((2 * m * n + C1) * (2 * cov + C2)) / ((m**2 + n**2 + C1) * (vx + vy + C2))
                out[i:i + 16] = score.mean(dim=(1, 2)).numpy()


def warm_up() -> None:
    """Compiles the kernels (once a machine: they are kept on disk), so that the first query is as fast as the next."""
    if kernels():
        picture = np.zeros((2 * RADIUS + 2, 2 * RADIUS + 2), np.uint8)
        rows, known = picture.reshape(1, -1), statistics(picture).reshape(1, -1)
        for array in (rows, known):
            array.flags.writeable = False  # as a mapped file is; numba takes that for another type
        scan, numbers = Scan(picture), np.zeros(1, np.int64)
        scan.scores(rows, numbers), scan.scores(rows, numbers, known), scan.bounds(known, numbers), scan.sure(rows, numbers)
        scan.likely(known, numbers, 1)


def best(query: np.ndarray, rows: np.ndarray, numbers: np.ndarray, k: int, cached: np.ndarray | None = None,
         fast: bool = True) -> tuple[list[int], list[float], int]:
    """The k rows of `numbers` with the highest exact SSIM: (row numbers, scores, how many were scored at all). Equal scores
    stand in the order of `numbers`. Never an approximation: what float32 leaves open is asked again in float64, and what the
    order of adding leaves open there is asked of `exact`.

    With cached statistics a look at a sample decides whether bounds pay: in a gallery of near-duplicates most pictures
    cannot come near the best and are never scored.
    """
    scan = Scan(query, fast)
    rows, numbers = np.asarray(rows), np.asarray(numbers, np.int64)
    k = min(k, len(numbers))
    if k == 0:
        return [], [], 0
    cached = None if cached is None or scan.kernels is None else np.asarray(cached)  # torch has nothing to gain from them
    error = FAST_ERROR if cached is None else scan.cached_error
    first = None if cached is None else _head_start(scan, rows, numbers, k, cached)
    if first is not None:
        visited, scores = _by_bounds(scan, rows, numbers, k, cached, *first)
    else:
        visited, scores = np.arange(len(numbers)), scan.scores(rows, numbers, cached)
    left = visited[scores >= _kth(scores, k) - 2 * error]
    if cached is not None:
        scores = scan.scores(rows, numbers[left])
        left = left[scores >= _kth(scores, k) - 2 * FAST_ERROR]
    scores = scan.sure(rows, numbers[left])
    left = left[scores >= _kth(scores, k) - 2 * SURE_ERROR]
    sure = _exact_once(query, rows, numbers[left])
    order = np.lexsort((left, -sure))[:k]
    return [int(numbers[left[i]]) for i in order], [float(sure[i]) for i in order], len(visited)


def _kth(scores: np.ndarray, k: int) -> float:
    return float(np.partition(scores, len(scores) - k)[len(scores) - k])


def _exact_once(query: np.ndarray, rows: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """`exact` of rows, each distinct picture once: a gallery may hold very many equal ones."""
    size = query.shape[0] * query.shape[1]
    known: dict[bytes, float] = {}
    out = np.empty(len(numbers))
    for i, number in enumerate(numbers):
        pixels = rows[number, :size]
        key = hashlib.blake2b(pixels.tobytes(), digest_size=16).digest()
        if key not in known:
            host.current().check_interrupted()
            known[key] = float(exact(query, pixels.reshape(1, *query.shape))[0])
        out[i] = known[key]
    return out


_LIKELY, _SAMPLE = 64, 256

Scored = tuple[np.ndarray, np.ndarray]
"""Places in a search's numbers, and their scores."""


def _head_start(scan: Scan, rows: np.ndarray, numbers: np.ndarray, k: int, cached: np.ndarray) -> Scored | None:
    """The likeliest pictures, scored; None unless most of an even sample is out of reach of what they come to, so that bounds
    pay."""
    if len(numbers) < 8 * _SAMPLE or k > _LIKELY // 2:
        return None
    places = scan.likely(cached, numbers, _LIKELY)
    scores = scan.scores(rows, numbers[places], cached)
    sample = numbers[np.linspace(0, len(numbers) - 1, _SAMPLE).astype(np.int64)]
    within_reach = scan.bounds(cached, sample) >= _kth(scores, k) - 2 * scan.cached_error
    return (places, scores) if float(within_reach.mean()) < 0.3 else None


def _by_bounds(scan: Scan, rows: np.ndarray, numbers: np.ndarray, k: int, cached: np.ndarray, places: np.ndarray,
               scores: np.ndarray) -> Scored:
    """Those that were scored, beginning with `places`: the others follow in the order of falling bounds, until no bound is
    left that could reach the k best."""
    bounds = scan.bounds(cached, numbers)
    order = np.argsort(-bounds, kind="stable")
    order = order[~np.isin(order, places)]
    done, step = 0, 64
    while done < len(order):
        part = order[done:done + step]
        part = part[bounds[part] >= _kth(scores, k) - 2 * scan.cached_error]
        if len(part) == 0:
            break
        scores = np.concatenate([scores, scan.scores(rows, numbers[part], cached)])
        places = np.concatenate([places, part])
        done, step = done + len(part), min(2 * step, 4096)
    return places, scores
