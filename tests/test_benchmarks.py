"""The benchmarks' own machinery on small stand-ins; their figures come from `affect bench`."""

import zlib

import numpy as np
import pytest
import torch
from comfyui_affect.benchmarks import methods, store
from comfyui_affect.benchmarks.methods import Method
from comfyui_affect.benchmarks.rivals import universal_guidance
from comfyui_affect.benchmarks.tasks import Task, editing, emotion_only, generation
from comfyui_affect.models import metrics
from comfyui_affect.models.diffusion.sampling import Sampler, schedule
from comfyui_affect.models.emotions import MIKELS
from comfyui_affect.models.errors import UserError
from comfyui_affect.training.data.moodscenes import split_of


def test_tasks_are_held_out_and_name_no_feeling():
    tasks = generation(16)
    assert all(split_of(t.layout) == "test" for t in tasks) and len({t.layout for t in tasks}) == 16
    assert not any(t.emotion in t.prompt for t in tasks)
    assert generation(8) == tasks[:8] and generation(8, "val") != tasks[:8]
    assert all(t.source != t.emotion for t in editing(16))
    assert emotion_only(8)[3].prompt == "an image of excitement"


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """A store whose weights are a file of this test, and a maker that counts."""
    weights = tmp_path / "weights"
    weights.write_bytes(b"one")
    monkeypatch.setattr(store.tiny, "path", lambda name: weights)
    monkeypatch.setattr(methods.host, "cores", lambda: 1)
    made = []

    def make(method, tasks):
        made.extend(t.seed for t in tasks)
        return torch.stack([torch.full((3, 8, 8), t.seed / 255) for t in tasks]), [{"n": t.seed} for t in tasks]

    monkeypatch.setattr(methods, "make", make)
    store.fingerprint.cache_clear()
    yield tmp_path / "out", weights, made
    store.fingerprint.cache_clear()


def test_a_bench_goes_on_where_it_stopped(bench):
    root, _, made = bench
    tasks = [Task("a", "awe", i) for i in range(6)]
    methods.make_all(root, [(Method("prompt"), tasks[:2])], batch=2)
    methods.make_all(root, [(Method("prompt"), tasks)], batch=2)
    assert made == [0, 1, 2, 3, 4, 5]
    kept = store.Store(root, Method("prompt"))
    assert torch.allclose(kept.images(tasks)[5], torch.full((3, 8, 8), 5 / 255)) and kept.notes(tasks)[5] == {"n": 5}


def test_other_models_and_other_settings_are_made_anew(bench):
    root, weights, made = bench
    tasks = [Task("a", "awe", 1)]
    methods.make_all(root, [(Method("prompt"), tasks)])
    methods.make_all(root, [(Method("prompt", cfg=3.0), tasks)])
    weights.write_bytes(b"two")
    store.fingerprint.cache_clear()
    methods.make_all(root, [(Method("prompt"), tasks)])
    assert made == [1, 1, 1]


def test_universal_guidance_is_euler_at_strength_zero_and_lowers_the_loss(small_unet, small_vae, small_classifier):
    context = lambda seed: small_unet.context(
        [[torch.randn(1, 77, 16, generator=torch.Generator().manual_seed(seed)), {}]]
    )
    positive, negative = context(0), context(1)
    sigmas = schedule("karras", small_unet.sigma_table, 4)
    start = sigmas[0] * torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    loss = lambda image: torch.nn.functional.cross_entropy(
        small_classifier(image), torch.tensor([6, 6]), reduction="none"
    )
    fresh = torch.Generator().manual_seed(3)
    run = lambda strength, again=1: universal_guidance(
        small_unet,
        small_vae,
        loss,
        start,
        sigmas,
        positive,
        negative,
        3.0,
        strength,
        again,
        lambda: torch.randn(start.shape, generator=fresh),
    )
    plain = Sampler("euler")(lambda x, s: small_unet.guided(x, s, positive, negative, 3.0), start, sigmas)
    assert torch.allclose(run(0.0), plain, rtol=1e-3, atol=1e-3)
    value = lambda latent: float(loss(small_vae.decode(small_unet.latent_out(latent))).sum())
    assert value(run(20.0)) < value(plain)
    assert not torch.allclose(run(0.0, 2), plain, atol=1e-2)


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """Methods that answer with noise, seeded by method and task, in this process."""

    def make(method, tasks):
        images = [
            torch.rand(3, 128, 128, generator=torch.Generator().manual_seed(zlib.crc32(repr((method, task)).encode())))
            for task in tasks
        ]
        return torch.stack(images), [{"opened_at": 7, "inherent": "awe", "inner_steps": 3} for _ in tasks]

    monkeypatch.setattr(methods.host, "cores", lambda: 1)
    monkeypatch.setattr(methods, "make", make)
    return tmp_path


