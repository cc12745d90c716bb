"""The figures of a set of images against what was asked for."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import torch

from ..models import files, host, metrics, pictures
from ..models.emotions import MIKELS
from ..models.networks.classifiers import load_classifier
from ..models.networks.perceptual import PerceptualDistance
from ..models.networks.scorers import load_scorer
from ..models.tensors.uint8 import image_of, to_uint8
from .store import CODE, WEIGHTS, fingerprint
from .tasks import Task, scene

JUDGES = ("tiny-a", "tiny-b", "tiny-c")
AMONG = 64


@cache
def _judge(name: str) -> Any:
    return load_scorer("tiny-eval") if name == "tiny-eval" else load_classifier(name)


@torch.no_grad()
def probabilities(images: torch.Tensor, judge: str) -> torch.Tensor:
    """[n, 8] of images [n, 3, H, W] by a classifier."""
    device = host.current().device
    return torch.cat([_judge(judge)(part.to(device)).softmax(dim=-1).cpu() for part in images.split(64)])


def image_features(images: torch.Tensor) -> torch.Tensor:
    """[n, D] normalised, by tiny-eval."""
    device = host.current().device
    return torch.cat([metrics.clip_features(_judge("tiny-eval"), part.to(device)).cpu() for part in images.split(64)])


def text_features(texts: Sequence[str]) -> torch.Tensor:
    """[n, D] normalised, by tiny-eval."""
    with torch.no_grad():
        return _judge("tiny-eval").text_features(list(texts)).cpu()


@lru_cache(maxsize=2)
def _distance(network: str = "") -> PerceptualDistance:
    return PerceptualDistance(network).to(host.current().device)


def distance_name() -> str:
    """What `distances` measures: LPIPS, or its stand-in."""
    return _distance().name


@torch.no_grad()
def distances(a: torch.Tensor, b: torch.Tensor, network: str = "") -> torch.Tensor:
    """[n] perceptual distances of images a and b [n, 3, H, W]; by the features of a network of that name, if given."""
    device = host.current().device
    return torch.cat([_distance(network)(x.to(device), y.to(device)).cpu() for x, y in zip(a.split(32), b.split(32))])


def made(folder: Path, names: Sequence[str], make: Callable[[int], torch.Tensor]) -> torch.Tensor:
    """[n, 3, H, W]: what `make` (i -> [1, 3, H, W]) gives, 8-bit, kept image by image so that a stopped run goes on."""
    from tqdm import tqdm

    folder.mkdir(parents=True, exist_ok=True)
    done = []
    for i, name in enumerate(tqdm(names, desc=folder.name, mininterval=2)):
        path = folder / f"{name}.png"
        if not path.is_file():
            save_picture(path, make(i)[0].permute(1, 2, 0).cpu().numpy())
        done.append(read_picture(path))
    return torch.stack(done)


def labels(tasks: Sequence[Task]) -> torch.Tensor:
    return torch.tensor([MIKELS.index(task.emotion) for task in tasks])


def with_interval(key: str, value: float, interval: tuple[float, float]) -> dict[str, float]:
    """A figure and its 95 % interval as three entries."""
    return {key: value, f"{key}.low": interval[0], f"{key}.high": interval[1]}


def seen(images: torch.Tensor, tasks: Sequence[Task]) -> dict[str, torch.Tensor]:
    """For each image [n]: tiny_a, tiny_b, tiny_c, 1 where that judge names the emotion asked for, else 0; and by
    tiny-eval own_prompt_r1, 1 where an image's own prompt is the nearest of 64 (as many images as make whole groups
    of 64), and clip, the CLIP score (100 cosine)."""
    by_judge = {
        judge.replace("-", "_"): (probabilities(images, judge).argmax(dim=1) == labels(tasks)).float()
        for judge in JUDGES
    }
    image, text = image_features(images), text_features([task.prompt for task in tasks])
    group = min(AMONG, len(tasks))
    found = [
        metrics.retrieved(image[i : i + group], text[i : i + group]).float()
        for i in range(0, len(tasks) - group + 1, group)
    ]
    return {**by_judge, "own_prompt_r1": torch.cat(found), "clip": 100 * (image * text).sum(dim=1)}


def described(
    images: torch.Tensor, tasks: Sequence[Task], prefix: str, found: dict[str, torch.Tensor] | None = None
) -> dict[str, float]:
    """The means of `seen` (`found`, where it has been asked already) with their intervals (Wilson's, of shares), and
    where the tasks have layouts kid: the kernel distance to the very layouts rendered under the emotions asked for,
    with its jackknife interval."""
    figures: dict[str, float] = {}
    for key, values in (found or seen(images, tasks)).items():
        mean = float(values.mean())
        interval = metrics.mean_interval(values) if key == "clip" else metrics.wilson_interval(mean, len(values))
        figures |= with_interval(f"{prefix}.{key}", mean, interval)
    if tasks[0].layout >= 0:
        both = image_features(images), _real_features(tuple(tasks))
        figures |= with_interval(
            f"{prefix}.kid", metrics.kernel_distance(*both), metrics.jackknife_interval(metrics.kernel_distance, *both)
        )
    return figures


def compared(
    ours: dict[str, torch.Tensor],
    theirs: dict[str, torch.Tensor],
    prefix: str,
    keys: Sequence[str] = ("tiny_b", "tiny_c", "own_prompt_r1", "clip"),
) -> dict[str, float]:
    """Ours less theirs (each as `seen` gives it, of the same tasks), with the paired bootstrap's interval."""
    out: dict[str, float] = {}
    for key in keys:
        out |= with_interval(
            f"{prefix}.{key}", float((ours[key] - theirs[key]).mean()), paired_interval(ours[key], theirs[key])
        )
    return out


@lru_cache(maxsize=4)
def _real_features(tasks: tuple[Task, ...]) -> torch.Tensor:
    return image_features(torch.stack([scene(t, t.emotion) for t in tasks]))


def paired_interval(a: torch.Tensor, b: torch.Tensor, draws: int = 2000) -> tuple[float, float]:
    """The bootstrap's 95 % interval of mean(a - b), a and b [n] measured on the same tasks."""
    difference = a.double() - b.double()
    index = torch.randint(len(difference), (draws, len(difference)), generator=torch.Generator().manual_seed(0))
    means = difference[index].mean(dim=1)
    return float(means.quantile(0.025)), float(means.quantile(0.975))


def with_mean(key: str, values: torch.Tensor, groups: Sequence[Any], share: bool) -> dict[str, float]:
    """The mean of values [n] with its interval: Wilson's for a `share` (values of 0 and 1), the normal one for
    others, the bootstrap over groups where values have one in common (a layout)."""
    mean = float(values.double().mean())
    if len(set(groups)) < len(groups):
        return with_interval(key, mean, grouped_interval(values, groups))
    return with_interval(
        key, mean, metrics.wilson_interval(mean, len(values)) if share else metrics.mean_interval(values)
    )


def numbered(groups: Sequence[Any]) -> torch.Tensor:
    """[n]: each group's number, in the order in which they come."""
    names = {name: i for i, name in enumerate(dict.fromkeys(groups))}
    return torch.tensor([names[g] for g in groups])


def grouped_interval(values: torch.Tensor, groups: Sequence[Any], draws: int = 2000) -> tuple[float, float]:
    """The bootstrap's 95 % interval of the mean of values [n], drawn by group: values of one group (a layout) go
    together."""
    number = numbered(groups)
    n = int(number.max()) + 1
    sums = torch.zeros(n, dtype=torch.float64).index_add(0, number, values.double())
    counts = torch.zeros(n, dtype=torch.float64).index_add(0, number, torch.ones(len(values), dtype=torch.float64))
    index = torch.randint(n, (draws, n), generator=torch.Generator().manual_seed(0))
    means = sums[index].sum(dim=1) / counts[index].sum(dim=1)
    return float(means.quantile(0.025)), float(means.quantile(0.975))


def fingerprint_of_figures() -> str:
    """Of the code and the models that make an image and judge it."""
    return fingerprint(
        (*CODE, "benchmarks.measure:described", "benchmarks.measure:compared"), (*WEIGHTS, "tiny-c", "clip-eval", "vgg")
    )


def machine() -> str:
    """What the figures were measured on."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return f"{device}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}"


def write(path: Path | None, name: str, figures: dict[str, float], unit: dict[str, str], **settings: Any) -> None:
    """Prints the figures, and writes them where a path is given: {"name", "machine", "figures", "unit", "settings"}.
    The settings say what was run: a file of other settings, code or models is told apart by them. Threads and the
    machine's load stand beside them, for times."""
    figures = {key: value if math.isfinite(value) else None for key, value in figures.items()}  # JSON knows no infinity
    for key, value in figures.items():
        if value is None:
            print(f"{key:<44}not reached")
        elif not key.endswith((".low", ".high")):
            interval = (
                f"   {figures[f'{key}.low']:.3f} .. {figures[f'{key}.high']:.3f}"
                if figures.get(f"{key}.low") is not None
                else ""
            )
            print(f"{key:<44}{value:>9.4g}{interval}")
    if path:
        result = {
            "name": name,
            "machine": machine(),
            "threads": torch.get_num_threads(),
            "load": list(os.getloadavg()) if hasattr(os, "getloadavg") else [],
            "figures": figures,
            "unit": unit,
            "settings": settings,
        }
        files.write_atomically(path, lambda p: p.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8"))


def save_picture(path: Path, array: Any) -> None:
    """array [H, W, 3] in 0..1 as a PNG or JPEG."""
    from PIL import Image

    files.write_atomically(path, lambda p: Image.fromarray(to_uint8(array)).save(p))


def read_picture(path: Path) -> torch.Tensor:
    """[3, H, W] in 0..1."""
    return image_of(pictures.read(path))
