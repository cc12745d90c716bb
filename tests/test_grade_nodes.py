"""The grade's nodes, on photographs, as a graph runs them."""

import json

import numpy as np
import pytest
import torch
from comfyui_affect.models import host
from comfyui_affect.models.errors import UserError
from comfyui_affect.nodes import NODE_CLASS_MAPPINGS
from comfyui_affect.workflows.headless.host import EmbeddedHost
from skimage.data import astronaut, chelsea


@pytest.fixture(autouse=True)
def folders(tmp_path):
    with host.use(EmbeddedHost(tmp_path / "input", tmp_path / "output", tmp_path / "models")):
        yield tmp_path


CAT = torch.from_numpy(np.ascontiguousarray(chelsea())).float()[None] / 255
EDIT = torch.nn.functional.interpolate(
    (0.15 + 0.7 * CAT**1.5).movedim(-1, 1), scale_factor=0.5, antialias=True, mode="bilinear"
).movedim(1, -1)


def call(key, *args, **kwargs):
    return NODE_CLASS_MAPPINGS[key]().run(*args, **kwargs)


def test_an_edit_of_a_small_copy_grades_the_original():
    image, grade, residual, told = call("AffectGradeFit", CAT, EDIT, 0.5, True)
    want = 0.15 + 0.7 * CAT**1.5
    assert image.shape == CAT.shape and float((image - want).abs().mean()) < 0.1 * float((CAT - want).abs().mean())
    assert json.loads(told)["expressed"] > 0.95 and residual.shape[1:3] == EDIT.shape[1:3]
    assert torch.equal(call("AffectGradeApply", CAT, grade, 0.0)[0], CAT)
    mask = torch.zeros(1, 300, 451)
    mask[:, 150:] = 1
    part = call("AffectGradeApply", CAT, grade, 1.0, mask)[0]
    assert torch.equal(part[:, :150], CAT[:, :150]) and torch.equal(part[:, 150:], image[:, 150:])


def test_what_an_edit_drew_anew_is_shown_and_told_of(capsys):
    drawn = EDIT.clone()
    drawn[:, 40:110, 60:160] = torch.rand(1, 70, 100, 3, generator=torch.Generator().manual_seed(0))
    _, _, residual, told = call("AffectGradeFit", CAT, drawn, 0.5, True)
    strange = (residual - 0.5).abs().mean(dim=-1)
    assert float(strange[:, 50:100, 70:150].mean()) > 5 * float(strange[:, 120:, :].mean())
    assert json.loads(told)["expressed"] < 0.9


def test_a_series_takes_one_grade():
    frames = torch.cat([CAT[:, :, i : i + 300] for i in (0, 50, 100)])
    _, grade, _, _ = call("AffectGradeFit", frames, 0.15 + 0.7 * frames**1.5, 0.0, False)
    out = call("AffectGradeApply", frames, grade, 1.0)[0]
    shared = out[0, :, 100:300], out[1, :, 50:250]
    assert torch.allclose(*shared, atol=1e-6)
    with pytest.raises(UserError, match="2 edits of 3"):
        call("AffectGradeFit", frames, frames[:2], 0.5, True)


@pytest.mark.parametrize("kind, suffix", [("local", ".safetensors"), ("cube", ".cube")])
def test_a_grade_is_saved_and_loaded_in_both_forms(kind, suffix, folders):
    image, grade, _, _ = call("AffectGradeFit", CAT, EDIT, 0.0, True)
    call("AffectGradeSave", grade, "dusk", kind)
    assert [p.name for p in (folders / "output" / "grades").iterdir()] == ["dusk" + suffix]
    (back,) = call("AffectGradeLoad", "dusk")
    assert float((call("AffectGradeApply", CAT, back, 1.0)[0] - image).abs().max()) < (
        1e-6 if kind == "local" else 2.5 / 255
    )
    call("AffectGradeSave", back, "again", kind)
    with pytest.raises(UserError, match="no grade named"):
        call("AffectGradeLoad", "dawn")
    with pytest.raises(UserError):
        call("AffectGradeSave", grade, "../dusk", kind)


