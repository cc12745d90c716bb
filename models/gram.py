"""Global sentiment transfer (section III-B): an image's pixels are optimised so that it has a reference's feature
statistics and its own content.

    L = a |f4 - f4(source)|^2 + b mean over five layers |Gram(f) - Gram(f(reference))|^2        (equations 1 to 3)
        + c TV(image - source)                                                                  (ours; 0 is the paper's)

Images are [1, 3, H, W] in 0..1. The paper writes Gram = f^T f, which for features of shape C x HW is a misprint of f
f^T; with a division by C H W and means of squares its weights, 1 and 1,000,000, balance.

Statistics do not determine where a colour goes, and the networks' strides produce speckles and coloured rims. The third
term penalises edges of the change, not of the image, so that every edge of the source stays. On 16 validation scenes
(gain of tiny-b's probability of the reference's sentiment, SSIM with the source, LPIPS to the counterfactual; the
source's own LPIPS is 4.57):

    c = 0     0.54  0.51  4.27          c = 30    0.53  0.77  4.14
    c = 3     0.55  0.63  4.24          c = 60    0.54  0.80  4.14
    c = 10    0.55  0.71  4.20          c = 100   0.55  0.81  4.18
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass, field

import torch
from torch.nn import functional as F

from . import host
from .errors import UserError
from .networks.backbones import LAYERS, Backbone, feature_maps, folded
from .tensors.composites import composite
from .tensors.gradients import deterministic, ordinary, ordinary_weights
from .tensors.luminance import with_luminance
from .tensors.masks import coverage
from .tensors.ranges import clamp01
from .tensors.resize import resized

SOLVERS = ("coarse-to-fine", "adam")

CHECKPOINT_FROM = 768 * 768
"""Images of more pixels than this compute their activations again in the backward pass."""

LARGEST = 1536 * 1536
"""Images of more pixels are transferred at this size, and the change is enlarged: L-BFGS keeps five pairs of copies of
the pixels."""

SMALLEST = 32
"""Pixels a side at least: what four poolings need."""


@dataclass(frozen=True)
class GramConfig:
    """The paper's settings (section IV-A), and ours.

    iterations  evaluations of the loss at most; a solver may stop earlier
    smoothness  c, the weight of the change's total variation: 0 is the paper's loss
    layers      "first": relu0 and the first ReLU after each of the four pools, content on the fourth of the five.
                "last": those four and norm5's ReLU. (Of a VGG: relu1_1 .. relu5_1, content on relu4_1.)
    solver      "coarse-to-fine": L-BFGS, first on the image at half its size; in bfloat16 on a CPU that computes in it.
                "adam": the paper's, on the pixels themselves
    rate        Adam's learning rate
    tolerance   L-BFGS stops where the loss has fallen by less than this share in ten evaluations
    colour_only keeps the source's luminance, except where the colour would leave 0..1
    """

    iterations: int = 500
    content_weight: float = 1.0
    sentiment_weight: float = 1e6
    smoothness: float = 60.0
    layers: str = "first"
    solver: str = "coarse-to-fine"
    rate: float = 0.01
    tolerance: float = 0.01
    colour_only: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise UserError(f"The transfer needs at least 1 iteration, got {self.iterations}.")
        if min(self.content_weight, self.sentiment_weight, self.smoothness) < 0:
            raise UserError("The transfer's weights must be at least 0.")
        for name, value, known in (("layers", self.layers, LAYERS), ("solver", self.solver, SOLVERS)):
            if value not in known:
                raise UserError(f"The transfer's {name} must be one of {', '.join(known)}, not '{value}'.")


@dataclass
class Transfer:
    """The result of a transfer: the image, and for each evaluation the loss and the number of pixels it was taken
    at."""

    image: torch.Tensor
    losses: list[float] = field(default_factory=list)
    pixels: list[int] = field(default_factory=list)


# -- the loss ---------------------------------------------------------------------------------------------------


def gram(f: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    """[B, C, h, w] -> [C, C]: f f^T / (C B h w), over the places of all images; with `weight` [1 or B, 1, H, W] in
    0..1, the weighted mean over places."""
    b, c, h, w = f.shape
    if weight is None:
        rows = f.transpose(0, 1).reshape(c, b * h * w)
        return rows @ rows.T / (c * b * h * w)
    weight = coverage(weight, h, w).expand(b, 1, h, w)
    rows = (f * weight.sqrt()).transpose(0, 1).reshape(c, b * h * w)
    return rows @ rows.T / (c * weight.sum().clamp(min=1e-6))


class GramLoss:
    """Equation 1 and the third term for one image size: image [1, 3, H, W] -> its loss, differentiable in the pixels.

    content    the source at this size
    reference  [1, 3, h, w], of any size
    mask       [1, 1, H, W] where the image may change and where its statistics are taken, or None: everywhere
    """

    def __init__(
        self,
        net: Backbone,
        content: torch.Tensor,
        reference: torch.Tensor,
        config: GramConfig,
        mask: torch.Tensor | None = None,
    ):
        self.net, self.config, self.mask, self.source = net, config, mask, content
        self.save_memory = content.shape[-1] * content.shape[-2] > CHECKPOINT_FROM
        with torch.no_grad():
            self.content = feature_maps(net, content, config.layers)[3]
            self.grams = [gram(f) for f in feature_maps(net, reference, config.layers)]

    def parts(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(content, sentiment), unweighted: equations 2 and 3."""
        maps = feature_maps(self.net, image, self.config.layers, self.save_memory)
        content = F.mse_loss(maps[3], self.content)
        sentiment = torch.stack([F.mse_loss(gram(f, self.mask), g) for f, g in zip(maps, self.grams)]).mean()
        return content, sentiment

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        content, sentiment = self.parts(image)
        value = self.config.content_weight * content + self.config.sentiment_weight * sentiment
        return (
            value + self.config.smoothness * total_variation(image - self.source) if self.config.smoothness else value
        )


