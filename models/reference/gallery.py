"""A gallery: a folder of pictures with labels, and their edge responses in an index that follows the folder."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np

from .. import files, host
from ..errors import UserError
from . import edges, labels
from .index import Index, index_path, locked
from .labels import GROUPS, read_labels, singular, tables

COMPACT_FROM = 1000
"""An index of more records than this is written again once most of them are stale."""

RATIOS = 8
"""Aspect ratios whose indexes are kept beside a gallery; of more the one that was used longest ago is removed."""

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}


@dataclass(frozen=True)
class Picture:
    """One picture of a gallery: its path inside the folder, its row in the index, and its labels; people's rating is
    (valence, arousal), each in 0..1."""

    path: str
    row: int
    noun: str = ""
    adjective: str = ""
    emotion: str = ""
    rating: tuple[float, float] | None = None


@dataclass(frozen=True)
class Crops:
    """Edge responses of a gallery's pictures, all cropped to one ratio.

    rows     [n, `index.RECORD`] uint8, memory-mapped; each begins with an edge response
    numbers  path -> row
    cached   [n, `index.CACHED`] uint16 local statistics, or None
    """

    rows: np.ndarray
    numbers: dict[str, int]
    cached: np.ndarray | None


@dataclass
class Gallery:
    """The REFERENCE_GALLERY socket: a folder's pictures and their edge responses, memory-mapped. `rows` and `cached`
    are of the whole pictures; those of crops are made when they are first asked for (`crops`)."""

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
    _crops: dict[Fraction | None, Crops] = field(default_factory=dict, repr=False)

    def crops(self, ratio: Fraction | None) -> Crops:
        """The pictures' edge responses, each cropped to a ratio (`edges.crop_box`); of whole pictures where it is None.
        The first time that a ratio is asked for, every picture is read, with a progress bar; the index is kept in the
        folder, for `RATIOS` ratios, with local statistics where the gallery has them."""
        if ratio not in self._crops:
            self._crops[ratio] = (
                Crops(self.rows, {p.path: p.row for p in self.pictures}, self.cached)
                if ratio is None
                else _crops(self, ratio)
            )
        return self._crops[ratio]

    @property
    def rated(self) -> bool:
        """Whether people rated any of the pictures."""
        return any(p.rating for p in self.pictures)

    @property
    def nouns(self) -> list[str]:
        return sorted({p.noun for p in self.pictures if p.noun})

    @property
    def adjectives(self) -> list[str]:
        return sorted({p.adjective for p in self.pictures if p.adjective})

    @property
    def adjectives_without_emotion(self) -> list[str]:
        """Adjectives whose pictures have no emotion and no rating: no search by emotion finds them."""
        return sorted({p.adjective for p in self.pictures if p.adjective and not (p.emotion or p.rating)})

    def select(self, noun: str = "", adjective: str = "", emotions: tuple[str, ...] = ()) -> list[Picture]:
        """The pictures that have all that is asked for: a noun (or one of its group), an adjective, and any of the
        emotions; an empty filter takes all. UserError where no picture is left, naming what the gallery has."""
        out = self._fitting(noun, adjective, emotions)
        if not out:
            raise UserError(self._nothing_of(noun, adjective, emotions))
        return out

    def _fitting(self, noun: str = "", adjective: str = "", emotions: tuple[str, ...] = ()) -> list[Picture]:
        nouns = next((group for group in GROUPS if singular(noun) in group), {singular(noun)})
        return [
            p
            for p in self.pictures
            if (not noun or singular(p.noun) in nouns)
            and (not adjective or p.adjective.lower() == adjective.lower())
            and (not emotions or p.emotion in emotions)
        ]

    def _nothing_of(self, noun: str, adjective: str, emotions: tuple[str, ...]) -> str:
        felt = " or ".join(emotions)
        asked = " ".join(filter(None, (adjective, noun, felt and f"({felt})")))
        nothing = f"The gallery '{self.folder.name}' has no picture of '{asked}'."
        parts = {"noun": (noun, "", ()), "adjective": ("", adjective, ()), "emotion": ("", "", emotions)}
        given = {name: part for name, part in parts.items() if any(part)}
        if len(given) > 1 and all(self._fitting(*part) for part in given.values()):
            # Each is there, and no picture has all: say what the noun's pictures are like.
            of = f"Its pictures of '{noun}' are: {self._kinds(noun)}. " if noun else ""
            return f"{nothing} It has each of them, but not together: all are asked for. {of}Leave one empty for any."
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
        return f"{nothing} {remedy}"

    def _kinds(self, noun: str) -> str:
        """The adjectives and emotions of a noun's pictures."""
        kinds = {" ".join(filter(None, (p.adjective, p.emotion and f"({p.emotion})"))) for p in self._fitting(noun)}
        return ", ".join(sorted(kind for kind in kinds if kind)[:20]) or "without adjective and emotion"


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
    every = list(walk(folder))
    labels_of, listed = read_labels(folder, [name for name, *_ in every])
    labels = {name: got for name, *_ in every if (got := labels_of(name)) is not None}
    labelled = [f for f in every if f[0] in labels]
    absent = sorted(listed - {f[0] for f in every})
    index, failed, cached = _updated(folder, labelled, kind, lambda file: edges.edge_of_file(file, kind), cache)
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
    folder: Path, labelled: list[tuple[str, int, int]], kind: str, read: Callable[[Path], np.ndarray], cache: bool
) -> tuple[Index, dict[str, str], np.ndarray | None]:
    """(the index of a kind with a record of every file (path, bytes, time) that could be read, why others could not be,
    the cached statistics).

    read  a file's edge response
    """
    path = index_path(folder, kind)
    with locked(path, folder):
        index = Index(path, kind, most=10_000 + 20 * len(labelled))
        fresh = [f for f in labelled if index.known.get(f[0], (0, None))[1] != [f[1], f[2]]]
        stale = len(index.rows) - (len(labelled) - len(fresh))
        if len(index.rows) > COMPACT_FROM and stale > len(index.rows) // 2:
            index.compact([index.known[name][0] for name, *_ in labelled if name in index.known])
        failed = index.append(folder, fresh, read) if fresh else {}
        return index, failed, index.statistics(cache) if len(index.rows) else None


