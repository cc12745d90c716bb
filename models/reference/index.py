"""The index of a reference gallery: one file in the gallery's folder that holds the edge response of every picture.

A header, then one record per picture, appended as the picture is read: a build that is killed loses only the picture in
progress. A record is `EDGE` bytes of edge response, 1020 bytes of JSON (path, size, time, why a file was skipped, the
response's checksum) and the JSON's checksum. Both checksums are verified whenever the index is opened, and damaged
records are made again. A changed file gets a later record, which counts; records of removed files are ignored, and
dropped once they are the majority. A lock serialises builders.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from .. import files, host
from ..pictures import Unreadable, sentences
from . import ssim
from .edges import SIDE

INDEX = ".affect-gallery.index"
"""The index's name inside the gallery's folder."""

HEADER = 64
"""Bytes before the first record."""

EDGE = SIDE * SIDE
_META = 1020
RECORD = EDGE + _META + 4
"""Bytes of a record."""

_MAGIC = b"affect gallery 2"
_SIDE = SIDE - 2 * ssim.RADIUS
STATISTICS = 2 * _SIDE * _SIDE
CACHED = STATISTICS + 2
"""uint16 values of a cached row: local means, deviations, and the checksum of the edge response that they belong to."""


def pack(edge: np.ndarray, meta: dict[str, Any]) -> bytes | None:
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
    # The checksums are right, but the record may still be malicious: a gallery may come from anybody.
    kinds = isinstance(meta, dict) and isinstance(meta.get("path"), str) and isinstance(meta.get("skipped", ""), str)
    same = kinds and isinstance(meta.get("file"), list) and meta.get("edge") == zlib.crc32(rows[i, :EDGE].data)
    return meta if same and isinstance(meta["edge"], int) else None


def header(edges: str) -> bytes:
    """The first `HEADER` bytes of a new index: its version, its kind of edges, and a number of its own."""
    return (b"%s %s %s\n" % (_MAGIC, edges.encode(), secrets.token_hex(8).encode())).ljust(HEADER)


def _start(path: Path) -> bytes:
    with path.open("rb") as f:
        return f.read(HEADER)


def _record(
    path: Path, meta: dict[str, Any], read: Callable[[Path], np.ndarray]
) -> tuple[bytes, str] | tuple[None, str]:
    """(the record of a picture file, ""); or (None, why there is none now)."""
    try:
        with sentences(path):
            edge = read(path)
    except Unreadable as error:
        if error.passing:
            return None, error.why
        # The JSON has room for this many letters beside a usual path, even where it takes six bytes for each.
        edge, meta = np.zeros((SIDE, SIDE), np.uint8), {**meta, "skipped": error.why[:100]}
    record = pack(edge, meta)
    return (None, "its path is too long for the index") if record is None else (record, "")


class Index:
    """An index file: its records, memory-mapped, and their metadata."""

    def __init__(self, path: Path, edges: str, most: int):
        """most  records that the file may have: one of far more than there are pictures would be read for hours"""
        self.path, self.edges = path, edges
        self.open(most)

    def open(self, most: int | None = None) -> None:
        """Reads the file's state: `rows` [n, RECORD] uint8 and `known`, path -> (its last record, [bytes, time], why
        it was skipped or ""). A file of another version, or of more than `most` records, is removed; an incomplete last
        record of a killed build is cut off."""
        size = self.path.stat().st_size if self.path.is_file() else 0
        start = _start(self.path) if size else b""
        head = b"%s %s " % (_MAGIC, self.edges.encode())
        if size and not (
            len(start) == HEADER
            and (most is None or size < HEADER + RECORD * (most + 1))
            and start.startswith(head)
            and re.fullmatch(rb"[0-9a-f]{16}", start[len(head) :].rstrip())
        ):
            host.current().note(
                f"The gallery's index '{self.path}' is damaged, of another version or of far more pictures than there "
                "are: it is built again."
            )
            self.path.unlink()
            size = 0
        self.id = start.split()[-1] if size else b""
        n, rest = divmod(max(0, size - HEADER), RECORD)
        if rest:
            host.current().note(f"The gallery's index '{self.path}' ended in the middle of a record, which is cut off.")
            os.truncate(self.path, HEADER + n * RECORD)
        self.rows = np.memmap(self.path, np.uint8, "r", HEADER, (n, RECORD)) if n else np.empty((0, RECORD), np.uint8)
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
        """Reads files (path inside the folder, bytes, time) into records. Returns those that could not be read now,
        path -> why: they are read again next time. What is wrong with a file itself is recorded, and it is not read
        again until it changes."""
        failed: dict[str, str] = {}
        self.rows = np.empty((0, RECORD), np.uint8)  # on some systems a mapped file cannot grow
        bar = host.current().progress(len(fresh), f"gallery {folder.name}")
        try:
            with self.path.open("ab") as f:
                if f.tell() == 0:
                    f.write(header(self.edges))
                for name, size, time in fresh:
                    host.current().check_interrupted()
                    record, why = _record(folder / name, {"path": name, "file": [size, time]}, read)
                    if record is None:
                        failed[name] = why
                    else:
                        f.write(record)
                        f.flush()
                    bar.update()
        finally:
            bar.close()
        self.open()
        return failed

    def compact(self, keep: list[int]) -> None:
        """Writes the file again with some of its records; unless another program holds it open and the system forbids
        it."""

        def write(target: Path) -> None:
            with target.open("wb") as out, self.path.open("rb") as f:
                out.write(header(self.edges))
                for i in keep:
                    f.seek(HEADER + i * RECORD)
                    out.write(f.read(RECORD))

        self.rows = np.empty((0, RECORD), np.uint8)
        with suppress(PermissionError):
            files.write_atomically(self.path, write)
        self.open()

    def statistics(self, make: bool) -> np.ndarray | None:
        """The cached rows of all records, repaired and extended: where the file exists or `make` is set, else None."""
        path = self.path.with_suffix(".cache")
        if not make and not path.is_file():
            return None
        head = b"affect statistics 2 " + self.id
        good = 0
        if path.is_file() and _start(path).rstrip() == head:
            n = max(0, min((path.stat().st_size - HEADER) // (2 * CACHED), len(self.rows)))  # 0: a header alone
            if n:
                mapped = np.memmap(path, np.uint16, "r", HEADER, (n, CACHED))
                same = mapped[:, STATISTICS:].copy().view(np.uint32).ravel() == self.checks[:n]
                good = n if same.all() else int(np.argmin(same))
                del mapped
        whole = good and path.stat().st_size == HEADER + good * 2 * CACHED  # other processes may have it mapped
        if good < len(self.rows) or not path.is_file():
            if whole:
                self._make_statistics(path, head, good)
            else:
                try:
                    files.write_atomically(path, lambda target: self._make_statistics(target, head, 0))
                except PermissionError:  # another program holds it open, and the system forbids this
                    host.current().note("Another program uses the gallery's statistics: this search goes without.")
                    return None
        return np.memmap(path, np.uint16, "r", HEADER, (len(self.rows), CACHED))

    def _make_statistics(self, path: Path, head: bytes, good: int) -> None:
        bar = host.current().progress(len(self.rows) - good, "statistics")
        try:
            with path.open("r+b" if good else "wb") as f:
                f.write(head.ljust(HEADER))
                f.seek(HEADER + good * 2 * CACHED)
                f.truncate()
                for i in range(good, len(self.rows)):
                    host.current().check_interrupted()
                    f.write(ssim.statistics(self.rows[i, :EDGE].reshape(SIDE, SIDE)).tobytes())
                    f.write(self.checks[i].tobytes())
                    bar.update()
        finally:
            bar.close()


def index_path(folder: Path, edges: str) -> Path:
    """The index's path: in the gallery's folder, or in the user's cache folder where that cannot be written. A gallery
    may come from anybody: an index, cache or lock that is a link (which writing would follow) or not a regular file is
    removed and made again."""
    name = INDEX if edges == "scharr" else INDEX.replace(".index", f"-{edges}.index")
    try:
        for path in (folder / name).with_suffix(".lock"), (folder / name).with_suffix(".cache"), folder / name:
            if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
                path.unlink()
                host.current().note(f"The gallery's file '{path}' was a link or not a regular file: it is made again.")
        os.close(os.open(folder / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666))
        return folder / name
    except OSError:
        digest = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
        path = Path.home() / ".cache" / "comfyui_affect" / "galleries" / f"{digest}-{edges}.index"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


@contextmanager
def locked(path: Path, folder: Path) -> Iterator[None]:
    """Holds the lock of an index file. While another builder holds it, waits, with a note, and the user may
    interrupt."""
    from filelock import FileLock, Timeout

    lock, noted = FileLock(path.with_suffix(".lock")), False
    while True:
        host.current().check_interrupted()
        try:
            lock.acquire(timeout=1)
            break
        except Timeout:
            if not noted:
                host.current().note(
                    f"Another program is building the index of the gallery '{folder.name}': waiting for it."
                )
            noted = True
    try:
        yield
    finally:
        lock.release()
