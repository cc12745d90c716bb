"""MoodifyCLIP's losses, one by one (the paper's Table 3): zero-shot emotions and retrieval on held-out structured
captions, for the base model, GL, GL and FG, GL and OT, and all, over several seeds.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from ..models import host, metrics
from ..models.diffusion.towers import OpenClipTower
from ..models.emotions import MIKELS
from ..models.errors import UserError
from ..models.moodifier import losses, text_encoder
from ..models.networks import moodifyclip as moodify
from ..models.networks.classifiers import ZeroShotEmotion
from ..models.networks.tokenizer import CHUNK
from ..training.clip import preprocess
from ..training.config import load_config
from ..training.data.moodscenes import layout_seeds, make_scene
from ..training.loop import split
from ..training.moodifyclip import MoodifyConfig, base_clip, captions_of, train
from . import arguments
from .figures import SHARE, Figures, Interval
from .store import fingerprint

COLUMNS = ("top1", "top2", "top3", "i2t_r1", "i2t_r5", "t2i_r1", "t2i_r5")
VARIANTS = ("gl", "gl_fg", "gl_ot", "full")
AMONG = 100


CODE = ("training.moodifyclip:train", "training.moodifyclip:base_clip", "benchmarks.moodifyclip:variants")


def variants(config: MoodifyConfig) -> dict[str, MoodifyConfig]:
    """Figure prefix -> which losses."""
    return {
        "gl": replace(config, fine=0.0, transport=0.0),
        "gl_fg": replace(config, transport=0.0),
        "gl_ot": replace(config, fine=0.0),
        "full": config,
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `affect bench moodifyclip`. Two processes may train different variants into one --out."""
    arguments.outputs(parser, "runs/bench-moodifyclip", "runs")
    parser.add_argument("--config", default="moodifyclip")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--split", default="test", choices=("val", "test"), help="layouts (tune on val)")
    arguments.parts(parser, VARIANTS, "VARIANT")
    parser.add_argument("--scenes", type=int, default=800, help="held-out scenes (default: %(default)s)")
    arguments.overrides(parser)


def main(args: argparse.Namespace) -> int:
    """Trains each variant with each seed where that is missing; writes the figures again after each seed."""
    if args.scenes < AMONG:
        raise UserError(f"Retrieval is among {AMONG} scenes: give --scenes {AMONG} or more, not {args.scenes}.")
    config = load_config(args.config, args.overrides)
    own, loop = split(config["moodifyclip"], MoodifyConfig, "moodifyclip")
    device = host.current().device
    clip, _ = base_clip("tiny")
    clip.to(device)
    images, labels, captions = scenes(args.scenes, args.split)
    # What other code, settings or weights trained is kept apart. The base reads its own 77 tokens, which hold every
    # caption here.
    out = args.out / fingerprint(
        CODE,
        ("clip",),
        json.dumps(config, sort_keys=True),
    )
    base = figures_of(clip, images, labels, captions)
    figures = Figures()
    for key, value in base.items():  # one model: the interval is that of its scenes
        figures.put(f"base.{key}", value, SHARE, metrics.wilson_interval(value, args.scenes))
    rows: dict[str, list[dict[str, float]]] = {}
    for seed in range(args.seeds):
        for name in args.only:
            torch.manual_seed(seed)
            run = f"{name}-{seed}"
            model = train(clip, variants(own)[name], replace(loop, seed=seed), out, device, run)[0].eval()
            row = figures_of(model, images, labels, captions)
            row["drift"] = drift_of(clip, model, captions)
            rows.setdefault(name, []).append(row)
            torch.save(model.state_dict(), out / run / "model.pt")
        every = Figures()
        every.put_all(figures)
        every.put_all(compared(rows, base))
        every.write(
            args.json,
            "moodifyclip",
            seeds=seed + 1,
            scenes=args.scenes,
            split=args.split,
            steps=loop.steps,
            batch=loop.batch,
            captions=own.n,
            interval="of the base: Wilson's over scenes; of the others: "
            "Student's over seeds; of differences: Student's over seeds that share their batches",
        )
    return 0


