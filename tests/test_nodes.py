"""Every MUSE node run once, on small random networks, through the embedded host's executor."""

import json

import pytest
import torch
from comfyui_affect.models import host
from comfyui_affect.models.diffusion.text import TextEncoder
from comfyui_affect.models.errors import UserError
from comfyui_affect.nodes import NODE_CLASS_MAPPINGS as NODES
from comfyui_affect.nodes.models import AffectExampleImage
from comfyui_affect.workflows.headless.check import check
from comfyui_affect.workflows.headless.execute import Executor
from comfyui_affect.workflows.headless.host import EmbeddedHost
from comfyui_affect.workflows.headless.registry import Registry, default_registry


@pytest.fixture
def world(small_unet, small_vae, small_classifier, tmp_path):
    """(executor, run): `run(prompt)` checks and executes an API prompt in which the loaders give small networks."""
    table = torch.randn(49408, 16, generator=torch.Generator().manual_seed(0))
    text = TextEncoder([lambda ids: (table[ids], None)])

    class Loader:
        RETURN_TYPES, FUNCTION = ("MODEL", "CLIP", "VAE", "AFFECT_EMOTION_CLASSIFIER"), "run"
        INPUT_TYPES = classmethod(lambda cls: {"required": {}})

        def run(self):
            return small_unet, text, small_vae, small_classifier

    kept = {}

    class Keep:
        RETURN_TYPES, FUNCTION, OUTPUT_NODE = (), "run", True
        INPUT_TYPES = classmethod(lambda cls: {"required": {"value": ("*",), "name": ("STRING", {})}})

        def run(self, value, name):
            kept[name] = value
            return {}

    classes = {kind.key: kind.cls for kind in default_registry()} | {"Loader": Loader, "Keep": Keep}
    registry = Registry(classes, {})

    def run(prompt):
        with host.use(EmbeddedHost(tmp_path / "in", tmp_path / "out", tmp_path / "models")):
            problems = check(prompt, registry)
            assert not problems, problems
            Executor(registry).run(prompt)
        return kept

    return run


def node(key, **inputs):
    return {"class_type": key, "inputs": inputs}


MUSE = dict(
    cfg=4.0,
    n_tokens=2,
    learning_rate=0.05,
    max_inner_steps=2,
    stop_loss=1e-4,
    inherent_weight=5e-4,
    similar_weight=1.5e-3,
    seed=3,
)


def base(emotion="fear"):
    return {
        "1": node("Loader"),
        "2": node("CLIPTextEncode", clip=["1", 1], text="a house"),
        "3": node("CLIPTextEncode", clip=["1", 1], text=""),
        "4": node("AffectEmotion", emotion=emotion, intensity=1.0),
        "5": node("EmptyLatentImage", width=64, height=64, batch_size=2),
    }


def optimised(**more):
    return node(
        "AffectEmotionTokenOptimizer",
        model=["1", 0],
        positive=["2", 0],
        negative=["3", 0],
        vae=["1", 2],
        emotion=["4", 0],
        classifier=["1", 3],
        **MUSE,
        **more,
    )


def test_optimizer_sampler_trace_and_tokens(world, tmp_path):
    prompt = base() | {
        "6": optimised(),
        "7": node("RandomNoise", noise_seed=3),
        "8": node("KSamplerSelect", sampler_name="euler"),
        "9": node("BasicScheduler", model=["1", 0], scheduler="karras", steps=2, denoise=1.0),
        "10": node(
            "SamplerCustomAdvanced",
            noise=["7", 0],
            guider=["6", 0],
            sampler=["8", 0],
            sigmas=["9", 0],
            latent_image=["5", 0],
        ),
        "11": node("AffectEmotionTrace", guider=["6", 0], latent=["10", 0]),
        "12": node("AffectSaveEmotionTokens", tokens=["11", 2], name="mine"),
        "13": node("Keep", value=["11", 0], name="plot"),
        "14": node("Keep", value=["11", 1], name="json"),
        "15": node("Keep", value=["10", 0], name="latent"),
    }
    kept = world(prompt)
    assert kept["plot"].shape[0] == 2 and kept["plot"].shape[3] == 3
    assert json.loads(kept["json"])["opened_at_step"] == [0, 0]
    assert (tmp_path / "out" / "emotion_tokens" / "mine.safetensors").is_file()

    later = base() | {
        "6": node("AffectLoadEmotionTokens", name="mine"),
        "7": node("AffectApplyEmotionTokens", conditioning=["2", 0], tokens=["6", 0]),
        "8": node(
            "KSampler",
            model=["1", 0],
            seed=3,
            steps=2,
            cfg=4.0,
            sampler_name="euler",
            scheduler="karras",
            positive=["7", 0],
            negative=["3", 0],
            latent_image=["5", 0],
            denoise=1.0,
        ),
        "9": node("Keep", value=["8", 0], name="applied"),
        "10": node("Keep", value=["7", 0], name="conditioning"),
    }
    kept = world(later)
    assert kept["conditioning"][0][0].shape == (2, 79, 16)
    assert kept["applied"]["samples"].shape == (2, 4, 8, 8)


