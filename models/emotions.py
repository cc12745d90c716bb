"""Emotion vocabularies and `EmotionTarget`, the value of the EMOTION socket.

Mikels' eight categories in the canonical order of this package (also EmoGen's and EmoEdit's heads); the 27 of
GoEmotions and Ekman's six reach them through one table. Valence, arousal and dominance are the NRC-VAD lexicon's
word ratings (Mohammad 2018, rounded), in 0..1.
"""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass, replace

from .errors import UserError

MIKELS = ("amusement", "awe", "contentment", "excitement", "anger", "disgust", "fear", "sadness")
"""Mikels et al. (2005) in canonical order: four positive, four negative."""

WHEEL = ("amusement", "contentment", "awe", "excitement", "fear", "sadness", "disgust", "anger")
"""The same eight around Mikels' wheel: neighbours are similar emotions, as are the last and the first."""

OPPOSITE = {
    "amusement": "fear",
    "contentment": "sadness",
    "awe": "disgust",
    "excitement": "anger",
    "fear": "amusement",
    "sadness": "contentment",
    "disgust": "awe",
    "anger": "excitement",
}
"""The opposite emotions, which evaluation uses."""

GOEMOTIONS = (
    "admiration",
    "amusement",
    "anger",
    "annoyance",
    "approval",
    "caring",
    "confusion",
    "curiosity",
    "desire",
    "disappointment",
    "disapproval",
    "disgust",
    "embarrassment",
    "excitement",
    "fear",
    "gratitude",
    "grief",
    "joy",
    "love",
    "nervousness",
    "optimism",
    "pride",
    "realization",
    "relief",
    "remorse",
    "sadness",
    "surprise",
)
"""The 27 of GoEmotions (Demszky et al. 2020)."""

EKMAN = ("anger", "disgust", "fear", "joy", "sadness", "surprise")

# One table for 27 -> 8 and Ekman -> 8. Weights are ours: a word between several of the eight is split by its distances
# in VAD space; each row sums to one.
_TO_MIKELS: dict[str, dict[str, float]] = {
    "admiration": {"awe": 0.8, "contentment": 0.2},
    "annoyance": {"anger": 0.8, "disgust": 0.2},
    "approval": {"contentment": 1.0},
    "caring": {"contentment": 0.9, "awe": 0.1},
    "confusion": {"fear": 0.6, "sadness": 0.4},
    "curiosity": {"awe": 0.5, "excitement": 0.5},
    "desire": {"excitement": 1.0},
    "disappointment": {"sadness": 0.9, "anger": 0.1},
    "disapproval": {"disgust": 0.6, "anger": 0.4},
    "embarrassment": {"sadness": 0.5, "fear": 0.5},
    "gratitude": {"contentment": 0.9, "awe": 0.1},
    "grief": {"sadness": 1.0},
    "joy": {"amusement": 0.4, "contentment": 0.3, "excitement": 0.3},
    "love": {"contentment": 0.7, "excitement": 0.3},
    "nervousness": {"fear": 1.0},
    "optimism": {"contentment": 0.5, "excitement": 0.5},
    "pride": {"awe": 0.4, "excitement": 0.4, "contentment": 0.2},
    "realization": {"awe": 0.7, "amusement": 0.3},
    "relief": {"contentment": 1.0},
    "remorse": {"sadness": 0.9, "disgust": 0.1},
    "surprise": {"excitement": 0.5, "awe": 0.3, "fear": 0.2},
    **{name: {name: 1.0} for name in MIKELS},
}

# (valence, arousal, dominance) of the word, NRC-VAD.
_VAD: dict[str, tuple[float, float, float]] = {
    "amusement": (0.929, 0.837, 0.803),
    "awe": (0.469, 0.740, 0.300),
    "contentment": (0.875, 0.610, 0.782),
    "excitement": (0.896, 0.684, 0.731),
    "anger": (0.167, 0.865, 0.657),
    "disgust": (0.052, 0.775, 0.317),
    "fear": (0.073, 0.840, 0.293),
    "sadness": (0.052, 0.288, 0.164),
    "admiration": (0.969, 0.583, 0.726),
    "annoyance": (0.167, 0.718, 0.342),
    "approval": (0.854, 0.460, 0.889),
    "caring": (0.635, 0.469, 0.500),
    "confusion": (0.255, 0.667, 0.277),
    "curiosity": (0.750, 0.755, 0.463),
    "desire": (0.896, 0.692, 0.647),
    "disappointment": (0.115, 0.490, 0.336),
    "disapproval": (0.085, 0.551, 0.367),
    "embarrassment": (0.143, 0.685, 0.226),
    "gratitude": (0.885, 0.441, 0.610),
    "grief": (0.070, 0.640, 0.474),
    "joy": (0.980, 0.824, 0.794),
    "love": (1.000, 0.519, 0.673),
    "nervousness": (0.163, 0.915, 0.241),
    "optimism": (0.949, 0.565, 0.814),
    "pride": (0.729, 0.634, 0.848),
    "realization": (0.554, 0.510, 0.836),
    "relief": (0.844, 0.278, 0.481),
    "remorse": (0.103, 0.673, 0.377),
    "surprise": (0.875, 0.875, 0.562),
}

