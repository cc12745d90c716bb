"""What MUSE costs, measured side by side: the unconditional pass outside the inner loop against inside it, one inner
step against one plain forward pass, a whole run against plain sampling and universal guidance, a batch against single
images, memory with and without gradient checkpointing; and what fewer inner steps cost in accuracy, by stopping sooner,
by a lower limit, or from another image's tokens. Each part is kept as soon as it is measured.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from ..models import tiny
from ..models.diffusion.diffusers import CFGGuider, MethodGuider
from ..models.diffusion.sampling import Sampler, prepare_noise, schedule
from ..models.emotions import MIKELS, EmotionTarget
from ..models.muse import EmotionTokens, Muse, MuseConfig, MuseRun, TimingGate, muse_guider
from ..models.networks.classifiers import load_classifier
from ..models.networks.scorers import load_scorer
from ..models.plots import bars
from . import arguments, measure, memory
from .figures import INNER_STEPS, Figures
from .methods import _texts, make, make_all
from .muse import MUSE, PROMPT, UNIVERSAL
from .store import Store, kept
from .tasks import generation

TIMES, PLAIN = "times", "times plain sampling"


class _UncondInside(MuseRun[Any]):
    """The same method with the unconditional prediction made anew in every inner step: without gradients (`pair`
    off), or in one batch with the conditional one, as guidance is commonly run (`pair` on)."""

    pair = False
    _given: torch.Tensor | None = None

    def combined(
        self,
        x: torch.Tensor,
        sigma: torch.Tensor,
        uncond: torch.Tensor | None,
        tokens: torch.Tensor | None,
        rows: torch.Tensor | None,
    ) -> torch.Tensor:
        if tokens is None:
            return super().combined(x, sigma, uncond, tokens, rows)
        if uncond is not self._given and not self.pair:
            self._given = uncond  # made once a step for the method itself: the first pass is that one
            return super().combined(x, sigma, uncond, tokens, rows)
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


class _Pair(_UncondInside):
    """`_UncondInside` with both predictions in one batch."""

    pair = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `affect bench muse-speed`."""
    arguments.outputs(parser, "runs/bench")
    parser.add_argument(
        "--rounds", type=int, default=5, help="repetitions, of which the fastest counts (default: %(default)s)"
    )
    parser.add_argument(
        "--n", type=int, default=64, help="prompts for the accuracy of fewer steps (default: %(default)s)"
    )


def main(args: argparse.Namespace) -> int:
    """Measures the parts that are not kept yet, and writes all figures."""
    from tqdm import tqdm

    fingerprint = measure.fingerprint_of_figures()
    figures = Figures()
    parts = {
        "uncond": _uncond,
        "inner": _inner_step,
        "whole": _whole,
        "eight": _eight,
        "memory": _memory,
        "warm": _warm_start,
    }
    for name, part in tqdm(parts.items(), desc="speed"):
        path = args.out / fingerprint / f"speed-{name}.json"
        figures.put_all(Figures.from_json(kept(path, partial(_as_json, part, args))))
    figures.put_all(_fewer_steps(args))
    figures.write(args.json, "muse-speed", fingerprint=fingerprint, n=args.n, rounds=args.rounds)
    measure.save_picture(
        args.out / "speed.png",
        bars(
            {
                "plain sampling": 1.0,
                "universal guidance": figures["universal_ratio"],
                "MUSE": figures["total_ratio"],
                "MUSE, unconditional pass inside": figures["total_ratio"] * figures["speedup"],
            },
            "times plain sampling",
        ),
    )
    return 0


def _as_json(part: Callable[[argparse.Namespace], Figures], args: argparse.Namespace) -> dict[str, Any]:
    return part(args).as_json()


def guider(
    emotions: list[EmotionTarget], config: MuseConfig, kind: type[MuseRun[Any]] = MuseRun, content: bool = False
) -> MethodGuider:
    """MUSE on the first held-out prompt, without a gate and so without the content's weight, or with one that opens
    at once."""
    model, _, vae = tiny.load_pipeline()
    prompt = generation(1)[0].prompt
    gate = TimingGate(load_scorer("tiny"), prompt, ALWAYS) if content else None
    method = Muse(load_classifier("tiny-a"), tuple(emotions), config, gate, run_type=kind)
    return MethodGuider(model, vae, _texts([prompt]), _texts([""]), method)


def start(made: MethodGuider, x: torch.Tensor) -> MuseRun[Any]:
    """A run of a guider's method whose gates are all open, at x [B, C, h, w]."""
    sigmas = schedule("karras", made.model.sigma_table, 20)
    run = made.method.start(made.model, made.vae, made.positive, made.negative, x, sigmas, None, None)
    run.open[:] = True
    return run


def run(made: CFGGuider, batch: int = 1, steps: int = 20) -> torch.Tensor:
    """Latents [batch, C, 16, 16] of a whole run with the noise of seed 0."""
    latent = torch.zeros(batch, tiny.LATENT_CHANNELS, 16, 16)
    return made.sample(
        prepare_noise(latent, 0), latent, Sampler("euler"), schedule("karras", made.model.sigma_table, steps)
    )


