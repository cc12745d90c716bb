"""What MUSE costs, measured side by side: the unconditional pass outside the inner loop against inside it, one inner step
against one plain forward pass, a whole run against plain sampling, a batch against single images, a warm start against a
cold one, and memory with and without gradient checkpointing.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable

import torch

from ..models import tiny
from ..models.classifiers import load_classifier
from ..models.diffusion.diffusers import CFGGuider, MuseGuider
from ..models.diffusion.sampling import Sampler, prepare_noise, schedule
from ..models.emotions import MIKELS, EmotionTarget
from ..models.muse import EmotionTokens, Muse, MuseConfig
from . import measure, memory
from .methods import Method, _texts
from .tasks import generation

_UNIT = {"speedup": "times", "speedup_batched_pair": "times", "inner_step_ratio": "plain forward passes",
         "total_ratio": "times plain sampling", "max_abs_diff": "pixel, 0..1", "batch_of_eight_speedup": "times",
         "warm_start_inner_steps": "share of a cold start's", "peak_memory_gb": "GiB",
         "checkpointing_saves": "share of the inner loop's own memory"}


class _UncondInside(Muse):
    """The same method with the unconditional prediction made anew in every inner step: without gradients (`pair` off), or
    in one batch with the conditional one, as guidance is commonly run (`pair` on)."""

    pair = False
    _given: torch.Tensor | None = None

    def _guess(self, x: torch.Tensor, sigma: torch.Tensor, uncond: torch.Tensor | None, tokens: torch.Tensor,
               rows: torch.Tensor | None) -> torch.Tensor:
        if uncond is not self._given and not self.pair:  # made once a step for the method itself: the first pass is that one
            self._given = uncond
            return super()._guess(x, sigma, uncond, tokens, rows)
        positive = self.positive.rows(rows).append(tokens[rows])
        if not self.pair:
            with torch.no_grad():
                uncond = self.denoiser(x[rows], sigma[rows], self.negative)
            cond = self.denoiser(x[rows], sigma[rows], positive)
        else:
            n = len(positive.embeds)
            padded = self.negative.append(tokens[rows].detach() * 0)  # a batch needs texts of one length
            both = replace(positive, embeds=torch.cat([positive.embeds, padded.embeds.expand(n, -1, -1)]))
            cond, uncond = self.denoiser(torch.cat([x[rows]] * 2), torch.cat([sigma[rows]] * 2), both).chunk(2)
        return uncond + self.config.cfg * (cond - uncond)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.add_argument("--rounds", type=int, default=5, help="repetitions, of which the fastest counts (default: %(default)s)")


def guider(emotions: list[EmotionTarget], config: MuseConfig, init: EmotionTokens | None = None,
           kind: type[Muse] = Muse, pair: bool = False) -> MuseGuider:
    """MUSE without a gate on the first held-out prompt."""
    model, _, vae = tiny.load_pipeline()
    prompt = generation(1)[0].prompt
    made = MuseGuider(model, vae, load_classifier("tiny-a"), _texts([prompt]), _texts([""]), emotions, config, None, init)
    made.muse.__class__ = kind
    made.muse.pair = pair
    return made


def run(made: CFGGuider, batch: int = 1, steps: int = 20) -> torch.Tensor:
    latent = torch.zeros(batch, tiny.LATENT_CHANNELS, 16, 16)
    return made.sample(prepare_noise(latent, 0), latent, Sampler("euler"), schedule("karras", made.model.sigma_table, steps))


def fastest(rounds: int, *jobs: Callable[[], Any]) -> list[float]:
    """Seconds of each job, the fastest of the rounds; the jobs take turns, so that a noisy moment hits them alike."""
    best = [float("inf")] * len(jobs)
    for job in jobs:
        job()
    for _ in range(rounds):
        for i, job in enumerate(jobs):
            start = time.perf_counter()
            job()
            best[i] = min(best[i], time.perf_counter() - start)
    return best


def main(args: argparse.Namespace) -> int:
    figures: dict[str, float] = {}
    fear = [EmotionTarget.of("fear")]
    # No early stop, so that every variant makes the same number of steps.
    fixed = MuseConfig(cfg=Method("muse").cfg, max_inner_steps=10, stop_loss=-1e9)
    ours, inside, paired = guider(fear, fixed), guider(fear, fixed, kind=_UncondInside), guider(fear, fixed, kind=_UncondInside, pair=True)
    vae = ours.muse.autoencoder
    a, b = (vae.decode(run(g).to(ours.model.device)) for g in (ours, inside))
    figures["max_abs_diff"] = float((a - b).abs().max())
    once, each, pair = fastest(args.rounds, *(lambda g=g: run(g, steps=4) for g in (ours, inside, paired)))
    figures["speedup"], figures["speedup_batched_pair"] = each / once, pair / once

    x = torch.randn(1, tiny.LATENT_CHANNELS, 16, 16, device=ours.model.device)
    sigma = torch.ones(1, device=x.device)
    muse = ours.muse
    muse.start(x, schedule("karras", ours.model.sigma_table, 20))
    muse.open[:] = True

    def forward() -> None:
        with torch.no_grad():
            muse.classifier(vae.decode(ours.model.latent_out(ours.model(x, sigma, muse.positive))))

    def inner(steps: int) -> Callable[[], None]:
        def job() -> None:
            muse.config = replace(fixed, max_inner_steps=steps)
            muse.predict(x, sigma)
        return job

    plain, few, many = fastest(args.rounds, forward, inner(2), inner(12))
    figures["inner_step_ratio"] = (many - few) / 10 / plain
    figures["forward_ms"] = 1000 * plain

    config = replace(fixed, max_inner_steps=MuseConfig().max_inner_steps, stop_loss=MuseConfig().stop_loss)
    whole = guider(fear, config)
    sampling = CFGGuider(whole.model, _texts([generation(1)[0].prompt]), _texts([""]), config.cfg)
    fast, slow = fastest(max(1, args.rounds // 2), lambda: run(sampling), lambda: run(whole))
    figures["total_ratio"], figures["total_seconds"], figures["plain_seconds"] = slow / fast, slow, fast

    eight = [EmotionTarget.of(name) for name in MIKELS]
    batched = guider(eight, config)
    together, alone = fastest(1, lambda: run(batched, 8), lambda: [run(guider([e], config)) for e in eight])
    figures["batch_of_eight_speedup"] = alone / together
    figures |= _warm_start(config)
    figures |= _memory()
    measure.write(args.json, "muse-speed", figures, {key: _UNIT.get(key, "") for key in figures})
    return 0


def _warm_start(config: MuseConfig) -> dict[str, float]:
    """Inner steps and tiny-b's accuracy from tokens that an image of another prompt was given for the same emotion, against
    tokens drawn at random; 16 images."""
    tasks = generation(24)[8:]
    model, _, vae = tiny.load_pipeline()
    emotions = [t.target for t in tasks]
    source = guider([EmotionTarget.of(name) for name in MIKELS], config)
    _, saved = source.traces.get(run(source, 8))
    figures: dict[str, float] = {}
    counts = {}
    latent = torch.zeros(len(tasks), tiny.LATENT_CHANNELS, 16, 16)
    for name, init in (("cold", None), ("warm", EmotionTokens(saved.tokens[[MIKELS.index(t.emotion) for t in tasks]]))):
        made = MuseGuider(model, vae, load_classifier("tiny-a"), _texts([t.prompt for t in tasks]), _texts([""]), emotions,
                          config, None, init)
        out = made.sample(prepare_noise(latent, 3), latent, Sampler("euler"), schedule("karras", model.sigma_table, 20))
        trace, _ = made.traces.get(out)
        counts[name] = sum(sum(a != b for a, b in zip(before, after)) for call in trace.calls
                           for before, after in zip(call.losses, call.losses[1:]))
        with torch.no_grad():
            p = measure.probabilities(vae.decode(out.to(model.device)).cpu(), "tiny-b")
        figures[f"{name}_start.tiny_b"] = float((p.argmax(dim=1) == measure.labels(tasks)).float().mean())
    return {**figures, "warm_start_inner_steps": counts["warm"] / max(1, counts["cold"])}


def _peak(steps: int, save_memory: bool) -> float:
    """GiB at the peak of a process that makes one guided prediction for a batch of eight (0 steps: none at all)."""
    torch.set_num_threads(1)
    made = guider([EmotionTarget.of(name) for name in MIKELS], MuseConfig(max_inner_steps=max(1, steps), stop_loss=-1e9))
    x = torch.randn(8, tiny.LATENT_CHANNELS, 16, 16, device=made.model.device)
    made.muse.start(x, schedule("karras", made.model.sigma_table, 20))
    made.muse.open[:] = steps > 0
    made.muse.intensity[:] = float(steps > 0)
    made.muse._save_memory = save_memory
    made.muse.predict(x, torch.ones(8, device=x.device))
    if x.device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return memory.peak() / 2**30


def _memory() -> dict[str, float]:
    """Peak memory of the inner loop on a batch of eight; each measurement is a process of its own."""
    without, full, saving = (memory.alone(_peak, *settings) for settings in ((0, False), (2, False), (2, True)))
    return {"peak_memory_gb": full, "inner_loop_memory_gb": full - without, "checkpointed_memory_gb": saving - without,
            "checkpointing_saves": 1 - (saving - without) / max(full - without, 1e-9)}
