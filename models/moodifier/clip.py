"""MoodifyCLIP: an open_clip model that reads 248 tokens, and its loader (section 3.2)."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from .. import files, tiny
from ..errors import UserError

LENGTH = 248
KEPT = 20
"""The first positions, which training of short captions used most, stay as they are (Zhang et al. 2024, "Long-CLIP")."""


def stretched(positions: torch.Tensor, length: int = LENGTH, kept: int = KEPT) -> torch.Tensor:
    """[77, D] -> [248, D]: the first 20 as they are, the other 57 interpolated linearly by 4."""
    if len(positions) == length:
        return positions
    rest = F.interpolate(positions[kept:].T[None], size=length - kept, mode="linear", align_corners=True)[0].T
    return torch.cat([positions[:kept], rest])


def lengthened(clip: Any, length: int = LENGTH) -> Any:
    """A copy of an open_clip CLIP that reads `length` tokens. UserError where its text tower is not CLIP's own."""
    if not isinstance(getattr(clip, "positional_embedding", None), nn.Parameter) or not hasattr(clip, "attn_mask"):
        raise UserError("MoodifyCLIP starts from a CLIP whose text tower is open_clip's own transformer (ViT-B-32, ViT-L-14 and "
                        "their like), not from one with a Hugging Face text model.")
    clip = copy.deepcopy(clip)
    clip.positional_embedding = nn.Parameter(stretched(clip.positional_embedding.detach(), length))
    mask = torch.full((length, length), float("-inf"), device=clip.positional_embedding.device).triu_(1)
    clip.register_buffer("attn_mask", mask, persistent=False)
    clip.context_length = length
    return clip


def freeze_kept(clip: Any, kept: int = KEPT) -> None:
    """Gradients of the first positions become nought: they are kept, and what SD read is read as it was."""
    def stop(gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.clone()
        gradient[:kept] = 0
        return gradient

    clip.positional_embedding.register_hook(stop)


def patch_features(clip: Any, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """images [B, 3, S, S] as CLIP takes them -> (pooled [B, D], patches [B, M, D]), both through the final norm and projection,
    normalised. UserError for an image tower that is no vision transformer."""
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
    """Writes a folder that `open_clip.create_model("local-dir:FOLDER")` loads: weights and configuration.

    config  open_clip's model_cfg: embed_dim, vision_cfg, text_cfg
    """
    config = copy.deepcopy(config)
    config["text_cfg"]["context_length"] = len(clip.positional_embedding)
    folder.mkdir(parents=True, exist_ok=True)
    files.save_safetensors(folder / "open_clip_model.safetensors", clip.state_dict(), {})
    text = json.dumps({"model_cfg": config, "preprocess_cfg": {}}, indent=1)
    files.write_atomically(folder / "open_clip_config.json", lambda p: p.write_text(text + "\n", encoding="utf-8"))
    return folder


def build_tiny() -> Any:
    """The tiny MoodifyCLIP, untrained."""
    return lengthened(tiny.build_clip())
