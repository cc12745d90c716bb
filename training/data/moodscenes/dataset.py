"""Writes MoodScenes as files, and the command `affect data moodscenes`.

images/<adjective>_<noun>/<id>.png    VSO's layout
annotation/<emotion>/<id>.json        EmoSet's form
emospace/<emotion>/<id>.json          EmoSpace's form
moodarchive/<id>.json                 MoodArchive's form
masks/<id>.png, masks/<id>.json       indexed PNG of visible objects; number -> [name, attribute, box]
scenes/<id>.json                      seeds, split, caption, cues; written last, so it marks completeness
changes/<layout>/<source>-<target>.png    with pairs: what differs between two renderings of one layout
index.csv                             file, noun, adjective, emotion, layout_seed, split, caption
"""

from __future__ import annotations

import argparse
import csv
import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ....models import pictures
from ....models.errors import UserError
from ....models.files import write_atomically
from .cues import EMOTIONS
from .layout import SPLITS, layout_seeds, sample_emotion, split_of
from .scene import Scene, make_scene

CHANGE_THRESHOLD = 0.1
"""A pixel has changed where any channel differs by more than this (channels 0..1)."""

_VERSION = 1


def change_mask(a: np.ndarray, b: np.ndarray, threshold: float = CHANGE_THRESHOLD) -> np.ndarray:
    """bool [H,W]: where two uint8 [H,W,3] renderings of one layout differ by more than the threshold (0..1)
    in any channel. Colour grading counts: it is part of the change. Which objects changed is in the
    scenes' JSON."""
    return np.abs(a.astype(np.int16) - b.astype(np.int16)).max(-1) > threshold * 255


def _write_json(path: Path, data: Any) -> None:
    write_atomically(path, lambda p: p.write_text(json.dumps(data) + "\n", encoding="utf-8"))


def _write_png(path: Path, image: Image.Image) -> None:
    write_atomically(path, lambda p: image.save(p, "PNG"))


def _indexed(owners: np.ndarray) -> Image.Image:
    image = Image.fromarray(owners, "L").convert("P")
    palette = np.random.default_rng(5).integers(40, 256, (256, 3), dtype=np.uint8)
    palette[0] = 0
    image.putpalette(palette.tobytes())
    image.putdata(owners.ravel().tolist())
    return image


def image_id(layout_seed: int, emotion: str | None, emotion_seed: int) -> str:
    return f"{layout_seed:010d}_{emotion or 'neutral'}_{emotion_seed}"


def write_scene(out: Path, scene: Scene, emotion_seed: int) -> dict:
    """Writes all files of one scene and returns its row of the index."""
    name = image_id(scene.layout.seed, scene.emotion, emotion_seed)
    emotion = scene.emotion or "neutral"
    file = f"images/{scene.adjective}_{scene.noun}/{name}.png"
    _write_png(out / file, Image.fromarray(scene.image))
    _write_json(out / "annotation" / emotion / f"{name}.json", {"image_id": name, **scene.emoset()})
    _write_json(out / "emospace" / emotion / f"{name}.json", {"image_id": name, **scene.emospace()})
    _write_json(out / "moodarchive" / f"{name}.json", scene.mood_caption())
    _write_png(out / "masks" / f"{name}.png", _indexed(scene.owners))
    objects = {str(o.number): [o.name, o.attribute, list(o.box)] for o in scene.objects}
    _write_json(out / "masks" / f"{name}.json", objects)
    rng = np.random.default_rng([scene.layout.seed, emotion_seed, 82])
    row = {
        "file": file,
        "noun": scene.noun,
        "adjective": scene.adjective,
        "emotion": emotion,
        "layout_seed": scene.layout.seed,
        "split": split_of(scene.layout.seed),
        "caption": scene.content_caption(rng),
    }
    mood = scene.mood
    cues = {"palette": mood.palette, "light": mood.light, "weather": mood.weather, "texture": mood.texture}
    _write_json(
        out / "scenes" / f"{name}.json",
        {
            **row,
            "emotion_seed": emotion_seed,
            "domain": scene.domain,
            "size": scene.image.shape[0],
            "version": _VERSION,
            "cues": cues,
        },
    )
    return row


