"""Houses, buildings, bridges, fences, lamps and tents; conventions as in nature.py."""

from __future__ import annotations

import math

import numpy as np

from .canvas import Colour, Pen, mix, shade
from .effects import balloon, bulbs, bunting, crack, drips, evil_eyes, fire, flame, mould, star
from .materials import BRIGHT, MOULD, Materials, vary

LIT: Colour = (255, 220, 120)


def _window(p: Pen, x: float, y: float, w: float, h: float, attribute: str) -> None:
    lit = {
        "cozy": (LIT, 0.9),
        "dazzling": ((110, 240, 255), 1.0),
        "festive": (LIT, 0.8),
        "majestic": ((255, 244, 200), 1.0),
        "burning": ((255, 150, 40), 1.0),
        "haunted": ((190, 255, 120), 0.9),
        "abandoned": ((40, 40, 50), 0.0),
        "moldy": ((60, 62, 40), 0.0),
    }
    colour, glow = lit.get(attribute, ((126, 156, 180), 0.0))
    p.rect(x - w / 2, y - h, x + w / 2, y, colour, glow)
    if attribute == "haunted":
        return
    p.line([(x, y - h), (x, y)], w * 0.14, shade(colour, 0.55), glow * 0.5)
    if attribute == "abandoned":
        p.line([(x - w * 0.7, y - h * 0.9), (x + w * 0.7, y - h * 0.1)], w * 0.28, (128, 104, 84))
        p.line([(x - w * 0.7, y - h * 0.2), (x + w * 0.7, y - h * 0.8)], w * 0.28, (108, 88, 72))


