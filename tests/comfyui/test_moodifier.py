"""The attention blend and attention grounding on ComfyUI's own objects, in a real server."""

import json

import pytest
from graphs import half_mask, node
from random_graphs import needs


def blend(kind, mask, batch=1, **inputs):
    """A sampled latent edited under a mask, and how far the edit lies from it inside and outside."""
    return {
        "1": node("RandomModel", kind=kind, seed=0, batch=batch, tokens=77),
        **half_mask(),
        "34": node(
            "KSampler",
            model=["1", 0],
            seed=2,
            steps=2,
            cfg=4.0,
            sampler_name="euler",
            scheduler="normal",
            positive=["1", 1],
            negative=["1", 2],
            latent_image=["1", 4],
            denoise=1.0,
        ),
        "35": node("SolidMask", value=0.0, width=64, height=64),
        "36": node("SolidMask", value=1.0, width=64, height=64),
        "40": node(
            "AffectAttentionBlendSampler",
            model=["1", 0],
            source=["1", 1],
            target=["1", 2],
            latent_image=["34", 0],
            mask=[mask, 0],
            steps=4,
            cfg=5.0,
            cross_replace=0.6,
            seed=1,
            **inputs,
        ),
        "41": node("Difference", a=["34", 0], b=["40", 0], mask=[mask, 0]),
        "13": node("SameModel", model=["1", 0], after=["40", 0]),
    }


def told(outputs):
    texts = {o["node"]: json.loads(o["text"]) for o in outputs if "text" in o}
    return texts["41"], texts["13"]


@pytest.mark.parametrize(
    "kind", ["sd15", "sd15-fp16", "sd2", "sdxl", "sd3", "flux", "chroma", "lumina2", "qwen", "flux2", "zimage"]
)
def test_a_mask_bounds_the_edit_and_the_model_stays_as_it_was(comfy, tmp_path, kind):
    needs(comfy, kind)
    nothing, before = told(comfy.run(blend(kind, "35", batch=2), tmp_path))
    assert nothing["outside"] < 1e-4
    half, after = told(comfy.run(blend(kind, "32", batch=2), tmp_path))
    assert half["outside"] < 1e-4 < 1e-2 < half["inside"] and after == before and not after["patched"]
    whole, _ = told(comfy.run(blend(kind, "36", batch=2), tmp_path))
    assert whole["inside"] > 1e-2


def test_a_model_whose_attention_is_not_known_is_refused(comfy, tmp_path):
    from comfyui_affect.workflows.headless.execute import NodeFailed

    with pytest.raises(NodeFailed, match="cannot follow this WAN21's attention"):
        comfy.run(blend("wan", "32"), tmp_path)


@pytest.mark.parametrize(
    "which, name, inputs",
    [
        ("source", "ConditioningSetTimestepRange", {"start": 0.0, "end": 0.5}),
        ("target", "ConditioningSetArea", {"width": 64, "height": 64, "x": 0, "y": 0, "strength": 1.0}),
    ],
)
def test_a_conditioning_that_holds_for_a_part_is_refused(comfy, tmp_path, which, name, inputs):
    from comfyui_affect.workflows.headless.execute import NodeFailed

    prompt = blend("sd15", "32")
    prompt["60"] = node(name, conditioning=prompt["40"]["inputs"][which], **inputs)
    prompt["40"]["inputs"][which] = ["60", 0]
    with pytest.raises(NodeFailed, match="a range of steps" if which == "source" else "has an area"):
        comfy.run(prompt, tmp_path)


def test_a_text_of_another_width_is_refused(comfy, tmp_path):
    from comfyui_affect.workflows.headless.execute import NodeFailed

    prompt = blend("sd15", "32") | {
        "50": node("AffectTinyModelLoader"),
        "51": node("CLIPTextEncode", clip=["50", 1], text="a house"),
    }
    prompt["40"]["inputs"]["target"] = ["51", 0]
    with pytest.raises(NodeFailed, match="wide.*CLIP of the MODEL's own checkpoint"):
        comfy.run(prompt, tmp_path)


def test_grounding_by_attention_looks_for_the_word(comfy, tmp_path):
    prompt = {
        "50": node("AffectTinyModelLoader"),
        "51": node("AffectExampleImage", picture="scene"),
        "52": node("AffectEmotion", emotion="fear", intensity=1.0),
        "53": node("AffectMLLMLoader", provider="rules", model="a house on a hill with a tree", base_url=""),
        "54": node(
            "AffectMLLMMaskGenerator",
            image=["51", 0],
            emotion=["52", 0],
            mllm=["53", 0],
            objects="house",
            grounding="attention",
            feather=2,
            model=["50", 0],
            clip=["50", 1],
            vae=["50", 2],
        ),
        "55": node("SaveImage", images=["54", 3], filename_prefix="overlay"),
        "56": node("PreviewAny", source=["54", 4]),
    }
    outputs = comfy.run(prompt, tmp_path)
    found = json.loads(next(o["text"] for o in outputs if o["node"] == "56"))
    assert found["grounding"] == "attention" and 0.0 < found["covers"] < 0.9
