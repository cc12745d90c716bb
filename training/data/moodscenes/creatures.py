"""People, dogs and birds; conventions as in nature.py."""

from __future__ import annotations

import math

import numpy as np

from .canvas import Colour, Pen, mix, shade
from .effects import drips, flies, heart, tear
from .materials import BRIGHT, DARK, Materials

# Joints of a figure one unit high: head, shoulder, hip, then elbow and hand twice, knee and foot twice.
_POSES: dict[str, tuple[tuple[float, float], ...]] = {
    "standing": (
        (0, -0.86),
        (0, -0.68),
        (0, -0.4),
        (-0.16, -0.55),
        (-0.17, -0.38),
        (0.16, -0.55),
        (0.17, -0.38),
        (-0.08, -0.2),
        (-0.1, 0),
        (0.08, -0.2),
        (0.1, 0),
    ),
    "juggling": (
        (0, -0.86),
        (0, -0.68),
        (0, -0.4),
        (-0.22, -0.62),
        (-0.34, -0.8),
        (0.22, -0.62),
        (0.34, -0.8),
        (-0.1, -0.2),
        (-0.16, 0),
        (0.1, -0.2),
        (0.16, 0),
    ),
    "dancing": (
        (-0.05, -0.87),
        (-0.02, -0.68),
        (0.02, -0.42),
        (-0.2, -0.8),
        (-0.34, -0.98),
        (0.2, -0.62),
        (0.38, -0.74),
        (-0.04, -0.2),
        (-0.06, 0),
        (0.24, -0.34),
        (0.34, -0.12),
    ),
    "jumping": (
        (0, -1.06),
        (0, -0.88),
        (0, -0.6),
        (-0.18, -1.0),
        (-0.34, -1.22),
        (0.18, -1.0),
        (0.34, -1.22),
        (-0.2, -0.46),
        (-0.34, -0.26),
        (0.2, -0.46),
        (0.34, -0.26),
    ),
    "amazed": (
        (0, -0.88),
        (0, -0.69),
        (0, -0.4),
        (-0.24, -0.72),
        (-0.46, -0.86),
        (0.24, -0.72),
        (0.46, -0.86),
        (-0.08, -0.2),
        (-0.1, 0),
        (0.08, -0.2),
        (0.1, 0),
    ),
    "resting": (
        (-0.16, -0.58),
        (-0.12, -0.4),
        (-0.04, -0.1),
        (-0.3, -0.26),
        (-0.36, -0.03),
        (0.04, -0.26),
        (0.16, -0.16),
        (0.22, -0.24),
        (0.34, 0),
        (0.26, -0.1),
        (0.5, 0),
    ),
    "hugging": (
        (-0.12, -0.86),
        (-0.15, -0.68),
        (-0.15, -0.4),
        (0.0, -0.56),
        (0.14, -0.58),
        (-0.02, -0.6),
        (0.16, -0.64),
        (-0.18, -0.2),
        (-0.2, 0),
        (-0.08, -0.2),
        (-0.08, 0),
    ),
    "shouting": (
        (0.06, -0.87),
        (0, -0.68),
        (0, -0.4),
        (-0.22, -0.66),
        (-0.26, -0.94),
        (0.2, -0.56),
        (0.42, -0.62),
        (-0.14, -0.2),
        (-0.2, 0),
        (0.14, -0.22),
        (0.22, 0),
    ),
    "sick": (
        (0.3, -0.58),
        (0.16, -0.56),
        (-0.1, -0.42),
        (0.12, -0.36),
        (0.02, -0.3),
        (0.24, -0.38),
        (0.2, -0.22),
        (-0.06, -0.2),
        (-0.14, 0),
        (0, -0.2),
        (0.02, 0),
    ),
    "fleeing": (
        (0.2, -0.84),
        (0.1, -0.66),
        (-0.02, -0.4),
        (0.28, -0.78),
        (0.4, -1.0),
        (-0.08, -0.76),
        (-0.02, -1.02),
        (0.2, -0.3),
        (0.16, -0.08),
        (-0.18, -0.24),
        (-0.42, -0.2),
    ),
    "cowering": (
        (0.02, -0.46),
        (0.0, -0.32),
        (-0.14, -0.08),
        (-0.14, -0.4),
        (-0.06, -0.58),
        (0.18, -0.36),
        (0.12, -0.58),
        (0.12, -0.24),
        (0.12, 0),
        (0.06, -0.22),
        (0.02, 0),
    ),
    "crying": (
        (0.06, -0.52),
        (-0.04, -0.4),
        (-0.12, -0.06),
        (0.1, -0.3),
        (0.2, -0.38),
        (0.06, -0.28),
        (0.16, -0.36),
        (0.2, -0.3),
        (0.26, 0),
        (0.16, -0.26),
        (0.2, 0),
    ),
}


