"""The loop's promise: a run that was stopped ends in the weights of one that never was."""

import json

import numpy as np
import pytest
import torch
from comfyui_affect.models.errors import UserError
from comfyui_affect.training.config import load_config, read
from comfyui_affect.training.loop import LoopConfig, digest, fit, learning_rate


def _run(out, steps, stop_at=None, seed=0, optimizer="adamw"):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))

    def batches(step):
        if step == stop_at:
            raise KeyboardInterrupt
        x = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
        return x, x.sum(dim=1, keepdim=True)

    def loss(module, batch, step):
        return {"loss": ((module(batch[0]) - batch[1]) ** 2).mean()}

    config = LoopConfig(
        steps=steps, batch=16, lr=1e-2, warmup=5, ema=0.9, save_every=10, log_every=5, seed=seed, optimizer=optimizer
    )
    return fit(model, loss, batches, config, out, "test")


def test_resuming_is_exact(tmp_path):
    whole = _run(tmp_path / "whole", 40)
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path / "parts", 40, stop_at=27)
    resumed = _run(tmp_path / "parts", 40)
    for a, b in zip(whole.parameters(), resumed.parameters()):
        assert torch.equal(a, b)


def test_training_learns_and_logs(tmp_path):
    _run(tmp_path, 150)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"] and rows[-1]["step"] == 145
    assert not [p for p in tmp_path.iterdir() if ".tmp" in p.name]


def test_learning_rate_warms_up_and_falls():
    config = LoopConfig(steps=100, batch=1, lr=1.0, warmup=10)
    assert learning_rate(config, 0, 0.0) == pytest.approx(0.1)
    assert learning_rate(config, 50, 0.5) == pytest.approx(0.51, abs=1e-6)
    assert learning_rate(config, 100, 1.0) == pytest.approx(0.02)


def test_muon_resumes_exactly(tmp_path):
    whole = _run(tmp_path / "whole", 70, optimizer="muon")
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path / "parts", 70, stop_at=57, optimizer="muon")
    resumed = _run(tmp_path / "parts", 70, optimizer="muon")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters()))


def test_muon_fits_what_is_linear():
    from comfyui_affect.training.muon import Muon

    torch.manual_seed(0)
    net, x = torch.nn.Linear(8, 4), torch.randn(64, 8)
    y = x @ torch.randn(8, 4) + 1.0
    optimizer = Muon([net.weight], [net.bias], lr=0.05, weight_decay=0.0, plain_lr=1.0)
    first = float(((net(x) - y) ** 2).mean().detach())
    for step in range(200):
        optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = 0.05 * (1 - step / 200)
        optimizer.zero_grad()
        ((net(x) - y) ** 2).mean().backward()
        optimizer.step()
    assert float(((net(x) - y) ** 2).mean().detach()) < 0.02 * first


def test_muons_direction_is_about_orthogonal():
    from comfyui_affect.training.muon import orthogonalised

    for shape in ((6, 20), (20, 6)):
        values = torch.linalg.svdvals(orthogonalised(torch.randn(shape, generator=torch.Generator().manual_seed(0))))
        assert float(values.min()) > 0.6 and float(values.max()) < 1.3


def test_an_unknown_optimizer_is_named(tmp_path):
    with pytest.raises(UserError, match="no optimizer 'sgd'"):
        _run(tmp_path, 1, optimizer="sgd")


TWO = """
import torch
from accelerate import PartialState
from comfyui_affect.training.loop import LoopConfig, fit
state = PartialState(cpu=True)
torch.manual_seed(state.process_index)
batches = lambda step: torch.full((4, 2), float(state.process_index))
model = fit(torch.nn.Linear(2, 1), lambda m, x, step: {"loss": (m(x) - x[:, :1]).square().mean()}, batches,
            LoopConfig(steps=3, batch=4), __import__("pathlib").Path(__import__("sys").argv[1]), "two")
print(f"[{state.num_processes} {model.weight.flatten().tolist()}]", flush=True)
"""


def test_two_processes_train_one_model(tmp_path):
    """Each sees its own rows, and both end in the same weights."""
    import os
    import re
    import subprocess
    import sys

    (tmp_path / "two.py").write_text(TWO)
    out = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc_per_node",
            "2",
            str(tmp_path / "two.py"),
            str(tmp_path / "run"),
        ],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    seen = re.findall(r"\[2 \[.*?\]\]", out.stdout)
    assert len(seen) == 2 and seen[0] == seen[1], out.stderr[-2000:]


