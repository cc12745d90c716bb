"""Pictures of numbers. Each function returns an image [H, W, 3] float in 0..1 (numpy), ready for an IMAGE socket."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .emotions import MIKELS, EmotionTarget
from .tensors.uint8 import from_uint8, to_uint8

# One colour per emotion, in all plots: warm hues for the four positive, cold and dark ones for the four negative.
COLOURS = {
    "amusement": "#f2a900",
    "awe": "#7a5cc8",
    "contentment": "#4f9d52",
    "excitement": "#ee6c2b",
    "anger": "#c8202f",
    "disgust": "#7d8c1f",
    "fear": "#3b3f52",
    "sadness": "#3f76b5",
}


def figure_of(width: float, height: float) -> Any:
    """An empty matplotlib figure, in inches."""
    # Without pyplot, which would change matplotlib's backend in the program around us.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def rendered(figure: Any) -> np.ndarray:
    """A figure as image [H, W, 3]."""
    figure.canvas.draw()
    return from_uint8(np.asarray(figure.canvas.buffer_rgba())[..., :3])


def emotion_bars(probabilities: Sequence[float], title: str = "") -> np.ndarray:
    """A bar chart of eight probabilities in the order of `MIKELS`."""
    figure = figure_of(5.2, 3.2)
    axis = figure.add_subplot()
    axis.barh(MIKELS, probabilities, color=[COLOURS[name] for name in MIKELS])
    for i, p in enumerate(probabilities):
        axis.text(min(p, 0.9) + 0.01, i, f"{p:.0%}", va="center", fontsize=9)
    axis.set_xlim(0, 1)
    axis.invert_yaxis()
    axis.set_xlabel("probability")
    axis.spines[["top", "right"]].set_visible(False)
    if title:
        axis.set_title(title, fontsize=11)
    return rendered(figure)


def contact_sheet(
    images: Sequence[np.ndarray],
    captions: Sequence[str],
    columns: int,
    title: str = "",
    cell: int | tuple[int, int] = 160,
) -> np.ndarray:
    """Images [H, W, 3] in 0..1 or uint8, in rows of `columns`, each above its caption (which may have several
    lines).

    cell  the side, or width and height, in pixels that every image is scaled to
    """
    from PIL import Image, ImageDraw

    width, height = (cell, cell) if isinstance(cell, int) else cell
    letters = max(12, width // 30)
    rows = -(-len(images) // columns)
    lines = max((c.count("\n") + 1 for c in captions), default=1)
    text, head = (letters + 3) * lines + 6, letters + 18 if title else 0
    sheet = Image.new("RGB", (columns * (width + 8) + 8, head + rows * (height + text) + 8), "white")
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((8, 7), title, fill="black", font=font_of(letters + 4))
    for i, (image, caption) in enumerate(zip(images, captions)):
        array = np.asarray(image)
        if array.dtype != np.uint8:
            array = to_uint8(array)
        x, y = 8 + (i % columns) * (width + 8), head + 8 + (i // columns) * (height + text)
        sheet.paste(Image.fromarray(array).resize((width, height), Image.Resampling.LANCZOS), (x, y))
        draw.multiline_text((x, y + height + 1), caption, fill="black", font=font_of(letters), spacing=2)
    return from_uint8(sheet)


def font_of(size: int) -> Any:
    """matplotlib's bundled font for PIL, `size` pixels high."""
    from matplotlib import get_data_path
    from PIL import ImageFont

    return ImageFont.truetype(f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)


