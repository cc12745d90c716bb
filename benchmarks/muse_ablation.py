"""What each part of MUSE does: unoptimised tokens, the target's loss alone, suppression times 1, 10 and 100, and the gate's
threshold from always open to nearly never. The same prompts and noise throughout.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch

from ..models.emotions import MIKELS, EmotionTarget
from ..models.plots import contact_sheet, curve
from . import measure
from .methods import Method, make_all
from .muse import MUSE
from .store import Store, fingerprint
from .tasks import Task, add_arguments, generation

__all__ = ["add_arguments", "main"]

THRESHOLDS = (0.0, 14.0, 24.0, 30.0, 36.0, 42.0, 48.0, 54.0)
"""From the first steps to a gate that stays closed for most: half of the validation prompts' best scores lie above 42. Nothing
forces it here."""


def variants() -> dict[str, Method]:
    """Figure prefix -> method."""
    tokens = MUSE.muse
    times = lambda k: replace(MUSE, muse=replace(tokens, inherent_weight=k * tokens.inherent_weight,
                                                 similar_weight=k * tokens.similar_weight))
    return {"no_tokens": replace(MUSE, muse=replace(tokens, max_inner_steps=0)), "target_only": times(0),
            "suppress_1": times(1), "suppress_10": times(10), "suppress_100": times(100),
            **{f"gate_{t:g}": replace(MUSE, threshold=t, force_open_at=1.0) for t in THRESHOLDS}}


def main(args: argparse.Namespace) -> int:
    tasks = generation(args.n, args.split)
    methods = variants()
    plain = Method("prompt")
    make_all(args.out, [(m, tasks) for m in (plain, *methods.values())], label="ablation")
    before = measure.probabilities(Store(args.out, plain).images(tasks), "tiny-a")
    figures: dict[str, float] = {}
    images = {}
    for name, method in methods.items():
        images[name] = x = Store(args.out, method).images(tasks)
        figures |= measure.accuracies(x, tasks, name) | measure.fidelity(x, tasks, name)
        figures |= _held_down(measure.probabilities(x, "tiny-b"), before, tasks, name)
    gates = [f"gate_{t:g}" for t in THRESHOLDS]
    measure.save_picture(args.out / "gate.png", curve(
        {key: [figures[f"{g}.{key}"] for g in gates] for key in ("tiny_a", "tiny_b", "own_prompt_r1")}, THRESHOLDS,
        "gate's threshold", "share"))
    shown = ("no_tokens", "target_only", "suppress_1", "suppress_100", *gates)
    measure.save_picture(args.out / "ablation.png", contact_sheet(
        [images[name][i].permute(1, 2, 0).numpy() for i in range(min(8, len(tasks))) for name in shown],
        [f"{name}\n{tasks[i].emotion}" for i in range(min(8, len(tasks))) for name in shown], columns=len(shown), cell=112))
    measure.write(args.json, "muse-ablation", figures, {key: "squared MMD" if key.endswith("kid") else "share" for key in figures},
                  fingerprint=fingerprint(), n=args.n, split=args.split)
    return 0


def _held_down(p: torch.Tensor, before: torch.Tensor, tasks: list[Task], prefix: str) -> dict[str, float]:
    """Mean probability (rows p [n, 8], by a judge) of the inherent emotion, which is what tiny-a sees in the plain image
    of the same noise where that is not the target, and of the wheel's neighbours of the target."""
    inherent, similar = [], []
    for row, plain, task in zip(p, before, tasks):
        own = int(plain.argmax())
        if MIKELS[own] != task.emotion:
            inherent.append(float(row[own]))
        similar += [float(row[MIKELS.index(name)]) for name in EmotionTarget.of(task.emotion).similar()]
    return {f"{prefix}.p_inherent": sum(inherent) / max(1, len(inherent)), f"{prefix}.p_similar": sum(similar) / len(similar)}
