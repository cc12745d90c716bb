"""Trees, flowers, rocks, clouds and mountains. Each takes a pen whose origin is the foot and whose unit is
the height, a generator that fixes the geometry (its draws never depend on the attribute), the attribute and
the colours."""

from __future__ import annotations

import math

import numpy as np

from .canvas import Colour, Pen, mix, shade
from .effects import bulbs, crack, drips, evil_eyes, fire, flame, mould, star
from .materials import BRIGHT, DARK, Materials, vary

PINK: Colour = (250, 170, 196)


def _branches(p: Pen, rng: np.random.Generator, colour: Colour, crooked: float, droop: float = 0.0) -> None:
    """A leafless crown on a trunk."""
    top = (0.05, -0.55)
    p.poly(
        [
            (-0.085, 0),
            (0.09, 0),
            (0.07 + 0.06 * crooked, -0.3),
            (0.11, -0.58),
            (0.0, -0.58),
            (-0.06 + 0.1 * crooked, -0.3),
        ],
        colour,
    )
    for i, a in enumerate((-2.75, -2.2, -1.65, -1.1, -0.45)):
        a += float(rng.uniform(-0.15, 0.15))
        length = float(rng.uniform(0.3, 0.42))
        start = (top[0] - 0.02, top[1] + 0.1 * abs(i - 2) * 0.8)
        bend = a + crooked * (0.9 if i % 2 else -0.9)
        mid = (start[0] + math.cos(a) * length * 0.55, start[1] + math.sin(a) * length * 0.55)
        end = (mid[0] + math.cos(bend) * length * 0.55, mid[1] + math.sin(bend) * length * 0.55 + droop * 0.3)
        p.line([start, mid, end], 0.045, colour)
        twig = bend + (0.8 if i < 2 else -0.8) * (1 + crooked)
        p.line([mid, (mid[0] + math.cos(twig) * length * 0.42, mid[1] + math.sin(twig) * length * 0.42)], 0.03, colour)


def tree(p: Pen, rng: np.random.Generator, attribute: str, m: Materials) -> None:
    kind = ("round", "pine", "cloud")[int(rng.integers(3))]
    leaf, bark = vary(m.leaf, rng), m.bark
    sub = np.random.default_rng(int(rng.integers(2**31)))
    if attribute in ("bare", "twisted", "burning"):
        dark = {"bare": mix(bark, (120, 120, 130), 0.4), "twisted": DARK, "burning": (50, 34, 34)}[attribute]
        if attribute == "burning":
            fire(p, -0.42, 0.42, -0.28, 0.6, sub, 4)
        _branches(p, sub, dark, 0.9 if attribute == "twisted" else 0.2)
        if attribute == "twisted":
            evil_eyes(p, 0.02, -0.4, 0.11, 0.05)
            p.oval(0.02, -0.27, 0.04, 0.06, (20, 16, 26))
        if attribute == "burning":
            for x, y, h in ((-0.26, -0.5, 0.42), (0.02, -0.52, 0.52), (0.28, -0.48, 0.44)):
                flame(p, x, y, 0.3, h, sub)
        return
    if attribute == "rotting":
        leaf, bark = (116, 104, 46), (82, 74, 50)
    colour = {
        "blossoming": PINK,
        "lush": mix(leaf, (60, 170, 60), 0.45),
        "glowing": (250, 220, 130),
        "festive": mix(leaf, (60, 150, 90), 0.3),
    }.get(attribute, leaf)
    glow = 0.5 if attribute == "glowing" else 0.0
    p.poly([(-0.07, 0), (0.07, 0), (0.045, -0.5), (-0.045, -0.5)], bark)
    if kind == "pine":
        for i, (y, w) in enumerate(((-0.18, 0.32), (-0.42, 0.26), (-0.66, 0.19))):
            p.poly([(-w, y), (w, y), (0, y - 0.36)], shade(colour, 0.86 + 0.08 * i), glow)
            p.poly([(0, y), (w, y), (0, y - 0.36)], shade(colour, 0.72 + 0.08 * i), glow * 0.7, ink=False)
        spots = [
            (-0.2, -0.24),
            (0.1, -0.28),
            (-0.1, -0.46),
            (0.14, -0.5),
            (0, -0.7),
            (-0.04, -0.86),
            (0.22, -0.22),
            (-0.02, -0.36),
        ]
    else:
        discs = (
            ((-0.2, -0.55, 0.2), (0.2, -0.57, 0.2), (0, -0.75, 0.24), (0, -0.52, 0.2))
            if kind == "cloud"
            else ((-0.02, -0.66, 0.33), (0.19, -0.5, 0.17), (-0.22, -0.5, 0.16))
        )
        grow = 1.18 if attribute == "lush" else 1.0
        for x, y, r in discs:
            p.disc(x * grow, y, r * grow, shade(colour, 0.82), glow)
        for x, y, r in discs:
            p.disc(x * grow - r * 0.16, y - r * 0.14, r * 0.78 * grow, colour, glow, ink=False)
        for x, y in ((-0.17, -0.8), (0.04, -0.7), (-0.2, -0.58)):
            p.oval(x, y, 0.075, 0.045, shade(colour, 1.2), glow, ink=False)
        spots = [
            (-0.22, -0.5),
            (0.2, -0.5),
            (-0.05, -0.44),
            (-0.14, -0.72),
            (0.16, -0.74),
            (0.02, -0.9),
            (0.04, -0.6),
            (-0.28, -0.64),
        ]
    if attribute == "blossoming":
        bulbs(p, spots, 0.05, ((255, 240, 244), (240, 120, 160)), 0.15)
    elif attribute == "festive":
        bulbs(p, spots, 0.062)
        star(p, 0, -1.0, 0.14)
    elif attribute == "glowing":
        bulbs(p, spots, 0.03, ((255, 250, 210),), 1.0)
    elif attribute == "lush":
        bulbs(p, spots[1::2], 0.04, ((226, 70, 60),), 0.0)
    elif attribute == "rotting":
        for x, y in spots[::2]:
            p.disc(x, y, 0.07, (64, 56, 36), ink=False)
        drips(p, -0.34, 0.34, -0.44, 0.34, sub, 5)
        p.oval(0.13, -0.03, 0.09, 0.05, (190, 120, 110))


