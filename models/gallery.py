"""The index of a reference gallery: one file beside the pictures that keeps the edge response of each.

A header, then one record a picture, appended as it is read: killing a build loses the picture in hand and no other. A
record is `EDGE` bytes of edge response, 1020 bytes of JSON (path, size, time, why a file was skipped, the response's
checksum) and the JSON's checksum; both are checked whenever the index is opened, and what is damaged is read again.
Where a file changed, a later record stands for it; records of files that are gone are passed over, and dropped once
they are the larger part. A lock keeps two builders apart.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import secrets
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from . import files, host, ssim
from .emotions import MIKELS
from .errors import UserError
from .pictures import Unreadable, sentences

SIDE = 128
"""Pixels a side of an edge response: the size at which pictures are compared."""

EDGE = SIDE * SIDE
_META = 1020
RECORD = EDGE + _META + 4
INDEX = ".affect-gallery.index"
_MAGIC, _HEADER = b"affect gallery 2", 64
_SIDE = SIDE - 2 * ssim.RADIUS
_STATISTICS = 2 * _SIDE * _SIDE
_CACHED = _STATISTICS + 2
"""uint16 values of a cached row: local means, deviations, and the checksum of the edge response that they belong to."""

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
LARGEST = 100_000_000
"""Pictures of more pixels than this are skipped."""

LARGEST_TABLE = 200_000_000
"""Bytes of a CSV: two million pictures."""

COMPACT_FROM = 1000
"""An index of more records than this is written anew once most of them are stale."""

ADJECTIVES: dict[str, str] = {
    "warm": "contentment",
    "clear": "contentment",
    "lovely": "contentment",
    "calm": "contentment",
    "peaceful": "contentment",
    "scenic": "awe",
    "great": "awe",
    "beautiful": "awe",
    "majestic": "awe",
    "bright": "excitement",
    "colorful": "excitement",
    "exciting": "excitement",
    "happy": "amusement",
    "funny": "amusement",
    "cute": "amusement",
    "muddy": "disgust",
    "dirty": "disgust",
    "ugly": "disgust",
    "dark": "fear",
    "scary": "fear",
    "creepy": "fear",
    "stormy": "fear",
    "misty": "sadness",
    "poor": "sadness",
    "lonely": "sadness",
    "sad": "sadness",
    "abandoned": "sadness",
    "harsh": "anger",
    "rough": "anger",
    "angry": "anger",
    "violent": "anger",
}
"""Adjective -> the emotion of Mikels' eight that it stands for (VSO's sentiments, and our choice among the eight). A
gallery's own `emotions.csv` (adjective, emotion) overrides it."""

GROUPS = ({"mountain", "hill", "landscape"}, {"home", "room", "house"}, {"river", "water", "lake"}, {"city"})
"""Nouns that are compared with one another (the paper's table I)."""


