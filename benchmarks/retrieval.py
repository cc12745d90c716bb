"""Reference retrieval: are the references those of brute force, how fast are they found, and in how much memory? Beside
a scikit-image loop over the same edge responses, in the same run.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from ..models import files
from ..models.errors import UserError
from ..models.reference import SIDE, Gallery, Picture, nearest, ssim
from ..models.reference.index import EDGE, Index, header, pack
from . import arguments, measure, memory
from .figures import Figures
from .store import fingerprint

K = 5
QUERIES = "share of queries"
EACH = 50
"""Copies of each scene in the gallery of near-duplicates."""

USUAL, LARGE = 10_000, 50_000
CODE = ("benchmarks.retrieval:scenes", "benchmarks.retrieval:write_index", "benchmarks.retrieval:_timed")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `affect bench retrieval`."""
    arguments.outputs(parser, "runs/bench-retrieval", "galleries")
    parser.add_argument("--queries", type=int, default=50, help="pictures to search for (default: %(default)s)")
    parser.add_argument("--sizes", default="1000,10000,50000", help="galleries (default: %(default)s)")


def _edges(job: tuple[int, int]) -> np.ndarray:
    """Edge responses of the MoodScenes of a range of layouts."""
    from PIL import Image

    from ..models.reference import edge_response, luminance
    from ..training.data.moodscenes import layout_seeds, make_scene, sample_emotion

    start, stop = job
    out = []
    for i, layout in enumerate(list(layout_seeds("train", stop, 5))[start:], start):
        scene = make_scene(int(layout), sample_emotion(int(layout), np.random.default_rng(i)), i)
        out.append(edge_response(luminance(Image.fromarray(scene.image))))
    return np.stack(out)


def scenes(root: Path, n: int) -> np.ndarray:
    """[n, SIDE, SIDE] edge responses of n scenes, drawn once."""
    from tqdm import tqdm

    path = root / f"scenes-{n}.npy"
    if not path.is_file():
        jobs = [(i, min(i + 100, n)) for i in range(0, n, 100)]
        with ProcessPoolExecutor() as pool:
            parts = list(tqdm(pool.map(_edges, jobs), total=len(jobs), desc="scenes"))
        files.write_atomically(path, lambda p: np.save(p, np.concatenate(parts)))
    return np.load(path, mmap_mode="r")


def _record(edge: np.ndarray, i: int) -> bytes:
    """The record of a picture called i.png."""
    packed = pack(edge, {"path": f"{i}.png", "file": [0, 0]})
    assert packed is not None  # its path is short
    return packed


def write_index(path: Path, edges: Any, n: int) -> Path:
    """An index of n records; those beyond the scenes are scenes mirrored and shifted, which costs a scan the same."""

    def write(target: Path) -> None:
        with target.open("wb") as f:
            f.write(header("scharr"))
            for i in range(n):
                edge = edges[i % len(edges)]
                turn = i // len(edges)
                edge = np.roll(edge[:, ::-1] if turn % 2 else edge, 7 * turn, axis=1)
                f.write(_record(np.ascontiguousarray(edge), i))

    return path if path.is_file() else files.write_atomically(path, write)


def _opened(path: Path) -> Index:
    """An index of however many records."""
    return Index(path, "scharr", most=sys.maxsize)


def _timed(index: Path, queries: np.ndarray, cache: bool, fast: bool) -> dict[str, Any]:
    """In a process of its own: seconds a query (the mean of three rounds), from its edge response on, through an
    open gallery as a user's goes (by torch, `fast` off, the scan alone); the references, and memory beyond what
    importing the package and torch takes; the share of the gallery that was scored."""
    before = memory.peak()
    if fast:
        ssim.warm_up()
    opened = _opened(index)
    pictures = [Picture(name, row, "house", "calm", "awe") for name, (row, *_) in opened.known.items()]
    held = Gallery(index.parent, pictures, opened.rows, {}, opened.statistics(True) if cache else None)
    plain = lambda query: ssim.best(query, held.rows, np.arange(len(pictures)), K, held.cached, fast)
    search = (
        (lambda query: [one.picture.row for one in nearest(query, held, K)]) if fast else lambda query: plain(query)[0]
    )
    start = time.perf_counter()
    for _ in range(3):
        answers = [search(query) for query in queries]
    seconds, used = (time.perf_counter() - start) / 3 / len(queries), memory.peak() - before
    return {
        "seconds": seconds,
        "answers": answers,
        "bytes": used,
        "visited": float(np.mean([plain(query)[2] for query in queries])) / len(pictures),
    }