def test_the_sampler_node_is_the_three_in_one(world):
    prompt = base() | {
        "6": optimised(),
        "7": node("RandomNoise", noise_seed=3),
        "8": node("KSamplerSelect", sampler_name="euler"),
        "9": node("BasicScheduler", model=["1", 0], scheduler="karras", steps=2, denoise=1.0),
        "10": node(
            "SamplerCustomAdvanced",
            noise=["7", 0],
            guider=["6", 0],
            sampler=["8", 0],
            sigmas=["9", 0],
            latent_image=["5", 0],
        ),
        "11": node(
            "AffectEmotionSampler",
            **(
                optimised()["inputs"]
                | dict(
                    latent_image=["5", 0],
                    steps=2,
                    sampler_name="euler",
                    scheduler="karras",
                    denoise=1.0,
                    add_noise=True,
                )
            ),
        ),
        "12": node("Keep", value=["10", 0], name="a"),
        "13": node("Keep", value=["11", 0], name="b"),
    }
    kept = world(prompt)
    assert torch.equal(kept["a"]["samples"], kept["b"]["samples"])


def test_inversion_drops_the_mask_and_keeps_the_batch(small_unet):
    conditioning = [[torch.randn(1, 77, 16), {}]]
    latent = {"samples": torch.randn(2, 4, 8, 8), "noise_mask": torch.ones(1, 64, 64), "batch_index": [0, 1]}
    out, noise = NODES["AffectDDIMInversion"]().run(small_unet, conditioning, latent, 3, "karras")
    assert out["samples"].shape == (2, 4, 8, 8) and torch.isfinite(out["samples"]).all()
    assert "noise_mask" not in out and out["batch_index"] == [0, 1] and "noise_mask" in latent
    assert not noise.generate_noise(out).any(), "a latent that is noise already gets none"
    with pytest.raises(UserError, match="DDIM Inversion's own latent"):
        noise.generate_noise({"samples": torch.zeros(1, 4, 8, 8)})


def test_readout_reads_every_image(world):
    prompt = base() | {
        "6": node("VAEDecode", samples=["5", 0], vae=["1", 2]),
        "7": node("AffectEmotionReadout", image=["6", 0], classifier=["1", 3]),
        "8": node("Keep", value=["7", 1], name="json"),
    }
    rows = json.loads(world(prompt)["json"])
    assert len(rows) == 2 and sum(rows[0].values()) == pytest.approx(1, abs=1e-3)


def test_linked_text_and_prompts_pass_the_check(world):
    prompt = {
        "1": node("PrimitiveString", value="very happy"),
        "2": node("AffectEmotionFromText", text=["1", 0]),
        "3": node("Keep", value=["2", 0], name="emotion"),
    }
    assert world(prompt)["emotion"].dominant == "amusement"


@pytest.mark.parametrize(
    "key, name, said",
    [
        ("AffectSaveEmotionTokens", "../x", r"'\.\./x' leaves its folder"),
        ("AffectSaveEmotionTokens", " ", "Give the tokens a name"),
        ("AffectLoadEmotionTokens", "absent", "no emotion tokens named 'absent'"),
        ("AffectLoadEmotionTokens", "/etc/passwd", r"'/etc/passwd\.safetensors' leaves its folder"),
    ],
)
def test_token_names_are_checked_before_anything_runs(key, name, said, tmp_path):
    with host.use(EmbeddedHost(tmp_path, tmp_path)):
        assert NODES["AffectSaveEmotionTokens"].VALIDATE_INPUTS(name="mine") is True
        with pytest.raises(UserError, match=said):
            told = NODES[key].VALIDATE_INPUTS(name=name)
            raise UserError(told)  # ComfyUI takes a sentence that is returned as one that is raised


def test_the_example_series_moves_over_the_example_photograph():
    (photograph,), (series,) = (AffectExampleImage().run(name) for name in ("photograph", "series"))
    assert photograph.shape == (1, 768, 1024, 3) and series.shape == (8, 480, 640, 3)
    assert torch.equal(series[0], photograph[0, :480, :640]) and torch.equal(series[-1], photograph[0, -480:, -640:])
    assert all(float((series[i] - series[i + 1]).abs().mean()) > 0.02 for i in range(7))