def fastest(rounds: int, *jobs: Callable[[], Any]) -> list[float]:
    """Seconds of each job, the fastest of the rounds; the jobs take turns, so that a noisy moment hits them alike."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    best = [float("inf")] * len(jobs)
    for job in jobs:
        job()
    for _ in range(rounds):
        for i, job in enumerate(jobs):
            wait()
            start = time.perf_counter()
            job()
            wait()
            best[i] = min(best[i], time.perf_counter() - start)
    return best


ALWAYS = -100.0
"""A gate's threshold: open from the first step, needed for its CLIP."""

FEAR = [EmotionTarget.of("fear")]
FIXED = replace(MUSE.muse, max_inner_steps=10, stop_loss=-1e9)
"""No early stop, so that every variant makes the same number of steps."""


def _uncond(args: argparse.Namespace) -> Figures:
    """What it saves to make the unconditional pass once a step, and that the images are the same: with the views as
    they are set, and as the paper has the loop, without."""
    figures = Figures()
    for end, config in (("", FIXED), ("_no_views", replace(FIXED, views=0))):
        ours, inside = guider(FEAR, config), guider(FEAR, config, _UncondInside)
        paired = guider(FEAR, config, _Pair)
        vae = ours.vae
        with torch.no_grad():
            a, b = (vae.decode(run(g).to(ours.model.device)).cpu() for g in (ours, inside))
        if not end:
            measure.save_sheet(
                args.out / "speed-same.png", [a[0], b[0]], ["once a step", "in every inner step"], 2, cell=256
            )
        once, each, pair = fastest(args.rounds, *(lambda g=g: run(g, steps=4) for g in (ours, inside, paired)))
        figures.put(f"max_abs_diff{end}", float((a - b).abs().max()), "pixel, 0..1")
        figures.put(f"speedup{end}", each / once, TIMES)
        figures.put(f"speedup_batched_pair{end}", pair / once, TIMES)
    return figures


def _inner_step(args: argparse.Namespace) -> Figures:
    """One inner step (the mean of ten) over one plain pass of UNet, VAE decoder and classifier: as it is without the
    content's weight, as the paper has it (no views either), and as the benchmark runs it, with the weight and its
    CLIP."""
    x = torch.randn(1, tiny.LATENT_CHANNELS, 16, 16, device=tiny.load_pipeline()[0].device)
    sigma = torch.ones(1, device=x.device)
    kinds = {
        "inner_step_ratio": start(guider(FEAR, FIXED), x),
        "inner_step_ratio_no_views": start(guider(FEAR, replace(FIXED, views=0)), x),
        "inner_step_ratio_content": start(guider(FEAR, FIXED, content=True), x),
    }
    muse = kinds["inner_step_ratio"]

    def forward() -> None:
        with torch.no_grad():
            muse.classifier(muse.autoencoder.decode(muse.denoiser.latent_out(muse.denoiser(x, sigma, muse.positive))))

    def inner(each: MuseRun[Any], steps: int) -> Callable[[], None]:
        def job() -> None:
            each.config = replace(each.config, max_inner_steps=steps)
            each.predict(x, sigma)

        return job

    plain, *both = fastest(args.rounds, forward, *(inner(each, steps) for each in kinds.values() for steps in (2, 12)))
    figures = Figures()
    for key, few, many in zip(kinds, both[::2], both[1::2]):
        figures.put(key, (many - few) / 10 / plain, "plain forward passes")
    figures.put("forward_ms", 1000 * plain, "ms")
    return figures


