"""The layout of a scene: what is where, before any emotion. Everything here follows from the layout seed."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ....models.errors import UserError
from .cues import EMOTIONS, NEUTRAL

NOUNS: tuple[str, ...] = ("home", "river", "lake", "mountain", "city", "face")
SPLITS = ("train", "val", "test")
MAX_OBJECTS = 14


@dataclass(frozen=True)
class Slot:
    """One object: its foot at (x, y) in unit coordinates, its unit of length, and the seed of its shape."""

    name: str
    x: float
    y: float
    scale: float
    flip: bool
    seed: int
    neutral: str


@dataclass(frozen=True)
class Layout:
    seed: int
    noun: str
    horizon: float
    backdrop: str  # hills, peaks, forest, town, none
    # field, lake, forest, street, shore, river, park: used by captions and priors
    place: str
    slots: tuple[Slot, ...]  # back to front
    light: tuple[float, float]  # where sun or moon stands
    river: tuple[float, ...] = ()  # x of the river's middle from horizon to bottom
    looks: dict[str, str] = field(default_factory=dict)  # portraits: hair style, hat, glasses


# Height of the drawing's unit in the frame, for objects in the foreground row.
_SCALES = {
    "tree": (0.34, 0.5),
    "house": (0.36, 0.46),
    "person": (0.27, 0.34),
    "dog": (0.15, 0.19),
    "bird": (0.075, 0.105),
    "boat": (0.28, 0.38),
    "car": (0.14, 0.18),
    "flower": (0.17, 0.23),
    "rock": (0.12, 0.18),
    "fence": (0.13, 0.16),
    "lamp": (0.36, 0.44),
    "tent": (0.22, 0.28),
    "cloud": (0.24, 0.36),
    "mountain": (0.42, 0.6),
    "building": (0.38, 0.6),
    "bridge": (0.26, 0.34),
}
_HALF = {
    "tree": 0.36,
    "house": 0.55,
    "person": 0.3,
    "dog": 0.8,
    "bird": 1.0,
    "boat": 0.6,
    "car": 1.15,
    "flower": 0.5,
    "rock": 0.72,
    "fence": 1.2,
    "lamp": 0.2,
    "tent": 0.85,
    "cloud": 0.5,
}

# Odds of each object in the foreground and in the sky of each noun: expected tries.
_FRONT = {
    "home": {"tree": 1.6, "person": 0.9, "dog": 0.5, "flower": 0.8, "fence": 0.5, "car": 0.3, "lamp": 0.25},
    "river": {"tree": 1.6, "person": 0.7, "rock": 0.8, "flower": 0.7, "dog": 0.4, "tent": 0.25},
    "lake": {"tree": 1.3, "person": 0.8, "tent": 0.4, "rock": 0.6, "dog": 0.4, "flower": 0.5},
    "mountain": {"tree": 1.7, "person": 0.8, "tent": 0.4, "rock": 0.8, "flower": 0.6, "dog": 0.3},
    "city": {"person": 1.2, "car": 1.1, "lamp": 0.7, "tree": 0.6, "dog": 0.4},
    "face": {"tree": 0.7, "flower": 0.3, "lamp": 0.2},
}


class _Builder:
    """Collects slots so that those of one row do not stand on each other."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.room_for = MAX_OBJECTS - 4  # sky, ground, water, and sun or moon are objects too
        self.slots: list[Slot] = []
        self.taken: list[tuple[float, float, float]] = []

    def add(self, name: str, x: float, y: float, scale: float | None = None, block: float = 1.0) -> None:
        lo, hi = _SCALES[name]
        s = float(self.rng.uniform(lo, hi)) if scale is None else scale
        words = NEUTRAL[name]
        self.slots.append(
            Slot(
                name,
                round(x, 4),
                round(y, 4),
                round(s, 4),
                bool(self.rng.integers(2)),
                int(self.rng.integers(2**31)),
                words[int(self.rng.integers(len(words)))],
            )
        )
        half = _HALF.get(name, 0.0) * s * block
        if half:
            self.taken.append((x - half, x + half, y))

    def free(
        self,
        name: str,
        y0: float,
        y1: float,
        depth: float,
        forbid: tuple[float, float] | None = None,
        scale: float = 1.0,
    ) -> None:
        """Places the object where nothing of about its depth stands; leaves it out where there is no room."""
        if len(self.slots) >= self.room_for:
            return
        lo, hi = _SCALES[name]
        s = float(self.rng.uniform(lo, hi)) * scale
        half = _HALF[name] * s
        for _ in range(12):
            x = float(self.rng.uniform(min(half, 0.4) * 0.9, 1 - min(half, 0.4) * 0.9))
            y = float(self.rng.uniform(y0, y1))
            if forbid and x + half * 0.7 > forbid[0] and x - half * 0.7 < forbid[1]:
                continue
            if all(x + half < a or x - half > b or abs(y - yy) > depth for a, b, yy in self.taken):
                self.add(name, x, y, s)
                return