def _crops(gallery: Gallery, ratio: Fraction) -> Crops:
    kind, folder = f"{gallery.kind}-{ratio.numerator}x{ratio.denominator}", gallery.folder
    present = []
    for picture in gallery.pictures:
        with suppress(OSError):  # it was removed since the gallery was opened: named below
            status = (folder / picture.path).stat()
            present.append((picture.path, status.st_size, status.st_mtime_ns))
    read = lambda file: edges.edge_of_file(file, gallery.kind, ratio)
    index, failed, cached = _updated(folder, present, kind, read, gallery.cached is not None)
    numbers = {}
    for name, *_ in present:
        row, _, why = index.known.get(name, (0, None, "it could not be read"))
        if not (why or name in failed):
            numbers[name] = row
    gone = [p.path for p in gallery.pictures if p.path not in numbers]
    if gone:
        host.current().note(f"{len(gone)} pictures of the gallery can no longer be read (such as '{gone[0]}').")
    _forget_oldest(folder, gallery.kind, kind)
    return Crops(index.rows, numbers, cached)


def _forget_oldest(folder: Path, kind: str, used: str) -> None:
    """Removes the indexes of the ratios beyond `RATIOS` that were used longest ago. One that another program holds open
    stays where the system forbids it."""
    path = index_path(folder, used)
    with suppress(OSError):  # a folder that cannot be written keeps its times
        os.utime(path)
    pattern = re.compile(re.escape(path.name).replace(re.escape(used), rf"{kind}-\d+x\d+"))
    found = [other for other in path.parent.iterdir() if pattern.fullmatch(other.name)]
    for old in sorted(found, key=lambda other: other.stat().st_mtime, reverse=True)[RATIOS:]:
        with suppress(OSError):
            for suffix in (".cache", ".index"):
                old.with_suffix(suffix).unlink(missing_ok=True)


def _unusable(folder: Path, skipped: dict[str, str], absent: list[str]) -> str:
    also = f", and {len(absent)} that its CSV lists are not there, such as '{absent[0]}'" if absent else ""
    first = "".join(f"; {name}: {why}" for name, why in list(skipped.items())[:3])
    return (
        f"The gallery folder '{folder}' holds no usable picture ({len(skipped)} files were skipped{also}{first}). It "
        f"takes {', '.join(sorted(SUFFIXES))} (links are not followed), in folders named adjective_noun or with a CSV "
        "of file, noun, adjective."
    )
