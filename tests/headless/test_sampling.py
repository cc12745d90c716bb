"""The sampling nodes over a small diffusion model of random weights, and model files that are wrong."""

import json
import os
import signal

import numpy as np
import pytest
import torch
from comfyui_affect.models.diffusion.sampling import SCHEDULES
from comfyui_affect.models.errors import UserError
from comfyui_affect.workflows.headless.core import latents, sampling
from comfyui_affect.workflows.headless.execute import Executor, NodeFailed
from comfyui_affect.workflows.headless.registry import Registry, default_registry
from safetensors.numpy import save_file


@pytest.fixture(scope="module")
def networks():
    """(MODEL, CLIP, VAE) with random weights: 3 levels, width 16, context of 8."""
    from comfyui_affect.models.diffusion.diffusers import DiffusersModel, DiffusersVAE
    from diffusers import AutoencoderKL, UNet2DConditionModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=4,
        block_out_channels=(16, 16),
        layers_per_block=1,
        cross_attention_dim=8,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        norm_num_groups=4,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=4,
    )

    class Clip:
        def encode(self, text):
            generator = torch.Generator().manual_seed(len(text))
            return [[torch.randn(1, 77, 8, generator=generator), {"pooled_output": None}]]

    return DiffusersModel(unet), Clip(), DiffusersVAE(vae)


@pytest.fixture
def with_networks(networks):
    loader = type(
        "Networks",
        (),
        {
            "INPUT_TYPES": classmethod(lambda cls: {"required": {}}),
            "FUNCTION": "run",
            "RETURN_TYPES": ("MODEL", "CLIP", "VAE"),
            "run": lambda self: networks,
        },
    )
    known = default_registry()
    return Registry({**{k.key: k.cls for k in known}, "Networks": loader}, {})


def n(key, **inputs):
    return {"class_type": key, "inputs": inputs}


@pytest.fixture
def prompt():
    return {
        "1": n("Networks"),
        "2": n("CLIPTextEncode", clip=["1", 1], text="a house"),
        "3": n("CLIPTextEncode", clip=["1", 1], text=""),
        "4": n("EmptyLatentImage", width=64, height=48, batch_size=2),
        "5": n(
            "KSampler",
            model=["1", 0],
            positive=["2", 0],
            negative=["3", 0],
            latent_image=["4", 0],
            seed=3,
            steps=3,
            cfg=4.0,
            sampler_name="euler",
            scheduler="normal",
            denoise=1.0,
        ),
        "6": n("VAEDecode", samples=["5", 0], vae=["1", 2]),
        "7": n("SaveImage", images=["6", 0], filename_prefix="s"),
    }


def test_the_same_seed_gives_the_same_image_bit_for_bit(embedded, with_networks, prompt):
    first = Executor(with_networks).run(prompt)["6"].outputs[0][0]
    assert first.shape == (2, 48, 64, 3) and first.min() >= 0 and first.max() <= 1
    assert torch.equal(Executor(with_networks).run(prompt)["6"].outputs[0][0], first)
    prompt["5"]["inputs"]["seed"] = 4
    assert not torch.equal(Executor(with_networks).run(prompt)["6"].outputs[0][0], first)


@pytest.mark.parametrize(
    "sampler, scheduler, denoise",
    [
        ("euler", "normal", 1.0),
        ("euler_ancestral", "karras", 0.5),
        ("dpmpp_2m", "simple", 1.0),
        ("lcm", "sgm_uniform", 1.0),
        ("heun", "exponential", 1.0),
    ],
)
def test_ksampler_equals_its_parts(embedded, with_networks, prompt, sampler, scheduler, denoise):
    prompt["5"]["inputs"] |= {"sampler_name": sampler, "scheduler": scheduler, "denoise": denoise}
    prompt |= {
        "10": n("RandomNoise", noise_seed=3),
        "11": n("KSamplerSelect", sampler_name=sampler),
        "12": n("BasicScheduler", model=["1", 0], scheduler=scheduler, steps=3, denoise=denoise),
        "13": n("CFGGuider", model=["1", 0], positive=["2", 0], negative=["3", 0], cfg=4.0),
        "14": n(
            "SamplerCustomAdvanced",
            noise=["10", 0],
            guider=["13", 0],
            sampler=["11", 0],
            sigmas=["12", 0],
            latent_image=["4", 0],
        ),
        "15": n("PreviewAny", source=["14", 0]),
    }
    results = Executor(with_networks).run(prompt)
    whole, parts = results["5"].outputs[0][0]["samples"], results["14"].outputs[0][0]["samples"]
    assert torch.isfinite(whole).all() and torch.equal(whole, parts)
    # After the last step the latent is the last clean prediction, in the same scale.
    assert torch.allclose(results["14"].outputs[1][0]["samples"], parts, atol=1e-4)


def test_a_noise_mask_keeps_the_latent_outside_it(networks, embedded):
    model, clip, _ = networks
    latent = {"samples": torch.randn(1, 4, 6, 8, generator=torch.Generator().manual_seed(1))}
    mask = torch.zeros(48, 64)
    mask[:, 32:] = 1.0
    (masked,) = latents.SetLatentNoiseMask().set_mask(latent, mask)
    assert masked["noise_mask"].shape == (1, 1, 48, 64) and "noise_mask" not in latent
    text = clip.encode("x")
    with torch.no_grad():
        (out,) = sampling.KSampler().sample(model, 1, 3, 1.0, "euler", "normal", text, text, masked)
    change = (out["samples"] - latent["samples"]).abs().mean(dim=(0, 1, 2))
    assert change[:3].max() < 1e-5 and change[5:].min() > 1e-2


