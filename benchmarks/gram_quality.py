"""What Gram transfer does to held-out scenes whose true counterfactual is known: the same layout rendered in the
reference's emotion. DenseNet beside VGG, with the weight on smoothness and by the paper's loss, which has none; the
retrieved reference beside random ones, SSIM's beside a perceptual distance's.
"""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..models import files, host, metrics
from ..models.emotions import MIKELS, OPPOSITE
from ..models.errors import UserError
from ..models.gram import GramConfig, transfer
from ..models.networks.backbones import load_backbone
from ..models.plots import contact_sheet, curve
from ..models.reference import edge_response, luminance
from ..models.reference.ssim import best
from ..models.tensors.uint8 import image_of
from ..training.data.moodscenes import layout_seeds, make_scene, sample_emotion
from ..training.data.photos import photograph, square
from . import measure
from .figures import DISTANCE, SHARE, SSIM, Figures
from .store import fingerprint

IOU = "intersection over union"
POSITIVE = torch.tensor([1.0, 1, 1, 1, 0, 0, 0, 0])
USUAL = GramConfig(iterations=150)
"""As many evaluations as the templates make."""

RANDOM = 3
"""Random references a scene, of the retrieved one's label."""

LOSSES = {"": USUAL, "paper.": replace(USUAL, smoothness=0.0)}
"""Figure prefix -> the settings: as users get them, and by the paper's loss."""

DENSENET_WEIGHTS = (1e4, 1e5, USUAL.sentiment_weight)
VGG_WEIGHTS = (1e3, 1e4, 3e4, 1e5, 3e5, 1e6, 3e6, 1e7, 3e7, 1e8)
"""Close to one another: VGG is read on chords between them, which lie below a curve that bends."""

CODE = ("benchmarks.gram_quality:_job", "benchmarks.gram_quality:_transfers")
SHOWN = 12
LEAST = 400
PHOTOGRAPHS = (("coffee", "fear"), ("chelsea", "anger"), ("china", "contentment"), ("rocket", "excitement"))


def tensor_of(image: np.ndarray) -> torch.Tensor:
    """[H, W, 3] of 8 bits -> [1, 3, H, W] in 0..1 on the host's device."""
    return image_of(image)[None].to(host.current().device)


def eight_bit(image: torch.Tensor) -> torch.Tensor:
    """An image in 0..1, rounded as a file of 8 bits has it."""
    return (image * 255).round() / 255


def _edge(image: np.ndarray) -> np.ndarray:
    from PIL import Image

    return edge_response(luminance(Image.fromarray(image)))


def _gallery_scene(job: tuple[int, int]) -> Any:
    i, layout = job
    return make_scene(layout, MIKELS[i % len(MIKELS)], i)


def gallery(n: int) -> list[Any]:
    """n scenes of training layouts, the emotions in turn."""
    jobs = list(enumerate(map(int, layout_seeds("train", n, 17))))
    with ProcessPoolExecutor() as pool:
        return list(pool.map(_gallery_scene, jobs, chunksize=50))


def layout_iou(a: Any, b: Any) -> float:
    """Mean intersection over union of two scenes' objects, name by name; a name that one lacks counts 0."""

    def masks(scene: Any) -> dict[str, np.ndarray]:
        out: dict[str, np.ndarray] = {}
        for o in scene.objects:
            here = scene.owners == o.number
            out[o.name] = out[o.name] | here if o.name in out else here
        return out

    x, y = masks(a), masks(b)
    shares = [float((x[n] & y[n]).sum() / max(1, (x[n] | y[n]).sum())) if n in x and n in y else 0.0 for n in {*x, *y}]
    return float(np.mean(shares)) if shares else 0.0


@dataclass(frozen=True)
class Job:
    """One scene's work: 8-bit images [H, W, 3], what retrieval says of it, and where its figures go."""

    file: Path
    number: int
    target: str
    scene: np.ndarray
    truth: np.ndarray
    references: list[np.ndarray]
    said: dict[str, float]


def given(size: int, split: str) -> str:
    """What `quality`'s figures follow from, in short."""
    return fingerprint(CODE, ("densenet", "vgg", "tiny-b"), f"{size} {split} {measure.distance_name()}")


def quality(root: Path, scenes: int, size: int, split: str) -> Figures:
    """Held-out scenes, each with the picture of the opposite emotion and its own noun that SSIM finds among `size`.
    One process a core, one thread each."""
    from tqdm import tqdm

    if size < LEAST:
        raise UserError(f"Every emotion and noun needs pictures in the gallery: {LEAST} at least, got {size}.")
    folder = root / given(size, split)
    pictures = gallery(size)
    edges = np.stack([_edge(s.image) for s in pictures]).reshape(len(pictures), -1)
    layouts = list(map(int, layout_seeds(split, scenes, 18)))
    file = lambda i: folder / f"scene-{i:03d}.json"
    jobs = [_job(file(i), i, layout, pictures, edges) for i, layout in enumerate(layouts) if not file(i).is_file()]
    with ProcessPoolExecutor(1 if torch.cuda.is_available() else host.cores(), mp_context=get_context("spawn")) as pool:
        for _ in tqdm(pool.map(_transfers, jobs), total=len(jobs), desc="transfers", disable=not jobs):
            pass
    rows = [json.loads(file(i).read_text(encoding="utf-8")) for i in range(len(layouts))]
    figures = _of_rows(rows)
    for loss in LOSSES:
        figures.put_all(networks(rows, loss))
    _draw(root, split, rows, folder, figures)
    photographs(root, pictures, edges)
    return figures


