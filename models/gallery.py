"""The index of a reference gallery: one file beside the pictures that keeps the edge response of each.

A header, then one record a picture, appended as it is read: killing a build loses the picture in hand and no other. A
record is `EDGE` bytes of edge response, 1020 bytes of JSON (path, size, time, why a file was skipped) and their checksum.
Where a file changed, a later record stands for it; records of files that are gone are passed over, and dropped once they
are the larger part.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Iterator

import numpy as np

from . import files, host, ssim
from .errors import UserError

SIDE = 128
"""Pixels a side of an edge response: the size at which pictures are compared."""

EDGE = SIDE * SIDE
_META = 1020
RECORD = EDGE + _META + 4
INDEX, CACHE = ".affect-gallery.index", ".affect-gallery.cache"
_HEADER = b"affect gallery 1\n".ljust(64, b" ")

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
LARGEST = 100_000_000
"""Pictures of more pixels than this are skipped."""

COMPACT_FROM = 1000
"""An index of more records than this is written anew once most of them are stale."""

ADJECTIVES: dict[str, str] = {
    "warm": "contentment", "clear": "contentment", "lovely": "contentment", "calm": "contentment", "peaceful": "contentment",
    "scenic": "awe", "great": "awe", "beautiful": "awe", "majestic": "awe", "bright": "excitement", "colorful": "excitement",
    "exciting": "excitement", "happy": "amusement", "funny": "amusement", "cute": "amusement", "muddy": "disgust",
    "dirty": "disgust", "ugly": "disgust", "dark": "fear", "scary": "fear", "creepy": "fear", "stormy": "fear",
    "misty": "sadness", "poor": "sadness", "lonely": "sadness", "sad": "sadness", "abandoned": "sadness", "harsh": "anger",
    "rough": "anger", "angry": "anger", "violent": "anger",
}
"""Adjective -> the emotion of Mikels' eight that it stands for (VSO's sentiments, and our choice among the eight). A gallery's
own `emotions.csv` (adjective, emotion) overrides it."""

GROUPS = ({"mountain", "hill", "landscape"}, {"home", "room", "house"}, {"river", "water", "lake"}, {"city"})
"""Nouns that are compared with one another (the paper's table I)."""


@dataclass(frozen=True)
class Picture:
    """One picture of a gallery: its path inside the folder, what it is called there, and its row in the index."""

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
    """[n, 2, 118, 118] uint16 local statistics (`ssim.statistics`), where `affect gallery build --cache` made them."""

    @property
    def nouns(self) -> list[str]:
        return sorted({p.noun for p in self.pictures if p.noun})

    @property
    def adjectives(self) -> list[str]:
        return sorted({p.adjective for p in self.pictures if p.adjective})

    def select(self, noun: str = "", adjective: str = "", emotions: tuple[str, ...] = ()) -> list[Picture]:
        """The pictures of a noun (or of its group), an adjective and any of the emotions; whatever is empty does not count.
        UserError where there is none, naming what there is."""
        wanted = next((g for g in GROUPS if noun.lower() in g), {noun.lower()})
        out = [p for p in self.pictures
               if (not noun or p.noun.lower() in wanted) and (not adjective or p.adjective.lower() == adjective.lower())
               and (not emotions or p.emotion in emotions)]
        if not out:
            asked = " ".join(filter(None, (adjective, noun, " or ".join(emotions) and f"({' or '.join(emotions)})")))
            there = {"nouns": self.nouns, "adjectives": self.adjectives,
                     "emotions": sorted({p.emotion for p in self.pictures if p.emotion})}
            known = "; ".join(f"{name}: {', '.join(values)}" for name, values in there.items() if values)
            raise UserError(f"The gallery '{self.folder.name}' has no picture of '{asked}'. It has {known or 'no labels at all'}.")
        return out


# -- the index file ---------------------------------------------------------------------------------------------

def _pack(edge: np.ndarray, meta: dict[str, Any]) -> bytes:
    text = json.dumps(meta, ensure_ascii=False).encode()
    if len(text) > _META:
        raise UserError(f"The path '{meta['path'][:80]}...' is too long for a gallery's index. Shorten it.")
    text = text.ljust(_META, b"\0")
    return edge.tobytes() + text + zlib.crc32(text).to_bytes(4, "little")


def _read(rows: np.ndarray, i: int) -> dict[str, Any] | None:
    """The JSON of a record; None where it is damaged."""
    text = rows[i, EDGE:].tobytes()
    if zlib.crc32(text[:-4]) != int.from_bytes(text[-4:], "little"):
        return None
    return json.loads(text[:-4].rstrip(b"\0"))


def _rows(path: Path) -> np.ndarray:
    """[n, RECORD] uint8, memory-mapped: the whole records of an index. Empty where it is absent, of another version or
    nothing but a header; what a killed build left behind the last whole record is cut off."""
    try:
        size = path.stat().st_size
        with path.open("rb") as f:
            good = f.read(len(_HEADER)) == _HEADER
    except FileNotFoundError:
        return np.empty((0, RECORD), np.uint8)
    if not good:  # also where a build was killed before its header was whole
        host.current().note(f"The gallery's index '{path}' is damaged or of another version: it is made anew.")
        path.unlink()
        return np.empty((0, RECORD), np.uint8)
    n, rest = divmod(size - len(_HEADER), RECORD)
    if rest:
        host.current().note(f"The gallery's index '{path}' ended in the middle of a record, which is cut off.")
        os.truncate(path, len(_HEADER) + n * RECORD)
    if n == 0:
        return np.empty((0, RECORD), np.uint8)
    return np.memmap(path, np.uint8, "r", len(_HEADER), (n, RECORD))


def _index_path(folder: Path) -> Path:
    """Beside the pictures, or in the temporary folder where that cannot be written."""
    if os.access(folder, os.W_OK):
        return folder / INDEX
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    path = host.current().temp_dir / "affect-galleries" / f"{name}.index"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def walk(folder: Path) -> Iterator[tuple[str, int, int]]:
    """(path inside the folder, bytes, time) of every picture file, in a stable order; links are not followed."""
    stack = [folder]
    while stack:
        inside = sorted(os.scandir(stack.pop()), key=lambda e: e.name)
        for entry in inside:
            if entry.is_file(follow_symlinks=False) and Path(entry.name).suffix.lower() in SUFFIXES:
                status = entry.stat()
                yield Path(entry.path).relative_to(folder).as_posix(), status.st_size, status.st_mtime_ns
        stack += [Path(e.path) for e in reversed(inside) if e.is_dir(follow_symlinks=False) and not e.name.startswith(".")]


# -- building ---------------------------------------------------------------------------------------------------

def build(folder: Path | str, read: Callable[[Path], np.ndarray], cache: bool = False) -> Gallery:
    """Brings the index of a folder up to date and opens it.

    read   file -> edge response [SIDE, SIDE] uint8; ValueError or OSError, with a reason, for a file that is no use
    cache  also keep local statistics, which make a query twice as fast for 56 kB a picture

    New and changed files are read, with a progress bar; unchanged ones are not. UserError where the folder is absent or
    holds no picture.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"There is no gallery folder '{folder}'. Give a folder with pictures in it.")
    path = _index_path(folder)
    rows, known = _known(path)
    found = list(walk(folder))
    fresh = [f for f in found if known.get(f[0], (0, None))[1] != [f[1], f[2]]]
    stale = len(rows) - (len(found) - len(fresh))
    if len(rows) > COMPACT_FROM and stale > len(rows) // 2:
        rows, known = _compacted(path, rows, {name: known[name][0] for name, *_ in found if name in known})
    if fresh:
        del rows
        _append(path, folder, fresh, read)
        rows, known = _known(path)
    pictures, skipped = [], {}
    labels = _labels(folder)
    for name, *_ in found:
        row, _, why = known[name]
        if why:
            skipped[name] = why
        else:
            pictures.append(Picture(name, row, *labels(name)))
    if not pictures:
        raise UserError(f"The gallery folder '{folder}' holds no usable picture ({len(skipped)} files were skipped). It takes "
                        f"{', '.join(sorted(SUFFIXES))}, in folders named adjective_noun or with a CSV of file, noun, adjective.")
    gallery = Gallery(folder, pictures, rows, skipped)
    gallery.cached = _cache(path.with_name(path.name.replace(".index", ".cache")), rows, make=cache)
    return gallery


def _known(path: Path) -> tuple[np.ndarray, dict[str, tuple[int, list[int], str]]]:
    """(records, path -> (its last record, [bytes, time], why it was skipped or ""))."""
    rows = _rows(path)
    known: dict[str, tuple[int, list[int], str]] = {}
    for i in range(len(rows)):
        meta = _read(rows, i)
        if meta is not None:
            known[meta["path"]] = (i, meta["file"], meta.get("skipped", ""))
    return rows, known


def _append(path: Path, folder: Path, fresh: list[tuple[str, int, int]], read: Callable[[Path], np.ndarray]) -> None:
    bar = host.current().progress(len(fresh), f"gallery {folder.name}")
    try:
        with path.open("ab") as f:
            if f.tell() == 0:
                f.write(_HEADER)
            for name, size, time in fresh:
                host.current().check_interrupted()
                meta: dict[str, Any] = {"path": name, "file": [size, time]}
                try:
                    edge = read(folder / name)
                except (OSError, ValueError) as error:
                    edge, meta["skipped"] = np.zeros((SIDE, SIDE), np.uint8), str(error)[:300] or type(error).__name__
                f.write(_pack(edge, meta))
                f.flush()
                bar.update()
    finally:
        bar.close()


def _compacted(path: Path, rows: np.ndarray, keep: dict[str, int]) -> tuple[np.ndarray, dict[str, tuple[int, list[int], str]]]:
    def write(target: Path) -> None:
        with target.open("wb") as f:
            f.write(_HEADER)
            for i in keep.values():
                f.write(rows[i].tobytes())

    files.write_atomically(path, write)
    path.with_name(path.name.replace(".index", ".cache")).unlink(missing_ok=True)
    return _known(path)


def _cache(path: Path, rows: np.ndarray, make: bool) -> np.ndarray | None:
    """The local statistics of every record: extended where they are there or asked for, else None."""
    side = SIDE - 2 * ssim.RADIUS
    size = 2 * 2 * side * side
    if not make and not path.is_file():
        return None
    done = path.stat().st_size // size if path.is_file() else 0
    if done > len(rows):  # of an index that was made anew since
        path.unlink()
        done = 0
    if done < len(rows):
        bar = host.current().progress(len(rows) - done, "statistics")
        try:
            with path.open("ab") as f:
                f.truncate(done * size)
                for i in range(done, len(rows)):
                    f.write(ssim.statistics(rows[i, :EDGE].reshape(SIDE, SIDE)).tobytes())
                    bar.update()
        finally:
            bar.close()
    return np.memmap(path, np.uint16, "r", 0, (len(rows), 2, side, side))


# -- labels -----------------------------------------------------------------------------------------------------

def _labels(folder: Path) -> Callable[[str], tuple[str, str, str]]:
    """path -> (noun, adjective, emotion): from a CSV of the gallery where a file stands in one, else from the name of its
    folder (`adjective_noun`, as in VSO). An emotion that no CSV gives comes from the adjective."""
    emotions = dict(ADJECTIVES)
    table: dict[str, dict[str, str]] = {}
    for path in sorted(folder.glob("*.csv")):
        with path.open(newline="", encoding="utf-8-sig") as f:
            for row in csv.DictReader(f):
                row = {(k or "").strip().lower(): (v or "").strip() for k, v in row.items() if isinstance(v, str)}
                if path.name == "emotions.csv":
                    emotions[row.get("adjective", "").lower()] = row.get("emotion", "").lower()
                elif row.get("file"):
                    table[row["file"].replace("\\", "/")] = row

    def labels(name: str) -> tuple[str, str, str]:
        row = table.get(name, {})
        parent = name.rsplit("/", 2)[-2] if "/" in name else ""
        adjective, _, noun = parent.partition("_")
        noun, adjective = row.get("noun", noun), row.get("adjective", adjective if noun else "")
        return noun, adjective, row.get("emotion") or emotions.get(adjective.lower(), "")

    return labels