def total_variation(change: torch.Tensor, grey: float = 1 / 255) -> torch.Tensor:
    """[1, C, H, W] -> the mean length of its gradient, quadratic below one grey level, because L-BFGS needs a smooth
    loss."""
    steps = change.diff(dim=-1)[..., :-1, :].square() + change.diff(dim=-2)[..., :-1].square()
    return ((steps + grey**2).sqrt() - grey).mean()


# -- solvers ----------------------------------------------------------------------------------------------------


class _Enough(Exception):
    """Ends torch's L-BFGS, which cannot be stopped otherwise."""


class _Run:
    """Evaluations of one transfer: counted, recorded and shown."""

    def __init__(self, config: GramConfig, shown: torch.Tensor):
        self.config, self.result = config, Transfer(shown)
        self.bar = host.current().progress(config.iterations, "transfer")

    def evaluated(self, loss: float, image: torch.Tensor) -> None:
        host.current().check_interrupted()
        self.result.losses.append(loss)
        self.result.pixels.append(image.shape[-1] * image.shape[-2])
        self.bar.update()
        if len(self.result.losses) % 10 == 1:
            self.bar.preview(image[0].detach())

    @property
    def left(self) -> int:
        return self.config.iterations - len(self.result.losses)


def _adam(run: _Run, loss: GramLoss, start: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """The paper's solver: Adam from the image itself, pixels clamped after each step."""
    x = start.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([x], lr=run.config.rate)
    while run.left > 0:
        optimizer.zero_grad()
        value = loss(x)
        value.backward()
        if mask is not None:
            assert x.grad is not None  # of `backward`
            x.grad *= mask
        optimizer.step()
        with torch.no_grad():
            x.clamp_(0, 1)
        run.evaluated(float(value.detach()), x)
    return x.detach()


class _Pixels:
    """An image as a function of free values z: sigmoid(logit(start) + K z), K a filter that weighs a frequency f by 1 /
    f^exponent (1: the fall of photographs' spectra; Olah et al. 2017, "Feature Visualization", on preconditioning). So
    broad changes of colour and light come first, and the fine grid that the network's strides favour comes last;
    without K it comes at once. The sigmoid bounds the pixels; its own bounds lie a margin outside 0..1, so that black
    and white can still change.

    PyTorch's L-BFGS begins with a step whose values sum to 1, which with many pixels is less than bfloat16 resolves: z
    is in units in which that first step is `first` a pixel.
    """

    margin = 0.1
    first = 0.01

    def __init__(self, start: torch.Tensor, mask: torch.Tensor | None, exponent: float):
        h, w = start.shape[-2:]
        self.start, self.mask, self.unit = start, mask, self.first * start.numel()
        self.filter = None
        if exponent:
            f = torch.hypot(torch.fft.fftfreq(h)[:, None], torch.fft.rfftfreq(w)[None])
            weight = f.clamp(min=1 / max(h, w)) ** -exponent
            self.filter = (weight / weight.mean()).to(start)
        self.base = torch.logit(start * (1 - 2 * self.margin) + self.margin)

    def __call__(self, z: torch.Tensor) -> torch.Tensor:
        change = 4 * self.unit * z  # the sigmoid's slope at grey is a quarter
        if self.filter is not None:
            change = torch.fft.irfft2(torch.fft.rfft2(change) * self.filter, s=z.shape[-2:])
        image = clamp01((torch.sigmoid(self.base + change) - self.margin) / (1 - 2 * self.margin))
        image = image if self.mask is None else torch.where(self.mask > 0, image, self.start)
        return image.contiguous(memory_format=torch.channels_last)


def _lbfgs(run: _Run, loss: GramLoss, start: torch.Tensor, evaluations: int, exponent: float) -> torch.Tensor:
    """PyTorch's L-BFGS over `_Pixels`. Returns the best image seen."""
    best, lowest = start, math.inf
    losses: list[float] = []
    pixels = _Pixels(start, loss.mask, exponent)
    z = torch.zeros_like(start, requires_grad=True)
    solver = torch.optim.LBFGS(
        [z],
        max_iter=evaluations,
        max_eval=evaluations,
        history_size=HISTORY,
        tolerance_grad=0.0,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def evaluate() -> torch.Tensor:
        nonlocal best, lowest
        if len(losses) >= evaluations or run.left <= 0:
            raise _Enough
        z.grad = None
        x = pixels(z)
        value = loss(x)
        value.backward()
        assert z.grad is not None  # of `backward`
        z.grad = z.grad.contiguous()
        now = float(value.detach())
        losses.append(now)
        if now < lowest:
            best, lowest = x.detach(), now
        run.evaluated(now, x)
        if len(losses) > 20 and min(losses[:-10]) - lowest < run.config.tolerance * lowest:
            raise _Enough
        return value

    with suppress(_Enough):
        solver.step(evaluate)
    return best


EXPONENTS = (0.5, 0.0)
"""`_Pixels`' exponent at each of a run's sizes, the smaller size first: after it few broad changes remain. With 1 the
result was further from the source at no lower loss (LPIPS to the counterfactual 4.32, and 4.14 with 0.5, on the scenes
above)."""

COARSE = 40
"""Evaluations at most at half the size. More of them, or a first pass at a quarter of the size, raise the content loss
at full size."""

HISTORY = 5
"""Pairs of steps that L-BFGS keeps. With 10 and 25 the loss was no lower after as many evaluations, each of which took
longer."""


def _sizes(h: int, w: int) -> list[tuple[int, int]]:
    """The sizes of a coarse-to-fine run, in turn; a side below 256 pixels is not halved."""
    return [(h // 2, w // 2), (h, w)] if min(h, w) >= 256 else [(h, w)]


def transfer(
    net: Backbone,
    source: torch.Tensor,
    reference: torch.Tensor,
    config: GramConfig = GramConfig(),
    mask: torch.Tensor | None = None,
) -> Transfer:
    """Transfers the reference's sentiment to the source.

    source     [1, 3, H, W] in 0..1
    reference  [1, 3, h, w] in 0..1, of any size and shape; resized to the source's number of pixels, because statistics
               depend on scale
    mask       [1, 1, H, W] in 0..1: where the image changes; elsewhere it stays, bit for bit. With a mask that covers
               nothing the source is returned, with a note.

    The start is the source with a dither of half a grey level from the seed: without it all pixels of a flat area would
    get the same gradient. UserError for an image below `SMALLEST`.
    """
    h, w = source.shape[-2:]
    if min(h, w) < SMALLEST:
        raise UserError(
            f"An image of {w} x {h} is too small for the network's four poolings: {SMALLEST} pixels a side at least."
        )
    if mask is not None and float(mask.max()) <= 0:
        host.current().note("The mask covers nothing: the image is as it was.")
        return Transfer(source.clone())
    source, reference, mask = ordinary(source), ordinary(reference), ordinary(mask)
    run = _Run(config, source)
    with deterministic(), ordinary_weights(net):
        small, inside = source, mask
        if h * w > LARGEST:
            share = math.sqrt(LARGEST / (h * w))
            size = int(h * share), int(w * share)
            host.current().note(
                f"An image of {w} x {h} is transferred at {size[1]} x {size[0]}, and the change enlarged."
            )
            small, inside = (
                resized(source, *size),
                None if mask is None else coverage(mask, *size),
            )
        try:
            change = _solve(run, net, small, reference, config, inside) - small
        finally:
            run.bar.close()
        run.result.image = _composed(source, source + resized(change, h, w), mask, config).detach()
    return run.result


def _solve(
    run: _Run,
    net: Backbone,
    source: torch.Tensor,
    reference: torch.Tensor,
    config: GramConfig,
    mask: torch.Tensor | None,
) -> torch.Tensor:
    h, w = source.shape[-2:]
    scale = math.sqrt(h * w / (reference.shape[-1] * reference.shape[-2]))
    reference = resized(reference, *(max(SMALLEST, round(side * scale)) for side in reference.shape[-2:]))
    noise = torch.rand(source.shape, generator=torch.Generator().manual_seed(config.seed)).to(source)
    x = (source + (noise - 0.5) / 255).clamp(0, 1)
    if config.solver == "adam":
        return _adam(run, GramLoss(net, source, reference, config, mask), x, mask)
    base, sizes, net = source, _sizes(h, w), folded(net)
    for i, size in enumerate(sizes):
        content = resized(source, *size)
        style = resized(reference, *(max(SMALLEST, round(side * size[0] / h)) for side in reference.shape[-2:]))
        inside = None if mask is None else coverage(mask, *size)
        x = (content + resized(x - base, *size)).clamp(0, 1)
        share = run.left if i == len(sizes) - 1 else min(COARSE, math.ceil(run.left / 2))
        x = _lbfgs(run, GramLoss(net, content, style, config, inside), x, share, EXPONENTS[i])
        base = content
    return x


def _composed(source: torch.Tensor, image: torch.Tensor, mask: torch.Tensor | None, config: GramConfig) -> torch.Tensor:
    image = image.clamp(0, 1)
    return composite(source, with_luminance(image, source) if config.colour_only else image, mask)
