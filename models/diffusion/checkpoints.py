"""Checkpoints for the embedded host: SD1.5-, SD2- and SDXL-shaped single files, diffusers folders, VAEs and LoRAs.

Sizes are deduced from the state dict, so fine-tunes, inpainting-free variants and small test models load alike.
Networks come from diffusers, text towers from transformers (CLIP-L) and open_clip (CLIP-H, CLIP-bigG).
"""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError
from ..files import check_safetensors, load_into, load_safetensors
from ..host import current
from .diffusers import DiffusersModel, DiffusersVAE
from .protocol import frozen
from .text import TextEncoder, Tower, open_clip_tower

State = dict[str, torch.Tensor]

_UNET, _VAE = "model.diffusion_model.", "first_stage_model."


def load_checkpoint(path: Path) -> tuple[DiffusersModel, TextEncoder, DiffusersVAE]:
    """(MODEL, CLIP, VAE) of a safetensors file in the original (LDM) layout, or of a folder in diffusers' layout.

    UserError where the file is damaged, pickled, or of a model that has no cross-attention UNet (SD3, FLUX: run
    those in ComfyUI).
    """
    path = Path(path)
    if path.is_dir():
        return _from_folder(path)
    check_safetensors(path)
    state, _ = load_safetensors(path)
    unet_state, vae_state = _under(state, _UNET), _under(state, _VAE)
    if "input_blocks.0.0.weight" not in unet_state or not vae_state:
        raise UserError(f"'{path.name}' is no checkpoint of an SD1.5, SD2 or SDXL model: it has the wrong keys "
                        f"(none like '{_UNET}input_blocks.0.0.weight'). Run other models in ComfyUI.")
    unet_config = unet_shape(unet_state)
    width = unet_config["context_dim"]
    family = "sdxl" if "adm_in_channels" in unet_config else "sd2" if width == 1024 else "sd1"
    scale = 0.13025 if family == "sdxl" else 0.18215
    prediction = "v_prediction" if family == "sd2" and _is_v(unet_state) else "epsilon"
    unet = _unet(unet_state, unet_config).to(current().device)
    return DiffusersModel(unet, prediction, scale), _text(state, family, path.name), _vae(vae_state)


def load_vae(path: Path) -> DiffusersVAE:
    """A VAE file, in the original layout (with or without its prefix) or in diffusers'."""
    state, _ = load_safetensors(path)
    return _vae(_under(state, _VAE) or state)


def _under(state: State, prefix: str) -> State:
    return {k[len(prefix):]: v for k, v in state.items() if k.startswith(prefix)}


def _is_v(unet: State) -> bool:
    # ComfyUI's sign for SD2.1-v: the deviation of this bias lies above 0.09 there.
    return float(unet["output_blocks.11.1.transformer_blocks.0.norm1.bias"].float().std()) > 0.09 \
        if "output_blocks.11.1.transformer_blocks.0.norm1.bias" in unet else False


# -- UNet ---------------------------------------------------------------------------------------------------------

