"""Model files that cannot be used: refused by their headers, before anything runs."""

import json
import re
import shutil

import ldm
import loras
import pytest
import torch
from comfyui_affect.models.diffusion import checkpoints
from comfyui_affect.models.diffusion.folder import load_folder
from comfyui_affect.models.errors import UserError
from safetensors.torch import load_file, save_file


@pytest.fixture(scope="module")
def small():
    return ldm.checkpoint()


@pytest.fixture
def put(workspace):
    """put(kind, name, state): a model file of the workspace."""

    def write(kind, name, state):
        path = workspace / "models" / kind / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous() for k, v in state.items()}, path)
        return path

    return write


def prompt(**more):
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "m.safetensors"}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "a (house:1.2)", "clip": ["1", 1]}},
        "3": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "4": {
            "class_type": "KSampler",
            "inputs": {
                "model": ["1", 0],
                "positive": ["2", 0],
                "negative": ["2", 0],
                "latent_image": ["3", 0],
                "seed": 1,
                "steps": 1,
                "cfg": 2.0,
                "sampler_name": "euler",
                "scheduler": "normal",
                "denoise": 1.0,
            },
        },
        "5": {"class_type": "VAEDecode", "inputs": {"samples": ["4", 0], "vae": ["1", 2]}},
        "6": {"class_type": "SaveImage", "inputs": {"images": ["5", 0], "filename_prefix": "x"}},
    } | more


def without(state, prefix):
    return {k: v for k, v in state.items() if not k.startswith(prefix)}


def test_a_checkpoint_without_a_vae_names_vaeloader_and_runs_with_one(affect, workspace, small, put):
    put("checkpoints", "m.safetensors", without(small, "first_stage_model."))
    answer = affect("run", prompt())
    assert answer.code == 2 and "VAELoader" in answer.err and "Node 5 takes it" in answer.err
    put("vae", "v.safetensors", ldm.vae())
    with_vae = prompt(**{"7": {"class_type": "VAELoader", "inputs": {"vae_name": "v.safetensors"}}})
    with_vae["5"]["inputs"]["vae"] = ["7", 0]
    assert affect("run", with_vae).code == 0 and (workspace / "output" / "x_00001_.png").is_file()
    _, _, vae = checkpoints.load_checkpoint(workspace / "models" / "checkpoints" / "m.safetensors")
    with pytest.raises(UserError, match="VAELoader"):
        vae.decode(torch.zeros(1, 4, 8, 8))


def first_layer(state, channels):
    return state | {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(32, channels, 3, 3)}


CHECKPOINTS = {
    "in-painting": (lambda s: first_layer(s, 9), "in-painting model.*9 channels"),
    "another image": (lambda s: first_layer(s, 8), "reads another image.*8 channels"),
    "another family": (
        lambda s: {"double_blocks.0.img_attn.qkv.weight": torch.zeros(2)},
        "Run other models in ComfyUI",
    ),
    "no text": (lambda s: without(s, "cond_stage_model."), "no text encoder"),
}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_checkpoints_that_are_not_run_here(affect, workspace, small, put, case):
    change, words = CHECKPOINTS[case]
    put("checkpoints", "m.safetensors", change(small))
    answer = affect("check", prompt())
    assert answer.code == 2 and len(answer.err.splitlines()) == 1
    assert re.search(words, answer.err)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small SD1.5 in diffusers' layout."""
    path = tmp_path_factory.mktemp("m")
    save_file(ldm.checkpoint(), path / "m.safetensors")
    model, text, vae = checkpoints.load_checkpoint(path / "m.safetensors")
    model.unet.save_pretrained(path / "d" / "unet"), vae.vae.save_pretrained(path / "d" / "vae")
    text.towers[0].model.save_pretrained(path / "d" / "text_encoder")
    (path / "d" / "model_index.json").write_text("{}")
    return path / "d"


@pytest.fixture
def own(folder, workspace):
    """A copy of it among the checkpoints of the workspace."""
    return shutil.copytree(folder, workspace / "models" / "checkpoints" / "d")


def test_a_folder_of_half_precision_files_loads(own):
    plain = load_folder(own)
    for part, name in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        state = load_file(own / part / f"{name}.safetensors")
        save_file({k: v.half() for k, v in state.items()}, own / part / f"{name}.fp16.safetensors", {"format": "pt"})
        (own / part / f"{name}.safetensors").unlink()
    model, text, _ = load_folder(own)
    assert {p.dtype for p in (*model.unet.parameters(), *text.towers[0].model.parameters())} == {torch.float32}
    assert torch.allclose(text.encode("a house")[0][0], plain[1].encode("a house")[0][0], atol=1e-2)


