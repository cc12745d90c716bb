"""Moodifier on held-out MoodScenes, where the region that an emotion truly changes is known: its ablations and its rivals. The
part of the MLLM is played by the scene's own annotation, so that what is measured is the edit.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from ..models import metrics
from ..models.backbones import load_backbone, taps
from ..models.emotions import MIKELS, OPPOSITE
from ..models.moodifier import masks
from ..models.moodifier.instruction import plain
from ..models.moodifier.words import described, said_at
from ..models.plots import contact_sheet
from ..training.data.moodscenes import layout_seeds, make_scene, sample_emotion
from . import measure
from .store import fingerprint
from .edit_methods import Edit, _pipeline, conditioning, edited

STRENGTHS = (0.3, 0.45, 0.6, 0.75)
TUNED_ON = 16
"""Validation scenes on which img2img's strength is chosen."""
FEATHER = 4

METHODS = {
    "none": Edit("blend", detailed=False, masked=False, encoder="moodify"),
    "prompt_only": Edit("blend", masked=False, encoder="moodify"),
    "mask_only": Edit("blend", detailed=False, encoder="moodify"),
    "both": Edit("blend", encoder="moodify"),
    "clip_text": Edit("blend", encoder="clip"),
    "infedit": Edit("infedit", masked=False),
    "img2img": Edit("img2img", masked=False), "img2img_masked": Edit("img2img"),
    "inversion": Edit("inversion", masked=False), "inversion_masked": Edit("inversion"),
}

ORDERS = {"clip": ("prompt_only", "both", "mask_only", "none"), "structure": ("both", "mask_only", "prompt_only", "none")}
"""The paper's Table 5: similarity falls along the first, structure distance rises along the second."""

_CODE = ("models/moodifier/*.py", "models/diffusion/diffusers.py", "models/diffusion/sampling.py", "benchmarks/edit_methods.py",
         "benchmarks/moodifier.py", "training/data/moodscenes/*.py")


@dataclass(frozen=True)
class Case:
    """One edit with its truth: images [3, H, W], texts, and masks [1, H, W] of the objects that change."""

    source: torch.Tensor
    truth: torch.Tensor
    emotion: str
    target: str
    source_prompt: str
    plain_prompt: str
    target_prompt: str
    names: tuple[str, ...]
    objects: dict[str, torch.Tensor]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-moodifier"), help="images and pictures (default: %(default)s)")
    parser.add_argument("--n", type=int, default=64, help="held-out scenes (default: %(default)s)")
    parser.add_argument("--split", default="test", choices=("train", "val", "test"))
    parser.add_argument("--only", default="", help="methods by commas (default: all)")


def main(args: argparse.Namespace) -> int:
    out = args.out / fingerprint(_CODE, ("unet", "vae", "clip", "moodifyclip"))
    out.mkdir(parents=True, exist_ok=True)
    found = cases(args.n, args.split)
    where = [grounded(case) for case in found]
    figures = grounding(found)
    chosen = [m for m in args.only.split(",") if m] or list(METHODS)
    results, rows = {"source": torch.stack([case.source for case in found])}, {}
    results["round_trip"] = torch.cat([round_trip(case.source[None]) for case in found])
    for name in chosen:
        method = strongest(out, name) if METHODS[name].kind == "img2img" else METHODS[name]
        if method.kind == "img2img":
            figures[f"{name}.strength"] = method.strength
        results[name] = made(out, f"{name}-{args.split}-{method.strength:g}", method, found, where)
    for name, x in results.items():
        rows[name] = judged(x, found)
        for key, values in rows[name].items():
            interval = metrics.wilson_interval(float(values.mean()), len(values)) if key == "tiny_b" else metrics.mean_interval(values)
            figures |= measure.with_interval(f"{name}.{key}", float(values.mean()), interval)
    figures |= orders(rows)
    shown = [("source", lambda i: found[i].source), ("mask", lambda i: where[i][0].expand(3, -1, -1)),
             *((name, lambda i, name=name: results[name][i]) for name in chosen), ("truth", lambda i: found[i].truth)]
    measure.save_picture(args.out / f"moodifier-{args.split}.png", contact_sheet(
        [get(i).permute(1, 2, 0).numpy() for i in range(min(10, len(found))) for _, get in shown],
        [f"{name}\n{found[i].target}" if name == "truth" else name for i in range(min(10, len(found))) for name, _ in shown],
        columns=len(shown), cell=110))
    one = METHODS["both"]
    measure.write(args.json, "moodifier", figures, {key: _unit(key) for key in figures}, n=len(found), split=args.split,
                  lpips=measure.distance_name(), structure="self-similarity of the tiny VGG's relu4_4", steps=one.steps, cfg=one.cfg,
                  scheduler=one.scheduler, prompts="the scenes' own annotation", attention="taught with masks (training/grounding.py)")
    return 0


