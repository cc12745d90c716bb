"""A contact sheet: every emotion by every noun."""

from __future__ import annotations

from PIL import Image, ImageDraw, ImageFont

from .cues import EMOTIONS
from .layout import NOUNS, layout_seeds, sample_layout
from .scene import make_scene


def contact_sheet(
    size: int = 128, domain: str = "a", row: int = 0, emotion_seed: int = 0, neutral: bool = False, split: str = "test"
) -> Image.Image:
    """A labelled sheet of one layout a noun (rows) under the eight emotions (columns; `neutral` adds a
    first one).

    Takes the `row`-th layout of each noun among the split's, so that sheets of different rows show
    different scenes.
    """
    columns: list[str | None] = [None] * neutral + list(EMOTIONS)
    gap, head, side = max(2, size // 32), max(16, size // 6), max(56, size // 2)
    width = side + len(columns) * (size + gap)
    sheet = Image.new("RGB", (width, head + len(NOUNS) * (size + gap)), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(max(10, size // 10))
    for x, emotion in enumerate(columns):
        draw.text((side + x * (size + gap) + size / 2, head / 2), emotion or "neutral", "black", font, "mm")
    seeds = layout_seeds(split, 60 * (row + 1))
    for y, noun in enumerate(NOUNS):
        layout = [s for s in seeds if sample_layout(s).noun == noun][row]
        top = head + y * (size + gap)
        draw.text((side - gap - 2, top + size / 2), noun, "black", font, "rm")
        for x, emotion in enumerate(columns):
            image = make_scene(layout, emotion, emotion_seed, domain, size).image
            sheet.paste(Image.fromarray(image), (side + x * (size + gap), top))
    return sheet