def alone(*settings: Any) -> dict[str, Any]:
    """`_timed` in a process of its own."""
    return memory.alone(_timed, *settings)


def brute_force(index: Path, queries: np.ndarray) -> list[list[int]]:
    """The K best of each query in float64, by torch and another arrangement of the formula than the search's."""
    import torch
    from torch.nn import functional as F
    from tqdm import tqdm

    weights = torch.from_numpy(ssim.taps())
    blur = lambda x: F.conv2d(F.conv2d(x, weights.view(1, 1, 1, -1)), weights.view(1, 1, -1, 1))
    rows = _opened(index).rows
    x = torch.from_numpy(queries).double()[:, None]
    mx = blur(x)
    vx = blur(x * x) - mx * mx
    scores = np.empty((len(queries), len(rows)))
    for i in tqdm(range(len(rows)), desc="brute force", mininterval=5):
        y = torch.from_numpy(np.array(rows[i, :EDGE])).double().view(1, 1, SIDE, SIDE)
        my = blur(y)
        vy = blur(y * y) - my * my
        cov = blur(x * y) - mx * my
        score = (2 * mx * my + ssim.C1) * (2 * cov + ssim.C2) / ((mx**2 + my**2 + ssim.C1) * (vx + vy + ssim.C2))
        scores[:, i] = score.mean(dim=(1, 2, 3)).numpy()
    return [np.lexsort((np.arange(len(rows)), -row))[:K].tolist() for row in scores]


def scikit_image(index: Path, query: np.ndarray) -> float:
    """Seconds of one query by scikit-image's `structural_similarity` over the whole gallery."""
    from skimage.metrics import structural_similarity

    rows = _opened(index).rows
    structural_similarity(query, query, gaussian_weights=True, sigma=1.5, data_range=255)  # its own first call
    start = time.perf_counter()
    for i in range(len(rows)):
        structural_similarity(
            query,
            rows[i, :EDGE].reshape(SIDE, SIDE),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=255,
        )
    return time.perf_counter() - start


def torchmetrics_seconds(index: Path, query: np.ndarray) -> float:
    """The same by torchmetrics in batches; its values differ, because it does not crop the borders."""
    import torch

    from ..models.metrics import ssim as similarity

    rows = _opened(index).rows
    x = torch.from_numpy(query).float()[None, None] / 255
    start = time.perf_counter()
    for i in range(0, len(rows), 64):
        y = torch.from_numpy(np.array(rows[i : i + 64, :EDGE])).view(-1, 1, SIDE, SIDE).float() / 255
        similarity(x.expand_as(y), y)
    return time.perf_counter() - start


