"""Pictures of MUSE's knobs, for docs/artists.md: one knob turned, everything else as it was. Validation layouts, which
nothing was trained on and no figure is reported for.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Sequence

from ..models.emotions import WHEEL
from ..models.plots import contact_sheet
from . import measure
from .methods import Method, make_all
from .muse import INTENSITIES, MUSE
from .store import Store
from .tasks import Task, generation

THRESHOLDS = (0.0, 25.0, 35.0, 45.0, 60.0)
TIMES = (0.0, 1.0, 100.0)

Column = tuple[str, Method, Sequence[Task]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="images and pictures (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=4, help="prompts (default: %(default)s)")


def sheets(tasks: list[Task]) -> dict[str, list[Column]]:
    """Name -> columns of images: (what it says below, the method, its tasks), where {} stands for the emotion."""
    suppressed = lambda k: replace(MUSE.muse, inherent_weight=k * MUSE.muse.inherent_weight, similar_weight=k * MUSE.muse.similar_weight)
    plain: Column = ("plain", Method("prompt"), tasks)
    around = [(a, b) for a, b in zip(WHEEL, (*WHEEL[1:], WHEEL[0]))]
    return {
        "threshold": [plain, *((f"{{}}\nthreshold {t:g}", replace(MUSE, threshold=t, force_open_at=1.0), tasks) for t in THRESHOLDS)],
        "suppression": [plain, *((f"{{}}\nweights x {k:g}", replace(MUSE, muse=suppressed(k)), tasks) for k in TIMES)],
        "intensity": [(f"{{}}\nintensity {k:g}", MUSE, [replace(t, intensity=k) for t in tasks]) for k in INTENSITIES],
        "wheel": [(f"{a}\n+ {b}", MUSE, [replace(t, emotion=a, second=b) for t in tasks]) for a, b in around],
    }


def main(args: argparse.Namespace) -> int:
    tasks = generation(args.rows, "val")
    every = sheets(tasks)
    make_all(args.out, [(method, row) for columns in every.values() for _, method, row in columns], label="knobs")
    for name, columns in every.items():
        made = [Store(args.out, method).images(list(row)) for _, method, row in columns]
        measure.save_picture(args.out / f"knob-{name}.jpg", contact_sheet(
            [images[i].permute(1, 2, 0).numpy() for i in range(len(tasks)) for images in made],
            [label.format(tasks[i].emotion) for i in range(len(tasks)) for label, _, _ in columns], columns=len(columns), cell=112))
    return 0
