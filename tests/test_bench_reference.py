"""The benchmarks of retrieval and Gram transfer on little; their figures come from `affect bench`."""

from dataclasses import replace

import numpy as np
import pytest
from bench import assert_as_published, run
from comfyui_affect.benchmarks import gram, gram_quality, retrieval
from comfyui_affect.models.errors import UserError


def test_bench_retrieval(tmp_path, monkeypatch):
    monkeypatch.setattr(retrieval, "USUAL", 100)
    monkeypatch.setattr(retrieval, "LARGE", 120)
    monkeypatch.setattr(retrieval.memory, "alone", lambda job, *given: job(*given))
    edges = np.random.default_rng(0).integers(0, 256, (110, 128, 128), dtype=np.uint8)
    monkeypatch.setattr(retrieval, "scenes", lambda folder, n: edges[:n])
    found = run(retrieval, tmp_path, "--queries", "4", "--sizes", "50,100,120")
    figures = found["figures"]
    assert_as_published(found)
    assert figures["top5_identical"] == figures["torch_identical"] == figures["near_duplicates_identical"] == 1
    assert 0 < figures["visited_near_duplicates"] <= 1
    for end, seconds in (("", figures["milliseconds"]), ("_cached", figures["milliseconds_cached"])):
        times = 1000 * figures["skimage_seconds"] / seconds
        assert figures[f"speedup_vs_skimage{end}"] == pytest.approx(times)
    with pytest.raises(UserError, match="pictures at least"):
        run(retrieval, tmp_path, "--sizes", "1")


def test_bench_retrieval_sees_a_wrong_answer(tmp_path, monkeypatch):
    monkeypatch.setattr(retrieval, "USUAL", 100)
    monkeypatch.setattr(retrieval.memory, "alone", lambda job, *given: job(*given))
    edges = np.random.default_rng(0).integers(0, 256, (110, 128, 128), dtype=np.uint8)
    monkeypatch.setattr(retrieval, "scenes", lambda folder, n: edges[:n])
    right = retrieval.brute_force
    monkeypatch.setattr(retrieval, "brute_force", lambda *given: [[0, 1, 2, 3, 4], *right(*given)[1:]])
    figures = run(retrieval, tmp_path, "--queries", "4", "--sizes", "100")["figures"]
    assert figures["top5_identical"] == figures["torch_identical"] == 0.75


class Inline:
    """A pool of no processes."""

    def __init__(self, *_, **__):
        self.map = lambda job, *given, **_: map(job, *given)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False


@pytest.fixture
def little(monkeypatch):
    """Gram transfer of two iterations, in this process."""
    monkeypatch.setattr(gram_quality, "ProcessPoolExecutor", Inline)
    usual = replace(gram_quality.USUAL, iterations=2)
    monkeypatch.setattr(gram_quality, "USUAL", usual)
    monkeypatch.setattr(gram_quality, "LOSSES", {"": usual, "paper.": replace(usual, smoothness=0.0)})
    monkeypatch.setattr(gram_quality, "LEAST", 200)
    monkeypatch.setattr(gram_quality, "photographs", lambda *_: None)
    monkeypatch.setattr(gram, "BUDGETS", (3,))
    monkeypatch.setattr(gram.memory, "alone", lambda job, *given: 1.0)
    monkeypatch.setattr(gram, "GramConfig", lambda smoothness: replace(usual, iterations=3, smoothness=smoothness))
    photo = gram._photo
    monkeypatch.setattr(gram, "_photo", lambda name, side: photo(name, 64))


