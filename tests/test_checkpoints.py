import ldm
import pytest
import torch
from comfyui_affect.models.diffusion import checkpoints
from comfyui_affect.models.diffusion.diffusers import CFGGuider
from comfyui_affect.models.diffusion.lora import apply_lora
from comfyui_affect.models.diffusion.sampling import Sampler, prepare_noise, schedule
from comfyui_affect.models.diffusion.towers import OpenClipTower
from comfyui_affect.models.errors import UserError
from safetensors.torch import save_file


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "small.safetensors"
    save_file(ldm.checkpoint(), str(path))
    return checkpoints.load_checkpoint(path)


def test_a_single_file_samples(loaded):
    model, text, vae = loaded
    assert model.unet.config.block_out_channels == [32, 64, 128, 128] and model.unet.config.cross_attention_dim == 64
    latent = torch.zeros(1, 4, 8, 8)
    guider = CFGGuider(model, text.encode("a (red:1.2) house"), text.encode(""), 4.0)
    out = guider.sample(prepare_noise(latent, 0), latent, Sampler("euler"), schedule("karras", model.sigma_table, 2))
    image = vae.decode(out)
    assert image.shape == (1, 3, 64, 64) and torch.isfinite(image).all() and vae.factor == 8


def test_every_unet_tensor_was_placed(loaded):
    """Sums of squares agree: nothing was left at its initial value."""
    model, _, vae = loaded
    total = lambda state: sum(float((v.double() ** 2).sum()) for v in state.values())
    assert total(model.unet.state_dict()) == pytest.approx(total(ldm.unet()), rel=1e-6)
    assert total(vae.vae.state_dict()) == pytest.approx(total(ldm.vae()), rel=1e-6)


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "xl.safetensors"
    save_file(ldm.sdxl(), str(path))
    model, text, vae = checkpoints.load_checkpoint(path)

    def encode(prompt):
        [[hidden, options]] = text.encode(prompt)
        assert hidden.shape == (1, 77, 128) and options["pooled_output"].shape == (1, 64)
        return [[hidden.repeat(1, 1, 16), options]]

    assert model.latent_scale == 0.13025 and text.pads == (49407, 0)
    return model, encode, vae


def test_an_sdxl_shaped_file_reads_both_towers_and_the_pooled_text(sdxl):
    model, encode, _ = sdxl
    total = lambda state: sum(float((v.double() ** 2).sum()) for v in state.values())
    assert total(model.unet.state_dict()) == pytest.approx(total(ldm.xl_unet()), rel=1e-6)
    prompt = encode("a house")
    x, sigma = torch.randn(1, 4, 8, 8), torch.tensor([2.0])
    with torch.no_grad():
        other = [[prompt[0][0], prompt[0][1] | {"pooled_output": torch.zeros(1, 64)}]]
        assert not torch.equal(model(x, sigma, model.context(prompt)), model(x, sigma, model.context(other)))


def test_sdxl_without_a_pooled_text_is_refused(sdxl):
    model, encode, _ = sdxl
    with pytest.raises(UserError, match="SDXL's own CLIP"):
        model.context([[encode("a house")[0][0], {}]])


def test_sdxl_runs_whatever_a_workflow_may_ask_of_it(sdxl, small_classifier):
    """Plain sampling, MUSE's gradients, attention grounding and the blend."""
    from comfyui_affect.models.emotions import EmotionTarget
    from comfyui_affect.models.moodifier.blend import BlendConfig, blend
    from comfyui_affect.models.moodifier.masks import cross_attention_maps
    from comfyui_affect.models.muse import MuseConfig, muse_guider

    model, encode, vae = sdxl
    before, after, empty = encode("a house by a lake"), encode("a dark house by a lake"), encode("")
    latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    sigmas = schedule("normal", model.sigma_table, 2)
    plain = CFGGuider(model, before, empty, 4.0).sample(latent, torch.zeros_like(latent), Sampler("euler"), sigmas)
    guider = muse_guider(
        model, vae, small_classifier, before, empty, EmotionTarget.of("fear"), MuseConfig(cfg=4.0, max_inner_steps=2)
    )
    moved = guider.sample(latent, torch.zeros_like(latent), Sampler("euler"), sigmas)
    assert torch.isfinite(moved).all() and not torch.equal(plain, moved)
    maps = cross_attention_maps(model, before, latent, [[2]], seed=0)
    assert maps.shape == (1, 1, 8, 8) and torch.isfinite(maps).all()
    mask = torch.zeros(1, 8, 8)
    mask[..., 4:] = 1
    edited = blend(model, before, after, None, {"samples": latent}, mask, 3, "normal", BlendConfig(), 0)["samples"]
    assert torch.allclose(edited[..., :4], latent[..., :4], atol=1e-5) and not torch.allclose(
        edited[..., 4:], latent[..., 4:]
    )


