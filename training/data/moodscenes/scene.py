"""A scene: a layout rendered under a mood, with its annotations."""
from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from . import built, captions, creatures, nature
from .canvas import Canvas, mix, shade
from .cues import EMOTIONS, Mood, draw_mood
from .effects import star
from .faces import portrait
from .finish import finish
from .layout import Layout, Slot, sample_layout
from .materials import Materials, choose_materials
from .weather import LIGHT_LOOKS, behind, drawn_texture, in_front, luminary, sky_colours

_DRAW = {"tree": nature.tree, "flower": nature.flower, "rock": nature.rock, "cloud": nature.cloud,
         "mountain": nature.mountain, "house": built.house, "building": built.building, "car": built.car,
         "boat": built.boat, "bridge": built.bridge, "fence": built.fence, "lamp": built.lamp, "tent": built.tent,
         "person": creatures.person, "dog": creatures.dog, "bird": creatures.bird}
_FACE_WORDS = {
    "eyes": {"laughing": "closed", "amazed": "wide", "peaceful": "closed", "excited": "bright", "angry": "narrow",
             "disgusted": "narrow", "terrified": "wide", "crying": "wet"},
    "mouth": {"laughing": "open", "amazed": "open", "peaceful": "smiling", "excited": "smiling", "angry": "shouting",
              "disgusted": "twisted", "terrified": "screaming", "crying": "crying"},
}
_SHADOW = {"car": 1.1, "house": 0.56, "dog": 0.6, "rock": 0.74, "tent": 0.86, "fence": 1.2, "lamp": 0.14}
_GROUND = {"street": "street", "lake": "grass", "river": "grass", "shore": "street", "room": "wall"}


@dataclass(frozen=True)
class SceneObject:
    """name and attribute are words; box is (left, top, right, bottom) in pixels of the visible part, right and bottom
    exclusive; number is its value in the indexed mask; salient marks what a caption would mention."""
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


def _backdrop(c: Canvas, layout: Layout, m: Materials, rng: np.random.Generator) -> None:
    p, h = c.pen(), layout.horizon + 0.02
    if layout.place == "room":
        return
    if layout.backdrop == "hills":
        for k, col in ((0.1, mix(m.far, m.sky[1], 0.35)), (0.05, mix(m.far, m.grass, 0.4))):
            ph, f = float(rng.uniform(0, 6)), float(rng.uniform(4, 8))
            p.poly([(0, h + 0.05)] + [(i / 14, h - k - 0.045 * math.sin(ph + f * i / 14)) for i in range(15)] + [(1, h + 0.05)], col)
    elif layout.backdrop == "peaks":
        col = mix(m.far, m.sky[1], 0.25)
        x = -0.1
        while x < 1.05:
            w, t = float(rng.uniform(0.14, 0.24)), float(rng.uniform(0.12, 0.22))
            p.poly([(x - w, h + 0.03), (x, h - t), (x + w, h + 0.03)], col)
            p.poly([(x, h - t), (x + w, h + 0.03), (x + w * 0.2, h + 0.03)], shade(col, 0.86), ink=False)
            x += float(rng.uniform(0.15, 0.25))
    elif layout.backdrop == "forest":
        col = mix(m.leaf, m.far, 0.55)
        x = -0.02
        while x < 1.02:
            r = float(rng.uniform(0.045, 0.085))
            p.oval(x, h - r * 0.5, r * 0.8, r * 1.3, shade(col, float(rng.uniform(0.84, 1.04))))
            x += r * 1.15
        p.rect(0, h - 0.02, 1, h + 0.04, shade(col, 0.9), ink=False)
    elif layout.backdrop == "town":
        col = mix(m.far, m.sky[1], 0.4)
        x = 0.0
        while x < 1.0:
            w, t = float(rng.uniform(0.07, 0.13)), float(rng.uniform(0.08, 0.2))
            p.rect(x, h - t, x + w, h + 0.05, shade(col, float(rng.uniform(0.86, 1.04))))
            x += w


def _water_colours(m: Materials, sky: tuple, attribute: str) -> tuple:
    c = {"polluted": (122, 132, 52), "dark": (26, 34, 54), "gray": (120, 128, 138), "wild": shade(m.water, 0.7),
         "sparkling": mix(m.water, (120, 220, 236), 0.4)}.get(attribute, m.water)
    reflect = 0.45 if attribute == "calm" else 0.12 if attribute in ("polluted", "dark") else 0.28
    return mix(c, sky[1], reflect), shade(c, 0.82)


def _smooth(t: np.ndarray, knots: tuple[float, ...]) -> np.ndarray:
    """Cosine interpolation of equally spaced knots over t in 0..1."""
    k = np.clip(t, 0, 1) * (len(knots) - 1)
    i = np.minimum(k.astype(int), len(knots) - 2)
    u = 0.5 - 0.5 * np.cos(np.pi * (k - i))
    v = np.array(knots)
    return v[i] * (1 - u) + v[i + 1] * u