def _figure(p: Pen, pose: str, skin: Colour, shirt: Colour, trousers: Colour, hair: Colour, back: bool = False) -> None:
    head, neck, hip, le, lh, re, rh, lk, lf, rk, rf = _POSES[pose]
    p.line([hip, lk, lf], 0.115, shade(trousers, 0.8))
    p.line([neck, le, lh], 0.085, shade(shirt, 0.8))
    p.line([hip, rk, rf], 0.115, trousers)
    dx, dy = neck[0] - hip[0], neck[1] - hip[1]
    n = math.hypot(dx, dy) or 1.0
    u, v = -dy / n, dx / n
    p.poly(
        [
            (hip[0] - u * 0.1, hip[1] - v * 0.1),
            (hip[0] + u * 0.1, hip[1] + v * 0.1),
            (neck[0] + u * 0.13, neck[1] + v * 0.13),
            (neck[0] - u * 0.13, neck[1] - v * 0.13),
        ],
        shirt,
    )
    p.line([neck, hip], 0.17, shirt)
    p.disc(*head, 0.135, skin)
    hx, hy = head
    if back:
        p.disc(hx, hy - 0.01, 0.138, hair, ink=False)
    else:
        p.poly(
            [
                (hx - 0.145, hy + 0.02),
                (hx - 0.13, hy - 0.09),
                (hx - 0.05, hy - 0.155),
                (hx + 0.06, hy - 0.155),
                (hx + 0.135, hy - 0.08),
                (hx + 0.09, hy - 0.06),
                (hx - 0.06, hy - 0.06),
            ],
            hair,
            ink=False,
        )
    p.line([neck, re, rh], 0.085, shirt)
    for x, y in (lh, rh):
        p.disc(x, y, 0.055, skin, ink=False)


def person(p: Pen, rng: np.random.Generator, attribute: str, m: Materials) -> None:
    i = int(rng.integers(6))
    shirt, trousers = BRIGHT[i], shade(BRIGHT[(i + 2 + int(rng.integers(3))) % 6], 0.6)
    skin, hair = m.skin, m.hair
    if attribute == "sick":
        skin = mix(skin, (150, 190, 90), 0.6)
    elif attribute == "shouting":
        skin = mix(skin, (226, 60, 40), 0.55)
    elif attribute in ("cowering", "fleeing"):
        skin = mix(skin, (220, 226, 236), 0.5)
    if attribute == "jumping":
        p.oval(0, 0, 0.3, 0.04, (70, 74, 70), ink=False)
    if attribute == "hugging":
        _figure(
            p.sub(0.13, 0, 0.92, flip=True),
            "hugging",
            shade(skin, 0.92),
            BRIGHT[(i + 3) % 6],
            shade(trousers, 0.8),
            shade(hair, 1.3),
        )
        _figure(p, "hugging", skin, shirt, trousers, hair)
        heart(p, 0.02, -1.14, 0.14)
        return
    _figure(
        p, attribute if attribute in _POSES else "standing", skin, shirt, trousers, hair, back=attribute == "amazed"
    )
    hx, hy = _POSES.get(attribute, _POSES["standing"])[0]
    if attribute in ("juggling", "dancing", "jumping", "resting"):
        p.arc(hx, hy + 0.01, 0.075, 0.07, 0.2, 2.94, 0.04, (150, 40, 40))
    if attribute == "juggling":
        for k in range(4):
            a = math.pi * (0.12 + 0.76 * k / 3)
            p.disc(0.42 * math.cos(a), -0.86 - 0.42 * math.sin(a), 0.085, BRIGHT[(k + i) % 6], 0.25)
    elif attribute == "shouting":
        p.oval(hx + 0.05, hy + 0.05, 0.055, 0.06, (60, 10, 16), ink=False)
        p.line([(hx - 0.02, hy - 0.08), (hx + 0.09, hy - 0.03)], 0.035, DARK)
        for a in (-0.5, -0.05, 0.4):
            p.line(
                [(hx + 0.2 * math.cos(a), hy + 0.2 * math.sin(a)), (hx + 0.36 * math.cos(a), hy + 0.36 * math.sin(a))],
                0.045,
                (250, 70, 40),
                0.5,
            )
    elif attribute == "sick":
        p.poly(
            [
                (hx + 0.06, hy + 0.06),
                (hx + 0.14, hy + 0.05),
                (hx + 0.24, -0.06),
                (hx + 0.3, 0),
                (hx - 0.02, 0),
                (hx + 0.08, -0.06),
            ],
            p.canvas.slime,
            ink=False,
        )
        p.oval(hx + 0.14, 0, 0.26, 0.05, p.canvas.slime, ink=False)
    elif attribute in ("fleeing", "cowering"):
        p.oval(hx + 0.03, hy + 0.05, 0.05, 0.065, (40, 10, 16), ink=False)
        p.disc(hx - 0.03, hy - 0.03, 0.03, (255, 255, 255), ink=False)
        p.disc(hx + 0.07, hy - 0.03, 0.03, (255, 255, 255), ink=False)
    elif attribute == "crying":
        p.oval(0.2, 0.01, 0.34, 0.045, (120, 170, 220), ink=False)
        for x, y in ((0.24, -0.5), (0.3, -0.34), (0.34, -0.16)):
            tear(p, x, y, 0.055)


