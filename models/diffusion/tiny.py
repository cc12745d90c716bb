"""The architecture of the bundled tiny diffusion model. It is shaped as Stable Diffusion is, so that the same
weights run in diffusers' classes (`diffusers/tiny.py`) and in ComfyUI's (`comfy/tiny.py`)."""

from __future__ import annotations

from typing import Any

from ..networks.tiny_clip import CONTEXT_WIDTH
from .tiny_autoencoder import LATENT_CHANNELS as LATENT_CHANNELS
from .tiny_autoencoder import TinyAutoencoder as TinyAutoencoder

# Stable Diffusion has 32 groups over 320 channels. At 32 groups our 32 channels would be normalised one by one,
# which wipes out each image's mean colour just before the last convolution.
NORM_GROUPS = 8

HEAD_WIDTH = 24
PREDICTION = "v_prediction"
UNET: dict[str, Any] = dict(
    sample_size=16,
    in_channels=LATENT_CHANNELS,
    out_channels=LATENT_CHANNELS,
    block_out_channels=(48, 96, 144),
    layers_per_block=1,
    # At 16 x 16 attention costs more than all else together, so only the way down has it there.
    down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    cross_attention_dim=CONTEXT_WIDTH,
    norm_num_groups=NORM_GROUPS,
    attention_head_dim=(2, 4, 6),  # diffusers' historical name: these are numbers of heads
)


def build_unet() -> Any:
    """UNet2DConditionModel of about 5 million parameters for 16 x 16 latents. As wide as an hour on two cores pays
    for: in five minutes (64, 128, 128) comes to a fifth less of what (32, 64, 128) comes to."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(**UNET)


def build_vae() -> TinyAutoencoder:
    """The autoencoder of factor 8 with eight latent channels."""
    return TinyAutoencoder()
