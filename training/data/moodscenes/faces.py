"""Portraits. The pen's origin is the chin, its unit the head's height."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .canvas import Colour, Pen, mix, shade
from .effects import heart, star, tear
from .materials import DARK, Materials

_TINT: dict[str, tuple[Colour, float]] = {
    "angry": ((226, 50, 36), 0.5),
    "disgusted": ((150, 186, 80), 0.5),
    "terrified": ((206, 222, 240), 0.6),
    "crying": ((180, 196, 226), 0.3),
    "laughing": ((255, 190, 150), 0.2),
    "excited": ((255, 186, 140), 0.2),
}


def _brows(p: Pen, inner: float, outer: float, colour: Colour) -> None:
    for s in (-1, 1):
        p.line(
            [(s * 0.09, -0.68 + inner), (s * 0.18, -0.71 + (inner + outer) / 2), (s * 0.29, -0.68 + outer)],
            0.042,
            colour,
        )


def _open_eyes(p: Pen, r: float, pupil: float, glow: float = 0.0, squash: float = 1.0, look: float = 0.0) -> None:
    for s in (-1, 1):
        p.oval(s * 0.19, -0.53, r, r * 1.12 * squash, (255, 255, 255))
        p.disc(s * 0.19, -0.53 + look, pupil, DARK, ink=False)
        p.disc(s * 0.19 + pupil * 0.35, -0.53 + look - pupil * 0.35, pupil * 0.32, (255, 255, 255), glow, ink=False)


def _eyes(p: Pen, a: str, hair: Colour, skin: Colour) -> None:
    brow = shade(hair, 0.7)
    if a == "laughing":
        for s in (-1, 1):
            p.line([(s * 0.19 - 0.09, -0.48), (s * 0.19, -0.57), (s * 0.19 + 0.09, -0.48)], 0.045, DARK)
        _brows(p, -0.02, -0.0, brow)
    elif a == "peaceful":
        for s in (-1, 1):
            p.arc(s * 0.19, -0.55, 0.095, 0.065, 0.25, 2.9, 0.035, DARK)
        _brows(p, 0.0, 0.02, brow)
    elif a == "amazed":
        _open_eyes(p, 0.125, 0.085)
        for s in (-1, 1):
            star(p, s * 0.19, -0.54, 0.085)
        _brows(p, -0.11, -0.07, brow)
    elif a == "excited":
        for s in (-1, 1):
            p.disc(s * 0.19, -0.53, 0.125, (255, 255, 255))
            for k in range(5):
                t = -math.pi / 2 + k * 2 * math.pi / 5
                p.poly(
                    [
                        (s * 0.19 + 0.11 * math.cos(t), -0.53 + 0.11 * math.sin(t)),
                        (s * 0.19 + 0.06 * math.cos(t + 1.3), -0.53 + 0.06 * math.sin(t + 1.3)),
                        (s * 0.19 + 0.06 * math.cos(t - 1.3), -0.53 + 0.06 * math.sin(t - 1.3)),
                    ],
                    (250, 170, 30),
                    0.6,
                    ink=False,
                )
        _brows(p, -0.08, -0.09, brow)
    elif a == "angry":
        _open_eyes(p, 0.09, 0.045, squash=0.8)
        for s in (-1, 1):
            p.poly([(s * 0.06, -0.56), (s * 0.31, -0.74), (s * 0.31, -0.6), (s * 0.06, -0.5)], brow)
    elif a == "disgusted":
        _open_eyes(p, 0.09, 0.05, squash=0.8, look=0.02)
        for s in (-1, 1):
            p.rect(s * 0.19 - 0.1, -0.64, s * 0.19 + 0.1, -0.54, shade(skin, 0.86), ink=False)
            p.line([(s * 0.19 - 0.1, -0.545), (s * 0.19 + 0.1, -0.545)], 0.025, DARK)
        _brows(p, 0.06, -0.03, brow)
    elif a == "terrified":
        _open_eyes(p, 0.135, 0.035)
        _brows(p, -0.14, -0.04, brow)
    elif a == "crying":
        _open_eyes(p, 0.09, 0.06, squash=0.75, look=0.02)
        _brows(p, -0.08, 0.05, brow)
        for s in (-1, 1):
            x = s * 0.21
            p.poly(
                [(x - 0.045, -0.47), (x + 0.045, -0.47), (x + 0.065, -0.08), (x, -0.02), (x - 0.065, -0.08)],
                (110, 180, 240),
                0.35,
                ink=False,
            )
    else:
        _open_eyes(p, 0.08, 0.05)
        _brows(p, 0.0, 0.0, brow)


def _mouth(p: Pen, a: str, skin: Colour) -> None:
    red, inside, teeth = (196, 66, 66), (110, 24, 34), (255, 252, 244)
    if a in ("laughing", "excited"):
        w, d = (0.25, 0.27) if a == "laughing" else (0.26, 0.2)
        low = [(w * math.cos(t), -0.27 + d * math.sin(t)) for t in np.linspace(0, math.pi, 10)]
        p.poly([(-w, -0.27), (0, -0.25), (w, -0.27)] + low[1:-1], inside)
        p.poly([(-w * 0.92, -0.265), (w * 0.92, -0.265), (w * 0.76, -0.19), (-w * 0.76, -0.19)], teeth, 0.1, ink=False)
        if a == "laughing":
            p.oval(0, -0.06, 0.12, 0.055, (236, 110, 116), ink=False)
        else:
            p.poly(
                [(-w * 0.62, -0.13), (w * 0.62, -0.13), (w * 0.3, -0.085), (-w * 0.3, -0.085)], teeth, 0.1, ink=False
            )
    elif a == "amazed":
        p.oval(0, -0.19, 0.095, 0.115, inside)
        p.oval(0, -0.13, 0.055, 0.035, (220, 100, 106), ink=False)
    elif a == "peaceful":
        p.arc(0, -0.29, 0.16, 0.11, 0.35, 2.79, 0.04, red)
    elif a == "angry":
        p.poly([(-0.2, -0.08), (-0.15, -0.3), (0.15, -0.3), (0.2, -0.08)], inside)
        p.rect(-0.14, -0.295, 0.14, -0.235, teeth, ink=False)
        p.rect(-0.17, -0.14, 0.17, -0.085, teeth, ink=False)
    elif a == "disgusted":
        p.line([(-0.2, -0.15), (-0.1, -0.23), (0.02, -0.17), (0.12, -0.23), (0.2, -0.16)], 0.045, (110, 50, 50))
        p.poly([(-0.09, -0.19), (0.1, -0.19), (0.11, -0.02), (0.0, 0.05), (-0.1, -0.02)], (226, 96, 116))
        p.line([(0.0, -0.17), (0.0, -0.04)], 0.02, (170, 60, 84))
    elif a == "terrified":
        p.oval(0, -0.17, 0.15, 0.15, inside)
        p.poly([(-0.11, -0.27), (0.11, -0.27), (0.09, -0.22), (-0.09, -0.22)], teeth, ink=False)
        p.poly([(-0.09, -0.08), (0.09, -0.08), (0.06, -0.05), (-0.06, -0.05)], teeth, ink=False)
    elif a == "crying":
        p.poly(
            [(0.19 * math.cos(t), -0.09 + 0.17 * math.sin(t)) for t in np.linspace(math.pi, 2 * math.pi, 10)], inside
        )
        p.poly([(-0.1, -0.09), (0.1, -0.09), (0.06, -0.14), (-0.06, -0.14)], (226, 100, 106), ink=False)
    else:
        p.line([(-0.12, -0.19), (0.12, -0.19)], 0.035, red)


def _hair_back(p: Pen, style: str, colour: Colour, w: float) -> None:
    if style == "long":
        p.poly(
            [
                (-w - 0.1, -0.6),
                (-w * 0.7, -1.0),
                (0, -1.12),
                (w * 0.7, -1.0),
                (w + 0.1, -0.6),
                (w + 0.16, 0.2),
                (-w - 0.16, 0.2),
            ],
            shade(colour, 0.85),
        )
    elif style == "curly":
        for i in range(9):
            t = math.pi * (0.94 + 1.12 * i / 8)
            p.disc((w + 0.06) * math.cos(t), -0.55 + 0.5 * math.sin(t), 0.2, shade(colour, 0.9))
    elif style == "bun":
        p.disc(0, -1.13, 0.19, colour)


def _hair_front(p: Pen, style: str, colour: Colour, w: float) -> None:
    if style == "bald":
        return
    top = [
        (-w - 0.04, -0.52),
        (-w - 0.05, -0.78),
        (-w * 0.72, -1.0),
        (-0.1, -1.1),
        (w * 0.5, -1.06),
        (w + 0.03, -0.84),
        (w + 0.04, -0.52),
    ]
    fringe = {
        "short": [(w * 0.8, -0.76), (0.1, -0.86), (-w * 0.8, -0.74)],
        "bun": [(w * 0.8, -0.8), (0, -0.9), (-w * 0.8, -0.8)],
        "long": [(w * 0.82, -0.66), (0.16, -0.9), (-0.05, -0.84), (-w * 0.8, -0.6)],
        "curly": [(w * 0.8, -0.76), (w * 0.4, -0.82), (0, -0.78), (-w * 0.4, -0.82), (-w * 0.8, -0.74)],
    }[style]
    p.poly(top + fringe, colour)
    p.poly([(-w * 0.5, -0.98), (-0.05, -1.05), (0.1, -0.98), (-w * 0.3, -0.92)], shade(colour, 1.25), ink=False)


def portrait(
    p: Pen,
    own: Callable[[str], None],
    rng: np.random.Generator,
    attribute: str,
    m: Materials,
    hair: str,
    hat: str | None,
    glasses: bool,
) -> None:
    """Draws head and shoulders. `own(name)` says whose pixels follow: face, eyes, mouth, hair, hat."""
    w = float(rng.uniform(0.37, 0.43))
    tint, amount = _TINT.get(attribute, ((255, 255, 255), 0.0))
    skin = mix(m.skin, tint, amount)
    own("hair")
    _hair_back(p, hair, m.hair, w)
    own("person")
    p.poly([(-0.72, 0.6), (-0.66, 0.24), (-0.36, 0.1), (0.36, 0.1), (0.66, 0.24), (0.72, 0.6)], m.cloth)
    p.poly([(-0.18, 0.09), (0.18, 0.09), (0, 0.3)], shade(skin, 0.85))
    p.rect(-0.14, -0.12, 0.14, 0.13, shade(skin, 0.85))
    own("face")
    for s in (-1, 1):
        p.disc(s * w, -0.48, 0.09, shade(skin, 0.9))
    jaw = [
        (-w, -0.55),
        (-w * 0.96, -0.3),
        (-w * 0.62, -0.06),
        (-0.12, 0.03),
        (0.12, 0.03),
        (w * 0.62, -0.06),
        (w * 0.96, -0.3),
        (w, -0.55),
        (w * 0.9, -0.84),
        (w * 0.5, -1.0),
        (0, -1.04),
        (-w * 0.5, -1.0),
        (-w * 0.9, -0.84),
    ]
    p.poly(jaw, skin)
    p.poly(
        [
            (w * 0.55, -0.98),
            (w * 0.9, -0.84),
            (w, -0.55),
            (w * 0.96, -0.3),
            (w * 0.62, -0.06),
            (0.12, 0.03),
            (w * 0.5, -0.2),
            (w * 0.72, -0.5),
        ],
        shade(skin, 0.9),
        ink=False,
    )
    if attribute in ("laughing", "peaceful", "excited", "amazed"):
        for s in (-1, 1):
            p.oval(s * 0.27, -0.36, 0.085, 0.055, mix(skin, (240, 90, 90), 0.45), ink=False)
    if attribute == "angry":
        p.line([(0.24, -0.92), (0.3, -0.86), (0.24, -0.8)], 0.03, (150, 20, 20))
    p.line([(0.0, -0.46), (0.035, -0.36), (-0.02, -0.34)], 0.028, shade(skin, 0.68))
    if attribute == "disgusted":
        for y in (-0.47, -0.41):
            p.line([(-0.08, y + 0.03), (0, y), (0.08, y + 0.03)], 0.022, shade(skin, 0.6))
    if attribute == "terrified":
        for x, y in ((-0.3, -0.8), (0.32, -0.72), (-0.33, -0.28)):
            tear(p, x, y, 0.045)
    own("eyes")
    _eyes(p, attribute, m.hair, skin)
    if glasses:
        for s in (-1, 1):
            p.arc(s * 0.19, -0.53, 0.15, 0.14, 0, 2 * math.pi, 0.028, (60, 50, 60))
        p.line([(-0.05, -0.54), (0.05, -0.54)], 0.028, (60, 50, 60))
    own("mouth")
    _mouth(p, attribute, skin)
    own("hair")
    _hair_front(p, hair, m.hair, w)
    if hat:
        own("hat")
        c = mix(m.cloth, (255, 255, 255), 0.1) if hat == "cap" else shade(m.cloth, 0.75)
        p.poly([(-w * 0.95, -0.84), (-w * 0.8, -1.16), (-0.1, -1.3), (w * 0.7, -1.2), (w * 0.98, -0.84)], c)
        brim = (
            [(-w - 0.06, -0.86), (w + 0.3, -0.86), (w + 0.26, -0.78), (-w - 0.06, -0.78)]
            if hat == "cap"
            else [(-w - 0.3, -0.86), (w + 0.3, -0.86), (w + 0.3, -0.78), (-w - 0.3, -0.78)]
        )
        p.poly(brim, shade(c, 0.8))
    own("person")
    if attribute == "terrified":
        for s in (-1, 1):
            p.oval(s * (w - 0.02), -0.14, 0.1, 0.2, shade(skin, 0.94))
            for k in range(3):
                p.line([(s * (w - 0.08 + 0.05 * k), -0.22), (s * (w - 0.1 + 0.06 * k), -0.4)], 0.045, shade(skin, 0.94))
    elif attribute == "angry":
        for s in (-1, 1):
            for k in range(2):
                p.disc(s * (w + 0.2 + 0.13 * k), -0.62 - 0.1 * k, 0.09 + 0.04 * k, (236, 228, 226), ink=False)
    elif attribute == "peaceful":
        heart(p, w + 0.24, -0.9, 0.1)
    elif attribute == "disgusted":
        p.poly([(0.02, 0.03), (0.08, 0.03), (0.07, 0.16), (0.03, 0.16)], p.canvas.slime, ink=False)