def orders(rows: dict[str, dict[str, torch.Tensor]]) -> dict[str, float]:
    """Each step of `ORDERS` as the mean difference of its two methods on the same scenes, positive where it holds, and its 95 %
    interval; and by how much "both" lies nearer to the truth than each rival with the same mask."""
    figures: dict[str, float] = {}
    for key, names in ORDERS.items():
        sign = 1 if key == "clip" else -1
        for a, b in zip(names, names[1:]):
            if a in rows and b in rows:
                x, y = sign * rows[a][key], sign * rows[b][key]
                figures |= measure.with_interval(f"order.{key}.{a}-{b}", float((x - y).mean()), measure.paired_interval(x, y))
    for rival in ("infedit", "img2img_masked", "inversion_masked"):
        for key in ("lpips_counterfactual", "lpips_masked_truth", "structure"):
            if rival in rows and "both" in rows:
                x, y = rows[rival][key], rows["both"][key]
                figures |= measure.with_interval(f"lead.{key}.{rival}", float((x - y).mean()), measure.paired_interval(x, y))
    return figures


def strongest(out: Path, name: str) -> Edit:
    """An img2img at the strength that comes nearest to the truth on validation scenes."""
    found = cases(TUNED_ON, "val")
    where, truth = [grounded(case) for case in found], torch.stack([case.truth for case in found])
    tried = [replace(METHODS[name], strength=s) for s in STRENGTHS]
    away = [float(measure.distances(made(out, f"{name}-val-{m.strength:g}", m, found, where), truth).mean()) for m in tried]
    return tried[away.index(min(away))]


@torch.no_grad()
def round_trip(image: torch.Tensor) -> torch.Tensor:
    """[1, 3, H, W] through the VAE and back: no edit keeps more."""
    _, _, vae = _pipeline()
    return vae.decode(vae.encode(image)).cpu()


def _unit(key: str) -> str:
    units = {"psnr": "dB", "lpips": "distance", "structure": "distance", "mse": "squared", "clip": "100 cosine"}
    last = key.removesuffix(".low").removesuffix(".high").split(".")
    return next((unit for part, unit in units.items() if any(part in word for word in last[-2:])), "share")


def cases(n: int, split: str) -> list[Case]:
    """n held-out scenes under an emotion that their layout inclines to, to be turned to the opposite one; only scenes in which
    an object that changes can be seen."""
    out: list[Case] = []
    for i, layout in enumerate(layout_seeds(split, 4 * n, 21)):
        emotion = sample_emotion(int(layout), np.random.default_rng([21, i]))
        target = OPPOSITE[emotion]
        before, after = (make_scene(int(layout), e, i) for e in (emotion, target))
        words = {o.name: o.attribute for o in after.objects}
        changed = [o for o in before.objects if o.salient and o.area > 0.01 and words.get(o.name, o.attribute) != o.attribute]
        rng = np.random.default_rng([22, i])
        source_prompt = before.content_caption(rng)
        names = tuple(dict.fromkeys(o.name for o in changed if said_at(source_prompt, o.name)))
        if not names:
            continue
        target_prompt = source_prompt
        for name in names:
            target_prompt = described(target_prompt, name, words[name])
        whole = after.content_caption(np.random.default_rng([22, i]), attributes=1.0).rsplit(", ", 1)
        weather = f", {whole[1]}" if len(whole) > 1 and len(whole[1].split()) < 4 else ""
        where = {name: torch.from_numpy(np.isin(before.owners, [o.number for o in before.objects if o.name == name]))[None].float()
                 for name in names}
        picture = lambda s: torch.from_numpy(s.image).permute(2, 0, 1).float() / 255
        out.append(Case(picture(before), picture(after), emotion, target, source_prompt, f"{source_prompt}, {target}",
                        plain(target_prompt + weather, 600), names, where))
        if len(out) == n:
            break
    return out


# -- where --------------------------------------------------------------------------------------------------------

