"""MoodifyCLIP: a CLIP taught to read 248 tokens of structured captions (summary, three stimuli, assessment).

    affect train moodifyclip --out FOLDER
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ..models import host, tiny
from ..models.clip import ClipScorer
from ..models.diffusion.text import CHUNK
from ..models.errors import UserError
from ..models.moodifier import clip as moodify
from ..models.moodifier import losses
from ..models.views import view
from .batches import Rows
from .clip import drop_words
from .config import load_config
from .data.pack import PackSpec, make_pack
from .loop import LoopConfig, Losses, fit, split


@dataclass
class MoodifyConfig:
    """Weights of the losses (the paper's: all 1; 0 leaves one out), of the drift of hidden states on short captions, and the
    data: `n` MoodScenes with their structured captions."""

    full: float = 1.0
    summary: float = 1.0
    fine: float = 1.0
    transport: float = 1.0
    drift: float = 1.0
    epsilon: float = 0.05
    n: int = 12000
    data_seed: int = 81


def captions_of(structured: list[str]) -> tuple[str, str, list[str]]:
    """(the whole caption, its first and last sentence, the three stimuli) of [summary, stimulus, stimulus, stimulus,
    assessment]."""
    summary, *stimuli, assessment = structured
    return " ".join([summary, *(f"{s[0].upper()}{s[1:]}." for s in stimuli), assessment]), f"{summary} {assessment}", stimuli


class Texts:
    """The captions of a pack as tokens on a device: whole and short [N, L], stimuli [N, 3, L], each as long as the longest."""

    def __init__(self, captions: list[list[str]], device: torch.device | str):
        parts = [captions_of(c) for c in captions]
        table = lambda texts: torch.from_numpy(_trimmed(np.array([moodify.tokens(t) for t in texts], np.int32))).long().to(device)
        self.whole, self.short = table([p[0] for p in parts]), table([p[1] for p in parts])
        self.stimuli = table([s for p in parts for s in p[2]]).view(len(parts), 3, -1)


def _trimmed(ids: np.ndarray) -> np.ndarray:
    return ids[:, :int((ids != 0).any(axis=0).nonzero()[0].max()) + 1]


def _encode(clip: Any, ids: torch.Tensor) -> torch.Tensor:
    return F.normalize(tiny.text_tower(clip)(ids)[1], dim=-1).float()


def train(clip: Any, config: MoodifyConfig, loop: LoopConfig, runs: Path, device: str, name: str = "moodifyclip") -> Any:
    """Trains a lengthened copy of an open_clip CLIP and returns it."""
    spec = PackSpec("train", config.n, captions="structured", variants=5, seed=config.data_seed)
    pack = make_pack(spec, runs / "packs")
    rows, texts = Rows([pack], device), Texts(pack.captions, device)
    scorer = ClipScorer(clip, None, "base").to(device)
    base = scorer.clip
    model = moodify.lengthened(base).requires_grad_(True)
    moodify.freeze_kept(model)

    def loss(model: nn.Module, index: torch.Tensor, step: int) -> Losses:
        images = scorer.preprocess(view(rows.pictures(index), strength=0.5, each=True))
        pooled, patches = moodify.patch_features(model, images)
        scale = model.logit_scale.exp().clamp(max=100)
        parts: Losses = {}
        whole, short = (drop_words(t[index], 0.03) for t in (texts.whole, texts.short))
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
                parts["transport"] = losses.optimal_transport(region.flatten(0, 1), stimuli.flatten(0, 1), scale, config.epsilon)
        if config.drift:
            ids = texts.short[index][:, :CHUNK]
            with torch.no_grad():
                before = tiny.text_tower(base)(ids)[0]
            parts["drift"] = losses.drift(tiny.text_tower(model)(ids)[0], before)
        return {"loss": sum(getattr(config, k) * v for k, v in parts.items()), **parts}

    def batches(step: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(loop.seed * 1_000_003 + step)
        return torch.randint(len(rows), (loop.batch,), generator=generator).to(device)

    return fit(model, loss, batches, loop, runs / name, name)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", default="moodifyclip", help="TOML file, or the name of a shipped config")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="checkpoints, logs and rendered scenes")
    parser.add_argument("--base", default="tiny", help="the CLIP to start from: tiny, or an open_clip name (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("moodifyclip"), help="folder that open_clip can load")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("overrides", nargs="*", metavar="SECTION.KEY=VALUE")


def main(args: argparse.Namespace) -> int:
    config = load_config(args.config, args.overrides)
    own, loop = split(config["moodifyclip"], MoodifyConfig, "moodifyclip")
    clip, shape = base_clip(args.base)
    torch.manual_seed(loop.seed)
    model = train(clip, own, loop, args.runs, args.device)
    moodify.export(model, args.out, shape)
    host.current().note(f"Wrote {args.out}. Put it into models/moodify_clip, or load it: open_clip.create_model('local-dir:{args.out}')")
    return 0


def base_clip(name: str) -> tuple[Any, dict[str, Any]]:
    """(an open_clip CLIP, its model_cfg) of a name. UserError where it is unknown."""
    import open_clip

    if name == "tiny":
        clip = tiny.build_clip()
        tiny.load("clip", clip)
        return clip, tiny.CLIP
    architecture, _, pretrained = name.partition(":")
    shape = open_clip.get_model_config(architecture)
    if shape is None:
        raise UserError(f"'{name}' is no CLIP that open_clip knows. Use tiny or a name such as ViT-B-32:openai.")
    return open_clip.create_model(architecture, pretrained=pretrained or "openai"), shape
