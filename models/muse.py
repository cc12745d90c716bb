"""MUSE: emotional tokens optimised while sampling (Xia et al., "MUSE", sections IV-A to IV-C).

HOW    tokens S behind the text's embeddings are optimised so that a classifier sees the target emotion in the
       clean prediction of each step (`Muse`, equations 7 and 8)
WHEN   a gate opens once the clean prediction fits the prompt (`TimingGate`, equations 9 and 10)
WHICH  a loss pushes the target and holds down the inherent and the similar emotions (`EmotionLoss`, 11 to 13)

What the paper leaves open is settled where it is coded. All of it speaks `diffusion.protocol` alone.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from . import files, host
from .diffusion.protocol import Autoencoder, Conditioning, Denoiser, TextContext
from .diffusion.selfcheck import SelfCheck
from .emotions import MIKELS, EmotionTarget
from .errors import UserError
from .networks.views import view
from .tensors.batch import repeat_to_batch
from .tensors.gradients import ordinary, ordinary_weights
from .tensors.memory import give_back_memory, out_of_memory
from .tensors.ranges import clamp01

Classifier = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class MuseConfig:
    """The paper's settings (section V-A), and the number of tokens and inner steps, which it does not give.

    views  the classifier's answer inside the loop is the mean over so many random views of the image (expectation over
           transformation, Athalye et al. 2018); 0 shows it the image itself, as the paper does. With them an image
           convinces classifiers that did not guide it far more often.
    content_weight  how much weighs what the image loses, against the plain prediction of the same step, of its fit to
                    the gate's
           prompt (CLIP cosine); 0 leaves it out, as the paper does. The gate knows scorer and prompt: without one it is
           left out.
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


# -- tokens -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EmotionTokens:
    """The EMOTION_TOKENS socket: tokens [B, n, D] that stand behind a text's embeddings, and what they mean."""

    tokens: torch.Tensor
    label: str = ""
    optimised: bool = True
    """False where a run left them as drawn: its gate never opened, or its intensity was 0."""

    def save(self, path: Path | str) -> Path:
        """Writes a safetensors file. UserError where the tokens were never optimised."""
        if not self.optimised:
            raise UserError(
                "These emotion tokens were never optimised: the gate did not open, or the intensity was 0. "
                "Nothing was saved; look at the trace."
            )
        return files.save_safetensors(path, {"emotion_tokens": self.tokens.float()}, {"label": self.label})

    @classmethod
    def load(cls, path: Path | str) -> EmotionTokens:
        """Reads what `save` wrote. UserError where the file holds something else."""
        state, metadata = files.load_safetensors(path)
        if set(state) != {"emotion_tokens"} or state["emotion_tokens"].ndim != 3:
            raise UserError(f"'{Path(path).name}' holds no emotion tokens: save some with Save Emotion Tokens.")
        if not torch.isfinite(state["emotion_tokens"].float()).all():
            raise UserError(
                f"The emotion tokens in '{Path(path).name}' hold values that are no numbers (NaN or infinity): the file is "
                "damaged. Optimise and save them again."
            )
        return cls(state["emotion_tokens"], metadata.get("label", ""))

    def apply(self, conditioning: Conditioning) -> Conditioning:
        """The conditioning with the tokens behind each of its texts; UserError where their widths differ."""
        out = []
        for embeds, options in conditioning:
            check_width(self.tokens, embeds.shape[-1])
            options, mask = dict(options), options.get("attention_mask")
            if mask is not None:
                if mask.ndim != 2 or mask.shape[-1] != embeds.shape[1]:
                    raise UserError(
                        "This conditioning carries an attention mask that does not count its tokens one by one (Redux and other "
                        "image prompts make one), which emotional tokens would make wrong. Connect the text encoder's own."
                    )
                options["attention_mask"] = torch.cat([mask, mask.new_ones(len(mask), self.tokens.shape[1])], dim=1)
            tokens = self.tokens.to(embeds)
            batch = max(len(tokens), len(embeds))
            parts = [t.expand(batch, -1, -1) if len(t) == 1 else t for t in (embeds, tokens)]
            if {len(p) for p in parts} != {batch}:
                raise UserError(f"{len(tokens)} sets of emotion tokens do not fit a conditioning of {len(embeds)}.")
            out.append([torch.cat(parts, dim=1), options])
        return out


