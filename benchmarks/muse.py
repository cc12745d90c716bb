"""MUSE against its rivals on held-out prompts: generation, emotion alone, editing, intensity and mixes. Every method
gets the same noise. tiny-a guides; tiny-b (another architecture and data) and tiny-c (another domain) judge.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch

from ..models import metrics
from ..models.emotions import MIKELS, WHEEL
from ..models.muse import MuseConfig
from ..models.plots import curve
from ..training.data.moodscenes import layout_seeds
from . import arguments, measure, memory
from .figures import COSINE, DISTANCE, INNER_STEPS, SHARE, SPEARMAN, SSIM, Figures
from .methods import Method, make_all
from .store import Store
from .tasks import Task, editing, emotion_only, generation, scene

CFG = 4.0
"""Every method's: at the usual 7.5 the tiny model's colours burn out (docs/results/muse.md)."""

PROMPT, WORD = Method("prompt", cfg=CFG), Method("word", cfg=CFG)

MUSE = Method(
    "muse",
    cfg=CFG,
    threshold=60.0,
    force_open_at=0.25,
    muse=MuseConfig(cfg=CFG, max_inner_steps=10, learning_rate=0.05, views=4, content_weight=5.0),
)
"""Chosen on validation prompts: docs/results/muse.md has what was tried."""

EDIT = replace(MUSE, threshold=-100.0, cfg=1.5, muse=replace(MUSE.muse, cfg=1.5))
"""From a DDIM inversion, whose way back strays the farther the more it is guided; the edit template's. Its gate
opens at once; it is needed for its CLIP."""

UNIVERSAL = Method("universal", cfg=CFG, recurrences=2, muse=MuseConfig(views=4))
"""With MUSE's random views, without which it convinces its guide alone."""

STRENGTHS = (4.0, 8.0, 16.0, 32.0, 64.0)
RECURRENCES = 4
"""Tried beside two at the best strength: as much work an image as MUSE's."""

TRIED_ON = 64
"""Of the same prompts, on which universal guidance's best strength is chosen by tiny-b."""

SDEDIT = (0.4, 0.55, 0.7)
INTENSITIES = (0.0, 0.25, 0.5, 0.75, 1.0)
MOST = {"emotion": 128, "editing": 64, "intensity": 64, "mix": 64}
"""Images of the parts that take more than generation's prompts: each is made several times, or costs more."""

PARTS = ("generation", *MOST)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `affect bench muse`."""
    arguments.held_out_prompts(parser, 256)
    arguments.parts(parser, PARTS)
    parser.add_argument("--quick", action="store_true", help="generation by prompt, word and MUSE alone")


def main(args: argparse.Namespace) -> int:
    """Makes what is missing, measures it, and writes the figures and sheets."""
    arguments.at_least(args.n, 3, "three prompts")
    figures = Figures()
    if args.quick:
        figures.put_all(_generation(args, {"prompt": PROMPT, "word": WORD, "muse": MUSE})[0])
    else:
        parts = {
            "generation": _all_methods,
            "emotion": _emotion_only,
            "editing": _editing,
            "intensity": _intensity,
            "mix": _mix,
        }
        for name in args.only:
            figures.put_all(parts[name](args))
    figures.write(
        args.json,
        "muse",
        fingerprint=measure.fingerprint_of_figures(),
        n=args.n,
        split=args.split,
        parts=["generation, quick"] if args.quick else list(args.only),
        n_of_part={name: min(args.n, most) for name, most in MOST.items()},
        lpips=measure.distance_name(),
    )
    return 0


Seen = dict[str, dict[str, torch.Tensor]]


def _generation(args: argparse.Namespace, methods: dict[str, Method]) -> tuple[Figures, Seen]:
    """Every method on the same prompts: the figures, and what was seen in each image."""
    tasks = generation(args.n, args.split)
    make_all(args.out, [(m, tasks) for m in methods.values()], batch=memory.fitting_batch(), label="generation")
    figures = Figures()
    seen: Seen = {}
    for name, method in methods.items():
        images = Store(args.out, method).images(tasks)
        seen[name] = measure.seen(images, tasks)
        figures.put_all(measure.described(images, tasks, name, seen[name]))
    if "muse" in methods:
        figures.put_all(_opening(Store(args.out, methods["muse"]).notes(tasks), methods["muse"]))
        _sheet(args, tasks[:64], {name: methods[name] for name in ("prompt", "muse")}, "muse", columns=16)
        for rival in ("word", "prompt"):
            figures.put_all(measure.compared(seen["muse"], seen[rival], f"muse_less_{rival}"))
    return figures, seen


def _opening(notes: list[dict], method: Method) -> Figures:
    """How much was done and when it began: by the gate's score, or because its share of the steps was over."""
    at = [note["opened_at"] for note in notes if note["opened_at"] is not None]
    forced = int(method.force_open_at * method.steps)
    figures = Figures()
    figures.put("muse.inner_steps", sum(note["inner_steps"] for note in notes) / len(notes), INNER_STEPS)
    figures.put("muse.opened_at", sum(at) / max(1, len(at)), f"step of {method.steps}")
    figures.put("muse.opened_by_score", sum(step < forced for step in at) / len(notes), SHARE)
    return figures


