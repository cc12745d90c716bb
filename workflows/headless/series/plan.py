"""Which photographs of a folder are to be made, and which are made already. Nothing is written."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ....models.errors import UserError
from ....models.files import leftovers
from ....models.foreign import one_line
from ....models.host import files_below
from ....models.pictures import SUFFIXES
from .journal import NAME, Journal

_MOST_NAMED = 5
"""How many names a message lists."""


@dataclass
class Plan:
    """Names are paths below both folders, with forward slashes."""

    folder: Path
    out: Path
    workflow: str
    """A digest of it."""
    todo: list[str]
    done: list[str]
    """Those that an earlier run made, of the same photograph by the same workflow."""
    older: set[str]
    """Those of `todo` whose output is an older result of this command, to be replaced."""
    others: list[str]
    """Files of the folder that are not pictures, by their suffix."""
    journal: Journal

    def tidy(self) -> None:
        """Removes the temporary files of earlier runs that were killed."""
        for folder, names in _by_folder(self.todo).items():
            if (self.out / folder).is_dir():
                for path in leftovers(self.out / folder, names):
                    path.unlink(missing_ok=True)


def plan(folder: Path, out: Path, workflow: str, recursive: bool = False) -> Plan:
    """What is to be done.

    workflow   a digest of it: what another one made is made again
    recursive  also photographs in sub-folders, each into the same sub-folder of `out`

    UserError where there is nothing to do, and where an output would replace a file that this program did not make.
    """
    if not folder.is_dir():
        raise UserError(f"--each takes a folder of photographs, and '{folder}' is not a folder.")
    if out.exists() and folder.resolve() == out.resolve():
        raise UserError(
            f"--out is the folder of the photographs, '{folder}', and the results have the photographs' names. "
            "Choose another folder."
        )
    pictures, others = _found(folder, out, recursive)
    if not pictures:
        raise UserError(_nothing(folder, out, others, recursive))
    _refuse_doubles(pictures)
    journal = Journal(out)
    states: dict[str, list[str]] = {"todo": [], "older": [], "done": [], "taken": []}
    for name in pictures:
        states[_state(name, folder, out, workflow, journal)].append(name)
    if taken := states["taken"]:
        raise UserError(
            f"{len(taken)} files in '{out}' would be replaced that this command did not make, or that were changed "
            f"since: {_listed(taken)}. Move them away, or choose another folder with --out."
        )
    todo, older = states["todo"] + states["older"], set(states["older"])
    return Plan(folder, out, workflow, sorted(todo), states["done"], older, others, journal)


def _found(folder: Path, out: Path, recursive: bool) -> tuple[list[str], list[str]]:
    """(pictures, other files), hidden ones left out. Folders that hold results of this command are not looked into."""
    results = out.resolve()
    _refuse_closed(folder)

    def enter(path: Path) -> bool:
        if not recursive or path.name.startswith(".") or path.resolve() == results or (path / NAME).is_file():
            return False
        _refuse_closed(path)
        return True

    names = [name for name in files_below(folder, enter) if not name.rpartition("/")[2].startswith(".")]
    pictures = [name for name in names if Path(name).suffix.lower() in SUFFIXES]
    return sorted(pictures), sorted(set(names) - set(pictures))


def _refuse_closed(folder: Path) -> None:
    """UserError for a folder that may not be read: its photographs would be missing without a word."""
    if not os.access(folder, os.R_OK | os.X_OK):
        raise UserError(
            f"The folder '{one_line(folder)}' cannot be read: there is no permission. Allow it, or move it away."
        )


def _nothing(folder: Path, out: Path, others: list[str], recursive: bool) -> str:
    message = f"There are no photographs in '{folder}'."
    if others:
        message += f" Its files are not pictures that can be read: {_listed(others)}."
    if not recursive and _found(folder, out, True)[0]:
        message += " Its sub-folders have some: --recursive."
    return message


def _refuse_doubles(names: list[str]) -> None:
    """UserError for names that are one on file systems which do not distinguish capitals, or ways to write accents."""
    seen: dict[str, str] = {}
    for name in names:
        key = unicodedata.normalize("NFC", name).casefold()
        if key in seen:
            raise UserError(
                f"'{one_line(seen[key])}' and '{one_line(name)}' would be the same file on many systems: their names "
                "differ only in capitals or accents. Rename one."
            )
        seen[key] = name


def _state(name: str, folder: Path, out: Path, workflow: str, journal: Journal) -> str:
    """'todo', 'older', 'done', or 'taken' where the output is in the way."""
    output = out / name
    if _leaves(output, out):
        return "taken"
    if not os.path.lexists(output):
        return "todo"
    lines = journal.lines.get(name, [])
    same = bool(lines) and lines[-1].workflow == workflow and lines[-1].photograph.fits(folder / name)
    if lines and lines[-1].made.fits(output):
        return "done" if same else "older"
    # A run may have been killed after it wrote its line, before it replaced an older result of its own.
    if any(line.made.fits(output) for line in lines):
        return "older"
    return "done" if same else "taken"  # changed by hand since: left as it is, and never replaced


def _leaves(output: Path, out: Path) -> bool:
    """Whether a link, or a file in the place of a folder, is in the way to an output."""
    inside = [parent for parent in output.parents if parent != out and out in parent.parents]
    return any(os.path.lexists(parent) and (parent.is_symlink() or not parent.is_dir()) for parent in inside)


def _by_folder(names: Iterable[str]) -> dict[str, list[str]]:
    folders: dict[str, list[str]] = {}
    for name in names:
        where, _, last = name.rpartition("/")
        folders.setdefault(where, []).append(last)
    return folders


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(f"'{one_line(name)}'" for name in names[:_MOST_NAMED]) + more
