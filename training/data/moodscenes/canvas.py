"""A supersampled drawing surface that knows which object owns each pixel and which pixels shine.

Coordinates are unit coordinates: x to the right and y down, both 0..1 over the frame. The colour image
is drawn at several times the final size and box-reduced; the owner map is drawn at the final size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]

_CIRCLE = tuple((math.cos(2 * math.pi * i / 28), math.sin(2 * math.pi * i / 28)) for i in range(28))


def mix(a: Colour, b: Colour, t: float) -> Colour:
    """The colour a fraction t (0..1) of the way from a to b; channels are 0..255."""
    red, green, blue = (int(round(x + (y - x) * t)) for x, y in zip(a, b))
    return red, green, blue


def shade(c: Colour, f: float) -> Colour:
    """c darkened (f < 1) towards a cool near-black, or lightened (f > 1) towards a warm white."""
    return mix((26, 24, 48), c, max(0.0, f)) if f <= 1 else mix(c, (255, 250, 235), min(1.0, f - 1))


class Canvas:
    """size x size pixels; `ink` > 0 outlines every filled shape with a line that wide (unit coordinates)."""

    def __init__(self, size: int, ink: float = 0.0):
        self.size = size
        self.factor = 4 if size <= 160 else 3 if size <= 320 else 2
        self.n = size * self.factor
        # CMYK is Pillow's four-channel mode without alpha arithmetic: red, green, blue, emission.
        self.image = Image.new("CMYK", (self.n, self.n))
        self.draw = ImageDraw.Draw(self.image)
        self.owners = Image.new("L", (size, size))
        self._owner_draw = ImageDraw.Draw(self.owners)
        self.owner: int | None = 0  # None: what is drawn belongs to nobody (rain, confetti)
        self.ink = ink
        self.slime: Colour = (150, 176, 44)  # a scene's slime is of one colour, whatever wears it
        self.ink_colour: Colour = (38, 30, 44)

    def pen(self, x: float = 0.0, y: float = 0.0, scale: float = 1.0, flip: bool = False, angle: float = 0.0) -> Pen:
        """A pen whose origin is (x, y), whose unit is `scale`, mirrored, turned by radians."""
        return Pen(self, x, y, scale, flip, angle)

    def polygon(self, points: Sequence[Point], colour: Colour, glow: float = 0.0, ink: bool = True) -> None:
        n = self.n
        big = [(x * n, y * n) for x, y in points]
        self.draw.polygon(big, fill=(*colour, int(255 * glow)))
        if self.ink and ink and glow < 0.5:
            self.draw.line(big + big[:2], fill=(*self.ink_colour, 0), width=max(1, round(self.ink * n)), joint="curve")
        if self.owner is not None:
            s = self.size
            self._owner_draw.polygon([(x * s, y * s) for x, y in points], fill=self.owner)

    def line(self, points: Sequence[Point], width: float, colour: Colour, glow: float = 0.0) -> None:
        """A round-jointed polyline; width in unit coordinates."""
        n = self.n
        big = [(x * n, y * n) for x, y in points]
        w = max(1, round(width * n))
        if self.ink and glow < 0.5 and width > 1.5 * self.ink:
            self.draw.line(big, fill=(*self.ink_colour, 0), width=w + 2 * round(self.ink * n), joint="curve")
        fill = (*colour, int(255 * glow))
        self.draw.line(big, fill=fill, width=w, joint="curve")
        if w > 3:
            r = w / 2
            for x, y in (big[0], big[-1]):
                self.draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)
        if self.owner is not None:
            s = self.size
            self._owner_draw.line([(x * s, y * s) for x, y in points], fill=self.owner, width=max(1, round(width * s)))

    def gradient(self, points: Sequence[Point] | None, stops: Sequence[tuple[float, Colour]]) -> None:
        """Fills a polygon (None: the frame) with a vertical gradient; stops are (y, colour), y rising."""
        ys = (np.arange(self.n) + 0.5) / self.n
        column = np.zeros((self.n, 1, 4), np.uint8)
        for c in range(3):
            column[:, 0, c] = np.interp(ys, [y for y, _ in stops], [col[c] for _, col in stops])
        strip = Image.fromarray(column, "CMYK").resize((self.n, self.n), Image.Resampling.NEAREST)
        if points is None:
            self.image.paste(strip)
            if self.owner is not None:
                self.owners.paste(self.owner, (0, 0, self.size, self.size))
            return
        mask = Image.new("L", (self.n, self.n))
        ImageDraw.Draw(mask).polygon([(x * self.n, y * self.n) for x, y in points], fill=255)
        self.image.paste(strip, mask=mask)
        if self.owner is not None:
            self._owner_draw.polygon([(x * self.size, y * self.size) for x, y in points], fill=self.owner)

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(colour float32 [H,W,3] in 0..1, emission float32 [H,W] in 0..1, owner uint8 [H,W])."""
        four = np.asarray(self.image.reduce(self.factor), np.float32) / 255
        return four[..., :3].copy(), four[..., 3].copy(), np.asarray(self.owners).copy()


class Pen:
    """Draws in an object's own frame: origin at its foot, y down, so its top is at y = -1."""

    def __init__(self, canvas: Canvas, x: float, y: float, scale: float, flip: bool, angle: float):
        self.canvas, self.x, self.y, self.scale = canvas, x, y, scale
        self.flip, self.angle = flip, angle
        cos, sin = math.cos(angle) * scale, math.sin(angle) * scale
        self._m = (-cos if flip else cos, -sin, -sin if flip else sin, cos)

    def at(self, points: Sequence[Point]) -> list[Point]:
        a, b, c, d = self._m
        return [(self.x + a * u + b * v, self.y + c * u + d * v) for u, v in points]

    def sub(self, x: float, y: float, scale: float = 1.0, flip: bool = False, angle: float = 0.0) -> Pen:
        """A pen inside this one's frame."""
        ((gx, gy),) = self.at([(x, y)])
        return Pen(
            self.canvas, gx, gy, self.scale * scale, self.flip != flip, self.angle + (-angle if self.flip else angle)
        )

    def poly(self, points: Sequence[Point], colour: Colour, glow: float = 0.0, ink: bool = True) -> None:
        self.canvas.polygon(self.at(points), colour, glow, ink)

    def rect(
        self, x0: float, y0: float, x1: float, y1: float, colour: Colour, glow: float = 0.0, ink: bool = True
    ) -> None:
        self.poly([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], colour, glow, ink)

    def oval(
        self, x: float, y: float, rx: float, ry: float, colour: Colour, glow: float = 0.0, ink: bool = True
    ) -> None:
        self.poly([(x + rx * c, y + ry * s) for c, s in _CIRCLE], colour, glow, ink)

    def disc(self, x: float, y: float, r: float, colour: Colour, glow: float = 0.0, ink: bool = True) -> None:
        self.oval(x, y, r, r, colour, glow, ink)

    def line(self, points: Sequence[Point], width: float, colour: Colour, glow: float = 0.0) -> None:
        self.canvas.line(self.at(points), width * self.scale, colour, glow)

    def arc(
        self,
        x: float,
        y: float,
        rx: float,
        ry: float,
        start: float,
        end: float,
        width: float,
        colour: Colour,
        glow: float = 0.0,
    ) -> None:
        """An elliptic arc from `start` to `end` radians (0 = right, growing clockwise on the screen)."""
        steps = 12
        pts = [
            (x + rx * math.cos(start + (end - start) * i / steps), y + ry * math.sin(start + (end - start) * i / steps))
            for i in range(steps + 1)
        ]
        self.line(pts, width, colour, glow)
