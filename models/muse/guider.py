"""MUSE as a method that an engine's guider asks for every prediction, and the GUIDER socket made of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..diffusion import engine
from ..diffusion.protocol import Autoencoder, Conditioning, Context, Denoiser, Guider
from ..emotions import EmotionTarget
from .config import MuseConfig
from .gate import TimingGate
from .run import Classifier, MuseRun
from .tokens import EmotionTokens
from .trace import TraceStore


@dataclass(frozen=True)
class Muse:
    """What is to be done in every run, as `protocol.Method`: a plan that runs do not change.

    classifier   what guides; differentiable
    emotions     the images of a batch take them in turn
    gate         when guidance starts; None: at the first step
    init_tokens  what tokens start from; None: small random ones of the config's seed
    run_type     the class of its runs, for who measures another inner loop
    traces       what its last eight runs came to
    """

    classifier: Classifier
    emotions: tuple[EmotionTarget, ...]
    config: MuseConfig = field(default_factory=MuseConfig)
    gate: TimingGate | None = None
    init_tokens: EmotionTokens | None = None
    run_type: type[MuseRun[Any]] = MuseRun
    traces: TraceStore = field(default_factory=TraceStore, compare=False)

    @property
    def cfg(self) -> float:
        """See `protocol.Method`."""
        return self.config.cfg

    @property
    def networks(self) -> list[Any]:
        """See `protocol.Method`: the classifier, and the gate's CLIP."""
        return [self.classifier, *([self.gate.scorer] if self.gate else [])]

    @property
    def differentiates(self) -> bool:
        """See `protocol.Method`."""
        return any(e.intensity > 0 for e in self.emotions)

    def start(
        self,
        denoiser: Denoiser[Context],
        autoencoder: Autoencoder,
        positive: Context,
        negative: Context,
        x: torch.Tensor,
        sigmas: torch.Tensor,
        latent: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> MuseRun[Context]:
        """A run; see `MuseRun`. UserError where the first tokens are not as wide as the text."""
        return self.run_type(
            denoiser,
            autoencoder,
            positive,
            negative,
            x,
            sigmas,
            latent,
            mask,
            self.classifier,
            self.emotions,
            self.config,
            self.gate,
            self.init_tokens,
        )

    def finish(self, run: MuseRun[Any], samples: torch.Tensor) -> None:
        """See `protocol.Method`: keeps trace and tokens, to be found by the latent that the run returned."""
        run.tell()
        self.traces.put(samples, run.trace, run.result())


def muse_guider(
    model: Any,
    vae: Any,
    classifier: Classifier,
    positive: Conditioning,
    negative: Conditioning,
    emotion: EmotionTarget | Sequence[EmotionTarget],
    config: MuseConfig | None = None,
    gate: TimingGate | None = None,
    init_tokens: EmotionTokens | None = None,
) -> Guider:
    """A GUIDER whose predictions carry emotional tokens, on whichever engine `model` belongs to. What its runs came to
    is found by the latent that it returned: `guider.method.traces.get(samples)`.

    model, vae, positive, negative  what the sockets of that name carry
    emotion                         one, or several that the images of a batch take in turn
    """
    emotions = (emotion,) if isinstance(emotion, EmotionTarget) else tuple(emotion)
    method = Muse(classifier, emotions, config or MuseConfig(), gate, init_tokens)
    return engine(model).guider(model, vae, positive, negative, method)
