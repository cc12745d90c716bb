"""Writes a Stable Diffusion 1.5 checkpoint of full size with random weights in fp16. Run by ComfyUI's Python, in its
folder."""

import inspect
import sys

target, sys.argv[1:] = sys.argv[1], ["--cpu"]
sys.path.insert(0, ".")

import comfy.options

comfy.options.enable_args_parsing()

import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import comfy.supported_models_base
import torch
from comfy.ldm.models.autoencoder import AutoencoderKL

torch.manual_seed(0)


@torch.no_grad()
def randomise(network):
    for name, p in network.named_parameters():
        if p.ndim > 1:
            p.copy_((torch.randn(p.shape, dtype=torch.float32) * p[0].numel() ** -0.5).to(p.dtype))
        else:
            p.fill_(1.0 if name.endswith("weight") else 0.0)
    return network


config = comfy.supported_models.SD15(
    dict(
        image_size=32,
        in_channels=4,
        out_channels=4,
        model_channels=320,
        num_res_blocks=[2] * 4,
        channel_mult=[1, 2, 4, 4],
        transformer_depth=[1] * 6 + [0] * 2,
        transformer_depth_output=[1] * 9 + [0] * 3,
        transformer_depth_middle=1,
        context_dim=768,
        use_spatial_transformer=True,
        use_linear_in_transformer=False,
        use_temporal_attention=False,
        adm_in_channels=None,
        legacy=False,
        dtype=torch.float16,
    )
)
model = config.get_model({}, "")
randomise(model.diffusion_model)
clip = comfy.sd1_clip.SD1ClipModel(dtype=torch.float16)
randomise(clip)
vae = randomise(
    AutoencoderKL(
        embed_dim=4,
        ddconfig=dict(
            double_z=True,
            z_channels=4,
            resolution=256,
            in_channels=3,
            out_ch=3,
            ch=128,
            ch_mult=[1, 2, 4, 4],
            num_res_blocks=2,
            attn_resolutions=[],
            dropout=0.0,
        ),
    )
).half()
given = {"clip_state_dict": clip.state_dict(), "vae_state_dict": vae.state_dict()}
if (
    "unet_state_dict" in inspect.signature(model.state_dict_for_saving).parameters
):  # newer ones do not read it themselves
    given["unet_state_dict"] = model.diffusion_model.state_dict()
state = model.state_dict_for_saving(**given)

from safetensors.torch import save_file

save_file({k: v.contiguous() for k, v in state.items()}, target)
