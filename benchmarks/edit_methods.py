"""Ways to edit an image from one text to another: Moodifier and its ablations, and its rivals. One image at a time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from ..models import tiny
from ..models.diffusion.diffusers import DiffusersModel, UNetContext
from ..models.diffusion.protocol import Conditioning
from ..models.diffusion.sampling import ddim_inversion, schedule
from ..models.moodifier.attention import BlendControl
from ..models.moodifier.blend import BlendConfig, attention_blend, cells, token_alignment
from ..models.moodifier.clip import encode, load_moodify_clip


@dataclass(frozen=True)
class Edit:
    """kind: "blend" (Moodifier), "infedit" (its sampler as published: every aligned word keeps the source's maps, no mask),
    "img2img" or "inversion" (DDIM inversion and prompt-to-prompt). `encoder`: "moodify" or "clip". `strength` is img2img's."""

    kind: str
    detailed: bool = True
    masked: bool = True
    encoder: str = "clip"
    steps: int = 25
    cfg: float = 5.0
    cross_replace: float = 0.6
    strength: float = 0.5


@lru_cache(maxsize=1)
def _pipeline() -> tuple[Any, Any, Any]:
    return tiny.load_pipeline()


@lru_cache(maxsize=1)
def _moodify() -> Any:
    return load_moodify_clip("tiny")


def conditioning(text: str, encoder: str) -> Conditioning:
    return encode(_moodify(), text) if encoder == "moodify" else _pipeline()[1].encode(text)


@torch.no_grad()
def edited(method: Edit, image: torch.Tensor, source: str, target: str, mask: torch.Tensor, seed: int) -> torch.Tensor:
    """image [1, 3, H, W] in 0..1 under two texts, mask [1, 1, H, W] -> [1, 3, H, W]."""
    model, _, vae = _pipeline()
    latent = model.latent_in(vae.encode(image))
    encoded = [conditioning(text, method.encoder) for text in (source, target)]
    contexts, alignment = [model.context(c) for c in encoded], token_alignment(*encoded)
    where = cells(mask, latent) if method.masked else torch.ones_like(latent[:, :1])
    generator = torch.Generator().manual_seed(seed)
    noise = lambda: torch.randn(latent.shape, generator=generator).to(latent)
    sigmas = schedule("karras", model.sigma_table, method.steps).to(latent)
    if method.kind in ("blend", "infedit"):
        out = attention_blend(model, *contexts, None, latent, where, sigmas, BlendConfig(method.cfg, method.cross_replace), noise, alignment,
                              attention_mask=torch.zeros_like(where) if method.kind == "infedit" else None)
    elif method.kind == "img2img":
        out = _img2img(model, contexts, latent, where, method, noise())
    elif method.kind == "inversion":
        out = _prompt_to_prompt(model, contexts, latent, where, sigmas, method, alignment)
    else:
        raise ValueError(f"There is no way to edit called '{method.kind}'.")
    return vae.decode(model.latent_out(out)).cpu()


def _guided(model: DiffusersModel, x: torch.Tensor, sigma: torch.Tensor, contexts: list[UNetContext], cfg: float) -> torch.Tensor:
    return model.guided(x, sigma * x.new_ones(len(x)), contexts[1], model.context(conditioning("", "clip")), cfg)


def _img2img(model: DiffusersModel, contexts: list[UNetContext], latent: torch.Tensor, where: torch.Tensor, method: Edit,
             noise: torch.Tensor) -> torch.Tensor:
    """Noise to `strength` of the schedule, then Euler down under the target; outside the mask the source, noised alike."""
    sigmas = schedule("karras", model.sigma_table, method.steps, method.strength).to(latent)
    x = latent + sigmas[0] * noise
    for i in range(len(sigmas) - 1):
        clean = _guided(model, x, sigmas[i], contexts, method.cfg)
        clean = where * clean + (1 - where) * latent
        x = x + (x - clean) / sigmas[i] * (sigmas[i + 1] - sigmas[i])
    return x


def _prompt_to_prompt(model: DiffusersModel, contexts: list[UNetContext], latent: torch.Tensor, where: torch.Tensor,
                      sigmas: torch.Tensor, method: Edit, alignment: torch.Tensor) -> torch.Tensor:
    """DDIM inversion of the source, then both branches down side by side, the target's words with the source's maps in the
    first steps (Hertz et al. 2022, refinement)."""
    source, target = contexts
    empty = model.context(conditioning("", "clip"))
    x = ddim_inversion(lambda x, s: model(x, s, source), latent, sigmas)
    control = BlendControl(1, [c.embeds.shape[1] for c in (source, target, empty)], alignment,
                           torch.zeros_like(where))
    together, steps = model.side_by_side([source, target, empty], 1), len(sigmas) - 1
    a, b = x, x
    with model.attention(control):
        for i in range(steps):
            control.active = i < method.cross_replace * steps
            of_source, of_target, plain = model(torch.cat([a, b, b]), sigmas[i] * x.new_ones(3), together).chunk(3)
            of_target = plain + method.cfg * (of_target - plain)
            of_target = where * of_target + (1 - where) * latent
            step = (sigmas[i + 1] - sigmas[i]) / sigmas[i]
            a, b = a + (a - of_source) * step, b + (b - of_target) * step
    return b
