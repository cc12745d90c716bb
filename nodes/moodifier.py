"""Moodifier's nodes: the MLLM, what to change and where, the attention-blend sampler, an edit's metrics."""

from __future__ import annotations

import json
from typing import Any

from ..models import diffusion, host
from ..models.errors import UserError
from .layouts import to_bchw, to_bhwc
from .widgets import choice, integer, real, seed, socket, text


def _pictures(image: Any) -> list[Any]:
    from PIL import Image

    from ..models.tensors.uint8 import to_uint8

    return [Image.fromarray(to_uint8(row[..., :3])) for row in image]


class AffectMLLMLoader:
    CATEGORY = "affect/moodifier"
    SEARCH_ALIASES = ["vlm", "llm", "vision language model", "ollama", "openai", "lm studio", "llava", "qwen vl"]
    DESCRIPTION = (
        "Chooses who says what to change: rules (nothing to install), a server with OpenAI's chat interface (Ollama, "
        "LM Studio, vLLM, llama.cpp, hosted ones), or a local model folder. A key is only read from the environment."
    )
    RETURN_TYPES = ("AFFECT_MLLM",)
    RETURN_NAMES = ("mllm",)
    OUTPUT_TOOLTIPS = ("For the MLLM Mask Generator, which contacts it; this node does not.",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        from ..models.moodifier.mllm import DEFAULT_URL, PROVIDERS

        return {
            "required": {
                "provider": choice(
                    PROVIDERS,
                    "rules: no model. openai-compatible: a server. transformers: a folder in models/LLM.",
                ),
                "model": text(
                    "The server's name for its model (llava, qwen2.5-vl), or the folder's "
                    "name. With rules: a sentence that says what the image shows."
                ),
                "base_url": text(
                    "The server's address. Other machines must be allowed, in ComfyUI's settings (Affect) or by "
                    "AFFECT_MLLM_HOSTS in the environment. A key: AFFECT_MLLM_API_KEY in the environment; it is sent "
                    "to hosts and ports in AFFECT_MLLM_HOSTS.",
                    default=DEFAULT_URL,
                ),
            }
        }

    @classmethod
    def VALIDATE_INPUTS(cls, base_url: str | None = None, provider: str | None = None) -> bool | str:
        """Refuses an address that pictures may not be sent to before anything runs."""
        from ..models.moodifier import addresses, mllm

        if provider is not None and provider not in mllm.PROVIDERS:
            return f"There is no MLLM provider '{provider}'. Choose from: {', '.join(mllm.PROVIDERS)}."
        try:
            if provider == "openai-compatible" and base_url is not None and base_url.strip():
                addresses.check_allowed(addresses.check_url(base_url.strip()))
        except UserError as error:
            return str(error)
        return True

    def run(self, provider: str, model: str, base_url: str) -> tuple[Any]:
        from ..models.moodifier.mllm import load_mllm

        return (load_mllm(provider, model, base_url),)


class AffectMLLMMaskGenerator:
    CATEGORY = "affect/moodifier"
    SEARCH_ALIASES = [
        "moodifier",
        "auto mask",
        "segment by text",
        "what to change",
        "clipseg",
        "emotion mask",
        "prompt from image",
    ]
    DESCRIPTION = (
        "Finds what to change for an emotion, and where: a mask, a prompt of what the image shows, and one of what it "
        "should show. Your own objects override the model's."
    )
    RETURN_TYPES = ("MASK", "STRING", "STRING", "IMAGE", "STRING")
    RETURN_NAMES = ("mask", "source_prompt", "target_prompt", "overlay", "json")
    OUTPUT_TOOLTIPS = (
        "Where to change.",
        "What the image shows.",
        "What it should show.",
        "Mask and words on the image.",
        "The whole answer, and warnings.",
    )
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        from ..models.moodifier.masks import GROUNDINGS

        return {
            "required": {
                "image": socket("IMAGE", "The image to edit (of a batch the MLLM sees the first)."),
                "emotion": socket("AFFECT_EMOTION", "What it should make people feel."),
                "mllm": socket("AFFECT_MLLM", "From Load MLLM."),
                "objects": text(
                    "Change only these, separated by commas: house, tree. Empty: the MLLM chooses; rules then change "
                    "everything."
                ),
                "grounding": choice(
                    GROUNDINGS,
                    "attention: the diffusion model's cross-attention to the word (connect model, clip and vae). "
                    "clipseg: needs its weights. boxes: the MLLM's. saliency: the conspicuous parts.",
                ),
                "feather": integer(6, (0, 256), "Pixels over which the mask fades out."),
            },
            "optional": {
                "model": socket("MODEL", "For attention: SD1.5, SD2 or SDXL."),
                "clip": socket("CLIP", "Its text encoder."),
                "vae": socket("VAE", "Its VAE."),
                "mask": socket("MASK", "Your own mask, in place of any grounding."),
            },
        }

    def run(
        self,
        image: Any,
        emotion: Any,
        mllm: Any,
        objects: str,
        grounding: str,
        feather: int,
        model: Any = None,
        clip: Any = None,
        vae: Any = None,
        mask: Any = None,
    ) -> tuple[Any, str, str, Any, str]:
        from ..models.moodifier.grounding import ground

        instruction = mllm.ask(
            _pictures(image[:1])[0], emotion.known_label, [name.strip() for name in objects.split(",") if name.strip()]
        )
        if len(image) > 1:
            host.current().note(f"The MLLM sees only the first of {len(image)} images: its answer is used for all.")
        source = to_bchw(image)
        grounded = ground(source, instruction, grounding, feather, mask, model, clip, vae)
        return (
            grounded.mask[:, 0],
            instruction.source_prompt,
            instruction.target_prompt,
            to_bhwc(grounded.overlay(source, emotion.known_label)),
            json.dumps(grounded.to_json(), indent=1),
        )


class AffectAttentionBlendSampler:
    CATEGORY = "affect/moodifier"
    SEARCH_ALIASES = [
        "moodifier",
        "prompt-to-prompt",
        "p2p",
        "infedit",
        "attention edit",
        "inpaint emotion",
        "local edit",
    ]
    DESCRIPTION = (
        "Edits an image from one text to another, only inside a mask: without inversion, source and target are sampled "
        "side by side and their attention is blended."
    )
    RETURN_TYPES = ("LATENT",)
    OUTPUT_TOOLTIPS = ("The edited image's latent; outside the mask it is the source's own.",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": socket("MODEL", "SD1.5, SD2 or SDXL."),
                "source": socket("CONDITIONING", "What the image shows."),
                "target": socket("CONDITIONING", "What it should show: the same sentence with some words changed."),
                "latent_image": socket("LATENT", "The encoded image."),
                "mask": socket("MASK", "Where it may change."),
                "steps": integer(25, (1, 10000), "25; with an LCM model 15."),
                "cfg": real(5.0, (0.0, 100.0, 0.1), "How strongly the target guides; with an LCM model 2.", round=0.01),
                "cross_replace": real(
                    0.6,
                    (0.0, 1.0, 0.05),
                    "The share of the steps in which the source's attention is used outside the mask: more keeps more "
                    "of its structure.",
                ),
                "seed": seed("Draws each step's noise."),
            },
            "optional": {
                "negative": socket(
                    "CONDITIONING",
                    "What the target is guided away from. Without it: the source's text, so that "
                    "only the difference counts.",
                ),
                "scheduler": choice(
                    diffusion.current_engine().sampling_choices()[1],
                    "How noise falls over the steps.",
                    default="normal",
                ),
                "source_text": (
                    "STRING",
                    {
                        "forceInput": True,
                        "tooltip": "The source's text: words are then matched exactly. Without it they are matched by "
                        "their embeddings.",
                    },
                ),
                "target_text": ("STRING", {"forceInput": True, "tooltip": "The target's text."}),
            },
        }

    def run(
        self,
        model: Any,
        source: Any,
        target: Any,
        latent_image: dict[str, Any],
        mask: Any,
        steps: int,
        cfg: float,
        cross_replace: float,
        seed: int,
        negative: Any = None,
        scheduler: str = "normal",
        source_text: str = "",
        target_text: str = "",
    ) -> tuple[Any]:
        from ..models.moodifier.blend import BlendConfig, blend

        if not float(mask.max()) > 0:
            host.current().note("The mask covers nothing: the image stays as it is.")
        config = BlendConfig(cfg, cross_replace)
        return (
            blend(
                model,
                source,
                target,
                negative,
                latent_image,
                mask,
                steps,
                scheduler,
                config,
                seed,
                (source_text, target_text),
            ),
        )


