"""A valence and arousal head on people's ratings: ridge regression on an ImageNet network's pooled features.

    affect train va-head --images D --ratings FILE.csv --out NAME.safetensors [--backbone efficientnet-lite0]

The strength of the ridge is chosen by cross-validation over groups (themes: pictures of one resemble each other), whose
correlations are what is reported; with `--digits` only groups whose name's SHA-256 ends in one of these hex digits
train, and the correlation on those of `--test-digits` is reported beside it.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..models.errors import UserError, did_you_mean

FOLDS = 10
STRENGTHS = tuple(float(v) for v in np.logspace(0, 4, 17))
NAMES = ("valence", "arousal")


@dataclass(frozen=True)
class Rated:
    """Pictures with their ratings: files, groups, and [n, 2] of valence and arousal in 0..1."""

    files: list[Path]
    groups: list[str]
    points: np.ndarray[Any, Any]

    def chosen(self, digits: str) -> Rated:
        """Those whose group's SHA-256 ends in one of `digits`."""
        keep = [i for i, g in enumerate(self.groups) if hashlib.sha256(g.encode()).hexdigest()[-1] in digits]
        return Rated([self.files[i] for i in keep], [self.groups[i] for i in keep], self.points[keep])


def read_ratings(images: Path, table: Path, columns: tuple[str, str, str, str], scale: tuple[float, float]) -> Rated:
    """Reads a CSV of ratings. columns: of file, valence, arousal and group ("" where there is none: each picture is its
    own). scale: the lowest and highest rating. UserError for what is missing or out of range, with the line."""
    file_column, *values, group_column = columns
    low, high = scale
    with table.open(newline="", encoding="utf-8-sig") as handle:
        reader = csv.DictReader(handle)
        for column in (file_column, *values, *([group_column] if group_column else [])):
            if column not in (reader.fieldnames or ()):
                near = did_you_mean(column, reader.fieldnames or ())
                raise UserError(f"'{table.name}' has no column '{column}'.{near} Name the columns with --columns.")
        paths, groups, points = [], [], []
        for number, row in enumerate(reader, 2):
            path = images / str(row[file_column])
            if not path.is_file():
                raise UserError(f"'{table.name}', line {number}: there is no picture '{row[file_column]}' in {images}.")
            try:
                point = [float(row[column]) for column in values]
            except ValueError:
                raise UserError(f"'{table.name}', line {number}: a rating is not a number.") from None
            if not all(math.isfinite(v) and low <= v <= high for v in point):
                raise UserError(
                    f"'{table.name}', line {number}: a rating of {point} lies outside of {low:g} to {high:g}. Give the "
                    "scale with --scale."
                )
            paths.append(path)
            groups.append(str(row[group_column]) if group_column else str(row[file_column]))
            points.append([(v - low) / (high - low) for v in point])
    if len(set(groups)) < FOLDS:
        raise UserError(f"'{table.name}' has {len(set(groups))} groups; a head takes at least {FOLDS}.")
    return Rated(paths, groups, np.array(points))


def features_of(backbone: str, paths: list[Path]) -> np.ndarray[Any, Any]:
    """[n, D]: the pooled features of pictures."""
    import torch
    from tqdm import tqdm

    from ..models import pictures
    from ..models.networks.efficientnet import load_whole
    from ..models.networks.valence_arousal import pooled_features
    from ..models.tensors.uint8 import image_of

    network = load_whole(backbone)
    with torch.no_grad():
        rows = [pooled_features(network, image_of(pictures.read(p))[None])[0] for p in tqdm(paths, desc=backbone)]
    return torch.stack(rows).numpy().astype(np.float64)


def ridge(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any], strength: float) -> tuple[Any, Any]:
    """(weight [k, D], bias [k]) of least squares on standardised features with a penalty, in the dual form: there are
    fewer pictures than features."""
    mean, std = x.mean(axis=0), x.std(axis=0) + 1e-6
    z, middle = (x - mean) / std, y.mean(axis=0)
    dual = np.linalg.solve(z @ z.T + strength * np.eye(len(z)), y - middle)
    weight = (z.T @ dual).T / std
    return weight, middle - weight @ mean


def correlations(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> list[float]:
    """Pearson's r, column by column."""
    return [float(np.corrcoef(a[:, k], b[:, k])[0, 1]) for k in range(a.shape[1])]


def cross_validated(x: np.ndarray[Any, Any], rated: Rated, strength: float) -> list[float]:
    """r of valence and arousal where each group's pictures are answered by what the others taught."""
    order = sorted(set(rated.groups), key=lambda g: hashlib.sha256(g.encode()).hexdigest())
    fold = {group: i % FOLDS for i, group in enumerate(order)}
    held = np.array([fold[g] for g in rated.groups])
    answers = np.empty_like(rated.points)
    for k in range(FOLDS):
        weight, bias = ridge(x[held != k], rated.points[held != k], strength)
        answers[held == k] = x[held == k] @ weight.T + bias
    return correlations(answers, rated.points)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `affect train va-head`."""
    from ..models.networks.efficientnet import NAMES as BACKBONES

    parser.add_argument("--images", type=Path, required=True, metavar="D", help="folder of the pictures")
    parser.add_argument("--ratings", type=Path, required=True, metavar="CSV", help="a row a picture")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="safetensors file to write")
    parser.add_argument("--backbone", choices=BACKBONES, default=BACKBONES[0])
    parser.add_argument(
        "--columns",
        default="file,valence_mean,arousal_mean,theme",
        help="of file, valence, arousal and group; an empty last one: no groups (default: %(default)s)",
    )
    parser.add_argument("--scale", type=float, nargs=2, default=(1.0, 7.0), metavar=("LOW", "HIGH"))
    parser.add_argument("--digits", default="0123456789abcdef", help="groups that train, by their names' SHA-256")
    parser.add_argument("--test-digits", default="", help="groups that are only tested")
    parser.add_argument("--note", default="", help="source and terms of the ratings, kept in the file")


def main(args: argparse.Namespace) -> int:
    """Trains the head, writes it and prints its card."""
    import torch

    from ..models import files

    columns = tuple(c.strip() for c in args.columns.split(","))
    if len(columns) != 4:
        raise UserError(f"--columns names four columns (file, valence, arousal, group), got {len(columns)}.")
    if set(args.digits) & set(args.test_digits):
        raise UserError("--digits and --test-digits share a digit: no group may be in both.")
    rated = read_ratings(args.images, args.ratings, columns, tuple(args.scale))
    taught, tested = rated.chosen(args.digits), rated.chosen(args.test_digits)
    x = features_of(args.backbone, taught.files)
    strength = max(STRENGTHS, key=lambda s: sum(cross_validated(x, taught, s)))
    figures = dict(zip(NAMES, cross_validated(x, taught, strength)))
    weight, bias = ridge(x, taught.points, strength)
    card = {
        "backbone": args.backbone,
        "pictures": len(taught.files),
        "groups": len(set(taught.groups)),
        "ridge": strength,
        "r_cross_validated": figures,
        "note": args.note,
    }
    if tested.files:
        answers = features_of(args.backbone, tested.files) @ weight.T + bias
        card["r_test"] = dict(zip(NAMES, correlations(answers, tested.points)))
    state = {"va.weight": torch.from_numpy(weight).half(), "va.bias": torch.from_numpy(bias).float()}
    files.save_safetensors(args.out, state, {k: json.dumps(v) for k, v in card.items()})
    print(json.dumps(card, indent=1))
    return 0
