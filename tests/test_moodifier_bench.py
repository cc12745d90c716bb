"""Moodifier's benchmark: its ways to edit, its cases, and that images are kept by the settings that made them."""

from dataclasses import replace

import pytest
import torch
from comfyui_affect.benchmarks import edit_methods, moodifier
from comfyui_affect.benchmarks.edit_methods import Edit
from comfyui_affect.benchmarks.moodifier_cases import cases, grounded


@pytest.fixture(scope="module")
def case():
    return cases(1, "val")[0]


@pytest.fixture(scope="module")
def where(case):
    return grounded(case)


def test_a_case_has_its_truth_and_its_mask(case, where):
    assert case.source.shape == case.truth.shape == (3, 128, 128) and case.region.shape == (1, 128, 128)
    assert case.names and all(name in case.source_prompt for name in case.names) and case.target in case.target_prompt
    assert where.shape == (1, 1, 128, 128) and 0 < float((where > 0).float().mean()) < 1


@pytest.mark.parametrize("kind", ["blend", "infedit", "img2img", "inversion"])
def test_each_way_to_edit_ends_in_another_picture(case, where, kind):
    method = Edit(kind, steps=2, encoder="moodify" if kind == "blend" else "clip")
    found = edit_methods.edited(method, case.source[None], case.source_prompt, case.target_prompt, where, 0)
    assert found.shape == (1, 3, 128, 128) and torch.isfinite(found).all()
    assert not torch.allclose(found, moodifier.round_trip(case.source[None]), atol=1e-3)


def test_images_of_other_settings_are_not_taken_for_these(case, where, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(moodifier, "edited", lambda method, image, *_: asked.append(method) or image)
    both = Edit("blend")
    for method in (both, both, replace(both, cfg=3.0), replace(both, cross_replace=0.3)):
        moodifier.made(tmp_path, "both-val", method, [case], [where])
    assert asked == [both, replace(both, cfg=3.0), replace(both, cross_replace=0.3)]


def test_structure_is_measured_over_the_image_and_outside_the_region(case):
    inside = torch.where(case.region > 0.5, case.truth, case.source)[None]
    row = moodifier.judged(inside, [case])
    assert float(row["structure"]) > 0 == float(row["structure_outside"])
    outside = torch.where(case.region > 0.5, case.source, 1 - case.source)[None]
    assert float(moodifier.judged(outside, [case])["structure_outside"]) > 0
    assert moodifier._unit("both.structure_outside") == moodifier._unit("both.structure") == "distance"


@pytest.mark.parametrize(
    "name, wanted, worse",
    [
        ("inversion_masked", {"cfg": 5.0, "cross_replace": 0.4, "self_replace": 0.25}, "2_0.4_0.25"),
        ("both", {"steps": 4, "cfg": 5.0, "cross_replace": 0.0}, "4_3_0"),
    ],
)
def test_every_way_gets_the_setting_that_comes_nearest_on_validation_scenes(monkeypatch, tmp_path, name, wanted, worse):
    from types import SimpleNamespace

    from comfyui_affect.benchmarks import moodifier

    splits = []
    monkeypatch.setattr(
        moodifier,
        "cases",
        lambda n, split: splits.append(split) or [SimpleNamespace(truth=torch.full((3, 64, 64), 0.5))] * 2,
    )
    monkeypatch.setattr(moodifier, "grounded", lambda case: None)
    monkeypatch.setattr(
        moodifier, "made", lambda out, name, method, found, where: torch.full((2, 3, 64, 64), method.cfg / 10)
    )
    settings, figures = moodifier.nearest({"clip": tmp_path, "moodify": tmp_path}, name)
    best = "_".join(f"{value:g}" for value in wanted.values())
    assert settings == wanted and splits == ["val"] and figures[f"{name}.cfg"] == 5
    assert figures[f"{name}.val_lpips_{best}"] < figures[f"{name}.val_lpips_{worse}"]