def flower(p: Pen, rng: np.random.Generator, attribute: str, m: Materials) -> None:
    """A clump of three stems, few and large."""
    petal = BRIGHT[int(rng.integers(len(BRIGHT)))]
    stem = (88, 140, 70)
    heads = [(-0.34, -0.62, 0.17), (0.0, -0.82, 0.2), (0.34, -0.58, 0.17)]
    wilt = attribute in ("wilted", "dead", "rotting")
    if attribute in ("dead", "rotting"):
        petal, stem = ((84, 66, 60), (84, 74, 60)) if attribute == "dead" else ((126, 112, 50), (96, 96, 44))
    elif attribute == "wilted":
        petal, stem = mix(petal, (140, 140, 150), 0.55), (116, 124, 90)
    elif attribute == "thorny":
        petal, stem = (130, 20, 34), (50, 50, 48)
    glow = 0.7 if attribute == "glowing" else 0.1 if attribute in ("blooming", "smiling", "giant") else 0.0
    grow = {"giant": 1.5, "smiling": 1.35, "blooming": 1.25, "glowing": 1.2}.get(attribute, 1.0)
    if attribute in ("giant", "smiling"):
        heads = [(-0.3, -0.52, 0.2), (0.16, -0.95, 0.25)]
    for i, (x, y, r) in enumerate(heads):
        r *= grow
        if wilt:
            bend = 0.24 if x >= 0 else -0.24
            p.line([(x * 0.4, 0), (x * 0.7, y * 0.75), (x + bend * 0.5, y * 0.85), (x + bend, y * 0.5)], 0.05, stem)
            cx, cy = x + bend, y * 0.42
            p.poly(
                [
                    (cx - r * 0.8, cy + r * 1.1),
                    (cx, cy - r * 0.8),
                    (cx + r * 0.8, cy + r * 1.1),
                    (cx + r * 0.3, cy + r * 0.7),
                    (cx, cy + r * 1.3),
                    (cx - r * 0.3, cy + r * 0.7),
                ],
                petal,
            )
            continue
        p.line([(x * 0.4, 0), (x * 0.8, y * 0.5), (x, y)], 0.055, stem)
        if attribute == "thorny":
            for t in (0.3, 0.5, 0.7):
                p.poly(
                    [
                        (x * 0.8 - 0.11, y * t),
                        (x * 0.8, y * t - 0.05),
                        (x * 0.8 + 0.11, y * t - 0.08),
                        (x * 0.8, y * t + 0.04),
                    ],
                    stem,
                )
            for a in range(8):
                u, v = math.cos(a * 0.785), math.sin(a * 0.785)
                p.poly(
                    [
                        (x + u * r * 1.35, y + v * r * 1.35),
                        (x - v * r * 0.3, y + u * r * 0.3),
                        (x + v * r * 0.3, y - u * r * 0.3),
                    ],
                    petal,
                )
            continue
        p.poly([(x * 0.5, y * 0.2), (x * 0.5 + 0.2, y * 0.45), (x * 0.7, y * 0.4)], shade(stem, 1.1))
        c = shade(petal, 1.0 + 0.15 * (i % 2))
        for a in range(6):
            u, v = math.cos(a * 1.047 + 0.3), math.sin(a * 1.047 + 0.3)
            p.disc(x + u * r * 0.72, y + v * r * 0.72, r * 0.5, c, glow)
        p.disc(x, y, r * 0.55, (252, 214, 90), max(glow, 0.1))
        if attribute == "smiling":
            p.disc(x - r * 0.2, y - r * 0.1, r * 0.1, DARK, ink=False)
            p.disc(x + r * 0.2, y - r * 0.1, r * 0.1, DARK, ink=False)
            p.arc(x, y + r * 0.05, r * 0.26, r * 0.24, 0.3, 2.84, r * 0.12, DARK)
    if attribute == "rotting":
        drips(p, -0.4, 0.4, -0.12, 0.14, rng, 5)


