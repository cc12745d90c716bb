"""The land: far backdrop, ground and water."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .canvas import Canvas, Colour, mix, shade
from .cues import Mood
from .effects import star
from .layout import Layout
from .materials import Materials

Sky = tuple[Colour, Colour]

WATER_SLOT = 900
"""Water is not a slot of the layout; its attribute is drawn under this number."""

_GROUND = {"street": "street", "shore": "street"}


def backdrop(c: Canvas, layout: Layout, m: Materials, rng: np.random.Generator) -> None:
    p, h = c.pen(), layout.horizon + 0.02
    if layout.place == "room":
        return
    if layout.backdrop == "hills":
        for k, col in ((0.1, mix(m.far, m.sky[1], 0.35)), (0.05, mix(m.far, m.grass, 0.4))):
            ph, f = float(rng.uniform(0, 6)), float(rng.uniform(4, 8))
            p.poly(
                [(0, h + 0.05)]
                + [(i / 14, h - k - 0.045 * math.sin(ph + f * i / 14)) for i in range(15)]
                + [(1, h + 0.05)],
                col,
            )
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


def _water_colours(m: Materials, sky: Sky, attribute: str) -> Sky:
    c = {
        "polluted": (122, 132, 52),
        "dark": (26, 34, 54),
        "gray": (120, 128, 138),
        "wild": shade(m.water, 0.7),
        "sparkling": mix(m.water, (120, 220, 236), 0.4),
    }.get(attribute, m.water)
    reflect = 0.45 if attribute == "calm" else 0.12 if attribute in ("polluted", "dark") else 0.28
    return mix(c, sky[1], reflect), shade(c, 0.82)


def _smooth(t: np.ndarray, knots: tuple[float, ...]) -> np.ndarray:
    """Cosine interpolation of equally spaced knots over t in 0..1."""
    k = np.clip(t, 0, 1) * (len(knots) - 1)
    i = np.minimum(k.astype(int), len(knots) - 2)
    u = 0.5 - 0.5 * np.cos(np.pi * (k - i))
    v = np.array(knots)
    return v[i] * (1 - u) + v[i + 1] * u


def _water_marks(
    c: Canvas,
    attribute: str,
    y0: float,
    y1: float,
    rng: np.random.Generator,
    ys: np.ndarray,
    middle: np.ndarray,
    half: np.ndarray,
) -> None:
    """Waves, sparkles or scum between y0 and y1,
    on water that at ys reaches from middle - half to middle + half."""
    p = c.pen()
    for i in range({"wild": 9, "polluted": 9, "calm": 4, "sparkling": 10}.get(attribute, 6)):
        u, v = rng.uniform(-1, 1), rng.uniform(-0.3, 0.3)
        y = y0 + (y1 - y0) * (i + 0.5 + v) / 11
        width = float(np.interp(y, ys, half))
        x = float(np.interp(y, ys, middle)) + u * width * 0.8
        w = min(0.04 + 0.08 * (y - y0) / max(0.1, y1 - y0), width)
        if attribute == "wild":
            p.poly(
                [
                    (x - w, y + 0.02),
                    (x - w * 0.5, y - 0.035),
                    (x + w * 0.1, y - 0.075),
                    (x + w * 0.5, y - 0.06),
                    (x + w * 0.2, y - 0.035),
                    (x + w, y + 0.02),
                ],
                (236, 244, 250),
                ink=False,
            )
        elif attribute == "polluted":
            p.oval(x, y, w * 0.8, w * 0.3, ((160, 176, 52), (92, 92, 40), (190, 190, 90))[i % 3], ink=False)
            if i % 3 == 0:
                p.disc(x, y - 0.01, 0.018, (206, 214, 110), ink=False)
        elif attribute == "sparkling":
            star(p, x, y, 0.02 + 0.2 * w)
        else:
            col = {"dark": (70, 84, 110), "gray": (164, 172, 182)}.get(attribute, (236, 246, 250))
            p.line([(x - w, y), (x + w, y)], 0.008, col)


def ground(
    c: Canvas,
    layout: Layout,
    mood: Mood,
    m: Materials,
    sky: Sky,
    rng: np.random.Generator,
    own: Callable[[str, str], None],
) -> None:
    """All below the horizon that is not an object of its own: land, street or wall, path, water."""
    h, p = layout.horizon, c.pen()
    if layout.place == "room":
        own("wall", "plain")
        c.gradient([(0, 0), (1, 0), (1, 1), (0, 1)], ((0, mix(m.wall, m.cloth, 0.12)), (1, shade(m.wall, 0.82))))
        return
    street = layout.place in ("street", "shore")
    top = mix(m.grass, sky[1], 0.25) if not street else mix((150, 148, 156), sky[1], 0.3)
    low = shade(m.grass, 0.84) if not street else (104, 102, 114)
    own(_GROUND.get(layout.place, "grass"), "green" if not street else "gray")
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
        p.poly(
            [
                (house.x - 0.05, house.y - 0.01),
                (house.x + 0.05, house.y - 0.01),
                (house.x + 0.2, 1),
                (house.x - 0.12, 1),
            ],
            mix(m.bark, (230, 206, 170), 0.6),
            ink=False,
        )
    wet = layout.noun in ("lake", "river") or layout.place in ("lake", "shore")
    if not wet:
        return
    attribute = mood.attribute("water", WATER_SLOT, "blue")
    far, near = _water_colours(m, sky, attribute)
    own("water", attribute)
    if layout.river:
        ys = np.linspace(h + 0.005, 1.0, 24)
        t = (ys - h) / (1 - h)
        middle, half = _smooth(t, layout.river), 0.035 + 0.25 * t**1.2
        left, right = list(zip(middle - half, ys)), list(zip(middle + half, ys))
        c.gradient(left + right[::-1], ((h, far), (1, near)))
        _water_marks(c, attribute, h + 0.1, 1.0, rng, ys, middle, half * 0.7)
        return
    y0, y1 = {"lake": (h, 0.86), "city": (h + 0.07, 1.0)}.get(layout.noun, (h + 0.01, min(0.7, h + 0.1)))
    shore = [(1, y1), (0.72, y1 + 0.012), (0.4, y1 - 0.015), (0, y1 + 0.008)] if y1 < 1 else [(1, 1), (0, 1)]
    c.gradient([(0, y0), (1, y0), *shore], ((y0, far), (y1, near)))
    _water_marks(c, attribute, y0 + 0.03, y1, rng, np.array((0.0, 1.0)), np.array((0.5, 0.5)), np.array((0.48, 0.48)))