def compared(rows: dict[str, list[dict[str, float]]], base: dict[str, float]) -> Figures:
    """The means of each variant over seeds, and what all losses gain over GL alone and over the base."""
    figures = Figures()
    for name, seeds in rows.items():
        for key in seeds[0]:
            figures.put(f"{name}.{key}", *over_seeds([row[key] for row in seeds]))
    for key in COLUMNS:
        if "full" in rows:
            figures.put(f"order.full-base.{key}", *over_seeds([row[key] - base[key] for row in rows["full"]]))
        if {"full", "gl"} <= set(rows):
            gains = [a[key] - b[key] for a, b in zip(rows["full"], rows["gl"])]
            figures.put(f"order.full-gl.{key}", *over_seeds(gains))
    return figures


def over_seeds(values: list[float]) -> tuple[float, str, Interval | None]:
    """The mean over a few seeds, its unit (every figure here is a share), and Student's interval; None for one seed."""
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return mean, SHARE, None
    half = {2: 12.7, 3: 4.30, 4: 3.18, 5: 2.78}.get(n, 2.0) * float(np.std(values, ddof=1)) / n**0.5
    return mean, SHARE, (mean - half, mean + half)


def scenes(n: int, split_name: str = "test") -> tuple[torch.Tensor, torch.Tensor, list[list[str]]]:
    """Held-out scenes, the emotions in turn: images [n, 3, 128, 128], labels [n], structured captions."""
    images, captions = [], []
    for i, layout in enumerate(layout_seeds(split_name, n, 23)):
        scene = make_scene(int(layout), MIKELS[i % len(MIKELS)], i)
        mood = scene.mood_caption()
        images.append(torch.from_numpy(scene.image).permute(2, 0, 1))
        captions.append([mood["summary"], *mood["stimuli"], mood["assessment"]])
    return torch.stack(images).float() / 255, torch.arange(n) % len(MIKELS), captions


@torch.no_grad()
def figures_of(clip: Any, images: torch.Tensor, labels: torch.Tensor, captions: list[list[str]]) -> dict[str, float]:
    """Zero-shot Top-1, 2 and 3 over Mikels' eight, by the sentences that the zero-shot classifier has (`top`) and by
    the one that ends the captions it was trained on (`phrase_top`); retrieval among 100 by whole captions in both
    directions."""
    clip.eval()
    device, length = clip.positional_embedding.device, len(clip.positional_embedding)
    encode = lambda texts: torch.cat(
        [
            F.normalize(
                OpenClipTower(clip)(torch.tensor([moodify.tokens(t, length) for t in texts[i : i + 50]]).to(device))[1],
                dim=-1,
            ).cpu()
            for i in range(0, len(texts), 50)
        ]
    )
    image = torch.cat([clip.encode_image(preprocess(x.to(device)), normalize=True).cpu() for x in images.split(100)])
    shares: dict[str, float] = {}
    for prefix, templates in (("", ZeroShotEmotion.TEMPLATES), ("phrase_", ("The scene evokes {}.",))):
        classes = F.normalize(
            torch.stack([encode([t.format(name) for t in templates]).mean(dim=0) for name in MIKELS]), dim=-1
        )
        order = (image @ classes.T).argsort(dim=1, descending=True)
        shares |= {
            f"{prefix}top{k}": float((order[:, :k] == labels[:, None]).any(dim=1).float().mean()) for k in (1, 2, 3)
        }
    text = encode([captions_of(c)[0] for c in captions])
    for name, a, b in (("i2t", image, text), ("t2i", text, image)):
        ranks = [
            (x @ y.T).argsort(dim=1, descending=True) == torch.arange(len(x))[:, None]
            for x, y in zip(a.split(AMONG), b.split(AMONG))
            if len(x) == AMONG
        ]
        for k in (1, 5):
            shares[f"{name}_r{k}"] = float(torch.cat([r[:, :k].any(dim=1) for r in ranks]).float().mean())
    return shares


@torch.no_grad()
def drift_of(base: Any, model: Any, captions: list[list[str]], n: int = 200) -> float:
    """How far the hidden states that a diffusion model reads of short captions have moved, relative to their size."""
    ids = torch.tensor([text_encoder.as_conditioning(c[0], base)[:CHUNK] for c in captions[:n]]).to(
        base.positional_embedding.device
    )
    return float(losses.drift(text_encoder.read_by_unets(model)(ids)[0], text_encoder.read_by_unets(base)(ids)[0]))