def figures_of(bench, folder, *options):
    import argparse
    import json

    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    assert bench.main(parser.parse_args(["--out", str(folder), "--json", str(folder / "figures.json"), *options])) == 0
    found = json.loads((folder / "figures.json").read_text())
    assert set(found["figures"]) == set(found["unit"]) and found["settings"]["fingerprint"]
    return found["figures"]


def test_bench_muse_has_every_figure(pictures):
    from comfyui_affect.benchmarks import muse

    figures = figures_of(muse, pictures, "--n", "4")
    keys = [
        f"{name}.{key}"
        for name in ("prompt", "word", "universal", "muse", "guide_b")
        for key in ("tiny_a", "tiny_b", "tiny_c", "own_prompt_r1", "clip", "kid")
    ]
    keys += [
        "heldout.tiny_a",
        "heldout.tiny_b",
        "heldout.tiny_c",
        "intensity_rank_correlation",
        "edit.tiny_b",
        "edit.lpips_counterfactual",
        "edit.lpips_source_counterfactual",
        "edit.ssim",
        "edit.ssim_reconstruction",
        "emotion_only.muse.diversity",
        "emotion_only.muse.kid",
        "mix.first_less_between",
    ]
    assert not [key for key in keys if figures.get(key) is None]
    assert figures["heldout.tiny_a"] != figures["muse.tiny_a"] or figures["heldout.clip"] != figures["muse.clip"]
    assert figures["universal.strength"] in muse.STRENGTHS
    assert (pictures / "methods-test.png").is_file() and (pictures / "universal.png").is_file()
    with pytest.raises(UserError, match="two prompts"):
        figures_of(muse, pictures, "--n", "1")


def test_bench_muse_ablation_has_every_figure(pictures):
    from comfyui_affect.benchmarks import muse_ablation

    figures = figures_of(muse_ablation, pictures, "--n", "4")
    names = [
        "no_tokens",
        "target_only",
        "suppress_1",
        "suppress_10",
        "suppress_100",
        *(f"gate_{t:g}" for t in muse_ablation.THRESHOLDS),
    ]
    keys = [
        f"{name}.{key}"
        for name in names
        for key in ("tiny_a", "tiny_b", "own_prompt_r1", "kid", "p_inherent", "p_similar")
    ]
    assert len(muse_ablation.THRESHOLDS) >= 6 and not [key for key in keys if figures.get(key) is None]


def test_what_is_held_down_is_read_where_it_stands():
    from comfyui_affect.benchmarks.muse_ablation import _held_down

    p = torch.eye(8)[[MIKELS.index("fear"), MIKELS.index("sadness")]]
    held = _held_down(p, ["fear", "awe"], [Task("a", "awe", 0), Task("a", "awe", 1)])
    assert held["p_inherent"].tolist() == [1.0]  # the second's inherent emotion is the one asked for
    assert held["p_similar"].tolist() == [0.0] * 4
    assert (
        _held_down(p, ["fear", "fear"], [Task("a", "excitement", 0)] * 2)["p_similar"].sum() == 1
    )  # fear stands beside excitement


def test_a_jackknife_knows_a_mean():
    values = torch.randn(400, generator=torch.Generator().manual_seed(0))
    low, high = metrics.jackknife_interval(lambda x: float(x.mean()), values, groups=400)
    assert (low, high) == pytest.approx(metrics.mean_interval(values), abs=2e-3)


def test_networks_are_compared_along_their_sweeps():
    from comfyui_affect.benchmarks.gram_quality import networks, ssim_at

    turned = np.array([[0.30, 0.60], [0.33, 0.45], [0.31, 0.40]])  # the gain falls again beyond the best weight
    assert ssim_at(turned, 0.305) == pytest.approx(0.575) and ssim_at(turned, 0.32) == pytest.approx(0.5)
    assert np.isnan(ssim_at(turned, 0.5))
    from comfyui_affect.benchmarks import gram_quality

    row = {
        f"paper.vgg_{w:g}.{key}": value
        for i, w in enumerate(gram_quality.VGG_WEIGHTS)
        for key, value in (("gain", 0.1 * i), ("ssim", 0.9 - 0.1 * i))
    }
    row |= {
        "paper.densenet_10000.gain": 0.0,
        "paper.densenet_10000.ssim": 1.0,
        "paper.densenet_100000.gain": 0.2,
        "paper.densenet_100000.ssim": 0.95,
    }
    usual = lambda gain, ssim: {"paper.densenet_1e+06.gain": gain, "paper.densenet_1e+06.ssim": ssim}
    found = networks([row | usual(0.3, 0.8)] * 3, "paper.")
    assert found["paper.ssim_mean_vgg"] == pytest.approx(0.6) and found["paper.vgg.densenet_less_vgg"] == pytest.approx(
        0.2
    )
    found = networks([row | usual(0.9, 0.6)] * 3, "paper.")  # more than VGG ever reaches: at VGG's largest
    last = len(gram_quality.VGG_WEIGHTS) - 1
    assert found["paper.vgg.sentiment_gain_compared"] == pytest.approx(0.1 * last) and found[
        "paper.ssim_mean_vgg"
    ] == pytest.approx(0.9 - 0.1 * last)


