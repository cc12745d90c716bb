"""Ways to edit an image from one text to another: Moodifier and its ablations, and its rivals. One image at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from ..models import tiny
from ..models.diffusion.diffusers import DiffusersModel, UNetContext
from ..models.diffusion.protocol import Conditioning
from ..models.diffusion.sampling import ddim_inversion, schedule
from ..models.moodifier.attention import BlendControl, attention_weights, split_heads
from ..models.moodifier.blend import BlendConfig, attention_blend, cells, token_alignment
from ..models.moodifier.text_encoder import encode
from ..models.networks.moodifyclip import load_moodify_clip


@dataclass(frozen=True)
class Edit:
    """kind: "blend" (Moodifier), "infedit" (its sampler: guided from the empty text; in the first steps every
    aligned word keeps the source's maps, and self-attention the source's, in the guided row and the unguided;
    without the mask that it makes of a word's attention, and without its third branch, which takes the source's keys
    and values), "img2img" or "inversion" (DDIM inversion and prompt-to-prompt, with the same two controls).
    `encoder`: "moodify" or "clip". `strength` is img2img's; self_replace the share of the steps in which
    self-attention is the source's (both papers' 0.5 where they give one)."""

    kind: str
    detailed: bool = True
    masked: bool = True
    encoder: str = "clip"
    steps: int = 25
    cfg: float = 5.0
    cross_replace: float = 0.6
    self_replace: float = 0.5
    strength: float = 0.5
    scheduler: str = "normal"


@lru_cache(maxsize=1)
def pipeline() -> tuple[Any, Any, Any]:
    """(model, text encoder, autoencoder) of the tiny model, loaded once."""
    return tiny.load_pipeline()


@lru_cache(maxsize=1)
def _moodify() -> Any:
    return load_moodify_clip("tiny")


def conditioning(text: str, encoder: str) -> Conditioning:
    """A text by MoodifyCLIP ("moodify") or by the model's own encoder ("clip")."""
    return encode(_moodify(), text) if encoder == "moodify" else pipeline()[1].encode(text)