def _sheet(args: argparse.Namespace, tasks: list[Task], methods: dict[str, Method], name: str, columns: int) -> None:
    """What each method made of some tasks, side by side, with tiny-b's probability of the emotion asked for."""
    images = {label: Store(args.out, method).images(tasks) for label, method in methods.items()}
    sure = {label: measure.probabilities(x, "tiny-b") for label, x in images.items()}
    percent = lambda label, i, t: f"{100 * float(sure[label][i, MIKELS.index(t.emotion)]):.0f} %"
    measure.save_sheet(
        args.out / f"{name}-{args.split}.png",
        [x[i] for i in range(len(tasks)) for x in images.values()],
        [
            f"{'plain' if label == 'prompt' else label}\n{t.emotion} {percent(label, i, t)}"
            for i, t in enumerate(tasks)
            for label in images
        ],
        columns,
        cell=112,
    )


def _all_methods(args: argparse.Namespace) -> Figures:
    """Every method on all prompts, universal guidance at its best."""
    best, figures = _best_universal(args)
    methods = {
        "prompt": PROMPT,
        "word": WORD,
        "muse": MUSE,
        "universal": best,
        "guide_b": replace(MUSE, guide="tiny-b"),
    }
    generated, seen = _generation(args, methods)
    figures.put_all(generated)
    figures.put_all(measure.compared(seen["muse"], seen["universal"], "muse_less_universal"))
    figures.put("universal.strength", best.strength, "guidance scale")
    figures.put("universal.recurrences", best.recurrences, "a step")
    tasks = generation(args.n, args.split)
    _sheet(args, tasks[:16], methods, "methods", columns=10)
    real = torch.stack([scene(t, t.emotion) for t in tasks])
    # What the kernel distance is where nothing is wrong: the same emotions in scenes of other layouts.
    others = [replace(t, layout=layout) for t, layout in zip(tasks, layout_seeds(args.split, args.n, seed=66))]
    floor = measure.described(torch.stack([scene(t, t.emotion) for t in others]), tasks, "heldout")
    figures.put_all(measure.described(real, tasks, "heldout"))
    figures.put_all(floor.select(lambda name: ".kid" in name))
    for key in ("tiny_b", "tiny_c"):
        figures.put(f"muse_of_heldout.{key}", figures[f"muse.{key}"] / figures[f"heldout.{key}"], SHARE)
    kept = figures["muse.own_prompt_r1"] / max(figures["prompt.own_prompt_r1"], 1e-9)
    figures.put("muse_of_prompt.own_prompt_r1", kept, SHARE)
    return figures


