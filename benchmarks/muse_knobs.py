"""Pictures of MUSE's knobs, for docs/artists.md: one knob turned, everything else as it was. Validation layouts, on
which MUSE's settings were chosen and no figure is reported.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

import torch

from ..models.emotions import MIKELS, WHEEL
from . import arguments, measure, memory
from .methods import Method, make_all
from .muse import INTENSITIES, MUSE, PROMPT
from .muse_ablation import suppressed
from .store import Store
from .tasks import Task, generation

OPENINGS = (0.0, 0.25, 0.5, 0.75)
"""When the gate opens, as a share of the steps: what a threshold decides, told the same for every prompt."""

TIMES = (0.0, 1.0, 10.0, 100.0)

Column = tuple[str, Method, Sequence[Task]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `affect bench muse-knobs`."""
    arguments.outputs(parser, "runs/bench", json=False)
    parser.add_argument("--rows", type=int, default=4, help="prompts (default: %(default)s)")


def sheets(tasks: list[Task]) -> dict[str, list[Column]]:
    """Name -> columns of images: (what it says below, the method, its tasks)."""
    plain: Column = ("plain", PROMPT, tasks)
    opening = lambda share: replace(MUSE, threshold=1e3, force_open_at=share)
    around = [(a, b) for a, b in zip(WHEEL, (*WHEEL[1:], WHEEL[0]))]
    return {
        "threshold": [
            plain,
            *((f"opens at {round(s * MUSE.steps)} of {MUSE.steps}", opening(s), tasks) for s in OPENINGS),
        ],
        "suppression": [plain, *((f"weights x {k:g}", suppressed(k), tasks) for k in TIMES)],
        "intensity": [(f"intensity {k:g}", MUSE, [replace(t, intensity=k) for t in tasks]) for k in INTENSITIES],
        "wheel": [(f"{a} + {b}", MUSE, [replace(t, emotion=a, second=b) for t in tasks]) for a, b in around],
    }


def main(args: argparse.Namespace) -> int:
    """Makes what is missing and draws one sheet a knob."""
    tasks = generation(args.rows, "val")
    every = sheets(tasks)
    make_all(
        args.out,
        [(method, row) for columns in every.values() for _, method, row in columns],
        batch=memory.fitting_batch(),
        label="knobs",
    )
    for name, columns in every.items():
        made = [(label, list(row), Store(args.out, method).images(list(row))) for label, method, row in columns]
        sure = [measure.probabilities(images, "tiny-b") for *_, images in made]
        measure.save_sheet(
            args.out / f"knob-{name}.jpg",
            [images[i] for i in range(len(tasks)) for *_, images in made],
            [f"{label}\n{_says(p[i], row[i])}" for i in range(len(tasks)) for (label, row, _), p in zip(made, sure)],
            columns=len(columns),
            cell=112,
        )
    return 0


def _says(p: torch.Tensor, task: Task) -> str:
    """tiny-b's probability of what was asked for."""
    shares = [f"{100 * float(p[MIKELS.index(name)]):.0f}" for name in (task.emotion, task.second) if name]
    return f"{task.emotion} {shares[0]} %" if len(shares) == 1 else f"{shares[0]} + {shares[1]} %"
