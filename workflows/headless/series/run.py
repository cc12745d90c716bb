"""Makes the pictures of a series, one after another."""

from __future__ import annotations

import errno
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ....models import host
from ....models.errors import UserError, unwritable
from ....models.files import write_atomically, write_new
from ....models.foreign import one_line
from ....models.pictures import sentences
from ..execute import NodeFailed
from ..host import EmbeddedHost
from ..photographs import encode, read
from .graph import Series
from .journal import Line, Stamp, Writer
from .plan import Plan

_FULL = {errno.ENOSPC, errno.EROFS, getattr(errno, "EDQUOT", errno.ENOSPC)}
"""Errors of a disk with which no further picture can be written."""


class SeriesHost(EmbeddedHost):
    """The embedded host; notes say of which photograph they are."""

    working_on: str | None = None

    def note(self, message: str) -> None:
        super().note(message if self.working_on is None else f"{one_line(self.working_on)}: {message}")


@dataclass
class Result:
    """What became of one photograph: 'made', 'kept' (an earlier run made it), 'failed' or 'left' (not tried)."""

    name: str
    status: str
    reason: str = ""
    notes: list[str] = field(default_factory=list)


def run(series: Series, plan: Plan, results: list[Result], debug: bool = False) -> None:
    """Makes what is to be made, and adds what became of each photograph to `results` as it goes: they are there
    whatever ends the run. What fails is noted, and the others are made, unless the disk is full.

    debug  print the tracebacks of what fails
    """
    results += [Result(name, "kept") for name in plan.done]
    current = host.current()
    bar = current.progress(len(plan.todo), "photographs")
    stopped = ""
    try:
        with plan.journal.writing() as journal:
            plan.tidy()
            for name in plan.todo:
                if stopped:
                    results.append(Result(name, "left", stopped))
                    continue
                bar.text(name)
                current.check_interrupted()
                try:
                    with _named(current, name):
                        notes = _make(series, plan, name, journal)
                    results.append(Result(name, "made", notes=notes))
                except Exception as error:
                    if debug:
                        current.note("".join(traceback.format_exception(error)))
                    results.append(Result(name, "failed", _reason(error)))
                    stopped = _reason(error) if isinstance(error, OSError) and error.errno in _FULL else ""
                bar.update(1)
    finally:
        bar.close()


@contextmanager
def _named(current: host.Host, name: str) -> Iterator[None]:
    if isinstance(current, SeriesHost):
        current.working_on = name
    try:
        yield
    finally:
        if isinstance(current, SeriesHost):
            current.working_on = None


def _make(series: Series, plan: Plan, name: str, journal: Writer) -> list[str]:
    """Makes one picture and returns notes on it. The file appears whole, after its line is in the journal."""
    source, output = plan.folder / name, plan.out / name
    with sentences(source):
        stamp = Stamp.of(source)
    photograph = read(source)
    image = series.run(photograph)
    notes = list(photograph.notes)

    def write(temporary: Path) -> None:
        notes.extend(encode(photograph, image, temporary))
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        journal.add(Line(name, plan.workflow, stamp, Stamp.of(temporary)))

    if name in plan.older:
        write_atomically(output, write)
    else:
        write_new(_only(output), write)
    return notes


def _only(path: Path) -> Iterator[Path]:
    yield path
    raise UserError(f"A file named '{path.name}' appeared in the output folder meanwhile. It is left as it is.")


def _reason(error: Exception) -> str:
    """Why a picture failed, in one sentence or a few."""
    if isinstance(error, (UserError, NodeFailed)):
        return str(error)
    if isinstance(error, MemoryError):
        return "The memory ran out. Scale the photograph down, or close other programs."
    if isinstance(error, OSError) and (message := unwritable(error)):
        return message
    return f"{type(error).__name__}: {error}. Run again with --debug for the traceback."
