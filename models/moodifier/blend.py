"""Editing without inversion (Moodifier's algorithm 1 on InfEdit's denoising diffusion consistent model, Xu et al.
2024).

The source's noise is known because it was put there, so its prediction's error is known too, and is taken off the
target's:
    z_target = z_source + D(x_target | target) - D(x_source | source)
Where both branches agree the source returns exactly. Source and target run side by side in one batch, and
cross-attention is blended (`attention.BlendControl`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from .. import host
from ..diffusion import engine
from ..diffusion.protocol import Conditioning, Context, Denoiser, Step
from ..diffusion.text import tokenize
from ..errors import UserError
from ..tensors.batch import repeat_to_batch
from ..tensors.masks import coverage, with_channel
from ..tensors.ranges import finite
from .attention import BlendControl, align, embedding_scores, id_scores

EVERYTHING = 0.98
"""A mask that covers a larger share of an image than this counts as covering all of it."""


@dataclass(frozen=True)
class BlendConfig:
    """cfg: the target's guidance; the source's is 1. cross_replace: the share of the steps in which maps are blended
    (tau_c of Moodifier's equation 6)."""

    cfg: float = 5.0
    cross_replace: float = 0.6

    def __post_init__(self) -> None:
        if not 0.0 <= self.cross_replace <= 1.0:
            raise UserError(f"cross_replace is a share of the steps, 0 to 1, got {self.cross_replace}.")


def token_alignment(source: Conditioning, target: Conditioning, texts: tuple[str, str] = ("", "")) -> torch.Tensor:
    """[T] the source token of each target token: over token ids where both are known, else over embeddings.

    texts  what was encoded, where the caller knows it: ComfyUI's CONDITIONING does not say. Ours does.

    UserError where one text is wider than the other.
    """
    widths = [text[0][0].shape[-1] for text in (source, target)]
    if widths[0] != widths[1]:
        raise UserError(
            f"The source's text is {widths[0]} wide and the target's {widths[1]}: they were encoded for different "
            "models. Connect the CLIP of the MODEL's own checkpoint to both."
        )
    ids = [_ids(*parts) for parts in zip((source, target), texts)]
    if all(ids):
        return align(id_scores(*ids))
    host.current().note(
        "The attention blend matches the two texts' words by their embeddings, which is rough. Connect source_text and "
        "target_text to match them exactly."
    )
    return align(embedding_scores(source[0][0][0], target[0][0][0]))


def shifted(alignment: torch.Tensor, source: int, target: int) -> torch.Tensor:
    """An alignment [T] for texts that follow `source` and `target` tokens of padding, which are matched one by one ->
    [target + T]."""
    padding = torch.arange(target)
    return torch.cat(
        [
            padding.where(padding < source, torch.tensor(-1)),
            (alignment + source).where(alignment >= 0, torch.tensor(-1)),
        ]
    )


def _ids(conditioning: Conditioning, text: str) -> list[int]:
    """The token ids of a conditioning's first part; none where they are not known, or it was made longer since."""
    embeds, options = conditioning[0]
    ids = options.get("token_ids") or ([i for chunk in tokenize(text) for i, _ in chunk] if text.strip() else [])
    return ids if len(ids) == embeds.shape[1] else []


def cells(mask: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
    """A mask [B or 1, H, W] or [B or 1, 1, H, W] of pixels as one [B or 1, 1, h, w] of a latent's cells: the share
    of each cell that it covers, so that a cell without a pixel of it stays exactly as it was."""
    return coverage(with_channel(mask).to(latent), *latent.shape[-2:])


@torch.no_grad()
def attention_blend(
    denoiser: Denoiser[Context],
    source: Context,
    target: Context,
    negative: Context | None,
    latent: torch.Tensor,
    mask: torch.Tensor,
    sigmas: torch.Tensor,
    config: BlendConfig,
    noise: Callable[[], torch.Tensor],
    alignment: torch.Tensor,
    callback: Callable[[int, torch.Tensor], None] | None = None,
    attention_mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """The edited latent.

    source, target  contexts of what the image shows and of what it should show
    negative        what the target is guided away from; None: the source's text, so that guidance points from it to the
                    target and equal texts change nothing
    latent          [B, C, h, w] the image, in the denoiser's scale
    mask            [B or 1, 1, h, w] in 0..1; 0 keeps the source's latent exactly
    sigmas          [n + 1] descending to 0
    noise           -> [B, C, h, w] standard normal, called once a step
    alignment       [T] of `token_alignment`
    callback        (step, prediction [B, C, h, w]) after each step
    attention_mask  [B or 1, 1, h, w]: where the target's own maps hold; if not given inside `mask`, or nowhere where
                    `mask` covers `EVERYTHING`: such a mask marks no place, and the source's maps then keep the
                    layout

    The latents are blended by the mask at each step, so the last clean prediction is too.
    """
    b, steps = len(latent), len(sigmas) - 1
    mask = repeat_to_batch(mask.to(latent), b)
    texts = [source, target] if config.cfg == 1.0 else [source, target, source if negative is None else negative]
    if attention_mask is None:
        attention_mask = mask * (mask.mean(dim=(1, 2, 3), keepdim=True) <= EVERYTHING)
    control = BlendControl(b, [t.embeds.shape[1] for t in texts], alignment, attention_mask.to(latent))
    together = denoiser.side_by_side(texts, b)
    edited = latent
    with denoiser.attention(control):
        for i in range(steps):
            control.active = i < config.cross_replace * steps
            known = sigmas[i] * noise()
            x = torch.cat([latent + known, *[edited + known] * (len(texts) - 1)])
            of_source, of_target, *away = denoiser(x, sigmas[i] * x.new_ones(len(x)), together).chunk(len(texts))
            if away:
                of_target = away[0] + config.cfg * (of_target - away[0])
            edited = torch.where(mask > 0, latent + mask * (of_target - of_source), latent)
            if callback:
                callback(i, edited)
    return edited


def blend(
    model: Any,
    source: Conditioning,
    target: Conditioning,
    negative: Conditioning | None,
    latent_image: dict[str, Any],
    mask: torch.Tensor,
    steps: int,
    scheduler: str,
    config: BlendConfig,
    seed: int,
    texts: tuple[str, str] = ("", ""),
) -> dict[str, Any]:
    """The LATENT edited from a source to a target text inside a mask (`attention_blend`), on whichever engine the MODEL
    belongs to. UserError where the texts do not fit the model, or its prediction is not finite.

    mask   [B or 1, H, W] of pixels
    texts  those of source and target where they are known: their words are then told from one another by their tokens
    """
    here, latent = engine(model), latent_image["samples"]
    generator = torch.Generator().manual_seed(seed)
    alignment = token_alignment(source, target, texts)
    given = {"source": source, "target": target} | ({} if negative is None else {"negative": negative})

    def walk(
        denoiser: Denoiser[Any], contexts: dict[str, Any], z: torch.Tensor, sigmas: torch.Tensor, callback: Step
    ) -> torch.Tensor:
        def stepped(step: int, edited: torch.Tensor) -> None:
            callback(step, finite(edited, f"The model, in step {step + 1} of {steps}, gave"))

        # Some models put padding before their text (FLUX.2).
        before = [contexts[name].embeds.shape[1] - given[name][0][0].shape[1] for name in ("source", "target")]
        return attention_blend(
            denoiser,
            contexts["source"],
            contexts["target"],
            contexts.get("negative"),
            z,
            cells(mask, z),
            sigmas,
            config,
            lambda: torch.randn(z.shape, generator=generator).to(z),
            shifted(alignment, *before),
            stepped,
        )

    rows = 2 if config.cfg == 1.0 else 3
    sigmas = here.sigmas(model, scheduler, steps)
    return {**latent_image, "samples": here.run(model, given, walk, latent, sigmas, seed, rows, "editing")}
