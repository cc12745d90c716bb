"""Photographs in the feeling of a reference: a grade beside the paper's pixels and ComfyUI's ColorTransfer, by people's
ratings and by what happens to edges and flat areas; edits brought back to their source; what grades cost.

Photographs of held-out themes of a rated set (OASIS's layout: `images/` and `ratings.csv`) and wallpapers. Transfers
compare efficientnet-lite0's features; the judge is a head on efficientnet-lite2 that people of other themes taught.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..models import host, metrics
from ..models.grade.apply import apply_grade
from ..models.grade.grid import Grid
from ..models.grade.transfer import transfer_grade
from ..models.gram import GramConfig, transfer
from ..models.networks.backbones import load_backbone
from ..models.networks.valence_arousal import load_valence_arousal
from ..training.va_head import correlations
from . import arguments, measure
from .figures import SHARE, SPEARMAN, SSIM, Figures
from .photograph_figures import change, edge_agreement, flat_excess, gram_loss, interval, rank
from .photograph_pairs import REFERENCES, TEST_DIGITS, Pair, color_transfers, load, pairs, ratings, save, shown
from .photograph_returns import PIXELS_WEIGHT, returns
from .photograph_speed import speed
from .store import fingerprint

PARTS = ("transfers", "returns", "speed", "judge")
GREY = "grey levels"
JUDGE = "photo-lite2"

PIXELS = GramConfig(iterations=150, sentiment_weight=PIXELS_WEIGHT)
"""The pixel surface, at its usual smoothness; the weight was chosen on the other themes."""

STRENGTHS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
"""Of a change, for pictures at one judge's change."""

CODE = ("models.grade.transfer:transfer_grade", "models.gram:transfer", "benchmarks.photograph_pairs:pairs")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `affect bench photographs`."""
    arguments.outputs(parser, "runs/photographs")
    parser.add_argument("--oasis", type=Path, required=True, metavar="D", help="folder with images/ and ratings.csv")
    parser.add_argument("--wallpapers", type=Path, default=Path("/usr/share/wallpapers"), metavar="D")
    parser.add_argument("--n", type=int, default=64, help=f"photographs, of {REFERENCES} references each")
    parser.add_argument(
        "--on-pixels", type=int, default=64, metavar="N", help="photographs that the pixel surface gets"
    )
    parser.add_argument("--comfyui", type=Path, metavar="D", help="a ComfyUI, whose ColorTransfer is run")
    parser.add_argument("--comfyui-python", default=sys.executable, metavar="FILE")
    parser.add_argument("--processes", type=int, default=host.cores())
    parser.add_argument("--digits", default=TEST_DIGITS, help="themes (tune on 456789abcdef)")
    arguments.parts(parser, PARTS)


def main(args: argparse.Namespace) -> int:
    """Measures, draws the sheets and writes the figures."""
    arguments.at_least(args.n, 8, "8 photographs")
    chosen = pairs(args.oasis, args.wallpapers, args.n, args.digits)
    folder = args.out.resolve() / fingerprint(CODE, (), f"{args.digits} {PIXELS}")
    folder.mkdir(parents=True, exist_ok=True)
    figures = Figures()
    if "transfers" in args.only:
        figures.put_all(transfers(args, folder, chosen))
    if "returns" in args.only:
        figures.put_all(returns(args.out, folder, chosen[:: REFERENCES * max(1, args.n // 8)][:8]))
    if "speed" in args.only:
        figures.put_all(speed(chosen))
    if "judge" in args.only:
        figures.put_all(judge(args.oasis))
    name = args.json.stem if args.json else "photographs"  # its parts may be measured apart
    figures.write(args.json, name, n=args.n, on_pixels=args.on_pixels, digits=args.digits, parts=args.only)
    return 0


def transfers(args: argparse.Namespace, folder: Path, chosen: list[Pair]) -> Figures:
    """Grades of all pairs, the pixel surface of each photograph's first, ColorTransfer of all."""
    from tqdm import tqdm

    first = chosen[::REFERENCES][: args.on_pixels]
    jobs = [(folder, p, "grade") for p in chosen] + [(folder, p, "pixels") for p in first]
    jobs = [job for job in jobs if not _made(*job)]
    with ProcessPoolExecutor(max(1, args.processes), mp_context=get_context("spawn")) as pool:
        for _ in tqdm(pool.map(_transfer, jobs), total=len(jobs), desc="transfers", disable=not jobs):
            pass
    rivals = color_transfers(folder, chosen, args.comfyui, args.comfyui_python)
    figures = _clean(folder, chosen, first, rivals)
    figures.put_all(_felt(folder, [p for p in chosen if p.source_rating], rivals))
    figures.put_all(_at_equal_change(folder, [p for p in first if p.source_rating]))
    _sheets(args.out, folder, chosen, rivals)
    return figures


