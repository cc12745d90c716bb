"""Where to change an image: masks [B, 1, H, W] in 0..1 of named objects, by one of four groundings.

attention  the diffusion model's own cross-attention to the object's word, over several noise levels
clipseg    transformers' CLIPSeg, where its weights are on this machine
boxes      what the MLLM drew
saliency   what differs most from its surroundings
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from .. import host
from ..diffusion import engine
from ..diffusion.protocol import Conditioning, Context, Denoiser, Step
from ..errors import UserError
from ..tensors.luminance import luminance
from ..tensors.resize import fitted, resized
from ..tensors.uint8 import image_of, to_uint8
from .attention import Recorder
from .blend import EVERYTHING
from .instruction import Change
from .words import token_positions

GROUNDINGS = ("attention", "clipseg", "boxes", "saliency")

LEVELS = (0.1, 0.3, 0.6, 1.2)
"""Noise levels (sigma) that attention is read at: above, a network sees too little of the image to know the place
(measured on MoodScenes' validation layouts, as is `GUIDED_SIDE`'s filter)."""

GUIDED_SIDE = 128
"""Pixels a side, at most, at which attention is fitted to the image's own edges."""


# -- attention ----------------------------------------------------------------------------------------------------


def token_columns(prompt: str, words: str) -> list[int]:
    """As `token_positions`. UserError where the prompt does not hold the words."""
    columns = token_positions(prompt, words)
    if not columns:
        raise UserError(
            f"There is no '{words}' in the source prompt \"{prompt}\". Name the object as the prompt does, or put it "
            "in."
        )
    return columns


@torch.no_grad()
def attention_maps(
    denoiser: Denoiser[Context],
    context: Context,
    latent: torch.Tensor,
    columns: Sequence[Sequence[int]],
    seed: int = 0,
    levels: Sequence[float] = LEVELS,
    draws: int = 2,
) -> torch.Tensor:
    """[B, G, h, w]: where a denoiser looks for groups of the text's tokens while it denoises latents [B, C, h, w]
    (its own scale), the mean over noise levels and draws of noise."""
    recorder = Recorder(columns, (latent.shape[-2], latent.shape[-1]))
    generator = torch.Generator().manual_seed(seed)
    with denoiser.attention(recorder):
        for sigma in levels:
            for _ in range(draws):
                host.current().check_interrupted()
                noise = torch.randn(latent.shape, generator=generator).to(latent)
                denoiser(latent + sigma * noise, sigma * latent.new_ones(len(latent)), context)
    return recorder.maps


def cross_attention_maps(
    model: Any, positive: Conditioning, latent: torch.Tensor, columns: Sequence[Sequence[int]], seed: int
) -> torch.Tensor:
    """[B, G, h, w]: where a MODEL looks for groups of a CONDITIONING's tokens in latents [B, C, h, w] of the VAE's
    scale (`attention_maps`), on whichever engine it belongs to. UserError for a rectified flow: its texts and its
    picture attend to one another together."""
    here = engine(model)
    if here.is_flow(model):
        raise UserError(
            "The grounding 'attention' reads a MODEL's cross-attention: that of SD1.5, SD2 or SDXL. With this MODEL "
            "choose clipseg, boxes or saliency."
        )
    maps: list[torch.Tensor] = []

    def look(
        denoiser: Denoiser[Any], contexts: dict[str, Any], z: torch.Tensor, sigmas: torch.Tensor, callback: Step
    ) -> torch.Tensor:
        maps.append(attention_maps(denoiser, contexts["positive"], z, columns, seed))
        return z

    here.run(model, {"positive": positive}, look, latent, torch.tensor([1.0, 0.0]), seed, 1, "looking")
    return maps[0].float().cpu()


def contested(maps: torch.Tensor, every: torch.Tensor) -> torch.Tensor:
    """Maps [B, G, h, w] of words, each weighed by the share of the attention to any word, `every` [B, 1, h, w], that
    it has there: what another word claims more strongly is that one's."""
    return maps.square() / every.clamp(min=1e-6)


