"""Where to change an image for an instruction: its objects by one of four groundings (`masks`), or the user's own mask;
feathered, checked for what the user should know, and drawn over the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from .. import host
from ..diffusion import engine
from ..errors import UserError
from ..tensors.batch import repeat_to_batch
from ..tensors.masks import sized_mask
from . import masks
from .instruction import Instruction
from .words import article

OWN_MASK = "your mask"
"""The grounding of a mask that the user gave."""


@dataclass(frozen=True)
class Grounded:
    """An instruction and its place in images.

    mask       [B, 1, H, W] in 0..1, on the CPU
    by         one of `masks.GROUNDINGS`, or `OWN_MASK`
    warnings   what the user should know of instruction and mask
    unchecked  objects that nobody has looked for in the image
    """

    instruction: Instruction
    mask: torch.Tensor
    by: str
    warnings: list[str]
    unchecked: list[str]

    def overlay(self, image: torch.Tensor, label: str) -> torch.Tensor:
        """Images [B, 3, H, W] with the mask over them; below, the warnings, the emotion's label, the changes and the
        target prompt -> [B, 3, H + foot, W]."""
        changes = ", ".join(f"{c.attribute} {c.name}".strip() for c in self.instruction.objects) or "everything"
        text = f"{label}: {changes}. {self.instruction.target_prompt}"
        return masks.overlay(image.cpu(), self.mask, " ".join([*(f"! {w}" for w in self.warnings), text]))

    def to_json(self) -> dict[str, Any]:
        """Plain values: the instruction's, and those of the mask."""
        return (
            self.instruction.to_json()
            | masks.describe(self.instruction.objects, self.mask)
            | {"grounding": self.by, "warnings": self.warnings, "unchecked": self.unchecked}
        )


@torch.no_grad()
def ground(
    image: torch.Tensor,
    instruction: Instruction,
    by: str,
    feather: int = 0,
    own: torch.Tensor | None = None,
    model: Any = None,
    clip: Any = None,
    vae: Any = None,
) -> Grounded:
    """The mask of an instruction's objects in images [B, 3, H, W].

    by       one of `masks.GROUNDINGS`; without objects the mask covers everything
    feather  pixels over which the mask fades out
    own      a mask [.., h, w] that takes the place of any grounding
    model, clip, vae  the sockets' diffusion model, which grounding by attention looks into

    Warnings are also given to the host as notes. UserError where the grounding lacks what it needs.
    """
    h, w = image.shape[-2:]
    names, each, doubts = [c.name for c in instruction.objects], None, []
    unchecked: list[str] = []
    if own is not None:
        host.current().note(f"Your mask is taken, and the grounding by {by} has no effect.")
        mask, by = sized_mask(own, image), OWN_MASK
    elif not names:
        mask = torch.ones(1, 1, h, w)
        if instruction.provider != "rules":  # which do so by design
            doubts = [
                f"{instruction.provider} names no object to change: the mask covers everything. Name objects, or "
                "connect a mask of your own."
            ]
    elif by == "attention":
        maps = attended(model, clip, vae, image, instruction.source_prompt, names)
        mask = F.interpolate(masks.attention_mask(maps, image.cpu()), size=(h, w), mode="nearest")
    elif by == "clipseg":
        each = masks.clipseg_mask(image, names)
        mask = each.amax(dim=1, keepdim=True)
    elif by == "boxes":
        mask = masks.box_mask(instruction.objects, h, w)
    else:
        mask = masks.saliency_mask(image)
    mask = repeat_to_batch(masks.feathered(mask.cpu(), feather), len(image))
    doubts += masks.doubts(mask, instruction.objects, by, own, each)
    for doubt in doubts:  # the MLLM has given its own warning already
        host.current().note(doubt)
    if instruction.provider == "rules" and by == "attention" and names:
        unchecked = names
        host.current().note(
            "Rules do not look at the image, and attention finds a place for any word: nobody checked that it "
            f"shows {' and '.join(map(article, unchecked))}. Look at the overlay."
        )
    return Grounded(instruction, mask, by, [*filter(None, [instruction.warning]), *doubts], unchecked)


def attended(
    model: Any, clip: Any, vae: Any, image: torch.Tensor, prompt: str, names: list[str], seed: int = 0
) -> torch.Tensor:
    """[B, G + 1, h, w] on the CPU: where a diffusion model (the sockets' MODEL, CLIP and VAE) looks for each of the G
    names in a prompt that describes the images [B, 3, H, W], and (last) for any of the prompt's words. UserError where
    one of the three is None, or a name does not occur in the prompt."""
    missing = [name for name, part in (("model", model), ("clip", clip), ("vae", vae)) if part is None]
    if missing:
        raise UserError(
            f"Grounding by attention looks into the diffusion model: connect {', '.join(missing)}, or choose "
            "another grounding."
        )
    columns = [*(masks.token_columns(prompt, name) for name in names), masks.word_columns(prompt)]
    here = engine(model)
    latent = here.encode_image(vae, image.movedim(1, -1))
    return masks.cross_attention_maps(model, here.encode_text(clip, prompt), latent, columns, seed)
