"""Checkpoints for the embedded host: SD1.5-, SD2- and SDXL-shaped single files, and VAEs.

Sizes are deduced from the state dict, so fine-tunes, inpainting-free variants and small test models load alike.
Networks come from diffusers, text towers from transformers (CLIP-L) and open_clip (CLIP-H, CLIP-bigG).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError
from ..files import check_safetensors, load_into, load_safetensors
from ..host import current
from ..tensors.gradients import frozen
from .diffusers import DiffusersModel, DiffusersVAE
from .folder import load_folder, takes_more
from .text import TextEncoder, Tower
from .towers import OpenClipTower, TransformersTower

State = dict[str, torch.Tensor]

_UNET, _VAE = "model.diffusion_model.", "first_stage_model."
_FIRST = f"{_UNET}input_blocks.0.0.weight"


def check_checkpoint(path: Path) -> bool:
    """Looks at a checkpoint's header. Whether a VAE is inside; UserError where the file is damaged or of a model
    that is not run here."""
    header = check_safetensors(path)
    if _FIRST not in header:
        raise UserError(
            f"'{path.name}' is not a checkpoint of an SD1.5, SD2 or SDXL model: it has the wrong keys "
            f"(none like '{_FIRST}'). Run other models in ComfyUI."
        )
    shape = header[_FIRST]["shape"]
    latent = next(
        (v["shape"][1] for k, v in header.items() if k == f"{_VAE}decoder.conv_in.weight" and len(v["shape"]) == 4), 4
    )
    if len(shape) == 4 and shape[1] != latent:
        raise UserError(takes_more(path.name, shape[1], latent))
    if not any(key.startswith(("cond_stage_model.", "conditioner.")) for key in header):
        raise UserError(_NO_TEXT.format(name=path.name))
    return any(key.startswith(_VAE) for key in header)


def load_checkpoint(path: Path) -> tuple[DiffusersModel, TextEncoder, DiffusersVAE | NoVAE]:
    """(MODEL, CLIP, VAE) of a safetensors file in the original (LDM) layout, or of a folder in diffusers' layout.

    UserError where the file is damaged, pickled, or of a model that has no cross-attention UNet (SD3, FLUX: run
    those in ComfyUI).
    """
    path = Path(path)
    if path.is_dir():
        return load_folder(path)
    has_vae = check_checkpoint(path)
    state, _ = load_safetensors(path)
    unet_state = _under(state, _UNET)
    with _building("UNet", path.name):
        unet_config = unet_shape(unet_state)
        width = unet_config["context_dim"]
        family = "sdxl" if "adm_in_channels" in unet_config else "sd2" if width == 1024 else "sd1"
        scale = 0.13025 if family == "sdxl" else 0.18215
        prediction = "v_prediction" if family == "sd2" and _is_v(unet_state) else "epsilon"
        unet = _unet(unet_state, unet_config).to(current().device)
    with _building("text encoder", path.name):
        text = _text(state, family, path.name)
    return (
        DiffusersModel(unet, prediction, scale),
        text,
        _vae(_under(state, _VAE), path.name) if has_vae else NoVAE(path.name),
    )


def load_vae(path: Path) -> DiffusersVAE:
    """A VAE file, in the original layout (with or without its prefix) or in diffusers'."""
    state, _ = load_safetensors(path)
    return _vae(_under(state, _VAE) or state, Path(path).name)


class NoVAE:
    """The VAE socket of a checkpoint that holds none: whatever asks something of it is told so."""

    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):  # Python itself asks, to copy it for example
            raise AttributeError(attribute)
        raise UserError(no_vae(self._name))


def no_vae(name: str) -> str:
    """The error where a VAE is asked of a checkpoint without one."""
    return (
        f"The checkpoint '{name}' holds no VAE. Add the node Load VAE (VAELoader) with a VAE of the same family, and "
        "connect that in place of the checkpoint's."
    )


@contextmanager
def _building(part: str, name: str) -> Iterator[None]:
    """A block that deduces a network from a state dict and builds it. A file is anybody's: whatever it makes the
    code that reads it raise becomes a UserError that says which part of which file."""
    try:
        yield
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        said = (
            f"it lacks {error}"
            if isinstance(error, KeyError)
            else " ".join(str(error).split())[:300] or type(error).__name__
        )
        raise UserError(
            f"The {part} in '{name}' could not be built: it has the wrong keys or shapes ({said}). It is damaged, or "
            "no SD1.5, SD2 or SDXL model."
        ) from error


def _under(state: State, prefix: str) -> State:
    return {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}


def _is_v(unet: State) -> bool:
    # ComfyUI's sign for SD2.1-v: the deviation of this bias lies above 0.09 there.
    return (
        float(unet["output_blocks.11.1.transformer_blocks.0.norm1.bias"].float().std()) > 0.09
        if "output_blocks.11.1.transformer_blocks.0.norm1.bias" in unet
        else False
    )


