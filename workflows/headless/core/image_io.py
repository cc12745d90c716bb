"""LoadImage, LoadImageMask, SaveImage, PreviewImage."""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ....models.errors import UserError
from ....models.files import open_regular, safe_join
from ....models.host import current
from ....models.tensors.uint8 import truncated
from ..formats import png
from ..formats.text import fill_in
from . import image_files


def _content_hash(image: str) -> str:
    digest = hashlib.sha256()
    with open_regular(image_files.find_image(image)) as f:
        while piece := f.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


class _InputImage:
    """What both loaders have in common: an image of the input folder. A truncated file is refused before anything
    runs."""

    FUNCTION = "load_image"

    @classmethod
    def IS_CHANGED(cls, image: str, **_: Any) -> str:
        return _content_hash(image)

    @classmethod
    def VALIDATE_INPUTS(cls, image: str | None) -> bool:
        if image is not None:
            image_files.verify(image_files.find_image(image))
        return True


class LoadImage(_InputImage):
    """An image of the input folder and its transparency as a mask."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"image": (image_files.list_images(), {"image_upload": True})}}

    CATEGORY = "image"
    RETURN_TYPES = ("IMAGE", "MASK")
    DESCRIPTION = "Loads an image of the input folder. The mask is 1 where the image is transparent."

    def load_image(self, image: str) -> tuple[torch.Tensor, torch.Tensor]:
        return image_files.read_image(image_files.find_image(image))


class LoadImageMask(_InputImage):
    """One channel of an image of the input folder."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "image": (image_files.list_images(), {"image_upload": True}),
                "channel": (["alpha", "red", "green", "blue"],),
            }
        }

    CATEGORY = "mask"
    RETURN_TYPES = ("MASK",)
    DESCRIPTION = "Loads one channel of an image as a mask; alpha is inverted: 1 where it is transparent."

    def load_image(self, image: str, channel: str) -> tuple[torch.Tensor]:
        return (image_files.read_channel(image_files.find_image(image), channel),)


class _PngWriter:
    """What both savers have in common: PNGs, named as in ComfyUI, that carry the prompt and the workflow."""

    RETURN_TYPES = ()
    FUNCTION = "save_images"
    OUTPUT_NODE = True
    CATEGORY = "image"

    kind = "output"
    compress_level = 4

    def folder(self) -> Path:
        return current().output_dir

    def write(
        self, images: torch.Tensor, prefix: str, prompt: Any, extra_pnginfo: dict[str, Any] | None
    ) -> dict[str, Any]:
        from PIL import Image

        height, width = images[0].shape[:2]
        subfolder, name = _split(_fill_in(prefix, width, height))
        folder = safe_join(self.folder(), subfolder)
        counter = _next_counter(folder, name)
        saved = []
        for number, image in enumerate(images):
            pixels = Image.fromarray(_bytes(image))
            stem = name.replace("%batch_num%", str(number))
            # Another run may take the same number meanwhile: existing files are never overwritten.
            free = (folder / f"{stem}_{n:05}_.png" for n in itertools.count(counter))
            path = png.write_new(free, pixels, prompt, extra_pnginfo, self.compress_level)
            saved.append({"filename": path.name, "subfolder": subfolder, "type": self.kind})
            counter = int(path.stem.rsplit("_", 2)[1]) + 1
        return {"ui": {"images": saved}}