def _best_universal(args: argparse.Namespace) -> tuple[Method, Figures]:
    """Universal guidance at five strengths, and at the best of them with more recurrences, on the first prompts;
    what counts is the one with the best accuracy by tiny-b there, on a part of what is reported, which favours it."""
    tasks = generation(min(args.n, TRIED_ON), args.split)
    tried = {f"universal_{s:g}": replace(UNIVERSAL, strength=s) for s in STRENGTHS}
    figures = Figures()
    keys = ("tiny_a", "tiny_b", "tiny_c", "own_prompt_r1")

    def seen(methods: dict[str, Method]) -> str:
        make_all(
            args.out, [(m, tasks) for m in methods.values()], batch=memory.fitting_batch(), label="universal guidance"
        )
        for name, method in methods.items():
            figures.put_all(measure.described(Store(args.out, method).images(tasks), tasks, name))
        return max(tried, key=lambda name: figures.get(f"{name}.tiny_b", -1.0))

    tried["universal_patient"] = replace(tried[seen(dict(tried))], recurrences=RECURRENCES)
    best = tried[seen({"universal_patient": tried["universal_patient"]})]
    make_all(args.out, [(MUSE, tasks)], batch=memory.fitting_batch(), label="MUSE beside it")
    ours = measure.described(Store(args.out, MUSE).images(tasks), tasks, "muse")
    measure.save_picture(
        args.out / "universal.png",
        curve(
            {key: [figures[f"universal_{s:g}.{key}"] for s in STRENGTHS] for key in keys},
            STRENGTHS,
            "universal guidance: strength",
            "share",
            {f"MUSE {key}": ours[f"muse.{key}"] for key in keys},
        ),
    )
    return best, figures


def _emotion_only(args: argparse.Namespace) -> Figures:
    """No content asked for: "an image of fear", so the plain prompt is the prompt with the emotion's word. Semantic
    diversity is the variance of tiny-eval's features in a class; real scenes of the same number have the last line.
    Retrieval says nothing here: there are eight prompts."""
    tasks = emotion_only(min(args.n, MOST["emotion"]))
    content = generation(len(tasks), args.split)
    real = torch.stack([scene(c, t.emotion) for c, t in zip(content, tasks)])
    methods = {
        "prompt": PROMPT,
        "universal": _best_universal(args)[0],
        "muse": MUSE,
        "guide_b": replace(MUSE, guide="tiny-b"),
    }
    make_all(args.out, [(m, tasks) for m in methods.values()], batch=memory.fitting_batch(), label="emotion alone")
    figures = Figures()
    truth, labels = measure.image_features(real), measure.labels(tasks)
    for name, x in {
        **{name: Store(args.out, method).images(tasks) for name, method in methods.items()},
        "heldout": real,
    }.items():
        features, prefix = measure.image_features(x), f"emotion_only.{name}"
        figures.put_all(measure.described(x, tasks, prefix).select(lambda key: ".own_prompt" not in key))
        figures.put(
            f"{prefix}.diversity",
            metrics.semantic_diversity(features, labels),
            "variance",
            metrics.jackknife_interval(metrics.semantic_diversity, features, labels),
        )
        if name != "heldout":
            figures.put(f"{prefix}.kid", *measure.kernel_distance(features, truth))
    _sheet(
        args,
        tasks[:16],
        {name: methods[name] for name in ("prompt", "universal", "muse", "guide_b")},
        "emotion-only",
        columns=8,
    )
    return figures


def _editing(args: argparse.Namespace) -> Figures:
    """Scenes turned from their own emotion to another: what a judge sees, how near the true counterfactual (the same
    layout rendered under the target) the edit comes, and how much of the source it keeps."""
    tasks = editing(min(args.n, MOST["editing"]), args.split)
    methods = {
        "edit": EDIT,
        "reconstruction": replace(EDIT, kind="reconstruction"),
        **{f"sdedit_{s:g}": Method("sdedit", cfg=CFG, strength=s) for s in SDEDIT},
    }
    make_all(args.out, [(m, tasks) for m in methods.values()], batch=memory.fitting_batch(), label="editing")
    source = torch.stack([scene(t, t.source) for t in tasks])
    truth = torch.stack([scene(t, t.emotion) for t in tasks])
    images = {name: Store(args.out, m).images(tasks) for name, m in methods.items()}
    figures = Figures()
    own = measure.distances(source, truth)
    figures.put("edit.lpips_source_counterfactual", float(own.mean()), DISTANCE)
    for name, x in images.items():
        figures.put_all(measure.described(x, tasks, name))
        away = measure.distances(x, truth)
        figures.put_mean(f"{name}.lpips_counterfactual", away, DISTANCE)
        figures.put_difference(f"{name}.lpips_gained", own, away, DISTANCE)
        similarity = 100 * (measure.image_features(x) * measure.image_features(source)).sum(dim=1)
        figures.put_mean(f"{name}.clip_image", similarity, COSINE)
        figures.put_mean(f"{name}.ssim", metrics.ssim(x, source), SSIM)
    figures.put("edit.ssim_reconstruction", figures["reconstruction.ssim"], SSIM)
    columns = [source, images["reconstruction"], images["edit"], images["sdedit_0.55"], truth]
    measure.save_sheet(
        args.out / f"editing-{args.split}.png",
        [x[i] for i in range(min(12, len(tasks))) for x in columns],
        [text for t in tasks[:12] for text in (t.source, "reconstructed", f"to {t.emotion}", "SDEdit", "truth")],
        columns=10,
    )
    return figures