def curve(
    series: dict[str, Sequence[float]],
    x: Sequence[float],
    x_label: str,
    y_label: str,
    levels: dict[str, float] | None = None,
) -> np.ndarray:
    """Lines over x, one per name, and horizontal levels for comparison (each in the colour of the line that its name
    ends with)."""
    figure = figure_of(6.4, 4.2)
    axis = figure.add_subplot()
    colours = {}
    for i, (name, values) in enumerate(series.items()):
        colours[name] = f"C{i}"
        axis.plot(x, values, "o-", color=colours[name], label=name)
    for name, value in (levels or {}).items():
        colour = next((c for line, c in colours.items() if name.endswith(line)), "#888888")
        axis.axhline(value, linestyle="--", linewidth=1, color=colour, label=name)
    axis.set_xlabel(x_label)
    axis.set_ylabel(y_label)
    axis.legend(fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    return rendered(figure)


def bars(values: dict[str, float], label: str) -> np.ndarray:
    """One bar per name, from the top, each with its value: an image [H, W, 3] in 0..1."""
    figure = figure_of(6.4, 0.8 + 0.45 * len(values))
    axis = figure.add_subplot()
    drawn = axis.barh(list(values), list(values.values()), color="C0")
    axis.bar_label(drawn, fmt="%.3g", padding=3, fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel(label)
    axis.spines[["top", "right"]].set_visible(False)
    return rendered(figure)


def valence_arousal_plane(points: Sequence[tuple[float, float]], own: int, height: int) -> np.ndarray:
    """Images as points (valence, arousal) in 0..1 among Mikels' eight emotions, the `own` one marked: a picture
    [height, height, 3] in 0..1."""
    figure = figure_of(height / 100, height / 100)
    axis = figure.add_subplot()
    for name in MIKELS:
        x, y, _ = EmotionTarget.of(name).vad
        axis.plot(x, y, "o", color=COLOURS[name], markersize=5)
        axis.annotate(name, (x, y), xytext=(0, 5), textcoords="offset points", ha="center", fontsize=7, color="#555555")
    axis.scatter(*np.array(points).T, s=14, color="#bbbbbb", zorder=3)
    axis.scatter(*points[own], s=70, color="#111111", marker="X", zorder=4)
    for line in (axis.axvline, axis.axhline):
        line(0.5, color="#dddddd", linewidth=0.8, zorder=0)
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1)
    axis.set_xlabel("valence: unpleasant to pleasant", fontsize=8)
    axis.set_ylabel("arousal: calm to excited", fontsize=8)
    axis.tick_params(labelsize=7)
    return rendered(figure)


def loss_plot(losses: Sequence[float], pixels: Sequence[int]) -> np.ndarray:
    """A transfer's loss over its evaluations, on a logarithmic scale; one colour per image size."""
    figure = figure_of(5.6, 3.2)
    axis = figure.add_subplot()
    sizes = list(dict.fromkeys(pixels))
    for i, size in enumerate(sizes):
        at_size = [n for n, p in enumerate(pixels) if p == size]
        axis.plot(at_size, [losses[n] for n in at_size], color=f"C{i}", label=f"{size / 1000:.0f} thousand pixels")
    if losses and min(losses) > 0:
        axis.set_yscale("log")
    if len(sizes) > 1:
        axis.legend(fontsize=8)
    axis.set_xlabel("evaluation")
    axis.set_ylabel("loss")
    axis.spines[["top", "right"]].set_visible(False)
    return rendered(figure)


def scatter(points: np.ndarray, emotions: np.ndarray, sizes: np.ndarray, title: str = "") -> np.ndarray:
    """Points [n, 2] in the colours of their emotions [n] (indices in `MIKELS`), of sizes [n] (1: normal)."""
    figure = figure_of(6.4, 5.6)
    axis = figure.add_subplot()
    for k, name in enumerate(MIKELS):
        mine = emotions == k
        axis.scatter(*points[mine].T, s=4 + 10 * np.clip(sizes[mine], 0, 4), color=COLOURS[name], alpha=0.7, label=name)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.legend(fontsize=8, ncols=2)
    if title:
        axis.set_title(title, fontsize=12)
    return rendered(figure)


def table(rows: Sequence[dict[str, float]]) -> np.ndarray:
    """Rows of figures as a table: one column per row, at most eight."""
    rows = list(rows)[:8]
    names = list(rows[0])
    figure = figure_of(2.6 + 1.1 * len(rows), 0.6 + 0.28 * len(names))
    axis = figure.add_subplot()
    axis.axis("off")
    cells = [[f"{row[name]:.4g}" for row in rows] for name in names]
    drawn = axis.table(
        cells, rowLabels=names, colLabels=[f"image {i + 1}" for i in range(len(rows))], loc="center", cellLoc="right"
    )
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(9)
    for (row, column), cell in drawn.get_celld().items():
        cell.set_edgecolor("#dddddd")
        if row == 0 or column < 0:
            cell.set_text_props(weight="bold")
    return rendered(figure)