def house(p: Pen, rng: np.random.Generator, attribute: str, m: Materials) -> None:
    half = float(rng.uniform(0.42, 0.56))
    eave = float(rng.uniform(0.5, 0.58))
    kind = int(rng.integers(2))
    door_x = float(rng.choice([-0.2, 0.0, 0.2])) * half * 2
    wall, roof = vary(m.wall, rng), vary(m.roof, rng)
    if attribute == "haunted":
        p, wall, roof = p.sub(0, 0, 1.08, angle=0.07), (86, 78, 104), (48, 42, 64)
    elif attribute == "abandoned":
        wall, roof = mix(wall, (132, 132, 138), 0.65), mix(roof, (96, 92, 98), 0.6)
    elif attribute == "moldy":
        wall, roof = mix(wall, (150, 150, 96), 0.55), mix(roof, MOULD, 0.5)
    elif attribute == "burning":
        wall, roof = mix(wall, (110, 60, 50), 0.5), (70, 44, 44)
    elif attribute == "festive":
        wall, roof = mix(m.cloth, (255, 240, 220), 0.4), (226, 84, 96)
    elif attribute == "dazzling":
        wall, roof = (70, 44, 120), (220, 40, 140)
    elif attribute == "majestic":
        wall, roof = (248, 240, 222), (96, 104, 176)
    elif attribute == "cozy":
        wall, roof = mix(wall, (255, 226, 180), 0.4), mix(roof, (186, 96, 70), 0.4)
    chimney = attribute not in ("majestic",)
    if chimney:
        p.rect(half * 0.38, -1.0, half * 0.68, -0.55, shade(roof, 0.8))
    if attribute == "cozy":
        for i, (x, y, r) in enumerate(((0.55, -1.08, 0.07), (0.68, -1.2, 0.1), (0.9, -1.32, 0.13))):
            p.disc(half * 0.5 + (x - 0.55), y, r, (244, 238, 232), 0.1, ink=False)
    if attribute == "dazzling":  # searchlights behind the roof
        for a in (-0.62, 0.0, 0.62):
            p.poly(
                [(a * half, -0.8), (a * 1.5 - 0.13, -1.55), (a * 1.5 + 0.13, -1.55)], (255, 236, 150), 0.5, ink=False
            )
    if attribute == "burning":
        fire(p, -half * 0.9, half * 0.9, -0.7, 0.75, rng, 3)
    if attribute == "majestic":
        for s in (-1, 1):
            x = s * half * 0.86
            p.rect(x - 0.11, -0.9, x + 0.11, 0, shade(wall, 0.92))
            p.poly([(x - 0.15, -0.9), (x + 0.15, -0.9), (x, -1.3)], roof)
            _window(p, x, -0.6, 0.1, 0.16, attribute)
    p.rect(-half, -eave, half, 0, wall)
    p.poly([(half * 0.45, -eave), (half, -eave), (half, 0), (half * 0.45, 0)], shade(wall, 0.88), ink=False)
    over = half * 1.16
    peak = (
        [(-over, -eave + 0.03), (over, -eave + 0.03), (0, -1.0)]
        if kind == 0
        else [(-over, -eave + 0.03), (over, -eave + 0.03), (half * 0.66, -0.92), (-half * 0.66, -0.92)]
    )
    p.poly(peak, roof)
    p.poly([peak[1], peak[2], (0.0, -eave + 0.03)], shade(roof, 0.82), ink=False)
    dark = attribute in ("haunted", "abandoned", "moldy", "burning")
    p.rect(door_x - 0.085, -0.3, door_x + 0.085, 0, (40, 30, 36) if dark else shade(roof, 0.75))
    for s in (-1, 1):
        x = s * half * 0.56 if abs(door_x) < 0.1 else (door_x * -0.9 + s * half * 0.22)
        _window(p, x, -0.2, 0.17, 0.19, attribute)
    if kind == 0:
        p.disc(
            0,
            -0.68,
            0.075,
            LIT if attribute in ("cozy", "festive", "majestic") else (70, 74, 92),
            0.8 if attribute in ("cozy", "festive", "majestic") else 0,
        )
    if attribute == "festive":
        bunting(p, (-over, -eave + 0.02), (over, -eave + 0.02), 0.1, 7, 0.14)
        for x, y, c in ((-half * 1.0, -1.05, 0), (-half * 0.66, -1.22, 1), (half * 1.0, -1.12, 2)):
            balloon(p, x, y, 0.14, BRIGHT[c], 0.42)
    elif attribute == "dazzling":
        n = 9
        bulbs(
            p,
            [(-over + 2 * over * i / (n - 1), -eave + 0.03) for i in range(n)],
            0.045,
            ((255, 230, 90), (90, 230, 255)),
            1.0,
        )
        star(p, 0, -1.04, 0.2)
    elif attribute == "moldy":
        mould(p, -half * 0.9, -0.5, half * 0.9, -0.05, rng, 6)
        drips(p, -over, over, -eave + 0.02, 0.3, rng, 7)
    elif attribute == "burning":
        flame(p, -half * 0.5, -0.02, half * 0.7, 0.55, rng)
        flame(p, half * 0.5, -0.3, half * 0.7, 0.8, rng)
        flame(p, 0, -0.62, half * 0.8, 0.7, rng)
    elif attribute == "abandoned":
        p.poly(
            [(-half * 0.5, -0.66), (-half * 0.12, -0.9), (0.0, -0.66), (-half * 0.16, -0.6)], (40, 38, 48), ink=False
        )
        crack(p, half * 0.7, -0.5, 0.45, 1.6, rng, 0.035)
        p.line([(door_x - 0.14, -0.26), (door_x + 0.14, -0.05)], 0.05, (140, 116, 94))
    elif attribute == "haunted":
        evil_eyes(p, 0, -0.66, 0.2, 0.09)


