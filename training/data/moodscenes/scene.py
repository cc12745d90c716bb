"""A scene: a layout rendered under a mood, with its annotations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ....models.errors import UserError
from . import built, captions, creatures, nature, vehicles
from .canvas import Canvas, shade
from .cues import EMOTIONS, Mood, draw_mood
from .faces import portrait
from .finish import finish
from .layout import Layout, Slot, sample_layout
from .materials import SLIMES, Materials, choose_materials
from .terrain import backdrop, ground
from .weather import LIGHT_LOOKS, behind, drawn_texture, in_front, luminary, sky_colours

_DRAW = {
    "tree": nature.tree,
    "flower": nature.flower,
    "rock": nature.rock,
    "cloud": nature.cloud,
    "mountain": nature.mountain,
    "house": built.house,
    "building": built.building,
    "car": vehicles.car,
    "boat": vehicles.boat,
    "bridge": built.bridge,
    "fence": built.fence,
    "lamp": built.lamp,
    "tent": built.tent,
    "person": creatures.person,
    "dog": creatures.dog,
    "bird": creatures.bird,
}
_FACE_WORDS = {
    "eyes": {
        "laughing": "closed",
        "amazed": "wide",
        "peaceful": "closed",
        "excited": "bright",
        "angry": "narrow",
        "disgusted": "narrow",
        "terrified": "wide",
        "crying": "wet",
    },
    "mouth": {
        "laughing": "open",
        "amazed": "open",
        "peaceful": "smiling",
        "excited": "smiling",
        "angry": "shouting",
        "disgusted": "twisted",
        "terrified": "screaming",
        "crying": "crying",
    },
}
_SHADOW = {"car": 1.1, "house": 0.56, "dog": 0.6, "rock": 0.74, "tent": 0.86, "fence": 1.2, "lamp": 0.14}


@dataclass(frozen=True)
class SceneObject:
    """name and attribute are words; box is (left, top, right, bottom) in pixels of the visible part, right
    and bottom exclusive; number is its value in the indexed mask; salient marks what a caption would
    mention."""

    name: str
    attribute: str
    box: tuple[int, int, int, int]
    number: int
    area: float
    x: float
    salient: bool


@dataclass(frozen=True)
class Scene:
    """image uint8 [H,W,3]; owners uint8 [H,W], the object number of each pixel (0: nobody)."""

    image: np.ndarray
    noun: str
    adjective: str
    emotion: str | None
    objects: tuple[SceneObject, ...]
    owners: np.ndarray
    masks: dict[str, np.ndarray]
    layout: Layout
    mood: Mood
    domain: str
    looks_words: dict[str, str]

    def content_caption(self, rng: np.random.Generator, attributes: float = 0.0, emotion: bool = False) -> str:
        """A short varied caption of the content; see captions.content_caption."""
        return captions.content_caption(self, rng, attributes, emotion)

    def mood_caption(self) -> dict:
        """MoodArchive's form: {"summary": str, "stimuli": [str, str, str], "assessment": str}."""
        return captions.mood_caption(self)

    def emoset(self) -> dict:
        """EmoSet's annotation of one image, without image_id."""
        return captions.emoset(self)

    def emospace(self) -> dict:
        """EmoSpace's annotation: emotion, global_adjective, ontology_adjective (object-attribute pairs)."""
        return captions.emospace(self)


