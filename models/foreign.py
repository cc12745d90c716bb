"""Words of others (a server, a workflow, a file's name) on their way to a person's terminal or log."""

from __future__ import annotations

import re
import sys
from typing import TextIO

_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]")
_HALVES = re.compile("[\ud800-\udfff]")


def printable(text: object) -> str:
    """Text without what a terminal obeys or a reader cannot see: control characters (C0 but for new lines and tabs,
    and C1) and the marks that turn the direction of writing. Halves of characters, which no encoding can print,
    become \ufffd."""
    return _HALVES.sub("\ufffd", _UNSEEN.sub("", str(text)))


def one_line(text: object, longest: int = 300) -> str:
    """`printable`, in one line and cut where it is longer."""
    text = " ".join(printable(text).split())
    return text if len(text) <= longest else f"{text[:longest]}..."


def say(text: object, file: TextIO | None = None) -> None:
    """Prints text that may hold others' words."""
    print(printable(text), file=file or sys.stdout)
