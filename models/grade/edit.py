"""An edit, by whatever editor, brought back to its source's own pixels as a grade."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ..tensors.resize import resized
from .align import Placement, find_placement
from .cube import place_share
from .fit import fit_grade
from .grid import Grid


@dataclass(frozen=True)
class Returned:
    """What an edit came to.

    grade      it, as far as a grade can say it
    residual   [B, 3, h, w] at the edits' own size: the edit less the graded source, where there is some of both
    placement  where each edit was found
    expressed  0..1: the share of the edit's change (sum of squares) that the grade holds
    """

    grade: Grid
    residual: torch.Tensor
    placements: list[Placement]
    expressed: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "expressed": round(self.expressed, 4),
            "differs_by_place": round(place_share(self.grade), 4),
            "vertices": list(self.grade.coefficients.shape[1:]),
            "placements": [
                {
                    "scale": [round(v, 4) for v in p.scale],
                    "shift": [round(v, 4) for v in p.shift],
                    "edge_correlation": round(p.correlation, 3),
                    "edge_correlation_before": round(p.before, 3),
                }
                for p in self.placements
            ],
        }


def grade_from_edit(
    source: torch.Tensor,
    edited: torch.Tensor,
    detail: float = 0.5,
    align: bool = True,
    mask: torch.Tensor | None = None,
    note: str = "",
) -> Returned:
    """One grade for pictures [B, 3, H, W] and their edits [B, 3, *, *], both in 0..1. Of several pairs it is the grade
    that suits all of them, so that a series keeps one.

    detail  as in `fit_grade`
    align   whether the edits are looked for: they may be moved and scaled by some percent. UserError where one is not
            an edit of its source (`find_placement`)
    mask    [1, 1, H, W]: only pixels inside count
    """
    h, w = min(source.shape[2], edited.shape[2]), min(source.shape[3], edited.shape[3])
    placements, placed, inside = [], [], []
    for one, its_edit in zip(source.split(1), edited.split(1)):
        place = find_placement(one, its_edit) if align else Placement()
        there, covered = place.warp(its_edit.float(), h, w)
        placements.append(place)
        placed.append(there)
        inside.append(covered)
    small, moved, weight = resized(source.float(), h, w), torch.cat(placed), torch.cat(inside)
    if mask is not None:
        weight = weight * resized(mask.to(weight), h, w)
    grade = fit_grade(small, moved, detail, weight, note)
    residual = (moved - grade.slice(small).clamp(0, 1)) * weight
    change = ((moved - small) * weight).square().sum()
    expressed = 1 - float(residual.square().sum() / change.clamp(min=1e-12)) if float(change) > 1e-6 else 1.0
    return Returned(grade, residual, placements, max(0.0, expressed))
