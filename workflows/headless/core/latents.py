"""CLIPTextEncode, EmptyLatentImage, VAEEncode, VAEDecode, SetLatentNoiseMask: between words, pixels and latents."""

from __future__ import annotations

from typing import Any

import torch

from ....models.errors import UserError
from ....models.host import current
from ....models.pictures import opened
from ....models.tensors.masks import with_channel
from ....models.tensors.ranges import finite
from .image_files import find_image
from .images import MAX_RESOLUTION

Latent = dict[str, Any]
"""ComfyUI's LATENT: {"samples": [B, C, h, w], optionally "noise_mask", "batch_index"}."""


class CLIPTextEncode:
    """A prompt as CONDITIONING; weights and choices in the text are checked before anything runs."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "text": ("STRING", {"multiline": True, "dynamicPrompts": True, "tooltip": "The text to be encoded."}),
                "clip": ("CLIP", {"tooltip": "The text encoder."}),
            }
        }

    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "encode"
    CATEGORY = "conditioning"
    DESCRIPTION = (
        "Encodes a prompt; `(word:1.3)` weighs, `{a|b}` chooses, `embedding:name` is a file of models/embeddings. "
        "An empty text is allowed."
    )

    def encode(self, clip: Any, text: str) -> tuple[Any]:
        return (clip.encode(text),)

    @classmethod
    def VALIDATE_INPUTS(cls, text: str | None) -> bool:
        from ....models.diffusion.text import check

        check(text or "")
        return True


class EmptyLatentImage:
    """Zeros [batch, 4, height / 8, width / 8]; the sampler adapts them to the model's channels."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        size = {"default": 512, "min": 16, "max": MAX_RESOLUTION, "step": 8}
        return {
            "required": {
                "width": ("INT", {**size, "tooltip": "The width of the images in pixels."}),
                "height": ("INT", {**size, "tooltip": "The height of the images in pixels."}),
                "batch_size": ("INT", {"default": 1, "min": 1, "max": 4096, "tooltip": "How many images."}),
            }
        }

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "generate"
    CATEGORY = "latent"
    DESCRIPTION = "Empty latents to be filled by sampling. Sizes are rounded down to multiples of 8."

    def generate(self, width: int, height: int, batch_size: int = 1) -> tuple[Latent]:
        return ({"samples": torch.zeros(batch_size, 4, height // 8, width // 8)},)


class VAEEncode:
    """Images as the mode of the VAE's distribution, without random sampling."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"pixels": ("IMAGE",), "vae": ("VAE",)}}

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "encode"
    CATEGORY = "latent"
    DESCRIPTION = "Encodes images into latents, cropped at the centre to multiples of the VAE's factor."

    @classmethod
    def VALIDATE_LINKS(cls, prompt: dict[str, Any], inputs: dict[str, Any]) -> tuple[str, str] | None:
        """(input, what is wrong) if an image file that is linked directly is smaller than one latent cell, so that this
        is known before anything runs."""
        link = inputs.get("pixels")
        source = prompt.get(link[0], {}) if isinstance(link, list) and link else {}
        name = source.get("inputs", {}).get("image")
        if source.get("class_type") != "LoadImage" or not isinstance(name, str):
            return None
        try:
            with opened(find_image(name), decode=False) as image:
                w, h = image.size
        except UserError:
            return None  # reported at LoadImage
        return ("pixels", _too_small(w, h, _SMALLEST)) if min(w, h) < _SMALLEST else None

    def encode(self, pixels: torch.Tensor, vae: Any) -> tuple[Latent]:
        pixels = _crop_to_factor(pixels[..., :3], vae.factor)
        return ({"samples": finite(vae.encode(pixels.movedim(-1, 1)), "The VAE, encoding the image, gave")},)


_SMALLEST = 8  # the factor of every VAE that this host loads


def _too_small(w: int, h: int, factor: int) -> str:
    return (
        f"An image of {w} x {h} pixels is smaller than one latent cell ({factor} x {factor} pixels), so the VAE "
        "cannot encode it. Scale it up first, for example with ImageScale."
    )


def _crop_to_factor(image: torch.Tensor, factor: int) -> torch.Tensor:
    """[B, H, W, C] -> its centre, with sides that are multiples of `factor`."""
    h, w = image.shape[1:3]
    height, width = h // factor * factor, w // factor * factor
    if height == 0 or width == 0:
        raise UserError(_too_small(w, h, factor))
    if (height, width) != (h, w):
        current().note(
            f"VAEEncode: the image of {w} x {h} is cropped at its centre to {width} x {height}, multiples of {factor}."
        )
    y, x = (h % factor) // 2, (w % factor) // 2
    return image[:, y : y + height, x : x + width]


class VAEDecode:
    """Latents as images."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "samples": ("LATENT", {"tooltip": "The latent to be decoded."}),
                "vae": ("VAE", {"tooltip": "The VAE that decodes it."}),
            }
        }

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "decode"
    CATEGORY = "latent"
    DESCRIPTION = "Decodes latents back into images."

    def decode(self, vae: Any, samples: Latent) -> tuple[torch.Tensor]:
        latent = finite(samples["samples"], "The latent that comes into VAE Decode holds")
        return (finite(vae.decode(latent), "The VAE, decoding the latent, gave").movedim(1, -1).cpu(),)


class SetLatentNoiseMask:
    """The latent with a mask of what sampling may change."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"samples": ("LATENT",), "mask": ("MASK",)}}

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "set_mask"
    CATEGORY = "latent/inpaint"
    DESCRIPTION = "Sampling then changes the latent only where the mask is 1."

    def set_mask(self, samples: Latent, mask: torch.Tensor) -> tuple[Latent]:
        return ({**samples, "noise_mask": with_channel(mask)},)


CLASSES = {
    "CLIPTextEncode": CLIPTextEncode,
    "EmptyLatentImage": EmptyLatentImage,
    "VAEEncode": VAEEncode,
    "VAEDecode": VAEDecode,
    "SetLatentNoiseMask": SetLatentNoiseMask,
}
DISPLAY_NAMES = {
    "CLIPTextEncode": "CLIP Text Encode (Prompt)",
    "EmptyLatentImage": "Empty Latent Image",
    "VAEEncode": "VAE Encode",
    "VAEDecode": "VAE Decode",
    "SetLatentNoiseMask": "Set Latent Noise Mask",
}
