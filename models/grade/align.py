"""Where an edit lies on its source. Editing models move pictures: by their sizes that are multiples of 16, by their
autoencoders, or because they draw everything anew. A grade fitted to a moved edit would smear what lies at edges.

Edges are compared, because colours are what an edit changes. A phase correlation (Kuglin and Hines 1975) over several
scales finds the place, and Gauss-Newton on shift and scale of both axes (Lucas and Kanade 1981) makes it exact to a
fraction of a pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from ..errors import UserError
from ..tensors.luminance import luminance
from ..tensors.resize import fitted, resized

SIDE = 256
"""Pixels of the longer side at which edges are compared."""

LARGEST = 0.06
"""How far a scale may be from 1, and a shift from 0 (in sides of the picture)."""

BELONGS = 0.3
"""Edges of an edit correlate with the source's by at least this. Measured at 24 photographs: with themselves, moved
and in other colours, by 0.85 to 0.98; with another photograph by 0.12 at most; with their mirror image by up to
0.36, which is why that is compared apart."""


@dataclass(frozen=True)
class Placement:
    """Where an edit lies: source position = scale * edit position + shift, in sides of the picture around its middle.

    scale, shift  (x, y)
    correlation   of the edges once it is placed, -1 to 1
    before        the same where it was
    """

    scale: tuple[float, float] = (1.0, 1.0)
    shift: tuple[float, float] = (0.0, 0.0)
    correlation: float = 1.0
    before: float = 1.0

    def warp(self, edited: torch.Tensor, h: int, w: int) -> tuple[torch.Tensor, torch.Tensor]:
        """An edit [1, C, *, *] as it lies on a source of h x w, and [1, 1, h, w]: 1 where there is some of it."""
        grid = _sampling(torch.tensor([*self.scale, *self.shift]), h, w).to(edited)
        inside = (grid.abs() <= 1).all(dim=-1)[:, None].to(edited)
        return F.grid_sample(edited, grid, mode="bilinear", padding_mode="border", align_corners=False), inside


def find_placement(source: torch.Tensor, edited: torch.Tensor) -> Placement:
    """Where an edit [1, 3, *, *] lies on its source [1, 3, H, W], both in 0..1 and of nearly the same proportions.
    UserError where their proportions differ by more than `LARGEST`, or it is an edit of another picture."""
    h, w = source.shape[-2:]
    stretch = (edited.shape[-1] / edited.shape[-2]) / (w / h)
    if not 1 / (1 + LARGEST) <= stretch <= 1 + LARGEST:
        raise UserError(
            f"The edit is {edited.shape[-1]} x {edited.shape[-2]} pixels and the source {w} x {h}: their proportions "
            "differ. Crop the source as the edit was cropped, or make the edit of the whole picture."
        )
    size = fitted((h, w), SIDE, 8)
    a, b = (edges(resized(image.float().cpu(), *size)) for image in (source, edited))
    before = _correlation(a, b)
    best = max((_phase(a, b, 1 + s) for s in torch.linspace(-0.05, 0.05, 11).tolist()), key=lambda found: found[0])
    place = _refined(a, b, torch.tensor([best[1], best[1], best[2] / size[1], best[3] / size[0]]))
    after = _correlation(a, _warped(b, place), _inside(place, *size))
    if after < before + 0.005:  # nothing gained: it lies where it lay
        place, after = torch.tensor([1.0, 1.0, 0.0, 0.0]), before
    mirrored = _correlation(a, b.flip(-1))
    if mirrored > max(after, BELONGS):
        raise UserError(
            f"This edit is mirrored: its edges correlate with the source's by {after:.2f}, and by {mirrored:.2f} "
            "turned left to right. Mirror it back."
        )
    if after < BELONGS:
        raise UserError(
            f"This is not an edit of that source: their edges correlate by {after:.2f}, and an edit's by at least "
            f"{BELONGS:.2f}. Connect the picture that it was made from."
        )
    sx, sy, tx, ty = place.tolist()
    return Placement((sx, sy), (tx, ty), after, before)


def edges(image: torch.Tensor) -> torch.Tensor:
    """[1, 3, h, w] -> [1, 1, h, w]: the length of the luminance's gradient (Scharr), over what is usual around it, so
    that faint edges count as strong ones do."""
    light = F.pad(luminance(image), (1, 1, 1, 1), mode="replicate")
    smooth, step = light.new_tensor([3.0, 10.0, 3.0]) / 16, light.new_tensor([-0.5, 0.0, 0.5])
    x = F.conv2d(light, (smooth[:, None] * step)[None, None])
    y = F.conv2d(light, (step[:, None] * smooth)[None, None])
    length = (x.square() + y.square()).sqrt()
    k = max(3, min(image.shape[-2:]) // 12) | 1
    usual = F.avg_pool2d(F.pad(length, (k // 2,) * 4, mode="replicate"), k, 1)
    return length / (usual + 0.01)


def _correlation(a: torch.Tensor, b: torch.Tensor, weight: torch.Tensor | None = None) -> float:
    """Pearson's, where `weight` is 1."""
    chosen = slice(None) if weight is None else weight.flatten() > 0
    x, y = a.flatten()[chosen], b.flatten()[chosen]
    if len(x) < 2 or float(x.std()) < 1e-6 or float(y.std()) < 1e-6:
        return 0.0
    return float(torch.corrcoef(torch.stack([x, y]))[0, 1])


