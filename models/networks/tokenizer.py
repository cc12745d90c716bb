"""CLIP's byte-pair tokenizer, which open_clip ships."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

CHUNK = 77
"""Tokens that CLIP reads at once, start and end among them."""

START, END = 49406, 49407


@lru_cache(maxsize=1)
def bpe() -> Any:
    """CLIP's byte-pair tokenizer (open_clip ships its vocabulary)."""
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()
