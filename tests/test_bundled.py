"""The models that the package ships: whole, small enough, and the same image from the same seed in any process."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from comfyui_affect import workflows
from comfyui_affect.models import bundled, tiny
from comfyui_affect.models.emolat.space import load_emolat
from comfyui_affect.models.errors import UserError
from comfyui_affect.models.files import load_safetensors, save_safetensors
from comfyui_affect.models.networks.backbones import load_backbone
from comfyui_affect.models.networks.classifiers import TINY, load_classifier
from comfyui_affect.models.networks.scorers import load_scorer
from PIL import Image

WORKFLOWS = Path(workflows.__file__).parent
NAMES = ("vae", "unet", "clip", "clip-eval", *TINY, "densenet", "vgg", "emolat", "moodifyclip", "va-lite0", "va-lite2")


def test_every_file_is_there_and_together_they_are_small():
    assert sum(tiny.path(name).stat().st_size for name in NAMES) < 40e6
    for name in NAMES:
        state, _ = load_safetensors(tiny.path(name))
        assert all(torch.isfinite(v).all() for v in state.values() if v.is_floating_point()), name


def test_a_bundled_file_that_is_another_is_told_of(tmp_path, monkeypatch):
    """Every file is listed with its checksum; one that was exchanged for a valid file of the same shapes is refused
    by name."""
    assert set(tiny.checksums()) == {tiny.path(name).name for name in NAMES}
    for name in NAMES:
        tiny.verify(name)
    for name in ("vgg", "emolat"):
        shutil.copy(tiny.path(name), tmp_path)
    shutil.copy(bundled.TINY_DIR / bundled.CHECKSUMS, tmp_path)
    monkeypatch.setattr(bundled, "TINY_DIR", tmp_path)
    state, metadata = load_safetensors(tiny.path("vgg"))
    changed = {k: v + 0.5 for k, v in state.items()}
    save_safetensors(tiny.path("vgg"), changed, metadata)
    save_safetensors(tiny.path("emolat"), *load_safetensors(tiny.path("emolat")))
    (tmp_path / "emolat.safetensors").write_bytes((tmp_path / "emolat.safetensors").read_bytes()[:-1] + b"\1")
    with pytest.raises(UserError, match="vgg.safetensors.*checksum"):
        load_backbone("tiny-vgg")
    with pytest.raises(UserError, match="emolat.safetensors.*checksum"):
        load_emolat("tiny")
    tiny.save("vgg", changed)  # trained anew: this is the one now
    tiny.verify("vgg")


def test_they_load_into_their_networks():
    model, text, vae = tiny.load_pipeline()
    image = torch.rand(1, 3, 128, 128)
    latent = vae.encode(image)
    assert vae.decode(latent).shape == image.shape
    context = model.context(text.encode("a house by a lake"))
    assert torch.isfinite(model(latent, torch.tensor([5.0]), context)).all()
    for name in TINY:
        assert load_classifier(name)(image).shape == (1, 8)
    for name in ("tiny-densenet", "tiny-vgg"):
        assert torch.isfinite(load_backbone(name)(image)).all()


def test_the_gates_scale_is_measured():
    """A scorer whose cosines live elsewhere than published CLIP's carries the two figures that map them."""
    for name in ("tiny", "tiny-eval", "moodifyclip"):
        scorer = load_scorer(name)
        assert scorer.lo is not None and scorer.hi > scorer.lo + 0.02


def test_the_card_says_what_they_are():
    card = json.loads(tiny.path("card").with_suffix(".json").read_text(encoding="utf-8"))
    assert {name for name in NAMES if not name.startswith("va-")} <= set(card["parameters"])  # heads carry their own
    for name in TINY:
        assert 0.125 < card["figures"][f"{name} accuracy, domain a"] <= 1


@pytest.mark.parametrize("path", sorted(WORKFLOWS.glob("*.json")), ids=lambda p: p.stem)
def test_a_template_has_a_thumbnail(path):
    with Image.open(path.with_suffix(".jpg")) as image:
        assert min(image.size) >= 128


def test_two_processes_make_the_same_png(tmp_path):
    def run(folder):
        command = [
            sys.executable,
            "-m",
            "comfyui_affect.workflows.headless.cli",
            "run",
            str(WORKFLOWS / "emotional_generation.json"),
            "--json",
            "--output-dir",
            str(tmp_path / folder),
            "--set",
            "BasicScheduler.steps=4",
            "--set",
            "Emotion Token Optimizer.max_inner_steps=2",
            "--set",
            "CLIP Timing Gate.threshold=-100",
        ]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=os.environ)
        assert done.returncode == 0, done.stderr
        return [Image.open(o["path"]) for o in json.loads(done.stdout)["outputs"] if o.get("type") == "image"]

    first, second = run("a"), run("b")
    assert first and [i.tobytes() for i in first] == [i.tobytes() for i in second]
