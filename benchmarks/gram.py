"""Gram transfer: the time to the loss of 500 plain Adam iterations, and memory. `gram_quality` measures what it
does to scenes. Measurements are kept, and a run that was stopped continues.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..models import host
from ..models.gram import GramConfig, GramLoss, transfer
from ..models.networks.backbones import Backbone, load_backbone
from ..training.data.photos import photograph, square
from . import arguments, measure, memory
from .figures import SHARE, Figures, machine
from .gram_quality import VGG_WEIGHTS, eight_bit, given, quality, tensor_of
from .store import fingerprint, kept

SPEED_PAIRS = (
    ("astronaut", "motorcycle_left"),
    ("hubble_deep_field", "astronaut"),
    ("china", "astronaut"),
    ("motorcycle_left", "china"),
)
"""None of them was looked at while the solver was made (coffee, rocket, chelsea and flower were)."""

RATES = (0.003, 0.01, 0.03)
BEYOND = {0.003: 0.001, 0.03: 0.1}
"""A fourth rate is tried where the best of the three is the lowest or the highest."""

BUDGETS = tuple(round(40 * 1.1**i) for i in range(28))
"""Evaluations that our solver is given, one budget after the other, until it reaches Adam's loss."""

LOSSES = {"": 0.0, "smooth.": GramConfig().smoothness}
"""Figure prefix -> the weight on smoothness: the paper's loss, and the one that users get."""

PARTS = ("speed", "memory", "quality")
CODE = ("benchmarks.gram:speed", "benchmarks.gram:_peak")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `affect bench gram`."""
    arguments.outputs(parser, "runs/bench-gram")
    parser.add_argument("--scenes", type=int, default=46, help="held-out scenes (default: %(default)s)")
    parser.add_argument(
        "--gallery", type=int, default=2000, help="pictures to find references among (default: %(default)s)"
    )
    parser.add_argument("--split", default="test", choices=("train", "val", "test"))
    arguments.parts(parser, PARTS)


def main(args: argparse.Namespace) -> int:
    """Measures the parts that are not kept yet, and writes all figures."""
    # Times and memory of another machine are made anew.
    folder = args.out / fingerprint(CODE, ("densenet",), f"{machine()} {torch.get_num_threads()}")
    figures = Figures()
    if "speed" in args.only:
        figures.put_all(speed(args.out, folder))
    if "memory" in args.only:
        for name, end in (("tiny", ""), ("densenet121", "_densenet121")):
            peak = kept(folder / f"memory-{name}.json", partial(memory.alone, _peak, name))
            figures.put(f"peak_memory_gb_1024{end}", peak, "GB")
    if "quality" in args.only:
        figures.put_all(quality(args.out, args.scenes, args.gallery, args.split))
    figures.write(
        args.json,
        "gram",
        fingerprint=folder.name,
        fingerprint_quality=given(args.gallery, args.split),
        parts=list(args.only),
        scenes=args.scenes,
        gallery=args.gallery,
        split=args.split,
        network="tiny-densenet",
        lpips=measure.distance_name(),
        vgg_weights=VGG_WEIGHTS,
        sentiment_gain="of tiny-b's probability of the four emotions of the reference's polarity; "
        "emotion_gain: of its own emotion",
    )
    return 0


def _photo(name: str, side: int) -> torch.Tensor:
    return tensor_of(square(photograph(name), side).copy())


def _now() -> float:
    """Seconds, once everything that was asked of a GPU is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def speed(out: Path, folder: Path, side: int = 512) -> Figures:
    """Wall time until the loss of the final 8-bit image is that of 500 Adam iterations at the best of its rates.
    Our solver is given more and more evaluations until it reaches that loss, and the whole time of the run that does
    counts. A user does not know how many that takes, so `_by_itself` is the solver stopping by itself. Medians of
    three, in turn with Adam's."""
    figures = Figures()
    units = {
        "time_ratio": "share of Adam's time",
        "loss_ratio": "of Adam's loss",
        "rate": "Adam's rate",
        "load": "processes",
    }
    for loss, smoothness in LOSSES.items():
        pairs = []
        for names in SPEED_PAIRS:
            path = folder / f"{loss}speed-{names[0]}-{names[1]}.json"
            pairs.append(kept(path, partial(_pair, out, names, side, smoothness)))
        column = lambda key, pairs=pairs: [math.inf if pair[key] is None else pair[key] for pair in pairs]
        ratios = column("time_ratio")
        figures.put(f"{loss}time_ratio_512", float(np.median(ratios)), units["time_ratio"])
        figures.put(f"{loss}reached_fraction", float(np.mean(np.isfinite(ratios))), SHARE)
        for key in ("time_ratio", "loss_ratio"):
            by_itself = float(np.median(column(f"{key}_by_itself")))
            figures.put(f"{loss}{key}_512_by_itself", by_itself, units[key])
        for key, unit in units.items():
            for (name, _), value in zip(SPEED_PAIRS, column(key)):
                figures.put(f"{loss}{key}_512.{name}", value, unit)
    return figures