def guided(maps: torch.Tensor, image: torch.Tensor, radius: float = 0.15, epsilon: float = 1e-4) -> torch.Tensor:
    """Maps [B, G, h, w] drawn to the edges of an image [B, 3, H, W] by the guided filter (He et al. 2010): attention
    is as coarse as the network's inner grids, and the picture knows where a thing ends. [B, G, H', W'], at most
    `GUIDED_SIDE` a side; `radius` is a share of the shorter side."""
    size = fitted(image.shape[-2:], GUIDED_SIDE, 8)
    image = resized(image.float(), *size)
    maps = F.interpolate(maps.float(), size=size, mode="bilinear", align_corners=False)
    r = max(1, round(radius * min(size)))
    k = 2 * r + 1
    box = lambda x: F.avg_pool2d(F.avg_pool2d(F.pad(x, (r,) * 4, mode="replicate"), (1, k), 1), (k, 1), 1)  # separable
    mean = box(image)
    square = (
        box((image[:, :, None] * image[:, None]).flatten(1, 2)).unflatten(1, (3, 3)) - mean[:, :, None] * mean[:, None]
    )
    inverse = torch.linalg.inv(
        square.permute(0, 3, 4, 1, 2) + epsilon * torch.eye(3, device=image.device)
    )  # [B, H', W', 3, 3]
    out = []
    for one in maps.split(1, dim=1):
        mine = box(one)
        together = box(image * one) - mean * mine
        a = (inverse @ together.permute(0, 2, 3, 1)[..., None])[..., 0].permute(0, 3, 1, 2)
        b = mine - (a * mean).sum(dim=1, keepdim=True)
        out.append((box(a) * image).sum(dim=1, keepdim=True) + box(b))
    return torch.cat(out, dim=1).clamp(min=0)


def relative(maps: torch.Tensor, top: float = 0.99) -> torch.Tensor:
    """[B, G, h, w] -> the same, each map between 0 at its 5th percentile and 1 at its `top` quantile: words are
    looked at to very different degrees, and it is the place that counts."""
    flat = maps.flatten(2).float()
    low, high = (torch.quantile(flat, q, dim=2)[..., None, None] for q in (0.05, top))
    return ((maps - low) / (high - low).clamp(min=1e-9)).clamp(0, 1)


def threshold(values: torch.Tensor, bins: int = 64) -> torch.Tensor:
    """[n] in 0..1 -> the value that parts them best into two (Otsu 1979)."""
    counts = torch.histc(values.float(), bins, 0, 1)
    centres = (torch.arange(bins, device=values.device) + 0.5) / bins
    below, mass = counts.cumsum(0), (counts * centres).cumsum(0)
    total, whole = below[-1], mass[-1]
    between = (whole * below / total - mass).square() / (below * (total - below)).clamp(min=1e-9)
    return centres[between.argmax()] + 0.5 / bins


def word_columns(prompt: str) -> list[int]:
    """Positions of a prompt's words among its tokens, chunk after chunk: neither start, end nor padding."""
    from ..diffusion.text import tokenize
    from ..networks.tokenizer import CHUNK, END

    chunks = [[i for i, _ in chunk] for chunk in tokenize(prompt)]
    return [
        n * CHUNK + i for n, ids in enumerate(chunks) for i in range(1, max(2, ids.index(END) if END in ids else CHUNK))
    ]


