"""What each loss of EmoLat's second stage buys: the transfer network trained alike without it, for a share of the
steps, and judged on held-out scenes towards their opposite emotion. One training each: the intervals speak of other
scenes, not of other trainings.
"""

from __future__ import annotations

import argparse
from dataclasses import fields, replace
from pathlib import Path

import torch

from ..models import host
from ..models.emolat.losses import Weights
from ..models.emolat.space import load, load_emolat, save
from ..models.errors import UserError
from ..models.plots import contact_sheet
from ..training.config import overridden, read
from ..training.emolat import DataConfig, read_data
from ..training.loop import split
from ..training.transfer import TransferConfig, train_transfer, with_network
from . import measure
from .emolat import CODE, _unit, digest, judged, one_pass, picture, seen, tasks
from .store import fingerprint

LOSSES = tuple(f.name for f in fields(Weights))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/bench-emolat"), help="runs and pictures (default: %(default)s)"
    )
    parser.add_argument("--model", default="tiny", help="whose codebooks and training (default: %(default)s)")
    parser.add_argument(
        "--share", type=float, default=0.25, help="of the steps that it was trained (default: %(default)s)"
    )
    parser.add_argument("--n", type=int, default=64, help="held-out scenes (default: %(default)s)")
    parser.add_argument("--split", default="test", choices=("train", "val", "test"))
    parser.add_argument("overrides", nargs="*", metavar="SECTION.KEY=VALUE")


def main(args: argparse.Namespace) -> int:
    if args.n < 4:
        raise UserError(f"Intervals take four scenes at least, got --n {args.n}.")
    emolat, device = load_emolat(args.model), host.current().device
    if "transfer" not in emolat.training_config:
        raise UserError(
            "This EmoLat's file does not say how its transfer network was trained. Train it again with `affect train transfer`."
        )
    config = overridden(emolat.training_config, args.overrides)
    own, loop = split(config["transfer"], TransferConfig, "transfer")
    loop = replace(loop, steps=max(1, int(args.share * loop.steps)))
    out = args.out / fingerprint(
        CODE,
        ("vgg", "clip"),
        f"{digest(emolat)} {own} {loop} {config['data']}",
    )
    out.mkdir(parents=True, exist_ok=True)
    jobs = tasks(args.n, args.split, "opposite")
    source = torch.stack([picture(layout, emotion, i) for i, (layout, emotion, _) in enumerate(jobs)])
    truth = torch.stack([picture(layout, target, i) for i, (layout, _, target) in enumerate(jobs)])
    figures: dict[str, float] = {}
    shown, each = {"source": source}, {}
    for left_out in ("", *(name for name in LOSSES if getattr(own, name))):
        name = f"no_{left_out}" if left_out else "all"
        path = out / f"{name}.safetensors"
        if not path.is_file():
            data = read_data(read(DataConfig, config["data"], "[data]"), emolat.config, args.out, device)
            torch.manual_seed(loop.seed)
            variant = with_network(emolat, emolat.config)
            weights = replace(own, **{left_out: 0.0}) if left_out else own
            variant.network.load_state_dict(
                train_transfer(data, variant, weights, loop, out, device, name).state_dict()
            )
            save(path, variant)
        trained = load(path)
        shown[name] = measure.made(
            out / "images" / f"{name}-{args.split}",
            [f"{i:04d}-{layout}-{target}" for i, (layout, _, target) in enumerate(jobs)],
            lambda i: one_pass(trained, source[i : i + 1], jobs[i][2], i),
        )
        each[name] = seen(shown[name], source, truth, jobs)
        figures |= judged(shown[name], truth, jobs, name, each[name])
        for key, values in each[name].items():
            if name != "all":
                figures |= measure.with_interval(
                    f"all_less_{name}.{key}",
                    float((each["all"][key] - values).mean()),
                    measure.paired_interval(each["all"][key], values),
                )
    shown["truth"] = truth
    measure.save_picture(
        args.out / f"emolat-ablation-{args.split}.png",
        contact_sheet(
            [x[i].permute(1, 2, 0).numpy() for i in range(min(8, len(jobs))) for x in shown.values()],
            [f"{name}\n{jobs[i][2]}" for i in range(min(8, len(jobs))) for name in shown],
            columns=len(shown),
            cell=112,
        ),
    )
    measure.write(
        args.json,
        "emolat-ablation",
        figures,
        {key: _unit(key) for key in figures},
        fingerprint=out.name,
        model=args.model,
        digest=digest(emolat),
        trainings=1,
        overrides=args.overrides,
        n=args.n,
        split=args.split,
        steps=loop.steps,
        lpips=measure.distance_name(),
    )
    return 0
