"""The benchmarks' own machinery on small stand-ins; their figures come from `affect bench`."""

import pytest
import torch
from comfyui_affect.benchmarks import methods, store
from comfyui_affect.benchmarks.methods import Method
from comfyui_affect.benchmarks.rivals import universal_guidance
from comfyui_affect.benchmarks.tasks import Task, editing, emotion_only, generation
from comfyui_affect.models.diffusion.sampling import Sampler, schedule
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