def _made(folder: Path, pair: Pair, method: str) -> bool:
    return (folder / f"{pair.name}-{method}.png").is_file()


def _transfer(job: tuple[Path, Pair, str]) -> None:
    folder, pair, method = job
    torch.set_num_threads(1)
    source, reference = shown(pair.source), shown(pair.reference)
    if method == "pixels":
        save(folder / f"{pair.name}-pixels.png", transfer(_network(), source, reference, PIXELS).image)
        return
    grade = transfer_grade(_network(), source, reference, judge=_chooser()).grade
    grade.save(folder / f"{pair.name}.safetensors")
    save(folder / f"{pair.name}-grade.png", _graded(source, grade, 1.0))


@lru_cache(maxsize=1)
def _network() -> Any:
    from .photograph_pairs import NETWORK

    return load_backbone(NETWORK)


@lru_cache(maxsize=1)
def _chooser() -> Any:
    """The head on the transfer's own network, as the node has it."""
    return load_valence_arousal("photo")


def _graded(source: torch.Tensor, grade: Grid, strength: float) -> torch.Tensor:
    return apply_grade(source.permute(0, 2, 3, 1), grade, strength).permute(0, 3, 1, 2)


def _result(folder: Path, pair: Pair, method: str) -> torch.Tensor:
    return load(folder / f"{pair.name}-{method}.png")


