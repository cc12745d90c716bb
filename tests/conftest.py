"""Small random networks that stand for the real ones: every path runs in milliseconds and downloads nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads would starve others on a small machine

import fake_comfy
import pytest
import torch
from comfyui_affect.models import host
from comfyui_affect.models.diffusion.diffusers import DiffusersModel, DiffusersVAE
from listening import Listening


@pytest.fixture
def notes(tmp_path: Path) -> Iterator[list[str]]:
    """What the host is told during a test; its folders are the test's own."""
    with host.use(Listening(tmp_path)) as listening:
        yield listening.notes


@pytest.fixture(scope="session")
def small_unet() -> DiffusersModel:
    """A UNet of two levels for 8 x 8 latents, contexts 16 wide."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    return DiffusersModel(
        UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(32, 32),
            layers_per_block=1,
            cross_attention_dim=16,
            attention_head_dim=4,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        )
    )


@pytest.fixture(scope="session")
def small_vae() -> DiffusersVAE:
    """A VAE of factor 8 that gives 64 x 64 images from 8 x 8 latents."""
    from diffusers import AutoencoderKL

    torch.manual_seed(1)
    return DiffusersVAE(
        AutoencoderKL(
            latent_channels=4,
            block_out_channels=(32,) * 4,
            layers_per_block=1,
            norm_num_groups=32,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
        )
    )


@pytest.fixture(scope="session")
def small_classifier() -> torch.nn.Module:
    """A random convolution that gives eight well-spread logits."""
    torch.manual_seed(2)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 8, 8),
        torch.nn.SiLU(),
        torch.nn.AdaptiveAvgPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(64, 8),
    )
    model[-1].weight.data *= 40
    return model.eval().requires_grad_(False)


@pytest.fixture
def inside_comfyui() -> Iterator[None]:
    """A test as a node of a prompt: our small ComfyUI (`fake_comfy`) can be imported, and inference mode is on."""
    with fake_comfy.installed(), torch.inference_mode():
        yield