def edited(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


FOLDERS = {
    "pickled": (
        lambda d: (d / "unet" / "diffusion_pytorch_model.safetensors").rename(
            d / "unet" / "diffusion_pytorch_model.bin"
        ),
        "only pickled weights",
    ),
    "no weights": (
        lambda d: (d / "vae" / "diffusion_pytorch_model.safetensors").unlink(),
        "'vae' of the diffusers folder 'd' has no weights",
    ),
    "no text": (lambda d: shutil.rmtree(d / "text_encoder"), "needs unet, vae and text_encoder"),
    "in-painting": (lambda d: edited(d / "unet" / "config.json", in_channels=9), "in-painting model"),
    "no json": (lambda d: (d / "unet" / "config.json").write_text("{"), "unet/config.json"),
    "cut off": (lambda d: (d / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"12345"), "cut off"),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_folders_that_cannot_be_loaded(affect, own, case):
    change, words = FOLDERS[case]
    change(own)
    asked = prompt()
    asked["1"]["inputs"]["ckpt_name"] = "d"
    answer = affect("check", asked)
    assert answer.code == 2 and words in answer.err and len(answer.err.splitlines()) == 1


@pytest.mark.parametrize(
    "change, words",
    [
        (
            lambda d: edited(d / "unet" / "config.json", block_out_channels=[32, 64, 128, 256]),
            "'unet' of the diffusers folder",
        ),
        (lambda d: edited(d / "unet" / "config.json", down_block_types=["Strange"]), "'unet' of the diffusers folder"),
        (
            lambda d: save_file({"a": torch.zeros(1)}, d / "text_encoder" / "model.safetensors", {"format": "pt"}),
            "lacks weights",
        ),
    ],
)
def test_folders_whose_parts_do_not_fit_together(own, change, words):
    change(own)
    with pytest.raises(UserError, match=words):
        load_folder(own)


def test_a_wrong_model_name_gets_the_nearest_one(affect, workspace, small, put):
    put("checkpoints", "dream/photo_v1.safetensors", small)
    asked = prompt()
    asked["1"]["inputs"]["ckpt_name"] = "dream/photo_v2.safetensors"
    answer = affect("check", asked)
    assert answer.code == 2 and "Did you mean 'dream/photo_v1.safetensors'" in answer.err


def test_files_of_another_kind_are_refused(affect, workspace, small, put):
    (
        put("checkpoints", "m.safetensors", small),
        put("loras", "l.safetensors", ldm.vae()),
        put("vae", "v.safetensors", loras.every_kind()),
    )
    (workspace / "models" / "vae" / "folder").mkdir()
    for key, inputs, words in (
        (
            "LoraLoader",
            {
                "model": ["1", 0],
                "clip": ["1", 1],
                "lora_name": "l.safetensors",
                "strength_model": 1.0,
                "strength_clip": 1.0,
            },
            "not a LoRA",
        ),
        ("VAELoader", {"vae_name": "v.safetensors"}, "not a VAE"),
        ("VAELoader", {"vae_name": "folder"}, "is a folder"),
    ):
        asked = prompt(
            **{
                "7": {"class_type": key, "inputs": inputs},
                "8": {"class_type": "PreviewAny", "inputs": {"source": ["7", 0]}},
            }
        )
        answer = affect("check", asked)
        assert answer.code == 2 and words in answer.err


def test_a_lora_and_an_embedding_in_a_run(affect, workspace, small, put):
    put("checkpoints", "m.safetensors", small), put("loras", "l.safetensors", loras.every_kind())
    put("embeddings", "calm.safetensors", {"emb_params": torch.zeros(2, 64)})
    asked = prompt(
        **{
            "7": {
                "class_type": "LoraLoader",
                "inputs": {
                    "model": ["1", 0],
                    "clip": ["1", 1],
                    "lora_name": "l.safetensors",
                    "strength_model": 0.1,
                    "strength_clip": 0.1,
                },
            }
        }
    )
    asked["4"]["inputs"]["model"], asked["2"]["inputs"] = (
        ["7", 0],
        {"text": "a house, embedding:calm", "clip": ["7", 1]},
    )
    answer = affect("run", asked)
    assert answer.code == 0 and "25 of its 25 modules were applied" in answer.err
    asked["2"]["inputs"]["text"] = "a house, embedding:clam"
    answer = affect("run", asked)
    assert answer.code == 2 and "Did you mean 'calm'" in answer.err and "Node 2" in answer.err


@pytest.mark.parametrize(
    "part, key, words",
    [
        (
            "the model",
            "model.diffusion_model.out.2.bias",
            "The model, in step 1 of 1, gave values that are not numbers",
        ),
        (
            "the VAE",
            "first_stage_model.decoder.conv_out.bias",
            "The VAE, decoding the latent, gave values that are not numbers",
        ),
        (
            "the text encoder",
            "cond_stage_model.transformer.text_model.final_layer_norm.bias",
            "'the text encoder' holds values that are not numbers",
        ),
    ],
)
def test_networks_that_give_nan_do_not_make_a_black_picture(affect, workspace, small, put, part, key, words):
    put("checkpoints", "m.safetensors", small | {key: torch.full_like(small[key], float("nan"))})
    answer = affect("run", prompt())
    assert answer.code == 1 and words in answer.err and not list((workspace / "output").rglob("*.png"))
