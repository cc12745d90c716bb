"""ImageScale."""

from __future__ import annotations

from typing import Any

import torch

from ....models.errors import UserError
from ....models.tensors.uint8 import from_uint8, truncated

MAX_RESOLUTION = 16384


class ImageScale:
    """Scales to a width and height; 0 for one of them keeps the aspect ratio, 0 for both the image."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        size = {"default": 512, "min": 0, "max": MAX_RESOLUTION, "step": 1}
        return {
            "required": {
                "image": ("IMAGE",),
                "upscale_method": (["nearest-exact", "bilinear", "area", "bicubic", "lanczos"],),
                "width": ("INT", size),
                "height": ("INT", dict(size)),
                "crop": (["disabled", "center"],),
            }
        }

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "upscale"
    CATEGORY = "image/upscaling"
    DESCRIPTION = "Scales images to a size; 'center' crops to the new aspect ratio first."

    def upscale(
        self, image: torch.Tensor, upscale_method: str, width: int, height: int, crop: str
    ) -> tuple[torch.Tensor]:
        if width == 0 and height == 0:
            return (image,)
        h, w = image.shape[1:3]
        width = width or max(1, round(w * height / h))
        height = height or max(1, round(h * width / w))
        if crop == "center":
            image = _crop_to_aspect(image, width / height)
        if upscale_method == "lanczos":
            return (_lanczos(image, width, height),)
        planes = image.movedim(-1, 1)
        planes = torch.nn.functional.interpolate(planes, size=(height, width), mode=upscale_method)
        return (planes.movedim(1, -1),)


def _crop_to_aspect(image: torch.Tensor, aspect: float) -> torch.Tensor:
    """[B, H, W, C] -> its centre of the aspect ratio width / height, rounded as ComfyUI rounds."""
    h, w = image.shape[1:3]
    x = round((w - w * (aspect / (w / h))) / 2) if w / h > aspect else 0
    y = round((h - h * ((w / h) / aspect)) / 2) if w / h < aspect else 0
    cropped = image[:, y : h - y, x : w - x]
    if 0 in cropped.shape:
        raise UserError(
            f"An image of {w} x {h} pixels leaves nothing when it is cropped to the aspect ratio "
            f"{aspect:.3g}. Set crop to 'disabled', or another size."
        )
    return cropped


def _lanczos(image: torch.Tensor, width: int, height: int) -> torch.Tensor:
    # Through Pillow and 8 bits, as in ComfyUI, so that the result is the same.
    from PIL import Image

    scaled = []
    for one in image:
        resized = Image.fromarray(truncated(one)).resize((width, height), resample=Image.Resampling.LANCZOS)
        scaled.append(torch.from_numpy(from_uint8(resized)))
    return torch.stack(scaled).to(image)


CLASSES = {"ImageScale": ImageScale}
DISPLAY_NAMES = {"ImageScale": "Upscale Image"}
