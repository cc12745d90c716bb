"""MUSE's nodes: the timing gate, the optimizer as a GUIDER, the sampler in one node, and the trace."""

from __future__ import annotations

import json
from typing import Any

from ..models import diffusion, host
from ..models.errors import UserError
from .widgets import choice, flag, integer, real, seed, share, socket, text


def _required() -> dict[str, Any]:
    """The inputs that optimizer and sampler share."""
    return {
        "model": socket("MODEL", "The diffusion model."),
        "positive": socket("CONDITIONING", "What the image shows. Emotional tokens are appended to this text."),
        "negative": socket("CONDITIONING", "What to avoid; it gets no emotional tokens."),
        "vae": socket("VAE", "Decodes each step's clean prediction for the classifier."),
        "emotion": socket("AFFECT_EMOTION", "What the image should make people feel."),
        "classifier": socket("AFFECT_EMOTION_CLASSIFIER", "Recognises the emotion; its gradients guide."),
        "cfg": real(
            7.5,
            (0.0, 100.0, 0.1),
            "Classifier-free guidance: how closely to follow the text. FLUX-dev needs 1 (with FluxGuidance).",
            round=0.01,
        ),
        "n_tokens": integer(
            4, (1, 64), "Emotional tokens per image. More have more effect, and outweigh the prompt sooner."
        ),
        "learning_rate": real(
            0.01, (0.0, 1.0, 0.001), "Adam's step size at the first sampler step; falls linearly.", round=False
        ),
        "max_inner_steps": integer(
            20, (0, 1000), "Optimisation steps in each sampler step at most. 0: tokens stay random."
        ),
        "stop_loss": real(0.0001, (0.0, 1.0, 0.0001), "An inner loop ends below this loss.", round=False),
        "inherent_weight": real(
            0.0005,
            (0.0, 1.0, 0.0001),
            "How strongly to suppress the emotion that the image has without guidance.",
            round=False,
        ),
        "similar_weight": real(
            0.0015,
            (0.0, 1.0, 0.0001),
            "How strongly to suppress the target's neighbours on Mikels' wheel.",
            round=False,
        ),
        "seed": seed("Draws the first tokens; in the sampler node also the noise."),
    }


def _optional() -> dict[str, Any]:
    return {
        "timing_gate": socket("AFFECT_TIMING_GATE", "When to start. Without it: at the first step."),
        "init_tokens": socket(
            "AFFECT_EMOTION_TOKENS,AFFECT_EMOLAT_CODE",
            "Start from saved tokens, or from an EmoLat code, instead of random ones.",
        ),
        "views": integer(
            2,
            (0, 16),
            "Random crops and mirrorings that the classifier sees: the result convinces other classifiers too, and "
            "takes slightly longer. 0: the image as it is.",
        ),
        "content_weight": real(
            5.0,
            (0.0, 1000.0, 0.5),
            "How strongly to keep the content of the gate's prompt, by the gate's CLIP: more keeps more content, with "
            "less emotion. 0: the paper's loss. Needs a timing gate.",
        ),
    }


def _config(inputs: dict[str, Any]) -> Any:
    from ..models.muse import MuseConfig

    return MuseConfig(**{k: inputs[k] for k in MuseConfig.__dataclass_fields__ if k in inputs})


def _guider(inputs: dict[str, Any]) -> Any:
    from ..models.emolat.space import EmoLatCode
    from ..models.muse import muse_guider

    config, first = _config(inputs), inputs.get("init_tokens")
    if inputs.get("timing_gate") is None and config.content_weight not in (0.0, type(config).content_weight):
        host.current().note(
            f"content_weight, {config.content_weight:g}, has no effect without a gate's CLIP, which keeps the content. "
            "Connect a CLIP Timing Gate."
        )
    first = first.as_tokens() if isinstance(first, EmoLatCode) else first
    return muse_guider(
        inputs["model"],
        inputs["vae"],
        inputs["classifier"],
        inputs["positive"],
        inputs["negative"],
        inputs["emotion"],
        config,
        inputs.get("timing_gate"),
        first,
    )


def _plots(trace: Any) -> Any:
    import numpy as np
    import torch

    from ..models.muse.plot import trace_plot

    return torch.from_numpy(np.stack([trace_plot(trace, i) for i in range(len(trace.opened_at))]))