def _water_marks(c: Canvas, attribute: str, y0: float, y1: float, rng: np.random.Generator, ys: np.ndarray,
                 middle: np.ndarray, half: np.ndarray) -> None:
    """Waves, sparkles or scum between y0 and y1, where the water reaches from middle - half to middle + half at ys."""
    p = c.pen()
    for i in range({"wild": 9, "polluted": 9, "calm": 4, "sparkling": 10}.get(attribute, 6)):
        u, v = rng.uniform(-1, 1), rng.uniform(-0.3, 0.3)
        y = y0 + (y1 - y0) * (i + 0.5 + v) / 11
        width = float(np.interp(y, ys, half))
        x = float(np.interp(y, ys, middle)) + u * width * 0.8
        w = min(0.04 + 0.08 * (y - y0) / max(0.1, y1 - y0), width)
        if attribute == "wild":
            p.poly([(x - w, y + 0.02), (x - w * 0.5, y - 0.035), (x + w * 0.1, y - 0.075), (x + w * 0.5, y - 0.06),
                    (x + w * 0.2, y - 0.035), (x + w, y + 0.02)], (236, 244, 250), ink=False)
        elif attribute == "polluted":
            p.oval(x, y, w * 0.8, w * 0.3, ((160, 176, 52), (92, 92, 40), (190, 190, 90))[i % 3], ink=False)
            if i % 3 == 0:
                p.disc(x, y - 0.01, 0.018, (206, 214, 110), ink=False)
        elif attribute == "sparkling":
            star(p, x, y, 0.02 + 0.2 * w)
        else:
            col = {"dark": (70, 84, 110), "gray": (164, 172, 182)}.get(attribute, (236, 246, 250))
            p.line([(x - w, y), (x + w, y)], 0.008, col)


class _Composer:
    """Draws one scene and remembers which number each object got."""

    def __init__(self, layout: Layout, mood: Mood, m: Materials, size: int):
        self.layout, self.mood, self.m = layout, mood, m
        self.c = Canvas(size, m.ink)
        self.named: list[tuple[str, str, float]] = []          # name, attribute, x

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
        shape = np.random.default_rng([layout.seed, 43])
        sky = sky_colours(m, mood.light, mood.weather, ls)
        self.own("sky", captions.sky_word(mood))
        c.gradient(None, ((0.0, sky[0]), (layout.horizon, sky[1]), (1.0, sky[1])))
        behind(c, mood.weather, mood.light, layout.light, layout.horizon, rng, m, ws)
        kind = LIGHT_LOOKS[mood.light][3] if mood.light else "sun" if mood.weather is None and mood.emotion is None else None
        if kind and mood.weather not in ("sunny", "rain", "lightning", "smoke") and layout.place != "room":
            self.own(kind, {"fiery": "red", "moon": "full", "golden": "warm"}.get(mood.light or "", "bright"), layout.light[0])
            luminary(c.pen(), kind, *layout.light, mood.light or "", m)
        slots = list(enumerate(layout.slots))
        high = [(i, s) for i, s in slots if s.name in ("cloud",)]
        tall = [(i, s) for i, s in slots if s.name in ("mountain", "building")]
        rest = [(i, s) for i, s in slots if s.name not in ("cloud", "mountain", "building")]
        for i, s in high:
            self.slot(i, s)
        c.owner = 1
        _backdrop(c, layout, m, shape)
        for i, s in tall:
            self.slot(i, s)
        self.ground(shape, sky)
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
            self.c.owner = None                                # a soft contact shadow grounds the object
            self.c.pen(s.x, s.y, scale).oval(0.03, 0.0, _SHADOW.get(s.name, 0.3), 0.04,
                                             shade(self.m.grass, 0.72), ink=False)
        self.own(s.name, attribute, s.x)
        _DRAW[s.name](self.c.pen(s.x, s.y, scale, s.flip), rng, attribute, self.m)

    def face(self, s: Slot, attribute: str, rng: np.random.Generator) -> None:
        looks = self.layout.looks
        hair = looks["hair"]

        def own(name: str) -> None:
            known = any(n == name for n, _, _ in self.named[first:])
            word = {"face": attribute, "hair": hair, "hat": "small", "person": "young"}.get(
                name, _FACE_WORDS.get(name, {}).get(attribute, "calm"))
            self.own(name, word, s.x, again=known)

        first = len(self.named)
        portrait(self.c.pen(s.x, s.y, s.scale), own, rng, attribute, self.m, hair, looks["hat"] or None,
                 bool(looks["glasses"]))

    def ground(self, rng: np.random.Generator, sky: tuple) -> None:
        layout, m, c = self.layout, self.m, self.c
        h, p = layout.horizon, self.c.pen()
        if layout.place == "room":
            self.own("wall", "plain")
            c.gradient([(0, 0), (1, 0), (1, 1), (0, 1)], ((0, mix(m.wall, m.cloth, 0.12)), (1, shade(m.wall, 0.82))))
            return
        street = layout.place in ("street", "shore")
        top = mix(m.grass, sky[1], 0.25) if not street else mix((150, 148, 156), sky[1], 0.3)
        low = shade(m.grass, 0.84) if not street else (104, 102, 114)
        self.own(_GROUND.get(layout.place, "grass"), "green" if not street else "gray")
        ph = float(rng.uniform(0, 6))
        bump = 0.0 if street else 0.018
        edge = [(i / 12, h + bump * math.sin(ph + i * 0.6)) for i in range(13)]
        c.gradient([(0, 1), *edge, (1, 1)], ((h, top), (1.0, low)))
        if street:
            p.poly([(0, 0.86), (1, 0.86), (1, 1), (0, 1)], (88, 86, 98), ink=False)
            for x in (0.05, 0.3, 0.55, 0.8):
                p.rect(x, 0.965, x + 0.13, 0.982, (232, 226, 206), ink=False)
        elif layout.noun == "home":
            house = next(s for s in layout.slots if s.name == "house")
            p.poly([(house.x - 0.05, house.y - 0.01), (house.x + 0.05, house.y - 0.01), (house.x + 0.2, 1), (house.x - 0.12, 1)],
                   mix(m.bark, (230, 206, 170), 0.6), ink=False)
        number = 900                                          # water is not a slot: a number of its own
        wet = layout.noun in ("lake", "river") or layout.place in ("lake", "shore")
        if not wet:
            return
        attribute = self.mood.attribute("water", number, "blue")
        far, near = _water_colours(m, sky, attribute)
        self.own("water", attribute)
        if layout.river:
            ys = np.linspace(h + 0.005, 1.0, 24)
            t = (ys - h) / (1 - h)
            middle, half = _smooth(t, layout.river), 0.035 + 0.25 * t ** 1.2
            left, right = list(zip(middle - half, ys)), list(zip(middle + half, ys))
            c.gradient(left + right[::-1], ((h, far), (1, near)))
            _water_marks(c, attribute, h + 0.1, 1.0, rng, ys, middle, half * 0.7)
            return
        y0, y1 = {"lake": (h, 0.86), "city": (h + 0.07, 1.0)}.get(layout.noun, (h + 0.01, min(0.7, h + 0.1)))
        shore = [(1, y1), (0.72, y1 + 0.012), (0.4, y1 - 0.015), (0, y1 + 0.008)] if y1 < 1 else [(1, 1), (0, 1)]
        c.gradient([(0, y0), (1, y0), *shore], ((y0, far), (y1, near)))
        _water_marks(c, attribute, y0 + 0.03, y1, rng, np.array((0.0, 1.0)), np.array((0.5, 0.5)), np.array((0.48, 0.48)))


