"""Text of foreign origin (a server's, a workflow's, a file's name) made safe for a terminal or log."""

from __future__ import annotations

import re
import sys
from typing import TextIO

_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]")
_HALVES = re.compile("[\ud800-\udfff]")


def printable(text: object) -> str:
    """Text without control characters (C0 except new lines and tabs, and C1) and without marks that change the
    direction of writing. Lone surrogates, which cannot be encoded, become \ufffd."""
    return _HALVES.sub("\ufffd", _UNSEEN.sub("", str(text)))


def one_line(text: object, longest: int = 300) -> str:
    """`printable`, in one line and cut where it is longer."""
    text = " ".join(printable(text).split())
    return text if len(text) <= longest else f"{text[:longest]}..."


def say(text: object, file: TextIO | None = None) -> None:
    """Prints text that may hold foreign text."""
    print(printable(text), file=file or sys.stdout)