class AffectClipTimingGate:
    CATEGORY = "affect/muse"
    SEARCH_ALIASES = ["muse when", "start of guidance", "clip threshold", "semantic score gate", "start step"]
    DESCRIPTION = (
        "When MUSE's guidance starts: once the forming image fits the text. Too early loses the content, too late "
        "loses the emotion."
    )
    RETURN_TYPES = ("AFFECT_TIMING_GATE",)
    RETURN_NAMES = ("timing_gate",)
    OUTPUT_TOOLTIPS = ("Into an Emotion Token Optimizer or Emotion Sampler.",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        from ..models.muse.gate import ESTIMATES

        return {
            "required": {
                "clip_scorer": socket("AFFECT_CLIP_SCORER", "Scores image against text."),
                "prompt": text("What the image shows.", multiline=True),
                "threshold": real(
                    18.0,
                    (-100.0, 100.0, 0.1),
                    "Opens at this CLIP score. 14: almost at once; 18: the paper's best; 24: late.",
                ),
                "estimate": choice(
                    ESTIMATES,
                    "one_step scores each step's clean prediction. full runs the remaining steps first; under a "
                    "deterministic sampler they always end in the same image, so that the gate opens at the first step "
                    "or never.",
                ),
                "force_open_at": share(
                    1.0, "Opens after this share of the steps, whatever the score. 1: never forced."
                ),
            }
        }

    @classmethod
    def VALIDATE_INPUTS(cls, prompt: str | None = None) -> bool | str:
        if prompt is not None and not prompt.strip():
            return "The timing gate's prompt is empty: write what the image shows, as in the positive prompt."
        return True

    def run(self, clip_scorer: Any, prompt: str, threshold: float, estimate: str, force_open_at: float) -> tuple[Any]:
        from ..models.muse import TimingGate

        return (TimingGate(clip_scorer, prompt, threshold, estimate, force_open_at),)


class AffectEmotionTokenOptimizer:
    CATEGORY = "affect/muse"
    SEARCH_ALIASES = [
        "muse",
        "emotional guidance",
        "guider",
        "test-time optimization",
        "textual inversion while sampling",
        "evoke emotion",
    ]
    DESCRIPTION = (
        "MUSE: optimises emotional tokens after your prompt while sampling, so that a classifier recognises the "
        "emotion in every step's prediction. Use it as the guider of SamplerCustomAdvanced."
    )
    RETURN_TYPES = ("GUIDER",)
    OUTPUT_TOOLTIPS = ("Into SamplerCustomAdvanced, and into Emotion Trace.",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": _required(), "optional": _optional()}

    def run(self, **inputs: Any) -> tuple[Any]:
        return (_guider(inputs),)


class AffectEmotionTrace:
    CATEGORY = "affect/muse"
    SEARCH_ALIASES = ["muse trace", "loss plot", "guidance history", "optimised tokens"]
    DESCRIPTION = "What the optimizer did: when the gate opened, how the emotions moved, each inner loss."
    RETURN_TYPES = ("IMAGE", "STRING", "AFFECT_EMOTION_TOKENS")
    RETURN_NAMES = ("plot", "json", "tokens")
    OUTPUT_TOOLTIPS = ("One plot per image.", "All figures.", "The optimised tokens, to save or apply.")
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "guider": socket("GUIDER", "The Emotion Token Optimizer that the sampler used."),
                "latent": socket("LATENT", "The sampler's own output, which identifies the run."),
            }
        }

    def run(self, guider: Any, latent: dict[str, Any]) -> tuple[Any, str, Any]:
        from ..models.muse import Muse

        method = getattr(guider, "method", None)
        if not isinstance(method, Muse):
            raise UserError("This guider does not keep a trace: connect an Emotion Token Optimizer.")
        trace, tokens = method.traces.get(latent["samples"])
        return _plots(trace), json.dumps(trace.to_json()), tokens


class AffectEmotionSampler:
    CATEGORY = "affect/muse"
    SEARCH_ALIASES = ["muse", "emotional sampler", "emotional ksampler", "evoke emotion", "generate with feeling"]
    DESCRIPTION = "MUSE in one node: optimizer, sampler and trace together."
    RETURN_TYPES = ("LATENT", "IMAGE", "AFFECT_EMOTION_TOKENS")
    RETURN_NAMES = ("latent", "plot", "tokens")
    OUTPUT_TOOLTIPS = ("The emotional image's latent.", "What happened.", "The optimised tokens.")
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        samplers, schedulers = diffusion.current_engine().sampling_choices()
        more = {
            "latent_image": socket("LATENT", "Empty for generation; an encoded or inverted image for editing."),
            "steps": integer(20, (1, 10000), "Sampler steps."),
            "sampler_name": choice(samplers, "The sampler."),
            "scheduler": choice(schedulers, "How noise falls over the steps."),
            "denoise": share(1.0, "1 starts from noise; less keeps some of the latent."),
            "add_noise": flag(True, "Off after DDIM Inversion: its latent is noise."),
        }
        return {"required": _required() | more, "optional": _optional()}

    def run(
        self,
        latent_image: dict[str, Any],
        steps: int,
        sampler_name: str,
        scheduler: str,
        denoise: float,
        add_noise: bool,
        **inputs: Any,
    ) -> tuple[Any, Any, Any]:
        guider = _guider(inputs)
        latent = diffusion.engine(inputs["model"]).sample(
            guider, latent_image, inputs["seed"], sampler_name, scheduler, steps, denoise, add_noise
        )
        trace, tokens = guider.method.traces.get(latent["samples"])
        return latent, _plots(trace), tokens


NODES = {
    "AffectClipTimingGate": (AffectClipTimingGate, "CLIP Timing Gate"),
    "AffectEmotionTokenOptimizer": (AffectEmotionTokenOptimizer, "Emotion Token Optimizer"),
    "AffectEmotionTrace": (AffectEmotionTrace, "Emotion Trace"),
    "AffectEmotionSampler": (AffectEmotionSampler, "Emotion Sampler"),
}
