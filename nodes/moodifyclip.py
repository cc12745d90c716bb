"""MoodifyCLIP's nodes: the loader, and its text encoder."""

from __future__ import annotations

from typing import Any

from ..models import diffusion
from .widgets import choice, socket, text


class AffectMoodifyCLIPLoader:
    CATEGORY = "affect/moodifier"
    SEARCH_ALIASES = ["long clip", "emotion clip", "load clip"]
    DESCRIPTION = "Loads MoodifyCLIP: a CLIP of 248 tokens that was trained on emotional descriptions of pictures."
    RETURN_TYPES = ("AFFECT_MOODIFY_CLIP", "AFFECT_CLIP_SCORER")
    RETURN_NAMES = ("moodify_clip", "clip_scorer")
    OUTPUT_TOOLTIPS = ("For MoodifyCLIP Text Encode.", "As a scorer: the timing gate takes it.")
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        from ..models.networks.moodifyclip import names

        return {
            "required": {
                "model": choice(
                    names(),
                    "tiny: for the bundled tiny model. Others: folders in models/moodify_clip, which `affect train "
                    "moodifyclip` writes.",
                )
            }
        }

    @classmethod
    def IS_CHANGED(cls, model: str) -> str:
        from ..models.networks.moodifyclip import state_of

        return state_of(model)

    def run(self, model: str) -> tuple[Any, Any]:
        from ..models.networks.moodifyclip import load_moodify_clip

        loaded = load_moodify_clip(model)
        return loaded, loaded


class AffectMoodifyCLIPTextEncode:
    CATEGORY = "affect/moodifier"
    SEARCH_ALIASES = ["long prompt", "248 tokens", "encode text", "emotion text encoder"]
    DESCRIPTION = "Encodes a long text (248 tokens) with MoodifyCLIP as a diffusion model's conditioning."
    RETURN_TYPES = ("CONDITIONING",)
    OUTPUT_TOOLTIPS = ("For the Attention-Blend Sampler, or any sampler whose model has a text encoder of this width.",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "moodify_clip": socket("AFFECT_MOODIFY_CLIP", "From Load MoodifyCLIP."),
                "text": text("A text of more than 248 tokens is cut after a sentence, with a note.", multiline=True),
            }
        }

    def run(self, moodify_clip: Any, text: str) -> tuple[Any]:
        from ..models.moodifier.text_encoder import encode

        diffusion.current_engine().load(moodify_clip)
        return (encode(moodify_clip, text),)


NODES = {
    "AffectMoodifyCLIPLoader": (AffectMoodifyCLIPLoader, "Load MoodifyCLIP"),
    "AffectMoodifyCLIPTextEncode": (AffectMoodifyCLIPTextEncode, "MoodifyCLIP Text Encode"),
}
