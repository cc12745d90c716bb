"""Cars and boats; conventions as in nature.py."""

from __future__ import annotations

import math

import numpy as np

from .canvas import Pen, mix, shade
from .effects import balloon, bulbs, bunting, crack, drips, evil_eyes, fire, flame, flies, mould, star
from .materials import BRIGHT, Materials, vary


def car(p: Pen, rng: np.random.Generator, attribute: str, m: Materials) -> None:
    """Seen from the side, facing right; the unit is its height, its half width 1.15."""
    c = BRIGHT[int(rng.integers(6))]
    c = {
        "rusty": (150, 92, 56),
        "creepy": (40, 36, 48),
        "broken": mix(c, (120, 120, 126), 0.6),
        "burning": (70, 46, 44),
        "racing": (226, 40, 40),
        "gleaming": mix(c, (255, 255, 255), 0.2),
    }.get(attribute, c)
    if attribute == "racing":
        for y, x in ((-0.75, -2.3), (-0.5, -2.7), (-0.22, -2.2)):
            p.line([(-1.3, y), (x, y)], 0.07, (255, 246, 220), 0.3)
        p = p.sub(0, 0, 1.05, angle=-0.08)
    if attribute == "burning":
        fire(p, -1.0, 1.0, -0.45, 1.5, rng, 3)
    body = [
        (-1.15, -0.22),
        (-1.1, -0.55),
        (-0.72, -0.6),
        (-0.42, -0.98),
        (0.34, -1.0),
        (0.66, -0.6),
        (1.1, -0.52),
        (1.18, -0.22),
    ]
    p.poly(body, c, 0.15 if attribute == "gleaming" else 0)
    p.poly([(-1.15, -0.22), (-1.12, -0.4), (1.15, -0.4), (1.18, -0.22)], shade(c, 0.75), ink=False)
    glass = ((190, 255, 120), 0.8) if attribute == "creepy" else ((186, 220, 236), 0.1)
    p.poly([(-0.56, -0.62), (-0.36, -0.9), (-0.06, -0.9), (-0.06, -0.62)], *glass)
    p.poly([(0.04, -0.62), (0.04, -0.9), (0.3, -0.9), (0.5, -0.62)], *glass)
    flat = 0.07 if attribute == "broken" else 0.0
    for x in (-0.66, 0.68):
        p.oval(x, -0.2 + flat, 0.25, 0.25 - flat, (40, 38, 46))
        p.disc(x, -0.2 + flat, 0.1, (190, 190, 196))
    p.disc(1.06, -0.46, 0.1, (255, 244, 180), 0.9 if attribute in ("gleaming", "racing", "creepy") else 0.1)
    if attribute == "funny":
        for x, y in ((-0.7, -1.35), (-0.2, -1.7), (0.3, -1.45)):
            balloon(p, x, y, 0.3, BRIGHT[int(rng.integers(6))], 0.3)
        bulbs(p, [(-0.9, -0.46), (-0.25, -0.42), (0.3, -0.46), (0.85, -0.4)], 0.11, BRIGHT[::-1], 0.2)
    elif attribute == "gleaming":
        star(p, -0.5, -0.95, 0.36)
        star(p, 0.9, -0.6, 0.26)
    elif attribute == "rusty":
        mould(p, -1.0, -0.6, 1.0, -0.35, rng, 4)
        drips(p, -1.0, 1.0, -0.52, 0.34, rng, 6, (112, 100, 40))
        flies(p, 0, -1.2, 0.6, rng, 4, 0.09)
    elif attribute == "broken":
        crack(p, 0.1, -0.9, 0.5, 0.8, rng, 0.07)
        crack(p, -0.9, -0.55, 0.6, 0.3, rng, 0.07)
        for x, y, r in ((1.0, -0.9, 0.16), (1.12, -1.2, 0.22), (1.0, -1.55, 0.28)):
            p.disc(x, y, r, (120, 120, 128), ink=False)
    elif attribute == "burning":
        flame(p, 0.75, -0.4, 0.9, 1.0, rng)
        flame(p, -0.4, -0.5, 0.9, 1.2, rng)