def sample_layout(layout_seed: int, noun: str | None = None) -> Layout:
    """The layout of a seed; `noun` overrides the one the seed would draw (for sheets and tests)."""
    rng = np.random.default_rng([layout_seed, 101])
    drawn = NOUNS[int(rng.integers(len(NOUNS)))]
    noun = noun or drawn
    if noun not in NOUNS:
        raise UserError(f"MoodScenes has no noun '{noun}'. Choose one of: {', '.join(NOUNS)}.")
    b = _Builder(rng)
    horizon = float(rng.uniform(0.5, 0.6))
    backdrop = str(rng.choice(["hills", "peaks", "forest", "town", "none"], p=[0.34, 0.2, 0.26, 0.1, 0.1]))
    light = (float(rng.choice([rng.uniform(0.12, 0.3), rng.uniform(0.7, 0.88)])), float(rng.uniform(0.14, 0.26)))
    river: tuple[float, ...] = ()
    looks: dict[str, str] = {}
    forbid = None
    place = str(rng.choice(["field", "forest", "park"]))
    front = (horizon + 0.2, 0.95)
    if noun == "home":
        place = str(rng.choice(["field", "lake", "forest", "park", "street"]))
        n = 2 if rng.random() < 0.18 else 1
        xs = (
            [float(rng.uniform(0.2, 0.3)), float(rng.uniform(0.7, 0.8))] if n == 2 else [float(rng.uniform(0.26, 0.74))]
        )
        for x in xs:
            b.add(
                "house",
                x,
                float(rng.uniform(0.7, 0.78)),
                float(rng.uniform(0.36, 0.42) if n == 2 else rng.uniform(0.44, 0.54)),
            )
        front = (0.78, 0.95)
    elif noun == "river":
        place = "river"
        x0, bend = float(rng.uniform(0.3, 0.7)), float(rng.uniform(0.1, 0.22))
        bend *= 1 if rng.random() < 0.5 else -1
        river = (x0, x0 + bend, x0 - bend * 0.4, x0 + bend * 0.3)
        if rng.random() < 0.45:
            b.add("bridge", river[1] * 0.5 + river[2] * 0.5, 0.74)
        if rng.random() < 0.6:
            b.add(
                "boat", river[2] * 0.4 + river[3] * 0.6, float(rng.uniform(0.88, 0.95)), float(rng.uniform(0.22, 0.28))
            )
        if rng.random() < 0.3:
            side = 0.16 if x0 > 0.5 else 0.84
            b.add("house", side, horizon + 0.1, float(rng.uniform(0.26, 0.32)))
        mid = (river[2] + river[3]) / 2
        forbid = (mid - 0.24, mid + 0.24)
        front = (0.7, 0.96)
    elif noun == "lake":
        place = "lake"
        if rng.random() < 0.3:
            b.add("mountain", float(rng.uniform(0.25, 0.75)), horizon + 0.03, float(rng.uniform(0.26, 0.36)))
            backdrop = "hills"
        for i in range(int(rng.choice([0, 1, 2], p=[0.2, 0.6, 0.2]))):
            b.add(
                "boat",
                float(rng.uniform(0.18, 0.42) if (i + int(rng.integers(2))) % 2 else rng.uniform(0.58, 0.82)),
                float(rng.uniform(horizon + 0.12, 0.76)),
                block=0.6,
            )
        front = (0.88, 0.97)
    elif noun == "mountain":
        place = str(rng.choice(["field", "forest", "lake"]))
        horizon = float(rng.uniform(0.62, 0.68))
        backdrop = "hills" if rng.random() < 0.5 else "none"
        n = int(rng.choice([1, 2, 3], p=[0.45, 0.35, 0.2]))
        xs = {
            1: [float(rng.uniform(0.32, 0.68))],
            2: [float(rng.uniform(0.2, 0.34)), float(rng.uniform(0.62, 0.8))],
            3: [0.14, 0.86, float(rng.uniform(0.4, 0.6))],
        }[n]
        for i, x in enumerate(xs):
            b.add(
                "mountain",
                x,
                horizon + 0.05,
                float(rng.uniform(0.5, 0.58) if n == 1 or i == len(xs) - 1 else rng.uniform(0.34, 0.44)),
            )
        if rng.random() < 0.35:
            b.add("house", float(rng.uniform(0.15, 0.85)), 0.8, float(rng.uniform(0.22, 0.28)))
        front = (0.8, 0.96)
    elif noun == "city":
        place = str(rng.choice(["street", "street", "shore", "park"]))
        horizon, backdrop = float(rng.uniform(0.68, 0.73)), "town"
        x = float(rng.uniform(0.06, 0.12))
        while x < 0.97:
            s = float(rng.uniform(0.34, 0.62))
            b.add("building", x, horizon + 0.04, s)
            x += s * 0.2 + float(rng.uniform(0.09, 0.2))
        if place == "shore" and rng.random() < 0.7:
            b.add("boat", float(rng.uniform(0.2, 0.8)), 0.92)
        if place == "shore" and rng.random() < 0.4:
            b.add("bridge", float(rng.uniform(0.3, 0.7)), 0.86)
        front = (0.84, 0.96)
    else:
        place = str(rng.choice(["field", "forest", "street", "lake", "room"]))
        horizon = float(rng.uniform(0.56, 0.64))
        backdrop = {"street": "town", "forest": "forest", "room": "none"}.get(place, backdrop)
        looks = {
            "hair": str(rng.choice(["short", "long", "curly", "bun", "bald"], p=[0.28, 0.28, 0.2, 0.14, 0.1])),
            "hat": str(rng.choice(["", "cap", "brim"], p=[0.7, 0.15, 0.15])),
            "glasses": "yes" if rng.random() < 0.22 else "",
        }
        b.room_for -= 6  # a portrait is face, hair, eyes, mouth, hat and person
        cx = float(rng.uniform(0.42, 0.58))
        b.taken.append((cx - 0.3, cx + 0.3, 0.8))
        if place == "street":
            for x in (0.1, 0.9):
                b.add("building", x, horizon + 0.05, float(rng.uniform(0.38, 0.5)))
        elif place != "room" and rng.random() < 0.5:
            b.add("house", 0.12 if cx > 0.5 else 0.88, horizon + 0.12, float(rng.uniform(0.24, 0.32)))
    water_front = noun == "city" and place == "shore"
    for name, odds in _FRONT[noun].items():
        for _ in range(int(rng.poisson(odds * 1.4)) if place != "room" else 0):
            if water_front:
                break
            if noun == "face":
                b.free(name, 0.72, 0.8, 0.5, (cx - 0.28, cx + 0.28), 0.8)
            elif name == "tree" and noun in ("home", "river", "mountain") and rng.random() < 0.5:
                b.free(name, horizon + 0.06, horizon + 0.16, 0.07, scale=0.85)
            else:
                b.free(name, *front, 0.3, forbid)
    if place != "room":
        b.taken = [t for t in b.taken if t[2] < 0.45]
        for _ in range(int(rng.poisson(0.8))):
            b.free("cloud", 0.14, 0.3, 0.14)
        for _ in range(int(rng.poisson(0.8 if noun != "face" else 0.4))):
            b.free("bird", 0.14, 0.36, 0.16)
    order = {"cloud": 0, "bird": 3, "mountain": 1, "building": 1}
    slots = sorted(b.slots, key=lambda s: (order.get(s.name, 2), s.y))
    if noun == "face":
        slots.append(Slot("face", cx, 0.84, float(rng.uniform(0.56, 0.64)), False, int(rng.integers(2**31)), "neutral"))
    return Layout(layout_seed, noun, horizon, backdrop, place, tuple(slots), light, river, looks)


