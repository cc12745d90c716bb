"""Grades: what a grid says, what a fit finds, where an edit lies, large pictures, and tables for other programs."""

import numpy as np
import pytest
import torch
from comfyui_affect.models.errors import UserError
from comfyui_affect.models.grade import apply as applying
from comfyui_affect.models.grade.align import Placement, find_placement
from comfyui_affect.models.grade.apply import apply_grade, grade_pixels
from comfyui_affect.models.grade.cube import Cube, cube_of, load_cube, place_share, save_cube
from comfyui_affect.models.grade.fit import fit_grade
from comfyui_affect.models.grade.grid import Grid
from skimage.data import chelsea, coffee


def picture(array):
    return torch.from_numpy(np.ascontiguousarray(array)).movedim(-1, 0)[None].float() / 255


CAT = picture(chelsea())


def warmer(image):
    """A change that a grade can say: a curve of luminance, and another colour at the left than at the right."""
    x = torch.linspace(0, 1, image.shape[-1]).expand(1, 1, *image.shape[-2:])
    tint = torch.tensor([1.1, 1.0, 0.8]).view(1, 3, 1, 1).lerp(torch.tensor([0.8, 1.0, 1.1]).view(1, 3, 1, 1), x)
    return (0.1 + 0.8 * image * tint).clamp(0, 1)


def strange_grid(seed=0, size=(8, 6, 8)):
    noise = torch.randn(12, *size, generator=torch.Generator().manual_seed(seed))
    return Grid(Grid.identity(*size).coefficients + 0.1 * noise)


def test_the_identity_and_strength():
    grid = strange_grid()
    assert torch.allclose(Grid.identity().slice(CAT), CAT, atol=1e-6)
    assert torch.allclose(grid.scaled(0.0).slice(CAT), CAT, atol=1e-6)
    half = CAT + 0.5 * (grid.slice(CAT) - CAT)
    assert torch.allclose(grid.scaled(0.5).slice(CAT), half, atol=1e-5)


def test_a_grade_knows_no_resolution():
    """The same place and colour come out the same whatever the picture's size."""
    grid = strange_grid(1)
    flat = torch.tensor([0.2, 0.6, 0.4]).view(1, 3, 1, 1)
    small, large = grid.slice(flat.expand(1, 3, 30, 40)), grid.slice(flat.expand(1, 3, 90, 120))
    assert torch.allclose(small, large[..., 1::3, 1::3], atol=1e-5) and float(small.amax() - small.amin()) > 0.02


def test_two_grades_become_one():
    first = fit_grade(CAT, warmer(CAT), detail=0.5)
    second = fit_grade(CAT, (0.2 + 0.6 * CAT).clamp(0, 1), detail=0.0)
    both = first.then(second).slice(CAT)
    assert float((both - second.slice(first.slice(CAT))).abs().mean()) < 0.01
    assert float((both - first.slice(CAT)).abs().mean()) > 0.03


def test_a_fit_finds_what_a_grade_can_say():
    grid = fit_grade(CAT, warmer(CAT))
    error, change = (grid.slice(CAT) - warmer(CAT)).abs().mean(), (warmer(CAT) - CAT).abs().mean()
    assert grid.local and float(error) < 0.1 * float(change)
    whole = fit_grade(CAT, warmer(CAT), detail=0.0)
    assert not whole.local and float((whole.slice(CAT) - warmer(CAT)).abs().mean()) > 2 * float(error)


def test_pixels_outside_of_a_mask_do_not_count():
    edited = CAT.clone()
    edited[..., 200:] = torch.rand(1, 3, CAT.shape[2], CAT.shape[3] - 200, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 1, *CAT.shape[-2:])
    mask[..., :200] = 1
    kept, all_counted = (fit_grade(CAT, edited, detail=0.0, mask=m).slice(CAT) for m in (mask, None))
    assert (
        float((kept - CAT).abs().mean())
        < 0.01
        < float((fit_grade(CAT, edited, detail=0.0).slice(CAT) - CAT).abs().mean())
    )


