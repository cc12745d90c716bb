"""MUSE against its rivals on held-out prompts: generation, emotion alone, editing, intensity and mixes. Every method
gets the same noise. tiny-a guides; tiny-b (another architecture and data) and tiny-c (another domain) judge.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from ..models import metrics
from ..models.emotions import MIKELS, neighbours
from ..models.muse import MuseConfig
from ..models.plots import contact_sheet, curve
from ..training.data.moodscenes import layout_seeds
from . import measure
from .methods import Method, make_all
from .store import Store, fingerprint
from .tasks import editing, emotion_only, generation, scene

MUSE = Method("muse", threshold=60.0, force_open_at=0.5, muse=MuseConfig(max_inner_steps=10, learning_rate=0.05))
"""Chosen on validation layouts: in the tiny world content is settled by half of the steps, and an emotion that starts sooner
takes its place."""

UNIVERSAL = Method("universal", recurrences=2, muse=MuseConfig(views=2))
"""With MUSE's random views, without which it convinces its guide alone (16 validation prompts at strength 16: tiny-b 0.38 in place
of 0.25)."""

STRENGTHS = (4.0, 8.0, 16.0, 32.0, 64.0)
SDEDIT = (0.4, 0.55, 0.7)
INTENSITIES = (0.0, 0.25, 0.5, 0.75, 1.0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="images and pictures (default: %(default)s)")
    parser.add_argument("--n", type=int, default=256, help="held-out prompts (default: %(default)s)")
    parser.add_argument("--split", default="test", choices=("train", "val", "test"), help="layouts (tune on train or val)")
    parser.add_argument("--only", default="", metavar="PARTS",
                        help="of generation, emotion, editing, intensity, mix; by commas (default: all)")
    parser.add_argument("--quick", action="store_true", help="generation by prompt, word and MUSE alone")


def main(args: argparse.Namespace) -> int:
    wanted = [p for p in args.only.split(",") if p] or ["generation", "emotion", "editing", "intensity", "mix"]
    figures: dict[str, float] = {}
    if args.quick:
        figures |= _generation(args, {"prompt": Method("prompt"), "word": Method("word"), "muse": MUSE})
    else:
        parts = {"generation": _all_methods, "emotion": _emotion_only, "editing": _editing, "intensity": _intensity, "mix": _mix}
        for name in wanted:
            figures |= parts[name](args)
    measure.write(args.json, "muse", figures, {key: _unit(key) for key in figures}, fingerprint=fingerprint(), n=args.n,
                  split=args.split, parts="generation, quick" if args.quick else ", ".join(wanted),
                  lpips=measure.distance_name() if "editing" in wanted and not args.quick else "")
    return 0


def _unit(key: str) -> str:
    return next((unit for part, unit in (("clip", "100 cosine"), ("kid", "squared MMD"), ("lpips", "distance"),
                                         ("rank", "Spearman"), ("diversity", "variance")) if part in key), "share")


def _generation(args: argparse.Namespace, methods: dict[str, Method]) -> dict[str, float]:
    """Every method on the same prompts; a sheet of each image beside the plain one."""
    tasks = generation(args.n, args.split)
    make_all(args.out, [(m, tasks) for m in methods.values()], label="generation")
    images = {name: Store(args.out, m).images(tasks) for name, m in methods.items()}
    figures: dict[str, float] = {}
    for name, x in images.items():
        figures |= measure.accuracies(x, tasks, name) | measure.fidelity(x, tasks, name)
    if "muse" in images:
        notes = Store(args.out, methods["muse"]).notes(tasks)
        figures["muse.inner_steps"] = sum(note["inner_steps"] for note in notes) / len(notes)
        figures["muse.never_opened"] = sum(note["opened_at"] is None for note in notes) / len(notes)
        shown = range(min(64, len(tasks)))
        sheet = contact_sheet([images[name][i].permute(1, 2, 0).numpy() for i in shown for name in ("prompt", "muse")],
                              [text for i in shown for text in ("plain", tasks[i].emotion)], columns=16, cell=96)
        measure.save_picture(args.out / f"muse-{args.split}.png", sheet)
    return figures


def _all_methods(args: argparse.Namespace) -> dict[str, float]:
    """Universal guidance is shown at five strengths; what counts is the one with the best accuracy by tiny-b on the very
    images that are reported, which favours it."""
    strengths = {f"universal_{s:g}": replace(UNIVERSAL, strength=s) for s in STRENGTHS}
    figures = _generation(args, {"prompt": Method("prompt"), "word": Method("word"), **strengths, "muse": MUSE,
                                 "guide_b": replace(MUSE, guide="tiny-b")})
    best = max(strengths, key=lambda name: figures[f"{name}.tiny_b"])
    figures |= {key.replace(best, "universal"): value for key, value in figures.items() if key.startswith(f"{best}.")}
    figures["universal.strength"] = float(best.rsplit("_", 1)[1])
    keys = ("tiny_a", "tiny_b", "tiny_c", "own_prompt_r1")
    measure.save_picture(args.out / "universal.png", curve(
        {key: [figures[f"{name}.{key}"] for name in strengths] for key in keys}, STRENGTHS,
        "universal guidance: strength", "share", {f"MUSE {key}": figures[f"muse.{key}"] for key in keys}))
    tasks = generation(args.n, args.split)
    real = torch.stack([scene(t, t.emotion) for t in tasks])
    # What the kernel distance is where nothing is wrong: the same emotions in scenes of other layouts.
    others = [replace(t, layout=layout) for t, layout in zip(tasks, layout_seeds(args.split, args.n, seed=66))]
    floor = measure.fidelity(torch.stack([scene(t, t.emotion) for t in others]), tasks, "heldout")["heldout.kid"]
    return figures | measure.accuracies(real, tasks, "heldout") | measure.fidelity(real, tasks, "heldout") | {"heldout.kid": floor}


def _emotion_only(args: argparse.Namespace) -> dict[str, float]:
    """No content asked for: "an image of fear". Semantic diversity is the variance of tiny-eval's features in a class."""
    tasks = emotion_only(args.n)
    methods = {"prompt": Method("prompt"), "universal": replace(UNIVERSAL, strength=STRENGTHS[2]), "muse": MUSE}
    make_all(args.out, [(m, tasks) for m in methods.values()], label="emotion alone")
    figures: dict[str, float] = {}
    for name, method in methods.items():
        x = Store(args.out, method).images(tasks)
        figures |= measure.accuracies(x, tasks, f"emotion_only.{name}")
        figures[f"emotion_only.{name}.diversity"] = metrics.semantic_diversity(measure.image_features(x), measure.labels(tasks))
    return figures