def building(p: Pen, rng: np.random.Generator, attribute: str, m: Materials) -> None:
    """A tower block; the unit is its height, its half width 0.14 to 0.24."""
    half = float(rng.uniform(0.15, 0.25))
    top = int(rng.integers(3))
    base = mix(vary(m.wall, rng, 0.25), m.far, float(rng.uniform(0.2, 0.7)))
    c = {
        "colorful": BRIGHT[int(rng.integers(6))],
        "shining": (160, 196, 230),
        "sparkling": (66, 62, 110),
        "burning": (78, 52, 52),
        "moldy": (138, 138, 84),
        "haunted": (54, 50, 72),
        "crumbling": (128, 122, 120),
        "peaceful": (240, 216, 186),
    }.get(attribute, base)
    if attribute == "burning":
        fire(p, -half * 1.2, half * 1.2, -0.92, 0.3, rng, 2)
    if attribute == "crumbling":
        p.poly(
            [
                (-half, 0),
                (-half, -0.94),
                (-half * 0.5, -0.84),
                (-half * 0.1, -0.9),
                (half * 0.2, -0.66),
                (half * 0.6, -0.7),
                (half, -0.5),
                (half, 0),
            ],
            c,
        )
        p.poly(
            [(half * 0.3, 0), (half * 0.3, -0.66), (half * 0.6, -0.7), (half, -0.5), (half, 0)],
            shade(c, 0.8),
            ink=False,
        )
    else:
        if top == 1:
            p.poly([(-half * 0.8, -0.98), (half * 0.8, -0.98), (0, -1.14)], shade(c, 0.85))
        elif top == 2:
            p.rect(-half * 0.5, -1.08, half * 0.5, -0.9, shade(c, 0.9))
        p.rect(-half, -1.0, half, 0, c, 0.25 if attribute == "shining" else 0)
        p.rect(half * 0.3, -1.0, half, 0, shade(c, 0.8), ink=False)
    lit = {
        "sparkling": ((255, 226, 120), 1.0),
        "shining": ((240, 250, 255), 0.7),
        "burning": ((255, 140, 40), 1.0),
        "haunted": ((180, 255, 120), 0.8),
        "peaceful": ((255, 224, 150), 0.7),
        "colorful": ((255, 246, 220), 0.4),
        "moldy": ((74, 76, 46), 0),
        "crumbling": ((50, 46, 52), 0),
    }
    wc, glow = lit.get(attribute, (shade(c, 0.62), 0.0))
    rows = 5
    for r in range(rows):
        for col in (-1, 0, 1):
            on = rng.random() > 0.3
            y = -0.9 + r * 0.17
            if attribute == "crumbling" and y < -0.6 and col >= 0:
                continue
            if attribute == "haunted" and not on:
                continue
            out = not on and attribute in ("sparkling", "burning", "peaceful")
            cc, gg = (shade(c, 0.6), 0.0) if out else (wc, glow)
            x = col * half * 0.6
            p.rect(x - half * 0.19, y, x + half * 0.19, y + 0.095, cc, gg, ink=False)
    if attribute == "burning":
        flame(p, -half * 0.4, -0.55, half * 1.1, 0.34, rng)
        flame(p, half * 0.4, -0.2, half * 1.1, 0.34, rng)
    elif attribute == "colorful":
        bunting(p, (-half, -0.97), (half, -0.97), 0.06, 4, 0.09)
        balloon(p, half * 0.2, -1.2, 0.08, BRIGHT[int(rng.integers(6))], 0.12)
    elif attribute == "sparkling":
        star(p, -half * 0.4, -1.0, 0.12)
        star(p, half * 0.8, -0.7, 0.09)
    elif attribute == "moldy":
        drips(p, -half * 1.05, half * 1.05, -0.98, 0.42, rng, 4)
        mould(p, -half, -0.5, half, -0.1, rng, 3)
    elif attribute == "crumbling":
        crack(p, -half * 0.4, -0.84, 0.5, 1.4, rng, 0.025)
        p.poly([(half * 0.7, 0), (half * 1.1, -0.1), (half * 1.5, -0.06), (half * 1.8, 0)], shade(c, 0.7))
    elif attribute == "haunted":
        evil_eyes(p, 0, -0.78, half * 0.9, half * 0.34)