BEACH = torch.from_numpy(np.ascontiguousarray(astronaut())).float()[None, :384, :320] / 255


def gram_transfer(image, reference, iterations=6, **options):
    return call("AffectDenseNetGramTransfer", image, reference, iterations, 1.0, 1e6, 0, **options)


def test_a_photograph_is_transferred_as_a_grade_that_moves_no_edge():
    image, plot, grade = gram_transfer(CAT, BEACH, network="efficientnet-lite0", surface="auto")
    assert image.shape == CAT.shape and plot.shape[0] == 1 and grade.note.startswith("transfer")
    assert float((image - CAT).abs().mean()) > 0.005
    assert torch.equal(image, call("AffectGradeApply", CAT, grade, 1.0)[0])
    kept = gram_transfer(CAT, BEACH, network="efficientnet-lite0", surface="photograph", colour_only=True)[0]
    light = lambda t: t @ torch.tensor([0.299, 0.587, 0.114])
    inside = ((kept > 0.001) & (kept < 0.999)).all(dim=-1)
    assert torch.allclose(light(kept)[inside], light(CAT)[inside], atol=2e-3)
    assert float((kept - CAT).abs().mean()) > 0.002


def test_a_drawing_is_transferred_on_pixels_and_so_is_what_an_older_file_asks_for():
    small = CAT[:, ::3, ::3][:, :96, :96].contiguous()
    pixels = gram_transfer(small, BEACH, network="tiny-densenet", surface="pixels")
    for older in (gram_transfer(small, BEACH, network="tiny-densenet"), gram_transfer(small, BEACH, surface="auto")):
        assert torch.equal(older[0], pixels[0])
    assert "pixels" in pixels[2].note
    with pytest.raises(UserError, match="no surface 'paper'"):
        gram_transfer(CAT, BEACH, surface="paper")


def test_a_series_is_transferred_by_one_grade_and_several_references_by_one_each(capsys):
    frames = torch.cat([CAT[:, :, i : i + 300] for i in (0, 50, 100)])
    options = dict(network="efficientnet-lite0", surface="photograph")
    out, plots, grade = gram_transfer(frames, BEACH, iterations=3, solver="adam", **options)
    assert len(out) == 3 and len(plots) == 1 and grade.coefficients.shape[0] == 12
    assert "Without effect on a photograph's surface: solver" in capsys.readouterr().err
    two = torch.cat([BEACH, 1 - BEACH])
    out, plots, _ = gram_transfer(CAT, two, iterations=3, **options)
    assert len(out) == len(plots) == 2 and not torch.equal(out[0], out[1])
    mask = torch.zeros(1, 300, 451)
    mask[:, 150:] = 1
    part = gram_transfer(CAT, BEACH, iterations=3, mask=mask, **options)[0]
    assert torch.equal(part[:, :150], CAT[:, :150]) and not torch.equal(part[:, 150:], CAT[:, 150:])


def test_emolat_grades_a_photograph_and_repaints_a_drawing():
    (emolat,) = call("AffectEmoLatLoader", "tiny")
    (emotion,) = call("AffectEmotion", "sadness", 1.0)
    (code,) = call("AffectEmoLatCodebookSampler", emolat, emotion, 1, 1.0, 0)
    image, grade = call("AffectEmoLatTransfer", emolat, CAT, code, "", 1.0, surface="auto")
    assert torch.equal(image, call("AffectGradeApply", CAT, grade, 1.0)[0]) and "sadness" in grade.note
    older, nearest = call("AffectEmoLatTransfer", emolat, CAT, code, "", 1.0)
    assert not torch.equal(older, image) and "pixels" in nearest.note
    assert float((image - CAT).abs().mean()) > 0.01
    nothing = torch.zeros(1, 300, 451)
    assert torch.equal(call("AffectEmoLatTransfer", emolat, CAT, code, "", 1.0, nothing, "photograph")[0], CAT)