# -- UNet ---------------------------------------------------------------------------------------------------------


def unet_shape(state: State) -> dict[str, Any]:
    """The original configuration (`unet_config`) of an LDM UNet's state dict."""
    first = state["input_blocks.0.0.weight"]
    blocks = _count(state, r"input_blocks\.(\d+)\.")
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
        image_size=32,
        in_channels=first.shape[1],
        out_channels=state["out.2.weight"].shape[0],
        model_channels=first.shape[0],
        num_res_blocks=per_level,
        channel_mult=mult,
        context_dim=width,
        attention_resolutions=[2**i for i, d in enumerate(level_depth) if d],
        use_spatial_transformer=True,
        use_linear_in_transformer=linear,
        transformer_depth=level_depth if max(level_depth) > 1 else 1,
        legacy=False,
    )
    # SD1.5 has eight heads at every level; SD2 and SDXL have heads of 64 channels.
    config |= dict(num_head_channels=64) if linear else dict(num_heads=8)
    if "label_emb.0.0.weight" in state:
        config |= dict(num_classes="sequential", adm_in_channels=state["label_emb.0.0.weight"].shape[1])
    return config


def _depth(state: State, prefix: str) -> int:
    return len({k[len(prefix) :].split(".")[1] for k in state if k.startswith(prefix + "transformer_blocks.")})


def _unet(state: State, config: dict[str, Any]) -> Any:
    from diffusers import UNet2DConditionModel

    keys = {_UNET + k: v for k, v in state.items()}
    # diffusers takes the sample size from the VAE's levels; the size itself does not matter here.
    wrapped = {
        "model": {
            "params": {
                "unet_config": {"params": config},
                "network_config": {"params": config},
                "first_stage_config": {"params": {"ddconfig": {"ch_mult": [1, 2, 4, 4], "resolution": 256}}},
            }
        }
    }
    return _complete(UNet2DConditionModel.from_single_file(keys, original_config=wrapped), "the UNet")


# -- VAE ----------------------------------------------------------------------------------------------------------


def _vae(state: State, name: str) -> DiffusersVAE:
    with _building("VAE", name):
        return DiffusersVAE(_autoencoder(state).to(current().device))


