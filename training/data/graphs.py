"""Annotated images as arrays on a device: pictures in one memory-mapped file, words as rows of one table of text
features.

Every word of a data set is encoded once; a graph is then five lookups, and a batch of graphs one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...models import host, pictures, tiny
from ...models.emolat.graph import GraphBatch
from ...models.emotions import MIKELS
from ...models.files import load_safetensors, save_safetensors, write_atomically
from .annotated import Annotated

NOTHING = 0
"""The row of a word that was not given: zeros."""


def vocabulary(rows: Sequence[Annotated]) -> list[str]:
    """ "" and every word of the rows and every emotion's name, sorted."""
    words = {w for row in rows for pair in row.pairs for w in pair} | {row.adjective for row in rows} | set(MIKELS)
    return ["", *sorted(words - {""})]


@torch.no_grad()
def text_features(words: Sequence[str], scorer: Any, cache: Path) -> torch.Tensor:
    """[V, D] normalised features of words by a `clip.ClipScorer`, and zeros for "". Encoded once: kept in `cache`
    under what the words and the scorer's weights are."""
    key = hashlib.sha256("\0".join(words).encode())
    key.update(scorer.name.encode())
    for p in scorer.clip.parameters():
        key.update(p.detach().flatten()[:64].float().cpu().numpy().tobytes())
    path = cache / f"words-{len(words)}-{key.hexdigest()[:12]}.safetensors"
    if not path.is_file():
        features = torch.cat(
            [scorer.text_features(list(words[i : i + 256])).float().cpu() for i in range(0, len(words), 256)]
        )
        features[[i for i, w in enumerate(words) if not w]] = 0.0
        save_safetensors(path, {"features": features}, {})
    return load_safetensors(path)[0]["features"]


def outside(words: Sequence[str], scorer: Any) -> list[str]:
    """Of the words those with a token that the scorer's text encoder never learned: its embedding is the one that
    all such tokens share (`tiny.pack_vocabulary`). Published CLIPs know every token."""
    embedding = getattr(scorer.clip, "token_embedding", None)
    if embedding is None:
        return []
    never = (embedding.weight == embedding.weight[tiny.UNKNOWN_TOKEN]).all(dim=1)
    never[tiny.UNKNOWN_TOKEN] = False  # also what texts are padded with
    return [word for word in words if word and bool(never[scorer.tokenizer([word]).to(never.device)].any())]


class GraphRows:
    """The graphs of annotated images as numbers of words, encoded a batch at a time.

    objects, attributes [N, P], adjectives [N], emotions [N]: P is the largest number of pairs that an image has.
    outside: the words that the text encoder reads as an unknown one.
    """

    def __init__(self, rows: Sequence[Annotated], scorer: Any, cache: Path, device: torch.device | str):
        words = vocabulary(rows)
        number = {w: i for i, w in enumerate(words)}
        self.features = text_features(words, scorer, cache).to(device)
        self.outside = outside(words, scorer)
        pairs = torch.full((len(rows), max(1, max(len(r.pairs) for r in rows)), 2), -1)
        for i, row in enumerate(rows):
            for j, pair in enumerate(row.pairs):
                pairs[i, j] = torch.tensor([number[w] for w in pair])
        self.objects, self.attributes = (pairs[..., k].to(device) for k in (0, 1))
        self.adjectives = torch.tensor([number[r.adjective] for r in rows], device=device)
        self.emotions = torch.tensor([r.emotion for r in rows], device=device)
        self.words_of_emotions = self.features[[number[name] for name in MIKELS]]

    def __len__(self) -> int:
        return len(self.emotions)

    def batch(self, index: torch.Tensor) -> GraphBatch:
        """The first graphs of images `index` [B], as wide as the largest of them."""
        there = self.objects[index] >= 0
        p = max(1, int(there.sum(dim=1).max()))
        take = lambda numbers: self.features[numbers[index, :p].clamp(min=NOTHING)]
        return GraphBatch(
            take(self.objects),
            take(self.attributes),
            there[:, :p],
            self.features[self.adjectives[index]],
            self.words_of_emotions[self.emotions[index]],
        )


def make_pictures(images: Sequence[Path], size: int, cache: Path) -> tuple[np.ndarray, dict[int, str]]:
    """(uint8 [N, size, size, 3] memory-mapped, row -> why it could not be read): each image file scaled to cover the
    square, and centre-cropped. Read once, kept in `cache`. An unreadable image is a black row, and listed."""
    key = hashlib.sha256("\0".join(f"{p}:{p.stat().st_mtime_ns if p.is_file() else 0}" for p in images).encode())
    path = cache / f"pictures-{len(images)}-{size}-{key.hexdigest()[:12]}.npy"
    bad = path.with_suffix(".txt")
    if not path.is_file():
        write_atomically(path, lambda temporary: _read_all(images, size, temporary, bad))
    broken = dict(line.split("\t", 1) for line in bad.read_text(encoding="utf-8").splitlines()) if bad.is_file() else {}
    return np.load(path, mmap_mode="r"), {int(i): why for i, why in broken.items()}


def _read_all(images: Sequence[Path], size: int, path: Path, bad: Path) -> None:
    from concurrent.futures import ProcessPoolExecutor

    from tqdm import tqdm

    with path.open("wb") as f:  # numpy itself would add a suffix to the temporary name
        np.lib.format.write_array_header_1_0(
            f, {"descr": "|u1", "fortran_order": False, "shape": (len(images), size, size, 3)}
        )
        broken = []
        with ProcessPoolExecutor(host.cores()) as pool:
            done = pool.map(_read, images, [size] * len(images), chunksize=64)
            for i, (picture, why) in enumerate(tqdm(done, total=len(images), desc="pictures", mininterval=2)):
                f.write(picture)
                if why:
                    broken.append(f"{i}\t{why}")
    if broken:
        bad.write_text("\n".join(broken) + "\n", encoding="utf-8")


def _read(path: Path, size: int) -> tuple[bytes, str]:
    from PIL import Image, ImageOps

    try:
        return ImageOps.fit(pictures.read(path), (size, size), Image.Resampling.LANCZOS).tobytes(), ""
    except pictures.Unreadable as error:  # a broken file must not end a training of thousands
        return bytes(size * size * 3), f"unreadable: {error.why}"
