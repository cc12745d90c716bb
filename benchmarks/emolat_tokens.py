"""Do MUSE's tokens get there sooner from an EmoLat code than from random ones? Held-out prompts, everything else equal."""

from __future__ import annotations

import argparse
from dataclasses import replace

from . import measure
from .methods import make_all
from .muse import MUSE
from .store import Store, fingerprint
from .tasks import add_arguments, generation

__all__ = ["add_arguments", "main"]


def main(args: argparse.Namespace) -> int:
    tasks = generation(args.n, args.split)
    methods = {start: replace(MUSE, start=start) for start in ("random", "emolat")}
    make_all(args.out, [(method, tasks) for method in methods.values()], label="first tokens")
    figures: dict[str, float] = {}
    for start, method in methods.items():
        store = Store(args.out, method)
        images, notes = store.images(tasks), store.notes(tasks)
        figures |= measure.accuracies(images, tasks, start) | measure.fidelity(images, tasks, start)
        figures[f"{start}.inner_steps"] = sum(note["inner_steps"] for note in notes) / len(notes)
    figures["inner_steps_saved"] = 1 - figures["emolat.inner_steps"] / figures["random.inner_steps"]
    measure.write(args.json, "emolat-tokens", figures, {key: "steps" if key.endswith("inner_steps") else "share" for key in figures},
                  fingerprint=fingerprint(), n=args.n, split=args.split)
    return 0
