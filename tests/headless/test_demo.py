"""The demo: photographs first, through the shipped template and the real retriever; runs are those of `affect run`."""

import argparse
import json

import numpy as np
import pytest
import torch
from comfyui_affect.models import host
from comfyui_affect.models.emotions import MIKELS, EmotionTarget
from comfyui_affect.models.reference import open_gallery
from comfyui_affect.workflows.headless.commands import demo
from comfyui_affect.workflows.headless.core.images import ImageScale
from PIL import Image

PHOTOGRAPH = demo.TEMPLATES / "examples" / "photograph.jpg"


def test_the_demo_has_as_many_threads_as_run(workspace, affect, scale_prompt, monkeypatch):
    """With another number, sums are taken in another order, and optimised pictures differ."""
    seen, upscale = [], ImageScale.upscale

    def counting(self, **inputs):
        seen.append(torch.get_num_threads())
        return upscale(self, **inputs)

    monkeypatch.setattr(ImageScale, "upscale", counting)
    assert affect("run", scale_prompt).code == 0
    (workspace / "w.json").write_text(json.dumps(scale_prompt))
    monkeypatch.setattr(demo, "TEMPLATES", workspace)
    (made,) = demo._run(demo._Job("w"), workspace / "input", workspace / "demo")
    assert made.is_file() and len(set(seen)) == 1 and len(seen) == 2
    assert made.read_bytes() == (workspace / "output" / "small_00001_.png").read_bytes()


def test_the_gallery_has_every_look_that_is_asked_for():
    gallery = open_gallery(demo.TEMPLATES / "examples" / "example_gallery")
    assert tuple(demo.LOOKS) == MIKELS
    for emotion, (adjective, noun) in demo.LOOKS.items():
        found = gallery.select(noun, adjective, EmotionTarget.of(emotion).wanted())
        assert {picture.emotion for picture in found} == {emotion}


@pytest.mark.parametrize("own", [False, True], ids=["the example", "a photograph of one's own"])
def test_a_photograph_is_graded_at_its_own_size(tmp_path, monkeypatch, own):
    monkeypatch.setattr(demo, "LOOKS", {emotion: demo.LOOKS[emotion] for emotion in ("fear", "sadness")})
    monkeypatch.setattr(host, "cores", lambda: 1)  # one process is enough for two
    original = Image.open(PHOTOGRAPH)
    if own:
        original = original.crop((100, 0, 431, 768))
        original.save(tmp_path / "example.png")
    with demo._two_at_once(tmp_path, tmp_path / "out") as run:
        graded = demo._graded(run, "example.png" if own else "")
    assert list(graded) == ["fear", "sadness"]
    before = np.asarray(original, float)
    after = {emotion: np.asarray(Image.open(path), float) for emotion, path in graded.items()}
    for emotion, path in graded.items():
        assert after[emotion].shape == before.shape and path.name == f"photograph_{emotion}_00001_.png"
        assert np.abs(after[emotion] - before).mean() > 8
        carried = json.loads(Image.open(path).info["workflow"])
        kinds = {node["type"] for node in carried["nodes"]}
        assert ("LoadImage" in kinds, "AffectExampleImage" in kinds) == (own, not own)
        asked = json.loads(Image.open(path).info["prompt"])
        (retriever,) = (n["inputs"] for n in asked.values() if n["class_type"] == "AffectSSIMReferenceRetriever")
        assert (retriever["adjective"], retriever["noun"]) == demo.LOOKS[emotion]
    assert np.abs(after["fear"] - after["sadness"]).mean() > 8
    sheet = tmp_path / "sheet.png"
    demo._write_photographs(sheet, original, graded)
    assert max(original.size) == 768 or Image.open(sheet).width > 3 * 768


def test_photographs_come_before_anything_else(tmp_path, monkeypatch, capsys):
    done = []

    def pretended(job, inputs, output):
        """Plain pictures under the names that the template gives."""
        done.append(job)
        if job.name == "photograph_in_emotion":
            names = [next(c.partition("=")[2] for c in job.changes if "filename_prefix" in c)]
        else:
            names = ["0_awe"] if job.name == "eight_emotions" else ["fear", "reconstruction"]
        paths = [output / f"{name}_00001_.png" for name in names]
        for path in paths:
            Image.effect_noise((128, 128), 60).convert("RGB").save(path)
        return paths

    monkeypatch.setattr(demo, "_run", pretended)
    monkeypatch.setattr(host, "cores", lambda: 1)
    own = tmp_path / "own.jpg"
    Image.effect_noise((900, 300), 60).convert("RGB").save(own)
    assert demo.main(argparse.Namespace(output_dir=tmp_path, photo=own, describe="a wall", json=True)) == 0
    assert [job.name for job in done] == ["photograph_in_emotion"] * 8 + ["eight_emotions", "edit_photograph"]
    assert {job.photograph for job in done[:8]} == {"example.png"}
    assert done[-1].changes == ("What the photograph shows.value=a wall",)
    assert Image.open(tmp_path / "input" / "example.png").size == (900, 300)
    answer = json.loads(capsys.readouterr().out)
    assert list(answer["photographs"]) == list(MIKELS)
    assert Image.open(answer["photographs_sheet"]).width > 3 * 768 and Image.open(answer["sheet"]).width < 600
