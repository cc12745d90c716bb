"""SSIM of one picture with very many (Wang et al. 2004): Gaussian window of 11 taps and sigma 1.5, K 0.01 and 0.03,
population statistics, the mean over all places where the window fits. That is scikit-image's `structural_similarity`
with `gaussian_weights=True, sigma=1.5, use_sample_covariance=False`.

Pictures are [H, W] uint8. `exact` defines the result, in float64. `Scan` gives fast scores with a bound on their error,
by numba where it is installed, else by torch; a search calls `exact` where that bound does not decide.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np

from .. import files, host

RADIUS = 5
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2

FAST_ERROR = 1e-3
"""Bound on the error of a float32 score. Measured: 6e-4 on nearly flat pictures, the worst case; 2e-6 on edge
responses."""

SURE_ERROR = 1e-9
"""Bound on the error of a float64 score, whose sums are in another order than the exact one's."""

AT_ONCE = 16384
"""Pictures that are scored between two releases of a mapped file's memory."""

MEAN_STEP, DEVIATION_STEP = 255 / 65535, 127.5 / 65535
"""One unit of a cached mean and of a cached deviation, in grey levels."""


def taps() -> np.ndarray:
    """[11] float64 weights of the window along a side, summing to 1."""
    x = np.arange(-RADIUS, RADIUS + 1)
    weights = np.exp(-(x**2) / (2 * 1.5**2))
    return weights / weights.sum()


def _half_window(kind: type) -> tuple[Any, ...]:
    """The six different weights of the window, from its edge to its centre, as the kernels take them."""
    return tuple(kind(weight) for weight in taps()[: RADIUS + 1])


def _band(n: int) -> np.ndarray:
    """[n, n - 10]: a line of n pixels times this matrix is the window's mean wherever it fits."""
    return np.stack([np.pad(taps(), (i, n - 2 * RADIUS - 1 - i)) for i in range(n - 2 * RADIUS)], axis=1)


def _blur(x: np.ndarray) -> np.ndarray:
    """[..., H, W] -> [..., H - 10, W - 10]: the window's mean wherever it fits."""
    weights = taps().astype(x.dtype)
    for axis in (-1, -2):
        windows = np.lib.stride_tricks.sliding_window_view(x, 2 * RADIUS + 1, axis=axis)
        x = np.ascontiguousarray(windows @ weights)
    return x


def exact(query: np.ndarray, others: Iterable[np.ndarray]) -> np.ndarray:
    """SSIM in float64 of query [H, W] with each of n others [H, W], all uint8 -> [n]. ValueError below 11 pixels."""
    if min(query.shape) < 2 * RADIUS + 1:
        raise ValueError(f"SSIM's window of 11 pixels does not fit a picture of {query.shape[1]} x {query.shape[0]}.")
    x = query.astype(np.float64)
    mx, vx = _blur(x), _blur(x * x)
    vx -= mx * mx
    out = []
    for other in others:
        host.current().check_interrupted()
        y = other.astype(np.float64)
        my, vy, cov = _blur(y), _blur(y * y), _blur(x * y)
        vy -= my * my
        cov -= mx * my
        out.append((((2 * mx * my + C1) * (2 * cov + C2)) / ((mx**2 + my**2 + C1) * (vx + vy + C2))).mean())
    return np.array(out)


def statistics(picture: np.ndarray) -> np.ndarray:
    """[H, W] uint8 -> [2, H - 10, W - 10] uint16: local mean and deviation in `MEAN_STEP` and `DEVIATION_STEP`."""
    y = picture.astype(np.float64)
    mean = _blur(y)
    deviation = np.sqrt(np.maximum(_blur(y * y) - mean * mean, 0))
    return np.stack([np.round(mean / MEAN_STEP), np.round(deviation / DEVIATION_STEP)]).astype(np.uint16)