def bridge(p: Pen, rng: np.random.Generator, attribute: str, m: Materials) -> None:
    """An arched bridge; the unit is half its length."""
    stone = bool(rng.integers(2))
    c = mix(m.rock, (190, 170, 150), 0.4) if stone else m.bark
    c = {
        "spooky": (56, 52, 70),
        "slimy": (108, 112, 66),
        "burning": (74, 46, 42),
        "shining": (240, 226, 190),
        "festive": (214, 96, 90),
        "broken": mix(c, (120, 120, 126), 0.5),
    }.get(attribute, c)
    n = 12

    def deck(t: float) -> float:
        return -0.16 - 0.2 * math.sin(math.pi * t)

    spans = [(0.0, 1.0)] if attribute != "broken" else [(0.0, 0.38), (0.64, 1.0)]
    for a, b in spans:
        ts = [a + (b - a) * i / n for i in range(n + 1)]
        top = [(2 * t - 1, deck(t)) for t in ts]
        low = [(2 * t - 1, deck(t) + 0.12 + 0.16 * abs(2 * t - 1) ** 3) for t in reversed(ts)]
        p.poly(top + low, c, 0.15 if attribute == "shining" else 0)
        rail = [(x, y - 0.15) for x, y in top]
        p.line(rail, 0.04, shade(c, 0.8))
        for x, y in top[::3]:
            p.line([(x, y), (x, y - 0.16)], 0.04, shade(c, 0.8))
    if attribute == "festive":
        bunting(p, (-0.95, -0.44), (0, -0.62), 0.08, 5, 0.13)
        bunting(p, (0, -0.62), (0.95, -0.44), 0.08, 5, 0.13)
    elif attribute == "shining":
        bulbs(p, [(2 * t - 1, deck(t) - 0.18) for t in (0.05, 0.27, 0.5, 0.73, 0.95)], 0.06, ((255, 236, 170),), 1.0)
    elif attribute == "pretty":
        bulbs(
            p,
            [(2 * t - 1, deck(t) - 0.08) for t in (0.1, 0.26, 0.42, 0.58, 0.74, 0.9)],
            0.06,
            ((250, 170, 196), (255, 255, 255), (126, 190, 90)),
            0.1,
        )
    elif attribute == "burning":
        fire(p, -0.7, 0.7, -0.3, 0.55, rng, 4)
    elif attribute == "slimy":
        drips(p, -0.8, 0.8, -0.24, 0.3, rng, 7)
    elif attribute == "spooky":
        evil_eyes(p, 0, -0.02, 0.24, 0.08)
    elif attribute == "broken":
        p.poly([(-0.1, 0.1), (0.05, -0.05), (0.2, 0.06), (0.1, 0.16)], shade(c, 0.8))


def fence(p: Pen, rng: np.random.Generator, attribute: str, m: Materials) -> None:
    """Five pickets; the unit is its height, its half width 1.2."""
    c = {
        "painted": (250, 240, 230),
        "pretty": (244, 236, 220),
        "spiked": (46, 42, 52),
        "moldy": (110, 112, 62),
        "broken": mix(m.bark, (130, 130, 134), 0.5),
    }.get(attribute, shade(m.bark, 1.2))
    p.rect(-1.25, -0.66, 0.5 if attribute == "broken" else 1.25, -0.52, shade(c, 0.85))
    for i in range(6):
        x = -1.1 + i * 0.44
        tilt = (0.5 if i == 4 else 0.0) if attribute == "broken" else 0.0
        if attribute == "broken" and i == 2:
            continue
        colour = BRIGHT[i % 6] if attribute == "painted" else c
        q = p.sub(x, 0, 1.0, angle=tilt)
        tall = 1.35 if attribute == "spiked" else 0.85
        w = 0.07 if attribute == "spiked" else 0.12
        q.poly([(-w, 0), (w, 0), (w, -tall), (0, -tall - 0.18), (-w, -tall)], colour)
    if attribute == "pretty":
        bulbs(
            p,
            [(-0.9, -0.5), (-0.45, -0.7), (0.0, -0.45), (0.45, -0.7), (0.9, -0.5)],
            0.15,
            ((250, 150, 180), (255, 214, 120)),
            0.1,
        )
    elif attribute == "moldy":
        drips(p, -1.2, 1.2, -0.6, 0.5, rng, 6)
    elif attribute == "spiked":
        p.line([(-1.2 + 0.2 * i, -0.95 - 0.14 * (i % 2)) for i in range(13)], 0.05, (120, 40, 40))


