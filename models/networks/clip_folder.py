"""A CLIP from a folder in open_clip's form: its configuration and its safetensors file, and nothing else that the
configuration may name.

open_clip's own loader would run code of a Hugging Face folder that the configuration names, download from a hub, and
continue with random weights where a folder has none.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from .. import files
from ..configurations import MOST_LAYERS
from ..errors import UserError

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
_MOST_TOKENS = 4096
"""Tokens that a text tower reads: its mask is as large as their square."""


def load_folder(folder: Path) -> Any:
    """The open_clip CLIP of a folder, in float32, with its preprocessing. UserError where the folder has no
    configuration or no weights, where they do not belong together, or where the configuration names a model of
    another library."""
    from open_clip import CLIP
    from open_clip.model import set_model_preprocess_cfg

    config = _config(folder / CONFIG)
    if not (folder / WEIGHTS).is_file():
        raise UserError(
            f"{folder} has no weights: '{WEIGHTS}' is missing. Copy the whole folder, as `affect train moodifyclip` "
            "writes it."
        )
    state, _ = files.load_safetensors(folder / WEIGHTS)
    known = {k: v for k, v in config["model_cfg"].items() if k in ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu")}
    try:
        with torch.device("meta"):  # allocates nothing, whatever sizes the configuration gives
            shapes = CLIP(**known)
        files.check_state(shapes, state, folder.name)
        clip = CLIP(**known)
    except UserError:
        raise
    except Exception as error:  # whatever a configuration makes the library raise
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"'{CONFIG}' in {folder} does not describe a CLIP that open_clip can build: {reason}"
        ) from error
    files.load_into(clip, state, folder.name)
    set_model_preprocess_cfg(clip, config["preprocess_cfg"])
    return clip.eval()


def _config(path: Path) -> dict[str, Any]:
    """The checked configuration: model_cfg, and preprocess_cfg with open_clip's own values where it has none."""
    from dataclasses import asdict

    from open_clip.transform import PreprocessCfg

    try:
        content = json.loads(files.read_text(path, 1_000_000))
        model, seen = content["model_cfg"], content.get("preprocess_cfg") or {}
        towers = [model["vision_cfg"], model["text_cfg"]]
        if not all(isinstance(part, dict) for part in (model, seen, *towers)):
            raise TypeError("its parts are not objects")
        layers, tokens = [int(tower["layers"]) for tower in towers], int(towers[1].get("context_length", 77))
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"'{path.name}' in {path.parent} does not describe a CLIP of two transformers: {type(error).__name__}: "
            f"{error}."
        ) from error
    foreign = next(
        (
            key
            for part in (model, *towers)
            for key, value in part.items()
            if key.startswith(("hf_", "timm_")) or (key == "custom_text" and value)
        ),
        None,
    )
    if foreign:
        raise UserError(
            f"'{path.name}' in {path.parent} names a model of another library ('{foreign}'), whose code or weights "
            "would be loaded from elsewhere. Only open_clip's own towers are loaded here."
        )
    for asked, most, what in ((max(layers), MOST_LAYERS, "layers"), (tokens, _MOST_TOKENS, "tokens")):
        if asked > most:
            raise UserError(f"'{path.name}' in {path.parent} asks for {asked} {what}; no CLIP has more than {most}.")
    for key in ("mean", "std"):
        values = seen.get(key)
        if values is not None and not (
            isinstance(values, list)
            and len(values) == 3
            and all(type(v) in (int, float) and abs(v) < 1e6 and (v > 0 or key == "mean") for v in values)
        ):
            raise UserError(
                f"'{path.name}' in {path.parent}: preprocess_cfg's {key} must be three numbers, and std's above 0."
            )
    return {
        "model_cfg": model,
        "preprocess_cfg": asdict(PreprocessCfg()) | {k: v for k, v in seen.items() if v is not None},
    }