def test_vae_alone_with_and_without_its_prefix(loaded, tmp_path):
    x = torch.rand(1, 3, 32, 32)
    for name, prefix in (("a", ""), ("b", "first_stage_model.")):
        save_file({prefix + k: v for k, v in ldm.vae().items()}, str(tmp_path / name))
        assert torch.allclose(checkpoints.load_vae(tmp_path / name).encode(x), loaded[2].encode(x), atol=1e-5)


def test_open_clip_tower_reads_the_layer_before_the_last():
    tower = checkpoints.text_transformer(ldm.open_clip_text())
    ids = torch.full((1, 77), 49407)
    with torch.no_grad():
        last, pooled = OpenClipTower(tower)(ids)
        before, same = OpenClipTower(tower, penultimate=True, norm=False)(ids)
        normed, _ = OpenClipTower(tower, penultimate=True)(ids)
        assert torch.equal(pooled, same) and torch.equal(normed, tower.ln_final(before))
        assert torch.allclose(
            last, tower.ln_final(tower.transformer.resblocks[-1](before, attn_mask=tower.attn_mask)), atol=1e-5
        )
        assert not torch.allclose(last, normed)


def test_foreign_files_are_refused(tmp_path):
    save_file({"double_blocks.0.img_attn.qkv.weight": torch.zeros(2)}, str(tmp_path / "flux.safetensors"))
    with pytest.raises(UserError, match="wrong keys"):
        checkpoints.load_checkpoint(tmp_path / "flux.safetensors")
    state = {k: v for k, v in ldm.checkpoint().items() if not k.startswith("cond_stage")}
    save_file(state, str(tmp_path / "bare.safetensors"))
    with pytest.raises(UserError, match="no text encoder"):
        checkpoints.load_checkpoint(tmp_path / "bare.safetensors")


def test_a_lora_is_merged_into_a_copy(loaded, tmp_path):
    model, text, _ = loaded
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    down, up = torch.randn(2, 64), torch.randn(32, 2)
    save_file(
        {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(1.0)},
        str(tmp_path / "l.safetensors"),
    )
    pick = lambda m: m.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2.to_k.weight
    before = pick(model).clone()
    merged, _ = apply_lora(model, text, tmp_path / "l.safetensors", 0.5, 1.0)
    assert torch.equal(pick(model), before)
    assert torch.allclose(pick(merged), before + 0.5 * (1.0 / 2) * up @ down, atol=1e-5)
    save_file(
        {"lora_unet_nowhere.lora_down.weight": down, "lora_unet_nowhere.lora_up.weight": up},
        str(tmp_path / "x.safetensors"),
    )
    with pytest.raises(UserError, match="fits nothing"):
        apply_lora(model, text, tmp_path / "x.safetensors", 0.5, 1.0)


def test_a_lora_reaches_the_text_encoder_too(loaded, tmp_path):
    model, text, _ = loaded
    save_file(
        {
            "lora_te_text_model_encoder_layers_1_mlp_fc1.lora_down.weight": torch.randn(2, 64),
            "lora_te_text_model_encoder_layers_1_mlp_fc1.lora_up.weight": torch.randn(256, 2),
        },
        str(tmp_path / "t"),
    )
    _, changed = apply_lora(model, text, tmp_path / "t", 1.0, 1.0)
    a, b = (t.encode("a house")[0][0] for t in (text, changed))
    assert not torch.allclose(a, b)


@pytest.mark.parametrize(
    "key", ["model.diffusion_model.middle_block.1.proj_in.weight", "first_stage_model.decoder.mid.block_1.conv1.weight"]
)
def test_a_checkpoint_that_lacks_a_weight_is_refused(tmp_path, key):
    state = ldm.checkpoint()
    del state[key]
    save_file(state, str(tmp_path / "holes.safetensors"))
    with pytest.raises(UserError):
        checkpoints.load_checkpoint(tmp_path / "holes.safetensors")
