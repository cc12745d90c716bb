"""EmoLat's transfer on held-out MoodScenes, towards the opposite emotion and towards all seven others: with its codebooks,
without them (the text alone into the mapper, trained as long), and against a CLIPstyler-like optimisation of the image.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Callable

import numpy as np
import torch
from torch.nn import functional as F

from ..models import files, host, metrics
from ..models.backbones import load_backbone, taps
from ..models.clip import load_scorer
from ..models.emolat.losses import content_loss, patch_clip_loss
from ..models.emolat.repaint import repaint
from ..models.emolat.space import EmoLat, load, load_emolat, save
from ..models.emotions import MIKELS, OPPOSITE, EmotionTarget
from ..models.errors import UserError
from ..models.plots import contact_sheet
from ..training.config import overridden, read
from ..training.data.moodscenes import layout_seeds, make_scene, sample_emotion
from ..training.emolat import DataConfig, read_data
from ..training.loop import split
from ..training.transfer import TransferConfig, train_transfer, with_network
from . import measure
from .store import fingerprint

_SCENES = ("training/data/moodscenes/*.py",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-emolat"), help="runs and pictures (default: %(default)s)")
    parser.add_argument("--model", default="tiny", help="the EmoLat (default: %(default)s)")
    parser.add_argument("--n", type=int, default=64, help="held-out scenes (default: %(default)s)")
    parser.add_argument("--split", default="test", choices=("train", "val", "test"))
    parser.add_argument("overrides", nargs="*", metavar="SECTION.KEY=VALUE")


def main(args: argparse.Namespace) -> int:
    emolat = load_emolat(args.model)
    # What other code, weights or settings made is kept apart; the baseline knows nothing of EmoLat's.
    file = "emolat" if args.model == "tiny" else str(files.find_model("emolat", args.model))
    ours = args.out / fingerprint(("models/emolat/*.py", "training/transfer.py", *_SCENES), (file, "vgg", "clip"), str(args.overrides))
    theirs = args.out / fingerprint(("benchmarks/emolat.py", "models/emolat/losses.py", *_SCENES), ("vgg", "clip"))
    ours.mkdir(parents=True, exist_ok=True)
    bare = without_codes(emolat, args.out, ours, args.overrides)
    methods: dict[str, Callable[[torch.Tensor, str, str, int], torch.Tensor]] = {
        "with": lambda x, source, target, seed: one_pass(emolat, x, target, seed),
        "without": lambda x, source, target, seed: one_pass(bare, x, target, seed), "baseline": clipstyler}
    figures: dict[str, float] = {}
    shown = []
    for towards in ("opposite", "seven"):
        jobs = tasks(args.n if towards == "opposite" else max(1, args.n // 2), args.split, towards)
        source = torch.stack([picture(layout, emotion, i) for i, (layout, emotion, _) in enumerate(jobs)])
        truth = torch.stack([picture(layout, target, i) for i, (layout, _, target) in enumerate(jobs)])
        prefix = "" if towards == "opposite" else "seven."
        results = {name: made(theirs if name == "baseline" else ours, f"{name}-{towards}-{args.split}", method, source, jobs) for name, method in methods.items()}
        for name, x in results.items():
            figures |= judged(x, source, truth, jobs, f"{prefix}{name}")
        figures |= judged(source, source, truth, jobs, f"{prefix}source") | judged(truth, source, truth, jobs, f"{prefix}truth")
        layouts = [layout for layout, *_ in jobs]
        for key, network in (("lpips", ""), ("densenet", "tiny-densenet")):  # EmoLat learned through the VGG; not through this one
            own = measure.distances(source, truth, network)
            nearer = (measure.distances(results["with"], truth, network) < own).float()
            figures |= measure.with_interval(f"{prefix}{key}_better_fraction", float(nearer.mean()),
                                             measure.grouped_interval(nearer, layouts))
        p = {name: measure.probabilities(x, "tiny-b").argmax(dim=1) == labels_of(jobs) for name, x in results.items()}
        for rival in ("without", "baseline"):
            figures |= measure.with_interval(f"{prefix}acc8_above_{rival}", float(p["with"].float().mean() - p[rival].float().mean()),
                                             measure.grouped_interval(p["with"].float() - p[rival].float(), layouts))
        if towards == "opposite":
            shown = [(t[i], label) for i in range(min(12, len(jobs))) for t, label in (
                (source, jobs[i][1]), (results["with"], jobs[i][2]), (results["without"], "without codes"),
                (results["baseline"], "CLIPstyler-like"), (truth, "truth"))]
    measure.save_picture(args.out / f"emolat-{args.split}.png", contact_sheet(
        [t.permute(1, 2, 0).numpy() for t, _ in shown], [label for _, label in shown], columns=10))
    figures["seconds_512"] = seconds(emolat)
    measure.write(args.json, "emolat", figures, {key: _unit(key) for key in figures}, n=args.n, split=args.split,
                  lpips=measure.distance_name(), fid="Frechet distance on tiny-eval's features")
    return 0


def _unit(key: str) -> str:
    units = {"lpips_better": "share", "lpips": "distance", "reconstruction": "grey levels", "fid": "distance", "seconds": "s"}
    return next((unit for part, unit in units.items() if part in key), "share")


Job = tuple[int, str, str]


def tasks(n: int, split: str, towards: str) -> list[Job]:
    """(layout, its emotion, the target): n layouts, towards the opposite emotion or each of the seven others."""
    out: list[Job] = []
    for layout in layout_seeds(split, n, 19):
        emotion = sample_emotion(int(layout), np.random.default_rng(int(layout)))
        targets = [OPPOSITE[emotion]] if towards == "opposite" else [e for e in MIKELS if e != emotion]
        out += [(int(layout), emotion, target) for target in targets]
    return out


def picture(layout: int, emotion: str, seed: int) -> torch.Tensor:
    """[3, 128, 128] in 0..1."""
    return torch.from_numpy(make_scene(layout, emotion, seed).image).permute(2, 0, 1).float() / 255


def one_pass(emolat: EmoLat, image: torch.Tensor, target: str, seed: int) -> torch.Tensor:
    emotion = EmotionTarget.of(target)
    return repaint(emolat, image, emolat.sample(emotion, 1, 1.0, seed)).cpu()


def clipstyler(image: torch.Tensor, source: str, target: str, seed: int, steps: int = 100, rate: float = 0.02,
               content: float = 0.5) -> torch.Tensor:
    """Pixels optimised by Adam against the patch CLIP directional loss and a content loss (Kwon and Ye 2022, whose network is
    fitted to one image in the same way). Its settings were chosen on validation layouts."""
    device = host.current().device
    scorer, vgg, image = load_scorer("tiny").to(device), load_backbone("tiny-vgg").to(device), image.to(device)
    maps = taps(vgg, ("relu4_4",))
    torch.manual_seed(seed)
    encode = lambda x: F.normalize(scorer.image_features(x), dim=-1)
    with torch.no_grad():
        text, source_text = scorer.text_features([target])[:1], scorer.text_features([source])[:1]
        there = maps(image)
    x = image.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([x], lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        crops = patch_clip_loss(encode, x, image, text, source_text, patches=16)
        whole = patch_clip_loss(encode, x, image, text, source_text, patches=1, size=1.0, threshold=0.0, perspective=0.0)
        variation = x.diff(dim=-1).abs().mean() + x.diff(dim=-2).abs().mean()
        (crops + whole + content * content_loss(maps(x), there) + 0.1 * variation).backward()
        optimizer.step()
        with torch.no_grad():
            x.clamp_(0, 1)
    return x.detach().cpu()


def made(out: Path, name: str, method: Callable, source: torch.Tensor, jobs: list[Job]) -> torch.Tensor:
    """[n, 3, H, W]: a method's results."""
    return measure.made(out / "images" / name, [f"{i:04d}-{layout}-{target}" for i, (layout, _, target) in enumerate(jobs)],
                        lambda i: method(source[i:i + 1], jobs[i][1], jobs[i][2], i))