def _intensity(args: argparse.Namespace) -> Figures:
    """The target's probability over five intensities: rank correlation of each image, averaged."""
    tasks = generation(min(args.n, MOST["intensity"]), args.split)
    steps = {k: [replace(t, intensity=k) for t in tasks] for k in INTENSITIES}
    make_all(args.out, [(MUSE, row) for row in steps.values()], batch=memory.fitting_batch(), label="intensity")
    images = {k: Store(args.out, MUSE).images(row) for k, row in steps.items()}
    sure = {
        k: measure.probabilities(x, "tiny-b").gather(1, measure.labels(tasks)[:, None]).squeeze(1)
        for k, x in images.items()
    }
    each = torch.stack(list(sure.values()), dim=1)
    ranks = torch.tensor([metrics.rank_correlation(list(INTENSITIES), row) for row in each.tolist()])
    figures = Figures()
    for k, p in sure.items():
        figures.put_mean(f"intensity_{k:g}.p_target", p, SHARE)
    figures.put_mean("intensity_rank_correlation", ranks, SPEARMAN)
    of_means = metrics.rank_correlation(list(INTENSITIES), each.mean(dim=0).tolist())
    figures.put("intensity_rank_correlation_of_means", of_means, SPEARMAN)
    measure.save_picture(
        args.out / "intensity.png",
        curve({"tiny-b": each.mean(dim=0).tolist()}, INTENSITIES, "intensity", "probability of the emotion asked for"),
    )
    rows = range(min(8, len(tasks)))
    measure.save_sheet(
        args.out / f"intensity-{args.split}.png",
        [images[k][i] for i in rows for k in INTENSITIES],
        [f"{tasks[i].emotion} {k:g}\n{100 * float(sure[k][i]):.0f} %" for i in rows for k in INTENSITIES],
        columns=10,
    )
    return figures


def _mix(args: argparse.Namespace) -> Figures:
    """Half of one emotion and half of the next but one on the wheel: both should be seen more than the one between
    them and than those on their other sides."""
    on_wheel = lambda emotion, steps: WHEEL[(WHEEL.index(emotion) + steps) % len(WHEEL)]
    tasks = [replace(t, second=on_wheel(t.emotion, 2)) for t in generation(min(args.n, MOST["mix"]), args.split)]
    make_all(args.out, [(MUSE, tasks)], batch=memory.fitting_batch(), label="mixes")
    images = Store(args.out, MUSE).images(tasks)
    p = measure.probabilities(images, "tiny-b")
    places = {"first": 0, "second": 2, "between": 1, "beside_first": -1, "beside_second": 3}
    sure = {
        name: torch.stack([row[MIKELS.index(on_wheel(t.emotion, k))] for row, t in zip(p, tasks)])
        for name, k in places.items()
    }
    figures = Figures()
    for name, values in sure.items():
        figures.put_mean(f"mix.p_{name}", values, SHARE)
    for name in ("first", "second"):
        for other in ("between", "beside_first", "beside_second"):
            figures.put_difference(f"mix.{name}_less_{other}", sure[name], sure[other], SHARE)
    beside = torch.stack([sure["between"], sure["beside_first"], sure["beside_second"]]).amax(dim=0)
    above = torch.minimum(sure["first"], sure["second"]) > beside
    figures.put("mix.both_above_each", float(above.float().mean()), SHARE)
    measure.save_sheet(
        args.out / f"mix-{args.split}.png",
        list(images[:32]),
        [
            f"{t.emotion} {100 * float(a):.0f} %\n{t.second} {100 * float(b):.0f} %"
            for t, a, b in zip(tasks[:32], sure["first"], sure["second"])
        ],
        columns=8,
    )
    return figures