def _whole(args: argparse.Namespace) -> Figures:
    """One image by MUSE and by universal guidance, as `affect bench muse` makes them, over the plain image's time."""
    task = generation(1)
    plain, universal, muse = fastest(
        max(1, args.rounds // 2),
        *(lambda m=m: make(m, task) for m in (PROMPT, replace(UNIVERSAL, strength=32.0), MUSE)),
    )
    figures = Figures()
    figures.put("total_ratio", muse / plain, PLAIN)
    figures.put("universal_ratio", universal / plain, PLAIN)
    figures.put("total_seconds", muse, "s")
    figures.put("plain_seconds", plain, "s")
    return figures


def _eight(args: argparse.Namespace) -> Figures:
    """The eight emotions of one prompt as one batch, against one after the other."""
    tasks = [replace(generation(1)[0], emotion=name) for name in MIKELS]
    together, alone = fastest(
        max(1, args.rounds // 3), lambda: make(MUSE, tasks), lambda: [make(MUSE, [t]) for t in tasks]
    )
    figures = Figures()
    figures.put("batch_of_eight_speedup", alone / together, TIMES)
    return figures


def _peak(steps: int, save_memory: bool) -> float:
    """GB at the peak of a process that makes one guided prediction for a batch of eight (0 steps: none at all)."""
    torch.set_num_threads(1)
    made = guider([EmotionTarget.of(name) for name in MIKELS], replace(FIXED, max_inner_steps=max(1, steps)))
    x = torch.randn(8, tiny.LATENT_CHANNELS, 16, 16, device=made.model.device)
    run = start(made, x)
    run.open[:] = steps > 0
    run.intensity[:] = float(steps > 0)
    run.save_memory = save_memory
    run.predict(x, torch.ones(8, device=x.device))
    return (torch.cuda.max_memory_allocated() if x.device.type == "cuda" else memory.peak()) / 1e9


def _memory(args: argparse.Namespace) -> Figures:
    """Peak memory of the inner loop on a batch of eight; each measurement is a process of its own."""
    without, full, saving = (memory.alone(_peak, *settings) for settings in ((0, False), (2, False), (2, True)))
    figures = Figures()
    figures.put("peak_memory_gb", full, "GB")
    figures.put("inner_loop_memory_gb", full - without, "GB")
    figures.put("checkpointed_memory_gb", saving - without, "GB")
    saved = 1 - (saving - without) / max(full - without, 1e-9)
    figures.put("checkpointing_saves", saved, "share of the inner loop's own memory")
    return figures


def _warm_start(args: argparse.Namespace) -> Figures:
    """Inner steps, time and tiny-b's accuracy from tokens that an image of another prompt was given for the same
    emotion, against tokens drawn at random; all open when the gate does by itself."""
    tasks = generation(8 + args.n)[8:]
    model, _, vae = tiny.load_pipeline()
    config, begin = MUSE.muse, int(MUSE.force_open_at * MUSE.steps)
    sigmas = schedule("karras", model.sigma_table, MUSE.steps)

    def sampled(
        texts: list[str], emotions: list[EmotionTarget], noise: torch.Tensor, init: EmotionTokens | None
    ) -> tuple[Any, Any, Any]:
        """Plain to where the gate opens, from there by MUSE: (latents, trace, tokens)."""
        positive, negative = _texts(texts), _texts([""])
        latent = torch.zeros(len(texts), tiny.LATENT_CHANNELS, 16, 16)
        half = CFGGuider(model, positive, negative, config.cfg).sample(
            noise, latent, Sampler("euler"), sigmas[: begin + 1]
        )
        gate = TimingGate(load_scorer("tiny"), tuple(texts), ALWAYS)
        made = muse_guider(model, vae, load_classifier("tiny-a"), positive, negative, emotions, config, gate, init)
        out = made.sample(torch.zeros_like(latent), half, Sampler("euler"), sigmas[begin:])
        return out, *made.method.traces.get(out)

    first = generation(8)
    noises = lambda rows: torch.cat([prepare_noise(torch.zeros(1, tiny.LATENT_CHANNELS, 16, 16), t.seed) for t in rows])
    _, _, saved = sampled([t.prompt for t in first], [t.target for t in first], noises(first), None)
    figures = Figures()
    for name in ("cold", "warm"):
        images, steps, start = [], 0, time.perf_counter()
        for part in (tasks[i : i + 8] for i in range(0, len(tasks), 8)):
            init = None if name == "cold" else EmotionTokens(saved.tokens[[MIKELS.index(t.emotion) for t in part]])
            out, trace, _ = sampled([t.prompt for t in part], [t.target for t in part], noises(part), init)
            steps += sum(
                a != b
                for call in trace.calls
                for before, after in zip(call.losses, call.losses[1:])
                for a, b in zip(before, after)
            )
            with torch.no_grad():
                images.append(vae.decode(out.to(model.device)).cpu())
        seconds = time.perf_counter() - start
        figures.put(f"{name}_start.inner_steps", steps / len(tasks), INNER_STEPS)
        figures.put(f"{name}_start.seconds", seconds / len(tasks), "s")
        described = measure.described(torch.cat(images), tasks, f"{name}_start")
        figures.put_all(described.select(lambda key: ".kid" not in key))
    ratio = figures["warm_start.inner_steps"] / max(1, figures["cold_start.inner_steps"])
    figures.put("warm_start_inner_steps", ratio, "share of the cold start's")
    return figures


FEWER: dict[str, dict[str, Any]] = {
    "stop_off": {"stop_loss": -1e9},
    "stop_usual": {},
    "stop_0.05": {"stop_loss": 0.05},
    "stop_0.2": {"stop_loss": 0.2},
    "limit_5": {"max_inner_steps": 5},
    "limit_3": {"max_inner_steps": 3},
}


def _fewer_steps(args: argparse.Namespace) -> Figures:
    """Inner steps and accuracy where the loop stops sooner."""
    tasks = generation(args.n)
    methods = {name: replace(MUSE, muse=replace(MUSE.muse, **settings)) for name, settings in FEWER.items()}
    make_all(args.out, [(m, tasks) for m in methods.values()], batch=memory.fitting_batch(), label="fewer steps")
    figures = Figures()
    for name, method in methods.items():
        store = Store(args.out, method)
        described = measure.described(store.images(tasks), tasks, name)
        figures.put_all(described.select(lambda key: ".kid" not in key))
        inner_steps = sum(note["inner_steps"] for note in store.notes(tasks)) / len(tasks)
        figures.put(f"{name}.inner_steps", inner_steps, INNER_STEPS)
    return figures
