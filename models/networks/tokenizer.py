"""CLIP's byte-pair tokenizer, which open_clip ships."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from ..errors import UserError

CHUNK = 77
"""Tokens that CLIP reads at once, start and end among them."""

START, END = 49406, 49407

LONGEST = 20_000
"""Characters of a text: some 60 chunks. The tokenizer's time grows with the square of a word's length."""


@lru_cache(maxsize=1)
def bpe() -> Any:
    """CLIP's byte-pair tokenizer (open_clip ships its vocabulary)."""
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()


def token_ids(text: str) -> list[int]:
    """CLIP's tokens of a text, without start and end. UserError where it is longer than `LONGEST`."""
    check_length(text)
    return bpe().encode(text)


def check_length(text: str) -> None:
    """UserError where a text is longer than `LONGEST`: a workflow from a stranger may hold megabytes of it."""
    if len(text) > LONGEST:
        raise UserError(f"The prompt has {len(text):,} characters, and at most {LONGEST:,} are read. Make it shorter.")
