"""TIFF of 8 and 16 bits, with the tags of another file."""

from __future__ import annotations

import mmap
import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ....models.files import open_regular
from . import ifd
from .png import LEVEL

XMP, PROFILE = 700, 34675
_CARRIED = frozenset(
    {269, 270, 271, 272, 282, 283, 285, 296, 305, 306, 315, 316, 33432, XMP, 33723, PROFILE, ifd.EXIF, ifd.GPS}
)
"""Texts, makers, resolution, dates, rights, XMP, IPTC, the profile, EXIF and GPS. Not Photoshop's own tags: they hold a
preview, and layers of the old picture."""

_STRIP = 1 << 20
"""Bytes of pixels in a strip."""

_RAW, _DEFLATE = 1, 8


def carried(path: Path, with_profile: bool) -> tuple[str, ifd.Tags]:
    """(byte order, tags) of a TIFF file's first picture that belong into one of other, upright pixels. ValueError for a
    BigTIFF and where the directory contradicts itself."""
    with (
        open_regular(path) as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        memoryview(mapped) as data,
    ):
        order = ifd.byte_order(data)
        found = ifd.tags(data, ifd.first(data), _CARRIED if with_profile else _CARRIED - {PROFILE})
    return order, found


def write(
    file: BinaryIO, pixels: np.ndarray[Any, Any], tags: ifd.Tags, order: str = "<", compressed: bool = True
) -> None:
    """Writes uint8 or uint16 [H, W, 3 or 4]; a fourth band is alpha, not multiplied into the colours.

    tags        further tags, in the byte order `order`
    compressed  by deflate over differences of neighbours (predictor 2), which every reader of TIFF knows
    """
    height, width, bands = pixels.shape
    bits = 8 * pixels.dtype.itemsize
    rows = max(1, _STRIP // (width * bands * pixels.dtype.itemsize))
    file.write((b"II*\0" if order == "<" else b"MM\0*") + bytes(4))
    places, sizes = [], []
    for top in range(0, height, rows):
        strip = pixels[top : top + rows]
        if compressed:
            strip = np.diff(strip, axis=1, prepend=np.zeros_like(strip[:, :1]))  # wraps around, as it has to
        content = strip.astype(strip.dtype.newbyteorder(order)).tobytes()
        content = zlib.compress(content, LEVEL) if compressed else content
        content += bytes(len(content) % 2)
        places.append(file.tell())
        sizes.append(len(content))
        file.write(content)

    def values(kind: int, *numbers: int) -> tuple[int, int, bytes]:
        return kind, len(numbers), struct.pack(f"{order}{len(numbers)}{'H' if kind == ifd.SHORT else 'I'}", *numbers)

    found: ifd.Tags = {
        **tags,
        256: values(ifd.LONG, width),
        257: values(ifd.LONG, height),
        258: values(ifd.SHORT, *[bits] * bands),
        259: values(ifd.SHORT, _DEFLATE if compressed else _RAW),
        262: values(ifd.SHORT, 2),  # RGB
        273: values(ifd.LONG, *places),
        ifd.ORIENTATION: values(ifd.SHORT, 1),
        277: values(ifd.SHORT, bands),
        278: values(ifd.LONG, rows),
        279: values(ifd.LONG, *sizes),
        284: values(ifd.SHORT, 1),  # colours are interleaved
    }
    if compressed:
        found[317] = values(ifd.SHORT, 2)
    if bands == 4:
        found[338] = values(ifd.SHORT, 2)
    ifd.set_size(found, order, (width, height))
    at = file.tell()
    if at >= 2**32 - _STRIP:
        raise ValueError("more than 4 GB do not fit into a TIFF")
    file.write(ifd.directory(found, order, at))
    file.seek(4)
    file.write(struct.pack(order + "I", at))