def test_an_empty_luminance_stays_calm():
    """Where no pixel of a luminance is, the transform is the neighbours', not whatever solves nothing."""
    dark = 0.3 * CAT
    grid = fit_grade(dark, 0.8 * dark)
    bright = torch.full((1, 3, 8, 8), 0.95)
    assert torch.allclose(grid.slice(bright), 0.8 * bright, atol=0.08)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_large_pictures_come_out_as_small_ones(kind, monkeypatch):
    grid = strange_grid(2)
    full = {np.uint8: 255, np.uint16: 65535, np.float32: 1}[kind]
    pixels = (chelsea() / 255 * full).astype(kind)
    want = (
        grid.slice(torch.from_numpy(pixels / full).float().movedim(-1, 0)[None]).clamp(0, 1)[0].movedim(0, -1).numpy()
    )
    step = 1e-5 if kind is np.float32 else 0.51 / full
    by_numba = grade_pixels(pixels, grid)
    assert by_numba.dtype == kind and np.abs(by_numba / full - want).max() <= step + 2e-5
    monkeypatch.setattr(applying, "grade_rows", None)
    monkeypatch.setattr(applying, "STRIP", 451 * 37)
    by_torch = grade_pixels(pixels, grid)
    assert np.abs(by_torch / full - want).max() <= step + 2e-5


@pytest.mark.parametrize("numba", [True, False])
def test_alpha_and_what_a_mask_leaves_out_are_kept(numba, monkeypatch):
    if not numba:
        monkeypatch.setattr(applying, "grade_rows", None)
    rgba = np.dstack([chelsea(), np.arange(300 * 451).reshape(300, 451) % 256]).astype(np.uint8)
    mask = np.zeros((300, 451), np.float32)
    mask[:, 100:] = 1
    out = grade_pixels(rgba, strange_grid(3), 1.0, mask)
    assert (out[..., 3] == rgba[..., 3]).all() and (out[:, :100] == rgba[:, :100]).all()
    assert (out[:, 100:, :3] == grade_pixels(rgba, strange_grid(3))[:, 100:, :3]).all()
    assert (out[:, 100:, :3] != rgba[:, 100:, :3]).any()


def test_a_series_takes_one_grade_frame_by_frame():
    frames = torch.stack([CAT[0].movedim(0, -1)[:, i : i + 200] for i in (0, 100)])
    out = apply_grade(frames, strange_grid(4), 0.7)
    assert out.shape == frames.shape and torch.equal(out[1], apply_grade(frames[1:], strange_grid(4), 0.7)[0])


def test_an_edit_is_found_where_it_lies():
    moved = Placement((1.03, 0.97), (0.02, -0.015))
    back = Placement((1 / 1.03, 1 / 0.97), (-0.02 / 1.03, 0.015 / 0.97))
    edited, _ = back.warp(warmer(CAT).pow(1.3), 256, 384)
    found = find_placement(CAT, edited)
    assert found.scale == pytest.approx(moved.scale, abs=0.004) and found.shift == pytest.approx(moved.shift, abs=0.004)
    assert found.correlation > 0.8 > found.before
    still = find_placement(CAT, warmer(CAT))
    assert still.scale == (1.0, 1.0) and still.shift == (0.0, 0.0)


@pytest.mark.parametrize(
    "edited, said",
    [
        (picture(coffee()[:, :570]), "not an edit of that source"),
        (CAT.flip(-1), "mirrored"),
        (CAT[..., :200], "proportions differ"),
        (torch.full_like(CAT, 0.5), "not an edit"),
    ],
)
def test_what_is_not_an_edit_of_it_is_refused(edited, said):
    with pytest.raises(UserError, match=said):
        find_placement(CAT, edited)


