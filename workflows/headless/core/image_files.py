"""Image files to tensors: every format, depth and orientation as what it shows, and a note where that took a
turn."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Iterator

import numpy as np
import torch

from ....models.errors import UserError
from ....models.files import safe_join
from ....models.host import current

EXAMPLES = Path(__file__).parents[2] / "examples"

NO_MASK = (64, 64)
"""The size of the empty MASK that ComfyUI gives for an image without alpha channel."""


def find_image(name: str) -> Path:
    """The file that a LoadImage names: inside the input folder, or, with ComfyUI's endings ' [output]' and
    ' [temp]', inside those. UserError where it leaves its folder or is not there."""
    host = current()
    roots = {"input": host.input_dir, "output": host.output_dir, "temp": host.temp_dir}
    match = re.fullmatch(r"(.*?) ?\[(input|output|temp)\]", name)
    text, root = (match.group(1), roots[match.group(2)]) if match else (name, roots["input"])
    path = safe_join(root, text)
    if not path.is_file() and root == roots["input"] and (EXAMPLES / Path(text).name).is_file() and "/" not in text:
        return EXAMPLES / text  # the templates' photograph, which ComfyUI's own input folder has too
    if not path.is_file():
        raise UserError(f"There is no image '{text}' in the folder {root}. Put it there, or name the folder "
                        "that holds it with --input-dir.")
    return path


def list_images() -> list[str]:
    """Names of the images directly in the input folder, sorted."""
    from PIL import Image

    Image.init()
    folder = current().input_dir
    if not folder.is_dir():
        return []
    return sorted(p.name for p in folder.iterdir() if p.is_file() and p.suffix.lower() in Image.EXTENSION)


def verify(path: Path) -> None:
    """Decodes the file whole and throws the result away. UserError where it is cut off or no image."""
    for _ in _frames(path):
        pass


def _frames(path: Path) -> Iterator[Any]:
    from PIL import Image, ImageSequence

    try:
        with Image.open(path) as image:
            for frame in ImageSequence.Iterator(image):
                frame.load()
                yield frame
    except Image.DecompressionBombError as error:
        raise UserError(f"The image '{path.name}' is too large to be opened safely: {error}") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise UserError(f"The image '{path.name}' cannot be read: {error}. It is cut off or no image; export "
                        "or download it again.") from error


def read_image(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """(image [N, H, W, 3] in 0..1, mask [N, H, W], 1 where transparent); N > 1 for animations.

    Turned upright by EXIF; 16 bits keep their range; CMYK and palettes become RGB. Without an alpha channel
    the mask is zeros of 64 x 64, as ComfyUI's.
    """
    images, masks, first = [], [], None
    for frame in _frames(path):
        if images and frame.format == "MPO":
            break  # the second picture of a stereo photograph is no animation
        frame = upright(frame)
        pixels, alpha = _pixels(frame, path.name)
        first = pixels.shape if first is None else first
        if pixels.shape != first:
            continue
        images.append(pixels)
        masks.append(torch.zeros(NO_MASK) if alpha is None else 1.0 - alpha)
    _say_how(path)
    return torch.stack(images), torch.stack(masks)


def upright(image: Any) -> Any:
    """The image turned as its EXIF orientation says."""
    from PIL import ImageOps

    return ImageOps.exif_transpose(image)


def _pixels(image: Any, name: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    """([H, W, 3], alpha [H, W] or None), both in 0..1."""
    if image.mode.startswith("I") or image.mode == "F":
        return _deep_grey(image, name), None
    alpha = None
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    if "A" in image.getbands():
        alpha = _unit(image.getchannel("A"))
    return _unit(image.convert("RGB")), alpha


def _deep_grey(image: Any, name: str) -> torch.Tensor:
    # Pillow's convert("RGB") would cut every 16-bit value over 255 off to white.
    values = np.asarray(image).astype(np.float32)
    if image.mode == "F":
        if not (np.isfinite(values).all() and values.min() >= 0.0 and values.max() <= 1.0):
            raise UserError(f"The image '{name}' holds floating point values outside 0..1. Save it as 8 or "
                            "16 bits.")
    else:
        values = values / 65535.0
    return torch.from_numpy(values.clip(0.0, 1.0))[..., None].repeat(1, 1, 3)


def _unit(image: Any) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image).astype(np.float32) / 255.0)


def _say_how(path: Path) -> None:
    from PIL import Image

    said = []
    with Image.open(path) as image:
        if image.getexif().get(0x0112, 1) not in (0, 1):
            said.append("turned upright as its EXIF says")
        if image.mode in ("CMYK", "YCCK"):
            said.append("converted from CMYK")
        if image.mode.startswith("I") or any(";16" in str(tile[3]) for tile in image.tile):
            said.append("converted from 16 bits")
        if "A" in image.getbands() or "transparency" in image.info:
            said.append("its alpha channel became the mask")
    if said:
        current().note(f"Image '{path.name}': {', '.join(said)}.")


def read_channel(path: Path, channel: str) -> torch.Tensor:
    """[1, H, W] in 0..1: one channel of the image; 'alpha' is inverted (1 where transparent), as
    ComfyUI's."""
    pixels, mask = read_image(path)
    if channel == "alpha":
        return mask[:1] if mask.shape[1:] == pixels.shape[1:3] else torch.zeros(1, *pixels.shape[1:3])
    return pixels[:1, :, :, ("red", "green", "blue").index(channel)]
