"""MUSE's nodes: the timing gate, the optimizer as a GUIDER, the sampler in one node, trace, inversion and tokens."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ..models import diffusion, files, host
from ..models.errors import UserError

_TOKENS = "emotion_tokens"


def _muse_inputs() -> dict[str, Any]:
    """The optimizer's inputs, which the sampler shares."""
    small = {"min": 0.0, "max": 1.0, "step": 0.0001, "round": False}
    return {
        "required": {
            "model": ("MODEL", {"tooltip": "The diffusion model."}),
            "positive": (
                "CONDITIONING",
                {"tooltip": "What the image shows. Emotional tokens are put behind this text."},
            ),
            "negative": ("CONDITIONING", {"tooltip": "What to avoid; it gets no emotional tokens."}),
            "vae": ("VAE", {"tooltip": "Decodes each step's clean prediction for the classifier."}),
            "emotion": ("AFFECT_EMOTION", {"tooltip": "What the image should make people feel."}),
            "classifier": (
                "AFFECT_EMOTION_CLASSIFIER",
                {"tooltip": "Says what it feels, and in which direction to go."},
            ),
            "cfg": (
                "FLOAT",
                {
                    "default": 7.5,
                    "min": 0.0,
                    "max": 100.0,
                    "step": 0.1,
                    "round": 0.01,
                    "tooltip": "Classifier-free guidance: how closely to follow the text. FLUX-dev wants 1 (with "
                    "FluxGuidance).",
                },
            ),
            "n_tokens": (
                "INT",
                {
                    "default": 4,
                    "min": 1,
                    "max": 64,
                    "tooltip": "Emotional tokens an image. More can say more, and drown the prompt sooner.",
                },
            ),
            "learning_rate": (
                "FLOAT",
                {
                    "default": 0.01,
                    "min": 0.0,
                    "max": 1.0,
                    "step": 0.001,
                    "round": False,
                    "tooltip": "Adam's step size at the first sampler step; falls linearly.",
                },
            ),
            "max_inner_steps": (
                "INT",
                {
                    "default": 20,
                    "min": 0,
                    "max": 1000,
                    "tooltip": "At most so many optimisation steps in each sampler step. 0: tokens stay random.",
                },
            ),
            "stop_loss": ("FLOAT", {"default": 0.0001, **small, "tooltip": "An inner loop ends under this loss."}),
            "inherent_weight": (
                "FLOAT",
                {
                    "default": 0.0005,
                    **small,
                    "tooltip": "How strongly to hold down the emotion that the image has of itself.",
                },
            ),
            "similar_weight": (
                "FLOAT",
                {
                    "default": 0.0015,
                    **small,
                    "tooltip": "How strongly to hold down the target's neighbours on Mikels' wheel.",
                },
            ),
            "seed": (
                "INT",
                {
                    "default": 0,
                    "min": 0,
                    "max": 0xFFFFFFFFFFFFFFFF,
                    "control_after_generate": True,
                    "tooltip": "Draws the first tokens; in the sampler node also the noise.",
                },
            ),
        },
        "optional": {
            "timing_gate": ("AFFECT_TIMING_GATE", {"tooltip": "When to start. Without it: at the first step."}),
            "init_tokens": (
                "AFFECT_EMOTION_TOKENS,AFFECT_EMOLAT_CODE",
                {"tooltip": "Start from saved tokens, or from an EmoLat code, instead of random ones."},
            ),
            "views": (
                "INT",
                {
                    "default": 2,
                    "min": 0,
                    "max": 16,
                    "tooltip": "The classifier looks at so many random crops and "
                    "mirrorings: others are convinced too, and it takes a little longer. 0: the image as it is.",
                },
            ),
            "content_weight": (
                "FLOAT",
                {
                    "default": 5.0,
                    "min": 0.0,
                    "max": 1000.0,
                    "step": 0.5,
                    "tooltip": "How strongly to hold on to what "
                    "the gate's prompt says, by the gate's CLIP: more keeps the content and convinces less. 0: the "
                    "paper's loss. It takes a timing gate.",
                },
            ),
        },
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
            f"content_weight, {config.content_weight:g}, has no effect: it holds on to the content by a gate's CLIP. "
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
        "MUSE's WHEN: guidance starts once the forming image fits the text. Too early loses the content, "
        "too late loses the emotion."
    )
    RETURN_TYPES = ("AFFECT_TIMING_GATE",)
    RETURN_NAMES = ("timing_gate",)
    OUTPUT_TOOLTIPS = ("Into an Emotion Token Optimizer or Emotion Sampler.",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "clip_scorer": ("AFFECT_CLIP_SCORER", {"tooltip": "Scores image against text."}),
                "prompt": ("STRING", {"default": "", "multiline": True, "tooltip": "What the image shows."}),
                "threshold": (
                    "FLOAT",
                    {
                        "default": 18.0,
                        "min": -100.0,
                        "max": 100.0,
                        "step": 0.1,
                        "tooltip": "Opens at this CLIP score. 14 is nearly at once, 18 the paper's best, 24 late.",
                    },
                ),
                "estimate": (
                    ["one_step", "full"],
                    {
                        "tooltip": "one_step judges each step's own clean prediction. full walks the remaining steps "
                        "first; under a deterministic sampler that ends in the same image whenever it starts, so the "
                        "gate opens at the first step or never."
                    },
                ),
                "force_open_at": (
                    "FLOAT",
                    {
                        "default": 1.0,
                        "min": 0.0,
                        "max": 1.0,
                        "step": 0.01,
                        "tooltip": "Opens after this share of the steps whatever the score. 1: never forced.",
                    },
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
        "MUSE: optimises emotional tokens behind your prompt while sampling, so that a classifier feels "
        "the emotion in every step's prediction. Use it as the guider of SamplerCustomAdvanced."
    )
    RETURN_TYPES = ("GUIDER",)
    OUTPUT_TOOLTIPS = ("Into SamplerCustomAdvanced, and into Emotion Trace.",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return _muse_inputs()

    def run(self, **inputs: Any) -> tuple[Any]:
        return (_guider(inputs),)


class AffectEmotionTrace:
    CATEGORY = "affect/muse"
    SEARCH_ALIASES = ["muse trace", "loss plot", "guidance history", "optimised tokens"]
    DESCRIPTION = "What the optimizer did: when the gate opened, how the emotions moved, each inner loss."
    RETURN_TYPES = ("IMAGE", "STRING", "AFFECT_EMOTION_TOKENS")
    RETURN_NAMES = ("plot", "json", "tokens")
    OUTPUT_TOOLTIPS = ("The plot, one an image.", "Every figure.", "The optimised tokens, to save or apply.")
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "guider": ("GUIDER", {"tooltip": "The Emotion Token Optimizer that the sampler used."}),
                "latent": ("LATENT", {"tooltip": "The sampler's own output: says which run is meant."}),
            }
        }

    def run(self, guider: Any, latent: dict[str, Any]) -> tuple[Any, str, Any]:
        from ..models.muse import Muse

        method = getattr(guider, "method", None)
        if not isinstance(method, Muse):
            raise UserError("This guider keeps no trace: connect an Emotion Token Optimizer.")
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
        inputs = _muse_inputs()
        inputs["required"] |= {
            "latent_image": ("LATENT", {"tooltip": "Empty for generation; an encoded or inverted image for editing."}),
            "steps": ("INT", {"default": 20, "min": 1, "max": 10000, "tooltip": "Sampler steps."}),
            "sampler_name": (samplers, {"tooltip": "The sampler."}),
            "scheduler": (schedulers, {"tooltip": "How noise falls over the steps."}),
            "denoise": (
                "FLOAT",
                {
                    "default": 1.0,
                    "min": 0.0,
                    "max": 1.0,
                    "step": 0.01,
                    "tooltip": "1 starts from noise; less keeps some of the latent.",
                },
            ),
            "add_noise": ("BOOLEAN", {"default": True, "tooltip": "Off after DDIM Inversion: its latent is noise."}),
        }
        return inputs

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


