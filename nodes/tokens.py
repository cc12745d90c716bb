"""Optimised emotion tokens: saved, loaded, and appended to any prompt."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from ..models import files, host
from ..models.errors import UserError
from .widgets import socket, text

_TOKENS = "emotion_tokens"


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
    DESCRIPTION = "Saves optimised tokens. Appended to any prompt later, they add the emotion without optimisation."
    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "tokens": socket("AFFECT_EMOTION_TOKENS", "From Emotion Sampler or Emotion Trace."),
                "name": text(
                    "A file of this name goes into output/emotion_tokens and replaces an older one.",
                    default="my_emotion",
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
                "name": text("A name in output/emotion_tokens or models/emotion_tokens.", default="my_emotion")
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
    DESCRIPTION = "Appends emotion tokens to a prompt: the emotion without optimisation."
    RETURN_TYPES = ("CONDITIONING",)
    OUTPUT_TOOLTIPS = ("The text and the tokens.",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "conditioning": socket("CONDITIONING", "The positive prompt."),
                "tokens": socket("AFFECT_EMOTION_TOKENS", "Tokens of the same model family."),
            }
        }

    def run(self, conditioning: Any, tokens: Any) -> tuple[Any]:
        return (tokens.apply(conditioning),)


NODES = {
    "AffectSaveEmotionTokens": (AffectSaveEmotionTokens, "Save Emotion Tokens"),
    "AffectLoadEmotionTokens": (AffectLoadEmotionTokens, "Load Emotion Tokens"),
    "AffectApplyEmotionTokens": (AffectApplyEmotionTokens, "Apply Emotion Tokens"),
}