def dog(p: Pen, rng: np.random.Generator, attribute: str, m: Materials) -> None:
    """Facing right; the unit is its standing height."""
    c = ((176, 122, 76), (226, 200, 160), (96, 76, 66), (210, 150, 90))[int(rng.integers(4))]
    ear = shade(c, 0.65)
    c = {"filthy": mix(c, (112, 108, 50), 0.6), "snarling": shade(c, 0.5), "sad": mix(c, (130, 134, 150), 0.4)}.get(
        attribute, c
    )
    if attribute == "sleeping":
        p.oval(0, -0.26, 0.7, 0.27, c)
        p.oval(0.52, -0.18, 0.27, 0.17, shade(c, 1.08))
        p.oval(0.42, -0.24, 0.1, 0.17, ear)
        p.disc(0.78, -0.18, 0.05, DARK, ink=False)
        p.arc(0.58, -0.22, 0.06, 0.04, 0.2, 2.9, 0.03, DARK)
        p.arc(-0.5, -0.16, 0.26, 0.14, 1.0, 3.6, 0.1, c)
        for x, y, r in ((0.8, -0.56, 0.14), (1.02, -0.84, 0.19)):
            p.line([(x - r, y - r), (x + r, y - r), (x - r, y + r), (x + r, y + r)], 0.05, (250, 250, 255), 0.4)
        return
    legs = {
        "leaping": ((-0.62, -0.02), (-0.44, -0.02), (0.62, -0.3), (0.74, -0.42)),
        "playing": ((-0.46, 0), (-0.3, 0), (0.5, 0), (0.66, 0)),
    }.get(attribute, ((-0.44, 0), (-0.3, 0), (0.28, 0), (0.42, 0)))
    head, body_y, tail = (0.62, -0.86), -0.5, (-0.8, -0.9)
    if attribute == "leaping":
        p.oval(0, 0.02, 0.5, 0.05, (70, 74, 70), ink=False)
        p = p.sub(0, -0.28, 1.05, angle=-0.25)
    elif attribute == "playing":
        head, tail = (0.66, -0.46), (-0.66, -1.05)
    elif attribute == "howling":
        head = (0.58, -1.0)
    elif attribute == "snarling":
        head, tail = (0.74, -0.62), (-0.9, -0.6)
    elif attribute in ("scared", "sad"):
        head, tail, body_y = (0.6, -0.52), (-0.5, -0.1), -0.4
    for i, (x, y) in enumerate(legs):
        root = -0.36 if i < 2 else 0.34
        p.line([(root + (0.06 if i % 2 else -0.06), body_y), (x, y)], 0.13, shade(c, 0.82 if i % 2 else 1.0))
    p.line([(-0.5, body_y - 0.06), ((-0.5 + tail[0]) / 2 - 0.06, (body_y + tail[1]) / 2), tail], 0.11, c)
    if attribute == "playing":
        p.poly([(-0.58, -0.5), (-0.5, -0.86), (-0.2, -0.82), (0.5, -0.4), (0.5, -0.12), (0.2, -0.16), (-0.4, -0.42)], c)
    else:
        p.oval(0, body_y, 0.56, 0.22, c)
    hx, hy = head
    p.line([(0.4, body_y - 0.05), (hx - 0.06, hy + 0.06)], 0.26, c)
    tilt = -0.9 if attribute == "howling" else 0.0
    q = p.sub(hx, hy, 1.0, angle=tilt)
    q.disc(0, 0, 0.235, c)
    q.oval(0.24, 0.07, 0.16, 0.11, shade(c, 1.12))
    q.disc(0.38, 0.03, 0.06, DARK, ink=False)
    if attribute in ("snarling", "scared"):
        q.poly([(-0.2, -0.12), (-0.02, -0.2), (-0.3, -0.4)], ear)
    else:
        q.oval(-0.15, 0.02, 0.09, 0.21, ear)
    if attribute == "snarling":
        q.poly([(0.08, 0.12), (0.4, 0.1), (0.36, 0.26), (0.1, 0.28)], (120, 20, 30))
        for x in (0.13, 0.22, 0.31):
            q.poly([(x - 0.045, 0.11), (x + 0.045, 0.11), (x, 0.24)], (255, 255, 255), 0.3, ink=False)
        q.poly([(0.0, -0.14), (0.16, -0.04), (0.04, 0.0)], (255, 60, 40), 1.0, ink=False)
    elif attribute in ("scared", "sad"):
        q.disc(
            0.07,
            -0.06,
            0.08 if attribute == "scared" else 0.05,
            (255, 255, 255) if attribute == "scared" else DARK,
            ink=False,
        )
        q.disc(0.09, -0.05, 0.035, DARK, ink=False)
        if attribute == "sad":
            tear(q, 0.12, 0.16, 0.08)
        else:
            for s in (-0.35, 0.0):
                p.arc(-0.1 + s, -0.78, 0.1, 0.06, math.pi, 2 * math.pi, 0.04, (240, 244, 250))
    else:
        q.disc(0.07, -0.06, 0.05, DARK, ink=False)
    if attribute in ("playing", "leaping"):
        q.poly([(0.14, 0.14), (0.28, 0.16), (0.24, 0.34), (0.14, 0.3)], (240, 100, 120), 0.1)
        if attribute == "playing":
            p.disc(1.12, -0.16, 0.17, (236, 60, 70), 0.2)
    elif attribute == "howling":
        for r in (0.2, 0.34):
            q.arc(0.44, 0.04, r, r, -0.6, 0.6, 0.05, (240, 244, 255), 0.4)
    elif attribute == "filthy":
        drips(p, -0.5, 0.5, body_y - 0.02, 0.34, rng, 5)
        flies(p, 0, -1.0, 0.5, rng, 4, 0.07)