def test_bench_gram(little, tmp_path):
    found = run(gram, tmp_path, "--scenes", "3", "--gallery", "200")
    figures = found["figures"]
    assert_as_published(found)
    less = figures["lpips_random"] - figures["lpips_retrieved"]
    assert figures["lpips_random_less_retrieved"] == pytest.approx(less)
    less = figures["layout_iou_ssim"] - figures["layout_iou_perceptual"]
    assert figures["layout_iou_ssim_less_perceptual"] == pytest.approx(less)
    for loss in ("", "paper."):
        less = figures[f"{loss}vgg.ssim_mean_densenet"] - figures[f"{loss}ssim_mean_vgg"]
        assert figures[f"{loss}vgg.densenet_less_vgg"] == pytest.approx(less, nan_ok=True)
        assert figures[f"{loss}lpips_better_fraction"] in (0, pytest.approx(1 / 3), pytest.approx(2 / 3), 1)
    assert 1 > figures["ssim_mean"] > 0.5  # two iterations change something, and little
    assert figures["ssim_mean"] > figures["ssim_counterfactual"]
    assert figures["peak_memory_gb_1024"] == figures["peak_memory_gb_1024_densenet121"] == 1.0
    reached = figures["reached_fraction"] * len(gram.SPEED_PAIRS)
    assert reached == sum(figures[f"time_ratio_512.{name}"] is not None for name, _ in gram.SPEED_PAIRS)
    assert all(figures[f"loss_ratio_512.{name}"] > 0 for name, _ in gram.SPEED_PAIRS)
    assert (tmp_path / "transfers-test.png").is_file()
    with pytest.raises(UserError, match="at least"):
        run(gram, tmp_path, "--gallery", "8", "--only", "quality")


def test_the_speed_of_a_solver_that_does_not_get_there_counts_as_not_reached(tmp_path, monkeypatch):
    pair = {"time_ratio": 0.5, "loss_ratio": 1.0, "rate": 0.01, "load": 1.0}
    pair |= {"time_ratio_by_itself": 0.25, "loss_ratio_by_itself": 1.5}
    late = {**pair, "time_ratio": None, "loss_ratio": 2.0}
    first = gram.SPEED_PAIRS[0][0]
    monkeypatch.setattr(gram, "_pair", lambda out, names, side, smoothness: late if names[0] == first else pair)
    figures = gram.speed(tmp_path, tmp_path)
    assert figures["reached_fraction"] == 0.75 and figures["time_ratio_512"] == 0.5
    assert figures[f"time_ratio_512.{first}"] == float("inf") and figures["time_ratio_512_by_itself"] == 0.25
    assert figures.as_json()["figures"][f"time_ratio_512.{first}"] is None
    assert figures.unit[f"smooth.rate_512.{first}"] == "Adam's rate"


def test_networks_are_compared_along_their_sweeps():
    turned = np.array([[0.30, 0.60], [0.33, 0.45], [0.31, 0.40]])  # the gain falls again beyond the best weight
    at = lambda gain: gram_quality.ssim_at(turned, gain)
    assert at(0.305) == pytest.approx(0.575) and at(0.32) == pytest.approx(0.5) and np.isnan(at(0.5))
    row = {}
    for i, weight in enumerate(gram_quality.VGG_WEIGHTS):
        row |= {f"paper.vgg_{weight:g}.gain": 0.1 * i, f"paper.vgg_{weight:g}.ssim": 0.9 - 0.1 * i}
    for weight, gain, ssim in ((1e4, 0.0, 1.0), (1e5, 0.2, 0.95)):
        row |= {f"paper.densenet_{weight:g}.gain": gain, f"paper.densenet_{weight:g}.ssim": ssim}
    usual = lambda gain, ssim: {"paper.densenet_1e+06.gain": gain, "paper.densenet_1e+06.ssim": ssim}
    found = gram_quality.networks([row | usual(0.3, 0.8)] * 3, "paper.")
    assert found["paper.ssim_mean_vgg"] == pytest.approx(0.6)
    assert found["paper.vgg.densenet_less_vgg"] == pytest.approx(0.2)
    found = gram_quality.networks([row | usual(0.9, 0.6)] * 3, "paper.")  # more than VGG ever reaches: at VGG's largest
    last = len(gram_quality.VGG_WEIGHTS) - 1
    assert found["paper.vgg.sentiment_gain_compared"] == pytest.approx(0.1 * last)
    assert found["paper.ssim_mean_vgg"] == pytest.approx(0.9 - 0.1 * last)