def test_a_grade_is_saved_and_loaded(tmp_path):
    grid = strange_grid(5)
    back = Grid.load(Grid(grid.coefficients, "dusk").save(tmp_path / "a.safetensors"))
    assert torch.equal(back.coefficients, grid.coefficients) and back.note == "dusk"
    with pytest.raises(UserError, match="not numbers"):
        Grid(grid.coefficients * float("nan"))


def test_a_table_is_what_pillow_reads_in_it(tmp_path):
    from PIL import Image, ImageFilter

    grid = fit_grade(CAT, warmer(CAT), detail=0.0)
    cube = load_cube(save_cube(tmp_path / "warm.cube", grid, 33))
    by_pillow = Image.fromarray(chelsea()).filter(ImageFilter.Color3DLUT(33, cube.table.flatten().tolist()))
    ours = (cube.slice(CAT).clamp(0, 1) * 255).round()[0].movedim(0, -1).numpy()
    assert np.abs(np.asarray(by_pillow).astype(float) - ours).max() <= 1
    assert float((cube.slice(CAT) - grid.slice(CAT).clamp(0, 1)).abs().mean()) < 1 / 255
    assert torch.equal(cube_of(grid, 33).scaled(1.0).table, cube_of(grid, 33).table)


def test_what_a_table_cannot_hold_is_counted():
    assert place_share(fit_grade(CAT, 0.7 * CAT, detail=0.0)) == 0
    assert place_share(fit_grade(CAT, warmer(CAT))) > 0.2


def test_another_domain_is_honoured(tmp_path):
    table = torch.rand(3, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    cube = Cube(table, "", (0.2, 0.2, 0.2), (0.8, 0.8, 0.8))
    back = load_cube(save_cube(tmp_path / "a.cube", cube))
    corner = torch.tensor([0.8, 0.2, 0.2]).view(1, 3, 1, 1)
    assert torch.allclose(back.slice(corner).flatten(), table[0, 0, 2], atol=1e-5)
    assert torch.allclose(back.slice(torch.ones(1, 3, 1, 1)).flatten(), table[2, 2, 2], atol=1e-5)


@pytest.mark.parametrize(
    "text, said",
    [
        ("LUT_3D_SIZE 2\n" + "0 0 0\n" * 7, "8 entries, and holds 7"),
        ("LUT_3D_SIZE 2\n" + "0 0 nan\n" * 8, "not three finite numbers"),
        ("LUT_3D_SIZE 2\n" + "0 0\n" * 8, "not three"),
        ("LUT_3D_SIZE 2\nDOMAIN_MIN 1 1 1\nDOMAIN_MAX 0 0 0\n" + "0 0 0\n" * 8, "DOMAIN_MIN"),
        ("LUT_3D_SIZE 2\nDOMAIN_MIN a\n" + "0 0 0\n" * 8, "line 2"),
        ("LUT_3D_SIZE 5000\n", "from 2 to"),
        ("LUT_1D_SIZE 4\n" + "0 0 0\n" * 4, "1D table"),
        ("0 0 0\n" * 8, "LUT_3D_SIZE"),
    ],
)
def test_a_bad_table_gets_a_sentence(tmp_path, text, said):
    (tmp_path / "bad.cube").write_text(text)
    with pytest.raises(UserError, match=said):
        load_cube(tmp_path / "bad.cube")


def test_a_judge_chooses_the_strength_that_feels_most_like_the_reference():
    from comfyui_affect.models.grade.transfer import _felt_most_alike

    class Brightness(torch.nn.Module):
        def points(self, image):
            return image.mean(dim=(2, 3))[:, :2]

    grade = Grid(Grid.identity(2, 1, 1).coefficients.clone())
    grade.coefficients[[3, 7, 11]] += 0.4
    dark = torch.full((1, 3, 8, 8), 0.2)
    for goal, strength in ((0.4, 0.5), (0.6, 1.0), (0.1, 0.5)):
        assert _felt_most_alike(Brightness(), grade, dark, torch.full((1, 3, 8, 8), goal), (0.5, 1.0)) == strength
