"""All the bundled models, stage by stage, each resumable; then the card.

Two processes of one thread each train the autoencoder and the UNet nearly twice as fast as one of two threads:
    OMP_NUM_THREADS=1 torchrun --nproc_per_node 2 -m comfyui_affect.workflows.headless.cli train tiny --stage unet
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, TypeVar

import torch

from ..models import files, tiny
from ..models.errors import UserError
from ..models.networks.classifiers import TINY
from ..models.tensors.gradients import frozen
from .classifier import ClassifierConfig
from .clip import ClipConfig
from .config import load_config
from .features import FeatureConfig
from .loop import on_device, split
from .moodifyclip import MoodifyConfig
from .unet import UnetConfig
from .vae import VaeConfig

STAGES = (
    "vae",
    "clip",
    "clip-eval",
    "tiny-a",
    "tiny-b",
    "tiny-c",
    "unet",
    "unet-2",
    "vgg",
    "densenet",
    "moodifyclip",
    "emolat",
    "card",
)


def run_stage(stage: str, table: dict[str, Any], runs: Path, device: str) -> None:
    """Trains one stage and writes its weights beside `models/tiny`. Later stages load the earlier ones' files."""
    from . import classifier, clip, emolat, features, moodifyclip, tokens, transfer, unet, vae

    state = on_device(device)
    save = tiny.save if state.is_main_process else lambda *_: None
    torch.manual_seed(table.get("seed", 0))  # the initial weights
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True

    model: torch.nn.Module
    if stage == "vae":
        model = vae.train(*split(table, VaeConfig, stage), runs, device)
        save("vae", model.state_dict())
    elif stage in ("clip", "clip-eval"):
        model, used = clip.train(*split(table, ClipConfig, stage), runs, device, stage)
        save(stage, tiny.pack_vocabulary(model.state_dict(), used))
    elif stage in ("unet", "unet-2"):
        autoencoder, text = _loaded("vae", tiny.build_vae(), device), _loaded("clip", tiny.build_clip(), device)
        model = unet.train(*split(table, UnetConfig, stage), runs, device, autoencoder, text, stage)
        save("unet", model.state_dict())
    elif stage in TINY:
        autoencoder = _loaded("vae", tiny.build_vae(), device)
        model = classifier.train(*split(table, ClassifierConfig, stage), runs, device, stage, autoencoder)
        save(stage, model.state_dict())
    elif stage in ("vgg", "densenet"):
        model = features.train(*split(table, FeatureConfig, stage), runs, device, stage)
        save(stage, model.state_dict())
    elif stage == "moodifyclip":
        base, _ = moodifyclip.base_clip("tiny")
        model, used = moodifyclip.train(base.to(device), *split(table, MoodifyConfig, stage), runs, device)
        known = files.load_safetensors(tiny.path("clip"))[0]["token_embedding.ids"].long()
        save(stage, tiny.pack_vocabulary(model.state_dict(), torch.cat([known, used]).unique()))
    elif stage == "emolat":
        for part in (emolat, transfer, tokens):
            part.main(
                argparse.Namespace(config="emolat", out=tiny.path("emolat"), runs=runs, device=device, overrides=[])
            )
            if state.is_main_process:
                tiny.record("emolat")
    elif stage == "card":
        from .card import write_card

        write_card(table, runs, device)
    else:
        raise UserError(f"There is no stage '{stage}'. Choose from: {', '.join(STAGES)}.")


Network = TypeVar("Network", bound=torch.nn.Module)


def _loaded(name: str, model: Network, device: str) -> Network:
    tiny.load(name, model)
    frozen([model])
    return model.to(device)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", default="tiny", help="TOML file, or the name of a shipped config")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="checkpoints, logs and rendered scenes")
    parser.add_argument("--stage", action="append", choices=STAGES, help="only this stage (repeatable); default: all")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("overrides", nargs="*", metavar="SECTION.KEY=VALUE")


def main(args: argparse.Namespace) -> int:
    config = load_config(args.config, args.overrides)
    config.setdefault("moodifyclip", load_config("moodifyclip")["moodifyclip"])
    for stage in args.stage or STAGES:
        run_stage(stage, config.get(stage, {}), args.runs, args.device)
    return 0
