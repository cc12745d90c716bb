"""From drawn pixels to the picture: light, haze, palette, soft textures, the adjective's look and glow.

Works on float32 [H,W,3] in 0..1 at the final size. Everything is a gentle global operation; what
needs a shape is drawn in weather.py.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from .canvas import Canvas
from .cues import Mood
from .materials import BRIGHT
from .weather import LIGHT_LOOKS

# Gradient maps: colours of shadows, middle tones and lights.
_TONES = {
    "golden": ((84, 46, 50), (222, 150, 84), (255, 240, 196)),
    "red": ((46, 8, 22), (204, 58, 54), (255, 206, 170)),
    "blue": ((16, 22, 62), (64, 106, 172), (214, 232, 250)),
    "green": ((22, 38, 30), (112, 144, 72), (228, 236, 176)),
    "violet": ((36, 18, 72), (144, 96, 184), (250, 214, 240)),
    "gray": ((44, 46, 52), (134, 136, 142), (226, 228, 230)),
    "pastel": ((140, 126, 156), (224, 194, 204), (255, 250, 242)),
    "brown": ((44, 30, 22), (144, 108, 74), (232, 210, 176)),
    "vivid": None,
    "teal": ((12, 44, 54), (66, 144, 144), (242, 230, 206)),
}
_TONES_B = {
    "golden": ((96, 60, 40), (206, 168, 96), (252, 244, 214)),
    "red": ((60, 14, 40), (196, 70, 90), (255, 214, 200)),
    "blue": ((30, 30, 74), (96, 108, 176), (220, 226, 246)),
    "green": ((36, 46, 24), (138, 148, 92), (236, 236, 196)),
    "violet": ((60, 26, 70), (168, 104, 160), (252, 222, 232)),
    "gray": ((56, 54, 52), (146, 142, 136), (236, 232, 224)),
    "pastel": ((128, 136, 150), (206, 206, 208), (255, 252, 240)),
    "brown": ((58, 38, 34), (156, 116, 92), (240, 220, 196)),
    "vivid": None,
    "teal": ((20, 52, 56), (88, 150, 140), (244, 236, 214)),
}
# Adjective: factor on colour, saturation, contrast, brightness offset, haze.
_ADJECTIVE_LOOKS = {
    "warm": ((1.07, 1.0, 0.86), 1.05, 1.0, 0.02, 0.0),
    "clear": ((0.98, 1.0, 1.03), 1.12, 1.1, 0.02, 0.0),
    "muddy": ((1.0, 0.92, 0.74), 0.75, 0.95, -0.04, 0.0),
    "misty": ((0.98, 1.0, 1.03), 0.85, 0.88, 0.03, 0.35),
    "scenic": ((1.0, 1.0, 1.0), 1.15, 1.06, 0.0, 0.0),
    "rough": ((1.0, 0.97, 0.95), 0.9, 1.15, -0.02, 0.0),
    "lovely": ((1.05, 0.97, 1.01), 1.0, 0.94, 0.04, 0.0),
    "harsh": ((1.0, 0.98, 0.96), 0.9, 1.3, 0.0, 0.0),
    "bright": ((1.02, 1.02, 1.0), 1.08, 1.0, 0.09, 0.0),
    "poor": ((0.98, 0.97, 0.95), 0.6, 0.92, -0.04, 0.0),
    "dark": ((0.94, 0.95, 1.02), 0.95, 1.05, -0.1, 0.0),
    "great": ((1.02, 1.0, 0.99), 1.1, 1.12, 0.02, 0.0),
}
_HAZE = {
    "fog": ((196, 202, 210), 0.75),
    "smog": ((176, 160, 96), 0.62),
    "smoke": ((90, 76, 74), 0.35),
    "rain": ((140, 152, 172), 0.25),
    "snow": ((226, 232, 242), 0.22),
    "lightning": ((60, 60, 84), 0.25),
}


def smooth_noise(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """float32 [size,size] in 0..1: bicubic noise of about `cells` blobs a side."""
    grid = Image.fromarray(rng.integers(0, 256, (cells, cells), dtype=np.uint8), "L")
    return np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC), np.float32) / 255


def _luma(x: np.ndarray) -> np.ndarray:
    return x @ np.array([0.299, 0.587, 0.114], np.float32)


def _blur(x: np.ndarray, radius: float) -> np.ndarray:
    im = Image.fromarray((np.clip(x, 0, 1) * 255).astype(np.uint8))
    return np.asarray(im.filter(ImageFilter.GaussianBlur(radius)), np.float32) / 255


def _grade(x: np.ndarray, palette: str, s: float, domain: str) -> np.ndarray:
    tones = (_TONES if domain == "a" else _TONES_B)[palette]
    y = _luma(x)[..., None]
    if tones is None:
        return 0.5 + (y + (x - y) * (1 + 0.7 * s) - 0.5) * (1 + 0.16 * s)
    ramp = np.empty((256, 3), np.float32)
    for c in range(3):
        ramp[:, c] = np.interp(np.arange(256), (0, 120, 255), [t[c] for t in tones])
    mapped = ramp[np.clip(y[..., 0] * 255, 0, 255).astype(np.uint8)] / 255
    k = 0.24 + 0.36 * s
    return x + (mapped - x) * k


def _expose(x: np.ndarray, mood: Mood, rng: np.random.Generator) -> np.ndarray:
    """Partial automatic exposure and a film's chance tint.

    Cues that darken pile up, and a picture that nobody can read expresses nothing; and mean brightness or a
    cast alone must not tell the emotion, so both have much chance in them.
    """
    y = _luma(x)
    lo, hi = np.percentile(y[::2, ::2], (2, 98))
    hazy = mood.weather in ("fog", "smog") or mood.adjective == "misty"
    k = (0.3 if hazy else 0.6) * min(1.0, max(0.0, 1 - (hi - lo - 0.3) / 0.6))
    x = np.clip(x + k * ((x - lo) / max(0.25, hi - lo) * 0.92 + 0.04 - x), 0, 1)
    mean = float(np.clip(_luma(x).mean(), 0.05, 0.95))
    night = mood.light in ("night", "moon", "dim", "neon") or mood.weather in ("stars", "aurora")
    target = float(rng.uniform(0.3, 0.52) if night else rng.uniform(0.36, 0.62))
    gamma = np.clip(np.log(target) / np.log(mean), 0.5, 1.7)
    x = x ** (gamma**0.85 * rng.uniform(0.8, 1.22, 3).astype(np.float32))
    y = _luma(x)[..., None]
    return np.clip(y + (x - y) * float(rng.uniform(0.5, 1.15)), 0, 1)


def finish(
    canvas: Canvas,
    mood: Mood,
    light_at: tuple[float, float],
    horizon: float,
    sky: int,
    layout_rng: np.random.Generator,
    domain: str,
) -> tuple[np.ndarray, np.ndarray]:
    """(uint8 [H,W,3], owner uint8 [H,W]). `sky` is the sky's owner number: light does not dim it."""
    x, emission, owner = canvas.arrays()
    size, unit = canvas.size, canvas.size / 128
    rng = np.random.default_rng([mood.seed, 41])
    yy, xx = np.mgrid[0:size, 0:size].astype(np.float32) / size
    shines = emission[..., None]
    glow = x * shines

    # Every layout has its own daylight, so that colour alone says little about emotion.
    tint = layout_rng.uniform(0.86, 1.12, 3).astype(np.float32)
    saturation = float(layout_rng.uniform(0.7, 1.3))
    exposure = float(layout_rng.uniform(0.86, 1.14))
    y = _luma(x)[..., None]
    x = (y + (x - y) * saturation) * tint * exposure

    s = mood.strength.get("light", 0.0)
    if mood.light:
        ambient = np.array(LIGHT_LOOKS[mood.light][2], np.float32)
        lit = np.where((owner == sky)[..., None], 1.0, 1 + (ambient - 1) * (0.35 + 0.65 * s))
        x = x * (lit + (1 - lit) * shines)
    d = np.sqrt((xx - light_at[0]) ** 2 + (yy - light_at[1]) ** 2)
    warm = {"golden": 0.3, "rays": 0.3, "fiery": 0.3, "moon": 0.28, "burst": 0.14}.get(mood.light or "", 0.06)
    hue = {"fiery": (1.0, 0.4, 0.2), "moon": (0.7, 0.8, 1.0)}.get(mood.light or "", (1.0, 0.86, 0.6))
    x = x + (np.exp(-((d / 0.38) ** 2)) * warm)[..., None] * np.array(hue, np.float32)
    x = x * (1.04 - 0.1 * yy[..., None])
    if mood.light == "rays":
        angle = np.arctan2(yy - light_at[1], xx - light_at[0])
        beams = np.clip(np.sin(angle * 13 + rng.uniform(0, 6)) * 0.9 + 0.1, 0, 1) * np.exp(-d * 1.1)
        x = x + (beams * (0.22 + 0.2 * s))[..., None] * np.array((1.0, 0.94, 0.74), np.float32)

    ws = mood.strength.get("weather", 0.0)
    if mood.weather in _HAZE:
        colour, amount = _HAZE[mood.weather]
        cloud = smooth_noise(rng, size, 5)
        depth = np.clip(1.25 - np.abs(yy - horizon) * 1.5, 0.15, 1)
        k = (amount * (0.55 + 0.45 * ws) * depth * (0.55 + 0.7 * cloud) * (1 - 0.6 * emission))[..., None]
        x = x + (np.array(colour, np.float32) / 255 - x) * np.clip(k, 0, 0.92)

    if mood.palette:
        x = _grade(np.clip(x, 0, 1), mood.palette, mood.strength["palette"], domain)

    cast, sat, contrast, offset, haze = _ADJECTIVE_LOOKS[mood.adjective]
    if mood.emotion is None:
        sat, contrast, offset = (1 + sat) / 2, (1 + contrast) / 2, offset / 2
    y = _luma(x)[..., None]
    x = (0.5 + ((y + (x - y) * sat) - 0.5) * contrast + offset) * np.array(cast, np.float32)
    if haze:
        k = (haze * np.clip(1.1 - np.abs(yy - horizon) * 2.2, 0, 1))[..., None]
        x = x + (0.88 - x) * k
    if mood.adjective == "rough":
        x = x + (smooth_noise(layout_rng, size, 40)[..., None] - 0.5) * 0.06

    ts = mood.strength.get("texture", 0.0)
    if mood.texture == "watercolor":
        x = 0.5 * x + 0.5 * _blur(x, 0.8 * unit)
        wash = np.clip(smooth_noise(rng, size, 5) - 0.4, 0, 1)
        border = np.clip((np.abs(np.stack((xx, yy)) - 0.5).max(0) + 0.08 * wash - 0.46) * 18, 0, 1)
        x = x + (0.97 - x) * np.maximum(border, wash * (0.5 + 0.4 * ts))[..., None]
    elif mood.texture == "blotches":
        blot = smooth_noise(rng, size, 9)
        k = np.clip((blot - 0.6) * 9, 0, 1) * (0.5 + 0.35 * ts)
        x = x + (np.array(canvas.slime, np.float32) / float(rng.uniform(255, 600)) - x) * k[..., None]
    elif mood.texture == "dots":
        step = 0.066
        gx, gy = (xx / step) % 1 - 0.5, (yy / step + 0.5 * (np.floor(xx / step) % 2)) % 1 - 0.5
        k = np.clip((0.3 - np.sqrt(gx**2 + gy**2)) * 8, 0, 1) * (0.16 + 0.16 * ts)
        dot = np.array(BRIGHT[int(rng.integers(len(BRIGHT)))], np.float32) / 510 + 0.5
        x = x + (dot - x) * (k * 1.3)[..., None]

    x = _expose(np.clip(x, 0, 1), mood, layout_rng if mood.emotion is None else rng)
    halo = _blur(glow, 3.2 * unit) + _blur(glow, 9 * unit)
    x = 1 - (1 - np.clip(x, 0, 1)) * (1 - np.clip(halo * 0.55, 0, 0.9))
    if mood.light in ("dim", "moon", "fiery", "overcast") or mood.adjective == "dark":
        v = (xx - 0.5) ** 2 + (yy - 0.5) ** 2
        x = x * (1 - np.clip(v * 1.3, 0, 0.6))[..., None]
    if domain == "b":
        x = _paper(x, xx, yy, layout_rng, size)
    else:
        x = x + (smooth_noise(layout_rng, size, 11)[..., None] - 0.5) * 0.04
    return (np.clip(x, 0, 1) * 255 + 0.5).astype(np.uint8), owner


def _paper(x: np.ndarray, xx: np.ndarray, yy: np.ndarray, rng: np.random.Generator, size: int) -> np.ndarray:
    """Domain b: posterised inks, halftone in the shadows, grain, on yellowed paper."""
    x = np.clip(x, 0, 1)
    levels = 7
    x = 0.45 * x + 0.55 * np.round(x * levels) / levels
    u, v = (xx + yy) / 0.034, (xx - yy) / 0.034
    screen = 0.5 + 0.25 * (np.cos(2 * np.pi * u) + np.cos(2 * np.pi * v))
    y = _luma(x)
    x = x * (1 - 0.3 * np.clip((screen - y) * 2.5, 0, 1) * (y < 0.62))[..., None]
    grain = rng.random((size, size), dtype=np.float32)
    x = x + (grain[..., None] - 0.5) * 0.07
    return x * np.array((1.0, 0.97, 0.9), np.float32) * 0.94 + 0.04
