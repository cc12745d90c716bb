"""Short batches."""

from __future__ import annotations

import torch


def repeat_to_batch(t: torch.Tensor, n: int) -> torch.Tensor:
    """[m, ...] -> [n, ...]: rows in turn, as ComfyUI repeats a short batch."""
    return t if len(t) == n else t[[i % len(t) for i in range(n)]]