def singular(noun: str) -> str:
    """What nouns are compared by: lower case, without the plural of VSO's folders (mountains, cities, beaches,
    movies). No word to show: a movie is a "movy"."""
    noun = noun.lower().strip()
    if noun.endswith(("ches", "shes", "sses", "xes", "zes")):
        return noun[:-2]
    noun = noun[:-1] if noun.endswith("s") and not noun.endswith("ss") else noun
    return noun[:-2] + "y" if noun.endswith("ie") else noun


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
    """[n, `_CACHED`] uint16 local statistics (`ssim.statistics`), where `affect gallery build --cache` made them."""
    edges: str = "scharr"
    absent: list[str] = field(default_factory=list)
    """Files that a CSV lists and the folder does not hold."""

    @property
    def nouns(self) -> list[str]:
        return sorted({p.noun for p in self.pictures if p.noun})

    @property
    def adjectives(self) -> list[str]:
        return sorted({p.adjective for p in self.pictures if p.adjective})

    def select(self, noun: str = "", adjective: str = "", emotions: tuple[str, ...] = ()) -> list[Picture]:
        """The pictures of a noun (or of its group), an adjective and any of the emotions; whatever is empty does not
        count. UserError where there is none, naming what there is."""
        wanted = next((g for g in GROUPS if singular(noun) in g), {singular(noun)})
        out = [
            p
            for p in self.pictures
            if (not noun or singular(p.noun) in wanted)
            and (not adjective or p.adjective.lower() == adjective.lower())
            and (not emotions or p.emotion in emotions)
        ]
        if not out:
            asked = " ".join(filter(None, (adjective, noun, " or ".join(emotions) and f"({' or '.join(emotions)})")))
            there = {
                "nouns": self.nouns,
                "adjectives": self.adjectives,
                "emotions": sorted({p.emotion for p in self.pictures if p.emotion}),
            }
            known = "; ".join(f"{name}: {', '.join(values)}" for name, values in there.items() if values)
            dumb = self.speechless
            if emotions and dumb:
                known += f". These adjectives stand for no emotion yet (emotions.csv: adjective, emotion): {', '.join(dumb[:20])}"
            remedy = (
                "Ask for what it has."
                if known
                else "It has no labels at all: put pictures into folders named adjective_noun, or "
                "write a CSV of file, noun, adjective, emotion."
            )
            raise UserError(
                f"The gallery '{self.folder.name}' has no picture of '{asked}'. {f'It has {known}. ' if known else ''}{remedy}"
            )
        return out

    @property
    def speechless(self) -> list[str]:
        """Adjectives whose pictures have no emotion: no search by emotion finds them."""
        return sorted({p.adjective for p in self.pictures if p.adjective and not p.emotion})


# -- the index file ---------------------------------------------------------------------------------------------


def _pack(edge: np.ndarray, meta: dict[str, Any]) -> bytes | None:
    """A record; None where the path is too long for one."""
    pixels = edge.tobytes()
    text = json.dumps({**meta, "edge": zlib.crc32(pixels)}).encode()  # ASCII: a name need not be valid Unicode
    if len(text) > _META:
        return None
    text = text.ljust(_META, b"\0")
    return pixels + text + zlib.crc32(text).to_bytes(4, "little")


def _read(rows: np.ndarray, i: int) -> dict[str, Any] | None:
    """The JSON of a record; None where that or the edge response is damaged."""
    text = rows[i, EDGE:].tobytes()
    if zlib.crc32(text[:-4]) != int.from_bytes(text[-4:], "little"):
        return None
    try:
        meta = json.loads(text[:-4].rstrip(b"\0"))
    except (ValueError, RecursionError):
        return None
    # The checksums are right, and yet another program may have written it: a gallery may come from anybody.
    kinds = isinstance(meta, dict) and isinstance(meta.get("path"), str) and isinstance(meta.get("skipped", ""), str)
    same = kinds and isinstance(meta.get("file"), list) and meta.get("edge") == zlib.crc32(rows[i, :EDGE])
    return meta if same and isinstance(meta["edge"], int) else None


def _header(edges: str) -> bytes:
    return b"%s %s %s\n" % (_MAGIC, edges.encode(), secrets.token_hex(8).encode())


def _start(path: Path) -> bytes:
    with path.open("rb") as f:
        return f.read(_HEADER)


