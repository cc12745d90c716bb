"""Image files to tensors: every format, depth and orientation as it is meant to look, with a note if the image was
converted."""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ....models.errors import UserError
from ....models.files import find_inside, open_regular
from ....models.host import current
from ....models.pictures import SUFFIXES, frames, opened, upright
from .deep import deep_colour, is_deep, kept_whole

EXAMPLES = Path(__file__).parents[2] / "examples"

NO_MASK = (64, 64)
"""The size of the empty MASK that ComfyUI gives for an image without an alpha channel."""


def find_image(name: str) -> Path:
    """The file that a LoadImage names: inside the input folder, or, with ComfyUI's suffixes ' [output]' and ' [temp]',
    inside those. UserError if it leaves its folder or does not exist."""
    host = current()
    roots = {"input": host.input_dir, "output": host.output_dir, "temp": host.temp_dir}
    match = re.fullmatch(r"(.*?) ?\[(input|output|temp)\]", name)
    text, root = (match.group(1), roots[match.group(2)]) if match else (name, roots["input"])
    path = find_inside(root, text)
    if not path.is_file() and root == roots["input"] and (EXAMPLES / Path(text).name).is_file() and "/" not in text:
        return EXAMPLES / text  # the templates' photograph, which ComfyUI's own input folder has too
    if not path.is_file():
        raise UserError(
            f"There is no image '{text}' in the folder {root}. Put it there, or name the folder that has it with "
            "--input-dir."
        )
    return path


def list_images() -> list[str]:
    """Names of the images directly in the input folder, sorted."""
    folder = current().input_dir
    if not folder.is_dir():
        return []
    return sorted(p.name for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())


