"""A photograph's file, read: its pixels for a workflow, and what is needed to write others in its place."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ....models.errors import UserError
from ....models.pictures import Unreadable, opened
from ..core import deep
from ..core.image_files import NO_MASK, read_pixels

FORMATS = {"JPEG": "JPEG", "MPO": "JPEG", "PNG": "PNG", "TIFF": "TIFF", "WEBP": "WEBP"}
"""The formats that are written, by Pillow's names of what was read."""


@dataclass
class Photograph:
    """What a file holds. `width` and `height` are those of the upright picture."""

    path: Path
    format: str
    bits: int
    width: int
    height: int
    has_profile: bool
    """Whether its colour profile describes RGB, and so the new pixels too."""
    turned: bool
    alpha: np.ndarray[Any, Any] | None
    """[H, W] of uint8 or uint16, after `bits`."""
    details: dict[str, Any] = field(default_factory=dict)
    """What Pillow says of it: resolution, compression, EXIF and XMP of a WebP."""
    notes: list[str] = field(default_factory=list)
    """What of it is not kept."""
    pixels: list[torch.Tensor] = field(default_factory=list)
    """Image [1, H, W, 3] in 0..1, upright, and mask [1, H, W], 1 where transparent; none once they are handed over."""

    def hand_over(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Image and mask, once: they are not kept here."""
        mask, image = self.pixels.pop(), self.pixels.pop()
        return image, mask


def read(path: Path) -> Photograph:
    """A photograph and what its file carries.

    UserError where it cannot be read, or where its format cannot be written again as it was.
    """
    with opened(path, every_frame=True) as image:
        if image.format not in FORMATS:
            raise Unreadable(
                path, f"pictures of the format {image.format} are not written", "Save it as JPEG, PNG, TIFF or WebP."
            )
        if image.mode == "F":
            raise Unreadable(path, "floating point pictures are not written", "Save it with 16 bits.")
        photograph = _described(path, image)
    pixels, mask = read_pixels(path, most=2)
    if len(pixels) > 1:
        raise UserError(f"The image '{path.name}' holds several pictures, and one is written. Save its frames apart.")
    photograph.height, photograph.width = pixels.shape[1:3]
    if mask.shape[1:] == pixels.shape[1:3] and (mask.shape[1:] != NO_MASK or mask.any()):
        photograph.alpha = levels(1.0 - mask[0], photograph.bits)
    photograph.pixels = [pixels, mask]
    return photograph


def _described(path: Path, image: Any) -> Photograph:
    profile = image.info.get("icc_profile") or b""
    has_profile = profile[16:20] == b"RGB "
    notes = []
    if image.mode in ("CMYK", "YCCK", "LAB"):
        notes.append(f"it was converted from {image.mode} to RGB")
    if profile and not has_profile:
        notes.append("its colour profile, which is not of RGB, is not kept")
    bits = 16 if deep.is_deep(image) else 8
    if bits == 16 and not image.mode.startswith("I") and not deep.kept_whole(image):
        notes.append("its 16 bits are read as 8")
    turned = image.getexif().get(0x0112, 1) not in (0, 1)
    details = {
        name: image.info.get(name)
        for name in ("dpi", "compression", "progressive", "exif", "xmp", "icc_profile")
        if image.info.get(name)
    }
    return Photograph(path, FORMATS[image.format], bits, 0, 0, has_profile, turned, None, details, notes)


def levels(values: torch.Tensor, bits: int) -> np.ndarray[Any, Any]:
    """Values in 0..1 of any shape -> uint8 or uint16, the nearest; what is out of range becomes 0 or the largest. Some
    rows at a time to save memory. UserError for NaN and infinite values."""
    from ..core.image_io import checked

    full, kind = (255, np.uint8) if bits == 8 else (65535, np.uint16)
    out = np.empty(values.shape, kind)
    for top in range(0, len(values), 256):
        rows = checked(values[top : top + 256]).detach().float().cpu() * full
        out[top : top + 256] = rows.round_().clamp_(0, full).numpy()
    return out
