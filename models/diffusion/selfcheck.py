"""Whether gradients are those of the function that is computed.

A host that moves weights while a model runs may leave autograd with numbers that are no longer a layer's: the forward
pass is right, the backward pass is not, and nothing says so. A derivative along one direction, against a difference of
two forward passes, does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from ..errors import UserError


class SelfCheck:
    """Compares vector-Jacobian products with finite differences: at the first gradients of a run, and whenever weights
    have moved.

    For a function f of t [n, ...] and weights c of its output's entries, a backward pass gives g = J^T c. Along a
    direction d the output must change so that <c, f(t + h d) - f(t)> = h <g, d>, up to curvature and rounding. That is
    linear in f's output, so that neither a clamp after f nor the curvature of a loss takes part. d is g's own
    direction, along which most is seen, and a random one: what a wrong gradient lacks cannot be seen along itself. The
    ratio of both sides must come near 1 at one of a few steps h: at a large one curvature may bend it, at a small one
    rounding blurs it. Gradients are wrong where it converges elsewhere, or stays far from 1 for several gradients. In
    half precision a ratio is a mean over several gradients.

    name  what f is, for the user
    fine  whether it computes in single precision throughout; False for half precision and for quantised inputs of
          layers
    """

    STEPS, COARSE_STEPS = (0.05, 0.015, 0.005, 0.0015), (0.2, 0.05, 0.0125)
    """h in shares of |t|, the largest first."""
    TOLERANCE, COARSE_TOLERANCE = 0.15, 0.5
    """How far the ratio may lie from 1. Measured on small random SD1.5, SDXL, SD3 and FLUX models: right ones lie
    within 0.05 in single precision, those of reused buffers from -1.3 to 0.8."""
    ENOUGH = 2
    """Gradients that must be right, each along a random direction of its own."""
    SAMPLES = 6
    """Ratios in a mean, in half precision."""
    TRIES = 6
    """Gradients, at each step h in half precision, that are looked at before it is decided."""
    CONVERGED = 0.1
    """How near the ratios of two steps h lie to one another that have converged."""
    BENT = (0.4, 2.5)
    """Ratios between which curvature alone may lead where no smaller step could be told from rounding (SD3's reached
    1.84)."""
    FLOOR = 200 * torch.finfo(torch.float32).eps
    """Changes of f below this share of what is weighed are rounding: they say nothing."""

    def __init__(self, name: str, fine: bool):
        self.name, self.fine = name, fine
        self.undecided = False
        """Whether a check was given up: what the tokens do could not be told from rounding."""
        self._settled: Any = None
        self._now: Any = None
        self._begin()

    def _begin(self) -> None:
        self._ratios: list[float] = []
        self._level = self._tries = 0
        self._right = 0
        self._seen: list[float] = []  # ratios that were told from rounding

    def due(self, resident: Any) -> bool:
        """Whether gradients must be checked now that weights lie as `resident` says; None: they never move."""
        if resident != self._now:
            self._now = resident
            self._begin()
        return resident is not None and resident != self._settled

    def check(
        self,
        t: torch.Tensor,
        gradient: torch.Tensor,
        weights: torch.Tensor,
        before: torch.Tensor,
        f: Callable[[torch.Tensor], torch.Tensor],
    ) -> None:
        """Looks at one gradient: t and g [n, ...], c and f(t) [n, ...], and f itself. UserError where gradients are
        wrong."""
        self._tries += 1
        (self._fine if self.fine else self._coarse)(lambda h: self._compare(h, t, gradient, weights, before, f))

    def _fine(self, compare: Callable[[float], list[float]]) -> None:
        last = None
        for h in self.STEPS:
            ratios = compare(h)
            if not ratios:
                break
            ratio = sum(ratios) / len(ratios)
            if abs(ratio - 1) <= self.TOLERANCE:
                self._right += 1
                if self._right == self.ENOUGH:
                    self._settled = self._now
                return
            if last is not None and abs(ratio - last) <= self.CONVERGED:
                self._refuse(ratio)
            self._seen.append(ratio)
            last = ratio
        if self._tries == self.TRIES:
            self._give_up()

    def _coarse(self, compare: Callable[[float], list[float]]) -> None:
        self._ratios += compare(self.COARSE_STEPS[self._level])
        n = len(self._ratios)
        if n >= self.SAMPLES:
            mean = sum(self._ratios) / n
            self._seen.append(mean)
            error = math.sqrt(sum((r - mean) ** 2 for r in self._ratios) / (n - 1) / n)
            if abs(mean - 1) <= self.COARSE_TOLERANCE + 4 * error:
                self._settled = self._now
                return
        if n >= self.SAMPLES or self._tries == self.TRIES:
            self._level, self._ratios, self._tries = self._level + 1, [], 0
        if self._level == len(self.COARSE_STEPS):
            self._give_up()

    def _give_up(self) -> None:
        low, high = self.BENT
        if self._seen and not any(low < ratio < high for ratio in self._seen):
            self._refuse(self._seen[-1])
        self._settled, self.undecided = self._now, True

    def _refuse(self, ratio: float) -> None:
        raise UserError(
            f"The gradients of this {self.name} are wrong: along them it changes {ratio:.2f} times as much as they "
            "say. Its weights are moved or overwritten while gradients run. Start ComfyUI with --disable-dynamic-vram "
            "and --disable-async-offload, and report this with your ComfyUI's version."
        )

    def _compare(
        self,
        h: float,
        t: torch.Tensor,
        gradient: torch.Tensor,
        weights: torch.Tensor,
        before: torch.Tensor,
        f: Callable[[torch.Tensor], torch.Tensor],
    ) -> list[float]:
        """The ratios of the rows that are told from rounding."""
        weights, before, gradient = (x.detach().float().flatten(1) for x in (weights, before, gradient))
        size = gradient.norm(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        direction = gradient / size
        if self.fine:
            random = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(self._tries)).to(gradient)
            random *= (gradient * random).sum(dim=1, keepdim=True).sign() / random.norm(dim=1, keepdim=True)
            # A random direction sees of g a share of 1 / sqrt(entries); of g's own as much again, twice.
            direction = random + 2 * gradient.shape[1] ** -0.5 * direction
        step = h * t.detach().flatten(1).norm(dim=1, keepdim=True)
        moved = t.detach() + (step * direction).view_as(t).to(t)
        # Gradients are on, so that the host computes as it did, but none is asked for: a graph that is never run
        # backward confuses autograd's bookkeeping of mutated tensors.
        seen = (weights * (f(moved).detach().float().flatten(1) - before)).sum(dim=1)
        foretold = (step * gradient * direction).sum(dim=1)
        ratios = (seen / foretold)[foretold > self.FLOOR * (weights * before).norm(dim=1)]
        return ratios[ratios.isfinite()].tolist()