def _clean(folder: Path, chosen: list[Pair], first: list[Pair], rivals: Sequence[str]) -> Figures:
    """Edges and flat areas, method by method; `median_change` and the fall of the loss beside the pixel surface's."""
    figures = Figures()
    for method in ("", "pixels", *rivals):
        todo = first if method == "pixels" else chosen
        rows = []
        for pair in todo:
            source, after = shown(pair.source), _result(folder, pair, method or "grade")
            rows.append([edge_agreement(source, after), flat_excess(source, after), change(source, after)])
        edges, flat, moved = torch.tensor(rows, dtype=torch.float64).T
        groups = [p.number // REFERENCES for p in todo]
        end = f".{method}" if method else ""
        figures.put_mean(f"edge_agreement{end}", edges, SHARE, groups=groups)
        seen = ~flat.isnan()
        flat_groups = [g for g, s in zip(groups, seen.tolist()) if s]
        figures.put_mean(f"flat_excess{end}", flat[seen], GREY, groups=flat_groups)
        figures.put(f"flat_excess_worst{end}", float(flat[seen].quantile(0.95)), GREY)
        figures.put(f"edge_agreement_worst{end}", float(edges.quantile(0.05)), SHARE)
        figures.put(f"median_change{end}", float(moved.median()), GREY)
    falls: dict[str, list[float]] = {"grade": [], "pixels": []}
    for pair in first:
        source, reference = shown(pair.source), shown(pair.reference)
        before = gram_loss(source, reference)
        for method, found in falls.items():
            found.append(1 - gram_loss(_result(folder, pair, method), reference) / before)
    ours, theirs = (torch.tensor(falls[m], dtype=torch.float64) for m in ("grade", "pixels"))
    figures.put_mean("gram_fall", ours, SHARE)
    figures.put_mean("gram_fall.pixels", theirs, SHARE)
    figures.put("gram_fall_ratio", float(ours.mean() / theirs.mean()), "of the pixel surface's")
    return figures


@lru_cache(maxsize=1)
def _judge() -> Any:
    return load_valence_arousal(JUDGE).eval()


@torch.no_grad()
def _points(image: torch.Tensor) -> list[float]:
    """[valence, arousal] in 0..1, by the judge."""
    return _judge().points(image)[0].tolist()


def _felt(folder: Path, rated: list[Pair], rivals: Sequence[str]) -> Figures:
    """Whether the judge moves with what people felt of the reference, more than of the source."""
    before = np.array([_points(shown(p.source)) for p in rated])
    groups = [p.number // REFERENCES for p in rated]
    wanted = np.array([p.reference_rating for p in rated]) - np.array([p.source_rating for p in rated])
    moved = {"ceiling": np.array([_points(shown(p.reference)) for p in rated]) - before}
    for method in ("grade", *rivals):
        moved[method] = np.array([_points(_result(folder, p, method)) for p in rated]) - before
    figures = Figures()
    figures.put("pairs_rated", len(rated), "pairs")
    for k, name in enumerate(("valence", "arousal")):
        found = {method: rank(wanted[:, k], value[:, k], groups) for method, value in moved.items()}
        for method, values in found.items():
            key = {"grade": f"{name}_rank", "ceiling": f"{name}_rank_ceiling"}.get(method, f"{name}_rank.{method}")
            figures.put(key, values[0], SPEARMAN, interval(values))
        figures.put(f"{name}_rank_low", interval(found["grade"])[0], SPEARMAN)
        best = max(rivals, key=lambda m: found[m][0])
        less = found["grade"] - found[best]
        figures.put(f"{name}_rank_less_best_rival", less[0], SPEARMAN, interval(less))
    return figures


def _at_equal_change(folder: Path, first: list[Pair]) -> Figures:
    """The paper's Table II: SSIM with the source where both surfaces move the judge equally far towards the reference.
    Each is taken at several strengths; between them the means are interpolated."""
    curves: dict[str, list[tuple[float, float]]] = {"grade": [], "pixels": []}
    for strength in STRENGTHS:
        rows: dict[str, list[tuple[float, float]]] = {"grade": [], "pixels": []}
        for pair in first:
            source = shown(pair.source)
            before, goal = np.array(_points(source)), np.array(_points(shown(pair.reference)))
            grade, on_pixels = Grid.load(folder / f"{pair.name}.safetensors"), _result(folder, pair, "pixels")
            images = {
                "grade": _graded(source, grade, strength),
                "pixels": (source + strength * (on_pixels - source)).clamp(0, 1),
            }
            way = (goal - before) / max(1e-6, float(np.linalg.norm(goal - before)))
            for method, image in images.items():
                moved = float(way @ (np.array(_points(image)) - before))
                rows[method].append((moved, float(metrics.ssim(image, source))))
        for method, found in rows.items():
            moved, kept = np.mean(found, axis=0)
            curves[method].append((float(moved), float(kept)))
    level = min(max(m for m, _ in c) for c in curves.values())
    figures = Figures()
    figures.put("equal_change", level, "of the plane's side")
    for method, points in curves.items():
        moved, kept = np.array([(0.0, 1.0), *points]).T
        at = float(np.interp(level, np.maximum.accumulate(moved), kept))
        figures.put("ssim_at_equal_change" + (".pixels" if method == "pixels" else ""), at, SSIM)
        figures.put(f"judge_moved.{method}", points[STRENGTHS.index(1.0)][0], "of the plane's side")
    return figures


def judge(oasis: Path) -> Figures:
    """Pearson's r of the bundled heads on the test themes, which neither has seen."""
    rated = ratings(oasis)
    figures = Figures()
    for name, end in (("photo", ""), (JUDGE, ".lite2")):
        head = load_valence_arousal(name).eval()
        with torch.no_grad():
            answers = np.array([head.points(shown(p))[0].tolist() for p in rated.files])
        for key, r in zip(("valence", "arousal"), correlations(answers, rated.points)):
            figures.put(f"va_head_r_{key}{end}", r, "r")
    return figures


def _sheets(out: Path, folder: Path, chosen: list[Pair], rivals: Sequence[str]) -> None:
    """Every photograph with its references and grades, and the first beside every rival: pictures to look at."""
    per = 4
    for k in range(0, len(chosen) // REFERENCES, per):
        images, words = [], []
        for pair in chosen[k * REFERENCES : (k + per) * REFERENCES]:
            images += [shown(pair.source)[0], shown(pair.reference)[0], _result(folder, pair, "grade")[0]]
            words += [pair.name, "reference", "grade"]
            others = ("pixels", *rivals) if pair.number % REFERENCES == 0 else rivals
            others = [m for m in others if _made(folder, pair, m)]
            images += [_result(folder, pair, m)[0] for m in others]
            words += others
            images += [torch.ones(3, 8, 8)] * (3 - len(others) + 1)
            words += [""] * (3 - len(others) + 1)
        measure.save_sheet(out / "sheets" / f"{k // per:02d}.jpg", images, words, 7, cell=200)
