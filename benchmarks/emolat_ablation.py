"""What each loss of EmoLat's second stage contributes: the transfer network trained in the same way without it, for a
share of the steps, and judged on held-out scenes towards their opposite emotion. One training each: the intervals
describe other scenes, not other trainings.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import torch

from ..models import host
from ..models.emolat.losses import Weights
from ..models.emolat.space import EmoLat, load, load_emolat, save
from ..models.errors import UserError
from ..training.config import overridden, read
from ..training.emolat import Data, DataConfig, read_data
from ..training.loop import LoopConfig, split
from ..training.transfer import TransferConfig, train_transfer, with_network
from . import arguments, measure
from .emolat import CODE, UNITS, digest, judged, made, pictures, seen, tasks
from .figures import Figures
from .store import fingerprint

LOSSES = tuple(f.name for f in fields(Weights))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `affect bench emolat-ablation`."""
    arguments.outputs(parser, "runs/bench-emolat", "runs and pictures")
    parser.add_argument("--model", default="tiny", help="whose codebooks and training (default: %(default)s)")
    parser.add_argument(
        "--share", type=float, default=0.25, help="of the steps that it was trained (default: %(default)s)"
    )
    arguments.held_out(parser, 64)
    arguments.overrides(parser)


def main(args: argparse.Namespace) -> int:
    """Trains what is missing, makes and measures the images, and writes figures and a sheet."""
    arguments.at_least(args.n, 4, "four scenes")
    emolat, device = load_emolat(args.model), host.current().device
    if "transfer" not in emolat.training_config:
        raise UserError(
            "This EmoLat's file does not say how its transfer network was trained. Train it again with "
            "`affect train transfer`."
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
    source, truth = pictures(jobs)
    figures = Figures()
    shown, each = {"source": source}, {}
    for left_out in ("", *(name for name in LOSSES if getattr(own, name))):
        name = f"no_{left_out}" if left_out else "all"
        weights = replace(own, **{left_out: 0.0}) if left_out else own
        data = lambda: read_data(read(DataConfig, config["data"], "[data]"), emolat.config, args.out, device)
        network = trained(out, name, emolat, weights, loop, data, device)
        shown[name] = made(network, out / "images" / f"{name}-{args.split}", jobs, source)
        each[name] = seen(shown[name], source, truth, jobs)
        figures.put_all(judged(shown[name], truth, jobs, each[name]), f"{name}.")
        for key, values in each[name].items() if left_out else ():
            figures.put_difference(f"all_less_{name}.{key}", each["all"][key], values, UNITS[key])
    shown["truth"] = truth
    rows = range(min(8, len(jobs)))
    measure.save_sheet(
        args.out / f"emolat-ablation-{args.split}.png",
        [x[i] for i in rows for x in shown.values()],
        [f"{name}\n{jobs[i][2]}" for i in rows for name in shown],
        columns=len(shown),
        cell=112,
    )
    figures.write(
        args.json,
        "emolat-ablation",
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


def trained(
    out: Path,
    name: str,
    emolat: EmoLat,
    weights: TransferConfig,
    loop: LoopConfig,
    data: Callable[[], Data],
    device: str,
) -> EmoLat:
    """An EmoLat whose transfer network is trained with these weights; made once, and kept in `out`."""
    path = out / f"{name}.safetensors"
    if not path.is_file():
        given = data()
        torch.manual_seed(loop.seed)
        variant = with_network(emolat, emolat.config)
        network = train_transfer(given, variant, weights, loop, out, device, name)
        assert variant.network is not None  # `with_network` gives it one
        variant.network.load_state_dict(network.state_dict())
        save(path, variant)
    return load(path)
