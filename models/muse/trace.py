"""What happened in a run: for plots, JSON and the user's trust."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import torch

from ..emotions import MIKELS, EmotionTarget
from ..errors import UserError
from .tokens import EmotionTokens


@dataclass
class TraceCall:
    """One model call of a run. Lists run over the images of the batch; `losses` has one such list an evaluation. An
    image whose gate is closed has None in `losses`, `before` and `after`."""

    call: int
    step: int
    sigma: float
    gate_score: list[float] | None = None
    open: list[bool] = field(default_factory=list)
    learning_rate: float = 0.0
    losses: list[list[float | None]] = field(default_factory=list)
    before: list[list[float] | None] | None = None
    after: list[list[float] | None] | None = None

    @property
    def inner_steps(self) -> int:
        return max(0, len(self.losses) - 1)


@dataclass
class Trace:
    """What happened in a run: for plots, JSON and the user's trust. Lists run over the images of the batch."""

    emotions: list[EmotionTarget]
    threshold: float | None
    calls: list[TraceCall] = field(default_factory=list)
    opened_at: list[int | None] = field(default_factory=list)
    inherent: list[str | None] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain values; probabilities in the order of `emotions.MIKELS`."""
        return {
            "emotions": list(MIKELS),
            "target": [e.distribution for e in self.emotions],
            "label": [e.label for e in self.emotions],
            "intensity": [e.intensity for e in self.emotions],
            "threshold": self.threshold,
            "opened_at_step": self.opened_at,
            "inherent": self.inherent,
            "notes": self.notes,
            "calls": [vars(c) | {"inner_steps": c.inner_steps} for c in self.calls],
        }


class TraceStore:
    """The last eight (trace, tokens) by the hash of the latent they led to: a host caches and shares objects, so a
    later node finds its run by its latent."""

    def __init__(self, size: int = 8):
        self._runs: OrderedDict[str, tuple[Trace, EmotionTokens]] = OrderedDict()
        self._size = size

    @staticmethod
    def key(latent: torch.Tensor) -> str:
        return hashlib.sha256(latent.detach().cpu().contiguous().float().numpy().tobytes()).hexdigest()

    def put(self, latent: torch.Tensor, trace: Trace, tokens: EmotionTokens) -> None:
        self._runs[self.key(latent)] = (trace, tokens)
        while len(self._runs) > self._size:
            self._runs.popitem(last=False)

    def get(self, latent: torch.Tensor) -> tuple[Trace, EmotionTokens]:
        """UserError where no kept run led to this latent."""
        run = self._runs.get(self.key(latent))
        if run is None:
            raise UserError(
                "There is no trace for this latent: connect the sampler's first output (not denoised_output, and "
                "before any change) and the guider that it used. The last eight runs of a guider are kept."
            )
        return run