def test_configs_and_overrides():
    config = load_config("tiny", ["vae.steps=7", "tiny-c.domain=b"])
    assert config["vae"]["steps"] == 7 and config["tiny-c"]["domain"] == "b"
    with pytest.raises(UserError, match="overrides nothing"):
        load_config("tiny", ["nothing.steps=7"])
    with pytest.raises(UserError, match="There is no config"):
        load_config("absent")
    with pytest.raises(UserError, match="unknown key 'step'"):
        read(LoopConfig, {"steps": 1, "batch": 1, "step": 2})


def test_every_stage_of_the_tiny_config_is_read():
    from comfyui_affect.training import tiny
    from comfyui_affect.training.classifier import ClassifierConfig
    from comfyui_affect.training.clip import ClipConfig
    from comfyui_affect.training.features import FeatureConfig
    from comfyui_affect.training.unet import UnetConfig
    from comfyui_affect.training.vae import VaeConfig

    classes = {
        "vae": VaeConfig,
        "clip": ClipConfig,
        "clip-eval": ClipConfig,
        "tiny-a": ClassifierConfig,
        "tiny-b": ClassifierConfig,
        "tiny-c": ClassifierConfig,
        "unet": UnetConfig,
        "unet-2": UnetConfig,
        "vgg": FeatureConfig,
        "densenet": FeatureConfig,
    }
    config = load_config("tiny")
    for stage, cls in classes.items():
        tiny.split(config[stage], cls, stage)
    seeds = [config[s]["data_seed"] for s in ("tiny-a", "tiny-b", "tiny-c", "clip-eval")]
    assert len(set(seeds)) == len(seeds)  # those who judge saw other scenes than those who guide


def test_latents_are_encoded_once_for_a_set_of_pictures_and_a_state_of_the_vae(tmp_path):
    from comfyui_affect.models.tiny import build_vae
    from comfyui_affect.training.batches import Rows
    from comfyui_affect.training.data.pack import Pack
    from comfyui_affect.training.unet import encode

    def rows(seed):
        images = np.random.default_rng(seed).integers(0, 256, (3, 128, 128, 3), dtype=np.uint8)
        return Rows([Pack(images, np.zeros(3, np.int64), np.zeros((3, 1, 77), np.int32), [], [])], "cpu")

    torch.manual_seed(0)
    vae = build_vae().eval()
    first = encode(vae, rows(0), tmp_path)
    assert torch.allclose(first.float(), vae.encode(rows(0).pictures(torch.arange(3))), atol=2e-3)
    encode(vae, rows(0), tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    assert not torch.equal(encode(vae, rows(1), tmp_path), first)
    with torch.no_grad():
        next(vae.parameters()).add_(0.1)
    assert not torch.equal(encode(vae, rows(0), tmp_path), first)
    assert len(list(tmp_path.iterdir())) == 3


def test_texts_are_encoded_once_for_a_set_of_captions_and_a_state_of_the_clip(tmp_path):
    from comfyui_affect.models.diffusion.towers import OpenClipTower
    from comfyui_affect.models.tiny import build_clip
    from comfyui_affect.training.unet import encode_texts

    torch.manual_seed(0)
    clip = build_clip().eval()
    tokens = torch.randint(0, 49408, (5, 77), generator=torch.Generator().manual_seed(0))
    contexts = encode_texts(clip, tokens, tmp_path, batch=2)
    with torch.no_grad():
        assert np.allclose(contexts, OpenClipTower(clip)(tokens)[0].numpy(), atol=5e-3)
        encode_texts(clip, tokens, tmp_path)
        assert len(list(tmp_path.iterdir())) == 1
        next(clip.parameters()).add_(0.1)
    assert not np.array_equal(encode_texts(clip, tokens, tmp_path), contexts)


def test_a_folder_with_another_training_is_refused(tmp_path):
    _run(tmp_path, 4)
    assert torch.equal(_run(tmp_path, 4)[0].weight, _run(tmp_path, 4)[0].weight)
    with pytest.raises(UserError, match="holds a training of other settings"):
        _run(tmp_path, 8)


def test_a_digest_tells_tensors_weights_and_settings_apart():
    torch.manual_seed(0)
    x, line = torch.randn(3, 4), torch.nn.Linear(3, 4)
    known = digest(x, line, LoopConfig(steps=1, batch=2))
    assert known == digest(x.clone(), line, LoopConfig(steps=1, batch=2)) and len(known) == 12
    others = [
        digest(x + 1, line, LoopConfig(1, 2)),
        digest(x, torch.nn.Linear(3, 4), LoopConfig(1, 2)),
        digest(x, line, LoopConfig(1, 3)),
        digest(x.T.contiguous(), line, LoopConfig(1, 2)),
    ]
    assert known not in others and len(set(others)) == 4
