"""MoodifyCLIP: its positions, its losses against values worked by hand, and open_clip loading it again."""

import json
import math
import shutil

import pytest
import torch
from bench import assert_as_published, assert_within, run
from comfyui_affect.models import tiny
from comfyui_affect.models.errors import UserError
from comfyui_affect.models.moodifier import losses, text_encoder
from comfyui_affect.models.networks import moodifyclip as moodify
from safetensors.torch import save_file
from torch.nn import functional as F


def rows(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_positions_are_kept_and_interpolated():
    positions = torch.arange(77.0)[:, None].expand(77, 3).contiguous()
    long = moodify.stretched(positions)
    assert long.shape == (248, 3) and torch.equal(long[:20], positions[:20])
    assert float(long[20, 0]) == 20 and float(long[-1, 0]) == 76
    steps = long[20:, 0].diff()
    assert torch.allclose(steps, torch.full_like(steps, 56 / 227), atol=1e-4)
    assert torch.equal(moodify.stretched(long), long)


def test_a_lengthened_clip_reads_short_texts_as_before_and_long_ones_whole():
    torch.manual_seed(0)
    short = tiny.build_clip().eval()
    long = moodify.lengthened(short).eval()
    ids = torch.tensor([[49406, 320, 900, 1200, 49407] + [0] * 10])
    with torch.no_grad():
        a, b = short.encode_text(F.pad(ids, (0, 62))), long.encode_text(F.pad(ids, (0, 233)))
        assert torch.allclose(a, b, atol=1e-5)
        word = torch.randint(300, 4000, (1, 246), generator=torch.Generator().manual_seed(1))
        whole = torch.cat([torch.tensor([[49406]]), word, torch.tensor([[49407]])], dim=1)
        other = whole.clone()
        other[0, 200] += 1
        assert not torch.allclose(long.encode_text(whole), long.encode_text(other), atol=1e-6)
    assert len(short.positional_embedding) == 77


def test_only_the_new_positions_learn():
    torch.manual_seed(0)
    long = moodify.lengthened(tiny.build_clip())
    moodify.freeze_kept(long)
    ids = torch.randint(300, 4000, (2, 248))
    ids[:, -1] = 49407
    long.encode_text(ids).square().sum().backward()
    gradient = long.positional_embedding.grad
    assert not gradient[:20].any() and gradient[20:].abs().sum() > 0


def test_patches_go_through_norm_and_projection():
    torch.manual_seed(0)
    clip = tiny.build_clip().eval()
    images = torch.randn(2, 3, 128, 128)
    with torch.no_grad():
        pooled, patches = moodify.patch_features(clip, images)
        assert torch.allclose(pooled, clip.encode_image(images, normalize=True), atol=1e-5)
    assert patches.shape == (2, 64, 128) and torch.allclose(patches.norm(dim=-1), torch.ones(2, 64), atol=1e-5)
    assert not clip.visual.output_tokens


def test_open_clip_loads_what_was_exported(tmp_path):
    import open_clip

    torch.manual_seed(0)
    long = moodify.lengthened(tiny.build_clip()).eval()
    folder = moodify.export(long, tmp_path / "mood", tiny.CLIP)
    again = open_clip.create_model(f"local-dir:{folder}").eval()
    ids = torch.randint(300, 4000, (1, 248))
    ids[:, -1] = 49407
    with torch.no_grad():
        assert torch.allclose(again.encode_text(ids), long.encode_text(ids), atol=1e-5)


def test_global_contrast_by_hand():
    image, text = torch.tensor([[1.0, 0], [0, 1.0]]), torch.tensor([[1.0, 0], [0.6, 0.8]])
    logits = 10 * image @ text.T
    want = 0
    for table in (logits, logits.T):
        want += -sum(math.log(math.exp(table[i, i]) / sum(math.exp(v) for v in table[i])) for i in range(2)) / 2
    assert float(losses.global_contrast(image, text, 10.0)) == pytest.approx(want / 2, rel=1e-4)


def test_equal_captions_share_their_positives():
    image, text = rows(3, 8), rows(3, 8, seed=1)[[0, 0, 2]]
    same = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]]).bool()
    with_same = losses.global_contrast(image, text, 5.0, same)
    logits = 5 * image @ text.T
    p = same.float() / same.sum(1, keepdim=True)
    want = (-(p * logits.log_softmax(1)).sum(1).mean() - (p * logits.T.log_softmax(1)).sum(1).mean()) / 2
    assert float(with_same) == pytest.approx(float(want), rel=1e-5)


