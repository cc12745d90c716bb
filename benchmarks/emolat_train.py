"""EmoLat's first stage: how fast graphs are encoded, whether its codebooks stay in use, and whether their codes look
like their emotion to a probe that saw real images alone; beside the same training without adversary and without
dispersion.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from ..models import host, metrics
from ..models.emolat.codebook import Codebooks, separation
from ..models.emolat.graph import GraphBatch, GraphEncoder
from ..models.emolat.repaint import clustered, codebook_map, map_points
from ..models.emolat.space import EmoLat, EmoLatConfig, save
from ..models.emotions import MIKELS
from ..models.errors import UserError
from ..models.networks.backbones import load_backbone
from ..models.networks.scorers import load_scorer
from ..models.plots import curve
from ..training.config import load_config, read
from ..training.emolat import Data, DataConfig, SpaceConfig, read_data, real_vectors, start_books, train_space
from ..training.loop import split
from . import arguments, measure
from .figures import SHARE, Figures
from .store import fingerprint

DRAWS = 256
ENTRIES = "entries"
CODE = (
    "training.emolat:read_data",
    "training.emolat:real_vectors",
    "training.emolat:start_books",
    "training.emolat:train_space",
)

FIRST_SEED = 2
"""Trainings with the seeds before it chose the settings (`training.emolat.SpaceConfig`)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `affect bench emolat-train`."""
    arguments.outputs(parser, "runs/bench-emolat", "runs and pictures")
    parser.add_argument("--config", default="emolat")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each variant (default: %(default)s)")
    parser.add_argument("--graphs", type=int, default=2048, help="graphs encoded for the speed (default: %(default)s)")
    arguments.overrides(parser)


def main(args: argparse.Namespace) -> int:
    """Trains each variant with each seed where that is missing, and writes figures, maps and curves."""
    if args.seeds < 1:
        raise UserError(f"--seeds counts trainings: 1 or more, not {args.seeds}.")
    config = load_config(args.config, args.overrides)
    model = read(EmoLatConfig, config["model"], "[model]")
    own, loop = split(config["emolat"], SpaceConfig, "emolat")
    # What other code or settings trained is kept apart; data and features are known by what they are.
    used = {key: config[key] for key in ("model", "data", "emolat")}
    out = args.out / fingerprint(
        CODE,
        ("vgg", "clip"),
        json.dumps(used, sort_keys=True),
    )
    out.mkdir(parents=True, exist_ok=True)
    data = read_data(read(DataConfig, config["data"], "[data]"), model, args.out, host.current().device, whole=True)
    figures = speed(data, model, own, args.graphs)
    vgg = load_backbone(model.vgg)
    vectors, emotions = real_vectors(vgg, data, args.out), data.graphs.emotions
    # The books begin on the other half of the images.
    probe, accuracy = train_probe(vectors[0::2], emotions[0::2])
    figures.put("probe_accuracy_real", accuracy, SHARE)
    books = start_books(vectors[1::2], emotions[1::2], model, loop.seed).to(emotions.device)
    figures.put_all(measured(probe, books, "_untrained"))
    variants = {"": own, "_no_adversary": replace(own, adversary=0.0), "_no_dispersion": replace(own, dispersion=0.0)}
    for name, variant in variants.items():
        runs: list[Figures] = []
        for seed in range(FIRST_SEED, FIRST_SEED + args.seeds):
            torch.manual_seed(seed)
            run = f"emolat{name}-{seed}"
            space = train_space(data, vectors, model, variant, replace(loop, seed=seed), out, run)
            runs.append(measured(probe, space.codebooks, name))
            runs[-1].put_all(_followed(out / run, args.out / run, model.entries, name))
            emolat = EmoLat(model, vgg, load_scorer(model.clip), network=False)
            emolat.codebooks.load_state_dict(space.codebooks.state_dict())
            save(out / f"{run}.safetensors", emolat)
            for method in ("t-SNE", "PCA"):
                measure.save_picture(args.out / f"{run}-{method.lower()}.png", codebook_map(emolat, method))
            runs[-1].put(f"map_clustered{name}", clustered(*map_points(emolat, "t-SNE")), SHARE)
            runs[-1].put(f"perplexity_end{name}", float(space.codebooks.perplexity().min()), ENTRIES)
            runs[-1].put(f"perplexity_before_settling{name}", float(space.get_buffer("counted").min()), ENTRIES)
        figures.put_all(over_seeds(runs))
    figures.write(args.json, "emolat-train", fingerprint=out.name, config=used, seeds=args.seeds)
    return 0


def over_seeds(runs: list[Figures]) -> Figures:
    """Each figure of several trainings: the mean, but of what must hold to the end of each (use, finite losses) the
    worst, and of intervals the outer ends. With several trainings, each seed's own figure too."""
    out = Figures()
    for key, unit in runs[0].unit.items():
        values = [figures[key] for figures in runs]
        if key.startswith(("perplexity", "losses_finite")) or key.endswith(".low"):
            out.put(key, min(values), unit)
        else:
            out.put(key, max(values) if key.endswith(".high") else sum(values) / len(values), unit)
        if len(runs) > 1 and not key.endswith((".low", ".high")):
            for seed, value in enumerate(values, FIRST_SEED):
                out.put(f"{key}.seed_{seed}", value, unit)
    return out