def test_the_papers_orders_are_signed_as_printed():
    from comfyui_affect.benchmarks import moodifier

    keys = ("clip", "structure", "lpips", "psnr", "mse", "ssim", "lpips_counterfactual", "lpips_masked_truth")
    rows = {
        name: {key: torch.full((4,), value) for key in keys}
        for name, value in (("both", 2.0), ("infedit", 1.0), ("clip_text", 3.0))
    }
    found = moodifier.orders(rows)
    assert (
        found["order.table4.clip"] == 1 and found["order.table4.lpips"] == -1
    )  # ours nearer to the emotion: holds; background: fails
    assert found["order.table4.structure"] == 1 and found["order.table4.ssim"] == -1
    assert found["order.clip.both-clip_text"] == -1 and found["lead.structure.infedit"] == -1
    unit = moodifier._unit
    assert [
        unit(k)
        for k in (
            "both.clip",
            "clip_text.ssim",
            "clip_text.clip.low",
            "order.table4.psnr",
            "lead.lpips_counterfactual.infedit",
            "iou_attention",
            "order.clip.a-b",
        )
    ] == ["100 cosine", "share", "100 cosine", "dB", "distance", "share", "100 cosine"]


@pytest.fixture
def small_emolat(monkeypatch):
    """The bundled EmoLat as one that was trained for two steps on sixteen scenes."""
    from comfyui_affect.models.emolat.space import load_emolat
    from comfyui_affect.training.config import load_config

    emolat = load_emolat("tiny")
    config = load_config("emolat", ["data.n=16", "data.size=64", "transfer.steps=2", "transfer.batch=2"])
    monkeypatch.setattr(emolat, "training_config", {key: config[key] for key in ("data", "emolat", "transfer")})
    monkeypatch.setattr(methods.host, "cores", lambda: 1)
    return emolat


def test_bench_emolat_has_every_figure(small_emolat, tmp_path, monkeypatch):
    from comfyui_affect.benchmarks import clipstyler, emolat

    monkeypatch.setattr(emolat, "load_emolat", lambda name: small_emolat)
    monkeypatch.setattr(emolat.memory, "alone", lambda job, *given: (1.0, 2.0))
    monkeypatch.setattr(emolat, "seconds", lambda model: 0.5)
    monkeypatch.setattr(clipstyler, "make_all", lambda folder, jobs: torch.cat([image for _, image, *_ in jobs]))
    figures = figures_of(emolat, tmp_path, "--n", "4")
    keys = [
        f"{prefix}{name}.{key}"
        for prefix in ("", "seven.")
        for name in ("with", "without", "baseline")
        for key in (
            "acc8",
            "acc2",
            "acc8_low",
            "acc8_high",
            "ssim",
            "reconstruction_error",
            "fid",
            "lpips_counterfactual",
        )
    ]
    keys += [
        "lpips_better_fraction",
        "seconds_512",
        "with_less_without.acc8",
        "paper_sized.peak_memory_gb",
        "streamed_100.peak_memory_gb",
    ]
    assert not [key for key in keys if key not in figures]
    assert (
        figures["baseline.reconstruction_error"]
        == 0
        < figures["with.reconstruction_error"]
        != figures["without.reconstruction_error"]
    )


def test_bench_emolat_ablation_has_every_figure(small_emolat, tmp_path, monkeypatch):
    from comfyui_affect.benchmarks import emolat_ablation

    monkeypatch.setattr(emolat_ablation, "load_emolat", lambda name: small_emolat)
    figures = figures_of(
        emolat_ablation,
        tmp_path,
        "--n",
        "4",
        "--share",
        "1",
        "transfer.smooth=5",
        "transfer.lr=0.03",
        "transfer.warmup=0",
        "transfer.ema=0",
    )
    names = ["all", *(f"no_{loss}" for loss in emolat_ablation.LOSSES)]
    assert not [
        key
        for key in (f"{name}.{key}" for name in names for key in ("acc8", "ssim", "lpips_counterfactual"))
        if key not in figures
    ]
    assert figures["all_less_no_emotion.lpips_counterfactual"] != 0  # what is left out is missed


