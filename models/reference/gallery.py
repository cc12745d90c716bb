"""A gallery: a folder of pictures with labels, and their edge responses in an index that follows the folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .. import files, host
from ..errors import UserError
from . import edges, labels
from .index import Index, index_path, locked
from .labels import GROUPS, read_labels, singular, tables

COMPACT_FROM = 1000
"""An index of more records than this is written again once most of them are stale."""

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}


@dataclass(frozen=True)
class Picture:
    """One picture of a gallery: its path inside the folder, its row in the index, and its labels."""

    path: str
    row: int
    noun: str = ""
    adjective: str = ""
    emotion: str = ""


@dataclass
class Gallery:
    """The REFERENCE_GALLERY socket: a folder's pictures and their edge responses, memory-mapped."""

    folder: Path
    pictures: list[Picture]
    rows: np.ndarray
    skipped: dict[str, str] = field(default_factory=dict)
    """Files that hold no usable picture -> why."""
    cached: np.ndarray | None = None
    """[n, `index.CACHED`] uint16 local statistics (`ssim.statistics`), where `affect gallery build --cache` made
    them."""
    kind: str = "scharr"
    """The kind of edge response, one of `edges.EDGES`."""
    absent: list[str] = field(default_factory=list)
    """Files that a CSV lists and the folder does not hold."""

    @property
    def nouns(self) -> list[str]:
        return sorted({p.noun for p in self.pictures if p.noun})

    @property
    def adjectives(self) -> list[str]:
        return sorted({p.adjective for p in self.pictures if p.adjective})

    @property
    def adjectives_without_emotion(self) -> list[str]:
        """Adjectives whose pictures have no emotion: no search by emotion finds them."""
        return sorted({p.adjective for p in self.pictures if p.adjective and not p.emotion})

    def select(self, noun: str = "", adjective: str = "", emotions: tuple[str, ...] = ()) -> list[Picture]:
        """The pictures of a noun (or of its group), an adjective and any of the emotions; an empty filter takes all.
        UserError where no picture is left, naming what the gallery has."""
        nouns = next((group for group in GROUPS if singular(noun) in group), {singular(noun)})
        out = [
            p
            for p in self.pictures
            if (not noun or singular(p.noun) in nouns)
            and (not adjective or p.adjective.lower() == adjective.lower())
            and (not emotions or p.emotion in emotions)
        ]
        if not out:
            raise UserError(self._nothing_of(noun, adjective, emotions))
        return out

    def _nothing_of(self, noun: str, adjective: str, emotions: tuple[str, ...]) -> str:
        asked = " ".join(filter(None, (adjective, noun, " or ".join(emotions) and f"({' or '.join(emotions)})")))
        has = {
            "nouns": self.nouns,
            "adjectives": self.adjectives,
            "emotions": sorted({p.emotion for p in self.pictures if p.emotion}),
        }
        known = "; ".join(f"{name}: {', '.join(values)}" for name, values in has.items() if values)
        if emotions and self.adjectives_without_emotion:
            known += (
                ". These adjectives have no emotion yet (emotions.csv: adjective, emotion): "
                f"{', '.join(self.adjectives_without_emotion[:20])}"
            )
        remedy = (
            f"It has {known}. Ask for what it has."
            if known
            else "It has no labels: put pictures into folders named adjective_noun, or write a CSV of file, noun, "
            "adjective, emotion."
        )
        return f"The gallery '{self.folder.name}' has no picture of '{asked}'. {remedy}"


def walk(folder: Path) -> Iterator[tuple[str, int, int]]:
    """(path inside the folder, bytes, time) of every picture file, in a stable order. Links are not followed; folders
    that cannot be read are skipped, with a note."""
    stack = [folder]
    while stack:
        here = stack.pop()
        try:
            inside = sorted(os.scandir(here), key=lambda e: e.name)
        except OSError as error:
            host.current().note(
                f"The folder '{here}' cannot be read ({error.strerror}): it is left out of the gallery."
            )
            continue
        for entry in inside:
            if entry.is_file(follow_symlinks=False) and Path(entry.name).suffix.lower() in SUFFIXES:
                try:
                    status = entry.stat()
                except FileNotFoundError:
                    continue
                yield Path(entry.path).relative_to(folder).as_posix(), status.st_size, status.st_mtime_ns
        stack += [
            Path(e.path) for e in reversed(inside) if e.is_dir(follow_symlinks=False) and not e.name.startswith(".")
        ]


