"""HOW tokens are optimised: the inner loop of one model call (equation 8)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from .. import host
from ..errors import UserError
from ..tensors.gradients import ordinary, ordinary_weights
from ..tensors.memory import give_back_memory, out_of_memory
from ..tensors.ranges import clamp01
from .trace import TraceCall

if TYPE_CHECKING:
    from .run import MuseRun


class InnerLoop:
    """Adam on the tokens of one run at one model call, until every open image's loss is under the stop.

    Adam is fresh at each model call, with lr (1 - i/100) of the outer step i (the paper's formula is null-text
    inversion's, where i is the outer step). The unconditional prediction does not depend on the tokens: it is made
    once. An image that is done keeps its tokens, and leaves the batch where the host can take a batch apart. Whether it
    is done the emotion's loss decides alone; the gradient is also that of the content's loss (ours,
    `MuseConfig.content_weight`).

    x [B, C, h, w], sigma [B]  of the model call
    record                     where learning rate, losses and answers are written down
    """

    def __init__(self, run: MuseRun[Any], x: torch.Tensor, sigma: torch.Tensor, record: TraceCall):
        self.run, self.x, self.sigma, self.record = run, x, sigma, record
        self.takes_rows = run.positive.rows(torch.arange(len(x), device=x.device)) is not None
        self.scorer = run.gate.scorer if run.gate and run.config.content_weight else None
        self.uncond: torch.Tensor | None = None

    def optimise(self) -> torch.Tensor:
        """The guided clean latents [B, C, h, w] of the open images with their final tokens, which the run then
        holds; other rows mean nothing. Where memory runs out, once more with gradient checkpointing, which then
        stays on."""
        while True:
            try:
                return self._optimise()
            except RuntimeError as error:
                if self.run.save_memory or not out_of_memory(error):
                    raise
            # Out of the except block: until then its traceback keeps every tensor alive.
            self.run.save_memory = True
            self.record.losses.clear()
            give_back_memory(self.x.device)
            self.run.note(
                "Memory ran out: the inner loop goes on with gradient checkpointing, which takes about a third longer."
            )

    def _optimise(self) -> torch.Tensor:
        run, record = self.run, self.record
        record.learning_rate = run.config.learning_rate * max(0.0, 1 - record.step / 100)
        with torch.no_grad():
            self.uncond = None if run.config.cfg == 1.0 else run.denoiser(self.x, self.sigma, run.negative)
        networks = [m for m in (run.classifier, self.scorer) if isinstance(m, torch.nn.Module)]
        with (
            run.denoiser.gradients(run.save_memory),
            run.autoencoder.gradients(run.save_memory),
            ordinary_weights(*networks),
        ):
            self.x, self.sigma = ordinary(self.x), ordinary(self.sigma)
            self.uncond = None if self.uncond is None else ordinary(self.uncond)
            is_open = ordinary(run.open)
            prediction = torch.zeros_like(self.x)
            tokens = run.tokens.clone().requires_grad_(True)
            rows = self._walk(tokens, is_open, prediction)
        run.tokens = tokens.detach()
        with torch.no_grad():
            if not run.denoiser.plain_guidance:
                prediction = run.guided(self.x, self.sigma, run.positive.append(run.tokens))
            elif len(rows):  # their tokens moved after they were last seen
                prediction[rows] = self._combined(run.tokens, rows)
            if len(rows):
                logits = run.logits(run.image(prediction[rows], rows))
                self._write_down(rows, logits, run.loss(rows)(logits))
        return prediction

    def _walk(self, tokens: torch.Tensor, is_open: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
        """The steps of Adam. Writes what each image was last predicted as into `prediction`, and returns the rows whose
        tokens moved after that."""
        run, config, ui = self.run, self.run.config, host.current()
        limit = config.max_inner_steps if self.record.learning_rate > 0 else 0
        rows = ordinary(torch.arange(len(self.x), device=self.x.device))
        rows = rows[is_open] if self.takes_rows else rows
        optimizer = torch.optim.Adam([tokens], lr=self.record.learning_rate)
        fitted = self._fit_of_plain(rows) if self.scorer and limit else None
        for inner in range(limit):
            back = GradientScales()
            x0 = self._combined(tokens, rows)
            raw = back.even(run.image(back.even(x0), rows, raw=True))
            image = clamp01(raw)
            logits = run.logits_of_views(image, self.record.call, inner)
            loss = run.loss(rows)(logits)
            self._write_down(rows, logits, loss)
            prediction[rows] = x0.detach()
            active = is_open[rows] & ~(loss.detach() < config.stop_loss)
            if not bool(active.any()):
                return rows[:0]
            if fitted is not None:
                loss = loss + config.content_weight * (fitted[rows] - run.fit(image, rows)).clamp(min=0)
            ui.check_interrupted()
            _differentiate(tokens, loss, active)
            self._check(tokens, x0.detach(), raw.detach(), back, rows)
            self._move(tokens, optimizer, back.scales, rows, active)
            ui.check_interrupted()
            ui.inner(self.record.step, inner + 1, limit, float(loss.detach()[active].mean()))
            rows = rows[active] if self.takes_rows else rows
        return rows

    def _combined(self, tokens: torch.Tensor | None, rows: torch.Tensor) -> torch.Tensor:
        return self.run.combined(self.x, self.sigma, self.uncond, tokens, rows if self.takes_rows else None)

    def _fit_of_plain(self, rows: torch.Tensor) -> torch.Tensor:
        """[B]: how well the prediction of each of `rows` without tokens fits the prompt."""
        fitted = torch.zeros_like(self.sigma)
        with torch.no_grad():
            plain = self._combined(None, rows)
            fitted[rows] = self.run.fit(self.run.image(plain, rows), rows).to(fitted)
        return fitted

    def _check(
        self, tokens: torch.Tensor, x0: torch.Tensor, image: torch.Tensor, back: GradientScales, rows: torch.Tensor
    ) -> None:
        """Holds the gradients of this inner step against what the networks do, where that is due (`selfcheck`).
        UserError where they disagree. x0 and image: what `rows` came to."""
        run, gradient = self.run, tokens.grad
        assert gradient is not None
        of_image, of_latent = back.sent
        of_denoiser, of_decoder = run.checks
        if of_denoiser.due(run.denoiser.resident()):

            def latents(moved: torch.Tensor) -> torch.Tensor:
                every = tokens.detach().clone()
                every[rows] = moved
                return self._combined(every, rows)

            of_denoiser.check(tokens[rows], gradient[rows], of_latent, x0, latents)
        if of_decoder.due(run.autoencoder.resident()):
            of_decoder.check(x0, back.arrived[1], of_image, image, lambda moved: run.image(moved, rows, raw=True))
        for check in run.checks:
            if check.undecided:
                run.note(
                    f"The gradients of this {check.name} could not be checked: what the tokens change is lost in "
                    "rounding or too curved."
                )

    def _move(
        self,
        tokens: torch.Tensor,
        optimizer: torch.optim.Optimizer,
        scales: list[torch.Tensor],
        rows: torch.Tensor,
        active: torch.Tensor,
    ) -> None:
        """One step of Adam on the tokens of the rows that are active and whose gradient is finite; the others stay,
        bit for bit. scales [n] each: what their gradients were divided by on their way."""
        gradient = tokens.grad
        assert gradient is not None
        for scale in scales:
            gradient[rows] *= scale.view(-1, 1, 1)
        finite = gradient.flatten(1).isfinite().all(dim=1)
        moves = torch.zeros_like(finite)
        moves[rows] = active & finite[rows]
        if not bool((finite[rows] | ~active).all()):
            self.run.note(
                "A gradient was not finite; those tokens stayed as they were. A bf16 model has the range that an fp16 "
                "one lacks."
            )
        kept = tokens.detach().clone()
        gradient.nan_to_num_(0.0, 0.0, 0.0)
        optimizer.step()
        with torch.no_grad():
            tokens[~moves] = kept[~moves]

    def _write_down(self, rows: torch.Tensor, logits: torch.Tensor, loss: torch.Tensor) -> None:
        """Writes down what `rows` came to; other rows keep what they had at the last evaluation."""
        record, is_open = self.record, self.run.open
        nothing: list[Any] = [None] * len(is_open)
        losses: list[float | None] = list(record.losses[-1] if record.losses else nothing)
        after: list[list[float] | None] = list(record.after or nothing)
        for i, value, p in zip(rows.tolist(), loss.tolist(), logits.detach().float().softmax(dim=-1).tolist()):
            if is_open[i]:
                losses[i], after[i] = value, p
        record.losses.append(losses)
        record.after = after
        record.before = record.before or after


def _differentiate(tokens: torch.Tensor, loss: torch.Tensor, active: torch.Tensor) -> None:
    """The gradient of the loss [n] of the active rows, into tokens.grad, as evened on its way."""
    if not loss.requires_grad:
        raise UserError(
            "No gradient runs from the image back to the emotional tokens: the MODEL carries a patch that "
            "reuses earlier results (EasyCache and other caches) or kernels without a backward pass "
            "(Nunchaku, fp8 fast). Connect the model to the Emotion Token Optimizer without it."
        )
    tokens.grad = None
    (loss * active).sum().backward(inputs=[tokens])


class GradientScales:
    """Evens gradients on their way back, image by image. Half precision has too little range for what a classifier's
    gradient and guidance may come to.

    scales   [B] each: what gradients were divided by
    arrived  what came to each point, the last on the way forward first
    sent     what went on from it
    """

    def __init__(self) -> None:
        self.scales: list[torch.Tensor] = []
        self.arrived: list[torch.Tensor] = []
        self.sent: list[torch.Tensor] = []

    def even(self, t: torch.Tensor) -> torch.Tensor:
        """t [B, ...], whose gradient is divided by its largest entry."""
        if t.requires_grad:
            # A hook that knew `t` itself would keep it, and the graph behind it, for ever.
            def even(gradient: torch.Tensor) -> torch.Tensor:
                largest = gradient.flatten(1).abs().amax(dim=1).float()
                self.scales.append(torch.where(largest > 0, largest, torch.ones_like(largest)))
                self.arrived.append(gradient)
                self.sent.append(gradient / self.scales[-1].view(-1, *[1] * (gradient.ndim - 1)).to(gradient))
                return self.sent[-1]

            t.register_hook(even)
        return t
