"""One run of MUSE: the state that a sampler's steps share, when the gate opens, and what each step predicts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic

import torch

from .. import host
from ..diffusion.protocol import Autoencoder, Context, Denoiser
from ..diffusion.selfcheck import SelfCheck
from ..emotions import MIKELS, EmotionTarget
from ..networks.views import view
from ..tensors.batch import repeat_to_batch
from ..tensors.gradients import ordinary
from .config import MuseConfig
from .gate import TimingGate
from .inner import InnerLoop
from .loss import EmotionLoss
from .tokens import EmotionTokens, check_width, initial_tokens
from .trace import Trace, TraceCall

Classifier = Callable[[torch.Tensor], torch.Tensor]
"""Images [B, 3, H, W] in 0..1 -> logits [B, 8], differentiable."""


class MuseRun(Generic[Context]):
    """MUSE in one run of a sampler: `predict` takes the denoiser's place at every model call; `result` and `trace` say
    what became of it.

    denoiser, autoencoder  the host's
    positive, negative     the texts' contexts; tokens are put after the positive one
    x [B, C, h, w]         fixes batch, device and type
    sigmas [n + 1]         the sampler's schedule
    latent, mask           [B, C, h, w] and [B, 1, h, w] in the denoiser's scale: what lies under a latent mask, so that
                           the classifier sees the image that will come out. `mask` may be replaced between steps.
    emotions               taken by the images of the batch in turn
    """

    def __init__(
        self,
        denoiser: Denoiser[Context],
        autoencoder: Autoencoder,
        positive: Context,
        negative: Context,
        x: torch.Tensor,
        sigmas: torch.Tensor,
        latent: torch.Tensor | None,
        mask: torch.Tensor | None,
        classifier: Classifier,
        emotions: Sequence[EmotionTarget],
        config: MuseConfig,
        gate: TimingGate | None,
        init_tokens: EmotionTokens | None,
    ):
        batch, device = len(x), x.device
        self.denoiser, self.autoencoder, self.classifier = denoiser, autoencoder, classifier
        self.positive, self.negative, self.config, self.gate = positive, negative, config, gate
        self.sigmas = sigmas.to(x)
        self.latent, self.mask = (t if t is None else ordinary(repeat_to_batch(t, batch)) for t in (latent, mask))
        self.tokens = self._first_tokens(init_tokens, batch, device)
        emotions = [emotions[i % len(emotions)] for i in range(batch)]
        self._take_targets(emotions, device)
        self.save_memory = denoiser.short_of_memory(x)
        self.checks = (
            SelfCheck("diffusion model", denoiser.single_precision),
            SelfCheck("VAE", autoencoder.single_precision),
        )
        self._before: torch.Tensor | None = None  # the prediction of the last step that the gate was asked at
        self._asked_at = -1  # that step
        self._walked: dict[int, torch.Tensor] = {}  # where the last `full` walk passed, by step, and where it ended
        self._end: torch.Tensor | None = None
        self.gate_text: torch.Tensor | None = None
        if gate:
            self.gate_text = ordinary(repeat_to_batch(gate.scorer.text_features(list(gate.prompts)), batch))
        self.trace = Trace(
            emotions, gate.threshold if gate else None, opened_at=[None] * batch, inherent=[None] * batch
        )
        if any(e.intensity == 0.0 for e in emotions):
            self.note("The intensity is 0: no tokens were appended.")
        if init_tokens is not None and self.tokens.shape[1] != config.n_tokens:
            self.note(
                f"init_tokens gives {self.tokens.shape[1]} tokens an image, so n_tokens, {config.n_tokens}, does not "
                "count. Save more tokens, or draw more EmoLat codes, for others."
            )

    def _first_tokens(self, given: EmotionTokens | None, batch: int, device: torch.device) -> torch.Tensor:
        if given is None:
            return initial_tokens(batch, self.config.n_tokens, self.positive.embeds, self.config.seed).to(device)
        check_width(given.tokens, self.positive.width)
        tokens = given.tokens.to(device, torch.float32)
        return tokens[[i % len(tokens) for i in range(batch)]].clone()

    def _take_targets(self, emotions: list[EmotionTarget], device: torch.device) -> None:
        def marks(names: Callable[[EmotionTarget], Any]) -> torch.Tensor:
            return torch.tensor([[float(name in names(e)) for name in MIKELS] for e in emotions], device=device)

        with torch.inference_mode(False):
            self.open = torch.zeros(len(emotions), dtype=torch.bool, device=device)
            self.target = torch.tensor([e.distribution for e in emotions], device=device)
            self.intensity = torch.tensor([e.intensity for e in emotions], device=device)
            self._similar = marks(EmotionTarget.similar)
            self._wanted = marks(EmotionTarget.wanted)
            self.inherent = torch.zeros(len(emotions), dtype=torch.long, device=device)  # where the gate is open

    # -- what a sampler calls ---------------------------------------------------------------------------------------

    def predict(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """x [B, C, h, w], sigma [B] -> guided clean latent [B, C, h, w], tokens optimised on the way."""
        host.current().check_interrupted()
        record = TraceCall(len(self.trace.calls), self._step(sigma), float(sigma[0]))
        self.trace.calls.append(record)
        plain = None
        with torch.no_grad():
            if not bool(self.open.all()):
                own: list[torch.Tensor] = []
                plain = self.guided(x, sigma, self.positive, own)
                # A second-order sampler comes back to a step at which the gate was asked already.
                if record.step > self._asked_at and bool((self.intensity > 0).any()):
                    self._asked_at = record.step
                    self._ask_gate(x, sigma, plain, own[0], record)
            record.open = self.open.tolist()
            if plain is not None and not bool(self.open.any()):
                return plain
        emotional = InnerLoop(self, x, sigma, record).optimise()
        return emotional if plain is None else torch.where(self.open.view(-1, 1, 1, 1), emotional, plain)

    def result(self) -> EmotionTokens:
        """The tokens of the images whose gate opened, one set each; as drawn, and marked so, where none did."""
        rows = self.open if bool(self.open.any()) else torch.ones_like(self.open)
        label = " | ".join(dict.fromkeys(e.label for e in self.trace.emotions))
        return EmotionTokens(self.tokens.detach()[rows].cpu().clone(), label, bool(self.open.any()))

    def tell(self) -> None:
        """Tells the user what happened in a run that is over, where it is not what was asked for."""
        closed = [
            i for i, step in enumerate(self.trace.opened_at) if step is None and self.trace.emotions[i].intensity > 0
        ]
        if closed and self.gate:
            best = [max(c.gate_score[i] for c in self.trace.calls if c.gate_score) for i in closed]
            self.note(
                f"The gate never opened for image {', '.join(map(str, closed))}: its best score was "
                f"{max(best):.1f} and the threshold is {self.gate.threshold:g}. Lower the threshold, or set "
                "force_open_at below 1."
            )
        for note in self.trace.notes:
            host.current().note(note)

    def note(self, text: str) -> None:
        """Adds a sentence to the trace, once."""
        if text not in self.trace.notes:
            self.trace.notes.append(text)

    # -- what the gate and the inner loop look at -------------------------------------------------------------------

    def guided(
        self, x: torch.Tensor, sigma: torch.Tensor, positive: Context, own: list[torch.Tensor] | None = None
    ) -> torch.Tensor:
        """The host's own guided prediction; see `protocol.Denoiser.guided`."""
        return self.denoiser.guided(x, sigma, positive, self.negative, self.config.cfg, own)

    def combined(
        self,
        x: torch.Tensor,
        sigma: torch.Tensor,
        uncond: torch.Tensor | None,
        tokens: torch.Tensor | None,
        rows: torch.Tensor | None,
    ) -> torch.Tensor:
        """The guided clean latents (equations 6 and 7) of `rows`, or of all, with tokens appended if there are any.
        `uncond` is the prediction under the negative text, None at cfg 1."""
        positive = self.positive
        if rows is not None:
            of_rows = positive.rows(rows)
            assert of_rows is not None  # InnerLoop.takes_rows
            x, sigma, positive = x[rows], sigma[rows], of_rows
            uncond, tokens = (t if t is None else t[rows] for t in (uncond, tokens))
        cond = self.denoiser(x, sigma, positive if tokens is None else positive.append(tokens))
        return cond if uncond is None else uncond + self.config.cfg * (cond - uncond)

    def image(self, x0: torch.Tensor, rows: torch.Tensor | slice = slice(None), raw: bool = False) -> torch.Tensor:
        """What the clean latents of some rows of the batch look like, with the masked part as it will be composited;
        where `raw`, before pixels are clamped to 0..1."""
        if self.mask is not None and self.latent is not None:
            x0 = x0 * self.mask[rows] + self.latent[rows] * (1 - self.mask[rows])
        return (self.autoencoder.decode_raw if raw else self.autoencoder.decode)(self.denoiser.latent_out(x0))

    def logits(self, image: torch.Tensor) -> torch.Tensor:
        """The classifier's logits [B, 8], wherever it lies, on the latents' device."""
        return self.classifier(_where_its_weights_are(self.classifier, image)).float().to(self.open.device)

    def logits_of_views(self, image: torch.Tensor, call: int, inner: int) -> torch.Tensor:
        """The classifier's logits [B, 8], the mean over `views` of the image. Draws follow the seed and the step
        alone."""
        if not self.config.views:
            return self.logits(image)
        generator = torch.Generator().manual_seed(hash((self.config.seed, call, inner)) % 2**63)
        return torch.stack([self.logits(view(image, generator)) for _ in range(self.config.views)]).mean(dim=0)

    def fit(self, image: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """[n]: the cosine of images [n, 3, H, W], which are `rows` of the batch, with the gate's prompt;
        differentiable."""
        assert self.gate is not None and self.gate_text is not None
        features = self.gate.scorer.image_features(_where_its_weights_are(self.gate.scorer, image))
        return (features * self.gate_text[rows].to(features)).sum(dim=-1).float().to(self.open.device)

    def loss(self, rows: torch.Tensor | slice = slice(None)) -> EmotionLoss:
        """The loss of some rows of the batch, as the gate left target and inherent emotion."""
        return EmotionLoss(
            self.target[rows],
            ordinary(self.inherent)[rows] if self.config.inherent_weight else None,
            self._similar[rows],
            self._wanted[rows],
            self.config.inherent_weight,
            self.config.similar_weight,
        )

    # -- the gate ---------------------------------------------------------------------------------------------------

    def _step(self, sigma: torch.Tensor) -> int:
        # The sampler's step, not the model call: second-order samplers call twice a step.
        return int((self.sigmas > sigma[0] * (1 + 1e-4)).sum())

    def _ask_gate(
        self, x: torch.Tensor, sigma: torch.Tensor, plain: torch.Tensor, own: torch.Tensor, record: TraceCall
    ) -> None:
        """Scores the images whose gate is closed, opens it where they fit, and fixes target and inherent emotion.

        plain, own  clean predictions with guidance, and under the text alone
        """
        opens = ~self.open & (self.intensity > 0)
        if self.gate:
            image = self._walked_to_the_end(x, sigma, plain) if self.gate.estimate == "full" else self.image(own)
            score = self.gate.scorer.score(image, self.gate_text).to(x.device)
            record.gate_score = score.tolist()
            forced = record.step >= self.gate.force_open_at * (len(self.sigmas) - 1)
            opens = opens & ((score >= self.gate.threshold) | forced)
        if bool(opens.any()):
            # Only now: a closed gate costs a decode and a CLIP pass, nothing else.
            now = self.logits(self.image(plain)).softmax(dim=-1)
            # Inherent: the last step before the gate opened, or this one where it opens at once.
            before = now if self._before is None else self.logits(self.image(self._before)).softmax(dim=-1)
            for i in opens.nonzero().flatten().tolist():
                self.inherent[i] = before[i].argmax()
                self.target[i] = now[i].lerp(self.target[i], self.intensity[i])
                self.trace.opened_at[i] = record.step
                self.trace.inherent[i] = MIKELS[int(self.inherent[i])]
        self._before = plain
        self.open |= opens

    def _walked_to_the_end(self, x: torch.Tensor, sigma: torch.Tensor, plain: torch.Tensor) -> torch.Tensor:
        """The image that Euler's method reaches without tokens from here. Where x lies within 5 % of where the last
        walk passed (a deterministic sampler), that walk's end is returned."""
        step = self._step(sigma)
        passed = self._walked.get(step)
        if self._end is not None and passed is not None and (x - passed).norm() < 0.05 * x.norm():
            return self._end
        self._walked = {}
        current, denoised, now = x, plain, sigma[0]
        for i, then in enumerate(self.sigmas[self.sigmas < sigma[0] * (1 - 1e-4)], step + 1):
            current = current + (current - denoised) / now * (then - now)
            self._walked[i], now = current, then
            if then > 0:
                # Equation 6 alone: a guided prediction of the host may leave its mark on the step that is under way.
                level = then * sigma.new_ones(len(x))
                cond = self.denoiser(current, level, self.positive)
                uncond = cond if self.config.cfg == 1.0 else self.denoiser(current, level, self.negative)
                denoised = uncond + self.config.cfg * (cond - uncond)
        self._end = self.image(current)
        return self._end


def _where_its_weights_are(network: Any, image: torch.Tensor) -> torch.Tensor:
    weight = next(network.parameters(), None) if isinstance(network, torch.nn.Module) else None
    return image if weight is None else image.to(weight.device)
