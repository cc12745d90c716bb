"""What each part of MUSE does: unoptimised tokens, the target's loss alone, suppression times 1, 10 and 100, and the
gate's threshold from always open to nearly never. The same prompts and noise throughout.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch

from ..models import metrics
from ..models.emotions import MIKELS, EmotionTarget
from ..models.errors import UserError
from ..models.plots import contact_sheet, curve
from . import measure, memory
from .methods import Method, make_all
from .muse import MUSE, PROMPT
from .store import Store
from .tasks import Task, add_arguments, generation

__all__ = ["add_arguments", "main"]

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


def main(args: argparse.Namespace) -> int:
    if args.n < 2:
        raise UserError(f"Intervals take two prompts at least, got --n {args.n}.")
    tasks = generation(args.n, args.split)
    methods = variants()
    make_all(
        args.out, [(m, tasks) for m in (PROMPT, *methods.values())], batch=memory.fitting_batch(), label="ablation"
    )
    before = measure.probabilities(Store(args.out, PROMPT).images(tasks), "tiny-a")
    ends = [MIKELS[int(row.argmax())] for row in before]  # what the plain image feels like
    images, held = {}, {}
    figures: dict[str, float] = {}
    for name, method in methods.items():
        store = Store(args.out, method)
        images[name], notes = store.images(tasks), store.notes(tasks)
        figures |= measure.described(images[name], tasks, name)
        figures[f"{name}.inner_steps"] = sum(note["inner_steps"] for note in notes) / len(notes)
        # What the loss holds down is what it saw when the gate opened; where some gates never open, what the plain
        # image is.
        inherent = [note["inherent"] for note in notes] if name in SUPPRESSION else ends
        held[name] = _held_down(measure.probabilities(images[name], "tiny-b"), inherent, tasks)
        for key, values in held[name].items():
            figures |= measure.with_interval(f"{name}.{key}", float(values.mean()), metrics.mean_interval(values))
    for name in SUPPRESSION[1:]:
        for key in ("p_inherent", "p_similar"):
            ours, without = held[name][key], held["target_only"][key]
            figures |= measure.with_interval(
                f"{name}_less_target_only.{key}", float((ours - without).mean()), measure.paired_interval(ours, without)
            )
    gates = [f"gate_{t:g}" for t in THRESHOLDS]
    for key in ("tiny_b", "own_prompt_r1", "clip"):
        figures[f"gate_rank.{key}"] = metrics.rank_correlation(list(THRESHOLDS), [figures[f"{g}.{key}"] for g in gates])
    measure.write(
        args.json,
        "muse-ablation",
        figures,
        {key: _unit(key) for key in figures},
        fingerprint=measure.fingerprint_of_figures(),
        n=args.n,
        split=args.split,
    )
    measure.save_picture(
        args.out / "gate.png",
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
    measure.save_picture(
        args.out / "ablation.png",
        contact_sheet(
            [images[name][i].permute(1, 2, 0).numpy() for i in range(min(8, len(tasks))) for name in shown],
            [f"{name}\n{tasks[i].emotion}" for i in range(min(8, len(tasks))) for name in shown],
            columns=len(shown),
            cell=112,
        ),
    )
    return 0


def _unit(key: str) -> str:
    return next(
        (
            unit
            for part, unit in (
                ("rank", "Spearman"),
                ("clip", "100 cosine"),
                ("kid", "squared MMD"),
                ("inner_steps", "steps an image"),
            )
            if part in key
        ),
        "share",
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
