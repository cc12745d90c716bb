"""3D lookup tables (.cube, Adobe's Cube LUT specification 1.0), which grading programs read and write.

A table says what becomes of each colour, wherever it is: of a grade that differs from place to place it holds the mean
over the picture, and `place_share` says how much of the grade that leaves out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from .. import files
from ..errors import UserError
from .grid import Grid, identity_row

SIZE = 65
"""Entries along an axis. With 33, the usual number, interpolation moves colours of a strong grade by up to two grey
levels."""

LARGEST = 129
"""More entries along an axis than this are refused: 256 is what the format allows, and no program reads."""


@dataclass(frozen=True)
class Cube:
    """The AFFECT_GRADE socket where it was read from a .cube file.

    table  [N, N, N, 3] float32: table[b, g, r] is what becomes of the colour (r, g, b) / (N - 1)
    low, high  the colours that the first and the last entry of each axis belong to
    """

    table: torch.Tensor
    note: str = ""
    low: tuple[float, float, float] = (0.0, 0.0, 0.0)
    high: tuple[float, float, float] = (1.0, 1.0, 1.0)

    local = False

    def slice(self, image: torch.Tensor) -> torch.Tensor:
        """Graded images [B, 3, H, W], unclamped, by trilinear interpolation; colours beyond the table take its edge."""
        low, high = (image.new_tensor(v).view(1, 3, 1, 1) for v in (self.low, self.high))
        at = ((image - low) / (high - low)).movedim(1, -1) * 2 - 1
        table = self.table.to(image).permute(3, 0, 1, 2)[None].expand(len(image), -1, -1, -1, -1)
        return F.grid_sample(table, at[:, None], align_corners=True, padding_mode="border").squeeze(2)

    def scaled(self, strength: float) -> Cube:
        """At another strength, as `Grid.scaled`."""
        return Cube(
            _colours(len(self.table), self.low, self.high).lerp(self.table, strength), self.note, self.low, self.high
        )


def cube_of(grade: Grid, size: int = SIZE) -> Cube:
    """A grade's mean over the picture as a table. Clamped to 0..1, as a picture is."""
    mean = Grid(_mean_over_places(grade.coefficients))
    colours = _colours(size).flatten(0, 2).T.reshape(1, 3, 1, -1)
    table = mean.slice(colours).clamp(0, 1).reshape(3, -1).T.reshape(size, size, size, 3)
    return Cube(table.contiguous(), grade.note)


def place_share(grade: Grid) -> float:
    """0..1: the share of a grade's change (root mean square over the grid's vertices and the colours there) that
    differs from place to place, and that no table holds."""
    change = grade.coefficients - identity_row().view(12, 1, 1, 1)
    matrices = change.permute(1, 2, 3, 0).unflatten(-1, (3, 4))
    d = len(matrices)
    grey = torch.linspace(0, 1, d) if d > 1 else torch.full((1,), 0.5)
    colour = torch.cat([grey[:, None].expand(d, 3), torch.ones(d, 1)], dim=1)
    moved = torch.einsum("dhwij,dj->dhwi", matrices, colour)
    of_place = moved - moved.mean(dim=(1, 2), keepdim=True)
    return float(of_place.square().mean().sqrt() / moved.square().mean().sqrt().clamp(min=1e-9))


def save_cube(path: Path | str, grade: Grid | Cube, size: int = SIZE) -> Path:
    """Writes a .cube file."""
    cube = cube_of(grade, size) if isinstance(grade, Grid) else grade
    title = "".join(c for c in cube.note if c.isprintable() and c != '"')[:80] or "ComfyUI-Affect"
    head = [f'TITLE "{title}"', f"LUT_3D_SIZE {len(cube.table)}"]
    if (cube.low, cube.high) != ((0.0,) * 3, (1.0,) * 3):
        head += [f"DOMAIN_MIN {_row(cube.low)}", f"DOMAIN_MAX {_row(cube.high)}"]
    rows = [_row(entry) for entry in cube.table.reshape(-1, 3).tolist()]

    def write(temporary: Path) -> None:
        temporary.write_text("\n".join([*head, *rows]) + "\n", encoding="ascii", errors="replace", newline="\n")

    files.write_atomically(Path(path), write)
    return Path(path)


