"""The benchmarks of EmoLat on a model that was trained for two steps; their figures come from `affect bench`."""

from functools import partial

import pytest
import torch
from bench import assert_as_published, assert_within, run
from comfyui_affect.benchmarks import clipstyler, emolat, emolat_ablation, emolat_train, methods
from comfyui_affect.models.emolat.space import load_emolat
from comfyui_affect.models.errors import UserError
from comfyui_affect.training.config import load_config


@pytest.fixture
def small_emolat(monkeypatch):
    """The bundled EmoLat as one that was trained for two steps on sixteen scenes."""
    model = load_emolat("tiny")
    config = load_config("emolat", ["data.n=16", "data.size=64", "transfer.steps=2", "transfer.batch=2"])
    monkeypatch.setattr(model, "training_config", {key: config[key] for key in ("data", "emolat", "transfer")})
    monkeypatch.setattr(methods.host, "cores", lambda: 1)
    return model


def test_bench_emolat(small_emolat, tmp_path, monkeypatch):
    """The stand-in for the baseline leaves every image as it is."""
    monkeypatch.setattr(emolat, "load_emolat", lambda name: small_emolat)
    monkeypatch.setattr(emolat.memory, "alone", lambda job, *given: (1.0, 2.0))
    monkeypatch.setattr(emolat, "seconds", lambda model: 0.5)
    monkeypatch.setattr(clipstyler, "make_all", lambda folder, jobs: torch.cat([image for _, image, *_ in jobs]))
    found = run(emolat, tmp_path, "--n", "4")
    figures = found["figures"]
    assert_as_published(found)
    assert_within(found)
    for prefix in ("", "seven."):
        assert figures[f"{prefix}truth.lpips_counterfactual"] == pytest.approx(0, abs=1e-4)
        assert figures[f"{prefix}truth.fid"] == pytest.approx(0, abs=1e-3)
        assert figures[f"{prefix}source.fid"] > 0.01
        for key in ("acc8", "acc2", "ssim", "lpips_counterfactual", "fid", "kid"):
            assert figures[f"{prefix}baseline.{key}"] == pytest.approx(figures[f"{prefix}source.{key}"], abs=1e-5)
        for key in ("acc8", "ssim", "reconstruction_error", "lpips_counterfactual"):
            less = figures[f"{prefix}with.{key}"] - figures[f"{prefix}baseline.{key}"]
            assert figures[f"{prefix}with_less_baseline.{key}"] == pytest.approx(less, abs=1e-4)
    assert figures["baseline.reconstruction_error"] == 0 < figures["with.reconstruction_error"]
    assert figures["with.reconstruction_error"] != figures["without.reconstruction_error"]
    assert figures["source.ssim"] == pytest.approx(1)
    assert figures["with.ssim"] < 1
    assert figures["with.acc8_low"] == figures["with.acc8.low"] < figures["with.acc8_high"]
    assert (figures["seconds_512"], figures["paper_sized.peak_memory_gb"]) == (0.5, 2.0)
    assert (figures["streamed_10.peak_memory_gb"], figures["streamed_100.peak_memory_gb"]) == (1.0, 2.0)
    with pytest.raises(UserError, match="four scenes"):
        run(emolat, tmp_path, "--n", "3")


def test_bench_emolat_ablation(small_emolat, tmp_path, monkeypatch):
    monkeypatch.setattr(emolat_ablation, "load_emolat", lambda name: small_emolat)
    quick = ("transfer.smooth=5", "transfer.lr=0.03", "transfer.warmup=0", "transfer.ema=0")
    found = run(emolat_ablation, tmp_path, "--n", "4", "--share", "1", *quick)
    figures = found["figures"]
    assert_as_published(found)
    assert_within(found)
    for loss in emolat_ablation.LOSSES:
        for key in ("acc8", "ssim", "lpips_counterfactual"):
            less = figures[f"all.{key}"] - figures[f"no_{loss}.{key}"]
            assert figures[f"all_less_no_{loss}.{key}"] == pytest.approx(less, abs=1e-4)
    assert figures["all_less_no_emotion.lpips_counterfactual"] != 0  # what is left out is missed
    assert found["settings"]["steps"] == 2
    trained = ["all", *(f"no_{loss}" for loss in emolat_ablation.LOSSES)]
    times = lambda: {path.stem: path.stat().st_mtime_ns for path in tmp_path.glob("*/*.safetensors")}
    before = times()
    assert set(before) == set(trained)
    again = run(emolat_ablation, tmp_path, "--n", "4", "--share", "1", *quick)  # trains nothing again
    assert times() == before
    assert again["figures"] == figures


def test_bench_emolat_train(tmp_path, monkeypatch):
    monkeypatch.setattr(emolat_train, "train_probe", partial(emolat_train.train_probe, steps=2))
    settings = ("data.n=32", "data.size=64", "emolat.steps=3", "emolat.batch=8", "model.entries=8")
    found = run(emolat_train, tmp_path, "--graphs", "16", *settings)
    figures = found["figures"]
    assert_as_published(found)
    seeds = lambda key: [figures[f"{key}.seed_{i}"] for i in (2, 3, 4)]
    assert figures["perplexity_min"] == min(seeds("perplexity_min"))  # what must hold to the end: the worst
    assert figures["separation"] == pytest.approx(sum(seeds("separation")) / 3)  # others: the mean
    assert figures["probe_accuracy.low"] <= min(seeds("probe_accuracy")) <= figures["probe_accuracy"]
    assert figures["probe_accuracy.high"] >= max(seeds("probe_accuracy"))
    assert figures["speedup"] == pytest.approx(figures["graphs_batched"] / figures["graphs_single"])
    assert figures["losses_finite"] == 1 and 1 <= figures["perplexity_end"] <= 8  # of eight entries
    assert figures["separation_no_dispersion"] != figures["separation"]