def _maps(case: Case) -> torch.Tensor:
    """[1, G + 1, h, w]: the diffusion model's attention to each object that changes, and to any word."""
    model, _, vae = _pipeline()
    columns = [*(masks.token_columns(case.source_prompt, name) for name in case.names), masks.word_columns(case.source_prompt)]
    return masks.attention_maps(model, model.context(conditioning(case.source_prompt, "clip")),
                                model.latent_in(vae.encode(case.source[None])), columns)


def grounded(case: Case) -> torch.Tensor:
    """[1, 1, H, W]: the mask that Moodifier makes of a case."""
    return masks.feathered(masks.attention_mask(_maps(case), case.source[None]), FEATHER)


def iou(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a > 0.5, b > 0.5
    return float((a & b).sum() / (a | b).sum().clamp(min=1))


def grounding(found: list[Case]) -> dict[str, float]:
    """IoU of each named object's attention mask with its true mask; of saliency's; and of the true mask brought down to the
    latent's grid and back, which is as well as any mask on that grid can do."""
    rows: dict[str, list[tuple[float, float, float]]] = {}
    for case in found:
        maps, salient = _maps(case), masks.saliency_mask(case.source[None])[0]
        for g, name in enumerate(case.names):
            truth = case.objects[name]
            size = maps.shape[-2:]
            back = lambda m: F.interpolate(m, size=truth.shape[-2:], mode="nearest")[0]
            ceiling = back((F.interpolate(truth[None], size=size, mode="area") > 0.5).float())
            mine = masks.attention_mask(maps[:, [g, -1]], case.source[None])[0]
            rows.setdefault(name, []).append((iou(mine, truth), iou(salient, truth), iou(ceiling, truth)))
    every = np.array([r for part in rows.values() for r in part])
    figures = dict(zip(("iou_attention", "iou_saliency", "iou_ceiling"), map(float, every.mean(axis=0))))
    figures["iou_attention_of_ceiling"] = figures["iou_attention"] / figures["iou_ceiling"]
    for name, part in sorted(rows.items()):
        figures[f"iou_attention.{name}"] = float(np.mean([r[0] for r in part]))
        figures[f"iou_ceiling.{name}"] = float(np.mean([r[2] for r in part]))
    return figures


# -- how ----------------------------------------------------------------------------------------------------------

def made(out: Path, name: str, method: Edit, found: list[Case], where: list[torch.Tensor]) -> torch.Tensor:
    """[n, 3, H, W]: a method's results."""
    text = lambda case: case.target_prompt if method.detailed else case.plain_prompt
    return measure.made(out / "images" / name, [f"{i:04d}" for i in range(len(found))], lambda i: edited(
        method, found[i].source[None], found[i].source_prompt, text(found[i]), where[i], i))


@torch.no_grad()
def judged(x: torch.Tensor, found: list[Case]) -> dict[str, torch.Tensor]:
    """[n] each: the paper's figures outside the true region of change and (`_whole`) over the image, and the distance to the truth.

    The true counterfactual changes light and palette everywhere, which a mask forbids; `lpips_masked_truth` is therefore the
    distance to what an ideal edit inside the region would be: the truth there, the source elsewhere.
    """
    source, truth = (torch.stack([getattr(case, part) for case in found]) for part in ("source", "truth"))
    region = torch.stack([torch.stack(list(case.objects.values())).amax(dim=0) for case in found]) > 0.5
    outside = torch.where(region, source, x)
    last = taps(load_backbone("tiny-vgg"), ("relu4_4",))
    labels = torch.tensor([MIKELS.index(case.target) for case in found])
    text = measure.text_features([f"an image of {case.target}" for case in found])
    return {
        "structure": metrics.structure_distance(last(source)[0], last(x)[0]), "psnr": metrics.psnr(source, x, ~region),
        "psnr_whole": metrics.psnr(source, x), "lpips": measure.distances(source, outside), "lpips_whole": measure.distances(source, x),
        "mse": metrics.mean_square(source, x, ~region), "mse_whole": metrics.mean_square(source, x), "ssim": metrics.ssim(source, outside),
        "ssim_whole": metrics.ssim(source, x), "clip": 100 * (measure.image_features(x) * text).sum(dim=1),
        "tiny_b": (measure.probabilities(x, "tiny-b").argmax(dim=1) == labels).float(), "lpips_counterfactual": measure.distances(x, truth),
        "lpips_masked_truth": measure.distances(x, torch.where(region, truth, source))}