def _of_rows(rows: list[dict[str, float]]) -> Figures:
    """The means over scenes of what `_transfers` measured of each."""
    column = lambda key: torch.tensor([row[key] for row in rows], dtype=torch.float64)
    usual = f"densenet_{USUAL.sentiment_weight:g}"
    retrieved = column(f"{usual}.lpips")
    random = torch.stack([column(f"random_{k}.lpips") for k in range(RANDOM)]).mean(dim=0)
    overlap, overlap_perceptual = column("layout_iou_ssim"), column("layout_iou_perceptual")
    figures = Figures()
    figures.put_mean("lpips_random", random, DISTANCE)
    figures.put_mean("lpips_source", column("lpips_source"), DISTANCE)
    figures.put_mean("lpips_random_less_retrieved", random - retrieved, DISTANCE)
    figures.put_mean("ssim_counterfactual", column("ssim_counterfactual"), SSIM)
    figures.put_mean("layout_iou_ssim", overlap, IOU)
    figures.put_mean("layout_iou_perceptual", overlap_perceptual, IOU)
    figures.put_mean("layout_iou_ssim_less_perceptual", overlap - overlap_perceptual, IOU)
    for prefix, name in (*((loss, f"{loss}{usual}") for loss in LOSSES), ("last.", "last")):
        distance = column(f"{name}.lpips")
        better = (distance < column("lpips_source")).double()
        figures.put_mean(f"{prefix}sentiment_gain", column(f"{name}.gain"), SHARE)
        figures.put_mean(f"{prefix}emotion_gain", column(f"{name}.emotion_gain"), SHARE)
        figures.put_mean(f"{prefix}lpips_better_fraction", better, SHARE, counted=True)
        figures.put_mean(f"{prefix}lpips_retrieved", distance, DISTANCE)
        figures.put_mean(f"{prefix}ssim_mean", column(f"{name}.ssim"), SSIM)
    return figures


def _job(file: Path, i: int, layout: int, pictures: list[Any], edges: np.ndarray) -> Job:
    """What one scene needs: the reference that SSIM finds, then random ones of the same label."""
    emotion = sample_emotion(layout, np.random.default_rng(i))
    target = OPPOSITE[emotion]
    scene, truth = make_scene(layout, emotion, i), make_scene(layout, target, i)
    fits = np.array([n for n, s in enumerate(pictures) if s.emotion == target and s.noun == scene.noun], np.int64)
    nearest = best(_edge(scene.image), edges, fits, 1)[0][0]
    away = measure.distances(
        tensor_of(scene.image).expand(len(fits), -1, -1, -1), torch.cat([tensor_of(pictures[n].image) for n in fits])
    )
    near = fits[int(away.argmin())]  # what retrieval by perceptual distance would take
    chosen = [nearest, *np.random.default_rng([3, i]).choice(fits, RANDOM).tolist()]
    return Job(
        file,
        i,
        target,
        scene.image,
        truth.image,
        [pictures[n].image for n in chosen],
        {
            "layout_iou_ssim": layout_iou(scene, pictures[nearest]),
            "layout_iou_perceptual": layout_iou(scene, pictures[int(near)]),
        },
    )


def _transfers(job: Job) -> None:
    """One scene's transfers: its figures into its file, and the pictures of the first dozen beside it."""
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    densenet, vgg = load_backbone("tiny-densenet"), load_backbone("tiny-vgg")
    source, counterfactual = tensor_of(job.scene), tensor_of(job.truth)
    runs = {
        "last": (0, densenet, replace(USUAL, layers="last")),
        **{f"random_{k}": (1 + k, densenet, USUAL) for k in range(RANDOM)},
        **{
            f"{loss}{name}_{w:g}": (0, net, replace(config, sentiment_weight=w))
            for loss, config in LOSSES.items()
            for name, net, weights in (("densenet", densenet, DENSENET_WEIGHTS), ("vgg", vgg, VGG_WEIGHTS))
            for w in weights
        },
    }
    polarity = POSITIVE if job.target in MIKELS[:4] else 1 - POSITIVE
    before = measure.probabilities(source, "tiny-b")[0]
    row = {
        **job.said,
        "ssim_counterfactual": float(metrics.ssim(source, counterfactual)),
        "lpips_source": float(measure.distances(source, counterfactual)),
    }
    for name, (number, net, config) in runs.items():
        done = eight_bit(transfer(net, source, tensor_of(job.references[number]), config).image).cpu()
        gained = measure.probabilities(done, "tiny-b")[0] - before
        row |= {
            f"{name}.gain": float((gained * polarity).sum()),
            f"{name}.emotion_gain": float(gained[MIKELS.index(job.target)]),
            f"{name}.ssim": float(metrics.ssim(done, source.cpu())),
            f"{name}.lpips": float(measure.distances(done, counterfactual.cpu())),
        }
        if config == USUAL and number == 0 and job.number < SHOWN:
            for label, image in (
                ("0-source", job.scene / 255),
                ("1-reference", job.references[0] / 255),
                ("2-transferred", done[0].permute(1, 2, 0).numpy()),
                ("3-truth", job.truth / 255),
            ):
                measure.save_picture(job.file.with_name(f"{job.file.stem}-{label}.png"), image)
    files.write_atomically(job.file, lambda p: p.write_text(json.dumps(row), encoding="utf-8"))