def check_width(tokens: torch.Tensor, width: int) -> None:
    if tokens.shape[-1] != width:
        raise UserError(
            f"These emotion tokens are {tokens.shape[-1]} wide and the model's text is {width} wide: they "
            "were optimised for another model family. Optimise them for this one."
        )


def initial_tokens(batch: int, n: int, like: torch.Tensor, seed: int) -> torch.Tensor:
    """[batch, n, D] float32, small and random: a tenth of the deviation of the text's own embeddings `like`
    [.., D] (the paper says only "randomly initialize"; small ones hardly disturb the step they first enter)."""
    generator = torch.Generator("cpu").manual_seed((seed + 2**32) % 2**64)  # not the stream of the latent's noise
    noise = torch.randn(batch, n, like.shape[-1], generator=generator)
    return noise.to(like.device) * (0.1 * like.float().std())


# -- loss -------------------------------------------------------------------------------------------------------


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
        """logits [B, 8] -> [B]: target - l1 inherent - l2 similar (equation 13)."""
        parts = self.parts(logits)
        return parts["target"] - self.inherent_weight * parts["inherent"] - self.similar_weight * parts["similar"]


# -- gate -------------------------------------------------------------------------------------------------------


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
        if self.estimate not in ("one_step", "full"):
            raise UserError(f"The gate's estimate is one_step or full, not '{self.estimate}'.")

    @property
    def prompts(self) -> tuple[str, ...]:
        return (self.prompt,) if isinstance(self.prompt, str) else self.prompt


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


class _WayBack:
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


def _brought_to(module: Any, image: torch.Tensor) -> torch.Tensor:
    """The image where a network's weights are."""
    weight = next(module.parameters(), None) if isinstance(module, torch.nn.Module) else None
    return image if weight is None else image.to(weight.device)


# -- the method -------------------------------------------------------------------------------------------------


