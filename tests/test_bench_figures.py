"""Figures with their units and intervals, and the file that holds them."""

import json

import pytest
import torch
from comfyui_affect.benchmarks.figures import Figures, grouped_interval, numbered
from comfyui_affect.models import metrics


def test_a_figure_has_its_unit_and_keeps_it():
    figures = Figures()
    figures.put("clip", 30.0, "100 cosine", (29.0, 31.0))
    figures.put("clip", 32.0, "100 cosine")  # replaces the value
    assert dict(figures) == {"clip": 32.0, "clip.low": 29.0, "clip.high": 31.0}
    assert set(figures.unit.values()) == {"100 cosine"}
    with pytest.raises(ValueError, match="in '100 cosine' and cannot be put in as 'share'"):
        figures.put("clip", 0.3, "share")
    other = Figures()
    other.put_all(figures, "muse.")
    assert other.unit["muse.clip.low"] == "100 cosine" and other["muse.clip"] == 32.0
    assert list(other.select(lambda name: name.endswith(".low"))) == ["muse.clip.low"]


def test_means_have_the_interval_of_their_kind():
    figures = Figures()
    hits = torch.tensor([1.0, 1, 1, 0])
    figures.put_mean("counted", hits, "share", counted=True)
    assert (figures["counted.low"], figures["counted.high"]) == metrics.wilson_interval(0.75, 4)
    figures.put_mean("measured", hits, "share")
    assert (figures["measured.low"], figures["measured.high"]) == metrics.mean_interval(hits)
    figures.put_mean("grouped", hits, "share", counted=True, groups=["a", "a", "b", "b"])
    assert (figures["grouped.low"], figures["grouped.high"]) == grouped_interval(hits, ["a", "a", "b", "b"])
    assert (figures["grouped.low"], figures["grouped.high"]) == (0.5, 1.0)  # both layouts alike, or mixed
    figures.put_mean("apart", hits, "share", counted=True, groups=[1, 2, 3, 4])
    assert figures["apart.low"] == figures["counted.low"]


def test_differences_are_paired():
    base = 10 * torch.rand(64, generator=torch.Generator().manual_seed(0))
    figures = Figures()
    figures.put_difference("gain", base + 1, base, "distance")
    assert figures["gain"] == pytest.approx(1, abs=1e-6)
    assert figures["gain.high"] - figures["gain.low"] == pytest.approx(0, abs=1e-5)  # however far the tasks differ
    other = base[torch.randperm(64, generator=torch.Generator().manual_seed(1))]
    figures.put_difference("unpaired", other + 1, base, "distance")
    assert figures["unpaired.low"] < figures["unpaired"] < figures["unpaired.high"]
    assert numbered(["b", "a", "b"]).tolist() == [0, 1, 0]


def test_the_file_has_the_form_that_others_read(tmp_path, capsys):
    figures = Figures()
    figures.put("speedup", 2.5, "times")
    figures.put("never", float("inf"), "s")
    figures.put("share", 0.5, "share", (0.4, 0.6))
    figures.write(tmp_path / "f.json", "small", n=3)
    found = json.loads((tmp_path / "f.json").read_text())
    assert found["name"] == "small" and found["machine"] and found["settings"] == {"n": 3}
    assert found["figures"] == {"speedup": 2.5, "never": None, "share": 0.5, "share.low": 0.4, "share.high": 0.6}
    assert found["unit"] == {
        "speedup": "times",
        "never": "s",
        **dict.fromkeys(["share", "share.low", "share.high"], "share"),
    }
    again = Figures.from_json(found)
    assert again.as_json() == {"figures": found["figures"], "unit": found["unit"]}
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [
        ["speedup", "2.5", "times"],
        ["never", "not", "reached", "s"],
        ["share", "0.5", "0.400", "..", "0.600", "share"],
    ]


def test_a_jackknife_knows_a_mean():
    values = torch.randn(400, generator=torch.Generator().manual_seed(0))
    low, high = metrics.jackknife_interval(lambda x: float(x.mean()), values, groups=400)
    assert (low, high) == pytest.approx(metrics.mean_interval(values), abs=2e-3)
