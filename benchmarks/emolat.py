"""EmoLat's transfer on held-out MoodScenes, towards the opposite emotion and towards all seven others: with its
codebooks, without them (the text alone into the mapper, trained as long), and against a CLIPstyler-like optimisation of
the image.

With and without codes are one training each, so the intervals speak of other scenes, not of other trainings.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ..models import host, metrics
from ..models.emolat.repaint import repaint
from ..models.emolat.space import VGG_CHANNELS, EmoLat, load, load_emolat, save
from ..models.emolat.transfer import TransferNet
from ..models.emotions import MIKELS, OPPOSITE, EmotionTarget
from ..models.errors import UserError
from ..models.networks.backbones import Backbone
from ..models.tensors.uint8 import image_of
from ..training.config import overridden, read
from ..training.data.moodscenes import layout_seeds, make_scene, sample_emotion
from ..training.emolat import DataConfig, read_data
from ..training.loop import split
from ..training.transfer import TransferConfig, train_transfer, with_network
from . import arguments, clipstyler, measure, memory
from .figures import DISTANCE, MMD, SHARE, SSIM, Figures, numbered
from .store import fingerprint

CODE = (
    "training.transfer:train_transfer",
    "training.transfer:with_network",
    "training.emolat:read_data",
    "benchmarks.emolat:one_pass",
    "benchmarks.emolat:picture",
    "benchmarks.emolat:tasks",
)
"""What trains a transfer network and makes its images."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `affect bench emolat`."""
    arguments.outputs(parser, "runs/bench-emolat", "runs and pictures")
    parser.add_argument("--model", default="tiny", help="the EmoLat (default: %(default)s)")
    arguments.held_out(parser, 64)
    arguments.overrides(parser)


def main(args: argparse.Namespace) -> int:
    """Trains what is missing, makes and measures the images, and writes figures and a sheet."""
    arguments.at_least(args.n, 4, "four scenes")
    emolat = load_emolat(args.model)
    # What other code, weights or settings made is kept apart; the baseline knows nothing of EmoLat's.
    ours = args.out / fingerprint(CODE, ("vgg", "clip"), f"{digest(emolat)} {args.overrides}")
    theirs = args.out / fingerprint(clipstyler.CODE, ("vgg", "clip"))
    ours.mkdir(parents=True, exist_ok=True)
    networks = {"with": emolat, "without": without_codes(emolat, args.out, ours, args.overrides)}
    figures = Figures()
    for towards, prefix in (("opposite", ""), ("seven", "seven.")):
        figures.put_all(_towards(args, towards, networks, ours, theirs), prefix)
    figures.put("seconds_512", seconds(emolat), "s")
    took, peak = memory.alone(_paper_sized)
    figures.put("paper_sized.seconds_512", took, "s")
    figures.put("paper_sized.peak_memory_gb", peak, "GB")
    for n, peak in zip((10, 100), memory.alone(_streamed, args.model)):
        figures.put(f"streamed_{n}.peak_memory_gb", peak, "GB")
    figures.write(
        args.json,
        "emolat",
        fingerprint=ours.name,
        model=args.model,
        digest=digest(emolat),
        overrides_of_without=args.overrides,
        trainings=1,
        n=args.n,
        split=args.split,
        lpips=measure.distance_name(),
        fid="Frechet distance on tiny-eval's features",
    )
    return 0


