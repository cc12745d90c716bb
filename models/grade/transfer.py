"""Global sentiment transfer on the surface of a grade: the paper's loss (`gram`), with a bilateral grid's coefficients
in place of pixels.

Statistics of features do not say where in a picture a colour goes; optimised over pixels they leave speckles, stains
and coloured rims. A grade cannot draw any of these. Its cells still invite stains where nothing holds them: the grid is
optimised coarse to fine, one curve over luminance for the whole picture first, and neighbouring cells are held
together.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch.nn import functional as F

from .. import host
from ..errors import UserError
from ..gram import gram
from ..networks.backbones import Backbone, feature_maps, folded
from ..networks.valence_arousal import ValenceArousal
from ..tensors.gradients import deterministic, ordinary, ordinary_weights
from ..tensors.luminance import REC_601
from ..tensors.masks import coverage
from ..tensors.resize import fitted, resized
from .grid import Grid, identity_row
from .surface import some_frames

SIDE = 256
"""Pixels of the longer side at which the picture is shown to the network."""

PAPERS_WEIGHT = 1e6
"""The paper's weight of the sentiment, which counts as 1 here, where losses are relative to the source's own."""


@dataclass(frozen=True)
class SurfaceConfig:
    """How a grade is optimised.

    steps       of Adam, at each of the sizes
    sizes       the grid's (bins, rows, columns), coarse to fine; rows and columns change places in an upright picture
    rates       Adam's at each of the sizes, falling to a tenth over its steps
    content     weight of the content's features (equation 2), relative to their mean square
    smooth      weight of differences between neighbouring cells
    bend        weight of the change of slope along luminance
    slope       weight of responses to grey that leave `slopes`: below, shadows and lights would fall together or change
                places; above, flat areas would show their noise
    slopes      the least and the greatest slope of the response to grey, of a picture's luminance to its own before
    twist       weight of what mixes channels: a grade moves colours together before it moves them apart
    calm        weight of the change itself
    gamut       weight of what lies beyond 0 and 1
    colour_only keeps every pixel's luminance
    strengths   of the found grade, among which a judge chooses, where there is one. Not above 1: the penalties hold the
                grade as it was found
    """

    steps: tuple[int, ...] = (26, 6)
    sizes: tuple[tuple[int, int, int], ...] = ((8, 1, 1), (8, 2, 3))
    rates: tuple[float, ...] = (0.03, 0.003)
    content: float = 0.1
    smooth: float = 300.0
    bend: float = 30.0
    slope: float = 30.0
    slopes: tuple[float, float] = (0.4, 2.2)
    twist: float = 0.2
    calm: float = 0.02
    gamut: float = 20.0
    colour_only: bool = False
    strengths: tuple[float, ...] = (0.5, 1.0)

    def within(self, most: int) -> SurfaceConfig:
        """The same in at most `most` steps, shared out as before; the first size keeps one at least."""
        share = min(1.0, most / sum(self.steps))
        return (
            self
            if share == 1
            else replace(self, steps=(max(1, int(self.steps[0] * share)), *(int(n * share) for n in self.steps[1:])))
        )


@dataclass
class GradeTransfer:
    """What a transfer came to: the grade, the loss after each step, relative to the source's own, and the strength that
    a judge chose (1 without one)."""

    grade: Grid
    losses: list[float] = field(default_factory=list)
    strength: float = 1.0


def transfer_grade(
    net: Backbone,
    source: torch.Tensor,
    reference: torch.Tensor,
    config: SurfaceConfig | None = None,
    mask: torch.Tensor | None = None,
    content_weight: float = 1.0,
    sentiment_weight: float = 1.0,
    judge: ValenceArousal | None = None,
) -> GradeTransfer:
    """The grade that gives `source` [B, 3, H, W] the feature statistics of `reference` [1, 3, H, W], both in 0..1. Of a
    series, B above 1, it is one grade for all, by the statistics of all: constant in time.

    mask                              [1 or B, 1, H, W] where the picture may change, and where its statistics are taken
    content_weight, sentiment_weight  relative to what works; 0 leaves a term out
    judge                             chooses the strength at which people would feel most like at the reference. A head
                                      alone is a bad painter; among grades it may choose. On 176 pairs of photographs
                                      (OASIS's tuning themes) another network's judge then moves with people's ratings
                                      of reference less source at a rank correlation of 0.34, in place of 0.28
    """
    if min(*source.shape[-2:], *reference.shape[-2:]) < 16:
        raise UserError("A transfer takes pictures of at least 16 pixels a side. Make them larger.")
    config = config or SurfaceConfig()
    ui, net = host.current(), folded(net)
    source, mask = some_frames(source), None if mask is None else some_frames(mask)
    image, goal = (ordinary(_shown(t.to(net.mean))) for t in (source, reference))
    cover = None if mask is None else coverage(ordinary(mask.to(image)), *image.shape[-2:])
    result = GradeTransfer(Grid.identity(1, 1, 1))
    with deterministic(), ordinary_weights(net), torch.inference_mode(False), torch.enable_grad():
        loss = _Loss(net, image, goal, cover, config, content_weight, sentiment_weight)
        grid = identity_row().to(image).view(12, 1, 1, 1)
        bar = ui.progress(sum(config.steps), "transfer")
        try:
            for (bins, rows, columns), steps, rate in zip(config.sizes, config.steps, config.rates):
                size = (bins, rows, columns) if image.shape[3] >= image.shape[2] else (bins, columns, rows)
                start = F.interpolate(grid[None], size=size, mode="trilinear", align_corners=True)[0]
                grid = _optimised(start, loss, steps, rate, result.losses, bar)
        finally:
            bar.close()
    grade = Grid(grid.detach().cpu().contiguous(), "transfer")
    grade = grade.colour_only() if config.colour_only else grade
    if judge is not None:
        result.strength = _felt_most_alike(judge, grade, image, goal, config.strengths)
        grade = replace(grade.scaled(result.strength), note=f"transfer at strength {result.strength:g}, by a judge")
    result.grade = grade
    return result


@torch.no_grad()
def _felt_most_alike(
    judge: ValenceArousal, grade: Grid, image: torch.Tensor, reference: torch.Tensor, strengths: tuple[float, ...]
) -> float:
    """The strength at which the judge's point of the graded image lies nearest to its point of the reference."""
    goal = judge.points(reference)
    away = lambda strength: float(
        (judge.points(grade.scaled(strength).slice(image).clamp(0, 1)).mean(dim=0, keepdim=True) - goal).norm()
    )
    return min(strengths, key=away)


def _shown(image: torch.Tensor) -> torch.Tensor:
    return resized(image, *fitted(image.shape[-2:], SIDE, 16))


class _Loss:
    """The loss of a grid [12, D, H, W] on one picture, relative to the loss of the picture as it is."""

    def __init__(
        self,
        net: Backbone,
        image: torch.Tensor,
        reference: torch.Tensor,
        cover: torch.Tensor | None,
        config: SurfaceConfig,
        content_weight: float,
        sentiment_weight: float,
    ):
        self.net, self.image, self.cover, self.config = net, image, cover, config
        self.content_weight, self.sentiment_weight = content_weight, sentiment_weight
        with torch.no_grad():
            own = feature_maps(net, image)
            self.content = own[3]
            self.goals = [gram(f) for f in feature_maps(net, reference)]
            self.start = float(self._sentiment(own)) or 1.0
            self.content_scale = float(self.content.square().mean()) or 1.0

    def _sentiment(self, maps: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack([F.mse_loss(gram(f, self.cover), goal) for f, goal in zip(maps, self.goals)]).mean()

    def __call__(self, grid: torch.Tensor) -> tuple[torch.Tensor, float]:
        """(the whole, its sentiment part)."""
        c = self.config
        graded = (Grid(grid).colour_only() if c.colour_only else Grid(grid)).slice(self.image)
        if self.cover is not None:
            graded = self.image.lerp(graded, self.cover)
        beyond = (graded - graded.clamp(0, 1)).square().mean()
        maps = feature_maps(self.net, graded.clamp(0, 1) + 0.1 * (graded - graded.clamp(0, 1)))
        sentiment = self._sentiment(maps) / self.start
        content = F.mse_loss(maps[3], self.content) / self.content_scale
        change = grid - identity_row().to(grid).view(12, 1, 1, 1)
        held = c.calm * change.square().mean() + c.gamut * beyond
        for axis in (2, 3):
            if grid.shape[axis] > 1:
                held = held + c.smooth * grid.diff(dim=axis).square().mean()
        if grid.shape[1] > 2:
            held = held + c.bend * grid.diff(n=2, dim=1).square().mean() + c.slope * _steep(grid, *c.slopes)
        held = held + c.twist * _twisted(grid)
        whole = self.sentiment_weight * sentiment + self.content_weight * c.content * content + held
        return whole, float(sentiment.detach())


def _steep(grid: torch.Tensor, least: float, greatest: float) -> torch.Tensor:
    """How far the slopes of the response to grey, channel by channel, lie outside of two bounds: mean square."""
    d = grid.shape[1]
    grey = torch.linspace(0, 1, d, device=grid.device).view(1, d, 1, 1)
    rows = grid.unflatten(0, (3, 4))
    response = (rows[:, :3].sum(dim=1) * grey + rows[:, 3]).clamp(-0.2, 1.2)  # [3, D, H, W]
    light = (response * response.new_tensor(REC_601).view(3, 1, 1, 1)).sum(dim=0, keepdim=True)
    slopes = (d - 1) * torch.cat([response, light]).diff(dim=1)
    low = torch.tensor([0.5 * least] * 3 + [least], device=grid.device).view(4, 1, 1, 1)
    return ((low - slopes).clamp(min=0).square() + (slopes - greatest).clamp(min=0).square()).mean()


def _twisted(grid: torch.Tensor) -> torch.Tensor:
    """The mean square of the transforms' entries between different channels."""
    rows = grid.unflatten(0, (3, 4))[:, :3]
    return (rows * (1 - torch.eye(3, device=grid.device)).view(3, 3, 1, 1, 1)).square().mean()


def _optimised(
    start: torch.Tensor, loss: _Loss, steps: int, rate: float, losses: list[float], bar: host.Bar
) -> torch.Tensor:
    grid = start.clone().requires_grad_(True)
    adam = torch.optim.Adam([grid], lr=rate)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps, eta_min=rate / 10)
    for _ in range(steps):
        host.current().check_interrupted()
        value, sentiment = loss(grid)
        losses.append(sentiment)
        adam.zero_grad()
        value.backward(inputs=[grid])
        adam.step()
        falling.step()
        bar.update()
    return grid.detach()