def _done(out: Path, name: str, domain: str, size: int) -> dict | None:
    """The index row of a scene that is complete, or None. Another domain or size in one folder is refused."""
    path = out / "scenes" / f"{name}.json"
    if not path.is_file():
        return None
    row = json.loads(path.read_text(encoding="utf-8"))
    if (row["domain"], row["size"], row["version"]) != (domain, size, _VERSION):
        raise UserError(
            f"The folder {out} already holds scenes of domain '{row['domain']}' at {row['size']} pixels "
            f"(version {row['version']}). Choose an empty folder for this data set."
        )
    return {k: row[k] for k in ("file", "noun", "adjective", "emotion", "layout_seed", "split", "caption")}


def _job(job: tuple[Path, int, tuple[str | None, ...], int, str, int, bool]) -> list[dict]:
    """Everything of one layout: one scene, or with pairs all nine and their change masks."""
    out, layout_seed, emotions, emotion_seed, domain, size, pairs = job
    rows, images = [], {}
    for emotion in emotions:
        row = _done(out, image_id(layout_seed, emotion, emotion_seed), domain, size)
        if row is None:
            scene = make_scene(layout_seed, emotion, emotion_seed, domain, size)
            row = write_scene(out, scene, emotion_seed)
        rows.append(row)
        if pairs:
            images[emotion or "neutral"] = np.asarray(pictures.read(out / row["file"]))
    names = list(images)
    for i, source in enumerate(names):
        for target in names[i + 1 :]:
            path = out / "changes" / f"{layout_seed:010d}" / f"{source}-{target}.png"
            if not path.is_file():
                _write_png(path, Image.fromarray(change_mask(images[source], images[target])))
    return rows


def write_dataset(
    out: str | Path,
    n: int,
    size: int = 128,
    seed: int = 0,
    domain: str = "a",
    pairs: bool = False,
    split: str | None = None,
    workers: int = 0,
    progress: bool = True,
    uniform: bool = False,
) -> None:
    """Writes n scenes (with pairs: n layouts, each neutral and under the eight emotions) as this module's
    head says.

    Emotions follow what each layout inclines to, or are uniform. `split` keeps to "train", "val" or "test"
    layouts. The same arguments give the same files. A run that was interrupted goes on where it stopped:
    scenes that are complete are not drawn again. Change masks are the same in both directions, so each pair
    is written once, with the neutral rendering first and the emotions in their canonical order.
    """
    if n < 1:
        raise UserError(f"A data set of {n} scenes is empty. Give a number of scenes of at least 1.")
    out = Path(out)
    jobs = []
    for i, layout in enumerate(layout_seeds(split, n, seed)):
        rng = np.random.default_rng([seed, i, 81])
        drawn = EMOTIONS[int(rng.integers(8))] if uniform else sample_emotion(layout, rng)
        emotions = (None, *EMOTIONS) if pairs else (drawn,)
        jobs.append((out, layout, emotions, int(rng.integers(2**20)), domain, size, pairs))
    rows = []
    if workers > 1:
        with ProcessPoolExecutor(workers) as pool:
            for part in _watched(pool.map(_job, jobs, chunksize=8), n, progress):
                rows += part
    else:
        for part in _watched(map(_job, jobs), n, progress):
            rows += part

    def write_index(path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8") as f:
            writer = csv.DictWriter(f, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    write_atomically(out / "index.csv", write_index)


def _watched(parts: Any, total: int, progress: bool) -> Any:
    if not progress:
        return parts
    from tqdm import tqdm

    return tqdm(parts, total=total, desc="moodscenes", mininterval=2)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", required=True, metavar="D", help="folder to write to; an interrupted run goes on")
    parser.add_argument("--n", type=int, default=1000, metavar="N", help="scenes, or layouts with --pairs")
    parser.add_argument("--size", type=int, default=128, metavar="S", help="pixels a side, 64 to 1024")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--domain", choices=("a", "b"), default="a", help="b: inked, on paper; a foreign data set")
    parser.add_argument("--pairs", action="store_true", help="each layout neutral and in all eight emotions")
    parser.add_argument("--split", choices=SPLITS, default=None, help="keep to the layouts of one split")
    parser.add_argument("--uniform", action="store_true", help="emotions evenly, not after what a layout inclines to")
    parser.add_argument("--workers", type=int, default=0, metavar="W", help="processes that draw")


def main(args: argparse.Namespace) -> int:
    write_dataset(
        args.out, args.n, args.size, args.seed, args.domain, args.pairs, args.split, args.workers, uniform=args.uniform
    )
    return 0