def test_regions_by_hand():
    patches = torch.tensor([[[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]])
    stimuli = patches.clone()
    w = torch.softmax(torch.tensor([2.0, 0, 0]), 0)
    want = F.normalize(
        torch.stack(
            [torch.stack([w[0], w[1], w[1]]), torch.stack([w[1], w[0], w[1]]), torch.stack([w[1], w[1], w[0]])]
        ),
        dim=-1,
    )
    assert torch.allclose(losses.regions(patches, stimuli, 2.0)[0], want, atol=1e-6)


def test_fine_grained_contrasts_within_one_image():
    region, stimuli = rows(2, 3, 8), rows(2, 3, 8, seed=1)
    want = sum(float(losses.global_contrast(region[i], stimuli[i], 7.0)) for i in range(2)) / 2
    assert float(losses.fine_grained(region, stimuli, 7.0)) == pytest.approx(want, rel=1e-5)


def test_sinkhorn_by_hand_marginals_and_small_epsilon():
    cost = torch.rand(5, 7, generator=torch.Generator().manual_seed(0))
    for epsilon in (0.05, 0.01):
        plan = losses.sinkhorn(cost, epsilon, 2000)
        assert torch.isfinite(plan).all() and plan.dtype == torch.float32
        assert torch.allclose(plan.sum(1), torch.full((5,), 1 / 5), atol=1e-4)
        assert torch.allclose(plan.sum(0), torch.full((7,), 1 / 7), atol=1e-4)
    even = losses.sinkhorn(torch.zeros(2, 2))
    assert torch.allclose(even, torch.full((2, 2), 0.25))
    extreme = losses.sinkhorn(2000 * cost, 0.01)
    assert torch.isfinite(extreme).all()


def test_sinkhorn_is_pots():
    ot = pytest.importorskip("ot", reason="the POT library is in the dev extra")
    cost = torch.rand(12, 9, generator=torch.Generator().manual_seed(3))
    want = ot.sinkhorn(
        [1 / 12] * 12, [1 / 9] * 9, cost.double().numpy(), 0.05, method="sinkhorn_log", numItermax=5000, stopThr=1e-12
    )
    assert torch.allclose(losses.sinkhorn(cost, 0.05, 3000).double(), torch.from_numpy(want), atol=1e-5)


@pytest.mark.parametrize("epsilon", [0.05, 0.01])
@pytest.mark.parametrize("n, alike", [(12, False), (64, True)])
def test_sinkhorn_goes_on_until_it_is_pots(epsilon, n, alike):
    """As it is called: on cosines as in training, of regions that lie near their stimuli, half of which may have a
    twin."""
    ot = pytest.importorskip("ot", reason="the POT library is in the dev extra")
    text = F.normalize(rows(n, 128) + rows(1, 128, seed=1), dim=-1)
    twin = torch.randint(0, n // 2, (n,), generator=torch.Generator().manual_seed(5))
    image = F.normalize(text + 0.5 * rows(n, 128, seed=2), dim=-1)
    cost = 1 - image @ (text[twin] if alike else text).T
    weights = [1 / n] * n
    want = ot.sinkhorn(
        weights,
        weights,
        cost.double().numpy(),
        epsilon,
        method="sinkhorn_log",
        numItermax=10000,
        stopThr=1e-9,
        warn=False,
    )
    assert float((losses.sinkhorn(cost, epsilon).double() - torch.from_numpy(want)).abs().max()) < 1e-5


def test_sinkhorn_lets_gradients_through_as_its_iterations_do():
    cost = torch.rand(6, 6, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    k, f, g = -cost / 0.05, torch.zeros(6), torch.zeros(6)
    for _ in range(1000):
        f = -math.log(6) - torch.logsumexp(k + g, dim=1)
        g = -math.log(6) - torch.logsumexp(k + f[:, None], dim=0)
    (want,) = torch.autograd.grad(((k + f[:, None] + g).exp() * cost).sum(), cost)
    (found,) = torch.autograd.grad((losses.sinkhorn(cost) * cost).sum(), cost)
    assert torch.allclose(found, want, atol=1e-3)


def test_optimal_transport_by_hand_and_its_gradient():
    image, text = rows(4, 8), rows(4, 8, seed=1).requires_grad_(True)
    loss = losses.optimal_transport(image, text, 10.0)
    s = (image @ text.T).detach()
    logits = 4 * losses.sinkhorn(1 - s) * s * 10
    want = (F.cross_entropy(logits, torch.arange(4)) + F.cross_entropy(logits.T, torch.arange(4))) / 2
    assert float(loss.detach()) == pytest.approx(float(want.detach()), rel=1e-5)
    loss.backward()
    assert text.grad.abs().max() > 1e-3


def test_drift_by_hand():
    base = torch.full((1, 2, 3), 2.0)
    assert float(losses.drift(base + 1, base)) == pytest.approx(0.25) and float(losses.drift(base, base)) == 0


def test_equal_stimuli_share_their_positives_in_the_transport():
    image, text = rows(4, 8), rows(3, 8, seed=1)[[0, 0, 1, 2]]
    same = (text @ text.T) > 0.999
    s = image @ text.T
    logits = 4 * losses.sinkhorn(1 - s) * s * 10
    p = same.float() / same.sum(1, keepdim=True)
    want = (-(p * logits.log_softmax(1)).sum(1).mean() - (p * logits.T.log_softmax(1)).sum(1).mean()) / 2
    assert float(losses.optimal_transport(image, text, 10.0, same=same)) == pytest.approx(float(want), rel=1e-5)


def test_kept_positions_stay_under_weight_decay():
    from comfyui_affect.training.loop import LoopConfig, make_optimizer

    torch.manual_seed(0)
    long = moodify.lengthened(tiny.build_clip())
    moodify.freeze_kept(long)
    before = long.positional_embedding.detach().clone()
    optimizer = make_optimizer(long, LoopConfig(steps=1, batch=1, lr=0.1, weight_decay=0.5), fused=False)
    ids = torch.randint(300, 4000, (1, 248))
    ids[:, -1] = 49407
    long.encode_text(ids).square().sum().backward()
    optimizer.step()
    assert torch.equal(long.positional_embedding[:20], before[:20]) and not torch.equal(
        long.positional_embedding[20:], before[20:]
    )


@pytest.fixture
def exported(tmp_path, monkeypatch):
    """models/moodify_clip with one exported model, and the scorer it was."""
    from pathlib import Path

    from comfyui_affect.models import host
    from comfyui_affect.models.networks.clip import ClipScorer

    torch.manual_seed(0)
    long = moodify.lengthened(tiny.build_clip()).eval()
    moodify.export(long, tmp_path / "moodify_clip" / "mine", tiny.CLIP)
    monkeypatch.setattr(type(host.current()), "models_dirs", lambda self, kind: [Path(tmp_path / kind)])
    return ClipScorer(long, None, "mine")


def test_a_model_of_ones_own_is_listed_loaded_and_followed(exported, tmp_path):
    import os

    from comfyui_affect.nodes.moodifyclip import AffectMoodifyCLIPLoader as Loader

    choices = Loader.INPUT_TYPES()["required"]["model"][0]
    assert choices == ["tiny", "mine"]
    scorer, again = Loader().run("mine")
    assert scorer is again
    x = torch.rand(1, 3, 128, 128)
    with torch.no_grad():
        assert torch.allclose(scorer.image_features(x), exported.image_features(x), atol=1e-5)
    before = Loader.IS_CHANGED("mine")
    os.utime(tmp_path / "moodify_clip" / "mine" / "open_clip_model.safetensors", (1, 1))
    assert Loader.IS_CHANGED("mine") != before != ""


def test_texts_are_cut_behind_a_sentence_and_conditioning_is_as_long_as_it_needs(exported, capsys):
    from comfyui_affect.models.networks.tokenizer import END
    from comfyui_affect.nodes.moodifyclip import AffectMoodifyCLIPTextEncode as Encode

    scorer = moodify.load_moodify_clip("mine")
    ((short, options),) = Encode().run(scorer, "a house by a lake")[0]
    assert short.shape[1] == 77 and options["token_ids"][-1] == END
    ((middle, _),) = Encode().run(scorer, "a house by a lake " * 16)[0]
    assert middle.shape[1] == 16 * 5 + 2
    ((long, _),) = Encode().run(scorer, "A house stands by a lake. " * 60)[0]
    said = "".join(capsys.readouterr())
    assert long.shape[1] == 2 + 7 * 35 and "longer than MoodifyCLIP's 246" in said and "by a lake." in said
    assert len(scorer.text_features(["a house. " * 200])) == 1


def config_of(folder, change):
    path = folder / "open_clip_config.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


FOLDERS = {
    "no weights": (lambda d: (d / "open_clip_model.safetensors").unlink(), "has no weights"),
    "other weights": (lambda d: save_file({"a": torch.zeros(1)}, d / "open_clip_model.safetensors"), "wrong keys"),
    "code by Hugging Face": (
        lambda d: config_of(d, lambda c: c["model_cfg"]["text_cfg"].update(hf_model_name="evil")),
        "'hf_model_name'",
    ),
    "a tokenizer's code": (
        lambda d: config_of(d, lambda c: c["model_cfg"]["text_cfg"].update(hf_tokenizer_name="evil")),
        "'hf_tokenizer_name'",
    ),
    "timm": (
        lambda d: config_of(d, lambda c: c["model_cfg"]["vision_cfg"].update(timm_model_name="evil")),
        "'timm_model_name'",
    ),
    "a giant": (
        lambda d: config_of(d, lambda c: c["model_cfg"]["text_cfg"].update(width=10**6, heads=1)),
        "another shape",
    ),
    "a tower": (lambda d: config_of(d, lambda c: c["model_cfg"]["text_cfg"].update(layers=10**9)), "layers"),
    "unknown setting": (lambda d: config_of(d, lambda c: c["model_cfg"]["text_cfg"].update(evil=1)), "can build"),
    "no towers": (lambda d: config_of(d, lambda c: c.update(model_cfg=[])), "does not describe a CLIP"),
    "no json": (lambda d: (d / "open_clip_config.json").write_text("{"), "does not describe a CLIP"),
    "deep": (lambda d: (d / "open_clip_config.json").write_text("[" * 100_000), "does not describe a CLIP"),
    "a long text": (
        lambda d: config_of(d, lambda c: c["model_cfg"]["text_cfg"].update(context_length=40_000)),
        "asks for 40000 tokens",
    ),
    "no deviation": (lambda d: config_of(d, lambda c: c["preprocess_cfg"].update(std=[0, 0, 0])), "std's above 0"),
    "mean": (lambda d: config_of(d, lambda c: c["preprocess_cfg"].update(mean=[0, "x", 1])), "three numbers"),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_folders_that_are_no_moodifyclip_are_refused_and_run_nothing(exported, tmp_path, monkeypatch, case):
    change, words = FOLDERS[case]
    change(shutil.copytree(tmp_path / "moodify_clip" / "mine", tmp_path / "moodify_clip" / "bad"))
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("it asked the network"))
    with pytest.raises(UserError, match=words):
        moodify.load_moodify_clip("bad")


def test_sd2_reads_the_layer_before_the_last(exported, monkeypatch):
    """SD2's tower is 1024 wide, by which it is known; a small one stands for it here."""
    from comfyui_affect.models.diffusion.towers import OpenClipTower
    from comfyui_affect.models.networks.tokenizer import END

    scorer = moodify.load_moodify_clip("mine")
    [[plain, _]] = text_encoder.encode(scorer, "a house by a lake")
    monkeypatch.setattr(text_encoder, "_of_sd2", lambda clip: True)
    [[sd2, options]] = text_encoder.encode(scorer, "a house by a lake")
    row = text_encoder.as_conditioning("a house by a lake", scorer.clip)
    assert row[7:] == [0] * 70 and options["token_ids"][7:] == [END] * 70
    with torch.no_grad():
        assert torch.equal(sd2, OpenClipTower(scorer.clip, penultimate=True)(torch.tensor([row]))[0])
    assert not torch.allclose(sd2[:, :7], plain[:, :7], atol=1e-2)


def test_a_bench_of_too_few_scenes_says_so():
    import argparse

    from comfyui_affect.benchmarks import moodifyclip as bench
    from comfyui_affect.models.errors import UserError

    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    with pytest.raises(UserError, match="--scenes 100 or more, not 99"):
        bench.main(parser.parse_args(["--scenes", "99"]))


def test_training_reads_structured_captions_of_ones_own(tmp_path, capsys):
    import json

    from comfyui_affect.models.errors import UserError
    from comfyui_affect.training import moodifyclip as training
    from PIL import Image

    for i in range(3):
        Image.new("RGB", (40, 40), (80 * i, 0, 0)).save(tmp_path / f"{i}.png")
    row = lambda i, **more: json.dumps(
        {"file": f"{i}.png", "summary": "A hill.", "stimuli": ["a", "b", "c"], "assessment": "It is calm.", **more}
    )
    lines = tmp_path / "kept.jsonl"
    lines.write_text("\n".join([row(0), row(1, stimuli=["a"]), "{}", row(2), row(9)]) + "\n")
    config = training.MoodifyConfig(folder=str(tmp_path), captions=str(lines))
    data = training.read_scenes(config, tmp_path, 32)
    assert len(data.captions) == 2 and data.images(torch.tensor([1]), "cpu").shape == (1, 3, 32, 32)
    assert "Line 3" in "".join(capsys.readouterr())
    texts = training.Texts(data.captions, tiny.build_clip(), "cpu")
    assert torch.equal(texts.longer, texts.whole) and texts.read.shape == (2, 77) and texts.stimuli.shape[:2] == (2, 3)
    lines.write_text("{}\n")
    with pytest.raises(UserError, match="annotate --form moodarchive"):
        training.read_scenes(config, tmp_path, 32)


@pytest.fixture
def few_scenes(monkeypatch):
    """Twelve noise pictures with captions in place of rendered scenes."""
    import numpy as np
    from comfyui_affect.training import moodifyclip as training

    pictures = np.random.default_rng(0).integers(0, 255, (12, 128, 128, 3), dtype=np.uint8)
    captions = [
        [
            f"A hill number {i}.",
            f"a tree {i}",
            "a dark sky",
            "an empty boat",
            "The scene evokes fear.",
            "More of the hill.",
        ]
        for i in range(12)
    ]
    monkeypatch.setattr(training, "read_scenes", lambda *_: training.Scenes(pictures, captions))
    return training


def test_training_goes_on_to_the_same_weights_and_every_loss_moves_some(few_scenes, tmp_path):
    from comfyui_affect.training.loop import LoopConfig

    clip = tiny.build_clip()
    tiny.load("clip", clip)
    loop = LoopConfig(steps=3, batch=4, warmup=0, save_every=1)
    all_of = few_scenes.MoodifyConfig()
    run = lambda name, config=all_of, loop=loop: few_scenes.train(clip, config, loop, tmp_path, "cpu", name)[
        0
    ].state_dict()
    before = moodify.lengthened(clip).state_dict()
    whole = run("whole")
    stopped, calls = moodify.patch_features, []

    def stops(*given):
        calls.append(1)
        if len(calls) == 3:  # the check before the data, then a step, then this
            raise KeyboardInterrupt
        return stopped(*given)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(few_scenes.moodify, "patch_features", stops)
        run("parts")
    again = run("parts")
    assert all(torch.equal(whole[key], again[key]) for key in whole)
    none = dict(full=0.0, summary=0.0, fine=0.0, transport=0.0, drift=0.0)
    for only in none:
        moved = run(
            only,
            few_scenes.MoodifyConfig(**none | {only: 1.0}),
            LoopConfig(steps=1, batch=4, warmup=0, weight_decay=0.0),
        )
        changed = {key for key in before if not torch.equal(before[key], moved[key])}
        assert only == "drift" or any(key.startswith("visual.") for key in changed)  # at the start nothing has drifted
        assert only == "drift" or any(key.startswith("transformer.") for key in changed)


def test_bench_moodifyclip(few_scenes, tmp_path, monkeypatch):
    from comfyui_affect.benchmarks import moodifyclip as bench

    monkeypatch.setattr(bench, "AMONG", 8)
    settings = ("moodifyclip.steps=1", "moodifyclip.batch=4")
    found = run(bench, tmp_path, "--scenes", "16", "--seeds", "2", *settings)
    figures = found["figures"]
    assert_as_published(found)
    assert_within(found)
    for key in ("top1", "i2t_r1", "t2i_r5"):
        for a, b in (("full", "gl"), ("full", "base")):
            less = figures[f"{a}.{key}"] - figures[f"{b}.{key}"]
            assert figures[f"order.{a}-{b}.{key}"] == pytest.approx(less, abs=1e-6)
    for name in ("base", "gl", "gl_fg", "gl_ot", "full"):
        assert figures[f"{name}.top1"] <= figures[f"{name}.top2"] <= figures[f"{name}.top3"]
        assert figures[f"{name}.i2t_r1"] <= figures[f"{name}.i2t_r5"] and figures[f"{name}.t2i_r1"] > 0
    assert figures["full.drift"] > 0 < figures["gl.drift"]
