"""Skies, what falls or flies through the air, and drawn textures. All of it drawn on the canvas."""

from __future__ import annotations

import math

import numpy as np

from .canvas import Canvas, Colour, Pen, mix, shade
from .effects import crack, drips, flies, star
from .materials import BRIGHT, Materials

# Light: sky at the top, sky at the horizon, what it does to the ground's colours (factors), sun or moon.
LIGHT_LOOKS: dict[str, tuple[Colour, Colour, tuple[float, float, float], str | None]] = {
    "golden": ((244, 178, 104), (255, 236, 190), (1.08, 0.94, 0.74), "sun"),
    "rays": ((130, 170, 216), (255, 240, 204), (1.02, 1.0, 0.94), "sun"),
    "burst": ((255, 214, 92), (255, 240, 180), (1.08, 1.02, 0.92), "sun"),
    "night": ((20, 24, 64), (78, 84, 140), (0.5, 0.52, 0.8), None),
    "moon": ((18, 26, 56), (72, 98, 130), (0.48, 0.56, 0.72), "moon"),
    "overcast": ((132, 140, 154), (192, 194, 196), (0.8, 0.82, 0.86), None),
    "fiery": ((104, 20, 34), (250, 116, 52), (0.94, 0.6, 0.5), "sun"),
    "neon": ((44, 18, 92), (230, 70, 160), (0.8, 0.62, 0.96), None),
    "dim": ((60, 60, 78), (120, 116, 122), (0.56, 0.54, 0.58), None),
    "sickly": ((128, 132, 56), (214, 206, 120), (0.9, 0.9, 0.6), None),
}


def sky_colours(m: Materials, light: str | None, weather: str | None, s: float) -> tuple[Colour, Colour]:
    top, low = m.sky
    if light:
        a, b, _, _ = LIGHT_LOOKS[light]
        top, low = mix(top, a, 0.35 + 0.65 * s), mix(low, b, 0.35 + 0.65 * s)
    dark = {
        "lightning": ((50, 50, 76), 0.6),
        "smoke": ((60, 50, 50), 0.45),
        "rain": ((110, 122, 144), 0.5),
        "smog": ((150, 140, 86), 0.5),
        "fog": ((176, 180, 188), 0.5),
        "stars": ((26, 28, 76), 0.8),
        "aurora": ((18, 26, 66), 0.85),
        "fireworks": ((34, 26, 72), 0.8),
        "bats": ((70, 60, 90), 0.4),
        "snow": ((190, 200, 216), 0.4),
    }
    if weather in dark:
        c, k = dark[weather]
        top, low = mix(top, c, k), mix(low, c, k * 0.6)
    return top, low


def luminary(p: Pen, kind: str, x: float, y: float, light: str, m: Materials) -> None:
    if kind == "moon":
        p.disc(x, y, 0.115, (250, 246, 220), glow=0.9)
        for dx, dy, r in ((-0.03, -0.03, 0.026), (0.04, 0.02, 0.034), (-0.01, 0.06, 0.02)):
            p.disc(x + dx, y + dy, r, (222, 216, 190), glow=0.6, ink=False)
    elif light == "fiery":
        p.disc(x, y + 0.08, 0.12, (255, 90, 50), glow=0.9)
    else:
        p.disc(x, y, 0.085, (255, 244, 196), glow=1.0)


