"""The figures of a set of images against what was asked for."""

from __future__ import annotations

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
from ..models.plots import contact_sheet
from ..models.tensors.uint8 import image_of, to_uint8
from .figures import COSINE, MMD, SHARE, Figures, Interval
from .store import CODE, WEIGHTS, fingerprint
from .tasks import Task, scene

JUDGES = ("tiny-a", "tiny-b", "tiny-c")
AMONG = 64
UNITS = {"tiny_a": SHARE, "tiny_b": SHARE, "tiny_c": SHARE, "own_prompt_r1": SHARE, "clip": COSINE}
"""What `seen` measures of each image, and in which unit."""


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
    """[n]: the number of the emotion that each task asks for."""
    return torch.tensor([MIKELS.index(task.emotion) for task in tasks])


def seen(images: torch.Tensor, tasks: Sequence[Task]) -> dict[str, torch.Tensor]:
    """Quantity (a key of `UNITS`) -> [n]: tiny_a, tiny_b and tiny_c, 1 where that judge names the emotion asked for,
    else 0; and by tiny-eval own_prompt_r1, 1 where an image's own prompt is the nearest of 64 (as many images as make
    whole groups of 64), and clip, the CLIP score (100 cosine)."""
    by_judge = {
        judge.replace("-", "_"): (probabilities(images, judge).argmax(dim=1) == labels(tasks)).float()
        for judge in JUDGES
    }
    image, text = image_features(images), text_features([task.prompt for task in tasks])
    group = min(AMONG, len(tasks))
    hits = [
        metrics.retrieved(image[i : i + group], text[i : i + group]).float()
        for i in range(0, len(tasks) - group + 1, group)
    ]
    return {**by_judge, "own_prompt_r1": torch.cat(hits), "clip": 100 * (image * text).sum(dim=1)}


def described(
    images: torch.Tensor, tasks: Sequence[Task], prefix: str, known: dict[str, torch.Tensor] | None = None
) -> Figures:
    """The means of `seen` (`known`, where it has been asked already), and where the tasks have layouts kid: the
    kernel distance to the very layouts rendered under the emotions asked for, with its jackknife interval."""
    figures = Figures()
    for key, values in (known or seen(images, tasks)).items():
        figures.put_mean(f"{prefix}.{key}", values, UNITS[key], counted=UNITS[key] == SHARE)
    if tasks[0].layout >= 0:
        figures.put(f"{prefix}.kid", *kernel_distance(image_features(images), _real_features(tuple(tasks))))
    return figures


def kernel_distance(a: torch.Tensor, b: torch.Tensor) -> tuple[float, str, Interval]:
    """(the kernel distance of features a and b, its unit, its interval), as `Figures.put` takes them."""
    return metrics.kernel_distance(a, b), MMD, metrics.jackknife_interval(metrics.kernel_distance, a, b)


def compared(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], prefix: str) -> Figures:
    """Ours less theirs (each as `seen` gives it, of the same tasks)."""
    figures = Figures()
    for key in ("tiny_b", "tiny_c", "own_prompt_r1", "clip"):
        figures.put_difference(f"{prefix}.{key}", ours[key], theirs[key], UNITS[key])
    return figures


@lru_cache(maxsize=4)
def _real_features(tasks: tuple[Task, ...]) -> torch.Tensor:
    return image_features(torch.stack([scene(t, t.emotion) for t in tasks]))


def fingerprint_of_figures() -> str:
    """Of the code and the models that make an image and judge it."""
    return fingerprint(
        (*CODE, "benchmarks.measure:described", "benchmarks.measure:compared"), (*WEIGHTS, "tiny-c", "clip-eval", "vgg")
    )


def save_picture(path: Path, array: Any) -> None:
    """array [H, W, 3] in 0..1 as a PNG or JPEG."""
    from PIL import Image

    files.write_atomically(path, lambda p: Image.fromarray(to_uint8(array)).save(p))


def save_sheet(
    path: Path, images: Sequence[torch.Tensor], labels: Sequence[str], columns: int, cell: int = 160
) -> None:
    """Images [3, H, W] side by side, each with its label below."""
    arrays = [image.permute(1, 2, 0).cpu().numpy() for image in images]
    save_picture(path, contact_sheet(arrays, labels, columns, cell=cell))


def read_picture(path: Path) -> torch.Tensor:
    """[3, H, W] in 0..1."""
    return image_of(pictures.read(path))
