"""LoRA files of every kind: what they change, and the note about what they do not.
`tests/comfyui/test_reference.py` compares the arithmetic with ComfyUI's; here it is compared with its definition."""

import ldm
import loras
import pytest
import torch
from comfyui_affect.models import host
from comfyui_affect.models.diffusion import checkpoints
from comfyui_affect.models.diffusion.adapters import DoesNotFit, by_module, changed
from comfyui_affect.models.diffusion.lora import apply_lora
from comfyui_affect.models.diffusion.names import original_names
from comfyui_affect.models.errors import UserError
from safetensors.torch import save_file
from torch.nn import functional as F


@pytest.fixture(scope="module")
def sd15(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "small.safetensors"
    save_file(ldm.checkpoint(), path)
    return checkpoints.load_checkpoint(path)


@pytest.fixture
def told():
    class Noting(host.Host):
        notes = []

        def note(self, message):
            self.notes.append(message)

    Noting.notes = []
    with host.use(Noting()) as current:
        yield current.notes


def applied(loaded, content, tmp_path, strength=1.0):
    save_file({k: v.contiguous() for k, v in content.items()}, tmp_path / "l.safetensors")
    return apply_lora(loaded[0], loaded[1], tmp_path / "l.safetensors", strength, strength)


def moved(before, after):
    """Names of the parameters that are other objects with other values."""
    old = dict(before.named_parameters())
    return {name for name, new in after.named_parameters() if not torch.equal(old[name], new)}


def test_every_module_of_a_unet_has_its_original_name(sd15):
    """With the original names of all of its modules the state dict is the original one."""
    names = original_names(sd15[0].unet)
    assert {f"{names[k.rpartition('.')[0]]}.{k.rpartition('.')[2]}" for k in sd15[0].unet.state_dict()} == set(
        ldm.unet()
    )


def test_a_kohya_file_for_sdxl_reaches_the_unet_and_both_encoders(tmp_path, told):
    save_file(ldm.sdxl(), tmp_path / "xl.safetensors")
    model, text, _ = checkpoints.load_checkpoint(tmp_path / "xl.safetensors")
    content = loras.of_sdxl()
    new_model, new_text = applied((model, text), content, tmp_path, 0.5)
    total = len(by_module(content)[0])
    assert told == [f"LoRA 'l.safetensors': {total} of its {total} modules were applied."]
    assert len(moved(model.unet, new_model.unet)) == 6 * 2 * 2 * 4 + 1
    name = "lora_unet_output_blocks_2_1_transformer_blocks_1_attn2_to_k"
    pick = lambda m: m.unet.up_blocks[0].attentions[2].transformer_blocks[1].attn2.to_k.weight
    expected = pick(model) + 0.5 * (2.0 / 4) * content[f"{name}.lora_up.weight"] @ content[f"{name}.lora_down.weight"]
    assert torch.allclose(pick(new_model), expected, atol=1e-6)
    for before, after in zip(
        text.towers, new_text.towers
    ):  # 2 layers of q, k, v (one matrix in open_clip), out, fc1, fc2
        assert len(moved(before.model, after.model)) in (12, 8)
    old, new = (t.towers[1].model.transformer.resblocks[0].attn.in_proj_weight for t in (text, new_text))
    key = "lora_te2_text_model_encoder_layers_0_self_attn_k_proj"
    expected = 0.5 * (2.0 / 4) * content[f"{key}.lora_up.weight"] @ content[f"{key}.lora_down.weight"]
    assert torch.allclose((new - old)[64:128], expected, atol=1e-6)


def test_what_is_not_changed_is_shared_and_the_original_stays(sd15, tmp_path):
    model, text, _ = sd15
    before = {k: v.clone() for k, v in model.unet.state_dict().items()}
    content = loras.Adapters()
    content.lora("lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_k", (32, 64))
    new, _ = applied(sd15, content, tmp_path)
    assert all(torch.equal(v, before[k]) for k, v in model.unet.state_dict().items())
    assert moved(model.unet, new.unet) == {"down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"}
    own = [n for n, p in new.unet.named_parameters() if p is not dict(model.unet.named_parameters())[n]]
    assert own == ["down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"]
    twice, _ = applied((new, text), content, tmp_path)  # one behind the other
    pick = lambda m: m.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2.to_k.weight
    assert torch.allclose(pick(twice) - pick(new), pick(new) - pick(model), atol=1e-5)


@pytest.mark.parametrize(
    "name, form",
    [
        ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0", "peft"),
        ("base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0", "default"),
        ("down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_out", "diffusers"),
        ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0", "kohya"),
        ("lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_out_0", "kohya"),
        ("lycoris_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0", "kohya"),
        ("diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_out.0", "dotted"),
    ],
)
def test_every_way_to_name_a_module_means_it(sd15, tmp_path, told, name, form):
    content = loras.Adapters()
    content.lora(name, (32, 32), form=form)
    new, _ = applied(sd15, content, tmp_path)
    assert moved(sd15[0].unet, new.unet) == {"down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0.weight"}


def parts(add):
    content = loras.Adapters(3)
    add(content)
    (found,), strangers = by_module(content)[0].values(), by_module(content)[1]
    assert not strangers
    return found


def test_tuckers_core_is_three_convolutions():
    p = parts(lambda k: k.tucker("x", (8, 6, 3, 3), rank=3, alpha=1.5))
    weight, x = torch.randn(8, 6, 3, 3), torch.randn(1, 6, 10, 10)
    through = F.conv2d(F.conv2d(F.conv2d(x, p["down"]), p["mid"], padding=1), p["up"]) * (1.5 / 3)
    whole = F.conv2d(x, weight, padding=1) + 0.7 * through
    assert torch.allclose(F.conv2d(x, changed(p, weight, 0.7), padding=1), whole, atol=1e-4)


@pytest.mark.parametrize("tucker", [False, True])
def test_loha_is_a_product_of_two_low_ranks(tucker):
    p = parts(lambda k: k.loha("x", (8, 6, 3, 3), rank=3, alpha=1.5, tucker=tucker))
    weight = torch.randn(8, 6, 3, 3)
    if tucker:
        part = lambda n, i, j: (
            p[f"hada_t{n}"][i, j][None, None]
            * p[f"hada_w{n}_a"][i][:, None, None, None]
            * p[f"hada_w{n}_b"][j][None, :, None, None]
        )
        one, two = (sum(part(n, i, j) for i in range(3) for j in range(3)) for n in (1, 2))
    else:
        one, two = ((p[f"hada_w{n}_a"] @ p[f"hada_w{n}_b"]).reshape(8, 6, 3, 3) for n in (1, 2))
    assert torch.allclose(changed(p, weight, 0.7), weight + 0.7 * (1.5 / 3) * one * two, atol=1e-5)


def test_lokr_is_a_kronecker_product_with_a_core_too():
    p = parts(lambda k: k.lokr("x", (8, 8, 3, 3), factor=2, rank=3, alpha=1.5, tucker=True))
    second = sum(
        p["lokr_t2"][i, j][None, None] * p["lokr_w2_a"][i][:, None, None, None] * p["lokr_w2_b"][j][None, :, None, None]
        for i in range(3)
        for j in range(3)
    )
    whole = torch.zeros(8, 8, 3, 3)
    for o in range(8):
        for i in range(8):
            whole[o, i] = p["lokr_w1"][o // 4, i // 4] * second[o % 4, i % 4]
    assert torch.allclose(changed(p, torch.zeros(8, 8, 3, 3), 1.0), whole * (1.5 / 3), atol=1e-5)


def test_dora_gives_columns_and_pefts_rows_the_lengths_of_the_file():
    weight = torch.randn(8, 6)
    p = parts(lambda k: (k.lora("x", (8, 6)), k.dora("x", (8, 6), rows=False)))
    assert torch.allclose(changed(p, weight, 1.0).norm(dim=0), p["dora_scale"].abs()[0], atol=1e-4)
    p = parts(lambda k: (k.lora("x", (8, 6), form="peft"), k.update({"x.lora_magnitude_vector": torch.rand(8) + 1})))
    assert torch.allclose(changed(p, weight, 1.0).norm(dim=1), p["magnitude"], atol=1e-4)
    direction = weight + 0.5 * p["up"] @ p["down"]
    assert torch.allclose(F.normalize(changed(p, weight, 1.0), dim=1), F.normalize(direction, dim=1), atol=1e-5)
    assert torch.allclose(changed(p, weight, 0.0), weight)


@pytest.mark.parametrize(
    "add, words",
    [
        (
            lambda k: k.update({"x.hada_w1_a": torch.ones(8, 2), "x.hada_w1_b": torch.ones(2, 6)}),
            "hada_w2_a is missing",
        ),
        (lambda k: k.update({"x.lora_up.weight": torch.ones(8, 2)}), "down is missing"),
        (lambda k: k.update({"x.oft_blocks": torch.ones(2, 4, 4)}), "OFT"),
        (lambda k: k.lora("x", (8, 7)), r"\[8, 7\] for \[8, 6\]"),
        (
            lambda k: k.update({"x.lora_up.weight": torch.ones(8, 2), "x.lora_down.weight": torch.ones(3, 6)}),
            "do not fit one another",
        ),
        (lambda k: (k.lora("x", (8, 6)), k.update({"x.dora_scale": torch.ones(5)})), "magnitudes"),
        (lambda k: (k.lora("x", (8, 6)), k.update({"x.alpha": torch.ones(3)})), r"alpha \[3\]"),
        (
            lambda k: k.update(
                {"x.lora_up.weight": torch.ones(8, 0), "x.lora_down.weight": torch.ones(0, 6), "x.alpha": torch.ones(1)}
            ),
            "rank of 0",
        ),
        (
            lambda k: k.update({"x.lora_up.weight": torch.ones(()), "x.lora_down.weight": torch.ones(())}),
            "do not fit one another",
        ),
        (lambda k: k.update({"x.diff": torch.ones(())}), r"\[\] for \[8, 6\]"),
        (
            lambda k: k.update({"x.lora_up.weight": torch.ones(10**6, 1), "x.lora_down.weight": torch.ones(1, 10**6)}),
            r"\[1000000, 1000000\] for \[8, 6\]",
        ),
        (
            lambda k: k.update(
                {f"x.hada_w{i}_{end}": torch.ones(1, 10**5) for i in (1, 2) for end in "ab"}
                | {f"x.hada_t{i}": torch.ones(1, 1, 9, 9) for i in (1, 2)}
            ),
            r"\[100000, 100000, 9, 9\] for \[8, 6\]",
        ),
    ],
    ids=[
        *("half a LoHa", "half a LoRA", "OFT", "shape", "ranks", "DoRA", "alpha", "no rank", "numbers", "a number"),
        *("4 TB", "3 TB"),
    ],
)
def test_parts_that_cannot_be_applied_say_why(add, words):
    with pytest.raises(DoesNotFit, match=words):
        changed(parts(add), torch.zeros(8, 6), 1.0)


def test_how_many_of_how_many_were_applied_is_said(sd15, tmp_path, told):
    content = loras.Adapters()
    for i in range(10):
        content.lora(f"lora_unet_elsewhere_{i}", (32, 32))
    content.lora("lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q", (32, 32))
    content.loha("lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_k", (32, 64))
    content.lora("lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_v", (32, 1024))
    content["something.else"] = torch.zeros(1)
    new, _ = applied(sd15, content, tmp_path)
    (said,) = told
    assert "2 of its 13 modules were applied" in said and "10 name modules that this model does not have" in said
    assert (
        "'lora_unet_elsewhere_0'" in said
        and "[32, 1024] for [32, 64]" in said
        and "1 tensors are of no known kind" in said
    )
    assert len(moved(sd15[0].unet, new.unet)) == 2


def test_a_file_of_another_family_is_an_error_with_its_shapes(sd15, tmp_path):
    content = loras.Adapters()
    content.lora("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k", (32, 1024))
    with pytest.raises(UserError, match=r"0 of its 1 modules.*\[32, 1024\] for \[32, 64\].*another model family"):
        applied(sd15, content, tmp_path)
    content = loras.Adapters()
    content.lora("transformer.single_transformer_blocks.0.attn.to_q", (32, 32), form="peft")
    with pytest.raises(UserError, match="0 of its 1 modules.*single_transformer_blocks"):
        applied(sd15, content, tmp_path)


def test_values_that_are_no_numbers_never_reach_a_model(sd15, tmp_path):
    content = loras.Adapters()
    content.lora("lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q", (32, 32))
    content["lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q.lora_up.weight"][0, 0] = float("nan")
    with pytest.raises(UserError, match="not numbers"):
        applied(sd15, content, tmp_path)
