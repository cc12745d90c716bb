"""Batches as pure functions of the step, on the device."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from .data.pack import Pack


class Rows:
    """The arrays of one or several packs on a device, drawn at random by step.

    images [N, 3, S, S] uint8, emotions [N], tokens [N, K, 77]
    """

    def __init__(self, packs: list[Pack], device: torch.device | str, images: bool = True):
        join = lambda name: torch.from_numpy(np.concatenate([np.asarray(getattr(p, name)) for p in packs]))
        self.images = join("images").permute(0, 3, 1, 2).contiguous().to(device) if images else None
        self.emotions = join("emotions").to(device)
        self.tokens = join("tokens").long().to(device)
        self.device = torch.device(device)

    def __len__(self) -> int:
        return len(self.emotions)

    def draw(self, seed: int, step: int, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(row indices [n], caption variant of each [n]) of a step."""
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        rows = torch.randint(len(self), (n,), generator=generator)
        variants = torch.randint(self.tokens.shape[1], (n,), generator=generator)
        return rows.to(self.device), variants.to(self.device)

    def pictures(self, rows: torch.Tensor) -> torch.Tensor:
        """[n, 3, S, S] float in 0..1."""
        assert self.images is not None, "these rows were read without their images"
        return self.images[rows].float() / 255


def steps(rows: Rows, seed: int, n: int) -> Callable[[int], tuple[torch.Tensor, torch.Tensor]]:
    """The `batches` argument of `loop.fit`: step -> `rows.draw`, each process its own rows."""
    from accelerate import PartialState

    process = PartialState().process_index
    return lambda step: rows.draw(seed + 7919 * process, step, n)