def make_scene(layout_seed: int, emotion: str | None, emotion_seed: int = 0, domain: str = "a", size: int = 128,
               masks: bool = False, noun: str | None = None) -> Scene:
    """One scene, from its seeds alone.

    layout_seed fixes the noun, the composition and every shape; emotion (one of EMOTIONS, or None for the neutral
    rendering) and emotion_seed fix the cues. domain is "a" or "b", size 64..1024 pixels. With masks,
    Scene.masks maps "name" (a second one: "name 2") to bool [size,size]. `noun` overrides the layout's noun.
    """
    if emotion is not None and emotion not in EMOTIONS:
        raise ValueError(f"Unknown emotion '{emotion}'. Choose one of: {', '.join(EMOTIONS)}, or None for neutral.")
    if domain not in ("a", "b"):
        raise ValueError(f"Unknown domain '{domain}'. MoodScenes has the domains 'a' and 'b'.")
    if not 64 <= size <= 1024:
        raise ValueError(f"A scene of {size} pixels cannot be drawn. Choose a size from 64 to 1024.")
    layout = sample_layout(layout_seed, noun)
    mood = draw_mood(emotion, emotion_seed, layout_seed, layout.noun == "face")
    materials = choose_materials(layout_seed, domain)
    composer = _Composer(layout, mood, materials, size)
    composer.compose()
    image, owners = finish(composer.c, mood, layout.light, layout.horizon, 1, np.random.default_rng([layout_seed, 46]), domain)
    objects = _objects(composer.named, owners, size)
    found: dict[str, np.ndarray] = {}
    if masks:
        for o in objects:
            n = 1 + sum(k == o.name or k.startswith(o.name + " ") for k in found)
            found[o.name if n == 1 else f"{o.name} {n}"] = owners == o.number
    return Scene(image, layout.noun, mood.adjective, emotion, objects, owners, found, layout, mood, domain, materials.words)


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
