"""MoodifyCLIP: a CLIP taught to read 248 tokens of structured captions (summary, three stimuli, assessment).

affect train moodifyclip --out FOLDER
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from ..models import host, tiny
from ..models.diffusion.towers import OpenClipTower
from ..models.errors import UserError
from ..models.files import safe_join
from ..models.moodifier import losses, text_encoder
from ..models.networks import moodifyclip as moodify
from ..models.networks.clip import ClipScorer
from ..models.networks.scorers import published
from ..models.networks.tokenizer import CHUNK
from ..models.networks.views import view
from .clip import drop_words
from .config import load_config
from .data.graphs import make_pictures
from .data.pack import PackSpec, make_pack
from .loop import LoopConfig, Losses, fit, on_device, split


@dataclass
class MoodifyConfig:
    """Weights of the losses (the paper's: all 1; 0 leaves one out), of the drift of hidden states on short captions,
    and the data: `n` MoodScenes with their structured captions; or `captions`, a JSONL of `affect data annotate
    --form moodarchive`, of images below `folder`. `longer`: the share of captions that go on, after their five
    sentences, with another description of the scene where there is one: else no position after the 68th would be
    trained."""

    full: float = 1.0
    summary: float = 1.0
    fine: float = 1.0
    transport: float = 1.0
    drift: float = 1.0
    epsilon: float = 0.05
    longer: float = 0.3
    n: int = 12000
    data_seed: int = 81
    folder: str = ""
    captions: str = ""


def captions_of(structured: list[str]) -> tuple[str, str, list[str]]:
    """(the whole caption, its first and last sentence, the three stimuli) of [summary, stimulus, stimulus, stimulus,
    assessment]."""
    summary, *stimuli, assessment = structured
    return (
        " ".join([summary, *(f"{s[0].upper()}{s[1:]}." for s in stimuli), assessment]),
        f"{summary} {assessment}",
        stimuli,
    )


class Texts:
    """Captions [summary, stimulus, stimulus, stimulus, assessment, and perhaps another description] as tokens on a
    device: whole, longer (the description after it) and short [N, L], stimuli [N, 3, L], each as long as the
    longest; and `read` [N, 77], the short ones as the diffusion models of `clip`'s width read them."""

    def __init__(self, captions: list[list[str]], clip: Any, device: torch.device | str):
        parts = [captions_of(c[:5]) for c in captions]
        table = lambda texts: (
            torch.from_numpy(_trimmed(np.array([moodify.tokens(t) for t in texts], np.int32))).long().to(device)
        )
        self.whole, self.short = table([p[0] for p in parts]), table([p[1] for p in parts])
        self.longer = table([" ".join([p[0], *c[5:]]) for p, c in zip(parts, captions)])
        self.stimuli = table([s for p in parts for s in p[2]]).view(len(parts), 3, -1)
        self.read = torch.tensor([text_encoder.as_conditioning(p[1], clip)[:CHUNK] for p in parts], device=device)


def _trimmed(ids: np.ndarray) -> np.ndarray:
    return ids[:, : int((ids != 0).any(axis=0).nonzero()[0].max()) + 1]


def _encode(clip: Any, ids: torch.Tensor) -> torch.Tensor:
    return F.normalize(OpenClipTower(clip)(ids)[1], dim=-1).float()


@dataclass
class Scenes:
    """What MoodifyCLIP is trained on: pictures [N, S, S, 3] uint8, memory-mapped, and their captions as `Texts`
    takes them."""

    pictures: np.ndarray
    captions: list[list[str]]

    def images(self, index: torch.Tensor, device: torch.device | str) -> torch.Tensor:
        """[B, 3, S, S] in 0..1."""
        part = torch.from_numpy(np.stack([self.pictures[i] for i in index.tolist()]))
        return part.to(device).permute(0, 3, 1, 2).float() / 255


def read_scenes(config: MoodifyConfig, runs: Path, size: int) -> Scenes:
    """The training data of a config. UserError where a JSONL holds no structured caption of an image that can be
    read."""
    if not config.captions:
        spec = PackSpec("train", config.n, captions="structured", variants=6, seed=config.data_seed)
        pack = make_pack(spec, runs / "packs")
        return Scenes(pack.images, pack.captions)
    if not Path(config.captions).is_file():
        raise UserError(
            f"There is no {config.captions} with structured captions. `affect data annotate --form moodarchive` makes "
            "one."
        )
    images: list[Path] = []
    captions: list[list[str]] = []
    for number, line in enumerate(Path(config.captions).read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            caption = [row["summary"], *row["stimuli"], row["assessment"]]
            if (
                not isinstance(row["stimuli"], list)
                or len(caption) != 5
                or not all(isinstance(part, str) and part.strip() for part in caption)
            ):
                raise ValueError
            image = safe_join(config.folder, row["file"])
        except (ValueError, KeyError, TypeError):
            host.current().note(
                f"Line {number} of {config.captions} is not a structured caption (a summary, three stimuli, an "
                "assessment, none of them empty): skipped."
            )
            continue
        images.append(image)
        captions.append([part.strip() for part in caption])
    pictures, broken = make_pictures(images, size, runs)
    kept = [i for i in range(len(images)) if i not in broken]
    host.current().note(f"{len(kept)} images with structured captions; {len(broken)} cannot be read.")
    if not kept:
        raise UserError(
            f"{config.captions} names no image of {config.folder or 'the current folder'} that can be read and has a "
            "structured caption. `affect data annotate --form moodarchive` makes them."
        )
    return Scenes(pictures[kept] if broken else pictures, [captions[i] for i in kept])


def train(
    clip: Any, config: MoodifyConfig, loop: LoopConfig, runs: Path, device: str, name: str = "moodifyclip"
) -> tuple[Any, torch.Tensor]:
    """Trains a lengthened copy of an open_clip CLIP; returns it and the token ids that its texts hold."""
    from accelerate import PartialState

    scorer, process = ClipScorer(clip, None, "base").to(device), PartialState().process_index
    base = scorer.clip
    model = moodify.lengthened(base).requires_grad_(True)
    moodify.freeze_kept(model)
    with torch.no_grad():  # what cannot be trained is refused before the data are read
        moodify.patch_features(model, scorer.preprocess(torch.zeros(1, 3, scorer.size, scorer.size, device=device)))
    data = read_scenes(config, runs, scorer.size)
    texts = Texts(data.captions, clip, device)

    def loss(model: Any, index: torch.Tensor, step: int) -> Losses:
        images = scorer.preprocess(view(data.images(index, device), strength=0.5, each=True))
        index = index.to(device)
        pooled, patches = moodify.patch_features(model, images)
        scale = model.logit_scale.exp().clamp(max=100)
        parts: Losses = {}
        longer = torch.rand(len(index), 1, device=index.device) < config.longer
        whole = F.pad(texts.whole, (0, texts.longer.shape[1] - texts.whole.shape[1]))[index]
        whole = drop_words(torch.where(longer, texts.longer[index], whole), 0.03)
        short = drop_words(texts.short[index], 0.03)
        same = lambda ids: (ids[:, None] == ids[None]).all(dim=-1)
        if config.full:
            parts["full"] = losses.global_contrast(pooled, _encode(model, whole), scale, same(texts.whole[index]))
        if config.summary:
            parts["summary"] = losses.global_contrast(pooled, _encode(model, short), scale, same(texts.short[index]))
        if config.fine or config.transport:
            stimuli = _encode(model, drop_words(texts.stimuli[index].flatten(0, 1), 0.03)).unflatten(0, (-1, 3))
            region = losses.regions(patches, stimuli, scale)
            if config.fine:
                parts["fine"] = losses.fine_grained(region, stimuli, scale)
            if config.transport:
                parts["transport"] = losses.optimal_transport(
                    region.flatten(0, 1),
                    stimuli.flatten(0, 1),
                    scale,
                    config.epsilon,
                    same(texts.stimuli[index].flatten(0, 1)),
                )
        if config.drift:
            ids = texts.read[index]
            with torch.no_grad():
                before = text_encoder.read_by_unets(base)(ids)[0]
            parts["drift"] = losses.drift(text_encoder.read_by_unets(model)(ids)[0], before)
        return {"loss": sum(getattr(config, k) * v for k, v in parts.items()), **parts}

    def batches(step: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed((loop.seed + 7919 * process) * 1_000_003 + step)
        return torch.randint(len(data.captions), (loop.batch,), generator=generator)

    held = torch.cat([t.unique() for t in (texts.longer, texts.short, texts.stimuli, texts.read)])
    return fit(model, loss, batches, loop, runs / name, name, config, base, texts.whole), held.unique().cpu()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", default="moodifyclip", help="TOML file, or the name of a shipped config")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="checkpoints, logs and rendered scenes")
    parser.add_argument(
        "--base", default="tiny", help="the CLIP to start from: tiny, or an open_clip name (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, default=Path("moodifyclip"), help="folder that open_clip can load")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("overrides", nargs="*", metavar="SECTION.KEY=VALUE")


def main(args: argparse.Namespace) -> int:
    config = load_config(args.config, args.overrides)
    own, loop = split(config["moodifyclip"], MoodifyConfig, "moodifyclip")
    on_device(args.device)
    clip, shape = base_clip(args.base)
    torch.manual_seed(loop.seed)
    model, _ = train(clip, own, loop, args.runs, args.device)
    moodify.export(model, args.out, shape)
    host.current().note(
        f"Wrote {args.out}. Put it into models/moodify_clip, or load it: open_clip.create_model('local-dir:{args.out}')"
    )
    return 0


def base_clip(name: str) -> tuple[Any, dict[str, Any]]:
    """(an open_clip CLIP, its model_cfg) of a name. UserError where it is unknown."""
    if name != "tiny":
        return published(name)
    clip = tiny.build_clip()
    tiny.load("clip", clip)
    return clip, tiny.CLIP