def behind(
    c: Canvas,
    weather: str | None,
    light: str | None,
    where: tuple[float, float],
    horizon: float,
    rng: np.random.Generator,
    m: Materials,
    s: float,
) -> None:
    """What stands in the sky behind everything."""
    p = c.pen()
    x0, y0 = where
    if light == "burst":
        base = LIGHT_LOOKS["burst"][0]
        for i in range(11):
            a = i * 2 * math.pi / 11 + 0.1
            p.poly(
                [
                    (x0, y0),
                    (x0 + 1.6 * math.cos(a - 0.14), y0 + 1.6 * math.sin(a - 0.14)),
                    (x0 + 1.6 * math.cos(a + 0.14), y0 + 1.6 * math.sin(a + 0.14)),
                ],
                mix(base, (255, 152, 60) if i % 2 else (255, 250, 220), 0.75),
                ink=False,
            )
    if light == "night" or weather in ("stars", "aurora"):
        for i in range(46 if weather == "stars" else 26):
            x, y = float(rng.uniform(0, 1)), float(rng.uniform(0, horizon))
            p.disc(x, y, float(rng.uniform(0.004, 0.008)), (255, 250, 230), glow=1.0, ink=False)
    if weather == "stars":
        p.line([(-0.1, 0.4), (0.3, 0.22), (0.7, 0.1), (1.1, -0.1)], 0.12, mix((70, 66, 130), (26, 28, 76), 0.3), 0.25)
        for _ in range(7):
            star(
                p,
                float(rng.uniform(0.04, 0.96)),
                float(rng.uniform(0.03, horizon * 0.8)),
                float(rng.uniform(0.025, 0.05)),
            )
    elif weather == "aurora":
        for k, col in ((0, (70, 220, 160)), (1, (120, 120, 230)), (2, (90, 240, 190))):
            ph = float(rng.uniform(0, 6))
            top = [(i / 12, 0.06 + 0.1 * k + 0.06 * math.sin(ph + i * 0.7)) for i in range(13)]
            low = [(x, y + 0.1 + 0.04 * math.sin(ph * 2 + x * 9)) for x, y in reversed(top)]
            p.poly(top + low, mix(col, (24, 34, 80), 0.25), glow=0.5, ink=False)
    elif weather == "rainbow":
        cx = 0.5 + float(rng.uniform(-0.2, 0.2))
        for i, col in enumerate(
            ((236, 90, 90), (250, 170, 70), (252, 230, 110), (120, 200, 120), (96, 160, 226), (150, 110, 200))
        ):
            r = 0.58 - 0.035 * i
            p.arc(cx, horizon + 0.12, r, r, math.pi, 2 * math.pi, 0.037, mix(col, (255, 255, 255), 0.15), 0.15)
    elif weather == "sunny":
        for i in range(10):
            a = i * math.pi / 5
            p.poly(
                [
                    (x0 + 0.125 * math.cos(a - 0.2), y0 + 0.125 * math.sin(a - 0.2)),
                    (x0 + 0.2 * math.cos(a), y0 + 0.2 * math.sin(a)),
                    (x0 + 0.125 * math.cos(a + 0.2), y0 + 0.125 * math.sin(a + 0.2)),
                ],
                (255, 206, 80),
                0.5,
                ink=False,
            )
        p.disc(x0, y0, 0.1, (255, 222, 96), 0.6)
    elif weather == "fireworks":
        for k in range(3):
            x, y = (0.2, 0.5, 0.8)[k] + float(rng.uniform(-0.1, 0.1)), float(rng.uniform(0.1, 0.3))
            r, col = float(rng.uniform(0.11, 0.17)), mix(BRIGHT[int(rng.integers(6))], (255, 255, 255), 0.25)
            for i in range(12):
                a = i * math.pi / 6
                p.line(
                    [
                        (x + r * 0.3 * math.cos(a), y + r * 0.3 * math.sin(a)),
                        (x + r * math.cos(a), y + r * math.sin(a)),
                    ],
                    0.012,
                    col,
                    1.0,
                )
                p.disc(x + r * 1.1 * math.cos(a), y + r * 1.1 * math.sin(a), 0.011, (255, 250, 220), 1.0, ink=False)
    elif weather == "lightning":
        for _ in range(2):
            x, y, w = float(rng.uniform(0.1, 0.9)), 0.0, 0.028
            left, right = [], []
            while y < horizon:
                left.append((x - w, y))
                right.append((x + w, y))
                x, y, w = x + float(rng.uniform(-0.1, 0.1)), y + 0.11, w * 0.78
            p.poly(left + [(x, y)] + right[::-1], (255, 250, 210), glow=1.0, ink=False)
    elif weather == "smoke":
        for i in range(9):
            x = i / 8 + float(rng.uniform(-0.05, 0.05))
            p.disc(
                x,
                float(rng.uniform(-0.02, 0.12)),
                float(rng.uniform(0.1, 0.16)),
                shade((92, 82, 82), float(rng.uniform(0.6, 1.0))),
                ink=False,
            )
    elif weather == "bats":
        for _ in range(6):
            q = c.pen(float(rng.uniform(0.06, 0.94)), float(rng.uniform(0.06, 0.4)), float(rng.uniform(0.05, 0.085)))
            q.poly(
                [
                    (-1, -0.5),
                    (-0.55, -0.42),
                    (-0.25, -0.1),
                    (-0.14, -0.4),
                    (0, -0.25),
                    (0.14, -0.4),
                    (0.25, -0.1),
                    (0.55, -0.42),
                    (1, -0.5),
                    (0.8, 0.1),
                    (0.55, 0),
                    (0.35, 0.25),
                    (0.12, 0.15),
                    (0, 0.45),
                    (-0.12, 0.15),
                    (-0.35, 0.25),
                    (-0.55, 0),
                    (-0.8, 0.1),
                ],
                (26, 22, 34),
                ink=False,
            )