class GivenNoise:
    """The NOISE socket with noise [B, C, h, w] that is known, whatever latent it is asked for."""

    seed = 0

    def __init__(self, noise: Any):
        self.noise = noise

    def generate_noise(self, input_latent: dict[str, Any]) -> Any:
        """The noise; UserError where the latent has another size."""
        if input_latent["samples"].shape != self.noise.shape:
            raise UserError(
                f"The noise of DDIM Inversion is {tuple(self.noise.shape)} and the latent to sample from "
                f"{tuple(input_latent['samples'].shape)}. Connect DDIM Inversion's own latent beside it."
            )
        return self.noise


class AffectDDIMInversion:
    CATEGORY = "affect/muse"
    SEARCH_ALIASES = ["ddim inverse", "invert image", "image to noise", "unsample", "reverse sampling"]
    DESCRIPTION = (
        "Finds the noise that leads back to an image. Describe the image in the positive prompt, then sample "
        "from the result with add_noise off (or with this node's noise) and the same number of steps."
    )
    RETURN_TYPES = ("LATENT", "NOISE")
    RETURN_NAMES = ("latent", "noise")
    OUTPUT_TOOLTIPS = (
        "What to sample from: the image as noise; of a rectified-flow model (SD3, FLUX, Qwen-Image, ...) the image's "
        "own latent.",
        "The noise to sample with: none; of a rectified-flow model the noise that leads back to the image.",
    )
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The model that will sample."}),
                "positive": ("CONDITIONING", {"tooltip": "What the source image shows. Guidance is off (cfg 1)."}),
                "latent_image": ("LATENT", {"tooltip": "The encoded source image."}),
                "steps": (
                    "INT",
                    {"default": 20, "min": 1, "max": 10000, "tooltip": "As many as the sampler will take."},
                ),
            },
            "optional": {
                "scheduler": (
                    diffusion.current_engine().sampling_choices()[1],
                    {"default": "normal", "tooltip": "As the sampler's."},
                ),
            },
        }

    def run(
        self, model: Any, positive: Any, latent_image: dict[str, Any], steps: int, scheduler: str = "normal"
    ) -> tuple[Any, Any]:
        from ..models.diffusion.inversion import invert

        latent_image = dict(latent_image)
        if latent_image.pop("noise_mask", None) is not None:
            # A sampler would put back what lies outside the mask from this latent, which is noise now.
            host.current().note("DDIM Inversion inverts the whole image and drops the latent's mask.")
        latent, noise = invert(model, positive, latent_image["samples"], steps, scheduler)
        kept = {diffusion.INVERTED_NOISE: noise} if bool(noise.any()) else {}  # Emotion Sampler finds it there
        return {**latent_image, "samples": latent, **kept}, GivenNoise(noise)


