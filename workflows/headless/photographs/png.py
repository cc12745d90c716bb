"""PNG: the chunks that a file carries beside its pixels, and 16 bits a colour, which Pillow does not write."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from . import ifd
from .xmp import corrected as corrected_xmp

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_CARRIED = {b"sRGB", b"gAMA", b"cHRM", b"cICP", b"mDCV", b"cLLI", b"pHYs", b"tEXt", b"zTXt", b"iTXt", b"tIME"}
"""Chunks of colour, resolution, texts. They do not depend on how pixels are stored."""

_RAW_EXIF = (b"Raw profile type exif", b"Raw profile type APP1")
_UNREAD = {b"tEXt": _RAW_EXIF, b"zTXt": _RAW_EXIF, b"iTXt": (b"XML:com.adobe.xmp\0\1",)}
"""Texts that may state an orientation in a form that is not corrected: ImageMagick's EXIF, and compressed XMP."""

LEVEL = 4
"""How hard zlib compresses: beyond it, photographs take twice the time for a few percent."""

_ROWS = 1 << 20
"""Bytes of the rows that are compressed at once."""


def chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(name, content) of a file's chunks."""
    at = len(SIGNATURE)
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if at + 12 + size > len(data):
            return
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        at += 12 + size


def chunk(name: bytes, content: bytes) -> bytes:
    """A chunk with its length and sum."""
    return len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")


def carried(data: bytes, size: tuple[int, int], with_profile: bool, turned: bool) -> bytes:
    """The chunks of a file that belong into one of other, upright pixels of a size (width, height).

    turned  whether an orientation was undone: then texts that may still state it are left out
    """
    kept = b""
    for name, content in chunks(data):
        if name == b"eXIf":
            try:
                kept += chunk(name, ifd.corrected(content, size))
            except ValueError:
                continue  # broken: what it says of the orientation could not be corrected
        elif name == b"iCCP" and with_profile:
            kept += chunk(name, content)
        elif name in _CARRIED and not (turned and content.startswith(_UNREAD.get(name, ()))):
            kept += chunk(name, corrected_xmp(content) if name == b"iTXt" else content)
    return kept


def with_chunks(plain: bytes, kept: bytes) -> bytes:
    """A PNG with chunks of another, right after its header."""
    at = len(SIGNATURE) + 25
    return plain[:at] + kept + plain[at:]


def write_deep(file: BinaryIO, pixels: np.ndarray[Any, Any], kept: bytes) -> None:
    """Writes uint16 [H, W, 3 or 4], with chunks of another file."""
    height, width, bands = pixels.shape
    colour = {3: 2, 4: 6}[bands]
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes((16, colour, 0, 0, 0))
    file.write(SIGNATURE + chunk(b"IHDR", header) + kept)
    packer = zlib.compressobj(LEVEL)
    step = max(1, _ROWS // (2 * width * bands))
    above = np.zeros(2 * width * bands, np.uint8)
    for top in range(0, height, step):
        rows = pixels[top : top + step].astype(">u2").reshape(-1, width * bands).view(np.uint8)
        filtered = np.empty((len(rows), rows.shape[1] + 1), np.uint8)
        filtered[:, 0] = 2  # the filter "Up": each byte less the one above it
        filtered[0, 1:] = rows[0] - above
        np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
        above = rows[-1]
        if packed := packer.compress(filtered.tobytes()):
            file.write(chunk(b"IDAT", packed))
    file.write(chunk(b"IDAT", packer.flush()) + chunk(b"IEND", b""))