def _followed(run: Path, picture: Path, entries: int, name: str) -> Figures:
    """The least perplexity of a training's books on its way, by running average (`perplexity`, what trainings
    usually log) and counted over all graphs at one step (`perplexity_counted`, from the second line on: at the first
    nothing is learned), and its curves as pictures."""
    rows = map(json.loads, (run / "log.jsonl").read_text(encoding="utf-8").splitlines())
    log = list({row["step"]: row for row in rows}.values())  # a run that went on says some steps twice
    steps = [row["step"] for row in log]
    measure.save_picture(
        picture.with_suffix(".png"),
        curve(
            {key: [row[key] for row in log] for key in ("generator", "adversary", "quantisation", "recognised")},
            steps,
            "step",
            "loss",
        ),
    )
    measure.save_picture(
        picture.with_name(f"{picture.name}-perplexity.png"),
        curve(
            {
                "by a running average": [row["perplexity"] for row in log],
                "counted over all graphs at one step": [row["counted"] for row in log],
            },
            steps,
            "step",
            "entries in use (perplexity), least used book",
            {"half of them": entries / 2},
        ),
    )
    perplexity, counted = ([row[key] for row in log] for key in ("perplexity", "counted"))
    finite = all(math.isfinite(value) for row in log for value in row.values())
    figures = Figures()
    figures.put(f"perplexity_min{name}", min(perplexity), ENTRIES)
    figures.put(f"perplexity_min_second_half{name}", min(perplexity[len(perplexity) // 2 :]), ENTRIES)
    figures.put(f"perplexity_counted_min{name}", min(counted[1:] or counted), ENTRIES)
    figures.put(f"perplexity_counted_last{name}", counted[-1], ENTRIES)
    figures.put(f"losses_finite{name}", float(finite), SHARE)
    return figures


@torch.no_grad()
def speed(data: Data, model: EmoLatConfig, own: SpaceConfig, n: int, alone: int = 128) -> Figures:
    """Graphs a second, 64 at a time with every word's features looked up, against one graph at a time whose words go
    through the text tower anew. Both in turn, three rounds; the best of each counts. The features of both are
    compared first."""
    scorer = load_scorer(model.clip)
    torch.manual_seed(0)
    graphs, encoder = (
        data.graphs,
        GraphEncoder(data.graphs.features.shape[1], own.hidden, own.slots, model.code_width // 2).eval(),
    )
    encoder.to(graphs.emotions.device)

    def one(i: int) -> torch.Tensor:
        row = data.rows[i]
        words = [w for pair in row.pairs for w in pair] + [row.adjective, MIKELS[row.emotion]]
        f = scorer.text_features(words)
        f[[j for j, w in enumerate(words) if not w]] = 0.0
        pairs = f[:-2].view(1, -1, 2, f.shape[1]) if row.pairs else f.new_zeros(1, 1, 2, f.shape[1])
        present = torch.full(pairs.shape[:2], bool(row.pairs), device=f.device)
        return encoder(GraphBatch(pairs[:, :, 0], pairs[:, :, 1], present, f[-2:-1], f[-1:]))

    index = torch.arange(n) % len(graphs)
    apart = (encoder(graphs.batch(index[:16])) - torch.cat([one(int(i)) for i in index[:16]])).abs().max()
    if apart > 1e-3:
        raise RuntimeError(f"The two ways to encode graphs differ by {float(apart):.2g}: the comparison is void.")
    batched, single = [], []
    for _ in range(3):
        start = time.perf_counter()
        for part in index.split(64):
            encoder(graphs.batch(part))
        batched.append(n / (time.perf_counter() - start))
        start = time.perf_counter()
        for i in index[:alone].tolist():
            one(i)
        single.append(alone / (time.perf_counter() - start))
    figures = Figures()
    figures.put("speedup", max(batched) / max(single), "times")
    figures.put("graphs_batched", max(batched), "graphs/s")
    figures.put("graphs_single", max(single), "graphs/s")
    return figures


def train_probe(vectors: torch.Tensor, emotions: torch.Tensor, steps: int = 3000) -> tuple[nn.Module, float]:
    """(a probe vectors [n, W] -> logits [n, 8] trained on the vectors of seven of these real images in eight, its
    accuracy on the vectors of the eighth). It never sees a codebook, nor the images that the books began on."""
    held, device, emotions = torch.arange(len(vectors)) % 8 == 7, emotions.device, emotions.cpu()
    flat = lambda keep: (
        vectors[keep].flatten(0, 1).float().to(device),
        emotions[keep].repeat_interleave(vectors.shape[1]).to(device),
    )
    x, y = flat(~held)
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    probe = nn.Sequential(
        nn.LayerNorm(x.shape[1]), nn.Linear(x.shape[1], 256), nn.GELU(), nn.Dropout(0.2), nn.Linear(256, len(MIKELS))
    ).to(device)
    optimizer = torch.optim.AdamW(probe.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        rows = torch.randint(len(x), (256,), generator=generator)
        optimizer.zero_grad()
        rows = rows.to(device)
        nn.functional.cross_entropy(probe(x[rows]), y[rows]).backward()
        optimizer.step()
        schedule.step()
    probe.eval().requires_grad_(False)
    return probe, metrics.accuracy(probe(flat(held)[0]), flat(held)[1])


@torch.no_grad()
def measured(probe: nn.Module, books: Codebooks, name: str) -> Figures:
    """What a probe makes of codes sampled as inference samples them, and how far the books lie apart."""
    labels = torch.arange(len(MIKELS), device=books.entries.device).repeat_interleave(DRAWS)
    codes = books.sample(labels, 1, 1.0, torch.Generator().manual_seed(0))[:, 0]
    share = metrics.accuracy(probe(codes).cpu(), labels.cpu())
    entries = books.entries.detach()
    apart = separation(entries.flatten(0, 1), torch.arange(len(MIKELS)).repeat_interleave(entries.shape[1]))
    figures = Figures()
    figures.put(f"probe_accuracy{name}", share, SHARE, metrics.wilson_interval(share, len(codes)))
    figures.put(f"separation{name}", apart, "ratio")
    return figures
