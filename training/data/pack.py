"""MoodScenes rendered once into memory-mapped arrays that a trainer indexes: images, emotions, caption tokens.

A pack is a folder `images.npy` [N, S, S, 3] uint8, `emotions.npy` [N] int64 (-1 for photographs), `tokens.npy` [N, V,
77] int32, where `objects` are asked for `masks.npy` [N, K, 16, 16] uint8 (coverage times 255) and `places.npy` [N, V,
K] int8 (the position of each object's word in each caption; -1: not said), and `pack.json`. It is made from seeds alone
and complete or absent.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...models import host
from ...models.emotions import MIKELS


@dataclass(frozen=True)
class PackSpec:
    """What a pack holds.

    emotions  "uniform", or "prior": drawn from what the layout inclines to
    captions  "content" (3 % name the emotion, a third carry attributes), "whole" (all forms, MoodArchive's too) or
              "structured" (MoodArchive's five sentences in order, then one with every attribute: six variants)
    photos    share of real photograph crops among the rows
    variants  captions a row
    objects   K: of the K largest objects a row, mask and word are kept; several of one name are one
    """

    split: str
    n: int
    domain: str = "a"
    emotions: str = "uniform"
    captions: str = "content"
    photos: float = 0.0
    variants: int = 4
    seed: int = 0
    size: int = 128
    objects: int = 0


@dataclass
class Pack:
    images: np.ndarray
    emotions: np.ndarray
    tokens: np.ndarray
    captions: list[list[str]]
    layouts: list[int]
    masks: np.ndarray | None = None
    places: np.ndarray | None = None


def tokenize(text: str) -> list[int]:
    """A caption's first 77 CLIP tokens, padded with the end token as SD pads."""
    from ...models.diffusion.text import tokenize as chunks

    return [i for i, _ in chunks(text.replace("(", "").replace(")", ""))[0]]


def _captions(scene: Any, spec: PackSpec, rng: np.random.Generator) -> list[str]:
    if spec.captions == "content":
        # 3 % name the emotion: prompting alone then reaches little of it, as with SD1.5.
        return [scene.content_caption(rng, attributes=0.3, emotion=rng.random() < 0.03) for _ in range(spec.variants)]
    mood = scene.mood_caption()
    if spec.captions == "structured":
        return [
            mood["summary"],
            *mood["stimuli"],
            mood["assessment"],
            f"It shows {scene.content_caption(rng, attributes=1.0)}.",
        ]
    forms = [
        mood["summary"],
        " ".join(mood["stimuli"]),
        mood["assessment"],
        scene.content_caption(rng, attributes=0.8),
        scene.content_caption(rng, attributes=0.5, emotion=True),
        scene.content_caption(rng),
    ]
    return [forms[i % len(forms)] for i in range(spec.variants)]


def _render(job: tuple[PackSpec, int, list[int], str]) -> list[list[str]]:
    from .moodscenes import make_scene, sample_emotion
    from .photos import random_crop

    spec, start, layouts, folder = job
    images = np.load(f"{folder}/images.npy", mmap_mode="r+")
    emotions = np.load(f"{folder}/emotions.npy", mmap_mode="r+")
    tokens = np.load(f"{folder}/tokens.npy", mmap_mode="r+")
    masks, places = (
        np.load(f"{folder}/{name}.npy", mmap_mode="r+") if spec.objects else None for name in ("masks", "places")
    )
    texts = []
    for i, layout in enumerate(layouts, start):
        rng = np.random.default_rng([spec.seed, i])
        if rng.random() < spec.photos:
            image, caption = random_crop(rng, spec.size)
            emotion, captions = -1, [caption] * spec.variants
        else:
            name = sample_emotion(layout, rng) if spec.emotions == "prior" else MIKELS[rng.integers(len(MIKELS))]
            scene = make_scene(layout, name, int(rng.integers(2**31)), domain=spec.domain, size=spec.size)
            image, emotion, captions = scene.image, MIKELS.index(name), _captions(scene, spec, rng)
            if masks is not None and places is not None:
                masks[i], places[i] = _objects(scene, captions, spec.objects)
        images[i], emotions[i], tokens[i] = image, emotion, [tokenize(c) for c in captions]
        texts.append(captions)
    return texts


MASK_SIDE = 16


def _objects(scene: Any, captions: list[str], k: int) -> tuple[np.ndarray, np.ndarray]:
    """(masks [k, 16, 16], places [captions, k]: of a name's last token) of a scene's largest objects."""
    from ...models.moodifier.words import token_positions

    names: dict[str, float] = {}
    for o in scene.objects:
        names[o.name] = names.get(o.name, 0.0) + o.area
    masks, places = np.zeros((k, MASK_SIDE, MASK_SIDE), np.uint8), np.full((len(captions), k), -1, np.int8)
    for j, name in enumerate(sorted(names, key=names.__getitem__, reverse=True)[:k]):
        mine = np.isin(scene.owners, [o.number for o in scene.objects if o.name == name])
        cells = mine.reshape(MASK_SIDE, len(mine) // MASK_SIDE, MASK_SIDE, -1).mean(axis=(1, 3))
        masks[j] = (cells * 255).round()
        for i, caption in enumerate(captions):
            last = (token_positions(caption, name) or [-1])[-1]
            places[i, j] = last if last < 76 else -1  # what was cut off is not said
    return masks, places


def make_pack(spec: PackSpec, cache: Path, workers: int | None = None) -> Pack:
    """The pack of a spec, rendered on first use into a folder of `cache` named after the spec."""
    from accelerate import PartialState

    key = hashlib.sha256(json.dumps(asdict(spec), sort_keys=True).encode()).hexdigest()[:12]
    folder = cache / f"{spec.split}-{spec.domain}-{spec.n}-{key}"
    with PartialState().main_process_first():  # the others find it done
        if not (folder / "pack.json").is_file():
            _make(spec, folder, workers or host.cores())
    index = json.loads((folder / "pack.json").read_text(encoding="utf-8"))

    def load(name: str) -> Any:
        path = folder / f"{name}.npy"
        return np.load(path, mmap_mode="r") if path.is_file() else None

    images, emotions, tokens, masks, places = map(load, ("images", "emotions", "tokens", "masks", "places"))
    return Pack(images, emotions, tokens, index["captions"], index["layouts"], masks, places)


def _make(spec: PackSpec, folder: Path, workers: int) -> None:
    from tqdm import tqdm

    from .moodscenes import layout_seeds

    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        layouts = [int(s) for s in layout_seeds(spec.split, spec.n, spec.seed)]
        temporary.mkdir(parents=True, exist_ok=True)
        arrays = [
            ("images", (spec.n, spec.size, spec.size, 3), np.uint8),
            ("emotions", (spec.n,), np.int64),
            ("tokens", (spec.n, spec.variants, 77), np.int32),
        ]
        if spec.objects:
            arrays += [
                ("masks", (spec.n, spec.objects, MASK_SIDE, MASK_SIDE), np.uint8),
                ("places", (spec.n, spec.variants, spec.objects), np.int8),
            ]
        for name, shape, kind in arrays:
            made = np.lib.format.open_memmap(temporary / f"{name}.npy", mode="w+", dtype=kind, shape=shape)
            if name == "places":
                made[:] = -1  # photographs say no object
        jobs = [(spec, i, layouts[i : i + 100], str(temporary)) for i in range(0, spec.n, 100)]
        texts: list[list[str]] = []
        with ProcessPoolExecutor(workers) as pool:
            for part in tqdm(pool.map(_render, jobs), total=len(jobs), desc=folder.name, mininterval=2):
                texts += part
        (temporary / "pack.json").write_text(
            json.dumps({"spec": asdict(spec), "layouts": layouts, "captions": texts}), encoding="utf-8"
        )
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
