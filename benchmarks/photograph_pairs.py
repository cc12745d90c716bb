"""What `affect bench photographs` transfers: photographs with human ratings and wallpapers, each with four rated
references, and the results of every method on disk."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..models import files, pictures
from ..models.errors import UserError
from ..models.tensors.resize import fitted
from ..models.tensors.uint8 import image_of, to_uint8
from ..training.va_head import Rated, read_ratings

NETWORK = "efficientnet-lite0"
"""Whose features every transfer here compares; the judge is another network's."""

TEST_DIGITS = "0123"
"""Last hex digits of the SHA-256 of the themes that are tested on; the others tune and train."""

REFERENCES = 4
"""References a photograph."""

WALLPAPERS = (
    "Autumn",
    "BytheWater",
    "ColdRipple",
    "ColorfulCups",
    "DarkestHour",
    "EveningGlow",
    "FallenLeaf",
    "Grey",
    "Kite",
    "OneStandsOut",
    "PastelHills",
    "Path",
    "summer_1am",
)
"""The photographs of Debian's package plasma-workspace-wallpapers; the others are drawn."""

RIVALS = {"reinhard": "reinhard_lab", "mkl": "mkl_lab", "histogram": "histogram"}
"""Figure name -> method of ComfyUI's own ColorTransfer node."""

SIDE = 768
"""Pixels of the longer side at which larger photographs are transferred."""


@dataclass(frozen=True)
class Pair:
    """A photograph and a reference, with people's mean (valence, arousal) in 0..1; None where nobody rated it."""

    number: int
    source: Path
    reference: Path
    source_rating: tuple[float, float] | None
    reference_rating: tuple[float, float]

    @property
    def name(self) -> str:
        return f"{self.number:03d}"


def ratings(oasis: Path, digits: str = TEST_DIGITS) -> Rated:
    """The rated photographs of some themes."""
    columns = ("file", "valence_mean", "arousal_mean", "theme")
    return read_ratings(oasis / "images", oasis / "ratings.csv", columns, (1, 7)).chosen(digits)


def pairs(oasis: Path, wallpapers: Path, n: int, digits: str = TEST_DIGITS) -> list[Pair]:
    """`n` photographs with `REFERENCES` each, each fourth a wallpaper while there are some; references are of another
    theme than the photograph. In the order of one draw, so that fewer are a part of more."""
    rated = ratings(oasis, digits)
    unrated = [p for w in WALLPAPERS for p in sorted((wallpapers / w / "contents" / "images").glob("1680x1050.*"))]
    rng = np.random.default_rng(64)
    order, far = rng.permutation(len(rated.files)).tolist(), rng.permutation(len(unrated)).tolist()
    point = lambda i: (float(rated.points[i][0]), float(rated.points[i][1]))
    chosen: list[tuple[Path, tuple[float, float] | None, str]] = []
    while len(chosen) < n and (order or far):
        if far and (len(chosen) % 4 == 3 or not order):
            chosen.append((unrated[far.pop()], None, ""))
        else:
            i = order.pop()
            chosen.append((rated.files[i], point(i), rated.groups[i]))
    if len(chosen) < n:
        raise UserError(f"There are {len(chosen)} photographs of these themes and wallpapers, and {n} are asked for.")
    found = []
    for k, (path, rating, theme) in enumerate(chosen):
        others = [i for i in range(len(rated.files)) if rated.groups[i] != theme and rated.files[i] != path]
        for j, i in enumerate(np.random.default_rng([65, k]).choice(others, REFERENCES, replace=False).tolist()):
            found.append(Pair(k * REFERENCES + j, path, rated.files[i], rating, point(i)))
    return found


@lru_cache(maxsize=16)
def shown(path: Path) -> torch.Tensor:
    """[1, 3, H, W] in 0..1: a photograph at `SIDE` pixels at most."""
    image = pictures.read(path)
    width, height = image.size
    h, w = fitted((height, width), SIDE)
    return image_of(image if (h, w) == (height, width) else image.resize((w, h), 1))[None]  # 1: Lanczos


def save(path: Path, image: torch.Tensor) -> None:
    """[1, 3, H, W] in 0..1 as a PNG of 8 bits."""
    from PIL import Image

    array = to_uint8(image[0].permute(1, 2, 0).clamp(0, 1).cpu())
    files.write_atomically(path, lambda p: Image.fromarray(array).save(p, format="png"))


def load(path: Path) -> torch.Tensor:
    """[1, 3, H, W] in 0..1."""
    return image_of(pictures.read(path))[None]


def made(folder: Path, pair: Pair, method: str, make: Callable[[], torch.Tensor]) -> torch.Tensor:
    """A method's result for a pair, as a file of 8 bits has it: made once."""
    path = folder / f"{pair.name}-{method}.png"
    if not path.is_file():
        save(path, make())
    return load(path)


def matched_histograms(source: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """scikit-image's histogram matching of [1, 3, H, W], channel by channel."""
    from skimage.exposure import match_histograms

    a, b = (t[0].permute(1, 2, 0).numpy() for t in (source, reference))
    return torch.from_numpy(np.asarray(match_histograms(a, b, channel_axis=-1))).float().permute(2, 0, 1)[None]


def _jobs(folder: Path, todo: list[Pair], temporary: Path) -> dict[Path, dict[str, Any]]:
    """What ColorTransfer has still to make -> its job, with pictures as arrays in a temporary folder."""
    jobs: dict[Path, dict[str, Any]] = {}
    arrays: dict[Path, Path] = {}
    for pair in todo:
        for name, method in RIVALS.items():
            out = folder / f"{pair.name}-{name}.png"
            if out.is_file():
                continue
            for path in (pair.source, pair.reference):
                if path not in arrays:
                    arrays[path] = temporary / f"{len(arrays)}.npy"
                    np.save(arrays[path], to_uint8(shown(path)[0].permute(1, 2, 0)))
            inputs = [str(arrays[pair.source]), str(arrays[pair.reference])]
            jobs[out] = {"inputs": inputs, "method": method, "out": str(temporary / f"out-{len(jobs)}.npy")}
    return jobs


def color_transfers(folder: Path, todo: list[Pair], comfyui: Path | None, python: str) -> tuple[str, ...]:
    """Makes ComfyUI's ColorTransfer of every pair, by the node's own code in its own Python; without a ComfyUI only
    histogram matching, by scikit-image. The names of the methods that were made."""
    if comfyui is None:
        for pair in todo:
            made(folder, pair, "histogram", partial(matched_histograms, shown(pair.source), shown(pair.reference)))
        return ("histogram",)
    with tempfile.TemporaryDirectory() as temporary:
        jobs = _jobs(folder, todo, Path(temporary))
        if jobs:
            script = Path(__file__).with_name("color_transfer.py")
            asked = json.dumps(list(jobs.values()))
            done = subprocess.run([python, str(script)], cwd=comfyui, input=asked, text=True, capture_output=True)
            if done.returncode:
                raise UserError(f"ComfyUI's ColorTransfer failed: {done.stderr[-500:]}")
        for path, job in jobs.items():
            save(path, image_of(np.load(job["out"]))[None])
    return tuple(RIVALS)
