"""Small things that many objects wear: flames, slime, cracks, bunting, blossoms, eyes in the dark."""

from __future__ import annotations

import math

import numpy as np

from .canvas import Colour, Pen, mix, shade
from .materials import BRIGHT, DARK, MOULD


def flame(p: Pen, x: float, y: float, w: float, h: float, rng: np.random.Generator) -> None:
    """A flame standing on (x, y), w wide and h high, in three nested tongues that shine."""
    lean = float(rng.uniform(-0.25, 0.25))
    for k, c in ((1.0, (226, 60, 28)), (0.68, (250, 142, 30)), (0.36, (255, 226, 110))):
        ww, hh = w * k, h * k
        p.poly(
            [
                (x - ww * 0.5, y - hh * 0.12),
                (x - ww * 0.46, y - hh * 0.4),
                (x - ww * 0.3, y - hh * 0.62),
                (x - ww * (0.24 - lean), y - hh * 0.86),
                (x - ww * 0.1, y - hh * 0.62),
                (x + ww * lean, y - hh),
                (x + ww * 0.2, y - hh * 0.6),
                (x + ww * (0.3 + lean), y - hh * 0.76),
                (x + ww * 0.48, y - hh * 0.4),
                (x + ww * 0.5, y - hh * 0.12),
                (x + ww * 0.25, y),
                (x - ww * 0.25, y),
            ],
            c,
            glow=0.9,
            ink=False,
        )


def fire(p: Pen, x0: float, x1: float, y: float, h: float, rng: np.random.Generator, n: int = 3) -> None:
    """A row of n flames between x0 and x1; the middle ones are the highest."""
    step = (x1 - x0) / n
    for i in range(n):
        x = x0 + (i + 0.5) * step
        flame(p, x, y, step * 1.5, h * float(rng.uniform(0.7, 1.0)), rng)


def drips(
    p: Pen,
    x0: float,
    x1: float,
    y: float,
    length: float,
    rng: np.random.Generator,
    n: int = 5,
    colour: Colour | None = None,
) -> None:
    """Slime (of the scene's own colour unless given) that hangs from the line y between x0 and x1."""
    colour = colour or p.canvas.slime
    w = (x1 - x0) / n
    pts = [(x0, y - w * 0.35), (x1, y - w * 0.35), (x1, y)]
    for i in range(n, 0, -1):
        x, d = x0 + (i - 0.5) * w, length * float(rng.uniform(0.35, 1.0))
        pts += [
            (x + w * 0.42, y),
            (x + w * 0.34, y + d * 0.8),
            (x, y + d),
            (x - w * 0.34, y + d * 0.8),
            (x - w * 0.42, y),
        ]
    p.poly(pts + [(x0, y)], colour, ink=False)
    p.oval(x0 + w * 0.9, y - w * 0.08, w * 0.3, w * 0.1, shade(colour, 1.6), ink=False)


def mould(p: Pen, x0: float, y0: float, x1: float, y1: float, rng: np.random.Generator, n: int = 5) -> None:
    """Blotches over a box."""
    for i in range(n):
        r = float(rng.uniform(0.06, 0.13)) * min(1.0, abs(x1 - x0) * 1.4)
        x, y = float(rng.uniform(x0, x1)), float(rng.uniform(y0, y1))
        p.oval(
            x,
            y,
            r,
            r * 0.8,
            (mix(p.canvas.slime, MOULD, 0.7), p.canvas.slime, shade(p.canvas.slime, 0.55))[i % 3],
            ink=False,
        )


def crack(
    p: Pen,
    x: float,
    y: float,
    length: float,
    angle: float,
    rng: np.random.Generator,
    width: float = 0.03,
    colour: Colour = DARK,
) -> None:
    pts = [(x, y)]
    for _ in range(4):
        angle += float(rng.uniform(-0.9, 0.9))
        x, y = x + math.cos(angle) * length / 4, y + math.sin(angle) * length / 4
        pts.append((x, y))
    p.line(pts, width, colour)


