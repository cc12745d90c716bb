"""An input without effect is reported on its node."""

import torch
from comfyui_affect.models.emotions import EmotionTarget
from comfyui_affect.nodes import NODE_CLASS_MAPPINGS as NODES

SCENE = torch.linspace(0, 1, 128 * 128 * 3).reshape(1, 128, 128, 3)


def _run(key, **inputs):
    return getattr(NODES[key](), NODES[key].FUNCTION)(**inputs)


def test_references_that_are_not_there_and_images_that_are_not_looked_at(notes):
    (gallery,) = _run("AffectReferenceGallery", folder="example_gallery")
    notes.clear()
    common = dict(image=SCENE, gallery=gallery, k=1)
    _run("AffectSSIMReferenceRetriever", **common, noun="lake", emotion=EmotionTarget.of("awe"))
    _run("AffectSSIMReferenceRetriever", **common, noun="lake", adjective="warm")
    assert notes == []
    _run("AffectSSIMReferenceRetriever", **common, noun=" ", adjective=" ")
    assert notes == [
        "The noun is empty: the reference may show anything.",
        "Neither an emotion nor an adjective is given: the reference may have any mood.",
    ]
    _run("AffectSSIMReferenceRetriever", image=SCENE.repeat(2, 1, 1, 1), gallery=gallery, noun="", k=64)
    assert any("Only the first of" in note for note in notes) and any(
        "64 references were requested" in note for note in notes
    )


def test_a_mask_of_ones_own_takes_the_groundings_place(notes):
    (mllm,) = _run("AffectMLLMLoader", provider="rules", model="a house by a lake", base_url="")
    emotion = EmotionTarget.of("awe")
    common = dict(image=SCENE, emotion=emotion, mllm=mllm, objects="house", grounding="saliency", feather=2)
    _run("AffectMLLMMaskGenerator", **common)
    assert not any("no effect" in note for note in notes)
    _run("AffectMLLMMaskGenerator", **common, mask=torch.ones(1, 128, 128))
    assert any("grounding by saliency has no effect" in note for note in notes)


def test_figures_that_need_what_is_not_connected(notes, small_classifier):
    common = dict(image=SCENE, edited=SCENE)
    _run("AffectEditMetrics", **common)
    _run("AffectEditMetrics", **common, emotion=EmotionTarget.of("awe"), classifier=small_classifier)
    assert notes == []
    _run("AffectEditMetrics", **common, emotion=EmotionTarget.of("awe"))
    assert "The emotion has no effect" in notes.pop()
    _run("AffectEditMetrics", **common, classifier=small_classifier)
    assert "have no effect" in notes.pop()


def test_a_mask_that_covers_nothing(notes):
    (emolat,) = _run("AffectEmoLatLoader", model="tiny")
    (code,) = _run(
        "AffectEmoLatCodebookSampler",
        emolat=emolat,
        emotion=EmotionTarget.of("awe"),
        n_codes=1,
        temperature=1.0,
        seed=0,
    )
    image, *_ = _run(
        "AffectEmoLatTransfer",
        emolat=emolat,
        image=SCENE,
        code=code,
        text="",
        strength=1.0,
        mask=torch.zeros(1, 128, 128),
    )
    assert "The mask covers nothing" in notes.pop() and torch.equal(image, SCENE)


def test_a_content_weight_without_a_gate(notes, small_unet, small_vae, small_classifier):
    text = [[torch.zeros(1, 77, 16), {}]]
    inputs = dict(
        model=small_unet,
        positive=text,
        negative=text,
        vae=small_vae,
        emotion=EmotionTarget.of("awe"),
        classifier=small_classifier,
    )
    _run("AffectEmotionTokenOptimizer", **inputs)
    _run("AffectEmotionTokenOptimizer", **inputs, content_weight=0.0)
    assert notes == []  # the default goes without a gate, and without a word
    _run("AffectEmotionTokenOptimizer", **inputs, content_weight=20.0)
    assert "content_weight, 20, has no effect" in notes.pop()