def in_front(c: Canvas, weather: str | None, rng: np.random.Generator, density: float) -> None:
    """What is in the air before the scene; density scales how much of it."""
    p = c.pen()

    def many(n: int) -> list[tuple[float, float, float]]:
        return [
            (float(rng.uniform(0, 1)), float(rng.uniform(0, 1)), float(rng.uniform(0, 1)))
            for _ in range(int(n * density))
        ]

    if weather == "confetti":
        for i, (x, y, u) in enumerate(many(46)):
            c.pen(x, y, 0.022, angle=u * 6).rect(-0.8, -0.42, 0.8, 0.42, BRIGHT[i % 6], 0.3, ink=False)
    elif weather == "bubbles":
        for x, y, u in many(13):
            r = 0.02 + 0.035 * u
            p.arc(x, y, r, r, 0, 2 * math.pi, 0.008, (226, 250, 255), 0.4)
            p.disc(x - r * 0.35, y - r * 0.35, r * 0.25, (255, 255, 255), 0.5, ink=False)
    elif weather == "petals":
        for x, y, u in many(24):
            c.pen(x, y, 0.02, angle=u * 6).oval(
                0, 0, 1, 0.55, ((255, 190, 210), (255, 226, 234))[int(u * 2)], 0.15, ink=False
            )
    elif weather == "sparks":
        for x, y, u in many(44):
            p.disc(x, y, 0.005 + 0.009 * u, ((255, 130, 40), (255, 210, 90))[int(u * 2)], 1.0, ink=False)
    elif weather == "flies":
        for x, y, u in many(15):
            flies(c.pen(x, y, 0.16 + 0.1 * u), 0, 0, 0.1, rng, 1, 0.12)
    elif weather == "rain":
        for x, y, u in many(64):
            length = 0.05 + 0.05 * u
            p.line([(x, y), (x - length * 0.3, y + length)], 0.006, (190, 210, 232), 0.15)
    elif weather == "snow":
        for x, y, u in many(54):
            p.disc(x, y, 0.007 + 0.011 * u, (255, 255, 255), 0.2, ink=False)
    elif weather == "leaves":
        for i, (x, y, u) in enumerate(many(20)):
            c.pen(x, y, 0.03, angle=u * 6).poly(
                [(-1, 0), (-0.2, -0.5), (1, 0), (-0.2, 0.5)],
                ((190, 110, 50), (160, 84, 44), (206, 150, 60))[i % 3],
                ink=False,
            )
    elif weather == "lightning":
        for x, y, u in many(30):
            p.line([(x, y), (x - 0.03, y + 0.06)], 0.006, (170, 186, 210), 0.1)


def drawn_texture(c: Canvas, texture: str | None, rng: np.random.Generator, s: float) -> None:
    """Textures made of strokes; the soft ones are in finish.py."""
    p = c.pen()
    if texture == "sparkle":
        for _ in range(int(10 + 8 * s)):
            star(p, float(rng.uniform(0, 1)), float(rng.uniform(0, 1)), float(rng.uniform(0.02, 0.055)))
    elif texture == "strokes":
        colour = ((50, 24, 34), (120, 26, 34), (226, 214, 206))[int(rng.integers(3))]
        for _ in range(int(16 + 16 * s)):
            x, y = float(rng.uniform(-0.1, 1)), float(rng.uniform(0, 1.1))
            length, k = float(rng.uniform(0.12, 0.26)), float(rng.random())
            p.line(
                [(x, y), (x + length * 0.5, y - length * 0.6), (x + length, y - length * 1.1)],
                0.006 + 0.004 * k,
                shade(colour, 0.7 + 0.3 * k),
            )
    elif texture == "cracks":
        x, y = float(rng.uniform(0.25, 0.75)), float(rng.uniform(0.25, 0.7))
        colour = ((20, 14, 22), (96, 30, 34), (214, 222, 230))[int(rng.integers(3))]
        for i in range(int(5 + 3 * s)):
            a = i * 2 * math.pi / 7 + float(rng.uniform(-0.3, 0.3))
            crack(p, x, y, float(rng.uniform(0.4, 0.75)), a, rng, 0.013, colour)
    elif texture == "drips":
        colour = mix(c.slime, (60, 70, 90), float(rng.choice([0.0, 0.75])))
        drips(p, -0.05, 1.05, 0.03, 0.2 + 0.2 * s, rng, 9, colour)
    elif texture == "swirl":
        for _ in range(int(4 + 3 * s)):
            x, y = float(rng.uniform(0.05, 0.95)), float(rng.uniform(0.05, 0.5))
            r = float(rng.uniform(0.07, 0.14))
            light = (250, 240, 200) if rng.random() < 0.5 else (140, 160, 220)
            pts = [(x + r * t * math.cos(t * 12), y + r * t * math.sin(t * 12)) for t in np.linspace(0.1, 1, 22)]
            p.line(pts, 0.011, light, 0.3)
    elif texture == "speed":
        cx, cy = float(rng.uniform(0.4, 0.6)), float(rng.uniform(0.4, 0.6))
        for i in range(int(20 + 12 * s)):
            a = float(rng.uniform(0, 2 * math.pi))
            r, w = float(rng.uniform(0.42, 0.56)), float(rng.uniform(0.012, 0.035))
            p.poly(
                [
                    (cx + r * math.cos(a), cy + r * math.sin(a)),
                    (cx + math.cos(a - w), cy + math.sin(a - w)),
                    (cx + math.cos(a + w), cy + math.sin(a + w)),
                ],
                (255, 252, 240),
                0.3,
                ink=False,
            )