def test_no_steps_return_the_latent_as_it_is(networks, embedded):
    model, clip, _ = networks
    latent, text = {"samples": torch.randn(1, 4, 6, 8)}, clip.encode("x")
    (out,) = sampling.KSampler().sample(model, 1, 3, 1.0, "euler", "normal", text, text, latent, denoise=0.0)
    assert torch.allclose(out["samples"], latent["samples"], atol=1e-6)


def test_every_schedule_is_offered_with_comfyuis_default_first():
    assert set(sampling.SCHEDULERS) == set(SCHEDULES) and sampling.SCHEDULERS[0] == "simple"


def test_noise_is_drawn_as_in_comfyui():
    latent = {"samples": torch.zeros(2, 4, 6, 8)}
    generator = torch.Generator("cpu").manual_seed(9)
    assert torch.equal(
        sampling.RandomNoiseSource(9).generate_noise(latent), torch.randn(2, 4, 6, 8, generator=generator)
    )
    one = {"samples": latent["samples"][:1], "batch_index": [1]}
    second = sampling.RandomNoiseSource(9).generate_noise(one)
    generator = torch.Generator("cpu").manual_seed(9)
    torch.randn(1, 4, 6, 8, generator=generator)
    assert torch.equal(second, torch.randn(1, 4, 6, 8, generator=generator))
    assert sampling.NoNoiseSource().generate_noise(latent).abs().max() == 0


def test_vae_encode_crops_at_the_centre_and_says_so(networks, embedded):
    vae = networks[2]
    image = torch.rand(1, 51, 70, 3)
    (latent,) = latents.VAEEncode().encode(image, vae)
    assert latent["samples"].shape == (1, 4, 6, 8) and "70 x 51 is cropped" in embedded.notes[0]
    (exact,) = latents.VAEEncode().encode(image[:, 1:49, 3:67], vae)
    assert torch.equal(latent["samples"], exact["samples"])
    with pytest.raises(UserError, match="1 x 51 pixels is smaller than one latent cell"):
        latents.VAEEncode().encode(image[:, :, :1], vae)


def test_ctrl_c_during_sampling_exits_130_and_leaves_no_file(
    affect, workspace, with_networks, networks, prompt, monkeypatch, request
):
    monkeypatch.setattr("comfyui_affect.workflows.headless.run.default_registry", lambda: with_networks)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    calls = []
    real = networks[0].unet.forward

    def forward(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return real(*args, **kwargs)

    monkeypatch.setattr(networks[0].unet, "forward", forward)
    answer = affect("run", prompt)
    assert answer.code == 130 and len(calls) == 2 and not (workspace / "output").exists()
    assert affect("run", prompt).code == 0


def test_a_context_of_another_width_is_a_clear_failure(embedded, with_networks, networks, prompt, monkeypatch):
    monkeypatch.setattr(networks[1], "encode", lambda text: [[torch.zeros(1, 77, 9), {}]], raising=False)
    with pytest.raises(NodeFailed, match=r"Node 5 'KSampler' \(KSampler\) failed: The conditioning is 9 wide"):
        Executor(with_networks).run(prompt)


LOADERS = {
    "checkpoints": (
        "CheckpointLoaderSimple",
        "ckpt_name",
        ["model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.x", "cond_stage_model.x"],
    ),
    "vae": ("VAELoader", "vae_name", ["decoder.conv_in.weight"]),
}


@pytest.mark.parametrize("kind", LOADERS)
def test_model_files_that_are_wrong_are_refused_before_anything_runs(affect, workspace, kind):
    key, name, tensors = LOADERS[kind]
    folder = workspace / "models" / kind
    folder.mkdir(parents=True)
    save_file({t: np.zeros(64, np.float32) for t in tensors}, folder / "good.safetensors")
    save_file({"something.else": np.zeros(64, np.float32)}, folder / "other.safetensors")
    whole = (folder / "good.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[:-8])
    (folder / "text.safetensors").write_text("no model")
    (folder / "pickle.ckpt").write_bytes(b"\x80\x02.")
    for file, word in {
        "other.safetensors": "wrong keys",
        "cut.safetensors": "cut off",
        "text.safetensors": "not a safetensors file",
        "pickle.ckpt": "can run code",
        "absent.safetensors": "There is no file",
        "../x.safetensors": "leaves its folder",
    }.items():
        answer = affect("check", {"1": n(key, **{name: file}), "2": n("PreviewAny", source=["1", 0])}, "--json")
        problem = json.loads(answer.out)["problems"][0]
        assert answer.code == 2 and word in problem["message"] and problem["input"] == name
    good = {"1": n(key, **{name: "good.safetensors"}), "2": n("PreviewAny", source=["1", 0])}
    assert affect("check", good).code == 0


def test_checkpoints_are_files_and_diffusers_folders(embedded, workspace):
    folder = workspace / "models" / "checkpoints"
    (folder / "mine" / "unet").mkdir(parents=True)
    (folder / "mine" / "model_index.json").write_text("{}")
    for file in ("mine/unet/part.safetensors", "one.safetensors", "notes.txt"):
        (folder / file).write_bytes(b"")
    assert embedded.list_files("checkpoints") == ["mine", "one.safetensors"]
