"""Moodifier's nodes on the bundled tiny model, through the embedded host: from an emotion to a mask, two prompts and
an edit."""

import json

import pytest
import torch
from comfyui_affect.models import host, tiny
from comfyui_affect.models.emotions import EmotionTarget
from comfyui_affect.models.errors import UserError
from comfyui_affect.models.moodifier.mllm import load_mllm
from comfyui_affect.nodes import NODE_CLASS_MAPPINGS as NODES
from comfyui_affect.training.data.moodscenes import layout_seeds, make_scene
from comfyui_affect.workflows.headless.host import EmbeddedHost


@pytest.fixture(scope="module")
def parts():
    return tiny.load_pipeline()


@pytest.fixture(scope="module")
def scene():
    """A scene with a house, as IMAGE [1, 128, 128, 3]."""
    for layout in layout_seeds("val", 40, 5):
        made = make_scene(int(layout), "contentment", 0)
        if any(o.name == "house" and o.area > 0.03 for o in made.objects):
            return torch.from_numpy(made.image)[None].float() / 255
    raise AssertionError("no house in forty scenes")


def generated(parts, scene, **more):
    model, clip, vae = parts
    given = dict(
        image=scene,
        emotion=EmotionTarget.of("fear"),
        mllm=load_mllm("rules", "a house and a tree by a lake", ""),
        objects="house",
        grounding="attention",
        feather=4,
        model=model,
        clip=clip,
        vae=vae,
    )
    return NODES["AffectMLLMMaskGenerator"]().run(**given | more)


def blended(parts, scene, mask, source="a house by a lake", target="a haunted house by a lake", **more):
    model, clip, vae = parts
    latent = NODES["AffectAttentionBlendSampler"]().run(
        model,
        clip.encode(source),
        clip.encode(target),
        {"samples": vae.encode(scene.movedim(-1, 1))},
        mask,
        **dict(steps=4, cfg=5.0, cross_replace=0.6, seed=3) | more,
    )[0]
    return latent["samples"]


def test_a_word_becomes_a_mask_two_prompts_and_an_overlay(parts, scene):
    mask, source, target, overlay, told = generated(parts, scene)
    assert mask.shape == (1, 128, 128) and 0.01 < float((mask > 0).float().mean()) < 0.6
    assert source == "a house and a tree by a lake" and "haunted house" in target and "fog" in target
    assert overlay.shape[2] == 128 and overlay.shape[1] > 128  # words below
    told = json.loads(told)
    assert told["objects"] == ["house"] and told["grounding"] == "attention" and told["provider"] == "rules"


@pytest.mark.parametrize("grounding", ["saliency", "boxes", "clipseg"])
def test_other_groundings_say_what_they_lack(parts, scene, grounding):
    if grounding == "saliency":
        assert float(generated(parts, scene, grounding=grounding)[0].max()) == 1.0
    else:
        with pytest.raises(UserError, match="has a box" if grounding == "boxes" else "CLIPSeg's weights|transformers"):
            generated(parts, scene, grounding=grounding)


def test_ones_own_mask_and_no_object_at_all(parts, scene):
    own = torch.zeros(1, 64, 64)
    own[:, 16:32, 16:32] = 1
    mask, *_, told = generated(parts, scene, mask=own, feather=0)
    assert mask.shape == (1, 128, 128) and float(mask[0, 40, 40]) == 1 and float(mask[0, 0, 0]) == 0
    assert json.loads(told)["grounding"] == "your mask"
    assert float(generated(parts, scene, objects="")[0].min()) == 1.0  # rules without a list change the whole picture