def _pair(out: Path, names: tuple[str, str], side: int, smoothness: float) -> dict[str, Any]:
    """One pair's figures; `time_ratio` is None where Adam's loss was not reached."""
    net = load_backbone("tiny-densenet")
    source, reference = (_photo(name, side) for name in names)
    config = GramConfig(smoothness=smoothness)
    loss = GramLoss(net, source, reference, config)

    def timed(settings: GramConfig) -> tuple[float, float, torch.Tensor]:
        """(the loss of the 8-bit image, seconds, the image)"""
        start = _now()
        done = transfer(net, source, reference, settings)
        took = _now() - start
        return float(loss(eight_bit(done.image)).detach()), took, done.image

    adam = lambda rate: (*timed(replace(config, solver="adam", rate=rate))[:2], rate)
    results = [adam(rate) for rate in RATES]
    if min(results)[2] in BEYOND:
        results.append(adam(BEYOND[min(results)[2]]))
    want, seconds, rate = min(results)
    for evaluations in BUDGETS:
        settings = replace(config, iterations=evaluations, tolerance=0.0)
        got, took, image = timed(settings)
        if got <= want:
            break
    alone = timed(config)  # stopping as it does for a user
    times = np.array(
        [[seconds, took, alone[1]], *([adam(rate)[1], timed(settings)[1], timed(config)[1]] for _ in range(2))]
    )
    seconds, took, by_itself = np.median(times, axis=0).tolist()
    missed = "" if got <= want else f", not reached ({got:.3f})"
    host.current().note(
        f"{names[0]}: Adam {seconds:.1f} s to {want:.3f} at {rate:g}, "
        f"ours {took:.1f} s by {evaluations} evaluations{missed}"
    )
    measure.save_sheet(
        out / f"speed-{names[0]}{'-smooth' * bool(smoothness)}.png",
        [x[0] for x in (source, reference, image)],
        [names[0], names[1], f"{took:.1f} s\nAdam: {seconds:.1f} s"],
        3,
        cell=256,
    )
    return {
        "time_ratio": took / seconds if got <= want else None,
        "loss_ratio": got / want,
        "rate": rate,
        "seconds": times.tolist(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0,
        "time_ratio_by_itself": by_itself / seconds,
        "loss_ratio_by_itself": alone[0] / want,
    }


def _network(name: str) -> Backbone:
    """The tiny DenseNet, or DenseNet-121 with random weights: time and memory do not ask what it learned."""
    if name == "tiny":
        return load_backbone("tiny-densenet")
    from torchvision.models import densenet121

    torch.manual_seed(0)
    return Backbone(name, densenet121(weights=None).features).eval().requires_grad_(False).to(host.current().device)


def _peak(name: str) -> float:
    """GB of a process that transfers at 1024 x 1024, its imports with it; of a GPU's memory, where there is one."""
    # So many that two dozen are made at full size: L-BFGS keeps five pairs of them.
    transfer(_network(name), _photo("coffee", 1024), _photo("rocket", 1024), GramConfig(iterations=124, tolerance=0.0))
    return (torch.cuda.max_memory_allocated() if torch.cuda.is_available() else memory.peak()) / 1e9