def rock(p: Pen, rng: np.random.Generator, attribute: str, m: Materials) -> None:
    c = vary(m.rock, rng, 0.08)
    pts = [(-0.72, 0), (-0.6, -0.5 - 0.2 * rng.random()), (-0.2, -0.92), (0.3, -0.84), (0.64, -0.42), (0.74, 0)]
    if attribute == "scary":  # a skull: dome, sockets, teeth
        bone = (206, 200, 186)
        p.oval(0, -0.58, 0.5, 0.46, bone)
        p.rect(-0.28, -0.3, 0.28, 0.0, bone)
        for s in (-1, 1):
            p.oval(s * 0.2, -0.55, 0.15, 0.17, (24, 18, 28))
            p.disc(s * 0.2, -0.53, 0.05, (255, 90, 50), glow=1.0, ink=False)
        p.poly([(-0.07, -0.28), (0.07, -0.28), (0, -0.42)], (24, 18, 28))
        for x in (-0.14, 0, 0.14):
            p.line([(x, -0.2), (x, 0)], 0.04, (60, 50, 50))
        return
    c = {"gray": (128, 132, 142), "slimy": (104, 110, 70), "shiny": (110, 150, 226), "cracked": shade(c, 0.75)}.get(
        attribute, c
    )
    glow = 0.4 if attribute == "shiny" else 0.0
    p.poly(pts, c, glow)
    p.poly([(0.0, 0), (0.12, -0.6), (0.3, -0.84), (0.64, -0.42), (0.74, 0)], shade(c, 0.78), glow, ink=False)
    if attribute == "mossy":
        p.poly(
            [(-0.6, -0.52), (-0.2, -0.96), (0.3, -0.88), (0.6, -0.46), (0.3, -0.55), (0.05, -0.4), (-0.25, -0.6)],
            (112, 164, 70),
            ink=False,
        )
        bulbs(p, [(-0.2, -0.8), (0.22, -0.72)], 0.08, (PINK, (255, 240, 160)), 0.1)
    elif attribute == "shiny":
        star(p, -0.2, -0.7, 0.4)
        star(p, 0.4, -0.4, 0.26)
    elif attribute == "painted":
        bulbs(p, [(-0.4, -0.3), (-0.1, -0.62), (0.24, -0.4), (0.0, -0.16), (0.48, -0.14)], 0.13, BRIGHT, 0.2)
    elif attribute == "cracked":
        for a in (0.6, 1.4, 2.4):
            crack(p, -0.05, -0.75, 0.8, a, rng, 0.08, (30, 20, 26))
    elif attribute == "slimy":
        drips(p, -0.55, 0.58, -0.62, 0.55, rng, 5)


def cloud(p: Pen, rng: np.random.Generator, attribute: str, m: Materials) -> None:
    """Origin at the middle of its flat base; the unit is its width."""
    c = {
        "fluffy": (255, 252, 248),
        "glowing": (255, 226, 170),
        "stormy": (72, 70, 92),
        "dark": (84, 92, 118),
        "dirty": (150, 144, 92),
        "gray": (154, 162, 174),
    }.get(attribute, mix(m.sky[1], (255, 255, 255), 0.6))
    glow = 0.5 if attribute == "glowing" else 0.0
    big = 1.2 if attribute in ("fluffy", "stormy", "dark") else 1.0
    lumps = [(-0.3, 0.15), (-0.12, 0.2 + 0.06 * rng.random()), (0.12, 0.22), (0.32, 0.13)]
    p.oval(0, 0, 0.52, 0.09, shade(c, 0.88), glow)
    for x, r in lumps:
        p.disc(x, -r * 0.62, r * big, shade(c, 0.93), glow)
    for x, r in lumps:
        p.disc(x - 0.02, -r * 0.62 - 0.03, r * big * 0.84, c, glow, ink=False)
    if attribute == "stormy":
        bolt = [(0.02, 0.04), (-0.1, 0.32), (0.0, 0.3), (-0.08, 0.62), (0.16, 0.22), (0.05, 0.24), (0.14, 0.04)]
        p.poly(bolt, (255, 244, 160), glow=1.0, ink=False)


