"""WHICH emotion is pushed and which are held down: equations 11 to 13."""

from __future__ import annotations

import torch
from torch.nn import functional as F


class EmotionLoss:
    """The multi-emotion loss of equations 11 to 13, for a batch.

    target   [B, 8] distributions to reach
    inherent [B] class of each image's inherent emotion, or None: no such term
    similar  [B, 8] 1 at the wheel's neighbours of the target, else 0; an image's inherent emotion is not counted again
             among them
    wanted   [B, 8] 1 at what belongs to the emotion asked for, whatever the intensity, else 0: an inherent emotion
             among them is not held down
    """

    def __init__(
        self,
        target: torch.Tensor,
        inherent: torch.Tensor | None,
        similar: torch.Tensor,
        wanted: torch.Tensor,
        inherent_weight: float,
        similar_weight: float,
    ):
        self.target, self.inherent = target, inherent
        self.inherent_weight, self.similar_weight = inherent_weight, similar_weight
        self._held = similar.to(target).clone()  # the similar emotions' weights, which sum to one or zero in a row
        if inherent is not None:
            self._held.scatter_(1, inherent[:, None], 0.0)
            self._foreign = 1.0 - wanted.to(target).gather(1, inherent[:, None]).squeeze(1)
        self._held /= self._held.sum(dim=1, keepdim=True).clamp(min=1.0)

    def parts(self, logits: torch.Tensor) -> dict[str, torch.Tensor]:
        """logits [B, 8] -> {"target", "inherent", "similar"}: [B] each, unweighted.

        The target's term is KL(target || p): cross-entropy for a one-hot target, and zero at its optimum for a mixed
        one, where cross-entropy's floor is the target's entropy and would never pass the stop.
        """
        log_p = F.log_softmax(logits.float(), dim=-1)
        target = F.kl_div(log_p, self.target, reduction="none").sum(dim=-1).clamp(min=0)
        zero = torch.zeros_like(target)
        inherent = zero
        if self.inherent is not None:
            inherent = -log_p.gather(1, self.inherent[:, None]).squeeze(1) * self._foreign
        similar = -(log_p * self._held).sum(dim=-1)
        return {"target": target, "inherent": inherent, "similar": similar}

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """logits [B, 8] -> [B]: target - l1 inherent - l2 similar (MUSE's equation 13)."""
        parts = self.parts(logits)
        return parts["target"] - self.inherent_weight * parts["inherent"] - self.similar_weight * parts["similar"]
