"""WHEN guidance starts: the gate's settings (section IV-B, equations 9 and 10). `run` asks it at each step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import UserError

ESTIMATES = ("one_step", "full")
"""What the gate judges (`TimingGate.estimate`)."""


@dataclass(frozen=True)
class TimingGate:
    """The TIMING_GATE socket: when emotional guidance starts (section IV-B).

    scorer        a `clip.ClipScorer`
    prompt        the text that the image must come to fit; or several, which the images of a batch take in turn
    threshold     eta: opens at a score of at least this, on published CLIP's scale (18 is the paper's best)
    estimate      "one_step": the denoiser's own clean prediction is judged, under the text alone: guidance pushes it to
                  fit from the first step on, and would tell nothing. "full": the remaining steps are walked by Euler
                  without tokens first, as the paper writes; under a deterministic sampler that always ends in the same
                  image, so the gate opens at once or never.
    force_open_at share of the steps after which it opens whatever the score; 1 never forces
    """

    scorer: Any
    prompt: str | tuple[str, ...]
    threshold: float = 18.0
    estimate: str = "one_step"
    force_open_at: float = 1.0

    def __post_init__(self) -> None:
        if not all(text.strip() for text in self.prompts):
            raise UserError("The timing gate's prompt is empty: write what the image shows, as in the positive prompt.")
        if self.estimate not in ESTIMATES:
            raise UserError(f"The gate's estimate is {' or '.join(ESTIMATES)}, not '{self.estimate}'.")

    @property
    def prompts(self) -> tuple[str, ...]:
        return (self.prompt,) if isinstance(self.prompt, str) else self.prompt
