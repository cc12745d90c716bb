"""Small models with random weights, made as a prompt's nodes would make them: in inference mode."""

from types import SimpleNamespace

import torch

import comfy.model_base
import comfy.ops
from comfy.model_patcher import ModelPatcher
from comfy.sd import VAE

WIDTH = 16  # of the text


def classifier(seed=2):
    """A convolution that gives eight well-spread logits."""
    torch.manual_seed(seed)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 8, 8), torch.nn.SiLU(), torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(),
        torch.nn.Linear(64, 8),
    )  # fmt: skip
    network[-1].weight *= 40
    return network.eval().requires_grad_(False)


def pipeline(kind=comfy.model_base.BaseModel, held="own", dtype=torch.float32, cast=None, seed=0):
    """What the sockets carry: model, vae, positive, negative, and a classifier.

    held         how layers hold their weights (`comfy.ops.hold`)
    dtype, cast  the type of the diffusion model's weights, and what it computes in where that is another
    """
    torch.manual_seed(seed)
    vae = VAE(3 if kind.latents.latent_dimensions == 3 else 2)
    network, texts = kind(cast), torch.randn(2, 1, 7, WIDTH)
    network.diffusion_model.to(dtype)
    for part in (network, vae.first_stage_model):
        part.eval().requires_grad_(False)
        comfy.ops.hold(part, held)
    if cast:
        comfy.ops.hold(network, "cast")
    positive, negative = ([[text, {"pooled_output": None}]] for text in texts)
    model = ModelPatcher(network, torch.device("cpu"), torch.device("cpu"))
    return SimpleNamespace(model=model, vae=vae, positive=positive, negative=negative, classifier=classifier())
