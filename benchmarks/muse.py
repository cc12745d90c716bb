"""MUSE's first figure: 64 held-out prompts, each with one emotion, the same noise for every method.

Plain prompt, prompt with the emotion word (in a form that the text encoder was trained on), and MUSE guided by
tiny-a. tiny-b, of another architecture and trained on other scenes, judges. Resumable: images that are there are kept.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..models import files, metrics, tiny
from ..models.classifiers import load_classifier
from ..models.clip import load_scorer
from ..models.diffusion.diffusers import CFGGuider, MuseGuider
from ..models.diffusion.sampling import Sampler, prepare_noise, schedule
from ..models.emotions import MIKELS, EmotionTarget
from ..models.muse import MuseConfig, TimingGate
from ..models.plots import contact_sheet
from ..training.data.moodscenes import layout_seeds, make_scene

METHODS = ("plain", "word", "muse")
STEPS = 20


def pairs(n: int, split: str = "test") -> list[tuple[str, str]]:
    """n (content caption of a held-out layout, emotion), the emotions in turn."""
    out = []
    for i, layout in enumerate(layout_seeds(split, n, seed=64)):
        scene = make_scene(int(layout), None, 0)
        out.append((scene.content_caption(np.random.default_rng([64, i])), MIKELS[i % len(MIKELS)]))
    return out


def generate(method: str, prompt: str, emotion: str, seed: int, cfg: float = 7.5) -> torch.Tensor:
    """[3, 128, 128] in 0..1 by a method of `METHODS` from the noise of `seed`."""
    model, text, vae = tiny.load_pipeline()
    latent = torch.zeros(1, tiny.LATENT_CHANNELS, 16, 16)
    positive = text.encode(f"{prompt}, feeling of {emotion}" if method == "word" else prompt)
    if method == "muse":
        guider: CFGGuider = MuseGuider(
            model, vae, load_classifier("tiny-a"), positive, text.encode(""), EmotionTarget.of(emotion),
            MuseConfig(cfg=cfg, seed=seed), TimingGate(load_scorer("tiny"), prompt))
    else:
        guider = CFGGuider(model, positive, text.encode(""), cfg)
    sigmas = schedule("karras", model.sigma_table, STEPS)
    samples = guider.sample(prepare_noise(latent, seed), latent, Sampler("euler"), sigmas, seed=seed)
    with torch.no_grad():
        return vae.decode(samples)[0]


def run_key(args: argparse.Namespace) -> str:
    """A folder name for everything that an image depends on: pairs, settings, weights. Old images are never scored."""
    digest = hashlib.sha256(repr((args.split, args.n, args.cfg, STEPS, MuseConfig())).encode())
    for name in ("unet", "vae", "clip", "tiny-a"):
        digest.update(tiny.path(name).read_bytes())
    return f"{args.split}-{args.n}-{digest.hexdigest()[:10]}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-muse"), help="images and sheet (default: %(default)s)")
    parser.add_argument("--n", type=int, default=64, help="pairs (default: %(default)s)")
    parser.add_argument("--split", default="test", choices=("test", "val"), help="layouts (tune on val)")
    parser.add_argument("--cfg", type=float, default=7.5)


def main(args: argparse.Namespace) -> int:
    from PIL import Image
    from tqdm import tqdm

    todo = pairs(args.n, args.split)
    out = args.out / run_key(args)
    out.mkdir(parents=True, exist_ok=True)
    files.write_atomically(out / "pairs.json", lambda p: p.write_text(json.dumps(todo, indent=0), encoding="utf-8"))
    images: dict[str, list[Any]] = {m: [] for m in METHODS}
    for i, (prompt, emotion) in enumerate(tqdm(todo, desc="pairs")):
        for method in METHODS:
            path = out / f"{i:03d}_{method}.png"
            if not path.is_file():
                array = (generate(method, prompt, emotion, i, args.cfg).permute(1, 2, 0).numpy() * 255).round()
                files.write_atomically(path, lambda p: Image.fromarray(array.astype(np.uint8)).save(p))
            images[method].append(np.asarray(Image.open(path)))
    figures = measure(images, todo)
    captions = [f"{emotion}" for _, emotion in todo]
    sheet = contact_sheet([x for pair in zip(images["plain"], images["muse"]) for x in pair],
                          [c for emotion in captions for c in ("plain", emotion)], columns=16, cell=96)
    files.write_atomically(out / "sheet.png",
                           lambda p: Image.fromarray((sheet * 255).round().astype(np.uint8)).save(p))
    for name, value in figures.items():
        print(f"{name:<44}{value if isinstance(value, list) else round(value, 3)}")
    if args.json:
        result = {"name": "muse", "machine": platform.processor() or platform.machine(), "figures": figures,
                  "unit": {name: "share" for name in figures}}
        files.write_atomically(args.json, lambda p: p.write_text(json.dumps(result, indent=1) + "\n"))
    return 0


@torch.no_grad()
def measure(images: dict[str, list[Any]], todo: list[tuple[str, str]]) -> dict[str, Any]:
    """Accuracy of each classifier with its 95 % interval, and own-prompt retrieval by tiny-eval, for each method."""
    labels = torch.tensor([MIKELS.index(emotion) for _, emotion in todo])
    judge = load_scorer("tiny-eval")
    text = judge.text_features([prompt for prompt, _ in todo])
    figures: dict[str, Any] = {}
    for method, arrays in images.items():
        x = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255
        for name in ("tiny-a", "tiny-b", "tiny-c"):
            share = metrics.accuracy(load_classifier(name)(x), labels)
            figures[f"{method}: {name} accuracy"] = share
            figures[f"{method}: {name} 95 % interval"] = [round(v, 3) for v in metrics.wilson_interval(share, len(x))]
        figures[f"{method}: own-prompt retrieval among {len(x)}"] = metrics.retrieval(metrics.clip_features(judge, x), text)
    return figures
