"""MoodifyCLIP: an open_clip model that reads 248 tokens, and its loader (section 3.2)."""

from __future__ import annotations

import copy
import json
import re
from bisect import bisect_right
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from .. import bundled, files, host
from ..errors import UserError
from .clip import ClipScorer
from .clip_folder import CONFIG, WEIGHTS, load_folder
from .tiny_clip import build_clip
from .tokenizer import END, START, token_ids

LENGTH = 248
KEPT = 20
"""The first positions stay as they are: training on short captions used them most (Zhang et al. 2024,
"Long-CLIP")."""


def stretched(positions: torch.Tensor, length: int = LENGTH, kept: int = KEPT) -> torch.Tensor:
    """[77, D] -> [248, D]: the first 20 as they are, the other 57 interpolated linearly by 4."""
    if len(positions) == length:
        return positions
    rest = F.interpolate(positions[kept:].T[None], size=length - kept, mode="linear", align_corners=True)[0].T
    return torch.cat([positions[:kept], rest])


def lengthened(clip: Any, length: int = LENGTH) -> Any:
    """A copy of an open_clip CLIP that reads `length` tokens. UserError where its text tower is not CLIP's own."""
    if not isinstance(getattr(clip, "positional_embedding", None), nn.Parameter) or not hasattr(clip, "attn_mask"):
        raise UserError(
            "MoodifyCLIP starts from a CLIP whose text tower is open_clip's own transformer (ViT-B-32, ViT-L-14 and "
            "their like), not from one with a Hugging Face text model."
        )
    clip = copy.deepcopy(clip)
    clip.positional_embedding = nn.Parameter(stretched(clip.positional_embedding.detach(), length))
    mask = torch.full((length, length), float("-inf"), device=clip.positional_embedding.device).triu_(1)
    clip.register_buffer("attn_mask", mask, persistent=False)
    clip.context_length = length
    return clip


def freeze_kept(clip: Any, kept: int = KEPT) -> None:
    """Sets the gradients of the first `kept` positions to 0, so that short texts are read as before."""

    def stop(gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.clone()
        gradient[:kept] = 0
        return gradient

    clip.positional_embedding.register_hook(stop)


def patch_features(clip: Any, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """images [B, 3, S, S] as CLIP takes them -> (pooled [B, D], patches [B, M, D]), both through the final norm and
    projection, normalised. UserError for an image tower that is not a vision transformer."""
    visual = clip.visual
    if not hasattr(visual, "ln_post") or not hasattr(visual, "proj"):
        raise UserError("MoodifyCLIP's fine-grained loss needs a vision transformer as image tower.")
    visual.output_tokens, before = True, visual.output_tokens
    try:
        pooled, tokens = visual(images)
    finally:
        visual.output_tokens = before
    if not visual.final_ln_after_pool and tokens.shape[-1] == visual.ln_post.normalized_shape[0]:
        tokens = visual.ln_post(tokens)
    tokens = tokens @ visual.proj
    return F.normalize(pooled, dim=-1), F.normalize(tokens, dim=-1)


def export(clip: Any, folder: Path, config: dict[str, Any]) -> Path:
    """Writes a folder that `open_clip.create_model("local-dir:FOLDER")` loads: weights, configuration and
    preprocessing.

    config  open_clip's model_cfg: embed_dim, vision_cfg, text_cfg
    """
    preprocessing = getattr(clip.visual, "preprocess_cfg", None) or {}
    config = copy.deepcopy(config)
    config["text_cfg"]["context_length"] = len(clip.positional_embedding)
    folder.mkdir(parents=True, exist_ok=True)
    files.save_safetensors(folder / WEIGHTS, clip.state_dict(), {})
    text = json.dumps({"model_cfg": config, "preprocess_cfg": preprocessing}, indent=1)
    files.write_atomically(folder / CONFIG, lambda p: p.write_text(text + "\n", encoding="utf-8"))
    return folder


def build_tiny() -> Any:
    """The tiny MoodifyCLIP, untrained."""
    return lengthened(build_clip())


class MoodifyScorer(ClipScorer):
    """The AFFECT_MOODIFY_CLIP socket: a scorer that reads 248 tokens."""

    def text_features(self, texts: list[str]) -> torch.Tensor:
        """n texts -> [n, D], normalised. A text that is too long is cut after a sentence, with a note."""
        ids = torch.tensor([tokens(fitting(text)) for text in texts], device=self.mean.device)
        return self.clip.encode_text(ids, normalize=True)


def tokens(text: str, length: int = LENGTH) -> list[int]:
    """Start token, the text, end token, zeros: open_clip's form at 248."""
    ids = [START, *token_ids(text)[: length - 2], END]
    return ids + [0] * (length - len(ids))


def fitting(text: str, length: int = LENGTH) -> str:
    """The text, or as many of its whole sentences (else words) as fit into `length` tokens, with a note."""
    ids = token_ids(text)
    if len(ids) <= length - 2:
        return text
    sentences, words = ([m.end() for m in re.finditer(end, text)] for end in (r"[.!?](?=\s)", r"\S(?=\s)"))
    fitting_ends = lambda ends: ends[: bisect_right(ends, length - 2, key=lambda end: len(token_ids(text[:end])))]
    kept = text[: (fitting_ends(sentences) or fitting_ends(words) or [0])[-1]]
    host.current().note(
        f'A text of {len(ids)} tokens is longer than MoodifyCLIP\'s {length - 2}: it is cut after "...{kept[-40:]}".'
    )
    return kept


def load_moodify_clip(name: str) -> MoodifyScorer:
    """The MoodifyCLIP of a name: tiny, or a folder (one of `folders`) of models/moodify_clip that `export` wrote.
    UserError where the folder does not hold a CLIP of 248 tokens."""
    if name == "tiny":
        clip = build_tiny()
        metadata = bundled.load("moodifyclip", clip)
        return MoodifyScorer(clip, None, name, metadata.get("lo"), metadata.get("hi")).to(host.current().device)
    folder = files.find_model("moodify_clip", name)
    if not (folder / CONFIG).is_file():
        raise UserError(
            f"{folder} does not hold a MoodifyCLIP. Needed is a folder with open_clip_config.json and "
            "open_clip_model.safetensors, as `affect train moodifyclip` writes it."
        )
    clip = load_folder(folder)
    if len(clip.positional_embedding) != LENGTH:
        raise UserError(
            f"The CLIP in {folder} reads {len(clip.positional_embedding)} tokens; a MoodifyCLIP reads {LENGTH}. "
            "Load it with Load CLIP Scorer."
        )
    return MoodifyScorer(clip, None, name).to(host.current().device)


def names() -> list[str]:
    """The names of `load_moodify_clip`: the bundled one's, and this machine's folders."""
    return ["tiny", *folders()]


def folders() -> list[str]:
    """The folders of models/moodify_clip that hold a model, as `load_moodify_clip` takes them."""
    return [
        name.rpartition("/")[0]
        for name in host.current().list_files("moodify_clip", (".json",))
        if name.endswith(f"/{CONFIG}")
    ]


def state_of(name: str) -> str:
    """A text that changes with a folder's weights or configuration; "" for the bundled one."""
    return (
        ""
        if name == "tiny"
        else " ".join(files.state_of("moodify_clip", f"{name}/{part}") for part in (CONFIG, WEIGHTS))
    )