def _token_folders() -> list[Path]:
    ui = host.current()
    return [ui.output_dir / _TOKENS, *ui.models_dirs(_TOKENS)]


def _token_file(name: str) -> Path:
    for folder in _token_folders():
        path = files.safe_join(folder, name if name.endswith(".safetensors") else f"{name}.safetensors")
        if path.is_file():
            return path
    raise UserError(
        f"There are no emotion tokens named '{name}' in {' or '.join(str(f) for f in _token_folders())}. "
        "Save some with Save Emotion Tokens first."
    )


class AffectSaveEmotionTokens:
    CATEGORY = "affect/muse"
    SEARCH_ALIASES = ["export emotion tokens", "save embedding", "keep emotion"]
    DESCRIPTION = "Saves optimised tokens: put behind any prompt later, they bring the emotion at no cost."
    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "tokens": ("AFFECT_EMOTION_TOKENS", {"tooltip": "From Emotion Sampler or Emotion Trace."}),
                "name": (
                    "STRING",
                    {
                        "default": "my_emotion",
                        "tooltip": "A file of this name goes into output/emotion_tokens and replaces an older one.",
                    },
                ),
            }
        }

    @classmethod
    def VALIDATE_INPUTS(cls, name: str | None = None) -> bool | str:
        if name is None:
            return True
        if not name.strip():
            return "Give the tokens a name."
        files.safe_join(_token_folders()[0], name)
        return True

    def run(self, tokens: Any, name: str) -> dict[str, Any]:
        path = files.safe_join(_token_folders()[0], f"{name.removesuffix('.safetensors')}.safetensors")
        tokens.save(path)
        return {"ui": {"text": [f"Saved {path.name}: {len(tokens.tokens)} set(s) of '{tokens.label}' tokens."]}}


class AffectLoadEmotionTokens:
    CATEGORY = "affect/muse"
    SEARCH_ALIASES = ["import emotion tokens", "load embedding", "saved emotion"]
    DESCRIPTION = "Loads saved emotion tokens."
    RETURN_TYPES = ("AFFECT_EMOTION_TOKENS",)
    RETURN_NAMES = ("tokens",)
    OUTPUT_TOOLTIPS = ("The tokens.",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "name": (
                    "STRING",
                    {"default": "my_emotion", "tooltip": "A name in output/emotion_tokens or models/emotion_tokens."},
                )
            }
        }

    @classmethod
    def VALIDATE_INPUTS(cls, name: str | None = None) -> bool | str:
        if name is not None:
            _token_file(name)
        return True

    @classmethod
    def IS_CHANGED(cls, name: str) -> str:
        try:
            return hashlib.sha256(_token_file(name).read_bytes()).hexdigest()
        except UserError:
            return "absent"

    def run(self, name: str) -> tuple[Any]:
        from ..models.muse import EmotionTokens

        return (EmotionTokens.load(_token_file(name)),)


class AffectApplyEmotionTokens:
    CATEGORY = "affect/muse"
    SEARCH_ALIASES = ["append embedding", "conditioning concat emotion", "emotion without optimization"]
    DESCRIPTION = "Puts emotion tokens behind a prompt: the emotion without the optimisation."
    RETURN_TYPES = ("CONDITIONING",)
    OUTPUT_TOOLTIPS = ("The text and the tokens.",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "conditioning": ("CONDITIONING", {"tooltip": "The positive prompt."}),
                "tokens": ("AFFECT_EMOTION_TOKENS", {"tooltip": "Tokens of the same model family."}),
            }
        }

    def run(self, conditioning: Any, tokens: Any) -> tuple[Any]:
        return (tokens.apply(conditioning),)


NODES = {
    "AffectClipTimingGate": (AffectClipTimingGate, "CLIP Timing Gate"),
    "AffectEmotionTokenOptimizer": (AffectEmotionTokenOptimizer, "Emotion Token Optimizer"),
    "AffectEmotionTrace": (AffectEmotionTrace, "Emotion Trace"),
    "AffectEmotionSampler": (AffectEmotionSampler, "Emotion Sampler"),
    "AffectDDIMInversion": (AffectDDIMInversion, "DDIM Inversion"),
    "AffectSaveEmotionTokens": (AffectSaveEmotionTokens, "Save Emotion Tokens"),
    "AffectLoadEmotionTokens": (AffectLoadEmotionTokens, "Load Emotion Tokens"),
    "AffectApplyEmotionTokens": (AffectApplyEmotionTokens, "Apply Emotion Tokens"),
}