class _Index:
    """An index file: its records, memory-mapped, and what is known of them."""

    def __init__(self, path: Path, edges: str):
        self.path, self.edges = path, edges
        self.open()

    def open(self) -> None:
        """Reads the file's state: `rows` [n, RECORD] uint8 and `known`, path -> (its last record, [bytes, time], why
        it was skipped or ""). A file of another version is removed; what a killed build left behind the last whole
        record is cut off."""
        size = self.path.stat().st_size if self.path.is_file() else 0
        start = _start(self.path) if size else b""
        head = b"%s %s " % (_MAGIC, self.edges.encode())
        if size and not (
            len(start) == _HEADER
            and start.startswith(head)
            and re.fullmatch(rb"[0-9a-f]{16}", start[len(head) :].rstrip())
        ):
            host.current().note(f"The gallery's index '{self.path}' is damaged or of another version: it is made anew.")
            self.path.unlink()
            size = 0
        self.id = start.split()[-1] if size else b""
        n, rest = divmod(max(0, size - _HEADER), RECORD)
        if rest:
            host.current().note(f"The gallery's index '{self.path}' ended in the middle of a record, which is cut off.")
            os.truncate(self.path, _HEADER + n * RECORD)
        self.rows = np.memmap(self.path, np.uint8, "r", _HEADER, (n, RECORD)) if n else np.empty((0, RECORD), np.uint8)
        self.known: dict[str, tuple[int, list[int], str]] = {}
        self.checks = np.zeros(n, np.uint32)  # of the edge responses
        for i in range(n):
            meta = _read(self.rows, i)
            if meta is not None:
                self.checks[i] = meta["edge"]
                self.known[meta["path"]] = (i, meta["file"], meta.get("skipped", ""))
            if i % ssim.AT_ONCE == ssim.AT_ONCE - 1:
                files.release(self.rows)

    def append(
        self, folder: Path, fresh: list[tuple[str, int, int]], read: Callable[[Path], np.ndarray]
    ) -> dict[str, str]:
        """Reads files into records. Returns those that could not be read now, path -> why: they are asked again next
        time. What is wrong with a file itself is kept, and it is not read again until it changes."""
        failed: dict[str, str] = {}
        self.rows = np.empty((0, RECORD), np.uint8)  # a mapped file cannot grow everywhere
        bar = host.current().progress(len(fresh), f"gallery {folder.name}")
        try:
            with self.path.open("ab") as f:
                if f.tell() == 0:
                    f.write(_header(self.edges).ljust(_HEADER))
                for name, size, time in fresh:
                    host.current().check_interrupted()
                    meta: dict[str, Any] = {"path": name, "file": [size, time]}
                    edge = None
                    try:
                        with sentences(folder / name):
                            edge = read(folder / name)
                    except Unreadable as error:
                        if error.passing:  # asked again next time
                            failed[name] = error.why
                        else:  # a record has room for so many letters and a usual path, even where JSON makes six of each
                            edge, meta["skipped"] = np.zeros((SIDE, SIDE), np.uint8), error.why[:100]
                    record = None if edge is None else _pack(edge, meta)
                    if record is None:
                        failed.setdefault(name, "its path is too long for the index")
                    else:
                        f.write(record)
                        f.flush()
                    bar.update()
        finally:
            bar.close()
        self.open()
        return failed

    def compact(self, keep: list[int]) -> None:
        """Writes the file anew with some of its records. Not done where another program holds it open and the system
        forbids it."""

        def write(target: Path) -> None:
            with target.open("wb") as out, self.path.open("rb") as f:
                out.write(_header(self.edges).ljust(_HEADER))
                for i in keep:
                    f.seek(_HEADER + i * RECORD)
                    out.write(f.read(RECORD))

        self.rows = np.empty((0, RECORD), np.uint8)
        try:
            files.write_atomically(self.path, write)
        except PermissionError:
            pass
        self.open()

    def statistics(self, make: bool) -> np.ndarray | None:
        """The cached rows of every record: mended and extended where they are there or asked for, else None."""
        path = self.path.with_suffix(".cache")
        if not make and not path.is_file():
            return None
        head = b"affect statistics 2 " + self.id
        good = 0
        if path.is_file() and _start(path).rstrip() == head:
            n = max(
                0, min((path.stat().st_size - _HEADER) // (2 * _CACHED), len(self.rows))
            )  # a header may be all there is
            if n:
                there = np.memmap(path, np.uint16, "r", _HEADER, (n, _CACHED))
                same = there[:, _STATISTICS:].copy().view(np.uint32).ravel() == self.checks[:n]
                good = n if same.all() else int(np.argmin(same))
                del there
        whole = good and path.stat().st_size == _HEADER + good * 2 * _CACHED  # other processes may have it mapped
        if good < len(self.rows) or not path.is_file():
            if whole:
                self._make_statistics(path, head, good)
            else:
                try:
                    files.write_atomically(path, lambda target: self._make_statistics(target, head, 0))
                except PermissionError:  # another program holds it open, and the system forbids this
                    host.current().note("Another program uses the gallery's statistics: this search goes without.")
                    return None
        return np.memmap(path, np.uint16, "r", _HEADER, (len(self.rows), _CACHED))

    def _make_statistics(self, path: Path, head: bytes, good: int) -> None:
        bar = host.current().progress(len(self.rows) - good, "statistics")
        try:
            with path.open("r+b" if good else "wb") as f:
                f.write(head.ljust(_HEADER))
                f.seek(_HEADER + good * 2 * _CACHED)
                f.truncate()
                for i in range(good, len(self.rows)):
                    host.current().check_interrupted()
                    f.write(ssim.statistics(self.rows[i, :EDGE].reshape(SIDE, SIDE)).tobytes())
                    f.write(self.checks[i].tobytes())
                    bar.update()
        finally:
            bar.close()


def _index_path(folder: Path, edges: str) -> Path:
    """Beside the pictures, or in the user's cache where nothing can be written there. A gallery may come from
    anybody: where one of its files is a link, which would be written through, or no regular file, it is taken away
    and made anew."""
    name = INDEX if edges == "scharr" else INDEX.replace(".index", f"-{edges}.index")
    try:
        for path in (folder / name).with_suffix(".lock"), (folder / name).with_suffix(".cache"), folder / name:
            if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
                path.unlink()
                host.current().note(f"The gallery's file '{path}' was a link or no regular file: it is made anew.")
        os.close(os.open(folder / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666))
        return folder / name
    except OSError:
        digest = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
        path = Path.home() / ".cache" / "comfyui_affect" / "galleries" / f"{digest}-{edges}.index"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def walk(folder: Path) -> Iterator[tuple[str, int, int]]:
    """(path inside the folder, bytes, time) of every picture file, in a stable order; links are not followed, and
    folders that cannot be read are passed over."""
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


@contextmanager
def _alone(lock: Any, folder: Path) -> Iterator[None]:
    """Holds a lock; while another builder has it, waits so that the user is told and may interrupt."""
    from filelock import Timeout

    told = False
    while True:
        host.current().check_interrupted()
        try:
            lock.acquire(timeout=1)
            break
        except Timeout:
            if not told:
                host.current().note(
                    f"Another program is building the index of the gallery '{folder.name}': waiting for it."
                )
            told = True
    try:
        yield
    finally:
        lock.release()


def state(folder: Path) -> str:
    """A digest of what a gallery's answers depend on: its pictures' names, sizes and times, and its tables'."""
    digest = hashlib.sha256(repr(list(walk(folder))).encode("utf-8", "surrogateescape"))
    for path in _tables(folder):
        digest.update(files.read_text(path, LARGEST_TABLE))
    return digest.hexdigest()


# -- building ---------------------------------------------------------------------------------------------------


def build(
    folder: Path | str, read: Callable[[Path], np.ndarray], edges: str = "scharr", cache: bool = False
) -> Gallery:
    """Brings the index of a folder up to date and opens it.

    read   file -> edge response [SIDE, SIDE] uint8; it raises, with a reason, for a file that is no use
    edges  what kind of response that is; each kind has an index of its own
    cache  also keep local statistics, which make a query twice as fast for 56 kB a picture

    New and changed files are read, with a progress bar; unchanged ones are not. UserError where the folder is absent or
    holds no picture.
    """
    from filelock import FileLock

    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"There is no gallery folder '{folder}'. Give a folder with pictures in it.")
    labels, listed = _labels(folder)
    files_there = list(walk(folder))
    found = [f for f in files_there if labels(f[0]) is not None]
    absent = sorted(listed - {f[0] for f in files_there})
    path = _index_path(folder, edges)
    with _alone(FileLock(path.with_suffix(".lock")), folder):
        index = _Index(path, edges)
        fresh = [f for f in found if index.known.get(f[0], (0, None))[1] != [f[1], f[2]]]
        stale = len(index.rows) - (len(found) - len(fresh))
        if len(index.rows) > COMPACT_FROM and stale > len(index.rows) // 2:
            index.compact([index.known[name][0] for name, *_ in found if name in index.known])
        failed = index.append(folder, fresh, read) if fresh else {}
        cached = index.statistics(cache) if len(index.rows) else None
    pictures, skipped = [], {}
    for name, *_ in found:
        row, _, why = index.known.get(name, (0, None, ""))
        why = failed.get(name) or why
        if why:
            skipped[name] = why
        else:
            pictures.append(Picture(name, row, *labels(name)))
    if not pictures:
        also = f", and {len(absent)} that its CSV lists are not there, such as '{absent[0]}'" if absent else ""
        first = "".join(f"; {name}: {why}" for name, why in list(skipped.items())[:3])
        raise UserError(
            f"The gallery folder '{folder}' holds no usable picture ({len(skipped)} files were skipped{also}{first}). It takes "
            f"{', '.join(sorted(SUFFIXES))} (links are not followed), in folders named adjective_noun or with a CSV of file, "
            "noun, adjective."
        )
    return Gallery(folder, pictures, index.rows, skipped, cached, edges, absent)