def verify(path: Path) -> None:
    """Decodes the whole file, once as long as it does not change. UserError if it is truncated, not an image or too
    large."""
    with open_regular(path) as file:
        status = os.fstat(file.fileno())
    _decode(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _decode(path: Path, size: int, time: int) -> None:
    for _ in frames(path):
        pass


def read_image(path: Path, most: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """`read_pixels`, with a note to the user where the image was converted."""
    pixels = read_pixels(path, most)
    _note_conversions(path)
    return pixels


def read_pixels(path: Path, most: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """(image [N, H, W, 3] in 0..1, mask [N, H, W], 1 where transparent); N > 1 for animations.

    Turned upright by EXIF; 16 bits are kept; CMYK and palettes become RGB. Without an alpha channel the mask is zeros
    of 64 x 64, as in ComfyUI. UserError if the file cannot be read.

    most  the most frames to read; None for all
    """
    deep = deep_colour(path)
    if deep is not None:
        mask = _unit(deep[..., 3]).neg_().add_(1.0) if deep.shape[2] == 4 else torch.zeros(NO_MASK)
        return _unit(deep[..., :3])[None], mask[None]
    images: list[torch.Tensor] = []
    masks: list[torch.Tensor] = []
    for frame in frames(path):
        pixels, alpha = _pixels(upright(frame), path)
        if images and pixels.shape != images[0].shape:
            continue
        images.append(pixels)
        masks.append(torch.zeros(NO_MASK) if alpha is None else alpha.neg_().add_(1.0))
        if len(images) == most:
            break
    return _stacked(images), _stacked(masks)


def _stacked(parts: list[torch.Tensor]) -> torch.Tensor:
    """`torch.stack` that empties the list meanwhile, so that not everything is in memory twice."""
    if len(parts) == 1:
        return parts.pop()[None]
    out = torch.empty(len(parts), *parts[0].shape)
    for i in reversed(range(len(parts))):
        out[i] = parts.pop()
    return out


def _pixels(image: Any, path: Path) -> tuple[torch.Tensor, torch.Tensor | None]:
    """([H, W, 3], alpha [H, W] or None), both in 0..1."""
    alpha = _alpha(image, path)
    if image.mode.startswith("I") or image.mode == "F":
        return _deep_grey(image, path.name), alpha
    if image.mode == "LAB":
        image = _from_lab(image)
    return _unit(image if image.mode == "RGB" else image.convert("RGB")), alpha


def _alpha(image: Any, path: Path) -> torch.Tensor | None:
    """[H, W] in 0..1, 0 where transparent: the alpha channel, or the single colour that a PNG's tRNS chunk (or a GIF)
    makes transparent."""
    if image.mode in _WITH_ALPHA:
        return _unit(image.getchannel("A"))
    key = image.info.get("transparency")
    if key is None:
        return None
    if isinstance(key, int) and image.mode[0] in "LI":
        if image.mode == "L":
            # Pillow scales grey of 2 and 4 bits to 0..255, but not the key.
            key = key * 255 // (2 ** _grey_bits(path) - 1)
        return torch.from_numpy(np.asarray(image) != key).float()
    return _unit(image.convert("RGBA").getchannel("A"))


_WITH_ALPHA = ("LA", "PA", "RGBA")
"""Modes whose band A is alpha; LAB's band A is a colour."""


def _grey_bits(path: Path) -> int:
    """Bits per pixel of a grey image of at most 8 bits, from a PNG's first chunk; 8 for other formats."""
    with path.open("rb") as f:
        head = f.read(25)
    return head[24] if head.startswith(b"\x89PNG") else 8


def _from_lab(image: Any) -> Any:
    from PIL import ImageCms

    lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.applyTransform(image, ImageCms.buildTransform(lab, rgb, "LAB", "RGB"))


def _deep_grey(image: Any, name: str) -> torch.Tensor:
    # Pillow's convert("RGB") would clip every 16-bit value above 255 to white.
    values = np.asarray(image).astype(np.float32)
    if image.mode == "F":
        if not (np.isfinite(values).all() and values.min() >= 0.0 and values.max() <= 1.0):
            raise UserError(f"The image '{name}' holds floating point values outside 0..1. Save it as 8 or 16 bits.")
    else:
        values = values / 65535.0
    return torch.from_numpy(values.clip(0.0, 1.0))[..., None].repeat(1, 1, 3)


def _unit(image: Any) -> torch.Tensor:
    """[H, W] or [H, W, C] in 0..1 of an image of 8 bits, or of uint16 values. Some rows at a time: a copy of a whole
    photograph for each step would take several times the memory of the result."""
    if isinstance(image, np.ndarray):
        return torch.from_numpy(np.divide(image, np.float32(65535), dtype=np.float32))
    bands = len(image.getbands())
    out = np.empty((image.height, image.width) if bands == 1 else (image.height, image.width, bands), np.float32)
    for top in range(0, image.height, 256):
        rows = np.asarray(image.crop((0, top, image.width, min(top + 256, image.height))))
        np.divide(rows, np.float32(255), out=out[top : top + 256])
    return torch.from_numpy(out)


def _note_conversions(path: Path) -> None:
    notes = []
    with opened(path, decode=False) as image:
        if image.getexif().get(0x0112, 1) not in (0, 1):
            notes.append("turned upright as its EXIF says")
        if image.mode in ("CMYK", "YCCK"):
            notes.append("converted from CMYK")
        if is_deep(image):
            notes.append(
                "converted from 16 bits" + ("" if image.mode.startswith("I") or kept_whole(image) else " to 8")
            )
        if image.mode == "LAB":
            notes.append("converted from LAB")
        if image.mode in _WITH_ALPHA:
            notes.append("its alpha channel became the mask")
        elif "transparency" in image.info:
            notes.append("its transparent colour became the mask")
    if notes:
        current().note(f"Image '{path.name}': {', '.join(notes)}.")


def read_channel(path: Path, channel: str) -> torch.Tensor:
    """[1, H, W] in 0..1: one channel of the image; 'alpha' is inverted (1 where transparent), as in ComfyUI."""
    pixels, mask = read_image(path, most=1)
    if channel == "alpha":
        return mask[:1] if mask.shape[1:] == pixels.shape[1:3] else torch.zeros(1, *pixels.shape[1:3])
    return pixels[..., ("red", "green", "blue").index(channel)].clone()