def _towards(args: argparse.Namespace, towards: str, networks: dict[str, EmoLat], ours: Path, theirs: Path) -> Figures:
    """The figures towards the "opposite" emotion (with a sheet of pictures), or towards all "seven" others."""
    jobs = tasks(args.n if towards == "opposite" else max(1, args.n // 2), args.split, towards)
    layouts = [layout for layout, *_ in jobs]
    source, truth = pictures(jobs)
    results = {
        name: made(network, ours / "images" / f"{name}-{towards}-{args.split}", jobs, source)
        for name, network in networks.items()
    }
    results["baseline"] = clipstyler.make_all(
        theirs / "images" / f"{towards}-{args.split}",
        [(name, source[i : i + 1], jobs[i][1], jobs[i][2], i) for i, name in enumerate(names(jobs))],
    )
    figures = Figures()
    each = {name: seen(x, source, truth, jobs) for name, x in (results | {"source": source, "truth": truth}).items()}
    for name, x in (results | {"source": source, "truth": truth}).items():
        figures.put_all(judged(x, truth, jobs, each[name]), f"{name}.")
    # EmoLat learned through the VGG, and not through the DenseNet.
    for key, network in (("lpips", ""), ("densenet", "tiny-densenet")):
        own = measure.distances(source, truth, network)
        nearer = (measure.distances(results["with"], truth, network) < own).float()
        figures.put_mean(f"{key}_better_fraction", nearer, SHARE, counted=True, groups=layouts)
    for rival in ("without", "baseline"):
        for key, values in each["with"].items():
            figures.put_difference(f"with_less_{rival}.{key}", values, each[rival][key], UNITS[key], groups=layouts)
    if towards == "opposite":
        shown = {"with": None, "without": "without codes", "baseline": "CLIPstyler-like"}
        rows = range(min(12, len(jobs)))
        measure.save_sheet(
            args.out / f"emolat-{args.split}.png",
            [x[i] for i in rows for x in (source, *(results[name] for name in shown), truth)],
            [word for i in rows for word in (jobs[i][1], *(w or jobs[i][2] for w in shown.values()), "truth")],
            columns=10,
        )
    return figures


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
    return image_of(make_scene(layout, emotion, seed).image)


def one_pass(emolat: EmoLat, image: torch.Tensor, target: str, seed: int) -> torch.Tensor:
    """image [1, 3, H, W] in 0..1 -> the same, repainted by one code of the target emotion."""
    emotion = EmotionTarget.of(target)
    return repaint(emolat, image, emolat.sample(emotion, 1, 1.0, seed)).cpu()


def pictures(jobs: list[Job]) -> tuple[torch.Tensor, torch.Tensor]:
    """[n, 3, 128, 128] each: the scenes under their own emotion, and under the target."""
    source = torch.stack([picture(layout, emotion, i) for i, (layout, emotion, _) in enumerate(jobs)])
    return source, torch.stack([picture(layout, target, i) for i, (layout, _, target) in enumerate(jobs)])


def names(jobs: list[Job]) -> list[str]:
    """What each job's image is called."""
    return [f"{i:04d}-{layout}-{target}" for i, (layout, _, target) in enumerate(jobs)]


def made(emolat: EmoLat, folder: Path, jobs: list[Job], source: torch.Tensor) -> torch.Tensor:
    """[n, 3, H, W]: each job's image repainted in one pass, kept in a folder."""
    return measure.made(folder, names(jobs), lambda i: one_pass(emolat, source[i : i + 1], jobs[i][2], i))


UNITS = {
    "acc8": SHARE,
    "acc2": SHARE,
    "ssim": SSIM,
    "reconstruction_error": "grey levels",
    "lpips_counterfactual": DISTANCE,
}
"""What `seen` measures, and in which unit."""


def judged(x: torch.Tensor, truth: torch.Tensor, jobs: list[Job], measured: dict[str, torch.Tensor]) -> Figures:
    """The paper's figures (section V-A) and the distance to the truth: the means of `measured` (as `seen` gives it of
    x), and the distances of the whole sets."""
    layouts = [layout for layout, *_ in jobs]
    out = Figures()
    for key, values in measured.items():
        out.put_mean(key, values, UNITS[key], counted=UNITS[key] == SHARE, groups=layouts)
    out.put("acc8_low", out["acc8.low"], SHARE)
    out.put("acc8_high", out["acc8.high"], SHARE)
    features, number = (measure.image_features(x), measure.image_features(truth)), numbered(layouts)
    for key, statistic, unit in (
        ("fid", metrics.frechet_distance, DISTANCE),
        ("kid", metrics.kernel_distance, MMD),
    ):
        interval = metrics.jackknife_interval(statistic, *features, number=number)
        out.put(key, statistic(*features), unit, interval)
    return out


def seen(x: torch.Tensor, source: torch.Tensor, truth: torch.Tensor, jobs: list[Job]) -> dict[str, torch.Tensor]:
    """Quantity (a key of `UNITS`) -> [n]. acc8: 1 where tiny-b names the target; acc2: 1 where it sees the target's
    side of positive and negative; reconstruction_error: the mean absolute difference from the source."""
    labels = torch.tensor([MIKELS.index(target) for *_, target in jobs])
    p = measure.probabilities(x, "tiny-b")
    return {
        "acc8": (p.argmax(dim=1) == labels).float(),
        "acc2": ((p[:, :4].sum(dim=1) > 0.5) == (labels < 4)).float(),
        "ssim": metrics.ssim(x, source),
        "reconstruction_error": 255 * (x - source).abs().mean(dim=(1, 2, 3)),
        "lpips_counterfactual": measure.distances(x, truth),
    }


def digest(emolat: EmoLat) -> str:
    """Of what repaints: the codebooks and the network, not the projection onto MUSE's tokens."""
    hashed = hashlib.sha256(str(emolat.config).encode())
    for key, value in emolat.state_dict().items():
        if not key.startswith("token_map"):
            hashed.update(value.cpu().numpy().tobytes())
    return hashed.hexdigest()[:12]


def without_codes(emolat: EmoLat, caches: Path, out: Path, overrides: list[str]) -> EmoLat:
    """The same network on the text alone, trained as the file says that it itself was: as long, on the same data,
    with the same draws. Made once, and kept in `out`. UserError for a file that does not say it."""
    if "transfer" not in emolat.training_config:
        raise UserError(
            "This EmoLat's file does not say how its transfer network was trained, so none can be trained alike "
            "without codes. Train it again with `affect train transfer`."
        )
    path = out / "without.safetensors"
    if not path.is_file():
        config = overridden(emolat.training_config, overrides)
        own, loop = split(config["transfer"], TransferConfig, "transfer")
        device = host.current().device
        data = read_data(read(DataConfig, config["data"], "[data]"), emolat.config, caches, device)
        torch.manual_seed(loop.seed)
        bare = with_network(emolat, replace(emolat.config, codes=False))
        assert bare.network is not None  # `with_network` gives it one
        bare.network.load_state_dict(train_transfer(data, bare, own, loop, out, device, "without").state_dict())
        save(path, bare)
    return load(path)


def seconds(emolat: EmoLat, side: int = 512) -> float:
    """The median time of a transfer of one image, of five after one to warm up."""
    image, code = torch.rand(1, 3, side, side), emolat.sample(EmotionTarget.of("awe"), 1, 1.0, 0)
    return _median(lambda: repaint(emolat, image, code))


def _median(job: Callable[[], object]) -> float:
    times = []
    for _ in range(6):
        start = time.perf_counter()
        job()
        times.append(time.perf_counter() - start)
    return sorted(times[1:])[2]


def _paper_sized(side: int = 512) -> tuple[float, float]:
    """(seconds, GB at the peak) of one transfer by a network of the paper's size: VGG-19, CLIP ViT-B/32's texts,
    three layers of eight heads. Its weights are random: time and memory do not ask what it learned."""
    from torchvision.models import vgg19

    torch.manual_seed(0)
    net = TransferNet(
        Backbone("vgg19", vgg19(weights=None).features).eval(), VGG_CHANNELS["vgg19"][:4], 512, 1024, 3, 8
    ).eval()
    image, text, codes = torch.rand(1, 3, side, side), torch.randn(1, 512), torch.randn(1, 1, 1024)
    with torch.no_grad():
        took = _median(lambda: net(image, text, codes))
    return took, memory.peak() / 1e9


def _streamed(model: str) -> tuple[float, float]:
    """GB at the peak after ten images of 256 x 256, one after the other, and after a hundred."""
    emolat, peaks = load_emolat(model), {}
    code = emolat.sample(EmotionTarget.of("awe"), 1, 1.0, 0)
    for i in range(1, 101):
        repaint(emolat, torch.rand(1, 3, 256, 256), code)
        peaks[i] = memory.peak() / 1e9
    return peaks[10], peaks[100]