def load_cube(path: Path | str) -> Cube:
    """Reads a 3D .cube file. UserError, with the line, where it is something else, or its values are not numbers."""
    path = Path(path)
    size, low, high, title = 0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), ""
    entries: list[str] = []
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, raw in enumerate(islice(file, LARGEST**3 + 10_000), 1):
            line = raw.split("#")[0].strip()
            if not line:
                continue
            word, _, rest = line.partition(" ")
            if word == "TITLE":
                title = rest.strip().strip('"')
            elif word == "LUT_1D_SIZE":
                raise UserError(
                    f"'{path.name}' is a 1D table (LUT_1D_SIZE), and a 3D one is read here. Export a 3D LUT."
                )
            elif word == "LUT_3D_SIZE":
                size = _size(rest, path.name, number)
            elif word in ("DOMAIN_MIN", "DOMAIN_MAX"):
                values = _numbers(rest, path.name, number)
                low, high = (values, high) if word == "DOMAIN_MIN" else (low, values)
            elif word[:1].isalpha():
                continue  # LUT_3D_INPUT_RANGE and others' own keywords
            else:
                entries.append(line)
    if not size:
        raise UserError(f"'{path.name}' names no LUT_3D_SIZE: it is not a .cube file of a 3D table.")
    if len(entries) != size**3:
        raise UserError(
            f"'{path.name}' says LUT_3D_SIZE {size}, which is {size**3} entries, and holds {len(entries)}. Export it "
            "anew."
        )
    if not all(a < b for a, b in zip(low, high)):
        raise UserError(
            f"'{path.name}' has a DOMAIN_MIN, {low}, that is not below its DOMAIN_MAX, {high}. Export it anew."
        )
    return Cube(_table(entries, size, path.name), title, low, high)


def _table(entries: list[str], size: int, name: str) -> torch.Tensor:
    try:
        values = np.array([entry.split() for entry in entries], np.float32)
    except ValueError as error:
        raise UserError(f"'{name}' holds an entry that is not three numbers. Export it anew.") from error
    if values.shape != (size**3, 3) or not np.isfinite(values).all():
        raise UserError(f"'{name}' holds entries that are not three finite numbers (NaN, infinity). Export it anew.")
    return torch.from_numpy(values).reshape(size, size, size, 3)


def _size(text: str, name: str, line: int) -> int:
    if not text.strip().isdigit() or not 2 <= int(text) <= LARGEST:
        raise UserError(
            f"'{name}', line {line}: LUT_3D_SIZE is a number from 2 to {LARGEST}, not '{text.strip()[:20]}'."
        )
    return int(text)


def _numbers(text: str, name: str, line: int) -> tuple[float, float, float]:
    try:
        a, b, c = (float(v) for v in text.split())
    except ValueError:
        raise UserError(f"'{name}', line {line}: three numbers belong there, not '{text.strip()[:40]}'.") from None
    if not all(math.isfinite(v) for v in (a, b, c)):
        raise UserError(f"'{name}', line {line}: a domain is finite, not '{text.strip()[:40]}'.")
    return a, b, c


def _row(values: Any) -> str:
    return " ".join(f"{v:.6f}" for v in values)


def _colours(
    size: int, low: tuple[float, float, float] = (0.0, 0.0, 0.0), high: tuple[float, float, float] = (1.0, 1.0, 1.0)
) -> torch.Tensor:
    """[N, N, N, 3]: the colour that each entry belongs to; red runs fastest."""
    r, g, b = (torch.linspace(a, z, size) for a, z in zip(low, high))
    blue, green, red = torch.meshgrid(b, g, r, indexing="ij")
    return torch.stack([red, green, blue], dim=-1)


def _mean_over_places(coefficients: torch.Tensor) -> torch.Tensor:
    """[12, D, 1, 1]: as the picture sees it, whose outermost cells are half as wide."""

    def weights(n: int) -> torch.Tensor:
        w = torch.ones(n)
        if n > 1:
            w[0] = w[-1] = 0.5
        return w / w.sum()

    h, w = coefficients.shape[2:]
    return torch.einsum("cdhw,h,w->cd", coefficients, weights(h), weights(w))[..., None, None]
