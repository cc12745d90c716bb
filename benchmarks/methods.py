"""The ways of making an image that the benchmarks compare, and a pool of processes that makes them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from ..models import host, tiny
from ..models.diffusion.diffusers import CFGGuider
from ..models.diffusion.sampling import Sampler, ddim_inversion, prepare_noise, schedule
from ..models.emolat.space import load_emolat
from ..models.emotions import MIKELS
from ..models.muse import EmotionTokens, MuseConfig, TimingGate, initial_tokens, muse_guider
from ..models.networks.classifiers import load_classifier
from ..models.networks.scorers import load_scorer
from ..models.networks.views import view
from .rivals import universal_guidance
from .store import Store, fingerprint
from .tasks import Task, scene


@dataclass(frozen=True)
class Method:
    """kind         prompt, word (the emotion named after the prompt), universal, muse, sdedit, reconstruction
    guide        the classifier that guides
    threshold    the gate's, or None: no gate; it opens at `force_open_at` of the steps in any case
    strength     of universal guidance; or of SDEdit's noise, as a share of the steps
    recurrences  of universal guidance
    start        MUSE's first tokens: random, or emolat (from the bundled EmoLat's codes)
    muse         its settings; universal guidance takes its `views`
    """

    kind: str
    cfg: float = 7.5
    steps: int = 20
    guide: str = "tiny-a"
    threshold: float | None = 18.0
    force_open_at: float = 1.0
    strength: float = 0.0
    recurrences: int = 1
    start: str = "random"
    muse: MuseConfig = field(default_factory=MuseConfig)


@lru_cache(maxsize=1)
def _models() -> tuple[Any, Any, Any]:
    return tiny.load_pipeline()


@lru_cache(maxsize=4)
def _classifier(name: str) -> torch.nn.Module:
    return load_classifier(name)


@lru_cache(maxsize=1)
def _scorer() -> Any:
    return load_scorer("tiny")


def _texts(texts: Sequence[str]) -> list[Any]:
    """One CONDITIONING with a row for each text."""
    _, encoder, _ = _models()
    return [[torch.cat([encoder.encode(text)[0][0][:, :77] for text in texts]), {}]]


def _noise(tasks: Sequence[Task], offset: int = 0) -> torch.Tensor:
    """Each image's own noise, whatever batch it is in."""
    latent = torch.zeros(1, tiny.LATENT_CHANNELS, 16, 16)
    return torch.cat([prepare_noise(latent, task.seed + offset) for task in tasks])


@lru_cache(maxsize=1)
def _emolat() -> Any:
    return load_emolat("tiny")


def _first(method: Method, text: torch.Tensor, task: Task) -> torch.Tensor:
    """[1, n, D]: the tokens an image starts from."""
    if method.start == "emolat":
        return _emolat().sample(task.target, method.muse.n_tokens, 1.0, task.seed).as_tokens().tokens.cpu()
    return initial_tokens(1, method.muse.n_tokens, text, task.seed)


def _seen(method: Method, image: torch.Tensor) -> torch.Tensor:
    """The guide's logits [B, 8], the mean over as many random views of the image as MUSE's config says."""
    classifier, views = _classifier(method.guide), method.muse.views
    return torch.stack([classifier(view(image)) for _ in range(views)]).mean(dim=0) if views else classifier(image)


def make(method: Method, tasks: Sequence[Task]) -> tuple[torch.Tensor, list[dict[str, Any]]]:
    """Images [B, 3, 128, 128] in 0..1 of a batch of tasks, and notes on each."""
    model, _, vae = _models()
    prompts = [f"{t.prompt}, feeling of {t.emotion}" if method.kind in ("word", "sdedit") else t.prompt for t in tasks]
    positive, negative = _texts(prompts), _texts([""])
    sigmas = schedule("karras", model.sigma_table, method.steps)
    notes: list[dict[str, Any]] = [{} for _ in tasks]
    latent = torch.zeros(len(tasks), tiny.LATENT_CHANNELS, 16, 16)
    noise = _noise(tasks)
    if tasks[0].source:
        with torch.no_grad():
            latent = vae.encode(torch.stack([scene(t, t.source) for t in tasks]).to(host.current().device)).cpu()
    if method.kind == "universal":
        samples = _universal(method, tasks, positive, negative, noise, sigmas)
    elif method.kind == "sdedit":
        samples = CFGGuider(model, positive, negative, method.cfg).sample(
            noise, latent, Sampler("euler"), schedule("karras", model.sigma_table, method.steps, method.strength)
        )
    else:
        if tasks[0].source:  # DDIM inversion under the description, as the edit template does
            context = model.context(positive)
            inverted = ddim_inversion(lambda x, s: model(x, s, context), model.latent_in(latent), sigmas)
            latent, noise = model.latent_out(inverted).cpu(), torch.zeros_like(latent)
        guider: Any = CFGGuider(model, positive, negative, method.cfg)
        if method.kind == "muse":
            guider = _muse(method, tasks, positive, negative)
        samples = guider.sample(noise, latent, Sampler("euler"), sigmas)
        if method.kind == "muse":
            notes = _notes(guider.method.traces.get(samples)[0], len(tasks))
    with torch.no_grad():
        return vae.decode(samples.to(host.current().device)).cpu(), notes