LABELS = (
    MIKELS
    + tuple(e for e in GOEMOTIONS if e not in MIKELS)
    + tuple(e for e in EKMAN if e not in MIKELS and e not in GOEMOTIONS)
)
"""The choices of the Emotion node: the eight, then the 27 and Ekman's six without repeats."""


def to_mikels(label: str) -> tuple[float, ...]:
    """The distribution over Mikels' eight (canonical order, sums to 1) of a label of `LABELS`."""
    if label not in _TO_MIKELS:
        close = difflib.get_close_matches(label, LABELS, n=3)
        hint = f" Did you mean {' or '.join(close)}?" if close else f" Known emotions: {', '.join(LABELS)}."
        raise UserError(f"'{label}' is not a known emotion.{hint}")
    row = _TO_MIKELS[label]
    return tuple(row.get(name, 0.0) for name in MIKELS)


def neighbours(emotion: str) -> tuple[str, str]:
    """The two emotions beside `emotion` on Mikels' wheel (MUSE section IV-C: the similar emotions)."""
    i = WHEEL.index(emotion)
    return WHEEL[i - 1], WHEEL[(i + 1) % len(WHEEL)]


@dataclass(frozen=True)
class EmotionTarget:
    """What an image should make people feel: the value of the EMOTION socket.

    distribution  eight probabilities in the order of `MIKELS`, summing to 1
    intensity     0 (leave the image's own emotion) .. 1 (the whole target)
    label         the words it came from, for captions and files
    vad           its (valence, arousal, dominance) point, each in 0..1 (NRC-VAD)
    """

    distribution: tuple[float, ...]
    intensity: float = 1.0
    label: str = ""
    vad: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        if len(self.distribution) != len(MIKELS) or min(self.distribution) < 0:
            raise UserError(f"An emotion needs {len(MIKELS)} probabilities of at least 0, got {self.distribution}.")
        if abs(sum(self.distribution) - 1.0) > 1e-4:
            raise UserError(f"An emotion's probabilities must sum to 1, got {sum(self.distribution):.4f}.")
        if not 0.0 <= self.intensity <= 1.0:
            raise UserError(f"An emotion's intensity must be in 0..1, got {self.intensity}.")

    @classmethod
    def of(cls, label: str, intensity: float = 1.0) -> EmotionTarget:
        """The target named by a label of `LABELS`."""
        return cls(to_mikels(label), intensity, label, _VAD[label])

    @classmethod
    def from_vad(cls, valence: float, arousal: float, dominance: float, intensity: float = 1.0) -> EmotionTarget:
        """The target at a point of VAD space (each in 0..1): the eight, weighted by exp(-d^2 / (2 * 0.15^2)) of
        their distance d to the point. 0.15 is about a third of the mean distance between neighbours, so that a
        point at an emotion's own rating is mostly that emotion (our choice)."""
        point = (valence, arousal, dominance)
        if not all(0.0 <= v <= 1.0 for v in point):
            raise UserError(f"Valence, arousal and dominance must be in 0..1, got {point}.")
        d2 = [math.dist(point, _VAD[name]) ** 2 for name in MIKELS]
        nearest = min(d2)  # subtracted so that far points do not underflow to 0/0
        weights = [math.exp(-(d - nearest) / (2 * 0.15**2)) for d in d2]
        total = sum(weights)
        target = cls(tuple(w / total for w in weights), intensity, vad=point)
        return replace(target, label=f"near {target.dominant}")

    @classmethod
    def from_text(cls, text: str) -> EmotionTarget:
        """The target that a sentence names: every known emotion word, adjective or common synonym in it counts
        once; `very`/`slightly` before a word doubles or halves it. Raises UserError where it names none."""
        weights: dict[str, float] = {}
        words = re.findall(r"[a-z]+", text.lower())
        for i, word in enumerate(words):
            label = _WORDS.get(word)
            if label is None:
                continue
            before = words[i - 1] if i else ""
            scale = 2.0 if before in _STRONGER else 0.5 if before in _WEAKER else 1.0
            weights[label] = weights.get(label, 0.0) + scale
        if not weights:
            raise UserError(
                f"No emotion found in '{text}'. Name one, for example: {', '.join(MIKELS)}, joy, love, grief."
            )
        total = sum(weights.values())
        targets = [(cls.of(label), w / total) for label, w in weights.items()]
        return _blend(targets, 1.0, " + ".join(weights))

    def mix(self, other: EmotionTarget, balance: float = 0.5) -> EmotionTarget:
        """(1 - balance) of this and balance of the other; intensity and VAD are mixed alike."""
        if not 0.0 <= balance <= 1.0:
            raise UserError(f"The balance of an emotion mix must be in 0..1, got {balance}.")
        intensity = (1 - balance) * self.intensity + balance * other.intensity
        label = f"{self.label} {1 - balance:.0%} + {other.label} {balance:.0%}"
        return _blend([(self, 1 - balance), (other, balance)], intensity, label)

    @property
    def dominant(self) -> str:
        """The most probable of the eight."""
        return MIKELS[max(range(len(MIKELS)), key=self.distribution.__getitem__)]

    @property
    def known_label(self) -> str:
        """A label of `LABELS`: its own, or of a mixture the dominant emotion's."""
        return self.label if self.label in LABELS else self.dominant

    def wanted(self) -> tuple[str, ...]:
        """The emotions that the target consists of: those of at least 5 % (a point in VAD space has a small share of
        all eight)."""
        return tuple(n for n, p in zip(MIKELS, self.distribution) if p >= 0.05)

    def similar(self) -> tuple[str, ...]:
        """The wheel's neighbours of the dominant emotion, less those that the target consists of."""
        return tuple(n for n in neighbours(self.dominant) if n not in self.wanted())


