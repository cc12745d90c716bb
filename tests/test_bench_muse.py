"""The benchmarks of MUSE, with stand-ins for its images whose figures are known."""

from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import pytest
import torch
from bench import assert_as_published, assert_within, run
from comfyui_affect.benchmarks import emolat_tokens, measure, methods, muse, muse_ablation, muse_speed
from comfyui_affect.benchmarks.tasks import Task, scene
from comfyui_affect.models.emotions import MIKELS
from comfyui_affect.models.errors import UserError

NOTES = {"opened_at": 7, "inherent": "awe", "inner_steps": 3}


@pytest.fixture
def made(monkeypatch):
    """Has the benchmarks take their images and notes from a function of method and task, in this process."""

    def replace_by(image, notes=lambda method, task: NOTES):
        def make(method, tasks):
            return torch.stack([image(method, task) for task in tasks]), [notes(method, task) for task in tasks]

        monkeypatch.setattr(methods.host, "cores", lambda: 1)
        monkeypatch.setattr(methods, "make", make)

    return replace_by


def noise(seed):
    return torch.rand(3, 128, 128, generator=torch.Generator().manual_seed(seed))


BEST = 16.0
"""The strength at which the stand-in for universal guidance paints what was asked for."""


def as_if(method, task):
    """MUSE paints the very scene of the emotion, universal guidance at one strength too, a reconstruction is the
    source; all others paint noise. Emotions at an intensity fade in."""
    if method.kind == "reconstruction":
        return scene(task, task.source)
    if method.kind == "muse" and task.layout >= 0:
        faded = task.intensity * scene(task, task.emotion) + (1 - task.intensity) * noise(task.seed)
        return (faded + scene(task, task.second)) / 2 if task.second else faded
    if (method.kind, method.strength, method.recurrences) == ("universal", BEST, 2) and task.layout >= 0:
        return scene(task, task.emotion)
    return noise(task.seed)


def test_bench_muse(made, tmp_path):
    made(as_if)
    found = run(muse, tmp_path, "--n", "4")
    figures = found["figures"]
    assert_as_published(found)
    assert_within(found)
    assert found["settings"]["fingerprint"] == measure.fingerprint_of_figures()
    for key in ("tiny_a", "tiny_b", "tiny_c", "own_prompt_r1", "clip"):
        assert figures[f"muse.{key}"] == pytest.approx(figures[f"heldout.{key}"], abs=0.3 if key == "clip" else 1e-6)
    for key in ("tiny_b", "tiny_c", "own_prompt_r1", "clip"):
        assert figures[f"muse_less_universal.{key}"] == 0
        less = figures[f"muse.{key}"] - figures[f"prompt.{key}"]
        assert figures[f"muse_less_prompt.{key}"] == pytest.approx(less, abs=1e-4)
    assert figures["muse.kid"] < figures["prompt.kid"] and figures["muse.clip"] > figures["prompt.clip"]
    assert (figures["universal.strength"], figures["universal.recurrences"]) == (BEST, 2)
    assert (figures["muse.inner_steps"], figures["muse.opened_at"], figures["muse.opened_by_score"]) == (3, 7, 0)
    # An edit that is the truth, and a reconstruction that is the source (both as files of 8 bits).
    own = figures["edit.lpips_source_counterfactual"]
    assert figures["edit.lpips_counterfactual"] == pytest.approx(0, abs=0.02)
    assert figures["edit.lpips_gained"] == pytest.approx(own, abs=0.02)
    assert figures["reconstruction.lpips_gained"] == pytest.approx(0, abs=0.02)
    assert figures["edit.ssim_reconstruction"] == pytest.approx(1, abs=1e-3)
    assert figures["edit.ssim"] < 0.9
    assert figures["sdedit_0.4.lpips_counterfactual"] > own
    assert figures["intensity_1.p_target"] > figures["intensity_0.p_target"]
    assert figures["intensity_rank_correlation_of_means"] > 0.5
    less = figures["mix.p_first"] - figures["mix.p_between"]
    assert figures["mix.first_less_between"] == pytest.approx(less, abs=1e-4)
    assert figures["emotion_only.guide_b.diversity"] == pytest.approx(0, abs=1e-6)  # one image an emotion