@lru_cache(maxsize=1)
def kernels() -> Any:
    """The module of numba kernels; None where numba is not installed or does not work, with one note: then torch gives
    the same results, more slowly."""
    try:
        from . import ssim_kernels
    except ModuleNotFoundError:
        host.current().note(
            "numba is not installed: galleries are searched by torch, several times slower, with the same results. "
            "pip install numba."
        )
        return None
    except Exception as error:  # it lacks a library, or a folder for its compiled code
        host.current().note(
            f"numba does not work here ({' '.join(str(error).split())}): galleries are searched by torch, several "
            "times slower. The answers are the same. Where it asks for a folder, set NUMBA_CACHE_DIR to one that can "
            "be written."
        )
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
        self._prepared: dict[tuple[type, float], tuple[Any, ...]] = {}
        # A cached mean is wrong by up to half a step, and therefore the covariance by (local mean - shift) times that.
        off = np.abs(mean - self._shift) * MEAN_STEP + np.sqrt(variance) * DEVIATION_STEP
        light = (mean + MEAN_STEP) * MEAN_STEP / (mean**2 + C1)
        self.cached_error = FAST_ERROR + float((off / (variance + C2) + light).mean())
        """Bound on the error of scores from cached statistics; a picture's SSIM is at most this above its bound."""

    def scores(
        self, rows: np.ndarray, numbers: np.ndarray, cached: np.ndarray | None = None, floor: float = -1.0
    ) -> np.ndarray:
        """[m] float32, within `FAST_ERROR` of `exact`, or within `cached_error` where `cached` is given. For a picture
        that cannot reach `floor` it may be any number between its score and `floor`."""
        out = np.empty(len(numbers), np.float32)
        if self.kernels is None:
            self._torch_scores(rows, numbers, out)
        elif cached is None:
            self._plain(rows, numbers, floor, out, np.float32)
        else:
            x, maps, c1, c2 = self._of_query(np.float32, MEAN_STEP, DEVIATION_STEP)
            self.kernels.cached(x, maps, c1, c2, rows, numbers, cached, _half_window(np.float32), floor, out)
        return out

    def sure(self, rows: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """[m] float64, within `SURE_ERROR` of `exact`."""
        out = np.empty(len(numbers), np.float64)
        if self.kernels is None:
            self._torch_scores(rows, numbers, out)
        else:
            self._plain(rows, numbers, -1.0, out, np.float64)
        return out

    def _plain(self, rows: np.ndarray, numbers: np.ndarray, floor: float, out: np.ndarray, kind: type) -> None:
        x, maps, c1, c2 = self._of_query(kind, 1.0, 1.0)
        assert self.kernels is not None
        self.kernels.plain(x, maps, kind(self._shift), c1, c2, rows, numbers, _half_window(kind), floor, out)

    def bounds(self, cached: np.ndarray, numbers: np.ndarray, stride: int = 1) -> np.ndarray:
        """[m] float32 upper bounds of SSIM, within `cached_error`, because |cov| <= sigma_x sigma_y. With a stride
        above 1 only every `stride`-th line counts: an estimate, not a bound."""
        out = np.empty(len(numbers), np.float32)
        _, maps, c1, c2 = self._of_query(np.float32, MEAN_STEP, DEVIATION_STEP)
        assert self.kernels is not None
        self.kernels.bound(maps, self.width - 2 * RADIUS, c1, c2, cached, numbers, stride, out)
        return out

    def _of_query(self, kind: type, u: float, v: float) -> tuple[Any, ...]:
        """What the kernels take of the query: its pixels, maps, C1 and C2, for means in units of u and deviations in
        units of v."""
        if (kind, u) not in self._prepared:
            self._prepared[kind, u] = self._prepare(kind, u, v)
        return self._prepared[kind, u]

    def _prepare(self, kind: type, u: float, v: float) -> tuple[Any, ...]:
        mean, variance = self._mean, self._variance
        maps = np.stack(
            [
                2 * (mean - self._shift) * u / v**2,
                2 * mean / u,
                (mean**2 + C1) / u**2,
                (variance + C2) / v**2,
                2 * np.sqrt(variance) / v,
            ]
        )
        padding = np.tile(np.array([0, 0, 1e25, 1, 0]).reshape(5, 1, 1), (1, len(mean), -maps.shape[-1] % 32))
        maps = np.concatenate([maps, padding], axis=-1)
        return (2 * self._x / v**2).astype(kind), maps.astype(kind), kind(C1 / u**2), kind(C2 / v**2)

    def _torch_scores(self, rows: np.ndarray, numbers: np.ndarray, out: np.ndarray) -> None:
        import torch

        kind = out.dtype
        across, down = (torch.from_numpy(_band(n).astype(kind)) for n in (self.width, self.height))
        shift = self._shift
        x, mx, vx = (torch.from_numpy(a.astype(kind)) for a in (self._x, self._mean - shift, self._variance))
        size = self.height * self.width
        with torch.no_grad():
            for i in range(0, len(numbers), 16):
                host.current().check_interrupted()
                part = rows[numbers[i : i + 16], :size].reshape(-1, self.height, self.width)
                y = torch.from_numpy(part.astype(kind)) - shift
                # Matrix products are much faster than a convolution of one channel.
                my, vy, cov = down.T @ (torch.stack([y, y * y, x * y]) @ across)
                vy, cov = vy - my * my, cov - mx * my
                m, n = mx + shift, my + shift
                score = ((2 * m * n + C1) * (2 * cov + C2)) / ((m**2 + n**2 + C1) * (vx + vy + C2))
                out[i : i + 16] = score.mean(dim=(1, 2)).numpy()


def warm_up() -> None:
    """Compiles the kernels (once per machine: they are cached on disk), so that the first query is as fast as the
    next."""
    if kernels():
        picture = np.zeros((2 * RADIUS + 2, 2 * RADIUS + 2), np.uint8)
        rows, known = picture.reshape(1, -1), statistics(picture).reshape(1, -1)
        for array in (rows, known):
            array.flags.writeable = False  # as a mapped file's rows are, which numba treats as another type
        scan, numbers = Scan(picture), np.zeros(1, np.int64)
        (
            scan.scores(rows, numbers),
            scan.scores(rows, numbers, known),
            scan.bounds(known, numbers),
            scan.sure(rows, numbers),
        )


def best(
    query: np.ndarray,
    rows: np.ndarray,
    numbers: np.ndarray,
    k: int,
    cached: np.ndarray | None = None,
    fast: bool = True,
) -> tuple[list[int], list[float], int]:
    """The k rows of `numbers` with the highest exact SSIM: (row numbers, scores, how many were scored at all). Equal
    scores are in the order of `numbers`. Never an approximation: what float32 does not decide is computed in float64,
    and what float64 does not decide because of the order of its sums is computed by `exact`.

    With cached statistics a sample decides whether bounds are worth their time: in a gallery of near-duplicates most
    pictures are out of reach of the best, and are never scored.
    """
    scan = Scan(query, fast)
    rows, numbers = np.asarray(rows), np.asarray(numbers, np.int64)
    k = min(k, len(numbers))
    if k == 0:
        return [], [], 0
    # torch gains nothing from cached statistics.
    cached = None if cached is None or scan.kernels is None else np.asarray(cached)
    error = FAST_ERROR if cached is None else scan.cached_error
    places = _first(scan, numbers, k, cached)
    scores = scan.scores(rows, numbers[places], cached)
    if cached is not None and _bounds_pay(scan, numbers, cached, _kth(scores, k) - 2 * error):
        visited, scores = _by_bounds(scan, rows, numbers, k, cached, error, places, scores)
    else:
        visited, scores = _in_turn(scan, rows, numbers, k, cached, error, places, scores)
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
    """`exact` of rows, each distinct picture once: a gallery may hold many equal ones."""
    size = query.shape[0] * query.shape[1]
    known: dict[bytes, int] = {}  # digest -> the first that has it
    first = np.empty(len(numbers), np.int64)
    for i, number in enumerate(numbers):
        first[i] = known.setdefault(hashlib.blake2b(rows[number, :size].tobytes(), digest_size=16).digest(), i)
    distinct = np.unique(first)
    scores = exact(query, (rows[numbers[i], :size].reshape(query.shape) for i in distinct))
    return scores[np.searchsorted(distinct, first)]


_LIKELY, _SAMPLE = 64, 256

Scored = tuple[np.ndarray, np.ndarray]
"""Places in a search's numbers, and their scores."""


def _first(scan: Scan, numbers: np.ndarray, k: int, cached: np.ndarray | None) -> np.ndarray:
    """The places to score first: the k best of them give a floor below which the others can be abandoned. By cached
    statistics the likeliest ones, else an even sample."""
    n = min(len(numbers), max(_SAMPLE if cached is None else _LIKELY, 4 * k))
    if cached is None:
        return np.linspace(0, len(numbers) - 1, n).astype(np.int64)
    return np.argpartition(-scan.bounds(cached, numbers, stride=60), n - 1)[:n]


def _bounds_pay(scan: Scan, numbers: np.ndarray, cached: np.ndarray, floor: float) -> bool:
    """Whether the bounds of most of an even sample are below the floor, as in a gallery of near-duplicates."""
    sample = numbers[:: max(1, len(numbers) // _SAMPLE)]
    return len(numbers) >= 8 * _SAMPLE and float((scan.bounds(cached, sample) >= floor).mean()) < 0.3


def _in_turn(
    scan: Scan,
    rows: np.ndarray,
    numbers: np.ndarray,
    k: int,
    cached: np.ndarray | None,
    error: float,
    places: np.ndarray,
    scores: np.ndarray,
) -> Scored:
    """Scores all of them, in addition to `places`, which have `scores`."""
    others = np.delete(np.arange(len(numbers)), places)
    for part in np.split(others, range(8 * len(places), len(others), AT_ONCE)):
        scores = np.concatenate([scores, scan.scores(rows, numbers[part], cached, _kth(scores, k) - 2 * error)])
        if len(numbers) > AT_ONCE:
            files.release(rows)
    return np.concatenate([places, others]), scores


def _by_bounds(
    scan: Scan,
    rows: np.ndarray,
    numbers: np.ndarray,
    k: int,
    cached: np.ndarray,
    error: float,
    places: np.ndarray,
    scores: np.ndarray,
) -> Scored:
    """Scores those that may be among the k best, in addition to `places`, which have `scores`: in the order of falling
    bounds, until the next bound is below the k best."""
    bounds = scan.bounds(cached, numbers)
    order = np.argsort(-bounds, kind="stable")
    order = order[~np.isin(order, places)]
    done, step = 0, 64
    while done < len(order):
        floor = _kth(scores, k) - 2 * error
        part = order[done : done + step]
        part = part[bounds[part] >= floor]
        if len(part) == 0:
            break
        scores = np.concatenate([scores, scan.scores(rows, numbers[part], cached, floor)])
        places = np.concatenate([places, part])
        done, step = done + len(part), min(2 * step, 4096)
    return places, scores
