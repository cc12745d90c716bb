"""A grade as a bilateral grid of affine colour transforms (Chen et al. 2007; Gharbi et al. 2017).

A grade says for each place and each luminance of a picture what becomes of its colours. It moves no edge and draws
none: what it makes of two neighbouring pixels of nearly one colour differs as little as they do. It knows no
resolution, so that what was found at 256 pixels holds at 24 megapixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional as F

from .. import files
from ..errors import UserError
from ..tensors.luminance import REC_601, luminance

BINS, ROWS, COLUMNS = 8, 6, 8
"""Vertices of a grid where nothing else is asked for: of luminance, of height, of width."""

_KEY = "affect_grade"


@dataclass(frozen=True)
class Grid:
    """The AFFECT_GRADE socket: a bilateral grid.

    coefficients  [12, D, H, W] float32: at each of D luminances, H heights and W widths of the picture an affine
                  transform of three rows of four, (red, green, blue, 1) -> one channel. The outermost vertices lie on
                  luminance 0 and 1 and on the picture's edges; between vertices they are interpolated linearly. One
                  vertex along an axis: the same all along it.
    note          what it was made from, for people
    """

    coefficients: torch.Tensor
    note: str = ""

    def __post_init__(self) -> None:
        if self.coefficients.ndim != 4 or self.coefficients.shape[0] != 12:
            raise UserError(f"A grade is [12, D, H, W], not {list(self.coefficients.shape)}.")
        if not bool(torch.isfinite(self.coefficients).all()):
            raise UserError("This grade holds values that are not numbers (NaN or infinity). Fit it anew.")

    @classmethod
    def identity(cls, bins: int = BINS, rows: int = ROWS, columns: int = COLUMNS) -> Grid:
        """The grade that changes nothing."""
        return cls(identity_row().view(12, 1, 1, 1).expand(12, bins, rows, columns).clone(), "identity")

    @property
    def local(self) -> bool:
        """Whether it depends on the place."""
        return self.coefficients.shape[2] * self.coefficients.shape[3] > 1

    def scaled(self, strength: float) -> Grid:
        """The grade at another strength: 0 the identity, 1 itself, above 1 beyond it. The change of every pixel is
        multiplied by it, before colours are clamped."""
        start = identity_row().to(self.coefficients).view(12, 1, 1, 1)
        return Grid(start + strength * (self.coefficients - start), self.note)

    def colour_only(self) -> Grid:
        """The grade with each pixel's luminance kept, before colours are clamped: what it does to luminance is taken
        from all three channels alike."""
        rows = (self.coefficients - identity_row().to(self.coefficients).view(12, 1, 1, 1)).unflatten(0, (3, 4))
        weights = rows.new_tensor(REC_601).view(3, 1, 1, 1, 1)
        kept = rows - (rows * weights).sum(dim=0, keepdim=True)
        return Grid(kept.flatten(0, 1) + identity_row().to(kept).view(12, 1, 1, 1), self.note)

    def then(self, other: Grid) -> Grid:
        """This grade followed by another, as one. Exact where a colour's luminance is all that counts; elsewhere the
        second is looked up at the luminance that the first gives a grey of each vertex's own luminance, since a grid
        holds no more."""
        shape = [max(a, b) for a, b in zip(self.coefficients.shape[1:], other.coefficients.shape[1:])]
        first, second = self.resized(*shape).matrices(), other.resized(*shape)
        d, h, w = shape
        level = torch.linspace(0, 1, d).to(first).view(d, 1, 1, 1) if d > 1 else first.new_full((1, 1, 1, 1), 0.5)
        grey = torch.cat([level.expand(d, h, w, 3), level.new_ones(d, h, w, 1)], dim=-1)
        seen = luminance((first @ grey[..., None]).squeeze(-1).permute(0, 3, 1, 2)).clamp(0, 1)  # [D, 1, H, W]
        place = lambda n, dim: (
            (torch.linspace(0, 1, n) if n > 1 else torch.full((1,), 0.5))
            .to(first)
            .view([-1 if i == dim else 1 for i in range(3)])
        )
        at = torch.stack([place(w, 2).expand(d, h, w), place(h, 1).expand(d, h, w), seen[:, 0]], dim=-1)
        found = F.grid_sample(second.coefficients[None], 2 * at[None] - 1, align_corners=True, padding_mode="border")
        row = first.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(d, h, w, 1, 4)
        product = _matrices(found[0]) @ torch.cat([first, row], dim=-2)
        note = " then ".join(n for n in (self.note, other.note) if n)
        return Grid(product.flatten(-2).permute(3, 0, 1, 2).contiguous(), note)

    def resized(self, bins: int, rows: int, columns: int) -> Grid:
        """The same grade with other numbers of vertices; exact where there come to be more between those there are."""
        size = (bins, rows, columns)
        if self.coefficients.shape[1:] == size:
            return self
        grid = F.interpolate(self.coefficients[None], size=size, mode="trilinear", align_corners=True)[0]
        return Grid(grid, self.note)

    def matrices(self) -> torch.Tensor:
        """[D, H, W, 3, 4]: the transforms."""
        return _matrices(self.coefficients)

    def slice(self, image: torch.Tensor) -> torch.Tensor:
        """Graded images [B, 3, H, W] of images in 0..1, unclamped; differentiable in the coefficients. For pictures of
        a network's size: `apply` is for large ones."""
        b, _, h, w = image.shape
        grid = self.coefficients.to(image)
        x, y = ((torch.arange(n, device=image.device, dtype=image.dtype) + 0.5) * (2 / n) - 1 for n in (w, h))
        at = torch.stack([x.expand(b, h, w), y[:, None].expand(b, h, w), 2 * luminance(image)[:, 0] - 1], dim=-1)
        sampled = F.grid_sample(
            grid[None].expand(b, -1, -1, -1, -1), at[:, None], align_corners=True, padding_mode="border"
        ).squeeze(2)
        rows = sampled.unflatten(1, (3, 4))
        return (rows[:, :, :3] * image[:, None]).sum(dim=2) + rows[:, :, 3]

    def save(self, path: Path | str) -> Path:
        """Writes a safetensors file."""
        return files.save_safetensors(path, {_KEY: self.coefficients.float().contiguous()}, {"note": self.note})

    @classmethod
    def load(cls, path: Path | str) -> Grid:
        """Reads what `save` wrote. UserError where the file holds something else."""
        state, metadata = files.load_safetensors(path)
        if set(state) != {_KEY}:
            raise UserError(f"'{Path(path).name}' holds no grade: save one with Save Grade.")
        return cls(state[_KEY].float(), metadata.get("note", ""))


def identity_row() -> torch.Tensor:
    """[12]: the affine transform that changes nothing."""
    return torch.eye(3, 4).flatten()


def _matrices(coefficients: torch.Tensor) -> torch.Tensor:
    return coefficients.permute(1, 2, 3, 0).unflatten(-1, (3, 4))
