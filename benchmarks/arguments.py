"""Options that the benchmarks share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..models.errors import UserError


def outputs(parser: argparse.ArgumentParser, folder: str, help: str = "images and pictures", json: bool = True) -> None:
    """--json (unless the benchmark has no figures) and --out."""
    if json:
        parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.add_argument("--out", type=Path, default=Path(folder), help=f"{help} (default: %(default)s)")


def held_out(parser: argparse.ArgumentParser, n: int, what: str = "held-out scenes") -> None:
    """--n and --split."""
    parser.add_argument("--n", type=int, default=n, help=f"{what} (default: %(default)s)")
    parser.add_argument("--split", default="test", choices=("train", "val", "test"), help="layouts (tune on val)")


def held_out_prompts(parser: argparse.ArgumentParser, n: int = 64) -> None:
    """What a benchmark of MUSE takes: its images lie in one folder, whichever benchmark made them."""
    outputs(parser, "runs/bench")
    held_out(parser, n, "held-out prompts")


def parts(parser: argparse.ArgumentParser, names: Sequence[str], metavar: str = "PART") -> None:
    """--only: some of a benchmark's parts, all by default."""
    parser.add_argument(
        "--only", nargs="+", default=list(names), choices=list(names), metavar=metavar, help=f"of {', '.join(names)}"
    )


def overrides(parser: argparse.ArgumentParser) -> None:
    """Changes to a training's configuration."""
    parser.add_argument("overrides", nargs="*", metavar="SECTION.KEY=VALUE")


def at_least(n: int, least: int, what: str, option: str = "--n") -> None:
    """UserError for fewer than an interval takes."""
    if n < least:
        raise UserError(f"Intervals take {what} at least, got {option} {n}.")
