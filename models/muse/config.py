"""MUSE's settings."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import UserError


@dataclass(frozen=True)
class MuseConfig:
    """The paper's settings (section V-A), and the number of tokens and inner steps, which it does not give.

    views           the classifier's answer inside the loop is the mean over this many random views of the image
                    (expectation over transformation, Athalye et al. 2018); 0 shows it the image itself, as the paper
                    does. With views an image convinces classifiers that did not guide it far more often.
    content_weight  weight of what the image loses of its fit to the gate's prompt (CLIP cosine) against the plain
                    prediction of the same step; 0 leaves the term out, as the paper does. The gate holds scorer and
                    prompt: without a gate the term is left out.
    """

    cfg: float = 7.5
    n_tokens: int = 4
    learning_rate: float = 0.01
    max_inner_steps: int = 20
    stop_loss: float = 1e-4
    inherent_weight: float = 0.0005
    similar_weight: float = 0.0015
    seed: int = 0
    views: int = 2
    content_weight: float = 5.0

    def __post_init__(self) -> None:
        for name, low in (
            ("n_tokens", 1),
            ("max_inner_steps", 0),
            ("learning_rate", 0.0),
            ("inherent_weight", 0.0),
            ("similar_weight", 0.0),
            ("views", 0),
            ("content_weight", 0.0),
        ):
            if getattr(self, name) < low:
                raise UserError(f"MUSE's {name} is at least {low}, got {getattr(self, name)}.")