def test_an_mllm_that_names_no_object_and_objects_that_clipseg_misses_are_said(parts, scene, monkeypatch):
    from comfyui_affect.models.moodifier import masks
    from comfyui_affect.models.moodifier.mllm import Asked

    nothing = Asked(
        "transformers",
        "llava",
        lambda *_: json.dumps({"objects": [], "source_prompt": "a lake", "target_prompt": "a dark lake"}),
    )
    monkeypatch.setattr(nothing, "_key", lambda *_: "absent")
    monkeypatch.setattr("comfyui_affect.models.moodifier.mllm._write", lambda *_: None)
    mask, *_, told = generated(parts, scene, mllm=nothing, objects="")
    assert float(mask.min()) == 1 and "transformers names no object" in json.loads(told)["warnings"][0]
    assert json.loads(generated(parts, scene, objects="")[4])["warnings"] == []  # rules do so by design

    found = torch.zeros(1, 2, 128, 128)
    found[:, 0, 10:20, 10:20] = 1
    monkeypatch.setattr(masks, "clipseg_mask", lambda image, names: found)
    mask, *_, told = generated(parts, scene, objects="house, boat", grounding="clipseg", feather=0)
    assert torch.equal(mask[0], found[0, 0]) and "shows no boat" in json.loads(told)["warnings"][0]


def test_an_object_that_is_not_in_the_prompt_and_missing_parts_are_named(parts, scene):
    mllm = load_mllm("rules", "", "")
    mllm_source = generated(parts, scene, mllm=mllm, objects="castle")[1]
    assert "castle" in mllm_source  # the user's word is put into the prompt
    with pytest.raises(UserError, match="connect model, vae"):
        generated(parts, scene, model=None, vae=None)


def test_nothing_changes_outside_the_mask_and_all_of_nothing_is_nothing(parts, scene, tmp_path):
    _, _, vae = parts
    source = vae.encode(scene.movedim(-1, 1))
    with host.use(EmbeddedHost(tmp_path, tmp_path)):
        assert float((blended(parts, scene, torch.zeros(1, 128, 128)) - source).abs().max()) < 1e-4
    mask = torch.zeros(1, 128, 128)
    mask[:, 32:96, 32:96] = 1
    change = (blended(parts, scene, mask) - source).abs().amax(dim=1)[0]
    assert (
        float(change[:4].max()) < 1e-4 and float(change[:, 12:].max()) < 1e-4 and float(change[4:12, 4:12].max()) > 0.05
    )


def test_equal_texts_change_nothing_and_a_seed_gives_one_image(parts, scene):
    _, _, vae = parts
    everywhere = torch.ones(1, 128, 128)
    same = blended(parts, scene, everywhere, target="a house by a lake")
    assert float((same - vae.encode(scene.movedim(-1, 1))).abs().max()) < 1e-3
    first, again, other = (blended(parts, scene, everywhere, seed=s) for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_masks_of_another_size_and_feathers(parts, scene):
    small = torch.zeros(1, 50, 70)
    small[:, 10:30, 20:50] = 1
    source = parts[2].encode(scene.movedim(-1, 1))
    changed = (blended(parts, scene, small) - source).abs().amax(dim=1)[0] > 1e-4
    # Of 16 x 16 cells, those that rows 10 to 29 of 50 and columns 20 to 49 of 70 reach, and what resizing blurs.
    assert changed[4:9, 5:11].all() and not changed[:2].any() and not changed[11:].any()
    assert not changed[:, :3].any() and not changed[:, 13:].any()


def test_figures_of_an_edit(scene):
    edited = scene.clone()
    edited[:, 40:60, 40:60] = 0.2
    mask = torch.zeros(1, 128, 128)
    mask[:, 40:60, 40:60] = 1
    told, table = NODES["AffectEditMetrics"]().run(scene, edited, mask, EmotionTarget.of("fear"))
    (row,) = json.loads(told)
    assert row["mse_outside"] == 0 and row["mse"] > 0 and row["ssim_outside"] == pytest.approx(1, abs=1e-4)
    assert row["structure"] > 0 == row["structure_outside"]
    assert row["perceptual"] > row["perceptual_outside"] and table.shape[-1] == 3
    with pytest.raises(UserError, match="differ in size"):
        NODES["AffectEditMetrics"]().run(scene, edited[:, :64])