class _Composer:
    """Draws one scene and remembers which number each object got."""

    def __init__(self, layout: Layout, mood: Mood, m: Materials, size: int):
        self.layout, self.mood, self.m = layout, mood, m
        self.c = Canvas(size, m.ink)
        self.named: list[tuple[str, str, float]] = []  # name, attribute, x

    def own(self, name: str, attribute: str, x: float = 0.5, again: bool = False) -> None:
        """What follows belongs to a new object, or with `again` to the latest object of that name."""
        if again:
            for i in range(len(self.named) - 1, -1, -1):
                if self.named[i][0] == name:
                    self.c.owner = i + 1
                    return
        self.named.append((name, attribute, x))
        self.c.owner = len(self.named)

    def attribute(self, index: int, slot: Slot) -> str:
        return self.mood.attribute(slot.name, index, slot.neutral)

    def compose(self) -> None:
        layout, mood, m, c = self.layout, self.mood, self.m, self.c
        ls, ws = mood.strength.get("light", 0.0), mood.strength.get("weather", 0.0)
        rng = np.random.default_rng([mood.seed, layout.seed, 42])
        c.slime = SLIMES[int(rng.integers(len(SLIMES)))]
        shape = np.random.default_rng([layout.seed, 43])
        sky = sky_colours(m, mood.light, mood.weather, ls)
        self.own("sky", captions.sky_word(mood))
        c.gradient(None, ((0.0, sky[0]), (layout.horizon, sky[1]), (1.0, sky[1])))
        behind(c, mood.weather, mood.light, layout.light, layout.horizon, rng, m, ws)
        kind = LIGHT_LOOKS[mood.light][3] if mood.light else None if mood.emotion else "sun"
        if kind and mood.weather not in ("sunny", "rain", "lightning", "smoke") and layout.place != "room":
            self.own(
                kind,
                {"fiery": "red", "moon": "full", "golden": "warm"}.get(mood.light or "", "bright"),
                layout.light[0],
            )
            luminary(c.pen(), kind, *layout.light, mood.light or "", m)
        slots = list(enumerate(layout.slots))
        high = [(i, s) for i, s in slots if s.name in ("cloud",)]
        tall = [(i, s) for i, s in slots if s.name in ("mountain", "building")]
        rest = [(i, s) for i, s in slots if s.name not in ("cloud", "mountain", "building")]
        for i, s in high:
            self.slot(i, s)
        c.owner = 1
        backdrop(c, layout, m, shape)
        for i, s in tall:
            self.slot(i, s)
        ground(c, layout, mood, m, sky, shape, self.own)
        for i, s in rest:
            if s.name == "face":
                c.owner = None
                in_front(c, mood.weather, np.random.default_rng([mood.seed, 44]), 0.8)
            self.slot(i, s)
        c.owner = None
        density = (0.7 + 0.5 * ws) * (0.3 if layout.noun == "face" else 1.0)
        in_front(c, mood.weather, rng, density)
        drawn_texture(c, mood.texture, rng, mood.strength.get("texture", 0.0))

    def slot(self, index: int, s: Slot) -> None:
        attribute = self.attribute(index, s)
        scale = s.scale
        rng = np.random.default_rng([s.seed, 45])
        if s.name == "face":
            self.face(s, attribute, rng)
            return
        if s.name not in ("cloud", "bird", "mountain", "building", "boat", "bridge"):
            self.c.owner = None  # a soft contact shadow grounds the object
            self.c.pen(s.x, s.y, scale).oval(
                0.03, 0.0, _SHADOW.get(s.name, 0.3), 0.04, shade(self.m.grass, 0.72), ink=False
            )
        self.own(s.name, attribute, s.x)
        _DRAW[s.name](self.c.pen(s.x, s.y, scale, s.flip), rng, attribute, self.m)

    def face(self, s: Slot, attribute: str, rng: np.random.Generator) -> None:
        looks = self.layout.looks
        hair = looks["hair"]

        def own(name: str) -> None:
            known = any(n == name for n, _, _ in self.named[first:])
            word = {"face": attribute, "hair": hair, "hat": "small", "person": "young"}.get(
                name, _FACE_WORDS.get(name, {}).get(attribute, "calm")
            )
            self.own(name, word, s.x, again=known)

        first = len(self.named)
        portrait(
            self.c.pen(s.x, s.y, s.scale),
            own,
            rng,
            attribute,
            self.m,
            hair,
            looks["hat"] or None,
            bool(looks["glasses"]),
        )


def make_scene(
    layout_seed: int,
    emotion: str | None,
    emotion_seed: int = 0,
    domain: str = "a",
    size: int = 128,
    masks: bool = False,
    noun: str | None = None,
) -> Scene:
    """One scene, from its seeds alone.

    layout_seed fixes the noun, the composition and every shape; emotion (one of EMOTIONS, or None for the
    neutral rendering) and emotion_seed fix the cues. domain is "a" or "b", size 64..1024 pixels. With
    masks, Scene.masks maps "name" (a second one: "name 2") to bool [size,size]. `noun` overrides the
    layout's noun.
    """
    if emotion is not None and emotion not in EMOTIONS:
        raise UserError(f"Unknown emotion '{emotion}'. Choose one of: {', '.join(EMOTIONS)}; or None.")
    if domain not in ("a", "b"):
        raise UserError(f"Unknown domain '{domain}'. MoodScenes has the domains 'a' and 'b'.")
    if not 64 <= size <= 1024:
        raise UserError(f"A scene of {size} pixels cannot be drawn. Choose a size from 64 to 1024.")
    layout = sample_layout(layout_seed, noun)
    mood = draw_mood(emotion, emotion_seed, layout_seed, layout.noun == "face")
    materials = choose_materials(layout_seed, domain)
    composer = _Composer(layout, mood, materials, size)
    composer.compose()
    image, owners = finish(
        composer.c, mood, layout.light, layout.horizon, 1, np.random.default_rng([layout_seed, 46]), domain
    )
    objects = _objects(composer.named, owners, size)
    found: dict[str, np.ndarray] = {}
    if masks:
        for o in objects:
            n = 1 + sum(k == o.name or k.startswith(o.name + " ") for k in found)
            found[o.name if n == 1 else f"{o.name} {n}"] = owners == o.number
    return Scene(
        image, layout.noun, mood.adjective, emotion, objects, owners, found, layout, mood, domain, materials.words
    )


def _objects(named: list[tuple[str, str, float]], owners: np.ndarray, size: int) -> tuple[SceneObject, ...]:
    """The objects that can be seen (at least 0.15 % of the frame), largest backdrop first as drawn."""
    out = []
    for number, (name, attribute, x) in enumerate(named, 1):
        rows = np.flatnonzero((owners == number).any(1))
        if not len(rows):
            continue
        cols = np.flatnonzero((owners == number).any(0))
        area = float((owners == number).mean())
        if area < 0.0015:
            continue
        box = (int(cols[0]), int(rows[0]), int(cols[-1]) + 1, int(rows[-1]) + 1)
        out.append(SceneObject(name, attribute, box, number, area, x, name not in ("sky", "grass", "street", "wall")))
    return tuple(out)