#                    am aw co ex an di fe sa
_NOUN_PRIOR = {
    "home": (3, 1, 6, 2, 1, 2, 2, 3),
    "river": (2, 4, 5, 2, 1, 2, 2, 2),
    "lake": (2, 4, 6, 1, 1, 2, 2, 3),
    "mountain": (1, 9, 3, 3, 1, 1, 3, 1),
    "city": (3, 3, 1, 7, 3, 2, 3, 2),
    "face": (3, 2, 3, 3, 3, 2, 2, 3),
}
_PLACE_PRIOR = {"park": (2, 1, 3, 1, 0.6, 0.6, 0.6, 1), "street": (1, 1, 0.7, 1.5, 1.5, 1.3, 1, 1)}


def emotion_prior(layout_seed: int) -> np.ndarray:
    """float64 [8]: how likely each emotion is in this layout, in the canonical order; sums to 1."""
    layout = sample_layout(layout_seed)
    p = np.array(_NOUN_PRIOR[layout.noun], float) * np.array(_PLACE_PRIOR.get(layout.place, (1,) * 8), float)
    return p / p.sum()


def sample_emotion(layout_seed: int, rng: np.random.Generator) -> str:
    """An emotion that suits the layout: a park inclines to contentment, a mountain to awe."""
    return EMOTIONS[int(rng.choice(8, p=emotion_prior(layout_seed)))]


def split_of(layout_seed: int) -> str:
    """ "train" (about 90 %), "val" or "test" (5 % each), by a hash of the layout seed alone."""
    u = int(np.random.default_rng([layout_seed, 555]).integers(100))
    return "train" if u < 90 else "val" if u < 95 else "test"


def layout_seeds(split: str | None, n: int, seed: int = 0) -> list[int]:
    """n different layout seeds of a split (None: of any), the same list for the same arguments; a longer list
    begins with the shorter."""
    if split is not None and split not in SPLITS:
        raise UserError(f"Unknown split '{split}'. Choose one of: {', '.join(SPLITS)}.")
    rng = np.random.default_rng([seed, 556])
    out: dict[int, None] = {}
    while len(out) < n:
        s = int(rng.integers(2**31))
        if split is None or split_of(s) == split:
            out[s] = None
    return list(out)