def attention_mask(maps: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """Attention maps [B, G + 1, h, w] of several objects and (last) of all words, over an image [B, 3, H, W] -> one
    mask [B, 1, H, W] of 0 and 1: each object's pixels above its own threshold."""
    found = guided(contested(maps[:, :-1], maps[:, -1:]), image)
    return F.interpolate(above(found), size=image.shape[-2:], mode="nearest")


def above(maps: torch.Tensor) -> torch.Tensor:
    """Maps [B, G, h, w] -> [B, 1, h, w]: 1 where any of them is above its own threshold."""
    spread = relative(maps, 0.998)
    out = torch.zeros_like(spread[:, :1])
    for b in range(len(spread)):
        for one in spread[b]:
            out[b, 0] = torch.maximum(out[b, 0], (one > threshold(one.flatten())).to(out))
    return out


# -- the others ---------------------------------------------------------------------------------------------------


def box_mask(changes: Sequence[Change], h: int, w: int) -> torch.Tensor:
    """[1, 1, h, w]: 1 inside any object's box. UserError where no object has one."""
    boxes = [c.box for c in changes if c.box]
    if not boxes:
        raise UserError("No object has a box: rules draw none. Use an MLLM that does, or another grounding.")
    mask = torch.zeros(1, 1, h, w)
    for left, top, right, bottom in boxes:
        mask[
            ...,
            int(top * h) : max(int(top * h) + 1, round(bottom * h)),
            int(left * w) : max(int(left * w) + 1, round(right * w)),
        ] = 1
    return mask


def saliency(image: torch.Tensor, side: int = 64) -> torch.Tensor:
    """[B, 3, H, W] -> [B, 1, H, W] in 0..1: the spectral residual (Hou and Zhang 2007) of the luminance at 64
    pixels."""
    small = resized(luminance(image), side, side)
    spectrum = torch.fft.fft2(small)
    log = (spectrum.abs() + 1e-8).log()
    residual = log - F.avg_pool2d(F.pad(log, (1, 1, 1, 1), mode="circular"), 3, 1)
    found = torch.fft.ifft2(torch.polar(residual.exp(), spectrum.angle())).abs().square()
    found = F.avg_pool2d(F.pad(found, (4, 4, 4, 4), mode="reflect"), 9, 1)
    found = F.interpolate(found, size=image.shape[-2:], mode="bilinear", align_corners=False)
    return relative(found)


def saliency_mask(image: torch.Tensor) -> torch.Tensor:
    """[B, 1, H, W] of 0 and 1: what is salient above each image's own threshold."""
    found = saliency(image)
    return torch.stack([(one > threshold(one.flatten())).to(one) for one in found])


def clipseg_mask(image: torch.Tensor, names: Sequence[str], model: str = "CIDAS/clipseg-rd64-refined") -> torch.Tensor:
    """[B, G, H, W] of 0 and 1 by CLIPSeg, a mask a name (empty where it finds none). UserError where its weights are
    not on this machine."""
    from huggingface_hub import snapshot_download
    from transformers import CLIPSegForImageSegmentation, CLIPSegProcessor

    try:
        # Its folder in the hub's cache: by name alone, a folder of that name in the working directory would be taken.
        folder = snapshot_download(model, local_files_only=True)
        where = dict(local_files_only=True, trust_remote_code=False)
        processor = CLIPSegProcessor.from_pretrained(folder, **where)
        network = CLIPSegForImageSegmentation.from_pretrained(folder, use_safetensors=True, **where)
    except (OSError, ValueError) as error:
        raise UserError(
            "CLIPSeg's weights are not on this machine. Get them once, with a network: huggingface-cli download "
            f"{model}. Or choose the grounding attention."
        ) from error
    network = network.eval().to(image.device)
    out = torch.zeros(len(image), len(names), *image.shape[-2:], device=image.device)
    for b in range(len(image)):
        pixels = to_uint8(image[b].movedim(0, -1))
        given = processor(text=list(names), images=[pixels] * len(names), padding=True, return_tensors="pt").to(
            image.device
        )
        with torch.no_grad():
            logits = network(**given).logits
        logits = logits.reshape(len(names), 1, *logits.shape[-2:])
        found = F.interpolate(logits.sigmoid(), size=image.shape[-2:], mode="bilinear", align_corners=False)
        out[b] = (found[:, 0] > 0.4).to(out)
    return out


# -- all ----------------------------------------------------------------------------------------------------------


def feathered(mask: torch.Tensor, pixels: int) -> torch.Tensor:
    """[B, 1, H, W] -> the same with an edge that rises over `pixels` outside of it: what was 1 stays 1, and what is
    farther away stays exactly 0."""
    if pixels <= 0:
        return mask
    size = 2 * pixels + 1
    kernel = torch.hann_window(size + 2, periodic=False)[1:-1].to(mask)
    kernel = kernel / kernel.sum()
    wide = _grown(mask, pixels)
    # Blurring a mask grown by half the feather keeps the ramp inside the grown one.
    half = _grown(mask, pixels // 2)
    blur = F.pad(half, (pixels,) * 4, mode="replicate")
    blur = F.conv2d(F.conv2d(blur, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
    return torch.maximum(mask, torch.where(wide > 0, blur, torch.zeros_like(blur))).clamp(0, 1)


def _grown(mask: torch.Tensor, pixels: int) -> torch.Tensor:
    """[B, 1, H, W] -> the largest value within a number of pixels; by rows and then by columns, as a window of both
    takes minutes."""
    size = 2 * pixels + 1
    return F.max_pool2d(F.max_pool2d(mask, (1, size), 1, (0, pixels)), (size, 1), 1, (pixels, 0))


def overlay(image: torch.Tensor, mask: torch.Tensor, words: str) -> torch.Tensor:
    """[B, 3, H, W] with the mask in red over it and words below: what the artist looks at."""
    from PIL import Image, ImageDraw

    from ..plots import font_of

    tint = image.new_tensor((1.0, 0.15, 0.1)).view(1, 3, 1, 1)
    shown = image * (1 - 0.55 * mask) + tint * 0.55 * mask
    edge = F.max_pool2d(mask, 3, 1, 1) - mask
    shown = torch.where(edge > 0.5, image.new_ones(1, 3, 1, 1), shown)
    h, w = image.shape[-2:]
    font = font_of(max(11, w // 28))
    lines: list[str] = []
    line = ""
    probe = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    for word in words.split():
        if line and probe.textlength(f"{line} {word}", font=font) > w - 8:
            lines, line = [*lines, line], word
        else:
            line = f"{line} {word}".strip()
    lines = [*lines, line][:9]
    foot = Image.new("RGB", (w, 6 + len(lines) * (font.size + 4)), "white")
    ImageDraw.Draw(foot).multiline_text((4, 2), "\n".join(lines), fill="black", font=font, spacing=4)
    strip = image_of(foot)[None].to(image)
    return torch.cat([shown, strip.expand(len(image), -1, -1, -1)], dim=2)


def doubts(
    mask: torch.Tensor,
    changes: Sequence[Change],
    grounding: str,
    given: torch.Tensor | None = None,
    each: torch.Tensor | None = None,
) -> list[str]:
    """What the user should know of a mask [B, 1, H, W]: that it covers nothing or all, that objects are not in it
    (by `each` object's own mask [B, G, H, W], where the grounding makes one), or that the one that was `given` [..,
    H, W] had other proportions."""
    share = float((mask > 0).float().mean())
    what = ", ".join(c.name for c in changes) or "the picture"
    which = f"The mask of {what} by {grounding}" if given is None else "Your mask"
    out = []
    if share == 0:
        remedies = {"your mask": "Paint where to change, or disconnect it.", "saliency": "Choose another grounding."}
        remedy = remedies.get(grounding, "Name the object otherwise, or choose another grounding.")
        out.append(f"{which} covers nothing: nothing will change. {remedy}")
    elif share > EVERYTHING and changes:
        out.append(f"{which} covers everything.")
    absent = [] if each is None or share == 0 else [c.name for c, m in zip(changes, each.unbind(dim=1)) if not m.any()]
    if absent:
        out.append(
            f"By {grounding} the image shows no {', no '.join(absent)}: not in the mask. Name what it shows, or choose "
            "another grounding."
        )
    boxless = [c.name for c in changes if not c.box]
    if grounding == "boxes" and boxless:
        out.append(f"The MLLM drew no box for {', '.join(boxless)}: not in the mask.")
    if given is not None:
        (h, w), (H, W) = given.shape[-2:], mask.shape[-2:]
        if abs(w / h - W / H) > 0.02 * W / H:
            out.append(f"Your mask is {w} x {h} and the image {W} x {H}: it was stretched to fit.")
    return out


def describe(changes: Sequence[Change], mask: torch.Tensor) -> dict[str, Any]:
    """Plain values about a mask, for JSON."""
    return {"objects": [c.name for c in changes], "covers": round(float((mask > 0).float().mean()), 4)}
