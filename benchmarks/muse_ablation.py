"""What each part of MUSE does: unoptimised tokens, the target's loss alone, suppression times 1, 10 and 100, and the
gate's threshold from always open to nearly never. The same prompts and noise throughout.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from ..models import metrics
from ..models.emotions import MIKELS, EmotionTarget
from ..models.plots import curve
from . import arguments, measure, memory
from .figures import INNER_STEPS, SHARE, SPEARMAN, Figures
from .methods import Method, make_all
from .muse import MUSE, PROMPT
from .store import Store
from .tasks import Task, generation

THRESHOLDS = (0.0, 24.0, 30.0, 36.0, 42.0, 48.0)
"""From the first steps to a gate that stays closed for most: half of the validation prompts' best scores lie above
42. Nothing forces it here."""

SUPPRESSION = ("target_only", "suppress_1", "suppress_10", "suppress_100")


def suppressed(times: float) -> Method:
    """MUSE with so much suppression. Its terms are taken off the loss, which would fall below its stop the sooner
    the heavier they weigh; so that all take the same steps, none of them stops."""
    tokens = MUSE.muse
    return replace(
        MUSE,
        muse=replace(
            tokens,
            stop_loss=-1e9,
            inherent_weight=times * tokens.inherent_weight,
            similar_weight=times * tokens.similar_weight,
        ),
    )


def variants() -> dict[str, Method]:
    """Figure prefix -> method."""
    return {
        "no_tokens": replace(MUSE, muse=replace(MUSE.muse, max_inner_steps=0)),
        **{name: suppressed(k) for name, k in zip(SUPPRESSION, (0, 1, 10, 100))},
        **{f"gate_{t:g}": replace(MUSE, threshold=t, force_open_at=1.0) for t in THRESHOLDS},
    }


add_arguments = arguments.held_out_prompts


def main(args: argparse.Namespace) -> int:
    """Makes what is missing, measures it, and writes the figures and sheets."""
    arguments.at_least(args.n, 3, "three prompts")
    tasks = generation(args.n, args.split)
    methods = variants()
    make_all(
        args.out, [(m, tasks) for m in (PROMPT, *methods.values())], batch=memory.fitting_batch(), label="ablation"
    )
    before = measure.probabilities(Store(args.out, PROMPT).images(tasks), "tiny-a")
    ends = [MIKELS[int(row.argmax())] for row in before]  # what the plain image feels like
    images, held = {}, {}
    figures = Figures()
    for name, method in methods.items():
        store = Store(args.out, method)
        images[name], notes = store.images(tasks), store.notes(tasks)
        figures.put_all(measure.described(images[name], tasks, name))
        figures.put(f"{name}.inner_steps", sum(note["inner_steps"] for note in notes) / len(notes), INNER_STEPS)
        # What the loss holds down is what it saw when the gate opened; where some gates never open, what the plain
        # image is.
        inherent = [note["inherent"] for note in notes] if name in SUPPRESSION else ends
        held[name] = _held_down(measure.probabilities(images[name], "tiny-b"), inherent, tasks)
        for key, values in held[name].items():
            figures.put_mean(f"{name}.{key}", values, SHARE)
    for name in SUPPRESSION[1:]:
        for key in ("p_inherent", "p_similar"):
            ours, without = held[name][key], held["target_only"][key]
            figures.put_difference(f"{name}_less_target_only.{key}", ours, without, SHARE)
    gates = [f"gate_{t:g}" for t in THRESHOLDS]
    for key in ("tiny_b", "own_prompt_r1", "clip"):
        rank = metrics.rank_correlation(list(THRESHOLDS), [figures[f"{g}.{key}"] for g in gates])
        figures.put(f"gate_rank.{key}", rank, SPEARMAN)
    figures.write(args.json, "muse-ablation", fingerprint=measure.fingerprint_of_figures(), n=args.n, split=args.split)
    _draw(args.out, tasks, images, figures, gates)
    return 0


def _draw(out: Path, tasks: list[Task], images: dict[str, torch.Tensor], figures: Figures, gates: list[str]) -> None:
    """The gate's curve, and what each variant made of the first prompts."""
    measure.save_picture(
        out / "gate.png",
        curve(
            {
                **{key: [figures[f"{g}.{key}"] for g in gates] for key in ("tiny_a", "tiny_b", "own_prompt_r1")},
                "CLIP score / 100": [figures[f"{g}.clip"] / 100 for g in gates],
            },
            THRESHOLDS,
            "gate's threshold",
            "share",
        ),
    )
    shown = ("no_tokens", "target_only", "suppress_1", "suppress_100", *gates)
    rows = range(min(8, len(tasks)))
    measure.save_sheet(
        out / "ablation.png",
        [images[name][i] for i in rows for name in shown],
        [f"{name}\n{tasks[i].emotion}" for i in rows for name in shown],
        columns=len(shown),
        cell=112,
    )


def _held_down(p: torch.Tensor, inherent: list[str], tasks: list[Task]) -> dict[str, torch.Tensor]:
    """p_inherent: a judge's probability (rows p [n, 8]) of each image's inherent emotion where that is not the target;
    p_similar: of the wheel's neighbours of the target."""
    own = [float(row[MIKELS.index(name)]) for row, name, task in zip(p, inherent, tasks) if name != task.emotion]
    similar = [
        float(row[MIKELS.index(name)])
        for row, task in zip(p, tasks)
        for name in EmotionTarget.of(task.emotion).similar()
    ]
    return {"p_inherent": torch.tensor(own), "p_similar": torch.tensor(similar)}