def bunting(p: Pen, a: tuple[float, float], b: tuple[float, float], sag: float, n: int, size: float) -> None:
    """A garland of n coloured flags hung from a to b."""

    def at(t: float) -> tuple[float, float]:
        return a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t + sag * 4 * t * (1 - t)

    p.line([at(i / 8) for i in range(9)], size * 0.14, (90, 70, 80))
    for i in range(n):
        x, y = at((i + 0.5) / n)
        p.poly([(x - size * 0.5, y), (x + size * 0.5, y), (x, y + size)], BRIGHT[i % 6], glow=0.25, ink=False)


def bulbs(
    p: Pen, points: list[tuple[float, float]], r: float, colours: tuple[Colour, ...] = BRIGHT, glow: float = 0.8
) -> None:
    for i, (x, y) in enumerate(points):
        p.disc(x, y, r, mix(colours[i % len(colours)], (255, 255, 255), 0.15), glow=glow, ink=False)


def balloon(p: Pen, x: float, y: float, r: float, colour: Colour, length: float = 0.4) -> None:
    """A balloon with its centre at (x, y) on a string."""
    p.line([(x, y + r), (x + r * 0.3, y + r + length * 0.5), (x, y + r + length)], r * 0.12, (110, 100, 110))
    p.oval(x, y, r * 0.88, r, colour, glow=0.2)
    p.oval(x - r * 0.3, y - r * 0.35, r * 0.18, r * 0.26, shade(colour, 1.6), glow=0.2, ink=False)


def evil_eyes(p: Pen, x: float, y: float, gap: float, r: float, colour: Colour = (255, 226, 90)) -> None:
    """Two slanted eyes that shine."""
    for s in (-1, 1):
        cx = x + s * gap / 2
        p.poly(
            [(cx - s * r * 0.9, y + r * 0.3), (cx + s * r, y - r * 0.9), (cx + s * r * 0.7, y + r * 0.6)],
            colour,
            glow=1.0,
            ink=False,
        )


def heart(p: Pen, x: float, y: float, r: float, colour: Colour = (232, 74, 96)) -> None:
    pts = []
    for i in range(20):
        t = 2 * math.pi * i / 20
        pts.append(
            (
                x + r * math.sin(t) ** 3,
                y - r * (0.81 * math.cos(t) - 0.31 * math.cos(2 * t) - 0.12 * math.cos(3 * t) - 0.06 * math.cos(4 * t)),
            )
        )
    p.poly(pts, colour, glow=0.2)


def tear(p: Pen, x: float, y: float, r: float) -> None:
    p.poly(
        [
            (x, y - r * 1.9),
            (x + r * 0.8, y - r * 0.2),
            (x + r * 0.6, y + r * 0.6),
            (x, y + r),
            (x - r * 0.6, y + r * 0.6),
            (x - r * 0.8, y - r * 0.2),
        ],
        (120, 190, 240),
        glow=0.3,
        ink=False,
    )


def flies(p: Pen, x: float, y: float, spread: float, rng: np.random.Generator, n: int = 4, r: float = 0.03) -> None:
    for _ in range(n):
        fx, fy = x + float(rng.uniform(-1, 1)) * spread, y + float(rng.uniform(-1, 0.6)) * spread
        p.oval(fx - r, fy - r * 0.9, r * 0.9, r * 0.5, (206, 210, 200), ink=False)
        p.oval(fx + r, fy - r * 0.9, r * 0.9, r * 0.5, (206, 210, 200), ink=False)
        p.disc(fx, fy, r * 0.8, (30, 30, 30), ink=False)


def star(p: Pen, x: float, y: float, r: float, colour: Colour = (255, 244, 190), glow: float = 1.0) -> None:
    """A four-pointed sparkle."""
    k = 0.22
    p.poly(
        [
            (x, y - r),
            (x + r * k, y - r * k),
            (x + r, y),
            (x + r * k, y + r * k),
            (x, y + r),
            (x - r * k, y + r * k),
            (x - r, y),
            (x - r * k, y - r * k),
        ],
        colour,
        glow,
        ink=False,
    )
