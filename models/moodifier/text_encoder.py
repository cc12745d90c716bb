"""MoodifyCLIP as a diffusion model's text encoder: the hidden states that cross-attention reads."""

from __future__ import annotations

from typing import Any

import torch

from ..diffusion.protocol import Conditioning
from ..diffusion.text import Tower
from ..diffusion.towers import OpenClipTower
from ..networks.moodifyclip import MoodifyScorer, fitting
from ..networks.tokenizer import CHUNK, END, START, token_ids


@torch.no_grad()
def encode(scorer: MoodifyScorer, text: str) -> Conditioning:
    """A text as CONDITIONING: the hidden states that a diffusion model's cross-attention reads. Short texts get 77
    tokens, padded as the diffusion model was trained; longer ones the number they need, up to 248."""
    text = fitting(text)
    hidden, pooled = read_by_unets(scorer.clip)(torch.tensor([as_conditioning(text, scorer.clip)]))
    return [[hidden, {"pooled_output": pooled, "token_ids": as_conditioning(text)}]]


def _of_sd2(clip: Any) -> bool:
    """Whether a CLIP is SD2's, which alone has a text tower 1024 wide (CLIP-H)."""
    return clip.token_embedding.embedding_dim == 1024


def read_by_unets(clip: Any) -> Tower:
    """The text tower as the diffusion models of its width read it: SD2 before the last layer, SD1.5 after it; both
    through the final norm."""
    return OpenClipTower(clip, penultimate=_of_sd2(clip))


def as_conditioning(text: str, clip: Any = None) -> list[int]:
    """The token ids of a text as the diffusion models of a CLIP's width read it, padded to at least 77: SD2's with
    zeros, SD1.5's (and without a CLIP) with the end token."""
    row = [START, *token_ids(text), END]
    return row + [0 if clip is not None and _of_sd2(clip) else END] * (CHUNK - len(row))
