"""The local colours of a layout (before any emotion grades them) and the drawing style of each domain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .canvas import Colour, mix

BRIGHT: tuple[Colour, ...] = (
    (236, 88, 82),
    (250, 190, 60),
    (84, 176, 216),
    (240, 130, 170),
    (126, 190, 90),
    (160, 110, 200),
)
SLIMES: tuple[Colour, ...] = (
    (150, 176, 44),
    (150, 176, 44),
    (122, 130, 48),
    (150, 112, 52),
    (104, 160, 120),
    (140, 96, 140),
    (176, 160, 120),
)
MOULD: Colour = (92, 100, 44)
DARK: Colour = (44, 40, 56)

_SETS = {
    "a": {
        "sky": (
            ((96, 160, 220), (206, 230, 240)),
            ((120, 180, 214), (240, 232, 214)),
            ((80, 150, 200), (190, 224, 226)),
            ((150, 184, 220), (236, 228, 232)),
        ),
        "grass": ((120, 168, 84), (150, 176, 84), (96, 156, 104), (186, 172, 98), (128, 150, 96)),
        "far": ((112, 146, 170), (122, 156, 132), (140, 140, 168), (98, 138, 140)),
        "leaf": ((70, 138, 76), (98, 150, 60), (58, 124, 98), (170, 136, 56), (84, 128, 88)),
        "bark": ((112, 78, 58), (96, 74, 70), (130, 96, 70)),
        "wall": ((238, 222, 196), (222, 196, 170), (204, 216, 220), (232, 208, 208), (216, 220, 190)),
        "roof": ((178, 84, 68), (112, 98, 124), (84, 112, 128), (146, 96, 70), (92, 120, 96)),
        "water": ((84, 154, 190), (96, 172, 182), (92, 136, 186), (120, 176, 200)),
        "rock": ((140, 136, 142), (154, 140, 126), (122, 132, 146)),
        "skin": ((246, 208, 178), (226, 176, 140), (184, 128, 92), (134, 90, 66)),
        "hair": ((52, 40, 40), (108, 70, 48), (206, 160, 86), (150, 72, 46), (150, 146, 146)),
    },
    "b": {
        "sky": (
            ((222, 226, 214), (246, 240, 220)),
            ((184, 212, 220), (244, 238, 222)),
            ((226, 208, 190), (250, 240, 220)),
        ),
        "grass": ((196, 198, 138), (168, 186, 150), (214, 190, 142), (150, 172, 160)),
        "far": ((168, 180, 190), (188, 176, 160), (160, 176, 160)),
        "leaf": ((106, 150, 128), (150, 160, 86), (196, 146, 90), (124, 134, 116)),
        "bark": ((92, 70, 64), (124, 92, 76)),
        "wall": ((250, 238, 214), (214, 184, 160), (186, 198, 196), (240, 214, 176)),
        "roof": ((158, 70, 62), (70, 90, 110), (90, 76, 84), (196, 128, 74)),
        "water": ((130, 172, 186), (110, 150, 170), (160, 190, 190)),
        "rock": ((164, 156, 150), (130, 128, 134)),
        "skin": ((248, 220, 194), (220, 170, 136), (160, 108, 82)),
        "hair": ((36, 32, 40), (128, 74, 50), (222, 178, 110)),
    },
}


@dataclass(frozen=True)
class Materials:
    """Colours (0..255) chosen once a layout; `ink` is the outline width of domain b, 0 in domain a."""

    sky: tuple[Colour, Colour]
    grass: Colour
    far: Colour
    leaf: Colour
    bark: Colour
    wall: Colour
    roof: Colour
    water: Colour
    rock: Colour
    skin: Colour
    hair: Colour
    cloth: Colour
    ink: float
    words: dict[str, str]  # "hair" and "cloth": the word for their colour


_HAIR_WORDS = {"a": ("black", "brown", "blond", "red", "gray"), "b": ("black", "brown", "blond")}
_CLOTH_WORDS = ("red", "yellow", "blue", "pink", "green", "purple")


def choose_materials(layout_seed: int, domain: str) -> Materials:
    rng = np.random.default_rng([layout_seed, 311 if domain == "a" else 312])
    index = {k: int(rng.integers(len(v))) for k, v in _SETS[domain].items()}
    cloth = int(rng.integers(len(BRIGHT)))
    colours: dict[str, Any] = {k: _SETS[domain][k][i] for k, i in index.items()}  # the sky's are two
    return Materials(
        **colours,
        cloth=BRIGHT[cloth],
        ink=0.0 if domain == "a" else 0.0045,
        words={"hair": _HAIR_WORDS[domain][index["hair"]], "cloth": _CLOTH_WORDS[cloth]},
    )


def vary(c: Colour, rng: np.random.Generator, amount: float = 0.14) -> Colour:
    """A near relative of c: two objects of one kind are rarely of exactly one colour."""
    other = BRIGHT[int(rng.integers(len(BRIGHT)))]
    return mix(mix(c, other, float(rng.uniform(0, amount))), (255, 255, 255), float(rng.uniform(0, amount)))
