"""What grades cost: fitting one, applying one to 24 megapixels beside Pillow's own table filter, exporting one."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from ..models.errors import UserError
from ..models.grade.apply import apply_grade, grade_pixels
from ..models.grade.cube import cube_of, load_cube, save_cube
from ..models.grade.fit import fit_grade
from ..models.grade.grid import Grid
from ..models.grade.transfer import transfer_grade
from ..models.networks.backbones import load_backbone
from ..models.networks.valence_arousal import photo_judge
from ..models.tensors.resize import resized
from . import memory
from .figures import Figures
from .photograph_pairs import NETWORK, Pair, shown

WIDTH, HEIGHT = 6000, 4000
LEVELS = "of 255"


def _in_turn(runs: dict[str, Callable[[], Any]], times: int) -> dict[str, list[float]]:
    """Seconds of each, one after another, `times` times over, after one run that does not count."""
    took: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(times + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if i:
                took[name].append(time.perf_counter() - start)
    return took


def _grade(local: bool = True) -> Grid:
    """A grade of moderate strength that differs from place to place, or does not."""
    generator = torch.Generator().manual_seed(0)
    grid = Grid.identity() if local else Grid.identity(8, 1, 1)
    return Grid(grid.coefficients + 0.05 * torch.randn(grid.coefficients.shape, generator=generator), "random")


def picture() -> np.ndarray[Any, Any]:
    """[HEIGHT, WIDTH, 3] of 8 bits: a photograph enlarged."""
    from PIL import Image
    from skimage.data import chelsea

    return np.asarray(Image.fromarray(chelsea()).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))


def applied_gb() -> float:
    """GB of a process that applies a grade to 24 megapixels of 8 bits, imports and picture with it."""
    grade_pixels(picture(), _grade())
    return memory.peak() / 1e9


def speed(pairs: list[Pair]) -> Figures:
    """Times, alone on the machine: medians, in turn with the rival's."""
    from PIL import Image, ImageFilter

    figures, grade, large = Figures(), _grade(), picture()
    shown_large = Image.fromarray(large)
    table = cube_of(_grade(local=False), 33)
    entries = table.table.permute(1, 2, 3, 0).reshape(-1, 3).numpy()
    lut = ImageFilter.Color3DLUT(33, entries.flatten().tolist())
    took = _in_turn({"ours": lambda: grade_pixels(large, grade), "pillow": lambda: shown_large.filter(lut)}, 5)
    ratio = median(took["ours"]) / median(took["pillow"])
    figures.put(
        "apply_24mp_ratio_pillow",
        ratio,
        "of Pillow's 3D LUT",
        (min(took["ours"]) / max(took["pillow"]), max(took["ours"]) / min(took["pillow"])),
    )
    figures.put("apply_24mp_s", median(took["ours"]), "s")
    figures.put("apply_24mp_gb", memory.alone(applied_gb), "GB")
    source, edit = (resized(shown(p), 512, 512) for p in (pairs[0].source, pairs[0].reference))
    figures.put("fit_ms", 1000 * median(_in_turn({"fit": lambda: fit_grade(source, edit)}, 9)["fit"]), "ms")
    net = load_backbone(NETWORK)
    judge = photo_judge()
    whole = lambda: apply_grade(source.permute(0, 2, 3, 1), transfer_grade(net, source, edit, judge=judge).grade)
    figures.put("seconds_512", median(_in_turn({"transfer": whole}, 3)["transfer"]), "s")
    figures.put_all(cube(source))
    return figures


def cube(image: torch.Tensor) -> Figures:
    """How far our .cube file, opened by Pillow and by colour-science, is from our nodes' picture of it; and how far
    that picture is from the grade's own (`grid`), whose bends between the table's entries it cannot hold."""
    figures = Figures()
    with tempfile.TemporaryDirectory() as folder:
        grade = _grade(local=False)
        path = save_cube(Path(folder) / "grade.cube", grade)
        pixels = image[0].permute(1, 2, 0).contiguous().numpy()
        ours = grade_pixels(pixels.astype(np.float32), load_cube(path))
        eight = (pixels * 255).round().astype(np.uint8)  # all that Pillow takes
        ours_of_eight = grade_pixels(eight, load_cube(path)).astype(np.float32)
        figures.put("cube_max_diff.pillow", float(np.abs(_by_pillow(path, eight) - ours_of_eight).max()), LEVELS)
        try:
            import colour
        except ImportError:
            raise UserError("This takes colour-science: pip install colour-science. Or leave out `speed`.") from None
        theirs = colour.read_LUT(str(path)).apply(pixels, interpolator=colour.algebra.table_interpolation_trilinear)
        figures.put("cube_max_diff.colour", float(np.abs(np.clip(theirs, 0, 1) - ours).max() * 255), LEVELS)
    figures.put("cube_max_diff", max(figures.values()), LEVELS)
    own = grade_pixels(pixels.astype(np.float32), grade)
    figures.put("cube_max_diff.grid", float(np.abs(own - ours).max() * 255), LEVELS)
    return figures


def _by_pillow(path: Path, pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The file read as its format says, red fastest, and applied by Pillow to pixels [H, W, 3] of 8 bits."""
    from PIL import Image, ImageFilter

    lines = [line.split() for line in path.read_text(encoding="ascii").splitlines() if line and line[0] != "#"]
    size = next(int(words[1]) for words in lines if words[0] == "LUT_3D_SIZE")
    rows = [float(v) for words in lines if words[0][0] in "-0123456789." for v in words]
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.Color3DLUT(size, rows))).astype(np.float32)