def bird(p: Pen, rng: np.random.Generator, attribute: str, m: Materials) -> None:
    """On the wing, facing right; the unit is half its wing span."""
    c = (BRIGHT[int(rng.integers(6))], (240, 240, 244), (90, 100, 120))[int(rng.integers(3))]
    up = float(rng.uniform(0.4, 0.6))
    c = {
        "soaring": (250, 248, 244),
        "singing": (250, 190, 60),
        "black": (28, 26, 36),
        "attacking": (70, 26, 34),
        "dirty": (112, 108, 60),
        "lonely": (120, 130, 150),
        "racing": (236, 80, 70),
    }.get(attribute, c)
    if attribute == "attacking":
        p = p.sub(0, 0, 1.2, angle=0.5)
    elif attribute == "lonely":
        up = -0.18
    elif attribute == "soaring":
        p, up = p.sub(0, 0, 1.25, angle=-0.2), 0.3
    elif attribute == "racing":
        for y in (-0.14, 0.1):
            p.line([(-0.7, y), (-1.6, y)], 0.07, (255, 250, 230), 0.3)
        p = p.sub(0, 0, 1.1, angle=-0.15)
    glow = 0.2 if attribute in ("soaring", "singing") else 0.0
    jag = attribute in ("black", "attacking")
    for s, k in ((-1, 0.84), (1, 1.0)):
        tip = (s * 0.95 - 0.1, -up)
        trail = (
            [(s * 0.7 - 0.2, -up * 0.3), (s * 0.5 - 0.14, -up * 0.02), (s * 0.3 - 0.16, 0.16)]
            if jag
            else [(s * 0.55 - 0.22, -up * 0.3), (s * 0.2 - 0.2, 0.1)]
        )
        p.poly([(0.1, -0.06), (s * 0.5, -up * 1.05), tip] + trail, shade(c, k), glow)
    p.poly([(-0.34, 0.02), (-0.62, -0.1), (-0.62, 0.14)], shade(c, 0.8), glow)
    p.oval(0, 0.03, 0.36, 0.15, c, glow)
    p.disc(0.34, -0.05, 0.15, c, glow)
    p.poly([(0.46, -0.1), (0.68, -0.02), (0.46, 0.05)], (250, 170, 50))
    if attribute in ("attacking", "black"):
        p.disc(0.37, -0.07, 0.06, (255, 60, 40), 1.0, ink=False)
    else:
        p.disc(0.38, -0.07, 0.04, DARK, ink=False)
    if attribute == "singing":
        for x, y in ((0.75, -0.4), (1.0, -0.7)):
            p.disc(x, y, 0.09, (250, 250, 250), 0.3, ink=False)
            p.line([(x + 0.08, y), (x + 0.08, y - 0.32), (x + 0.24, y - 0.24)], 0.05, (250, 250, 250), 0.3)
    elif attribute == "dirty":
        drips(p, -0.3, 0.3, 0.1, 0.4, rng, 3)
        flies(p, 0, -0.4, 0.6, rng, 3, 0.08)
    elif attribute == "lonely":
        tear(p, 0.44, 0.2, 0.09)