def _phase(a: torch.Tensor, b: torch.Tensor, scale: float) -> tuple[float, float, float, float]:
    """(height of the peak, scale, shift in x and y in pixels) of the edit's edges at a scale."""
    h, w = a.shape[-2:]
    b = _warped(b, torch.tensor([scale, scale, 0.0, 0.0]))
    window = torch.hann_window(h)[:, None] * torch.hann_window(w)
    fa, fb = (torch.fft.rfft2((t[0, 0] - t.mean()) * window) for t in (a, b))
    cross = fa * fb.conj()
    surface = torch.fft.irfft2(cross / cross.abs().clamp(min=1e-9), s=(h, w))
    reach_y, reach_x = max(1, int(LARGEST * h)), max(1, int(LARGEST * w))
    near = torch.roll(surface, (reach_y, reach_x), (0, 1))[: 2 * reach_y + 1, : 2 * reach_x + 1]
    y, x = divmod(int(near.argmax()), near.shape[1])
    return float(near.max()), scale, float(x - reach_x), float(y - reach_y)


def _refined(a: torch.Tensor, b: torch.Tensor, place: torch.Tensor, steps: int = 12) -> torch.Tensor:
    """The placement nearby at which the edges agree best, by Gauss-Newton on softened edges."""
    soft = lambda t: F.avg_pool2d(F.pad(t, (2, 2, 2, 2), mode="replicate"), 5, 1)
    a, b = soft(a), soft(b)
    best, error = place, float("inf")
    for _ in range(steps):
        p = place.clone().requires_grad_(True)
        warped = _warped(b, p)
        inside = _inside(place, *a.shape[-2:])
        x, y = (_standard(t, inside) for t in (a, warped))
        now = float((inside * (x - y.detach())).square().mean())
        if now < error:
            best, error = place, now
        h, w = a.shape[-2:]
        gy, gx = torch.gradient(y.detach()[0, 0])
        v, u = torch.meshgrid((torch.arange(h) + 0.5) / h - 0.5, (torch.arange(w) + 0.5) / w - 0.5, indexing="ij")
        # Moving the edit by dx moves its picture the other way.
        columns = torch.stack([-gx * w * u, -gy * h * v, -gx * w, -gy * h], dim=-1) * inside[0, 0, ..., None]
        j, r = columns.flatten(0, 1), ((x - y.detach()) * inside).flatten()
        step = torch.linalg.solve(j.T @ j + 1e-3 * torch.eye(4), j.T @ r)
        place = place + step.clamp(-0.01, 0.01)
        place = torch.cat([place[:2].clamp(1 - LARGEST, 1 + LARGEST), place[2:].clamp(-LARGEST, LARGEST)])
    return best


def _standard(t: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    n = inside.sum().clamp(min=1)
    mean = (t * inside).sum() / n
    return (t - mean) / (((t - mean).square() * inside).sum() / n).sqrt().clamp(min=1e-6)


def _sampling(place: torch.Tensor, h: int, w: int) -> torch.Tensor:
    """[1, h, w, 2]: where in the edit (-1..1) each pixel of the source looks."""
    sx, sy, tx, ty = place
    x = ((torch.arange(w) + 0.5) / w - 0.5 - tx) / sx
    y = ((torch.arange(h) + 0.5) / h - 0.5 - ty) / sy
    return 2 * torch.stack([x.expand(h, w), y[:, None].expand(h, w)], dim=-1)[None]


def _warped(t: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    grid = _sampling(place, *t.shape[-2:])
    return F.grid_sample(t, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _inside(place: torch.Tensor, h: int, w: int) -> torch.Tensor:
    return (_sampling(place, h, w).abs() <= 1).all(dim=-1)[:, None].float()
