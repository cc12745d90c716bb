"""How EmoLat's codes start MUSE's tokens: a linear map from a code to a token, trained so that the tokens push a clean
prediction towards the code's emotion before any inner step (MUSE equation 8, learned once for all images).

    affect train emolat-tokens --out emolat.safetensors
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from ..models import host, tiny
from ..models.emolat.space import EmoLat, TokenMap, load, save
from ..models.emotions import MIKELS
from ..models.networks.classifiers import load_classifier
from ..models.networks.views import view
from .batches import Rows
from .config import load_config
from .data.pack import PackSpec, make_pack
from .emolat import add_arguments
from .loop import LoopConfig, Losses, fit, on_device, split
from .unet import empty_tokens, encode, encode_texts

__all__ = ["add_arguments", "main"]


@dataclass
class TokensConfig:
    """n: scenes whose latents and captions are used; n_tokens: codes an image; low, high: the noise levels, in which
    what an image shows is settled and what it makes people feel is not; views: random views of an image that the
    classifier judges; size: the weight of the tokens' mean square, which keeps the prompt alive."""

    n: int = 2000
    n_tokens: int = 4
    cfg: float = 4.0
    low: float = 0.6
    high: float = 5.0
    views: int = 2
    size: float = 0.1
    classifier: str = "tiny-a"
    data_seed: int = 91


def train_tokens(
    emolat: EmoLat, config: TokensConfig, loop: LoopConfig, runs: Path, device: str, name: str = "emolat-tokens"
) -> TokenMap:
    """Trains the map [.., W] -> [.., D] onto the tiny diffusion model's tokens and returns it."""
    from accelerate import PartialState

    model, _, vae = tiny.load_pipeline()
    clip = tiny.build_clip()
    tiny.load("clip", clip)
    classifier = load_classifier(config.classifier)
    for part in (model.unet, vae, clip, classifier):
        part.to(device).requires_grad_(False)
    pack = make_pack(PackSpec("train", config.n, variants=1, seed=config.data_seed), runs / "packs")
    rows = Rows([pack], device)
    latents = encode(vae, rows, runs)
    captions = torch.cat([rows.tokens[:, 0], torch.tensor([empty_tokens()], device=device)])
    contexts = encode_texts(clip.eval(), captions, runs)
    context = lambda index: model.context([[torch.from_numpy(contexts[index.cpu().numpy()]).to(device).float(), {}]])
    books, process = emolat.codebooks, PartialState().process_index

    def batches(step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed((loop.seed + 7919 * process) * 1_000_003 + step)
        index = torch.randint(config.n, (loop.batch,), generator=generator)
        emotion = torch.randint(len(MIKELS), (loop.batch,), generator=generator).to(device)
        return index, emotion, books.sample(emotion, config.n_tokens, 1.0, generator).detach()

    def loss(line: nn.Module, batch: tuple, step: int) -> Losses:
        index, emotion, codes = batch
        x0 = latents[index.to(device)].float()
        share = torch.rand(len(x0), device=device)
        sigma = config.low**share * config.high ** (1 - share)
        x = x0 + sigma.view(-1, 1, 1, 1) * torch.randn_like(x0)
        with torch.no_grad():
            uncond = model(x, sigma, context(torch.full_like(index, len(captions) - 1)))
        tokens = line(codes)
        with model.gradients(), vae.gradients():
            guess = uncond + config.cfg * (model(x, sigma, context(index).append(tokens)) - uncond)
            image = vae.decode(model.latent_out(guess))
            logits = torch.stack([classifier(view(image, each=True)) for _ in range(config.views)]).mean(dim=0)
        wanted, size = F.cross_entropy(logits.float(), emotion), tokens.square().mean()
        hit = (logits.argmax(dim=1) == emotion).float().mean()
        return {"loss": wanted + config.size * size, "wanted": wanted, "size": size, "hit": hit}

    line = TokenMap(books.entries.shape[-1], tiny.CONTEXT_WIDTH)
    nn.init.normal_(line.weight, std=0.3 * books.entries.shape[-1] ** -0.5)
    nn.init.zeros_(line.bias)
    return fit(line, loss, batches, loop, runs / name, name, config, rows.tokens, books, model.unet, classifier)


def main(args: argparse.Namespace) -> int:
    on_device(args.device)
    table = load_config(args.config, args.overrides)["tokens"]
    own, loop = split(table, TokensConfig, "tokens")
    emolat = load(args.out, args.device)
    torch.manual_seed(loop.seed)
    emolat.token_map = train_tokens(emolat, own, loop, args.runs, args.device)
    emolat.training_config |= {"tokens": table}
    save(args.out, emolat)
    host.current().note(f"Wrote {args.out}.")
    return 0