class SaveImage(_PngWriter):
    """PNGs in the output folder."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "images": ("IMAGE", {"tooltip": "The images to save."}),
                "filename_prefix": (
                    "STRING",
                    {
                        "default": "ComfyUI",
                        "tooltip": ("The start of the file's name; may hold folders, %date:yyyy-MM-dd%, %Node.input%."),
                    },
                ),
            },
            "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
        }

    DESCRIPTION = "Saves the images as PNGs in the output folder."

    def save_images(
        self,
        images: torch.Tensor,
        filename_prefix: str = "ComfyUI",
        prompt: Any = None,
        extra_pnginfo: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        return self.write(images, filename_prefix, prompt, extra_pnginfo)

    @classmethod
    def VALIDATE_INPUTS(cls, filename_prefix: str | None) -> bool:
        if filename_prefix is not None:
            subfolder, name = _split(_fill_in(filename_prefix, 0, 0))
            safe_join(safe_join(current().output_dir, subfolder), name)
        return True


class PreviewImage(_PngWriter):
    """PNGs in the temporary folder, under a name that is unique to this run."""

    kind = "temp"
    compress_level = 1

    def __init__(self) -> None:
        # A node may seed the global generator, and then previews of two runs would get the same name.
        self._unique = "".join(random.SystemRandom().choices("abcdefghijklmnopqrstuvwxyz", k=5))

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"images": ("IMAGE",)}, "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"}}

    DESCRIPTION = "Saves the images in the temporary folder."

    def folder(self) -> Path:
        return current().temp_dir

    def save_images(
        self, images: torch.Tensor, prompt: Any = None, extra_pnginfo: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        return self.write(images, f"ComfyUI_temp_{self._unique}", prompt, extra_pnginfo)


def _bytes(image: torch.Tensor) -> np.ndarray:
    """[H, W, C] in 0..1 -> uint8, some rows at a time to save memory. UserError for NaN and infinite values."""
    out = np.empty(image.shape, np.uint8)
    for top in range(0, len(image), 256):
        out[top : top + 256] = truncated(checked(image[top : top + 256]))
    return out


def checked(values: torch.Tensor) -> torch.Tensor:
    """The same values. UserError where they are NaN or infinite."""
    if not torch.isfinite(values).all():
        raise UserError(
            "The image holds values that are not numbers (NaN or infinity), which cannot be saved. Check the nodes "
            "that made it: a strength, a guidance or a weight may be far too high."
        )
    return values


def _split(prefix: str) -> tuple[str, str]:
    """(folder, name) of a filename_prefix. UserError if it has no name."""
    folder, name = os.path.split(os.path.normpath(prefix))
    if not prefix.strip() or name in ("", ".", ".."):
        raise UserError(
            f"The filename_prefix '{prefix}' does not name a file inside the output folder, or leaves its folder. Give "
            "it a name."
        )
    return folder, name


def _fill_in(prefix: str, width: int, height: int) -> str:
    """Replaces what ComfyUI's server replaces, and dates, which its frontend replaces before in a UI workflow."""
    now = datetime.now()
    values = {
        "width": str(width),
        "height": str(height),
        "year": str(now.year),
        "month": f"{now.month:02}",
        "day": f"{now.day:02}",
        "hour": f"{now.hour:02}",
        "minute": f"{now.minute:02}",
        "second": f"{now.second:02}",
    }
    for name, value in values.items():
        prefix = prefix.replace(f"%{name}%", value)
    return fill_in(prefix, lambda node, widget: (False, None), now)


def _next_counter(folder: Path, name: str) -> int:
    """One more than the highest counter of `name_00001_...` in the folder, with any number in the place of
    %batch_num%."""
    pattern = re.escape(os.path.normcase(name)).replace("%batch_num%", "[0-9]+") + "_([0-9]{1,18})(_|$)"
    names = os.listdir(folder) if folder.is_dir() else ()
    matches = (re.match(pattern, os.path.normcase(other)) for other in names)
    return max((int(match.group(1)) for match in matches if match), default=0) + 1


CLASSES = {"LoadImage": LoadImage, "LoadImageMask": LoadImageMask, "SaveImage": SaveImage, "PreviewImage": PreviewImage}
DISPLAY_NAMES = {
    "LoadImage": "Load Image",
    "LoadImageMask": "Load Image (as Mask)",
    "SaveImage": "Save Image",
    "PreviewImage": "Preview Image",
}
