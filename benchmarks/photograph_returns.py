"""Edits brought back to their source's own pixels: what is kept of the source's structure and of the edit's colour."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from ..models.emolat.repaint import repaint
from ..models.emolat.space import load_emolat
from ..models.emotions import MIKELS, EmotionTarget
from ..models.errors import UserError
from ..models.grade.apply import apply_grade
from ..models.grade.edit import grade_from_edit
from ..models.gram import GramConfig, transfer
from ..models.networks.backbones import load_backbone
from ..models.tensors.luminance import luminance
from ..models.tensors.resize import fitted, resized
from . import measure, memory
from .edit_methods import pipeline
from .figures import SHARE, SSIM, Figures
from .methods import Method, make_all
from .muse import CFG, EDIT
from .photograph_pairs import NETWORK, Pair, made, matched_histograms, shown
from .store import Store
from .tasks import editing, scene

SIDE, SHIFT = 512, 0.02
"""Pixels of the longer side of an edit, and by which share of it an editor is made to move it."""

LOW_PASS = 1 / 32
"""Deviation of the Gaussian of a low-pass change, as a share of the longer side."""

SCENES = {"muse": EDIT, "img2img": Method("sdedit", cfg=CFG, strength=0.55)}


def structure(a: torch.Tensor, b: torch.Tensor, window: int = 11) -> float:
    """SSIM's structure term between [1, 3, H, W]: the correlation of luminance in a window around each pixel, with
    its constant; blind to brightness and contrast, which an edit changes."""
    x, y = (luminance(t).double() for t in (a, b))
    box = lambda t: F.avg_pool2d(t, window, 1)
    mx, my = box(x), box(y)
    vx, vy = ((box(t * t) - m * m).clamp(min=0) for t, m in ((x, mx), (y, my)))
    c = 0.03**2 / 2
    return float(((box(x * y) - mx * my + c) / ((vx * vy).sqrt() + c)).mean())


def _low(image: torch.Tensor) -> torch.Tensor:
    """The picture's colours without its details."""
    from torchvision.transforms.functional import gaussian_blur

    sigma = LOW_PASS * max(image.shape[-2:])
    radius = min(int(3 * sigma), min(image.shape[-2:]) - 1)
    return gaussian_blur(image, [2 * radius + 1] * 2, [sigma] * 2)


def colour_kept(source: torch.Tensor, edit: torch.Tensor, back: torch.Tensor) -> tuple[float, float]:
    """(correlation, slope) of the returned low-pass change by the edit's, over places and channels."""
    wanted, came = ((_low(t) - _low(source)).flatten().double() for t in (edit, back))
    r = float(torch.corrcoef(torch.stack([wanted, came]))[0, 1])
    a, b = wanted - wanted.mean(), came - came.mean()
    return r, float((a * b).sum() / (a * a).sum().clamp(min=1e-12))


@torch.no_grad()
def as_an_editor(edit: torch.Tensor) -> torch.Tensor:
    """An edit as an editing model hands it back: moved by `SHIFT`, and through a VAE."""
    moved = torch.roll(edit, [round(SHIFT * n) for n in edit.shape[-2:]], dims=(2, 3))
    h, w = (n // 8 * 8 for n in edit.shape[-2:])
    vae = pipeline()[2]
    coded = vae.decode(vae.encode(resized(moved, h, w))).clamp(0, 1)
    return resized(coded, *edit.shape[-2:])


def photograph_edits(pair: Pair) -> dict[str, torch.Tensor]:
    """Editor -> its edit of a pair's photograph at `SIDE` pixels."""
    source, reference = (resized(i, *fitted(i.shape[-2:], SIDE)) for i in map(shown, (pair.source, pair.reference)))
    emolat = load_emolat("tiny")
    emotion = EmotionTarget.of(MIKELS[pair.number // 4 % len(MIKELS)])
    config = GramConfig(iterations=100, sentiment_weight=PIXELS_WEIGHT)
    return {
        "source": source,
        "emolat": repaint(emolat, source, emolat.sample(emotion, 1, 1.0, 0)),
        "gram": transfer(load_backbone(NETWORK), source, reference, config).image,
        "histogram": matched_histograms(source, reference),
    }


PIXELS_WEIGHT = 100.0
"""Of the sentiment, on pixels with `NETWORK`'s features: see docs/results/reference.md for how it was chosen."""


def returns(root: Path, folder: Path, chosen: list[Pair]) -> Figures:
    """The figures over photographs' edits and scenes' edits, editor by editor, and a sheet."""
    rows: dict[str, list[tuple[float, float, float]]] = {}
    sheet, words = [], []
    refused: list[str] = []
    edits: list[tuple[str, torch.Tensor, torch.Tensor]] = []
    for pair in chosen:
        of_pair: dict[str, torch.Tensor] = {}
        make = lambda pair=pair, of_pair=of_pair: of_pair or of_pair.update(photograph_edits(pair)) or of_pair
        images = {
            name: made(folder, pair, f"return-{name}", partial(lambda name, make: make()[name], name, make))
            for name in ("source", "emolat", "gram", "histogram")
        }
        edits += [(name, images["source"], images[name]) for name in images if name != "source"]
    tasks = editing(len(chosen))
    make_all(root, [(m, tasks) for m in SCENES.values()], batch=memory.fitting_batch(), label="scenes")
    for name, method in SCENES.items():
        for task, image in zip(tasks, Store(root, method).images(tasks)):
            edits.append((name, scene(task, task.source)[None], image[None]))
    for name, source, edit in edits:
        handed = as_an_editor(edit)
        try:
            found = grade_from_edit(source, handed, detail=0.5, align=True)
        except UserError:  # so much was drawn anew that its edges are another picture's
            refused.append(name)
            continue
        back = apply_grade(source.permute(0, 2, 3, 1), found.grade).permute(0, 3, 1, 2)
        rows.setdefault(name, []).append((structure(source, back), *colour_kept(source, edit, back)))
        if len(rows[name]) <= 3:
            sheet += [source[0], edit[0], handed[0], back[0]]
            words += [name, "edit", "as handed back", "on the source's pixels"]
    measure.save_sheet(root / "returns.png", sheet, words, 8, cell=220)
    figures = Figures()
    figures.put("return_refused", len(refused) / len(edits), SHARE)
    for name in sorted(set(refused)):
        figures.put(f"return_refused.{name}", refused.count(name) / len(chosen), SHARE)
    every = torch.tensor([row for found in rows.values() for row in found], dtype=torch.float64)
    for i, (key, unit) in enumerate((("return_structure", SSIM), ("return_colour", "r"), ("return_slope", SHARE))):
        figures.put_mean(key, every[:, i], unit)
        for name, of_editor in rows.items():
            figures.put(f"{key}.{name}", float(np.mean([row[i] for row in of_editor])), unit)
    return figures
