"""The card of the tiny models: what they reach on held-out scenes, and the constants that users of them need."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..models import files, metrics, tiny
from ..models.diffusion.diffusers import CFGGuider
from ..models.diffusion.sampling import Sampler, prepare_noise, schedule
from ..models.emolat.codebook import separation
from ..models.emolat.repaint import clustered, map_points, repaint
from ..models.emolat.space import load_emolat
from ..models.emotions import MIKELS, OPPOSITE, EmotionTarget
from ..models.networks.classifiers import TINY, load_classifier
from ..models.networks.scorers import load_scorer
from ..models.plots import contact_sheet
from ..models.tensors.uint8 import to_uint8
from .data.moodscenes import layout_seeds, make_scene
from .data.photos import HELD_OUT, photograph, square

SCORERS = {"tiny": "clip", "tiny-eval": "clip-eval", "moodifyclip": "moodifyclip"}
"""The tiny scorers a timing gate may use, and their files."""


def held_out(n: int, domain: str = "a", split: str = "test") -> tuple[torch.Tensor, torch.Tensor, list[str], list[Any]]:
    """n held-out scenes, emotions in turn: images [n, 3, 128, 128], labels [n], content captions, scenes."""
    scenes, images = [], []
    for i, layout in enumerate(layout_seeds(split, n, seed=7)):
        scenes.append(make_scene(int(layout), MIKELS[i % len(MIKELS)], emotion_seed=i, domain=domain))
        images.append(scenes[-1].image)
    x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    captions = [s.content_caption(np.random.default_rng([7, i])) for i, s in enumerate(scenes)]
    return x, torch.arange(n) % len(MIKELS), captions, scenes


@torch.no_grad()
def plain_samples(prompts: list[str], device: str, cfg: float = 7.5, steps: int = 20, batch: int = 32) -> torch.Tensor:
    """[n, 3, 128, 128]: samples of the tiny model, one a prompt, noise seeds 0.. in batches."""
    model, text, vae = tiny.load_pipeline()
    model.unet.to(device), vae.to(device)
    out = []
    for start in range(0, len(prompts), batch):
        part = prompts[start : start + batch]
        embeds = torch.cat([text.encode(p)[0][0][:, :77] for p in part])
        latent = torch.zeros(len(part), tiny.LATENT_CHANNELS, 16, 16)
        guider = CFGGuider(model, [[embeds, {}]], text.encode(""), cfg)
        samples = guider.sample(
            prepare_noise(latent, start), latent, Sampler("dpmpp_2m"), schedule("karras", model.sigma_table, steps)
        )
        out.append(vae.decode(samples).cpu())
    return torch.cat(out)


@torch.no_grad()
def first_predictions(prompts: list[str], device: str) -> torch.Tensor:
    """[n, 3, 128, 128]: what the tiny model predicts from pure noise under a prompt, without guidance."""
    model, text, vae = tiny.load_pipeline()
    model.unet.to(device), vae.to(device)
    sigma, out = float(model.sigma_table[-1]), []
    for i, prompt in enumerate(prompts):
        noise = prepare_noise(torch.zeros(1, tiny.LATENT_CHANNELS, 16, 16), i).to(device)
        clean = model(sigma * noise, torch.full((1,), sigma, device=device), model.context(text.encode(prompt)))
        out.append(vae.decode(model.latent_out(clean)).cpu())
    return torch.cat(out)


@torch.no_grad()
def figures(scenes: int, samples: int, device: str, runs: Path) -> dict[str, Any]:
    """The card's figures, all on layouts or photographs that nothing was trained on; 32 plain samples go to
    runs/samples.png."""
    result: dict[str, Any] = {}
    for domain in ("a", "b"):
        x, labels, _, _ = held_out(scenes, domain)
        for name in TINY:
            classifier = load_classifier(name).to(device)
            logits = torch.cat([classifier(part.to(device)).cpu() for part in x.split(100)])
            result[f"{name} accuracy, domain {domain}"] = metrics.accuracy(logits, labels)
    x, labels, captions, held = held_out(max(scenes, samples))
    vae = tiny.build_vae()
    tiny.load("vae", vae)
    vae.to(device).eval()
    photos = (
        torch.from_numpy(np.stack([square(photograph(n), tiny.IMAGE_SIZE) for n in HELD_OUT])).permute(0, 3, 1, 2) / 255
    )
    for name, images in (("MoodScenes", x[:scenes]), ("held-out photographs", photos)):
        back = torch.cat([vae.decode(vae.encode(p.to(device))).cpu() for p in images.split(50)])
        result[f"VAE SSIM, {name}"] = float(metrics.ssim(back, images).mean())
    for name in ("tiny", "tiny-eval"):
        scorer = load_scorer(name).to(device)
        image = metrics.clip_features(scorer, x[:scenes].to(device))
        text = scorer.text_features(captions[:scenes])
        groups = range(0, scenes - 99, 100)
        result[f"{name} retrieval R@1 among 100"] = float(
            np.mean([metrics.retrieved(image[i : i + 100], text[i : i + 100]).float().mean() for i in groups])
        )
    judge = load_scorer("tiny-eval").to(device)
    made = plain_samples(captions[:samples], device)
    sample_sheet(made[:32], captions[:32], runs / "samples.png")
    features = [
        metrics.clip_features(judge, part.to(device))
        for part in (made, x[:samples], x[samples // 2 : samples], x[: samples // 2])
    ]
    result["Frechet distance on tiny-eval features, plain samples"] = metrics.frechet_distance(features[0], features[1])
    result["the same between two halves of the real scenes"] = metrics.frechet_distance(features[2], features[3])
    text = judge.text_features(captions[:samples])
    groups = range(0, samples - 63, 64)
    result["own-prompt retrieval of plain samples among 64"] = float(
        np.mean([metrics.retrieved(features[0][i : i + 64], text[i : i + 64]).float().mean() for i in groups])
    )
    return result | emolat_figures(x[:96], labels[:96], device)


def emolat_figures(x: torch.Tensor, labels: torch.Tensor, device: str) -> dict[str, float]:
    """The bundled EmoLat on held-out scenes x [n, 3, 128, 128] of emotions labels [n], each repainted in the
    opposite emotion."""
    emolat, judge = load_emolat("tiny"), load_classifier("tiny-b").to(device)
    for part in emolat.parts:
        part.to(device)
    targets = [EmotionTarget.of(OPPOSITE[MIKELS[int(k)]]) for k in labels]
    after = torch.cat(
        [
            repaint(emolat, image[None], emolat.sample(target, 1, 1.0, i))
            for i, (image, target) in enumerate(zip(x, targets))
        ]
    )
    wanted = torch.tensor([MIKELS.index(target.dominant) for target in targets])
    entries = emolat.codebooks.entries.detach()
    book_of = torch.arange(len(MIKELS)).repeat_interleave(entries.shape[1])
    return {
        "EmoLat, least codebook perplexity of 256": float(emolat.codebooks.perplexity().min()),
        "EmoLat, how far its books lie apart over how wide they are": separation(entries.flatten(0, 1), book_of),
        "EmoLat, share of a code's neighbours on the map that are of its book": clustered(*map_points(emolat, "t-SNE")),
        "EmoLat towards the opposite emotion, accuracy by tiny-b": metrics.accuracy(
            judge(after.to(device)).cpu(), wanted
        ),
        "EmoLat towards the opposite emotion, SSIM to the source": float(metrics.ssim(after, x).mean()),
    }


def sample_sheet(images: torch.Tensor, captions: list[str], target: Path) -> None:
    """Images [n, 3, H, W] over their prompts, as a PNG."""
    import textwrap

    from PIL import Image

    sheet = contact_sheet(
        [x.permute(1, 2, 0).numpy() for x in images], ["\n".join(textwrap.wrap(c, 26)[:4]) for c in captions], columns=8
    )
    files.write_atomically(target, lambda p: Image.fromarray(to_uint8(sheet)).save(p))


@torch.no_grad()
def gate_range(device: str, n: int = 128) -> dict[str, dict[str, float]]:
    """lo and hi of each tiny scorer: its cosines with their own prompts of what the denoiser predicts from pure noise,
    and of plain samples, measured on training prompts.

    Unrelated pairs, the obvious lo, would put every first prediction near the top of the scale: each of the tiny
    world's six nouns has its usual composition, which is predicted from the first step on. A gate could then only open
    at once.
    """
    prompts = []
    for i, layout in enumerate(layout_seeds("train", n, seed=3)):
        prompts.append(make_scene(int(layout), None, 0).content_caption(np.random.default_rng([3, i])))
    first, last = first_predictions(prompts, device), plain_samples(prompts, device)
    result = {}
    for name, file in SCORERS.items():
        if not tiny.path(file).is_file():
            continue
        scorer = load_scorer(name).to(device)
        text = scorer.text_features(prompts)
        lo, hi = (float((metrics.clip_features(scorer, x.to(device)) * text).sum(dim=1).mean()) for x in (first, last))
        result[name] = {"lo": round(lo, 4), "hi": round(hi, 4)}
    return result


def write_card(table: dict[str, Any], runs: Path, device: str) -> None:
    """Measures, writes lo and hi into the scorer's file, and writes card.json and card.md beside the weights."""
    limits = gate_range(device)
    for scorer, limit in limits.items():
        state, before = files.load_safetensors(tiny.path(SCORERS[scorer]))
        if {
            k: json.loads(v) for k, v in before.items()
        } != limit:  # the same would be written in another order: another file to git
            tiny.save(SCORERS[scorer], state, **limit)
    result = figures(table["scenes"], table["samples"], device, runs)
    card = {
        "data": "MoodScenes (train layouts) and crops of photographs that scikit-image and scikit-learn ship",
        "command": "affect train tiny",
        "config": "training/configs/tiny.toml",
        "gate": limits,
        "parameters": {
            n: sum(v.numel() for v in files.load_safetensors(tiny.path(n))[0].values())
            for n in ("vae", "unet", "clip", "clip-eval", *TINY, "densenet", "vgg", "emolat", "moodifyclip")
            if tiny.path(n).is_file()
        },
        "figures": {k: round(v, 4) for k, v in result.items()},
    }
    files.write_atomically(
        tiny.path("card").with_suffix(".json"),
        lambda p: p.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8"),
    )
    files.write_atomically(
        tiny.path("card").with_suffix(".md"), lambda p: p.write_text(as_markdown(card), encoding="utf-8")
    )


def as_markdown(card: dict[str, Any]) -> str:
    rows = "\n".join(f"| {k} | {v:g} |" for k, v in card["figures"].items())
    sizes = ", ".join(f"{k} {v / 1e6:.1f} M" for k, v in card["parameters"].items())
    return (
        f"# The tiny models\n\nData: {card['data']}. Command: `{card['command']}` with `{card['config']}` "
        f"(seeds stand there); the UNet by two processes.\nStored values: {sizes}, half precision.\nGate range of the "
        f"tiny scorer: lo {card['gate']['tiny']['lo']}, hi {card['gate']['tiny']['hi']}.\n\nOn held-out layouts and "
        f"photographs:\n\n| figure | value |\n| --- | --- |\n{rows}\n"
    )
