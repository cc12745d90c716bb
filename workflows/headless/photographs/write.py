"""A photograph's new pixels in its own format, with all that its file carries."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ....models.errors import UserError
from ....models.files import read_text
from ....models.pictures import memory_limit
from . import ifd, jpeg, png, tiff
from .source import Photograph, levels
from .xmp import corrected as corrected_xmp

QUALITY = 95
"""Of JPEG and of lossy WebP, of 100. JPEG's colours are kept at full resolution."""

_WIDEST = {"JPEG": 65535, "WEBP": 16383}
"""Pixels of a side that a format can hold."""


def encode(photograph: Photograph, image: torch.Tensor, path: Path) -> list[str]:
    """Writes an image [H, W, 1, 3 or 4] in 0..1 in the place of a photograph's pixels; notes on what is not kept.

    A fourth channel is alpha; without one the photograph's own alpha is kept, if the size is the same.
    path  written as it is, whatever its suffix; half a file may remain if that fails

    UserError for values that are not numbers and for sides that the format cannot hold; OSError as writing raises it.
    """
    pixels, notes = _pixels(photograph, image)
    height, width = pixels.shape[:2]
    widest = _WIDEST.get(photograph.format, 2**31 - 1)
    if max(height, width) > widest:
        raise UserError(
            f"The result is {width} x {height} pixels, and {photograph.format} holds sides of at most {widest}. "
            "Save the photograph as PNG or TIFF, or scale the result down."
        )
    _WRITERS[photograph.format](photograph, pixels, path, notes)
    return notes


def _pixels(photograph: Photograph, image: torch.Tensor) -> tuple[np.ndarray[Any, Any], list[str]]:
    """[H, W, 3 or 4] of uint8 or uint16, and what is not kept."""
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4):
        raise UserError(f"The result is {list(image.shape)}, and a picture is [height, width, 1, 3 or 4].")
    pixels = levels(image, photograph.bits)
    if pixels.shape[2] == 1:
        pixels = pixels.repeat(3, axis=2)
    if photograph.format == "JPEG":
        return np.ascontiguousarray(pixels[..., :3]), []
    if photograph.alpha is None or pixels.shape[2] == 4:
        return pixels, []
    if photograph.alpha.shape != pixels.shape[:2]:
        return pixels, ["its alpha channel is not kept, because the result has another size"]
    return np.concatenate([pixels, photograph.alpha[..., None]], axis=2), []


def _jpeg(photograph: Photograph, pixels: np.ndarray[Any, Any], path: Path, notes: list[str]) -> None:
    from PIL import Image

    kept = jpeg.carried(_content(photograph.path), (pixels.shape[1], pixels.shape[0]), photograph.has_profile)
    buffer = io.BytesIO()
    more = {"dpi": photograph.details["dpi"]} if "dpi" in photograph.details else {}
    progressive = bool(photograph.details.get("progressive"))
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY, subsampling=0, progressive=progressive, **more)
    path.write_bytes(jpeg.with_segments(buffer.getvalue(), kept))


def _png(photograph: Photograph, pixels: np.ndarray[Any, Any], path: Path, notes: list[str]) -> None:
    from PIL import Image

    size = (pixels.shape[1], pixels.shape[0])
    kept = png.carried(_content(photograph.path), size, photograph.has_profile, photograph.turned)
    if photograph.bits == 16:
        with path.open("wb") as file:
            png.write_deep(file, pixels, kept)
        return
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=png.LEVEL)
    path.write_bytes(png.with_chunks(buffer.getvalue(), kept))


def _tiff(photograph: Photograph, pixels: np.ndarray[Any, Any], path: Path, notes: list[str]) -> None:
    try:
        order, tags = tiff.carried(photograph.path, photograph.has_profile)
    except ValueError:
        notes.append("its EXIF, XMP and profile are not kept, because its directory is broken or a BigTIFF's")
        order, tags = "<", {}
    if isinstance(packet := tags.get(tiff.XMP), tuple):
        tags[tiff.XMP] = (*packet[:2], corrected_xmp(packet[2]))
    with path.open("wb") as file:
        tiff.write(file, pixels, tags, order, photograph.details.get("compression", "raw") != "raw")


def _webp(photograph: Photograph, pixels: np.ndarray[Any, Any], path: Path, notes: list[str]) -> None:
    from PIL import Image

    more: dict[str, Any] = {}
    if photograph.has_profile:
        more["icc_profile"] = photograph.details["icc_profile"]
    if "exif" in photograph.details:
        try:
            more["exif"] = ifd.corrected(photograph.details["exif"], (pixels.shape[1], pixels.shape[0]))
        except ValueError:
            notes.append("its EXIF is broken and not kept")
    if isinstance(photograph.details.get("xmp"), bytes):
        more["xmp"] = corrected_xmp(photograph.details["xmp"])
    lossless = _is_lossless(_content(photograph.path))
    Image.fromarray(pixels).save(
        path, "WEBP", lossless=lossless, quality=80 if lossless else QUALITY, exact=True, **more
    )


def _is_lossless(data: bytes) -> bool:
    """Whether a WebP's pixels are in a VP8L chunk."""
    at = 12
    while at + 8 <= len(data):
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if name in (b"VP8L", b"VP8 "):
            return name == b"VP8L"
        at += 8 + size + size % 2
    return False


def _content(path: Path) -> bytes:
    return read_text(path, int(memory_limit()))


_WRITERS = {"JPEG": _jpeg, "PNG": _png, "TIFF": _tiff, "WEBP": _webp}
