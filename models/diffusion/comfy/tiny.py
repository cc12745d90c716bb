"""The bundled tiny model as ComfyUI's own MODEL, CLIP and VAE: any of its nodes takes them. Imported inside ComfyUI
alone.

The networks are ComfyUI's classes with our sizes and weights, but for the autoencoder, which is ours.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import comfy.supported_models_base
import comfy.taesd.taesd
import comfy.utils
import torch

from ... import bundled
from ...errors import UserError
from ...networks.tiny_clip import CLIP, CONTEXT_WIDTH
from .. import tiny


class TinyLatents(comfy.latent_formats.LatentFormat):
    """Eight channels of zero mean and unit deviation. The first three are the image's thumbnail, which ComfyUI's
    previews show."""

    latent_channels = tiny.LATENT_CHANNELS

    def __init__(self) -> None:
        state, _ = bundled.read("vae")
        self.latent_rgb_factors = [
            [0.0] * i + [float(state["std"][0, i])] + [0.0] * (2 - i) if i < 3 else [0.0] * 3
            for i in range(tiny.LATENT_CHANNELS)
        ]
        self.latent_rgb_factors_bias = state["mean"].flatten()[:3].tolist()


class TinyOperations(comfy.ops.disable_weight_init):
    """ComfyUI's layers, with the tiny model's number of norm groups in place of Stable Diffusion's 32."""

    class GroupNorm(comfy.ops.disable_weight_init.GroupNorm):
        def __init__(self, num_groups: int, *args: Any, **kwargs: Any):
            super().__init__(tiny.NORM_GROUPS, *args, **kwargs)


class TinyDiffusion(comfy.supported_models.SD15):
    """SD1.5's architecture with the tiny model's sizes."""

    unet_config: dict[str, Any] = {}
    unet_extra_config = {"num_heads": -1, "num_head_channels": tiny.HEAD_WIDTH}
    latent_format = TinyLatents
    memory_usage_factor = 0.1
    custom_operations = TinyOperations

    def model_type(self, state_dict: dict[str, Any], prefix: str = "") -> Any:
        return comfy.model_base.ModelType[tiny.PREDICTION.upper()]

    def inpaint_model(self) -> bool:
        return False  # eight channels in are not an inpainting model's nine


def _unet_config() -> dict[str, Any]:
    widths = tiny.UNET["block_out_channels"]
    down, up = ([int("CrossAttn" in name) for name in tiny.UNET[f"{way}_block_types"]] for way in ("down", "up"))
    blocks = tiny.UNET["layers_per_block"]
    return dict(
        image_size=32,
        in_channels=tiny.LATENT_CHANNELS,
        out_channels=tiny.LATENT_CHANNELS,
        model_channels=widths[0],
        num_res_blocks=[blocks] * len(widths),
        channel_mult=[w // widths[0] for w in widths],
        transformer_depth=[a for a in down for _ in range(blocks)],
        transformer_depth_output=[a for a in reversed(up) for _ in range(blocks + 1)],
        transformer_depth_middle=1,
        context_dim=CONTEXT_WIDTH,
        use_spatial_transformer=True,
        use_linear_in_transformer=False,
        use_temporal_attention=False,
        adm_in_channels=None,
        legacy=False,
        dtype=torch.float32,
    )


def _strictly(loaded: Any, what: str) -> None:
    missing = [k for k in loaded.missing_keys if k not in ("logit_scale",)]
    if missing or loaded.unexpected_keys:
        raise UserError(
            f"The tiny model's {what} does not fit this ComfyUI's classes (first: "
            f"{[*missing, *loaded.unexpected_keys][0]}). Please report your ComfyUI's version."
        )


def _model() -> Any:
    config = TinyDiffusion(_unet_config())
    names = comfy.utils.unet_to_diffusers(config.unet_config)
    state, _ = bundled.read("unet")
    model = config.get_model({}, "")
    _strictly(
        model.diffusion_model.load_state_dict({names[k]: v for k, v in state.items() if k in names}, strict=False),
        "UNet",
    )
    model.eval().requires_grad_(False)
    return comfy.model_patcher.ModelPatcher(
        model,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


class TinyTokenizer(comfy.sd1_clip.SD1Tokenizer):
    """CLIP's own; textual inversion embeddings are as wide as the tiny text encoder."""

    def __init__(self, embedding_directory: Any = None, tokenizer_data: dict[str, Any] = {}):  # noqa: B006
        super().__init__(embedding_directory, tokenizer_data)
        self.clip_l.embedding_size = CONTEXT_WIDTH


def _clip() -> Any:
    state, _ = bundled.read("clip")
    text = CLIP["text_cfg"]
    sizes = dict(
        hidden_size=text["width"],
        projection_dim=text["width"],
        intermediate_size=4 * text["width"],
        num_attention_heads=text["heads"],
        num_hidden_layers=text["layers"],
        hidden_act="gelu",
    )
    target = comfy.supported_models_base.ClipTarget(TinyTokenizer, comfy.sd1_clip.SD1ClipModel)
    clip = comfy.sd.CLIP(target, model_options={"clip_l_model_config": sizes, "dtype": torch.float32})
    names = ("token_embedding.", "positional_embedding", "transformer.", "ln_final.", "text_projection")
    state = {k: v for k, v in state.items() if k.startswith(names)}
    _strictly(
        clip.cond_stage_model.clip_l.transformer.load_state_dict(
            comfy.utils.clip_text_transformers_convert(state, "", ""), strict=False
        ),
        "text encoder",
    )
    return clip


def _vae() -> Any:
    # Every attribute that a VAE of this ComfyUI has comes from one that it knows; the network and the ranges are ours.
    vae = comfy.sd.VAE(
        sd=comfy.taesd.taesd.TAESD(latent_channels=tiny.LATENT_CHANNELS).state_dict(), dtype=torch.float32
    )
    vae.first_stage_model = tiny.build_vae()
    bundled.load("vae", vae.first_stage_model)
    vae.first_stage_model.eval().requires_grad_(False)
    vae.process_input = vae.process_output = lambda image: image
    vae.patcher = comfy.model_patcher.ModelPatcher(
        vae.first_stage_model, load_device=vae.device, offload_device=comfy.model_management.vae_offload_device()
    )
    return vae


@lru_cache(maxsize=1)
def _parts() -> tuple[Any, Any, Any]:
    return _model(), _clip(), _vae()


def load_pipeline() -> tuple[Any, Any, Any]:
    """(MODEL, CLIP, VAE). UserError where this ComfyUI's classes do not take the weights."""
    model, clip, vae = _parts()
    return model.clone(), clip.clone(), vae