class Muse:
    """MUSE around a denoiser: `predict` takes the denoiser's place in any sampler.

    Call `start` before each run; then `predict` for every model call; then read `tokens` and `trace`. Several emotions
    are taken by the images of a batch in turn.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        autoencoder: Autoencoder,
        classifier: Classifier,
        positive: TextContext,
        negative: TextContext,
        emotion: EmotionTarget | Sequence[EmotionTarget],
        config: MuseConfig = MuseConfig(),
        gate: TimingGate | None = None,
        init_tokens: EmotionTokens | None = None,
    ):
        if init_tokens is not None:
            check_width(init_tokens.tokens, positive.width)
        self.denoiser, self.autoencoder, self.classifier = denoiser, autoencoder, classifier
        self.positive, self.negative = positive, negative
        self.emotions = (emotion,) if isinstance(emotion, EmotionTarget) else tuple(emotion)
        self.config, self.gate, self.init_tokens = config, gate, init_tokens

    # A run's state is made here and nowhere else: a cached guider outlives a run.
    def start(
        self,
        x: torch.Tensor,
        sigmas: torch.Tensor,
        latent: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> None:
        """x [B, C, h, w] fixes batch and device; sigmas [n + 1] the schedule; latent and mask [B, 1, h, w] (denoiser
        scale) what lies under a latent mask, so that the classifier sees the image that will come out."""
        batch, device = len(x), x.device
        self.sigmas = sigmas.to(x)
        self.latent, self.mask = (t if t is None else ordinary(repeat_to_batch(t, batch)) for t in (latent, mask))
        self.tokens = self._initial(batch, device)
        self.open = torch.zeros(batch, dtype=torch.bool, device=device)
        emotions = [self.emotions[i % len(self.emotions)] for i in range(batch)]
        mark = lambda names: [[float(name in names(e)) for name in MIKELS] for e in emotions]
        with torch.inference_mode(False):
            self.target = torch.tensor([e.distribution for e in emotions], device=device)
            self.intensity = torch.tensor([e.intensity for e in emotions], device=device)
            self._similar = torch.tensor(mark(EmotionTarget.similar), device=device)
            self._wanted = torch.tensor(mark(EmotionTarget.wanted), device=device)
            self.inherent = torch.zeros(batch, dtype=torch.long, device=device)  # of the images whose gate is open
        self._seen: torch.Tensor | None = None  # the prediction of the last step that the gate was asked at
        self._save_memory = self.denoiser.short_of_memory(x)
        self._denoiser_check = SelfCheck("diffusion model", self.denoiser.single_precision)
        self._decoder_check = SelfCheck("VAE", self.autoencoder.single_precision)
        self._judged = -1  # the last step that the gate was asked at
        self._path: dict[int, torch.Tensor] = {}  # where the last `full` walk passed, by step, and where it ended
        self._end: torch.Tensor | None = None
        self._gate_text = None
        if self.gate:
            self._gate_text = ordinary(repeat_to_batch(self.gate.scorer.text_features(list(self.gate.prompts)), batch))
        self.trace = Trace(
            emotions, self.gate.threshold if self.gate else None, opened_at=[None] * batch, inherent=[None] * batch
        )
        if any(e.intensity == 0.0 for e in emotions):
            self.trace.notes.append("The intensity is 0: no tokens were appended.")
        if self.init_tokens is not None and self.tokens.shape[1] != self.config.n_tokens:
            self.trace.notes.append(
                f"init_tokens gives {self.tokens.shape[1]} tokens an image, so n_tokens, {self.config.n_tokens}, does not "
                "count. Save more tokens, or draw more EmoLat codes, for others."
            )

    def _initial(self, batch: int, device: torch.device) -> torch.Tensor:
        if self.init_tokens is None:
            return initial_tokens(batch, self.config.n_tokens, self.positive.embeds, self.config.seed).to(device)
        tokens = self.init_tokens.tokens.to(device, torch.float32)
        return tokens[[i % len(tokens) for i in range(batch)]].clone()

    def result(self) -> EmotionTokens:
        """The tokens of the images whose gate opened, one set each; as drawn, and marked so, where none did."""
        rows = self.open if bool(self.open.any()) else torch.ones_like(self.open)
        label = " | ".join(dict.fromkeys(e.label for e in self.trace.emotions))
        return EmotionTokens(self.tokens.detach()[rows].cpu().clone(), label, bool(self.open.any()))

    def finish(self) -> None:
        """Tells the user what happened in a run that is over, where it is not what was asked for."""
        closed = [
            i for i, step in enumerate(self.trace.opened_at) if step is None and self.trace.emotions[i].intensity > 0
        ]
        if closed and self.gate:
            best = [max(c.gate_score[i] for c in self.trace.calls if c.gate_score) for i in closed]
            self.trace.notes.append(
                f"The gate never opened for image {', '.join(map(str, closed))}: its best score was "
                f"{max(best):.1f} and the threshold is {self.gate.threshold:g}. Lower the threshold, or set "
                "force_open_at below 1."
            )
        for note in self.trace.notes:
            host.current().note(note)

    def _note(self, text: str) -> None:
        if text not in self.trace.notes:
            self.trace.notes.append(text)

    def predict(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """x [B, C, h, w], sigma [B] -> guided clean latent [B, C, h, w], tokens optimised on the way."""
        host.current().check_interrupted()
        record = TraceCall(len(self.trace.calls), self._step(sigma), float(sigma[0]))
        self.trace.calls.append(record)
        plain = None
        with torch.no_grad():
            if not bool(self.open.all()):
                own: list[torch.Tensor] = []
                plain = self._guided(x, sigma, self.positive, own)
                # A second-order sampler comes back to a step that was judged already.
                if record.step > self._judged and bool((self.intensity > 0).any()):
                    self._judged = record.step
                    self._update_gate(x, sigma, plain, own[0], record)
            record.open = self.open.tolist()
            if not bool(self.open.any()):
                return plain
        emotional = self._optimise(x, sigma, record)
        return emotional if bool(self.open.all()) else torch.where(self.open.view(-1, 1, 1, 1), emotional, plain)

    def _guided(
        self, x: torch.Tensor, sigma: torch.Tensor, positive: TextContext, own: list[torch.Tensor] | None = None
    ) -> torch.Tensor:
        return self.denoiser.guided(x, sigma, positive, self.negative, self.config.cfg, own)

    def _step(self, sigma: torch.Tensor) -> int:
        # The sampler's step, not the model call: second-order samplers call twice a step.
        return int((self.sigmas > sigma[0] * (1 + 1e-4)).sum())

    def _image(self, x0: torch.Tensor, rows: torch.Tensor | slice = slice(None), raw: bool = False) -> torch.Tensor:
        """What the clean latents of some rows of the batch look like, with the masked part as it will be composited;
        where `raw`, before pixels are clamped to 0..1."""
        if self.mask is not None and self.latent is not None:
            x0 = x0 * self.mask[rows] + self.latent[rows] * (1 - self.mask[rows])
        return (self.autoencoder.decode_raw if raw else self.autoencoder.decode)(self.denoiser.latent_out(x0))

    def _feels(self, image: torch.Tensor) -> torch.Tensor:
        """The classifier's logits [B, 8], wherever it lies, on the latents' device."""
        return self.classifier(_brought_to(self.classifier, image)).float().to(self.open.device)

    def _fit(self, image: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """[n]: the cosine of images [n, 3, H, W], which are `rows` of the batch, with the gate's prompt;
        differentiable."""
        features = self.gate.scorer.image_features(_brought_to(self.gate.scorer, image))
        return (features * self._gate_text[rows].to(features)).sum(dim=-1).float().to(self.open.device)

    def _seen_variously(self, image: torch.Tensor, call: int, inner: int) -> torch.Tensor:
        """The classifier's logits [B, 8], the mean over `views` of the image. Draws follow the seed and the step
        alone."""
        if not self.config.views:
            return self._feels(image)
        generator = torch.Generator().manual_seed(hash((self.config.seed, call, inner)) % 2**63)
        return torch.stack([self._feels(view(image, generator)) for _ in range(self.config.views)]).mean(dim=0)

    def _update_gate(
        self, x: torch.Tensor, sigma: torch.Tensor, plain: torch.Tensor, own: torch.Tensor, record: TraceCall
    ) -> None:
        """Scores the images whose gate is closed, opens it where they fit, and fixes target and inherent emotion.

        plain, own  clean predictions with guidance, and under the text alone
        """
        opens = ~self.open & (self.intensity > 0)
        if self.gate:
            full = self.gate.estimate == "full"
            score = self.gate.scorer.score(
                self._full(x, sigma, plain) if full else self._image(own), self._gate_text
            ).to(x.device)
            record.gate_score = score.tolist()
            forced = record.step >= self.gate.force_open_at * (len(self.sigmas) - 1)
            opens = opens & ((score >= self.gate.threshold) | forced)
        if bool(opens.any()):
            # Only now: a closed gate costs a decode and a CLIP pass, nothing else.
            now = self._feels(self._image(plain)).softmax(dim=-1)
            # Inherent: the last step before the gate opened, or this one where it opens at once.
            before = now if self._seen is None else self._feels(self._image(self._seen)).softmax(dim=-1)
            for i in opens.nonzero().flatten().tolist():
                self.inherent[i] = before[i].argmax()
                self.target[i] = now[i].lerp(self.target[i], self.intensity[i])
                self.trace.opened_at[i] = record.step
                self.trace.inherent[i] = MIKELS[int(self.inherent[i])]
        self._seen = plain
        self.open |= opens

    def _full(self, x: torch.Tensor, sigma: torch.Tensor, plain: torch.Tensor) -> torch.Tensor:
        """The image that Euler's method reaches without tokens from here. Where x lies within 5 % of where the last
        walk passed (a deterministic sampler), that walk's end is returned."""
        step = self._step(sigma)
        passed = self._path.get(step)
        if passed is not None and (x - passed).norm() < 0.05 * x.norm():
            return self._end
        self._path = {}
        current, denoised, now = x, plain, sigma[0]
        for i, then in enumerate(self.sigmas[self.sigmas < sigma[0] * (1 - 1e-4)], step + 1):
            current = current + (current - denoised) / now * (then - now)
            self._path[i], now = current, then
            if then > 0:
                # Equation 6 alone: a guided prediction of the host may leave its mark on the step that is under way.
                level = then * sigma.new_ones(len(x))
                cond = self.denoiser(current, level, self.positive)
                uncond = cond if self.config.cfg == 1.0 else self.denoiser(current, level, self.negative)
                denoised = uncond + self.config.cfg * (cond - uncond)
        self._end = self._image(current)
        return self._end

    def _loss(self, rows: torch.Tensor | slice = slice(None)) -> EmotionLoss:
        inherent = ordinary(self.inherent)[rows] if self.config.inherent_weight else None
        return EmotionLoss(
            self.target[rows],
            inherent,
            self._similar[rows],
            self._wanted[rows],
            self.config.inherent_weight,
            self.config.similar_weight,
        )

    def _optimise(self, x: torch.Tensor, sigma: torch.Tensor, record: TraceCall) -> torch.Tensor:
        """The inner loop; where memory runs out, once more with gradient checkpointing, which then stays on."""
        while True:
            try:
                return self._inner_loop(x, sigma, record)
            except RuntimeError as error:
                if self._save_memory or not out_of_memory(error):
                    raise
            # Out of the except block: until then its traceback keeps every tensor alive.
            self._save_memory = True
            record.losses.clear()
            give_back_memory(x.device)
            self._note(
                "Memory ran out: the inner loop goes on with gradient checkpointing, which takes about a third longer."
            )

    def _inner_loop(self, x: torch.Tensor, sigma: torch.Tensor, record: TraceCall) -> torch.Tensor:
        """Equation 8: Adam on the tokens until every open image's loss is under the stop. Returns the guided clean
        latents of the open images with their final tokens; other rows mean nothing.

        Adam is fresh at each model call, with lr (1 - i/100) of the outer step i (the paper's formula is null-text
        inversion's, where i is the outer step). The unconditional prediction does not depend on the tokens: it is made
        once. An image that is done keeps its tokens, and leaves the batch where the host can take a batch apart.
        Whether it is done the emotion's loss says alone; the gradient is also that of the content's (ours,
        `content_weight`).
        """
        config, ui = self.config, host.current()
        record.learning_rate = config.learning_rate * max(0.0, 1 - record.step / 100)
        limit = config.max_inner_steps if record.learning_rate > 0 else 0
        rows = torch.arange(len(x), device=x.device)
        parts = self.positive.rows(rows) is not None
        rows = rows[self.open] if parts else rows
        scorer = self.gate.scorer if self.gate and config.content_weight else None
        with torch.no_grad():
            uncond = None if config.cfg == 1.0 else self.denoiser(x, sigma, self.negative)
        with (
            self.denoiser.gradients(self._save_memory),
            self.autoencoder.gradients(self._save_memory),
            ordinary_weights(*(m for m in (self.classifier, scorer) if isinstance(m, torch.nn.Module))),
        ):
            x, sigma, uncond, is_open, rows = (ordinary(t) for t in (x, sigma, uncond, self.open, rows))
            prediction = torch.zeros_like(x)
            tokens = self.tokens.clone().requires_grad_(True)
            optimizer = torch.optim.Adam([tokens], lr=record.learning_rate)
            fitted = torch.zeros_like(sigma)  # how well each plain prediction fits the prompt
            if scorer and limit:
                with torch.no_grad():
                    plain = self._guess(x, sigma, uncond, None, rows if parts else None)
                    fitted[rows] = self._fit(self._image(plain, rows), rows).to(fitted)

            for inner in range(limit):
                back = _WayBack()
                x0 = self._guess(x, sigma, uncond, tokens, rows if parts else None)
                raw = back.even(self._image(back.even(x0), rows, raw=True))
                image = clamp01(raw)
                logits = self._seen_variously(image, record.call, inner)
                loss = self._loss(rows)(logits)
                self._record(record, rows, logits, loss)
                prediction[rows] = x0.detach()
                active = is_open[rows] & ~(loss.detach() < config.stop_loss)
                if not bool(active.any()):
                    rows = rows[:0]
                    break
                if scorer:
                    loss = loss + config.content_weight * (fitted[rows] - self._fit(image, rows)).clamp(min=0)
                ui.check_interrupted()
                self._differentiate(tokens, loss, active)
                self._check(
                    tokens,
                    x0.detach(),
                    raw.detach(),
                    back,
                    rows,
                    lambda moved: self._guess(x, sigma, uncond, moved, rows if parts else None),
                )
                self._move(tokens, optimizer, back.scales, rows, active)
                ui.check_interrupted()
                ui.inner(record.step, inner + 1, limit, float(loss.detach()[active].mean()))
                rows = rows[active] if parts else rows
        self.tokens = tokens.detach()
        with torch.no_grad():
            if not self.denoiser.plain_guidance:
                prediction = self._guided(x, sigma, self.positive.append(self.tokens))
            elif len(rows):  # their tokens moved after they were last seen
                prediction[rows] = self._guess(x, sigma, uncond, self.tokens, rows if parts else None)
            if len(rows):
                logits = self._feels(self._image(prediction[rows], rows))
                self._record(record, rows, logits, self._loss(rows)(logits))
        return prediction

    def _guess(
        self,
        x: torch.Tensor,
        sigma: torch.Tensor,
        uncond: torch.Tensor | None,
        tokens: torch.Tensor | None,
        rows: torch.Tensor | None,
    ) -> torch.Tensor:
        """The guided clean latents (equations 6 and 7) of `rows`, or of all, with tokens appended if there are any."""
        positive = self.positive
        if rows is not None:
            x, sigma, positive = x[rows], sigma[rows], positive.rows(rows)
            uncond, tokens = (t if t is None else t[rows] for t in (uncond, tokens))
        cond = self.denoiser(x, sigma, positive if tokens is None else positive.append(tokens))
        return cond if uncond is None else uncond + self.config.cfg * (cond - uncond)

    def _differentiate(self, tokens: torch.Tensor, loss: torch.Tensor, active: torch.Tensor) -> None:
        """The gradient of the loss [n] of the active rows, into tokens.grad, as evened on its way."""
        if not loss.requires_grad:
            raise UserError(
                "No gradient runs from the image back to the emotional tokens: the MODEL carries a patch that "
                "reuses earlier results (EasyCache and other caches) or kernels without a backward pass "
                "(Nunchaku, fp8 fast). Connect the model to the Emotion Token Optimizer without it."
            )
        tokens.grad = None
        (loss * active).sum().backward(inputs=[tokens])

    def _check(
        self,
        tokens: torch.Tensor,
        x0: torch.Tensor,
        image: torch.Tensor,
        back: _WayBack,
        rows: torch.Tensor,
        guess: Callable[[torch.Tensor], torch.Tensor],
    ) -> None:
        """Holds the gradients of this inner step against what the networks do, where that is due (`selfcheck`).
        UserError where they disagree. x0 and image: what `rows` came to; guess: tokens -> their clean latents."""
        of_image, of_latent = back.sent
        if self._denoiser_check.due(self.denoiser.resident()):

            def latents(moved: torch.Tensor) -> torch.Tensor:
                every = tokens.detach().clone()
                every[rows] = moved
                return guess(every)

            self._denoiser_check.check(tokens[rows], tokens.grad[rows], of_latent, x0, latents)
        if self._decoder_check.due(self.autoencoder.resident()):
            self._decoder_check.check(
                x0, back.arrived[1], of_image, image, lambda moved: self._image(moved, rows, raw=True)
            )
        for check in (self._denoiser_check, self._decoder_check):
            if check.undecided:
                self._note(
                    f"The gradients of this {check.name} could not be checked: what the tokens change is lost in rounding or too curved."
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
        for scale in scales:
            tokens.grad[rows] *= scale.view(-1, 1, 1)
        finite = tokens.grad.flatten(1).isfinite().all(dim=1)
        moves = torch.zeros_like(finite)
        moves[rows] = active & finite[rows]
        if not bool((finite[rows] | ~active).all()):
            self._note(
                "A gradient was not finite; those tokens stayed as they were. A bf16 model has the range that an fp16 "
                "one lacks."
            )
        kept = tokens.detach().clone()
        tokens.grad.nan_to_num_(0.0, 0.0, 0.0)
        optimizer.step()
        with torch.no_grad():
            tokens[~moves] = kept[~moves]

    def _record(self, record: TraceCall, rows: torch.Tensor, logits: torch.Tensor, loss: torch.Tensor) -> None:
        """Writes down what `rows` came to; other rows keep what they had at the last evaluation."""
        losses = list(record.losses[-1]) if record.losses else [None] * len(self.open)
        after = list(record.after) if record.after else [None] * len(self.open)
        for i, value, p in zip(rows.tolist(), loss.tolist(), logits.detach().float().softmax(dim=-1).tolist()):
            if self.open[i]:
                losses[i], after[i] = value, p
        record.losses.append(losses)
        record.after = after
        record.before = record.before or after
