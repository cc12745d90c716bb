"""What expresses an emotion: tables of cues, and the draw of one scene's cues from them.

Each row is one cue with its weight under the eight emotions, a digit each in the canonical order
(amusement, awe, contentment, excitement, anger, disgust, fear, sadness). No cue belongs to a single
emotion: what names the emotion is their combination.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ....models.emotions import MIKELS as EMOTIONS

FAMILIES = ("palette", "light", "weather", "texture", "objects")

#                am aw co ex an di fe sa
PALETTES = {
    "golden": "32431011",
    "red": "10141020",
    "blue": "03111034",
    "green": "12210431",
    "violet": "22130131",
    "gray": "01013225",
    "pastel": "33321012",
    "brown": "01103422",
    "vivid": "42142110",
    "teal": "12211212",
}
LIGHTS = {
    "golden": "32421111",
    "rays": "06311011",
    "burst": "50162010",
    "night": "04131043",
    "moon": "14110141",
    "overcast": "01101336",
    "fiery": "01027120",
    "neon": "31060110",
    "dim": "00003353",
    "sickly": "00002720",
}
WEATHERS = {
    "confetti": "60040000",
    "bubbles": "70210300",
    "rainbow": "45310000",
    "stars": "16120010",
    "aurora": "06120010",
    "petals": "21600002",
    "sunny": "42610000",
    "fireworks": "21070000",
    "sparks": "00045010",
    "lightning": "02015040",
    "smoke": "00006321",
    "flies": "10000811",
    "smog": "00002612",
    "fog": "01000163",
    "bats": "10001061",
    "rain": "00101127",
    "snow": "12200015",
    "leaves": "00210114",
}
TEXTURES = {
    "dots": "60120000",
    "sparkle": "24150000",
    "watercolor": "02600015",
    "strokes": "00006130",
    "cracks": "00006133",
    "blotches": "00001720",
    "drips": "00000505",
    "swirl": "25010030",
    "speed": "10063000",
}
# What objects do. The word is the attribute that annotations and captions use.
ATTRIBUTES = {
    "tree": {
        "blossoming": "31510000",
        "glowing": "15150000",
        "festive": "61040000",
        "lush": "23500000",
        "burning": "00027010",
        "rotting": "00001701",
        "twisted": "00002071",
        "bare": "00000236",
    },
    "house": {
        "cozy": "11710001",
        "dazzling": "21070000",
        "festive": "71020000",
        "majestic": "16110000",
        "burning": "00017030",
        "moldy": "00001710",
        "haunted": "00000170",
        "abandoned": "00001136",
    },
    "building": {
        "shining": "16320000",
        "colorful": "71220000",
        "sparkling": "14070000",
        "peaceful": "02600001",
        "burning": "00017020",
        "moldy": "00001701",
        "haunted": "01000171",
        "crumbling": "00003137",
    },
    "person": {
        "juggling": "71010000",
        "dancing": "51340000",
        "jumping": "21080000",
        "amazed": "17110010",
        "resting": "11700001",
        "hugging": "11600003",
        "shouting": "00027010",
        "sick": "10000701",
        "fleeing": "00021260",
        "cowering": "00001061",
        "crying": "00001017",
    },
    "dog": {
        "playing": "71220000",
        "leaping": "21170000",
        "sleeping": "11700001",
        "howling": "05001022",
        "snarling": "00007120",
        "filthy": "10000701",
        "scared": "00000062",
        "sad": "00100116",
    },
    "bird": {
        "soaring": "16310000",
        "singing": "51610000",
        "racing": "10072010",
        "attacking": "00006120",
        "dirty": "00000611",
        "black": "00001052",
        "lonely": "01000116",
    },
    "boat": {
        "sailing": "15500001",
        "playful": "61110000",
        "racing": "10071010",
        "burning": "00017020",
        "rusty": "00001702",
        "ghostly": "01000061",
        "sinking": "00001126",
    },
    "car": {
        "funny": "71010000",
        "gleaming": "16220000",
        "racing": "10072010",
        "parked": "11600001",
        "burning": "00017020",
        "rusty": "00001611",
        "creepy": "00000171",
        "broken": "00002126",
    },
    "flower": {
        "blooming": "21610000",
        "smiling": "71200000",
        "glowing": "15130000",
        "giant": "34160000",
        "thorny": "00006120",
        "rotting": "00001701",
        "dead": "00000152",
        "wilted": "00100116",
    },
    "mountain": {
        "majestic": "17310000",
        "green": "42610000",
        "painted": "71130000",
        "erupting": "01055010",
        "slimy": "00001711",
        "jagged": "01003160",
        "barren": "00101216",
    },
    "water": {
        "calm": "13600002",
        "sparkling": "34250000",
        "wild": "00055020",
        "polluted": "00001701",
        "dark": "00000162",
        "gray": "00001126",
    },
    "cloud": {
        "fluffy": "41610000",
        "glowing": "16240000",
        "stormy": "01015041",
        "dirty": "00002611",
        "dark": "01002045",
        "gray": "00101116",
    },
    "rock": {
        "mossy": "12600100",
        "shiny": "15150000",
        "painted": "71230000",
        "cracked": "00016023",
        "slimy": "00000710",
        "scary": "00001161",
        "gray": "01101115",
    },
    "fence": {
        "painted": "61330000",
        "pretty": "23600000",
        "spiked": "00016040",
        "moldy": "00001701",
        "broken": "00002136",
    },
    "lamp": {
        "glowing": "15510001",
        "festive": "61050000",
        "sparking": "00045010",
        "dirty": "00001711",
        "flickering": "00001062",
        "broken": "00003026",
    },
    "tent": {
        "striped": "71150000",
        "cozy": "13600001",
        "torn": "00003135",
        "moldy": "00000710",
        "spooky": "01001062",
    },
    "bridge": {
        "festive": "61140000",
        "shining": "16150000",
        "pretty": "21600001",
        "burning": "00016020",
        "slimy": "00000711",
        "spooky": "00001061",
        "broken": "00002125",
    },
    "face": {
        "laughing": "81110000",
        "amazed": "08010010",
        "peaceful": "01800001",
        "excited": "21080000",
        "angry": "00018000",
        "disgusted": "10001800",
        "terrified": "01000080",
        "crying": "00000018",
    },
}
NEUTRAL = {
    "tree": ("green", "tall"),
    "house": ("small", "simple"),
    "building": ("tall", "gray"),
    "person": ("standing",),
    "dog": ("standing",),
    "bird": ("flying", "small"),
    "boat": ("wooden", "small"),
    "car": ("small", "plain"),
    "flower": ("small", "simple"),
    "mountain": ("high", "rocky"),
    "water": ("blue", "still"),
    "cloud": ("white", "thin"),
    "rock": ("large", "round"),
    "fence": ("wooden",),
    "lamp": ("tall",),
    "tent": ("small",),
    "bridge": ("wooden", "stone"),
    "face": ("neutral",),
}

#               am aw co ex an di fe sa
_ADJECTIVE_ROWS = {
    "warm": "32531010",
    "clear": "34320011",
    "muddy": "01103522",
    "misty": "02300244",
    "scenic": "25411001",
    "rough": "01024231",
    "lovely": "42620001",
    "harsh": "01026241",
    "bright": "52252110",
    "poor": "00102435",
    "dark": "02013254",
    "great": "35161010",
}
ADJECTIVES: tuple[str, ...] = tuple(_ADJECTIVE_ROWS)


def odds(table: dict[str, str], emotion: str, sharp: bool) -> np.ndarray:
    """float64 [len(table)], summing to 1: how often each cue of a table stands for the emotion.

    Sharp tables (weather, texture, objects,
                  which have a shape) use the square of the digit. Soft ones (palette, light,
    adjective, which are mostly colour) use the digit and a floor, because colour alone must not name the
    emotion.
    """
    w = np.array([float(row[EMOTIONS.index(emotion)]) for row in table.values()])
    w = w**2 if sharp else w + 0.7
    return w / w.sum()


def draw_row(table: dict[str, str], emotion: str, rng: np.random.Generator, sharp: bool = True) -> str:
    """One key of a cue table, by its odds under the emotion."""
    return list(table)[int(rng.choice(len(table), p=odds(table, emotion, sharp)))]


def draw_adjective(emotion: str | None, rng: np.random.Generator) -> str:
    """An adjective: after the emotion's odds, or any where there is no emotion."""
    if emotion is None:
        return ADJECTIVES[int(rng.integers(len(ADJECTIVES)))]
    return draw_row(_ADJECTIVE_ROWS, emotion, rng, sharp=False)