def _editing(args: argparse.Namespace) -> dict[str, float]:
    """Scenes turned from their own emotion to another: what a judge sees, how near the true counterfactual (the same layout
    rendered under the target) the edit comes, and how much of the source it keeps."""
    tasks = editing(min(args.n, 64), args.split)
    edit = replace(MUSE, threshold=None)
    methods = {"edit": edit, "reconstruction": replace(edit, kind="reconstruction"),
               **{f"sdedit_{s:g}": Method("sdedit", strength=s) for s in SDEDIT}}
    make_all(args.out, [(m, tasks) for m in methods.values()], label="editing")
    source = torch.stack([scene(t, t.source) for t in tasks])
    truth = torch.stack([scene(t, t.emotion) for t in tasks])
    images = {name: Store(args.out, m).images(tasks) for name, m in methods.items()}
    figures: dict[str, float] = {}
    own = measure.distances(source, truth)
    figures["edit.lpips_source_counterfactual"] = float(own.mean())
    for name, x in images.items():
        figures |= measure.accuracies(x, tasks, name)
        away = measure.distances(x, truth)
        figures |= measure.with_interval(f"{name}.lpips_counterfactual", float(away.mean()), metrics.mean_interval(away))
        figures |= measure.with_interval(f"{name}.lpips_gained", float((own - away).mean()), measure.paired_interval(own, away))
        similarity = 100 * (measure.image_features(x) * measure.image_features(source)).sum(dim=1)
        figures |= measure.with_interval(f"{name}.clip_image", float(similarity.mean()), metrics.mean_interval(similarity))
        kept = metrics.ssim(x, source)
        figures |= measure.with_interval(f"{name}.ssim", float(kept.mean()), metrics.mean_interval(kept))
    figures["edit.ssim_reconstruction"] = figures["reconstruction.ssim"]
    columns = [source, images["reconstruction"], images["edit"], images["sdedit_0.55"], truth]
    measure.save_picture(args.out / f"editing-{args.split}.png", contact_sheet(
        [x[i].permute(1, 2, 0).numpy() for i in range(min(12, len(tasks))) for x in columns],
        [text for t in tasks[:12] for text in (t.source, "reconstructed", f"to {t.emotion}", "SDEdit", "truth")], columns=10))
    return figures


def _intensity(args: argparse.Namespace) -> dict[str, float]:
    """The target's probability over five intensities: rank correlation of each image, averaged."""
    tasks = generation(min(args.n, 64), args.split)
    rising = []
    make_all(args.out, [(MUSE, [replace(t, intensity=k) for t in tasks]) for k in INTENSITIES], label="intensity")
    for k in INTENSITIES:
        x = Store(args.out, MUSE).images([replace(t, intensity=k) for t in tasks])
        p = measure.probabilities(x, "tiny-b")
        rising.append(p.gather(1, measure.labels(tasks)[:, None]).squeeze(1))
    each = torch.stack(rising, dim=1)
    figures = {f"intensity_{k:g}.p_target": float(v) for k, v in zip(INTENSITIES, each.mean(dim=0))}
    figures["intensity_rank_correlation"] = sum(
        metrics.rank_correlation(list(INTENSITIES), row) for row in each.tolist()) / len(each)
    figures["intensity_rank_correlation_of_means"] = metrics.rank_correlation(list(INTENSITIES), each.mean(dim=0).tolist())
    return figures


def _mix(args: argparse.Namespace) -> dict[str, float]:
    """Half of one emotion and half of the next but one on the wheel: both should be seen more than any neighbour of
    theirs that was not asked for."""
    from ..models.emotions import WHEEL

    base = generation(min(args.n, 64), args.split)
    tasks = [replace(t, second=WHEEL[(WHEEL.index(t.emotion) + 2) % 8]) for t in base]
    make_all(args.out, [(MUSE, tasks)], label="mixes")
    p = measure.probabilities(Store(args.out, MUSE).images(tasks), "tiny-b")
    asked, beside = [], []
    for row, t in zip(p, tasks):
        others = {*neighbours(t.emotion), *neighbours(t.second)} - {t.emotion, t.second}
        asked.append([float(row[MIKELS.index(name)]) for name in (t.emotion, t.second)])
        beside.append(max(float(row[MIKELS.index(name)]) for name in others))
    first, second = (sum(a[i] for a in asked) / len(asked) for i in (0, 1))
    return {"mix.p_first": first, "mix.p_second": second, "mix.p_largest_neighbour": sum(beside) / len(beside),
            "mix.both_above_neighbours": sum(min(a) > b for a, b in zip(asked, beside)) / len(asked)}
