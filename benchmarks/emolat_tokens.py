"""Whether MUSE takes fewer inner steps from an EmoLat code than from random tokens: held-out prompts, everything else
equal."""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch

from ..models.emolat.space import load_emolat
from ..models.errors import UserError
from ..models.muse import MuseConfig
from . import arguments, measure, memory
from .figures import INNER_STEPS, SHARE, Figures
from .methods import make_all
from .muse import MUSE, PROMPT
from .store import Store
from .tasks import generation

add_arguments = arguments.held_out_prompts


def main(args: argparse.Namespace) -> int:
    """Makes what is missing, measures it, and writes the figures."""
    if load_emolat("tiny").token_map is None:
        raise UserError(
            "The bundled EmoLat has no projection onto emotional tokens. Train it: `affect train emolat-tokens`."
        )
    arguments.at_least(args.n, 3, "three prompts")
    tasks = generation(args.n, args.split)
    unmoved: MuseConfig = replace(MUSE.muse, max_inner_steps=0)
    methods = {
        "random": replace(MUSE, start="random"),
        "emolat": replace(MUSE, start="emolat"),
        "emolat_unmoved": replace(MUSE, start="emolat", muse=unmoved),
        "prompt": PROMPT,
    }
    make_all(
        args.out, [(method, tasks) for method in methods.values()], batch=memory.fitting_batch(), label="first tokens"
    )
    figures = Figures()
    steps: dict[str, torch.Tensor] = {}
    measured: dict[str, dict[str, torch.Tensor]] = {}
    for name, method in methods.items():
        store = Store(args.out, method)
        images = store.images(tasks)
        measured[name] = measure.seen(images, tasks)
        figures.put_all(measure.described(images, tasks, name, measured[name]))
        steps[name] = torch.tensor([float(note.get("inner_steps", 0)) for note in store.notes(tasks)])
    for name in ("random", "emolat"):
        figures.put(f"{name}.inner_steps", float(steps[name].mean()), INNER_STEPS)
    saved = (steps["random"] - steps["emolat"]) / steps["random"].mean()
    figures.put_difference("inner_steps_saved", saved, torch.zeros_like(saved), SHARE)
    # Fewer steps may be a worse image.
    figures.put_all(measure.compared(measured["emolat"], measured["random"], "emolat_less_random"))
    figures.write(args.json, "emolat-tokens", fingerprint=measure.fingerprint_of_figures(), n=args.n, split=args.split)
    return 0