@dataclass(frozen=True)
class Mood:
    """The cues of one scene. A family that is off is None (objects: rate 0); strengths are 0..1."""

    emotion: str | None
    adjective: str
    palette: str | None = None
    light: str | None = None
    weather: str | None = None
    texture: str | None = None
    object_rate: float = 0.0
    strength: dict[str, float] = field(default_factory=dict)
    seed: int = 0

    def attribute(self, name: str, slot: int, neutral: str) -> str:
        """What object number `slot` of kind `name` does: independent of how many other objects there are."""
        if self.emotion is None or name not in ATTRIBUTES:
            return neutral
        rng = np.random.default_rng([self.seed, 77, slot])
        active = rng.random() < self.object_rate
        return draw_row(ATTRIBUTES[name], self.emotion, rng) if active else neutral


def draw_mood(emotion: str | None, emotion_seed: int, layout_seed: int, face: bool = False) -> Mood:
    """The cues of one scene. Usually 3 to 5 of the five families are on; the rest stay neutral.

    What objects do is the cue that reads best, so it is on in nine scenes of ten (always in portraits).
    """
    if emotion is None:
        rng = np.random.default_rng([layout_seed, 901])
        return Mood(None, draw_adjective(None, rng))
    seed = int(np.random.default_rng([layout_seed, emotion_seed, EMOTIONS.index(emotion), 902]).integers(2**31))
    rng = np.random.default_rng(seed)
    n = int(rng.choice([3, 4, 5], p=[0.3, 0.4, 0.3]))
    odds = np.array([0.19, 0.21, 0.2, 0.15, 0.25 if not face else 0.6])
    on = {FAMILIES[i] for i in rng.choice(5, size=n, replace=False, p=odds / odds.sum())}
    if rng.random() < 0.7 or face:
        on.add("objects")
    strength = {f: float(rng.uniform(0.5, 1.0)) for f in FAMILIES}
    picks = {
        f: draw_row(table, emotion, rng, sharp)
        for f, table, sharp in (
            ("palette", PALETTES, False),
            ("light", LIGHTS, False),
            ("weather", WEATHERS, True),
            ("texture", TEXTURES, True),
        )
    }
    return Mood(
        emotion,
        draw_adjective(emotion, rng),
        **{f: (v if f in on else None) for f, v in picks.items()},
        object_rate=float(1.0 if face else rng.uniform(0.75, 1.0)) if "objects" in on else 0.0,
        strength=strength,
        seed=seed,
    )