def main(args: argparse.Namespace) -> int:
    """Writes the galleries that are missing, searches them, and writes figures and a plot."""
    if ssim.kernels() is None:
        raise UserError(
            "This bench measures the fast path, which takes numba: `pip install numba`, or the extra `fast`."
        )
    sizes = [int(n) for n in args.sizes.split(",")]
    if min(sizes) < USUAL // EACH:
        raise UserError(f"The galleries hold {USUAL // EACH} pictures at least, got --sizes {args.sizes}.")
    folder = args.out / fingerprint(CODE, ())  # what other code indexed is kept apart
    folder.mkdir(parents=True, exist_ok=True)
    drawn = min(max(sizes), USUAL)
    edges = scenes(folder, drawn + args.queries)
    edges, queries = edges[:drawn], np.array(edges[drawn:])
    figures = Figures()
    answers: list[list[list[int]]] = []
    seconds: dict[str, list[float]] = {"numba": [], "numba, cached": []}
    sizes_gb: dict[str, list[float]] = {"numba": [], "numba, cached": []}
    for n in sizes:
        index = write_index(folder / f"{n}.index", edges, n)
        for name, cache in (("numba", False), ("numba, cached", True)):
            got = alone(index, queries, cache, True)
            seconds[name].append(1000 * got["seconds"])
            sizes_gb[name].append(got["bytes"] / 1e9)
            if n == USUAL:
                end = "_cached" if cache else ""
                figures.put(f"milliseconds{end}", 1000 * got["seconds"], "ms")
                figures.put(f"peak_memory_gb{end}", got["bytes"] / 1e9, "GB")
                answers.append(got["answers"])
        if n == LARGE:
            figures.put("peak_memory_gb_50k", sizes_gb["numba"][-1], "GB")
    if USUAL in sizes:
        figures.put_all(_beside_others(folder / f"{USUAL}.index", queries, answers, figures))
    figures.put_all(_near_duplicates(folder, edges, queries))
    figures.write(args.json, "retrieval", fingerprint=folder.name, queries=args.queries, sizes=sizes)
    _plot(args.out / "retrieval.png", sizes, dict(seconds), dict(sizes_gb))
    return 0


def _beside_others(index: Path, queries: np.ndarray, answers: list[list[list[int]]], ours: Figures) -> Figures:
    """Whether the `answers` (without and with the cache) are those of brute force, and how many times as fast as
    others `ours` is."""
    torch_path = alone(index, queries[:5], False, False)
    loop = scikit_image(index, queries[0])
    want = brute_force(index, queries)
    figures = Figures()
    identical = float(np.mean([a == b == c for a, b, c in zip(want, *answers)]))
    figures.put("top5_identical", identical, QUERIES)
    identical = float(np.mean([a == b for a, b in zip(want, torch_path["answers"])]))
    figures.put("torch_identical", identical, QUERIES)
    figures.put("skimage_seconds", loop, "s")
    figures.put("torchmetrics_seconds", torchmetrics_seconds(index, queries[0]), "s")
    figures.put("speedup_vs_skimage", loop / (ours["milliseconds"] / 1000), "times")
    figures.put("speedup_vs_skimage_cached", loop / (ours["milliseconds_cached"] / 1000), "times")
    figures.put("speedup_torch_path", loop / torch_path["seconds"], "times")
    return figures


def _near_duplicates(root: Path, edges: np.ndarray, queries: np.ndarray, each: int = EACH) -> Figures:
    """The share of a gallery of near-duplicates (`USUAL` / each scenes, `each` copies of each with noise) that a
    search for such a copy scores, and whether it finds what a search without bounds does."""
    path = root / "near-duplicates.index"

    def write(target: Path) -> None:
        rng = np.random.default_rng(0)
        with target.open("wb") as f:
            f.write(header("scharr"))
            for i in range(USUAL):
                noisy = np.clip(edges[i // each].astype(int) + rng.integers(-2, 3, (SIDE, SIDE)), 0, 255).astype(
                    np.uint8
                )
                f.write(_record(noisy, i))

    if not path.is_file():
        files.write_atomically(path, write)
    rng = np.random.default_rng(1)
    chosen = rng.integers(USUAL // each, size=len(queries))
    copies = np.stack(
        [np.clip(edges[i].astype(int) + rng.integers(-2, 3, (SIDE, SIDE)), 0, 255).astype(np.uint8) for i in chosen]
    )
    bounded, scan = (alone(path, copies, cache, True) for cache in (True, False))
    figures = Figures()
    figures.put("visited_near_duplicates", bounded["visited"], "share of the gallery")
    identical = float(np.mean([a == b for a, b in zip(bounded["answers"], scan["answers"])]))
    figures.put("near_duplicates_identical", identical, QUERIES)
    return figures


def _plot(
    path: Path, sizes: list[int], seconds: dict[str, Sequence[float]], memory: dict[str, Sequence[float]]
) -> None:
    from ..models.plots import curve

    pictures = [
        curve(seconds, sizes, "pictures in the gallery", "milliseconds a query"),
        curve(memory, sizes, "pictures in the gallery", "GB beyond the imports"),
    ]
    measure.save_picture(path, np.concatenate(pictures, axis=1))