def labels_of(jobs: list[Job]) -> torch.Tensor:
    return torch.tensor([MIKELS.index(target) for *_, target in jobs])


def judged(x: torch.Tensor, source: torch.Tensor, truth: torch.Tensor, jobs: list[Job], name: str) -> dict[str, float]:
    """The paper's figures (section V-A) and the distance to the truth. Acc-2 is the share on the target's side of positive
    and negative; the reconstruction error the mean absolute difference from the source in grey levels."""
    labels = labels_of(jobs)
    p = measure.probabilities(x, "tiny-b")
    eight = metrics.accuracy(p, labels)
    side = float(((p[:, :4].sum(dim=1) > 0.5) == (labels < 4)).float().mean())
    low, high = measure.grouped_interval((p.argmax(dim=1) == labels).float(), [layout for layout, *_ in jobs])
    kept, away, features = metrics.ssim(x, source), measure.distances(x, truth), [measure.image_features(t) for t in (x, truth)]
    return {f"{name}.acc8": eight, f"{name}.acc8_low": low, f"{name}.acc8_high": high,
            **measure.with_interval(f"{name}.acc2", side, metrics.wilson_interval(side, len(labels))),
            **measure.with_interval(f"{name}.ssim", float(kept.mean()), metrics.mean_interval(kept)),
            f"{name}.reconstruction_error": 255 * float((x - source).abs().mean()),
            f"{name}.fid": metrics.frechet_distance(*features), f"{name}.kid": metrics.kernel_distance(*features),
            **measure.with_interval(f"{name}.lpips_counterfactual", float(away.mean()), metrics.mean_interval(away))}


def without_codes(emolat: EmoLat, caches: Path, out: Path, overrides: list[str]) -> EmoLat:
    """The same network on the text alone, trained as the file says that it itself was: as long, on the same data, with the same
    draws. Made once, and kept in `out`. UserError for a file that does not say it."""
    if "transfer" not in emolat.training_config:
        raise UserError("This EmoLat's file does not say how its transfer network was trained, so none can be trained alike without "
                        "codes. Train it again with `affect train transfer`.")
    path = out / "without.safetensors"
    if not path.is_file():
        config = overridden(emolat.training_config, overrides)
        own, loop = split(config["transfer"], TransferConfig, "transfer")
        device = host.current().device
        data = read_data(read(DataConfig, config["data"], "[data]"), emolat.config, caches, device)
        torch.manual_seed(loop.seed)
        bare = with_network(emolat, replace(emolat.config, codes=False))
        bare.network.load_state_dict(train_transfer(data, bare, own, loop, out, device, "without").state_dict())
        save(path, bare)
    return load(path)


def seconds(emolat: EmoLat, side: int = 512) -> float:
    """The median time of a transfer of one image, of five after one to warm up."""
    image, code = torch.rand(1, 3, side, side), emolat.sample(EmotionTarget.of("awe"), 1, 1.0, 0)
    times = []
    for _ in range(6):
        start = time.perf_counter()
        repaint(emolat, image, code)
        times.append(time.perf_counter() - start)
    return sorted(times[1:])[2]
