"""Do MUSE's tokens get there sooner from an EmoLat code than from random ones? Held-out prompts, everything else
equal."""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch

from ..models.emolat.space import load_emolat
from ..models.errors import UserError
from ..models.muse import MuseConfig
from . import measure, memory
from .methods import make_all
from .muse import MUSE, PROMPT
from .store import Store
from .tasks import add_arguments, generation

__all__ = ["add_arguments", "main"]


def main(args: argparse.Namespace) -> int:
    if load_emolat("tiny").token_map is None:
        raise UserError(
            "The bundled EmoLat has no projection onto emotional tokens. Train it: `affect train emolat-tokens`."
        )
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
    figures: dict[str, float] = {}
    steps: dict[str, torch.Tensor] = {}
    found: dict[str, dict[str, torch.Tensor]] = {}
    for name, method in methods.items():
        store = Store(args.out, method)
        images = store.images(tasks)
        found[name] = measure.seen(images, tasks)
        figures |= measure.described(images, tasks, name, found[name])
        steps[name] = torch.tensor([float(note.get("inner_steps", 0)) for note in store.notes(tasks)])
    for name in ("random", "emolat"):
        figures[f"{name}.inner_steps"] = float(steps[name].mean())
    saved = (steps["random"] - steps["emolat"]) / steps["random"].mean()
    figures |= measure.with_interval(
        "inner_steps_saved", float(saved.mean()), measure.paired_interval(saved, torch.zeros_like(saved))
    )
    figures |= measure.compared(
        found["emolat"], found["random"], "emolat_less_random"
    )  # fewer steps may be a worse image
    measure.write(
        args.json,
        "emolat-tokens",
        figures,
        {key: _unit(key) for key in figures},
        fingerprint=measure.fingerprint_of_figures(),
        n=args.n,
        split=args.split,
    )
    return 0


def _unit(key: str) -> str:
    return next(
        (
            unit
            for part, unit in ((".inner_steps", "steps an image"), ("clip", "100 cosine"), ("kid", "squared MMD"))
            if part in key
        ),
        "share",
    )