class SelfControl:
    """diffusers' processor of self-attention: while `active`, the groups `led` of `groups` groups of rows attend as
    the first does (prompt-to-prompt's self-attention injection)."""

    def __init__(self, groups: int, led: tuple[int, ...] = (1,)):
        self.groups, self.led, self.active = groups, led, True

    def __call__(self, attn: Any, hidden_states: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        q, k, v = (split_heads(line(hidden_states), attn.heads) for line in (attn.to_q, attn.to_k, attn.to_v))
        weights = list(attention_weights(q, k).chunk(self.groups))
        if self.active:
            for i in self.led:
                weights[i] = weights[0]
        out = (torch.cat(weights) @ v.float()).to(v).transpose(1, 2).flatten(2)
        return attn.to_out[1](attn.to_out[0](out))


@contextmanager
def self_attention(model: DiffusersModel, groups: int, led: tuple[int, ...] = (1,)) -> Iterator[SelfControl]:
    """A block in which a model's self-attention is under a `SelfControl`."""
    before, control = model.unet.attn_processors, SelfControl(groups, led)
    model.unet.set_attn_processor({k: control if ".attn1." in k else v for k, v in before.items()})
    try:
        yield control
    finally:
        model.unet.set_attn_processor(before)


@torch.no_grad()
def edited(method: Edit, image: torch.Tensor, source: str, target: str, mask: torch.Tensor, seed: int) -> torch.Tensor:
    """image [1, 3, H, W] in 0..1 under two texts, mask [1, 1, H, W] -> [1, 3, H, W]."""
    model, _, vae = pipeline()
    latent = model.latent_in(vae.encode(image))
    before, after = (conditioning(text, method.encoder) for text in (source, target))
    contexts, alignment = (model.context(before), model.context(after)), token_alignment(before, after)
    where = cells(mask, latent) if method.masked else torch.ones_like(latent[:, :1])
    generator = torch.Generator().manual_seed(seed)
    noise = lambda: torch.randn(latent.shape, generator=generator).to(latent)
    sigmas = schedule(method.scheduler, model.sigma_table, method.steps).to(latent)
    config = BlendConfig(method.cfg, method.cross_replace)
    if method.kind == "blend":
        out = attention_blend(model, *contexts, None, latent, where, sigmas, config, noise, alignment)
    elif method.kind == "infedit":
        with self_attention(model, 3, (1, 2)) as control:
            control.active = method.self_replace > 0
            last = lambda i, _: setattr(control, "active", i + 1 < method.self_replace * method.steps)
            out = attention_blend(
                model,
                *contexts,
                model.context(conditioning("", "clip")),
                latent,
                where,
                sigmas,
                config,
                noise,
                alignment,
                last,
                attention_mask=torch.zeros_like(where),
            )
    elif method.kind == "img2img":
        out = _img2img(model, contexts, latent, where, method, noise())
    elif method.kind == "inversion":
        out = _prompt_to_prompt(model, contexts, latent, where, sigmas, method, alignment)
    else:
        raise ValueError(f"An edit cannot be of kind '{method.kind}'.")
    return vae.decode(model.latent_out(out)).cpu()


def _guided(
    model: DiffusersModel, x: torch.Tensor, sigma: torch.Tensor, contexts: tuple[UNetContext, UNetContext], cfg: float
) -> torch.Tensor:
    return model.guided(x, sigma * x.new_ones(len(x)), contexts[1], model.context(conditioning("", "clip")), cfg)


def _img2img(
    model: DiffusersModel,
    contexts: tuple[UNetContext, UNetContext],
    latent: torch.Tensor,
    where: torch.Tensor,
    method: Edit,
    noise: torch.Tensor,
) -> torch.Tensor:
    """Noise to `strength` of the schedule, then Euler down under the target; outside the mask the source, noised
    alike."""
    sigmas = schedule(method.scheduler, model.sigma_table, method.steps, method.strength).to(latent)
    x = latent + sigmas[0] * noise
    for i in range(len(sigmas) - 1):
        clean = _guided(model, x, sigmas[i], contexts, method.cfg)
        clean = where * clean + (1 - where) * latent
        x = x + (x - clean) / sigmas[i] * (sigmas[i + 1] - sigmas[i])
    return x


def _prompt_to_prompt(
    model: DiffusersModel,
    contexts: tuple[UNetContext, UNetContext],
    latent: torch.Tensor,
    where: torch.Tensor,
    sigmas: torch.Tensor,
    method: Edit,
    alignment: torch.Tensor,
) -> torch.Tensor:
    """DDIM inversion of the source, then both branches down side by side, the target's words, and its
    self-attention, with the source's maps in the first steps (Hertz et al. 2022, refinement)."""
    source, target = contexts
    empty = model.context(conditioning("", "clip"))
    x = ddim_inversion(lambda x, s: model(x, s, source), latent, sigmas)
    control = BlendControl(1, [c.embeds.shape[1] for c in (source, target, empty)], alignment, torch.zeros_like(where))
    together, steps = model.side_by_side([source, target, empty], 1), len(sigmas) - 1
    a, b = x, x
    with model.attention(control), self_attention(model, 3) as own:
        for i in range(steps):
            control.active, own.active = i < method.cross_replace * steps, i < method.self_replace * steps
            of_source, of_target, plain = model(torch.cat([a, b, b]), sigmas[i] * x.new_ones(3), together).chunk(3)
            of_target = plain + method.cfg * (of_target - plain)
            of_target = where * of_target + (1 - where) * latent
            step = (sigmas[i + 1] - sigmas[i]) / sigmas[i]
            a, b = a + (a - of_source) * step, b + (b - of_target) * step
    return b