# -- labels -----------------------------------------------------------------------------------------------------


def _tables(folder: Path) -> list[Path]:
    """The CSV files of a gallery, without links that leave it, pipes and devices: nobody knows what or how much
    those hold."""
    found, root = [], folder.resolve()
    for path in sorted(folder.glob("*.csv")):
        if path.is_file() and path.resolve().is_relative_to(root):
            found.append(path)
        else:
            host.current().note(
                f"'{path.name}' in the gallery '{folder.name}' is no regular file, or a link that leaves the folder: it is "
                "not used."
            )
    return found


def _table(path: Path) -> list[dict[str, str]]:
    """A CSV's rows with lower-case keys; a table that Excel wrote in the machine's own alphabet, or with semicolons
    or tabs, is read too."""
    raw = files.read_text(path, LARGEST_TABLE)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    lines = text.splitlines()
    between = max(",;\t", key=lines[0].count) if lines else ","
    try:
        return [
            {(k or "").strip().lower(): (v or "").strip() for k, v in row.items() if isinstance(v, str)}
            for row in csv.DictReader(lines, delimiter=between)
        ]
    except csv.Error as error:
        raise UserError(
            f"The table '{path.name}' in the gallery cannot be read: {error}. Save it again as CSV."
        ) from error


def _emotion(name: str, where: str) -> str:
    if name and name.lower() not in MIKELS:
        raise UserError(f"{where} names the emotion '{name}'. The eight are: {', '.join(MIKELS)}.")
    return name.lower()