def _universal(
    method: Method,
    tasks: Sequence[Task],
    positive: list[Any],
    negative: list[Any],
    noise: torch.Tensor,
    sigmas: torch.Tensor,
) -> torch.Tensor:
    """Latents [B, C, 16, 16] by universal guidance."""
    model, _, vae = _models()
    labels = torch.tensor([MIKELS.index(t.emotion) for t in tasks], device=model.device)
    fresh = iter(range(1, 10**6))
    contexts = model.context(positive), model.context(negative)
    torch.manual_seed(tasks[0].seed)  # of the views
    samples = universal_guidance(
        model,
        vae,
        lambda image: F.cross_entropy(_seen(method, image), labels, reduction="none"),
        noise.to(model.device) * float((sigmas[0] ** 2 + 1) ** 0.5),
        sigmas.to(model.device),
        *contexts,
        method.cfg,
        method.strength,
        method.recurrences,
        lambda: _noise(tasks, 1_000_003 * next(fresh)).to(model.device),
    )
    return model.latent_out(samples)


def _muse(method: Method, tasks: Sequence[Task], positive: list[Any], negative: list[Any]) -> Any:
    """MUSE's guider, each image with its own target and its own first tokens, whatever batch it is in."""
    model, _, vae = _models()
    gate = None
    if method.threshold is not None:
        prompts = tuple(t.prompt for t in tasks)
        gate = TimingGate(_scorer(), prompts, method.threshold, force_open_at=method.force_open_at)
    drawn = EmotionTokens(torch.cat([_first(method, positive[0][0][[i]], t) for i, t in enumerate(tasks)]))
    targets, guide = [t.target for t in tasks], _classifier(method.guide)
    return muse_guider(model, vae, guide, positive, negative, targets, method.muse, gate, drawn)


def _notes(trace: Any, n: int) -> list[dict[str, Any]]:
    """What a run says of each of its n images: when the gate opened, the inherent emotion, the inner steps."""
    return [
        {
            "opened_at": trace.opened_at[i],
            "inherent": trace.inherent[i],
            "inner_steps": sum(_moves([row[i] for row in call.losses]) for call in trace.calls),
        }
        for i in range(n)
    ]


def _moves(losses: list[float | None]) -> int:
    """Inner steps of one image in one call: an image that is done repeats its last loss."""
    return sum(a != b for a, b in pairwise(losses))


def _job(root: Path, expected: str, method: Method, tasks: list[Task]) -> int:
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    store = Store(root, method, expected)
    for task, image, notes in zip(tasks, *make(method, tasks)):
        store.put(task, image, notes)
    return len(tasks)


def make_all(root: Path, work: Sequence[tuple[Method, Sequence[Task]]], batch: int = 8, label: str = "images") -> None:
    """Makes what is missing, with a progress bar. Batches are the same whether a run was stopped before or
    not, so the images are too. One process a core, one thread each, as far as memory goes; a GPU is one process."""
    from tqdm import tqdm

    expected = fingerprint()
    jobs = []
    for method, tasks in work:
        store = Store(root, method)
        for i in range(0, len(tasks), batch):
            part = list(tasks[i : i + batch])
            if store.missing(part):
                jobs.append((method, part))
    bar = tqdm(total=sum(len(part) for _, part in jobs), desc=label, mininterval=2, disable=not jobs)
    workers = _workers(len(jobs))
    if workers == 1:
        for method, part in jobs:
            bar.update(_job(root, expected, method, part))
    else:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            for n in pool.map(_job, [root] * len(jobs), [expected] * len(jobs), *zip(*jobs)):
                bar.update(n)
    bar.close()


_PROCESS_GB = 1.5
"""Memory of one worker with a batch of eight."""


def _workers(jobs: int) -> int:
    if torch.cuda.is_available():
        return 1
    cores = host.cores()
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    except (AttributeError, ValueError, OSError):  # not on every system
        free = _PROCESS_GB * cores
    fit = max(1, int(free / _PROCESS_GB))
    if fit < cores and jobs > 1:
        host.current().note(f"{free:.1f} GB of memory are free: {fit} process{'es' * (fit > 1)} in place of {cores}.")
    return max(1, min(cores, fit, jobs))