def networks(rows: list[dict[str, float]], loss: str) -> Figures:
    """SSIM by DenseNet and by VGG with one of `LOSSES` at one sentiment gain: DenseNet's at its usual weight, or the
    largest that VGG reaches if that is less. The interval is the bootstrap's over scenes, the same scenes for both."""
    names = [
        [f"{loss}{network}_{weight:g}" for weight in weights]
        for network, weights in (("densenet", DENSENET_WEIGHTS), ("vgg", VGG_WEIGHTS))
    ]
    densenet, vgg = (np.array([[[row[f"{n}.gain"], row[f"{n}.ssim"]] for n in own] for row in rows]) for own in names)

    def at(chosen: np.ndarray) -> tuple[float, float, float]:
        ours, theirs = densenet[chosen].mean(axis=0), vgg[chosen].mean(axis=0)
        gain = min(ours[-1, 0], theirs[:, 0].max())
        return gain, ssim_at(ours, gain), ssim_at(theirs, gain)

    gain, ours, theirs = at(np.arange(len(rows)))
    draws = np.random.default_rng(0).integers(len(rows), size=(500, len(rows)))
    less = [a - b for _, a, b in map(at, draws)]
    figures = Figures()
    figures.put(f"{loss}vgg.sentiment_gain_compared", gain, SHARE)
    figures.put(f"{loss}vgg.ssim_mean_densenet", ours, SSIM)
    figures.put(f"{loss}ssim_mean_vgg", theirs, SSIM)
    interval = tuple(np.nanquantile(less, (0.025, 0.975)).tolist())
    figures.put(f"{loss}vgg.densenet_less_vgg", ours - theirs, SSIM, interval)
    return figures


def ssim_at(points: np.ndarray, gain: float) -> float:
    """points [k, 2] of (gain, SSIM) along rising weights -> the highest SSIM where the line through them has that
    gain; not a number where it never does."""
    values = [float("nan")]
    for (g, s), (h, t) in pairwise(points):
        if min(g, h) <= gain <= max(g, h):
            values.append(s + (t - s) * ((gain - g) / (h - g) if h != g else 0.0))
    return float(np.nanmax(values)) if len(values) > 1 else values[0]


def photographs(root: Path, pictures: list[Any], edges: np.ndarray, side: int = 256) -> None:
    """Real photographs, each with the scene of an emotion that SSIM finds for it, and its feeling on them: a picture
    to look at."""
    net, shown, words = load_backbone("tiny-densenet"), [], []
    for name, emotion in PHOTOGRAPHS:
        photo = square(photograph(name), side).copy()
        fits = np.array([n for n, s in enumerate(pictures) if s.emotion == emotion], np.int64)
        reference = pictures[best(_edge(square(photograph(name), 128)), edges, fits, 1)[0][0]].image
        done = transfer(net, tensor_of(photo), tensor_of(reference), USUAL).image[0].permute(1, 2, 0).cpu().numpy()
        shown += [photo / 255, reference / 255, done]
        words += [name, f"reference: {emotion}", "transferred"]
    measure.save_picture(root / "photographs.jpg", contact_sheet(shown, words, columns=6, cell=192))


def _draw(root: Path, split: str, rows: list[dict[str, float]], folder: Path, figures: Figures) -> None:
    shown = [measure.read_picture(path).permute(1, 2, 0).numpy() for path in sorted(folder.glob("scene-*-?-*.png"))]
    measure.save_picture(
        root / f"transfers-{split}.png",
        contact_sheet(shown, ["source", "reference", "transferred", "truth"] * (len(shown) // 4), columns=12),
    )
    mean = lambda key: float(np.mean([row[key] for row in rows]))
    for loss in LOSSES:
        measure.save_picture(
            root / f"{loss.replace('.', '-')}vgg.png",
            curve(
                {"VGG": [mean(f"{loss}vgg_{w:g}.ssim") for w in VGG_WEIGHTS]},
                [mean(f"{loss}vgg_{w:g}.gain") for w in VGG_WEIGHTS],
                "sentiment gained",
                "SSIM kept",
                {"DenseNet": figures[f"{loss}ssim_mean"]},
            ),
        )