def boat(p: Pen, rng: np.random.Generator, attribute: str, m: Materials) -> None:
    """A small boat; the unit is the height of its mast."""
    hull = vary(m.bark, rng, 0.5)
    sail = (250, 246, 236)
    angle = float(rng.uniform(-0.05, 0.05))
    if attribute == "sinking":
        p = p.sub(0, 0.12, 1.0, angle=0.75)
        hull, sail = mix(hull, (90, 90, 100), 0.5), (176, 180, 186)
    elif attribute == "racing":
        p = p.sub(0, -0.04, 1.05, angle=-0.22)
        sail = (240, 70, 60)
        for y, x in ((-0.12, -1.2), (-0.3, -1.35), (-0.48, -1.15)):
            p.line([(-0.66, y), (x, y)], 0.04, (250, 250, 250), 0.2)
    else:
        p = p.sub(0, 0, 1.0, angle=angle)
    hull, sail = {
        "playful": ((240, 120, 60), (255, 214, 70)),
        "ghostly": ((54, 58, 66), (150, 176, 170)),
        "rusty": ((136, 86, 50), (150, 150, 100)),
        "burning": ((60, 40, 40), (90, 60, 54)),
        "sailing": (shade(hull, 1.05), (255, 252, 244)),
    }.get(attribute, (hull, sail))
    p.line([(0, -0.2), (0, -1.0)], 0.045, shade(hull, 0.8))
    if attribute == "ghostly":
        p.poly(
            [(0.03, -0.96), (0.5, -0.34), (0.4, -0.5), (0.34, -0.32), (0.26, -0.52), (0.16, -0.3), (0.03, -0.4)],
            sail,
            0.4,
            ink=False,
        )
        p.poly([(-0.03, -0.9), (-0.4, -0.34), (-0.26, -0.46), (-0.2, -0.32), (-0.03, -0.44)], sail, 0.4, ink=False)
    elif attribute == "rusty":
        p.poly([(0.03, -0.7), (0.3, -0.34), (0.2, -0.4), (0.03, -0.3)], sail)
    else:
        p.poly([(0.03, -0.98), (0.5, -0.3), (0.03, -0.3)], sail, 0.15 if attribute == "sailing" else 0)
        p.poly([(-0.03, -0.9), (-0.38, -0.3), (-0.03, -0.3)], shade(sail, 0.88))
        if attribute == "playful":
            p.poly([(0.03, -0.62), (0.28, -0.62), (0.4, -0.44), (0.03, -0.44)], (226, 70, 80), ink=False)
            bunting(p, (-0.6, -0.22), (0, -1.0), 0.06, 5, 0.12)
            bunting(p, (0, -1.0), (0.62, -0.22), 0.06, 5, 0.12)
    p.poly([(-0.64, -0.24), (0.66, -0.24), (0.46, 0.02), (-0.46, 0.02)], hull)
    p.poly([(-0.64, -0.24), (0.66, -0.24), (0.62, -0.17), (-0.6, -0.17)], shade(hull, 1.25), ink=False)
    if attribute == "burning":
        fire(p, -0.55, 0.55, -0.18, 0.8, rng, 3)
    elif attribute == "rusty":
        mould(p, -0.5, -0.2, 0.5, -0.05, rng, 4)
        drips(p, -0.55, 0.56, -0.18, 0.22, rng, 5)
    elif attribute == "ghostly":
        evil_eyes(p, 0.3, -0.12, 0.2, 0.07, (160, 255, 170))
    elif attribute == "sinking":
        for x in (-0.4, 0.0, 0.4):
            p.arc(x, 0.1, 0.2, 0.05, math.pi, 2 * math.pi, 0.04, (220, 232, 240))