def test_bench_emolat_train_has_every_figure(tmp_path, monkeypatch):
    from functools import partial

    from comfyui_affect.benchmarks import emolat_train

    monkeypatch.setattr(emolat_train, "train_probe", partial(emolat_train.train_probe, steps=2))
    figures = figures_of(
        emolat_train,
        tmp_path,
        "--graphs",
        "16",
        "data.n=32",
        "data.size=64",
        "emolat.steps=3",
        "emolat.batch=8",
        "model.entries=8",
    )
    keys = [
        f"{key}{name}"
        for name in ("", "_no_adversary", "_no_dispersion")
        for key in (
            "probe_accuracy",
            "separation",
            "perplexity_min",
            "perplexity_counted_min",
            "perplexity_before_settling",
            "perplexity_end",
            "map_clustered",
            "losses_finite",
        )
    ]
    assert not [
        key for key in (*keys, "speedup", "probe_accuracy_real", "probe_accuracy_untrained") if key not in figures
    ]
    assert figures["perplexity_min"] == min(figures[f"perplexity_min.seed_{i}"] for i in (2, 3, 4))
    assert figures["probe_accuracy.low"] <= min(figures[f"probe_accuracy.seed_{i}"] for i in (2, 3, 4))
    assert figures["losses_finite"] == 1


def test_bench_emolat_tokens_has_every_figure(pictures, monkeypatch):
    from types import SimpleNamespace

    from comfyui_affect.benchmarks import emolat_tokens

    monkeypatch.setattr(emolat_tokens, "load_emolat", lambda name: SimpleNamespace(token_map=None))
    with pytest.raises(UserError, match="no projection"):
        figures_of(emolat_tokens, pictures, "--n", "4")
    monkeypatch.setattr(emolat_tokens, "load_emolat", lambda name: SimpleNamespace(token_map=1))
    figures = figures_of(emolat_tokens, pictures, "--n", "4")
    assert figures["inner_steps_saved"] == 0 and figures["random.inner_steps"] == 3  # the stand-in always takes three
    assert not [
        key for key in ("emolat.tiny_b", "emolat_unmoved.clip", "emolat_less_random.tiny_b.low") if key not in figures
    ]


def test_bench_retrieval_has_every_figure(tmp_path, monkeypatch):
    from comfyui_affect.benchmarks import retrieval

    monkeypatch.setattr(retrieval, "USUAL", 100)
    monkeypatch.setattr(retrieval, "LARGE", 120)
    monkeypatch.setattr(retrieval.memory, "alone", lambda job, *given: job(*given))
    edges = np.random.default_rng(0).integers(0, 256, (110, 128, 128), dtype=np.uint8)
    monkeypatch.setattr(retrieval, "scenes", lambda folder, n: edges[:n])
    figures = figures_of(retrieval, tmp_path, "--queries", "4", "--sizes", "50,100,120")
    keys = (
        "top5_identical",
        "speedup_vs_skimage",
        "speedup_vs_skimage_cached",
        "speedup_torch_path",
        "milliseconds",
        "milliseconds_cached",
        "peak_memory_gb",
        "peak_memory_gb_cached",
        "peak_memory_gb_50k",
        "visited_near_duplicates",
        "torchmetrics_seconds",
    )
    assert not [key for key in keys if key not in figures]
    assert figures["top5_identical"] == figures["torch_identical"] == figures["near_duplicates_identical"] == 1
    with pytest.raises(UserError, match="pictures at least"):
        figures_of(retrieval, tmp_path, "--sizes", "1")


class Inline:
    """A pool of no processes."""

    def __init__(self, *_, **__):
        self.map = lambda job, *given, **_: map(job, *given)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False


def test_bench_gram_has_every_figure(tmp_path, monkeypatch):
    from dataclasses import replace

    from comfyui_affect.benchmarks import gram, gram_quality

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
    figures = figures_of(gram, tmp_path, "--scenes", "3", "--gallery", "200")
    keys = (
        "time_ratio_512",
        "time_ratio_512_by_itself",
        "reached_fraction",
        "peak_memory_gb_1024",
        "sentiment_gain",
        "lpips_better_fraction",
        "lpips_retrieved",
        "lpips_random",
        "layout_iou_ssim",
        "layout_iou_perceptual",
        "ssim_mean",
        "ssim_mean_vgg",
        "smooth.time_ratio_512",
        "paper.sentiment_gain",
        "paper.ssim_mean",
        "paper.ssim_mean_vgg",
        "last.ssim_mean",
    )
    assert not [key for key in keys if key not in figures]
    assert figures["ssim_mean"] > 0.5
    with pytest.raises(UserError, match="at least"):
        figures_of(gram, tmp_path, "--gallery", "8", "--only", "quality")