def mountain(p: Pen, rng: np.random.Generator, attribute: str, m: Materials) -> None:
    """A massif; the unit is its height, its half width is 0.62 to 0.9."""
    w = float(rng.uniform(0.62, 0.9))
    tip = float(rng.uniform(-0.12, 0.12))
    rough = [float(rng.uniform(-0.05, 0.05)) for _ in range(6)]
    base = mix(m.rock, m.far, float(rng.uniform(0.2, 0.8)))
    c = {
        "green": (104, 160, 88),
        "painted": (190, 110, 180),
        "erupting": (92, 58, 60),
        "slimy": (104, 108, 60),
        "jagged": (58, 56, 78),
        "barren": (146, 138, 130),
        "majestic": mix(base, (90, 110, 190), 0.45),
    }.get(attribute, base)
    jag = 0.12 if attribute == "jagged" else 0.0
    left = [
        (-w, 0),
        (-w * 0.66, -0.38 + rough[0] - jag),
        (-w * 0.52, -0.36 + jag * 1.4),
        (-w * 0.3, -0.72 + rough[1] - jag),
        (-w * 0.2, -0.68 + jag),
    ]
    right = [
        (w * 0.22, -0.74 + rough[2] - jag * 0.5),
        (w * 0.36, -0.56 + jag),
        (w * 0.62, -0.36 + rough[3] - jag),
        (w, 0),
    ]
    apex = (tip, -1.0)
    ridge = [apex, (tip + 0.04, -0.8), (tip - 0.06, -0.6), (tip + 0.08, -0.34), (tip - 0.02, 0)]
    p.poly(left + [apex] + right, c)
    p.poly(ridge[::-1][:1] + right[::-1] + ridge, shade(c, 0.74), ink=False)
    if attribute == "erupting":
        p.poly(
            [(tip - 0.13, -0.86), (tip + 0.13, -0.86), (tip + 0.08, -0.78), (tip - 0.08, -0.78)],
            (255, 150, 40),
            glow=1.0,
            ink=False,
        )
        flame(p, tip, -0.8, 0.5, 0.5, rng)
        for x, y in ((-0.26, -0.3), (0.02, -0.16), (0.24, -0.36)):
            p.line([(tip, -0.84), (tip + x * 0.4, -0.6), (tip + x, y)], 0.07, (250, 96, 30), glow=0.9)
        return
    if attribute in ("green", "slimy"):
        if attribute == "green":
            bulbs(
                p,
                [(-0.4 * w, -0.3), (-0.2, -0.5), (0.06, -0.24), (0.3, -0.34), (0.5 * w, -0.14), (-0.5 * w, -0.12)],
                0.055,
                (PINK, (255, 232, 120), (255, 255, 255)),
                0.1,
            )
        else:
            drips(p, tip - 0.3, tip + 0.3, -0.72, 0.5, rng, 5)
            mould(p, -w * 0.6, -0.35, w * 0.6, -0.1, rng, 4)
        return
    if attribute == "painted":
        for i, y in enumerate((-0.84, -0.68, -0.52, -0.36, -0.2)):
            k0, k1 = (1 + y) * w, (1 + y + 0.1) * w
            p.poly(
                [
                    (tip * -y - k0 * 0.9, y),
                    (tip * -y + k0 * 0.9, y),
                    (tip * -y + k1 * 0.92, y + 0.1),
                    (tip * -y - k1 * 0.92, y + 0.1),
                ],
                BRIGHT[(i + 1) % 6],
                0.15,
                ink=False,
            )
        return
    snow = (250, 250, 252) if attribute != "barren" else (176, 172, 168)
    if attribute == "jagged":
        crack(p, tip, -0.8, 0.7, 1.7, rng, 0.03, (24, 20, 34))
        evil_eyes(p, tip, -0.5, 0.24, 0.09, (255, 70, 50))
        return
    deep = 0.42 if attribute == "majestic" else 0.26
    glow = 0.45 if attribute == "majestic" else 0.0
    p.poly(
        [
            apex,
            (tip + 0.22 * deep / 0.3, -1 + deep * 0.8),
            (tip + 0.1, -1 + deep * 0.66),
            (tip + 0.02, -1 + deep),
            (tip - 0.1, -1 + deep * 0.64),
            (tip - 0.24 * deep / 0.3, -1 + deep * 0.86),
        ],
        snow,
        glow,
        ink=False,
    )
    if attribute == "majestic":
        p.poly(
            [apex, (tip + 0.22 * deep / 0.3, -1 + deep * 0.8), (tip + 0.1, -1 + deep * 0.66), (tip + 0.02, -0.86)],
            (255, 214, 170),
            0.5,
            ink=False,
        )