def unet_shape(state: State) -> dict[str, Any]:
    """The original configuration (`unet_config`) of an LDM UNet's state dict."""
    first = state["input_blocks.0.0.weight"]
    blocks = 1 + max(int(k.split(".")[1]) for k in state if k.startswith("input_blocks."))
    channels, downs, depths = [], [i for i in range(blocks) if f"input_blocks.{i}.0.op.weight" in state], []
    for i in range(1, blocks):
        if i in downs:
            continue
        channels.append(state[f"input_blocks.{i}.0.out_layers.3.weight"].shape[0])
        depths.append(_depth(state, f"input_blocks.{i}.1."))
    levels = len(downs) + 1
    per_level = len(channels) // levels
    mult = [channels[i * per_level] // first.shape[0] for i in range(levels)]
    level_depth = [depths[i * per_level] for i in range(levels)]
    attention = next(k for k in state if k.endswith("attn2.to_k.weight"))
    width = state[attention].shape[1]
    linear = state[attention.split("transformer_blocks")[0] + "proj_in.weight"].ndim == 2
    config: dict[str, Any] = dict(
        image_size=32, in_channels=first.shape[1], out_channels=state["out.2.weight"].shape[0],
        model_channels=first.shape[0], num_res_blocks=per_level, channel_mult=mult, context_dim=width,
        attention_resolutions=[2**i for i, d in enumerate(level_depth) if d], use_spatial_transformer=True,
        use_linear_in_transformer=linear, transformer_depth=level_depth if max(level_depth) > 1 else 1, legacy=False)
    # SD1.5 has eight heads at every level; SD2 and SDXL have heads of 64 channels.
    config |= dict(num_head_channels=64) if linear else dict(num_heads=8)
    if "label_emb.0.0.weight" in state:
        config |= dict(num_classes="sequential", adm_in_channels=state["label_emb.0.0.weight"].shape[1])
    return config


def _depth(state: State, prefix: str) -> int:
    return len({k[len(prefix):].split(".")[1] for k in state if k.startswith(prefix + "transformer_blocks.")})


def _unet(state: State, config: dict[str, Any]) -> Any:
    from diffusers import UNet2DConditionModel

    keys = {_UNET + k: v for k, v in state.items()}
    # diffusers takes the sample size from the VAE's levels; the size itself does not matter here.
    wrapped = {"model": {"params": {
        "unet_config": {"params": config}, "network_config": {"params": config},
        "first_stage_config": {"params": {"ddconfig": {"ch_mult": [1, 2, 4, 4], "resolution": 256}}}}}}
    try:
        unet = UNet2DConditionModel.from_single_file(keys, original_config=wrapped)
    except (KeyError, ValueError, RuntimeError) as error:
        raise UserError(f"The UNet of this checkpoint could not be built: {error}. It is not an SD1.5, SD2 or SDXL "
                        "model; run it in ComfyUI.") from error
    return _complete(unet, "the UNet")


# -- VAE ----------------------------------------------------------------------------------------------------------

def _vae(state: State) -> DiffusersVAE:
    from diffusers import AutoencoderKL

    if "decoder.mid_block.resnets.0.conv1.weight" in state:
        widths = [state[f"encoder.down_blocks.{i}.resnets.0.conv1.weight"].shape[0]
                  for i in range(_count(state, r"encoder\.down_blocks\.(\d+)\."))]
        layers = _count(state, r"encoder\.down_blocks\.0\.resnets\.(\d+)\.")
        n = len(widths)
        vae = AutoencoderKL(
            latent_channels=state["decoder.conv_in.weight"].shape[1], block_out_channels=widths,
            layers_per_block=layers, down_block_types=("DownEncoderBlock2D",) * n, up_block_types=("UpDecoderBlock2D",) * n,
            norm_num_groups=32)
        return DiffusersVAE(load_into(vae, state, "the VAE").to(current().device))
    if "decoder.conv_in.weight" not in state or "encoder.down.0.block.0.conv1.weight" not in state:
        raise UserError("This file is no VAE of Stable Diffusion's kind: it has the wrong keys.")
    widths = [state[f"encoder.down.{i}.block.0.conv1.weight"].shape[0]
              for i in range(_count(state, r"encoder\.down\.(\d+)\."))]
    params = dict(
        double_z=True, z_channels=state["decoder.conv_in.weight"].shape[1], resolution=256, in_channels=3, out_ch=3,
        ch=widths[0], ch_mult=[w // widths[0] for w in widths],
        num_res_blocks=_count(state, r"encoder\.down\.0\.block\.(\d+)\."), attn_resolutions=[], dropout=0.0)
    wrapped = {"model": {"params": {"first_stage_config": {"params": {"ddconfig": params, "embed_dim": params["z_channels"]}}}}}
    keys = {_VAE + k: v for k, v in state.items()}
    try:
        vae = AutoencoderKL.from_single_file(keys, original_config=wrapped)
    except (KeyError, ValueError, RuntimeError) as error:
        raise UserError(f"The VAE could not be built: {error}. Its file has the wrong keys.") from error
    return DiffusersVAE(_complete(vae, "the VAE").to(current().device))


def _complete(model: Any, name: str) -> Any:
    """UserError where diffusers left a weight empty because the file lacks it."""
    empty = [k for k, v in model.state_dict().items() if v.is_meta]
    if empty:
        raise UserError(f"{name[0].upper()}{name[1:]} has the wrong keys: it lacks '{empty[0]}' (and {len(empty) - 1} "
                        "more). Download the file again, or choose another.")
    return model.float()


def _count(state: State, pattern: str) -> int:
    return 1 + max((int(m.group(1)) for k in state if (m := re.match(pattern, k))), default=-1)


# -- text towers --------------------------------------------------------------------------------------------------

def _text(state: State, family: str, name: str) -> TextEncoder:
    if family == "sdxl":
        small = _under(state, "conditioner.embedders.0.transformer.text_model.")
        large = _under(state, "conditioner.embedders.1.model.")
        _require(small and large, name)
        # SDXL reads both towers one layer before the last, without the final norm; the pooled text is the large one's.
        return TextEncoder([clip_l_tower(small, penultimate=True), open_clip_tower(text_transformer(large), penultimate=True, norm=False)],
                           pads=(49407, 0))
    if family == "sd2":
        tower = _under(state, "cond_stage_model.model.")
        _require(tower, name)
        return TextEncoder([open_clip_tower(text_transformer(tower), penultimate=True)], pads=(0,))
    tower = _under(state, "cond_stage_model.transformer.text_model.") or _under(state, "cond_stage_model.transformer.")
    _require(tower, name)
    return TextEncoder([clip_l_tower(tower, penultimate=False)])


def _require(found: Any, name: str) -> None:
    if not found:
        raise UserError(f"'{name}' holds no text encoder: use a full checkpoint (with CLIP inside).")


def clip_l_tower(state: State, penultimate: bool) -> Tower:
    """A text tower in transformers' CLIP layout (keys after `text_model.`), sizes deduced; heads of 64 channels."""
    from transformers import CLIPTextConfig, CLIPTextModel

    width = state["final_layer_norm.weight"].shape[0]
    layers = _count(state, r"encoder\.layers\.(\d+)\.")
    model = CLIPTextModel(CLIPTextConfig(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=max(1, width // 64),
        intermediate_size=state["encoder.layers.0.mlp.fc1.weight"].shape[0], hidden_act="quick_gelu",
        vocab_size=state["embeddings.token_embedding.weight"].shape[0], projection_dim=width, eos_token_id=49407))
    prefix = "text_model." if any(k.startswith("text_model.") for k in model.state_dict()) else ""
    load_into(model, {prefix + k: v for k, v in state.items() if not k.endswith("position_ids")}, "the text encoder")
    return TransformersTower(model, penultimate)


class TransformersTower:
    """A transformers CLIP text model as a tower; a class, so that a LoRA can be merged into a copy of its model."""

    def __init__(self, model: Any, penultimate: bool):
        frozen([model])
        self.model, self.penultimate = model, penultimate

    def __call__(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        out = self.model(ids.to(self.model.device), output_hidden_states=self.penultimate)
        hidden = out.hidden_states[-2] if self.penultimate else out.last_hidden_state
        return hidden, getattr(out, "text_embeds", None)


def text_transformer(state: State) -> Any:
    """A text tower in open_clip's layout (SD2's CLIP-H, SDXL's CLIP-bigG), sizes deduced; heads of 64 channels."""
    from open_clip.transformer import TextTransformer

    vocabulary, width = state["token_embedding.weight"].shape
    tower = TextTransformer(vocab_size=vocabulary, width=width, heads=max(1, width // 64),
                            layers=_count(state, r"transformer\.resblocks\.(\d+)\."),
                            output_dim=state["text_projection"].shape[1])
    own = tower.state_dict()
    load_into(tower, {k: v for k, v in state.items() if k in own} | {k: own[k] for k in own if k == "attn_mask"},
              "the text encoder")
    frozen([tower])
    return tower


# -- diffusers folders and LoRAs ----------------------------------------------------------------------------------

def _from_folder(path: Path) -> tuple[DiffusersModel, TextEncoder, DiffusersVAE]:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    if not (path / "unet").is_dir() or not (path / "vae").is_dir():
        raise UserError(f"The folder '{path.name}' is no diffusers model with a UNet: it needs unet, vae and "
                        "text_encoder inside.")
    load = dict(local_files_only=True, use_safetensors=True)
    unet = UNet2DConditionModel.from_pretrained(path / "unet", **load)
    vae = AutoencoderKL.from_pretrained(path / "vae", **load)
    large = (path / "text_encoder_2").is_dir()
    towers, pads = [TransformersTower(CLIPTextModel.from_pretrained(path / "text_encoder", **load), large)], (49407,)
    if large:
        second = CLIPTextModelWithProjection.from_pretrained(path / "text_encoder_2", **load)
        towers, pads = [*towers, TransformersTower(second, True)], (49407, 0)
    prediction = "epsilon"
    scheduler = path / "scheduler" / "scheduler_config.json"
    if scheduler.is_file():
        import json

        prediction = json.loads(scheduler.read_text(encoding="utf-8")).get("prediction_type", prediction)
    return DiffusersModel(unet, prediction, vae.config.scaling_factor), TextEncoder(towers, pads), DiffusersVAE(vae)


def apply_lora(model: DiffusersModel, clip: TextEncoder, path: Path, strength_model: float,
               strength_clip: float) -> tuple[DiffusersModel, TextEncoder]:
    """Copies of MODEL and CLIP with a LoRA merged in at the given strengths; the originals stay as they are.

    Reads low-rank pairs under diffusers' module names (kohya's `lora_unet_...` and `lora_te_...`, diffusers' and
    PEFT's dotted ones). UserError where nothing fits: other kinds (LoHa, SDXL's original block names) need ComfyUI.
    """
    state, _ = load_safetensors(path)
    unet, towers = copy.deepcopy(model.unet), copy.deepcopy(clip.towers)
    places = {"unet": (unet, strength_model)}
    for name, tower in zip(("te", "te2"), towers):
        if isinstance(tower, TransformersTower):
            places[name] = (tower.model, strength_clip)
    modules = {f"{place}_{_flat(name)}": (module, strength) for place, (whole, strength) in places.items()
               for name, module in whole.named_modules() if hasattr(module, "weight")}
    applied = 0
    for key, down in state.items():
        pair = next(((d, u) for d, u in _PAIRS if key.endswith(d)), None)
        if pair is None:
            continue
        base = key.removesuffix(pair[0])
        target = modules.get(_lora_place(base))
        if target is None or base + pair[1] not in state:
            continue
        module, strength = target
        up, rank = state[base + pair[1]].float(), down.shape[0]
        alpha = float(state.get(f"{base}.alpha", torch.tensor(float(rank))))
        delta = (up.flatten(1) @ down.float().flatten(1)) * (alpha / rank)
        module.weight.data += strength * delta.reshape(module.weight.shape).to(module.weight)
        applied += 1
    if not applied:
        raise UserError(f"The LoRA '{path.name}' fits nothing in this model: it is of another model family, or of a "
                        "kind that needs ComfyUI.")
    return (DiffusersModel(unet, model.prediction, model.latent_scale, model.sigma_table),
            TextEncoder(towers, clip.pads))


_PAIRS = ((".lora_down.weight", ".lora_up.weight"), (".lora_A.weight", ".lora_B.weight"),
          (".lora.down.weight", ".lora.up.weight"), (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"))


def _flat(name: str) -> str:
    return name.removeprefix("text_model.").replace(".", "_")


def _lora_place(base: str) -> str:
    for prefix, place in (("lora_unet_", "unet_"), ("unet.", "unet_"), ("lora_te_text_model_", "te_"),
                          ("lora_te1_text_model_", "te_"), ("text_encoder.text_model.", "te_"),
                          ("lora_te2_text_model_", "te2_"), ("text_encoder_2.text_model.", "te2_")):
        if base.startswith(prefix):
            return place + base.removeprefix(prefix).replace(".", "_")
    return base