def _blend(parts: list[tuple[EmotionTarget, float]], intensity: float, label: str) -> EmotionTarget:
    distribution = [sum(w * t.distribution[i] for t, w in parts) for i in range(len(MIKELS))]
    total = sum(distribution)
    vad = tuple(sum(w * t.vad[i] for t, w in parts) for i in range(3))
    return EmotionTarget(tuple(p / total for p in distribution), intensity, label, vad)  # type: ignore[arg-type]


_STRONGER = {"very", "extremely", "deeply", "utterly", "so"}
_WEAKER = {"slightly", "somewhat", "mildly", "faintly"}

_SYNONYMS = {
    "amusement": "amusing amused funny playful cheerful humorous silly laughing comical fun",
    "awe": "awesome awed majestic sublime wonder wondrous magnificent breathtaking grand",
    "contentment": "content peaceful calm serene cozy cosy tranquil relaxed gentle peace comfort",
    "excitement": "exciting excited thrilling thrilled lively energetic ecstatic festive thrill",
    "anger": "angry furious rage raging mad hostile wrathful fury",
    "disgust": "disgusting disgusted revolting gross repulsive nauseating filthy",
    "fear": "fearful scary afraid frightening terrifying spooky creepy horror scared terror",
    "sadness": "sad melancholy melancholic gloomy lonely sorrow sorrowful mournful depressed tearful",
    "joy": "joyful happy happiness delighted glad",
    "love": "loving romantic affection tender",
    "surprise": "surprised surprising astonished",
    "grief": "grieving",
    "nervousness": "nervous anxious anxiety tense",
    "optimism": "optimistic hopeful hope",
    "pride": "proud",
    "relief": "relieved",
    "gratitude": "grateful thankful",
    "curiosity": "curious",
    "confusion": "confused",
    "embarrassment": "embarrassed ashamed",
    "remorse": "guilt guilty",
    "disappointment": "disappointed",
    "annoyance": "annoyed annoying irritated",
    "admiration": "admiring",
    "caring": "kind",
    "desire": "longing",
}
_WORDS = {label: label for label in LABELS} | {w: k for k, ws in _SYNONYMS.items() for w in ws.split()}
