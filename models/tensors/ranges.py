"""Values out of range: clamped with gradients, or refused."""

from __future__ import annotations

from typing import Any

import torch

from ..errors import UserError


class _ClampKeepingGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clamp(0.0, 1.0)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient


def clamp01(x: torch.Tensor) -> torch.Tensor:
    """Clamps to 0..1 with the identity's gradient, so that a saturated pixel can still change."""
    return _ClampKeepingGradient.apply(x)


def finite(values: torch.Tensor, what: str) -> torch.Tensor:
    """The tensor itself. UserError where it holds NaN or infinity, which would spread, and end in a black picture.

    what  the network and the place, for the message: "The model, in step 3 of 20, gave"
    """
    if not torch.isfinite(values.detach()).all():
        raise UserError(
            f"{what} values that are not numbers (NaN or infinity). Its file may be damaged; or the guidance (cfg), a "
            "LoRA's strength or a prompt's weight is far too high."
        )
    return values