def _autoencoder(state: State) -> Any:
    from diffusers import AutoencoderKL

    if "decoder.mid_block.resnets.0.conv1.weight" in state:
        widths = [
            state[f"encoder.down_blocks.{i}.resnets.0.conv1.weight"].shape[0]
            for i in range(_count(state, r"encoder\.down_blocks\.(\d+)\."))
        ]
        layers = _count(state, r"encoder\.down_blocks\.0\.resnets\.(\d+)\.")
        n = len(widths)
        _expect(
            state,
            **{
                f"encoder.down_blocks.{i}.resnets.0.conv1.weight": (widths[i], widths[max(0, i - 1)], 3, 3)
                for i in range(n)
            },
        )
        vae = AutoencoderKL(
            latent_channels=state["decoder.conv_in.weight"].shape[1],
            block_out_channels=widths,
            layers_per_block=layers,
            down_block_types=("DownEncoderBlock2D",) * n,
            up_block_types=("UpDecoderBlock2D",) * n,
            norm_num_groups=32,
        )
        return load_into(vae, state, "the VAE")
    if "decoder.conv_in.weight" not in state or "encoder.down.0.block.0.conv1.weight" not in state:
        raise UserError("This file is no VAE of Stable Diffusion's kind: it has the wrong keys.")
    widths = [
        state[f"encoder.down.{i}.block.0.conv1.weight"].shape[0]
        for i in range(_count(state, r"encoder\.down\.(\d+)\."))
    ]
    params = dict(
        double_z=True,
        z_channels=state["decoder.conv_in.weight"].shape[1],
        resolution=256,
        in_channels=3,
        out_ch=3,
        ch=widths[0],
        ch_mult=[w // widths[0] for w in widths],
        num_res_blocks=_count(state, r"encoder\.down\.0\.block\.(\d+)\."),
        attn_resolutions=[],
        dropout=0.0,
    )
    wrapped = {
        "model": {"params": {"first_stage_config": {"params": {"ddconfig": params, "embed_dim": params["z_channels"]}}}}
    }
    keys = {_VAE + k: v for k, v in state.items()}
    return _complete(AutoencoderKL.from_single_file(keys, original_config=wrapped), "the VAE")


def _complete(model: Any, name: str) -> Any:
    """UserError where diffusers left a weight empty because the file lacks it."""
    empty = [k for k, v in model.state_dict().items() if v.is_meta]
    if empty:
        raise UserError(
            f"{name[0].upper()}{name[1:]} has the wrong keys: it lacks '{empty[0]}' (and {len(empty) - 1} "
            "more). Download the file again, or choose another."
        )
    return model.float()


def _count(state: State, pattern: str) -> int:
    """How many blocks a state dict has, numbered from 0 without a gap. UserError where one is missing."""
    numbers = {int(m.group(1)) for k in state if (m := re.match(pattern, k)) and len(m.group(1)) < 6}
    if numbers and max(numbers) != len(numbers) - 1:
        raise UserError(
            f"The model has the wrong keys: of its {max(numbers) + 1} blocks of the kind '{pattern}' {len(numbers)} "
            "are there."
        )
    return len(numbers)


def _expect(state: State, **shapes: tuple[int, ...]) -> None:
    """UserError where tensors do not have the shapes that a network deduced from others would give them: what is
    built is then no larger than the file."""
    for name, shape in shapes.items():
        found = tuple(state[name].shape)
        if found != shape:
            raise UserError(
                f"The model has the wrong shapes: '{name}' is {list(found)}, and {list(shape)} fits the rest."
            )


# -- text towers --------------------------------------------------------------------------------------------------


def _text(state: State, family: str, name: str) -> TextEncoder:
    if family == "sdxl":
        small = _under(state, "conditioner.embedders.0.transformer.text_model.")
        large = _under(state, "conditioner.embedders.1.model.")
        _require(small and large, name)
        # SDXL reads both towers one layer before the last, without the final norm; the pooled text is the large one's.
        return TextEncoder(
            [
                clip_l_tower(small, penultimate=True),
                OpenClipTower(text_transformer(large), penultimate=True, norm=False),
            ],
            pads=(49407, 0),
        )
    if family == "sd2":
        tower = _under(state, "cond_stage_model.model.")
        _require(tower, name)
        return TextEncoder([OpenClipTower(text_transformer(tower), penultimate=True)], pads=(0,), names=("clip_h",))
    tower = _under(state, "cond_stage_model.transformer.text_model.") or _under(state, "cond_stage_model.transformer.")
    _require(tower, name)
    return TextEncoder([clip_l_tower(tower, penultimate=False)])


def _require(found: Any, name: str) -> None:
    if not found:
        raise UserError(_NO_TEXT.format(name=name))


_NO_TEXT = "'{name}' holds no text encoder: use a full checkpoint (with CLIP inside)."


def clip_l_tower(state: State, penultimate: bool) -> Tower:
    """A text tower in transformers' CLIP layout (keys after `text_model.`), sizes deduced; heads of 64 channels."""
    from transformers import CLIPTextConfig, CLIPTextModel

    width = state["final_layer_norm.weight"].shape[0]
    layers, inner = _count(state, r"encoder\.layers\.(\d+)\."), len(state["encoder.layers.0.mlp.fc1.weight"])
    _expect(
        state,
        **{
            "encoder.layers.0.mlp.fc1.weight": (inner, width),
            "encoder.layers.0.self_attn.q_proj.weight": (width, width),
        },
    )
    model = CLIPTextModel(
        CLIPTextConfig(
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=max(1, width // 64),
            intermediate_size=inner,
            hidden_act="quick_gelu",
            vocab_size=state["embeddings.token_embedding.weight"].shape[0],
            projection_dim=width,
            eos_token_id=49407,
        )
    )
    prefix = "text_model." if any(k.startswith("text_model.") for k in model.state_dict()) else ""
    load_into(model, {prefix + k: v for k, v in state.items() if not k.endswith("position_ids")}, "the text encoder")
    return TransformersTower(model, penultimate)


def text_transformer(state: State) -> Any:
    """A text tower in open_clip's layout (SD2's CLIP-H, SDXL's CLIP-bigG), sizes deduced; heads of 64 channels."""
    from open_clip.transformer import TextTransformer

    vocabulary, width = state["token_embedding.weight"].shape
    _expect(
        state,
        **{
            "transformer.resblocks.0.attn.in_proj_weight": (3 * width, width),
            "transformer.resblocks.0.mlp.c_fc.weight": (4 * width, width),
            "text_projection": (width, state["text_projection"].shape[1]),
        },
    )
    tower = TextTransformer(
        vocab_size=vocabulary,
        width=width,
        heads=max(1, width // 64),
        layers=_count(state, r"transformer\.resblocks\.(\d+)\."),
        output_dim=state["text_projection"].shape[1],
    )
    own = tower.state_dict()
    load_into(
        tower,
        {k: v for k, v in state.items() if k in own} | {k: own[k] for k in own if k == "attn_mask"},
        "the text encoder",
    )
    frozen([tower])
    return tower