def test_bench_muse_draws_its_sheets_and_refuses_two_prompts(made, tmp_path):
    made(as_if)
    run(muse, tmp_path, "--n", "3", "--only", "generation")
    assert (tmp_path / "methods-test.png").is_file() and (tmp_path / "universal.png").is_file()
    with pytest.raises(UserError, match="three prompts"):
        run(muse, tmp_path, "--n", "2")


def stamped(probabilities):
    """An image whose first pixels hold what the stand-in for a classifier sees in it, in 255ths."""
    image = noise(0)
    image[:, 0, :8] = torch.tensor(probabilities) / 255
    return image


@pytest.fixture
def stamps(monkeypatch):
    """Classifiers read what `stamped` wrote; CLIP and the kernel distance look at the image as ever."""
    real = measure._judge
    reads = lambda images: images[:, 0, 0, :8].clamp(min=1e-6).log()
    monkeypatch.setattr(measure, "_judge", lambda name: real(name) if name == "tiny-eval" else reads)


def test_bench_muse_ablation(made, stamps, tmp_path):
    """The stand-in holds awe down to a tenth of 100 / 255 a factor of ten, and obeys below a threshold of 30 alone."""
    held = dict(zip(muse_ablation.SUPPRESSION, (200, 100, 51, 5)))
    name_of = {repr(method): name for name, method in muse_ablation.variants().items()}

    def image(method, task):
        row = [0] * 8
        name = name_of.get(repr(method), "prompt")
        if name in held:
            row[MIKELS.index("awe")] = held[name]
            row[MIKELS.index(task.emotion)] += 255 - held[name]
        elif name.startswith("gate_") and float(name.removeprefix("gate_")) < 30:
            row[MIKELS.index(task.emotion)] = 255
        else:
            row[MIKELS.index("disgust")] = 255
        return stamped(row)

    made(image)
    found = run(muse_ablation, tmp_path, "--n", "4")  # amusement, awe, contentment, excitement
    figures = found["figures"]
    assert_as_published(found)
    assert_within(found)
    for name, value in held.items():
        assert figures[f"{name}.p_inherent"] == pytest.approx(value / 255, abs=0.01)
        less = (value - held["target_only"]) / 255
        if name != "target_only":
            assert figures[f"{name}_less_target_only.p_inherent"] == pytest.approx(less, abs=0.01)
    assert [figures[f"gate_{t:g}.tiny_b"] for t in muse_ablation.THRESHOLDS] == [1, 1, 0, 0, 0, 0]
    assert figures["gate_rank.tiny_b"] == pytest.approx(-0.828, abs=0.01)  # Spearman's, with ties
    assert figures["no_tokens.p_inherent"] == pytest.approx(1.0, abs=0.01)  # the plain image's: disgust


def test_what_is_held_down_is_read_where_it_stands():
    p = torch.eye(8)[[MIKELS.index("fear"), MIKELS.index("sadness")]]
    held = muse_ablation._held_down(p, ["fear", "awe"], [Task("a", "awe", 0), Task("a", "awe", 1)])
    assert held["p_inherent"].tolist() == [1.0]  # the second's inherent emotion is the one asked for
    assert held["p_similar"].tolist() == [0.0] * 4
    beside = muse_ablation._held_down(p, ["fear", "fear"], [Task("a", "excitement", 0)] * 2)
    assert beside["p_similar"].sum() == 1  # fear stands beside excitement


