"""TIFF's directories (IFDs), of which EXIF is made too: read, corrected in place, written.

TIFF 6.0, section 2; EXIF 2.32, section 4.6. BigTIFF is not read. What contradicts itself is a ValueError.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

Bytes = bytes | bytearray | memoryview

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
"""Bytes of one value of each type."""

SHORT, LONG = 3, 4
ORIENTATION, EXIF, GPS, INTEROPERABILITY = 274, 34665, 34853, 40965
_SUBDIRECTORIES = (EXIF, GPS, INTEROPERABILITY)
_WIDTH, _HEIGHT = 40962, 40963
"""EXIF's PixelXDimension and PixelYDimension."""

_MOST_BYTES = 1 << 26
"""Bytes of all values that are carried over."""

Tags = dict[int, "tuple[int, int, bytes] | Tags"]
"""Tag -> (type, how many values, their bytes), or the tags of the directory that it leads to."""


@dataclass(frozen=True)
class Entry:
    """One entry of a directory; `at` is where its values begin."""

    tag: int
    kind: int
    count: int
    at: int

    @property
    def size(self) -> int:
        """Bytes of its values."""
        return _SIZES[self.kind] * self.count


def byte_order(data: Bytes) -> str:
    """'<' or '>', as `struct` writes them, of a TIFF's beginning."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(bytes(data[:4]))
    if order is None:
        raise ValueError("no TIFF header")
    return order


def number(data: Bytes, order: str, kind: int, at: int) -> int:
    """The whole number at a place, of the type SHORT or LONG."""
    letter = {SHORT: "H", LONG: "I"}.get(kind)
    if letter is None or not 0 <= at <= len(data) - _SIZES[kind]:
        raise ValueError(f"no whole number at {at}")
    value: int = struct.unpack_from(order + letter, data, at)[0]
    return value


def first(data: Bytes) -> int:
    """Where the first directory begins."""
    return number(data, byte_order(data), LONG, 4)


def entries(data: Bytes, at: int) -> Iterator[Entry]:
    """The entries of the directory at a place; those of an unknown type are left out."""
    order = byte_order(data)
    for i in range(number(data, order, SHORT, at)):
        place = at + 2 + 12 * i
        tag, kind = number(data, order, SHORT, place), number(data, order, SHORT, place + 2)
        count = number(data, order, LONG, place + 4)
        if kind not in _SIZES:
            continue
        size = _SIZES[kind] * count
        value = place + 8 if size <= 4 else number(data, order, LONG, place + 8)
        if value + size > len(data):
            raise ValueError(f"tag {tag} leads out of the file")
        yield Entry(tag, kind, count, value)


def corrected(exif: bytes, size: tuple[int, int]) -> bytes:
    """EXIF of a picture that is now upright and of another size (width, height). Nothing moves in it, so that makers'
    own notes, which hold offsets, stay valid. The preview is cut off: it shows the picture as it was."""
    start = 6 if exif.startswith(b"Exif\0\0") else 0
    data = bytearray(exif[start:])
    order, at = byte_order(data), first(data)

    def put(entry: Entry, value: int) -> None:
        if entry.count == 1 and entry.kind in (SHORT, LONG):
            limit = 65535 if entry.kind == SHORT else 2**32 - 1
            struct.pack_into(order + ("H" if entry.kind == SHORT else "I"), data, entry.at, min(value, limit))

    inside = None
    for entry in entries(data, at):
        if entry.tag == ORIENTATION:
            put(entry, 1)
        elif entry.tag == EXIF and entry.kind == LONG:
            inside = number(data, order, LONG, entry.at)
    for entry in () if inside is None else entries(data, inside):
        if entry.tag in (_WIDTH, _HEIGHT):
            put(entry, size[entry.tag == _HEIGHT])
    following = at + 2 + 12 * number(data, order, SHORT, at)
    if following + 4 <= len(data):
        data[following : following + 4] = bytes(4)
    return exif[:start] + bytes(data)


def tags(data: Bytes, at: int, wanted: frozenset[int] | None = None) -> Tags:
    """The tags of the directory at a place and of those that it leads to. ValueError for more than 64 MB of values.

    wanted  only these of the directory itself
    """
    room = _MOST_BYTES

    def read(at: int, wanted: frozenset[int] | None, depth: int) -> Tags:
        nonlocal room
        found: Tags = {}
        for entry in entries(data, at):
            if (wanted is not None and entry.tag not in wanted) or entry.tag in found:
                continue
            if entry.tag in _SUBDIRECTORIES:
                if entry.kind == LONG and depth < 2:
                    found[entry.tag] = read(number(data, order, LONG, entry.at), None, depth + 1)
                continue
            room -= entry.size
            if room < 0:
                raise ValueError("its values are too large")
            found[entry.tag] = (entry.kind, entry.count, bytes(data[entry.at : entry.at + entry.size]))
        return found

    order = byte_order(data)
    return read(at, wanted, 0)


def set_size(found: Tags, order: str, size: tuple[int, int]) -> None:
    """Puts the size (width, height) into EXIF's own directory, where it says one."""
    inner = found.get(EXIF)
    for tag, value in zip((_WIDTH, _HEIGHT), size):
        if isinstance(inner, dict) and tag in inner:
            inner[tag] = (LONG, 1, struct.pack(order + "I", value))


def directory(found: Tags, order: str, at: int) -> bytes:
    """A directory's bytes, with those that it leads to, for a place in the file."""
    end = at + 2 + 12 * len(found) + 4
    head, behind = struct.pack(order + "H", len(found)), bytearray()
    for tag in sorted(found):
        value = found[tag]
        if isinstance(value, dict):
            place = end + len(behind)
            behind += directory(value, order, place)
            kind, count, content = LONG, 1, struct.pack(order + "I", place)
        else:
            kind, count, content = value
        head += struct.pack(order + "HHI", tag, kind, count)
        if len(content) > 4:
            head += struct.pack(order + "I", end + len(behind))
            behind += content
        else:
            head += content.ljust(4, b"\0")
        behind += bytes(len(behind) % 2)  # values begin at even places
    return head + bytes(4) + bytes(behind)