def _labels(folder: Path) -> tuple[Callable[[str], tuple[str, str, str] | None], set[str]]:
    """(path -> (noun, adjective, emotion), the files that a CSV lists). Where the gallery has a CSV with a column
    `file`, the pictures are those that it lists (others: None); else labels are the names of folders
    (`adjective_noun`, as in VSO). An emotion that no CSV gives comes from the adjective. UserError for an emotion
    that is none of the eight."""
    emotions = dict(ADJECTIVES)
    table: dict[str, dict[str, str]] = {}
    listed = False
    for path in _tables(folder):
        rows, key = _table(path), "adjective" if path.name == "emotions.csv" else "file"
        if rows and key not in rows[0]:
            host.current().note(
                f"'{path.name}' in the gallery '{folder.name}' has no column '{key}' in its first line: it is not used."
            )
        for row in rows:
            if not row.get(key):
                continue
            if path.name == "emotions.csv":
                emotions[row["adjective"].lower()] = _emotion(row.get("emotion", ""), f"'{path.name}'")
            else:
                listed = True
                name = Path(row["file"].replace("\\", "/")).as_posix()
                table[name] = {**row, "emotion": _emotion(row.get("emotion", ""), f"'{path.name}', at {name},")}

    def labels(name: str) -> tuple[str, str, str] | None:
        if listed and name not in table:
            return None
        row = table.get(name, {})
        parent = name.rsplit("/", 2)[-2] if "/" in name else ""
        adjective, _, noun = parent.partition("_")
        noun, adjective = row.get("noun") or noun, row.get("adjective") or (adjective if noun else "")
        return noun, adjective, row.get("emotion") or emotions.get(adjective.lower(), "")

    return labels, set(table)
