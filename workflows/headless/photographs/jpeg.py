"""What a JPEG carries beside its pixels: the segments before them, taken from one file and put into another."""

from __future__ import annotations

from collections.abc import Iterator

from . import ifd
from .xmp import corrected as corrected_xmp

_EXIF, _ICC = b"Exif\0\0", b"ICC_PROFILE\0"
_XMP, _MORE_XMP = b"http://ns.adobe.com/xap/1.0/\0", b"http://ns.adobe.com/xmp/extension/\0"
_PHOTOSHOP = b"Photoshop 3.0\0"
"""The beginnings of segments that are carried over. IPTC is inside Photoshop's."""

_START_OF_SCAN, _COMMENT = 0xDA, 0xFE


def segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(marker, content) of the segments before the pixels."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # padding
            at += 1
            continue
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == _START_OF_SCAN or size < 2 or at + 2 + size > len(data):
            return
        yield marker, data[at + 4 : at + 2 + size]
        at += 2 + size


def carried(data: bytes, size: tuple[int, int], with_profile: bool) -> bytes:
    """The segments of a file that belong into one of other, upright pixels of a size (width, height). Second pictures
    (stereo, brightness maps) and signatures of the old pixels are left out."""
    kept = b""
    for marker, content in segments(data):
        if marker == 0xE1 and content.startswith(_EXIF):
            try:
                content = ifd.corrected(content, size)
            except ValueError:
                continue  # broken: what it says of the orientation could not be corrected
        elif marker == 0xE1 and content.startswith((_XMP, _MORE_XMP)):
            content = corrected_xmp(content)
        elif not (
            (marker == 0xE2 and content.startswith(_ICC) and with_profile)
            or (marker == 0xED and content.startswith(_PHOTOSHOP))
            or marker == _COMMENT
        ):
            continue
        kept += bytes((0xFF, marker)) + (len(content) + 2).to_bytes(2, "big") + content
    return kept


def with_segments(plain: bytes, kept: bytes) -> bytes:
    """A JPEG of Pillow's with segments of another: after its own JFIF header, which has to be the first."""
    at = 2
    if plain[2:4] == b"\xff\xe0":
        at = 4 + int.from_bytes(plain[4:6], "big")
    return plain[:at] + kept + plain[at:]
