"""Where a change is made: on a picture's pixels, as the papers do, or on a photograph's grade."""

from __future__ import annotations

import torch

from ..errors import UserError
from ..tensors.resize import fitted, resized
from .edit import grade_from_edit
from .grid import Grid

SURFACES = ("auto", "photograph", "pixels")
"""auto: a photograph's where the picture is larger than `LARGEST_DRAWING`."""

LARGEST_DRAWING = 256
"""Pixels of the longer side up to which a picture counts as a drawing that may be repainted."""

FRAMES = 4
"""Pictures of a series that its one grade is found from."""

FITTED = 512
"""Pixels of the longer side at which the grade of a change is looked for."""


def is_photograph(surface: str, image: torch.Tensor) -> bool:
    """Whether the change of images [B, 3, H, W] is made on a grade. UserError where `surface` is not of `SURFACES`."""
    if surface not in SURFACES:
        raise UserError(f"There is no surface '{surface}'. Choose from: {', '.join(SURFACES)}.")
    return surface == "photograph" or (surface == "auto" and max(image.shape[-2:]) > LARGEST_DRAWING)


def some_frames(series: torch.Tensor) -> torch.Tensor:
    """At most `FRAMES` of [B, ...], evenly spread from the first to the last."""
    return series[torch.linspace(0, len(series) - 1, min(FRAMES, len(series))).round().long().to(series.device)]


def grade_of_change(
    before: torch.Tensor, after: torch.Tensor, mask: torch.Tensor | None = None, note: str = ""
) -> Grid:
    """The grade that comes nearest to a change of pixels, [B, 3, H, W] in 0..1 both; inside `mask` [1 or B, 1, H, W]
    alone. The identity where the mask is empty."""
    if mask is not None and not bool((mask > 0).any()):
        return Grid.identity()
    size = fitted(before.shape[-2:], FITTED)
    small = [resized(t.detach().float().cpu(), *size) for t in (before, after)]
    where = None if mask is None else resized(mask.detach().float().cpu(), *size)
    return grade_from_edit(small[0], small[1], align=False, mask=where, note=note).grade
