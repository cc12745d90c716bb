"""What was made of which photograph: a file in the output folder, one line for each picture, in the order of writing.

A line is written before the picture gets its name. So a picture of this program's is known even if it is killed in
between, and a picture that no line describes is somebody else's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ....models.errors import UserError
from ....models.files import checksum, open_regular

NAME = ".affect-apply.jsonl"
"""The journal's name in the output folder."""

_LONGEST = 1 << 28
"""Bytes of a journal: some hundred thousand pictures."""


@dataclass(frozen=True)
class Stamp:
    """A file's content. Size and time spare reading it again as long as they stay."""

    size: int
    time: int
    """Of the last change, in nanoseconds."""
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Stamp:
        """Reads the whole file."""
        status = path.stat()
        return cls(status.st_size, status.st_mtime_ns, checksum(path))

    def fits(self, path: Path) -> bool:
        """Whether a file has this content; False where there is none, or it cannot be read."""
        try:
            status = path.stat()
            if status.st_size != self.size:
                return False
            return status.st_mtime_ns == self.time or checksum(path) == self.sha256
        except (OSError, UserError):
            return False


@dataclass(frozen=True)
class Line:
    """One picture that was made: `name` is its path in both folders, with forward slashes."""

    name: str
    workflow: str
    photograph: Stamp
    made: Stamp


class Journal:
    """The journal of an output folder.

    path   its file, which need not exist
    lines  what was made, by name, the newest last
    """

    def __init__(self, folder: Path):
        self.path = folder / NAME
        self.lines: dict[str, list[Line]] = {}
        for line in _lines(self.path):
            self.lines.setdefault(line.name, []).append(line)

    @contextmanager
    def writing(self) -> Iterator[Writer]:
        """Opens it for more lines. UserError where another program has it open for that."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab+") as file:
            if not _locked(file):
                raise UserError(
                    f"Another `affect apply` writes into '{self.path.parent}'. Wait until it is done, or choose "
                    "another folder with --out."
                )
            file.seek(0, os.SEEK_END)
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a line that was cut off: the next one begins anew
                    file.write(b"\n")
            yield Writer(file)


@dataclass
class Writer:
    """An open journal."""

    file: BinaryIO

    def add(self, line: Line) -> None:
        """Adds a line, on the disk before this returns."""
        self.file.write(json.dumps(asdict(line)).encode("ascii") + b"\n")
        self.file.flush()
        os.fsync(self.file.fileno())


def _lines(path: Path) -> Iterator[Line]:
    """The lines that can be read; one that was cut off cannot."""
    try:
        with open_regular(path) as file:
            content = file.read(_LONGEST)
    except FileNotFoundError:
        return
    for text in content.splitlines():
        try:
            yield _line(json.loads(text))
        except (ValueError, TypeError, KeyError, RecursionError):
            continue


def _line(given: dict[str, Any]) -> Line:
    return Line(str(given["name"]), str(given["workflow"]), Stamp(**given["photograph"]), Stamp(**given["made"]))


def _locked(file: BinaryIO) -> bool:
    """Locks an open file until it is closed or the program ends; False where another program has locked it."""
    try:
        if os.name == "nt":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return os.name != "nt"  # a file system without locks
    return True