def state(folder: Path) -> str:
    """A digest of what search results depend on: the pictures' names, sizes and times, and the tables' content."""
    digest = hashlib.sha256(repr(list(walk(folder))).encode("utf-8", "surrogateescape"))
    for path in tables(folder):
        digest.update(files.read_text(path, labels.LARGEST_TABLE))
    return digest.hexdigest()


def open_gallery(folder: Path | str, kind: str = "scharr", cache: bool = False) -> Gallery:
    """Brings the index of a folder up to date and opens it.

    kind   of edge response, one of `edges.EDGES`; each kind has an index of its own
    cache  also keep local statistics, which make a query twice as fast for 56 kB a picture

    New and changed files are read, with a progress bar; unchanged ones are not. UserError where the folder is absent or
    holds no usable picture, for an unknown kind, or where a library is missing that it needs.
    """
    folder = Path(folder)
    if kind not in edges.EDGES:
        raise UserError(f"There is no edge response '{kind}'. Choose {' or '.join(edges.EDGES)}.")
    # Whatever the kind lacks is found missing before thousands of files are read.
    edges.edge_response(np.zeros((edges.SIDE, edges.SIDE), np.float32), kind)
    if not folder.is_dir():
        raise UserError(f"There is no gallery folder '{folder}'. Give a folder with pictures in it.")
    labels_of, listed = read_labels(folder)
    every = list(walk(folder))
    labels = {name: got for name, *_ in every if (got := labels_of(name)) is not None}
    labelled = [f for f in every if f[0] in labels]
    absent = sorted(listed - {f[0] for f in every})
    index, failed, cached = _updated(folder, labelled, kind, cache)
    pictures, skipped = [], {}
    for name, *_ in labelled:
        row, _, why = index.known.get(name, (0, None, ""))
        why = failed.get(name) or why
        if why:
            skipped[name] = why
        else:
            pictures.append(Picture(name, row, *labels[name]))
    if not pictures:
        raise UserError(_unusable(folder, skipped, absent))
    return Gallery(folder, pictures, index.rows, skipped, cached, kind, absent)


def _updated(
    folder: Path, labelled: list[tuple[str, int, int]], kind: str, cache: bool
) -> tuple[Index, dict[str, str], np.ndarray | None]:
    """(the index with a record of every file (path, bytes, time) that could be read, why others could not be, the
    cached statistics)."""
    path = index_path(folder, kind)
    with locked(path, folder):
        index = Index(path, kind, most=10_000 + 20 * len(labelled))
        fresh = [f for f in labelled if index.known.get(f[0], (0, None))[1] != [f[1], f[2]]]
        stale = len(index.rows) - (len(labelled) - len(fresh))
        if len(index.rows) > COMPACT_FROM and stale > len(index.rows) // 2:
            index.compact([index.known[name][0] for name, *_ in labelled if name in index.known])
        failed = index.append(folder, fresh, lambda file: edges.edge_of_file(file, kind)) if fresh else {}
        return index, failed, index.statistics(cache) if len(index.rows) else None


def _unusable(folder: Path, skipped: dict[str, str], absent: list[str]) -> str:
    also = f", and {len(absent)} that its CSV lists are not there, such as '{absent[0]}'" if absent else ""
    first = "".join(f"; {name}: {why}" for name, why in list(skipped.items())[:3])
    return (
        f"The gallery folder '{folder}' holds no usable picture ({len(skipped)} files were skipped{also}{first}). It "
        f"takes {', '.join(sorted(SUFFIXES))} (links are not followed), in folders named adjective_noun or with a CSV "
        "of file, noun, adjective."
    )
