"""Nodes that say which emotion: the EMOTION socket."""

from __future__ import annotations

from typing import Any

from ..models.emotions import LABELS, EmotionTarget
from ..models.errors import UserError
from .widgets import choice, share, socket, text

_UNIT = {"min": 0.0, "max": 1.0, "step": 0.01}


class AffectEmotion:
    CATEGORY = "affect/emotion"
    SEARCH_ALIASES = ["emotion", "feeling", "mood", "sentiment", "affect", "joy", "sadness", "fear", "anger"]
    DESCRIPTION = (
        "Names an emotion. The first eight are Mikels' categories, which classifiers know; the others "
        "(GoEmotions' 27 and Ekman's 6) are turned into mixtures of those."
    )
    RETURN_TYPES = ("AFFECT_EMOTION",)
    RETURN_NAMES = ("emotion",)
    OUTPUT_TOOLTIPS = ("The emotion to evoke.",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "emotion": choice(LABELS, "What the image should make people feel."),
                "intensity": share(1.0, "0 leaves the image's own emotion, 1 goes all the way to the target."),
            }
        }

    def run(self, emotion: str, intensity: float) -> tuple[EmotionTarget]:
        return (EmotionTarget.of(emotion, intensity),)


class AffectEmotionMix:
    CATEGORY = "affect/emotion"
    SEARCH_ALIASES = ["blend emotions", "mixed feelings", "bittersweet", "combine moods"]
    DESCRIPTION = "Blends two emotions, for example bitter-sweet from amusement and sadness."
    RETURN_TYPES = ("AFFECT_EMOTION",)
    RETURN_NAMES = ("emotion",)
    OUTPUT_TOOLTIPS = ("The blend.",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "emotion_a": socket("AFFECT_EMOTION", "What balance 0 gives."),
                "emotion_b": socket("AFFECT_EMOTION", "What balance 1 gives."),
                "balance": share(0.5, "0 is all of A, 1 is all of B."),
            }
        }

    def run(self, emotion_a: EmotionTarget, emotion_b: EmotionTarget, balance: float) -> tuple[EmotionTarget]:
        return (emotion_a.mix(emotion_b, balance),)


class AffectEmotionVAD:
    CATEGORY = "affect/emotion"
    SEARCH_ALIASES = ["valence arousal dominance", "vad", "pad", "circumplex", "pleasure", "emotion from numbers"]
    DESCRIPTION = (
        "An emotion from a point in valence-arousal-dominance space (NRC-VAD's scale), weighted over the "
        "eight by their distance."
    )
    RETURN_TYPES = ("AFFECT_EMOTION",)
    RETURN_NAMES = ("emotion",)
    OUTPUT_TOOLTIPS = ("The emotion at that point.",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "valence": share(0.5, "0 is unpleasant, 1 is pleasant."),
                "arousal": share(0.5, "0 is calm, 1 is stirred."),
                "dominance": share(0.5, "0 is overwhelmed, 1 is in control."),
            }
        }

    def run(self, valence: float, arousal: float, dominance: float) -> tuple[EmotionTarget]:
        return (EmotionTarget.from_vad(valence, arousal, dominance),)


class AffectEmotionFromText:
    CATEGORY = "affect/emotion"
    SEARCH_ALIASES = ["text to emotion", "emotion words", "sentiment analysis", "mood from prompt"]
    DESCRIPTION = "Finds the emotions that a sentence names ('very happy and slightly sad') and blends them."
    RETURN_TYPES = ("AFFECT_EMOTION",)
    RETURN_NAMES = ("emotion",)
    OUTPUT_TOOLTIPS = ("The emotion that the text names.",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "text": text(
                    "A sentence with at least one emotion word.", default="very happy and slightly sad", multiline=True
                )
            }
        }

    @classmethod
    def VALIDATE_INPUTS(cls, text: str | None = None) -> bool | str:
        if text is None:  # linked: known only while running
            return True
        try:
            EmotionTarget.from_text(text)
        except UserError as error:
            return str(error)
        return True

    def run(self, text: str) -> tuple[EmotionTarget]:
        return (EmotionTarget.from_text(text),)


NODES = {
    "AffectEmotion": (AffectEmotion, "Emotion"),
    "AffectEmotionMix": (AffectEmotionMix, "Emotion Mix"),
    "AffectEmotionVAD": (AffectEmotionVAD, "Emotion from Valence-Arousal-Dominance"),
    "AffectEmotionFromText": (AffectEmotionFromText, "Emotion from Text"),
}