def test_bench_emolat_tokens(made, tmp_path, monkeypatch):
    monkeypatch.setattr(emolat_tokens, "load_emolat", lambda name: SimpleNamespace(token_map=None))
    with pytest.raises(UserError, match="no projection"):
        run(emolat_tokens, tmp_path, "--n", "4")
    monkeypatch.setattr(emolat_tokens, "load_emolat", lambda name: SimpleNamespace(token_map=1))
    steps = {"random": 8, "emolat": 6}
    made(
        lambda method, task: scene(task, task.emotion) if method.start == "random" else noise(task.seed),
        lambda method, task: {"inner_steps": steps[method.start] * (method.muse.max_inner_steps > 0)},
    )
    found = run(emolat_tokens, tmp_path, "--n", "4")
    figures = found["figures"]
    assert_as_published(found)
    assert figures["inner_steps_saved"] == 0.25
    assert (figures["random.inner_steps"], figures["emolat.inner_steps"]) == (8, 6)
    less = figures["emolat.clip"] - figures["random.clip"]
    assert figures["emolat_less_random.clip"] == pytest.approx(less, abs=1e-3) and less < 0
    assert figures["emolat_unmoved.clip"] == figures["emolat.clip"]


def test_what_makes_muse_weaker_is_another_method():
    assert muse_ablation.suppressed(10).muse.similar_weight == pytest.approx(10 * muse.MUSE.muse.similar_weight)
    assert muse_ablation.suppressed(0).muse.inherent_weight == 0 > muse_ablation.suppressed(0).muse.stop_loss
    assert muse_ablation.variants()["no_tokens"] == replace(muse.MUSE, muse=replace(muse.MUSE.muse, max_inner_steps=0))


def test_bench_muse_speed(made, tmp_path, monkeypatch):
    """On the bundled model with few steps. Each job is run once, and takes as many seconds as its place in its row."""

    def fastest(rounds, *jobs):
        for job in jobs:
            job()
        return [1.0 + i for i in range(len(jobs))]

    quick = replace(muse.MUSE, steps=4, muse=replace(muse.MUSE.muse, max_inner_steps=1))
    monkeypatch.setattr(muse_speed, "fastest", fastest)
    for name in ("load_classifier", "load_scorer"):
        monkeypatch.setattr(muse_speed, name, cache(getattr(muse_speed, name)))
    monkeypatch.setattr(muse_speed.tiny, "load_pipeline", cache(muse_speed.tiny.load_pipeline))
    monkeypatch.setattr(muse_speed, "MUSE", quick)
    monkeypatch.setattr(muse_speed, "FIXED", replace(quick.muse, stop_loss=-1e9))
    monkeypatch.setattr(muse_speed, "make", lambda method, tasks: None)
    run_of = muse_speed.run
    monkeypatch.setattr(muse_speed, "run", lambda guider, **given: run_of(guider, steps=3))
    peaks = {(0, False): 1.0, (2, False): 4.0, (2, True): 2.5}
    monkeypatch.setattr(muse_speed.memory, "alone", lambda job, *settings: peaks[settings])
    made(as_if)
    found = run(muse_speed, tmp_path, "--n", "4", "--rounds", "1")
    figures = found["figures"]
    assert_as_published(found)
    for end in ("", "_no_views"):
        assert figures[f"max_abs_diff{end}"] < 1e-4  # once a step or in every inner step: the same image
        assert (figures[f"speedup{end}"], figures[f"speedup_batched_pair{end}"]) == (2, 3)
        assert figures[f"inner_step_ratio{end}"] == pytest.approx(0.1)
    assert (figures["universal_ratio"], figures["total_ratio"], figures["batch_of_eight_speedup"]) == (2, 3, 2)
    assert (figures["inner_loop_memory_gb"], figures["checkpointing_saves"]) == (3, 0.5)
    assert figures["stop_usual.inner_steps"] == figures["limit_3.inner_steps"] == 3
    assert 0 < figures["cold_start.inner_steps"] <= 3 and figures["cold_start.seconds"] > 0
    ratio = figures["warm_start.inner_steps"] / max(1, figures["cold_start.inner_steps"])
    assert figures["warm_start_inner_steps"] == pytest.approx(ratio)
    again = run(muse_speed, tmp_path, "--n", "4", "--rounds", "1")  # every part is kept
    assert again["figures"] == figures