class AffectEditMetrics:
    CATEGORY = "affect/moodifier"
    SEARCH_ALIASES = ["psnr", "ssim", "lpips", "clip score", "compare images", "measure edit", "evaluate edit"]
    DESCRIPTION = (
        "Measures what an edit kept and changed: structure, PSNR, LPIPS, MSE and SSIM outside the mask and over the "
        "whole image, and the answers of a classifier and a CLIP."
    )
    RETURN_TYPES = ("STRING", "IMAGE")
    RETURN_NAMES = ("json", "table")
    OUTPUT_TOOLTIPS = ("The figures of each image.", "The figures as a table.")
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "image": socket("IMAGE", "The image before."),
                "edited": socket("IMAGE", "The image after."),
            },
            "optional": {
                "mask": socket("MASK", "Where it should change: metrics of preservation are also taken outside."),
                "emotion": socket(
                    "AFFECT_EMOTION", "What it should make people feel: its probability, and its CLIP similarity."
                ),
                "classifier": socket(
                    "AFFECT_EMOTION_CLASSIFIER",
                    "Preferably one that did not guide. photo and photo-lite2 also give valence and arousal.",
                ),
                "clip_scorer": socket("AFFECT_CLIP_SCORER", "Preferably one that neither conditioned nor gated."),
            },
        }

    def run(
        self,
        image: Any,
        edited: Any,
        mask: Any = None,
        emotion: Any = None,
        classifier: Any = None,
        clip_scorer: Any = None,
    ) -> tuple[str, Any]:
        import torch

        from ..models.moodifier.figures import edit_figures
        from ..models.plots import table

        judges = [part for part in (classifier, clip_scorer) if part is not None]
        needy = [part for part in judges if not hasattr(part, "points")]  # valence and arousal need no emotion
        if (needy and emotion is None) or (emotion is not None and not judges):
            host.current().note(
                "The classifier and the CLIP scorer have no effect: connect the emotion that they should measure."
                if emotion is None
                else "The emotion has no effect: connect a classifier or a CLIP scorer, which measure it."
            )
        diffusion.current_engine().load(*judges)
        with torch.no_grad():
            rows = edit_figures(to_bchw(image), to_bchw(edited), mask, emotion, classifier, clip_scorer)
        return json.dumps(rows, indent=1), torch.from_numpy(table(rows))[None]


NODES = {
    "AffectMLLMLoader": (AffectMLLMLoader, "Load MLLM"),
    "AffectMLLMMaskGenerator": (AffectMLLMMaskGenerator, "MLLM Mask Generator"),
    "AffectAttentionBlendSampler": (AffectAttentionBlendSampler, "Attention-Blend Sampler"),
    "AffectEditMetrics": (AffectEditMetrics, "Edit Metrics"),
}
