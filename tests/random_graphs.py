"""Graphs over the small random models of `comfyui/random_models`, for tests in a real ComfyUI."""

import json

import pytest
from graphs import node
from PIL import Image

MUSE = dict(
    cfg=4.0,
    n_tokens=2,
    learning_rate=0.05,
    max_inner_steps=3,
    stop_loss=1e-4,
    inherent_weight=5e-4,
    similar_weight=1.5e-3,
    views=0,
)  # random views would blur the fall of a loss that is looked for here


def graph(
    kind="sd15", seed=3, sampler="euler", scheduler="normal", steps=3, batch=1, intensity=1.0, positive=("1", 1), **more
):
    """Random model -> optimizer -> sampler -> trace and image, and the model's weights afterwards."""
    return {
        "1": node("RandomModel", kind=kind, seed=0, batch=batch, tokens=77),
        "2": node("AffectEmotion", emotion="fear", intensity=intensity),
        "3": node("RandomClassifier"),
        "4": node(
            "AffectEmotionTokenOptimizer",
            model=["1", 0],
            positive=list(positive),
            negative=["1", 2],
            vae=["1", 3],
            emotion=["2", 0],
            classifier=["3", 0],
            seed=seed,
            **MUSE,
        ),
        "5": node("RandomNoise", noise_seed=seed),
        "6": node("KSamplerSelect", sampler_name=sampler),
        "7": node("BasicScheduler", model=["1", 0], scheduler=scheduler, steps=steps, denoise=1.0),
        "8": node(
            "SamplerCustomAdvanced",
            noise=["5", 0],
            guider=["4", 0],
            sampler=["6", 0],
            sigmas=["7", 0],
            latent_image=["1", 4],
        ),
        "9": node("VAEDecode", samples=["8", 0], vae=["1", 3]),
        "10": node("SaveImage", images=["9", 0], filename_prefix=f"{kind}_{sampler}"),
        "11": node("AffectEmotionTrace", guider=["4", 0], latent=["8", 0]),
        "12": node("PreviewAny", source=["11", 1]),
        "13": node("SameModel", model=["1", 0], after=["8", 0]),
    } | more


def results(outputs):
    texts = {o["node"]: json.loads(o["text"]) for o in outputs if "text" in o}
    images = [Image.open(o["path"]) for o in outputs if o.get("type") == "image"]
    return texts.get("12"), texts.get("13"), images


def falls(trace):
    """Gradients reach the tokens: the guiding loss falls in the first inner loop, and over all of them, for every
    image."""
    fall = [[after - before for before, after in zip(c["losses"][0], c["losses"][-1])] for c in trace["calls"]]
    return all(first < 0 for first in fall[0]) and all(sum(image) < 0 for image in zip(*fall))


def needs(comfy, kind):
    """Skips where this ComfyUI does not know a family of the pack of random models."""
    if kind not in comfy.registry.get("RandomModel").inputs()["kind"].choices:
        pytest.skip(f"this ComfyUI does not know {kind}")