def lamp(p: Pen, rng: np.random.Generator, attribute: str, m: Materials) -> None:
    c = {"dirty": (90, 88, 56), "festive": (220, 80, 90)}.get(attribute, (70, 72, 88))
    if attribute == "broken":
        p = p.sub(0, 0, 1.0, angle=0.3)
    p.line([(0, 0), (0, -0.82)], 0.055, c)
    p.rect(-0.1, -0.05, 0.1, 0, c)
    light = {
        "glowing": ((255, 230, 150), 1.0),
        "festive": ((255, 220, 120), 1.0),
        "sparking": ((255, 130, 50), 1.0),
        "flickering": ((190, 255, 170), 0.6),
        "dirty": ((150, 150, 70), 0.2),
        "broken": ((50, 50, 58), 0.0),
    }
    colour, glow = light.get(attribute, ((250, 240, 210), 0.25))
    p.poly([(-0.1, -0.8), (0.1, -0.8), (0.15, -1.0), (-0.15, -1.0)], colour, glow)
    p.poly([(-0.17, -1.0), (0.17, -1.0), (0, -1.1)], c)
    if attribute == "festive":
        bunting(p, (-0.7, -0.7), (0, -0.95), 0.08, 4, 0.14)
        bunting(p, (0, -0.95), (0.7, -0.7), 0.08, 4, 0.14)
    elif attribute == "sparking":
        for a in (-2.6, -2.0, -1.2, -0.5, 0.2, 2.9):
            p.line(
                [(0.17 * math.cos(a), -0.9 + 0.17 * math.sin(a)), (0.42 * math.cos(a), -0.9 + 0.42 * math.sin(a))],
                0.045,
                (255, 210, 90),
                1.0,
            )
    elif attribute == "dirty":
        drips(p, -0.16, 0.16, -0.8, 0.3, rng, 3)
    elif attribute == "broken":
        crack(p, -0.06, -0.98, 0.2, 1.2, rng, 0.03, (200, 200, 210))


def tent(p: Pen, rng: np.random.Generator, attribute: str, m: Materials) -> None:
    c = {
        "torn": (140, 140, 146),
        "moldy": (128, 132, 70),
        "spooky": (60, 54, 78),
        "cozy": (240, 190, 110),
        "striped": (236, 76, 76),
    }.get(attribute, mix(m.cloth, (200, 190, 170), 0.35))
    p.poly([(-0.85, 0), (0.85, 0), (0, -1.0)], c, 0.3 if attribute == "cozy" else 0)
    p.poly([(0.25, 0), (0.85, 0), (0, -1.0)], shade(c, 0.8), ink=False)
    if attribute == "striped":
        for x in (-0.62, -0.22, 0.5):
            p.poly([(x - 0.1, 0), (x + 0.12, 0), (0, -1.0)], (255, 246, 232), ink=False)
        p.poly([(0, -1.0), (0, -1.28), (0.3, -1.14)], (250, 200, 60), 0.2)
    inside = ((255, 232, 150), 1.0) if attribute == "cozy" else ((26, 22, 34), 0.0)
    p.poly([(-0.2, 0), (0.2, 0), (0, -0.52)], *inside)
    if attribute == "spooky":
        evil_eyes(p, 0, -0.18, 0.16, 0.08)
    elif attribute == "moldy":
        drips(p, -0.42, 0.42, -0.5, 0.4, rng, 5)
        mould(p, -0.6, -0.3, 0.6, -0.05, rng, 4)
    elif attribute == "torn":
        p.poly([(0.3, -0.35), (0.55, -0.1), (0.42, -0.04), (0.36, -0.16), (0.24, -0.1)], (40, 38, 48), ink=False)
        p.poly([(-0.4, -0.4), (-0.3, -0.5), (-0.28, -0.2), (-0.42, -0.24)], (40, 38, 48), ink=False)
