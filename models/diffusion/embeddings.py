"""Textual inversion: words of a prompt that stand for vectors of a file, `embedding:name`."""

from __future__ import annotations

import re
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError, did_you_mean
from ..files import find_inside, load_safetensors
from ..host import current
from ..pickled import load_pickled

MARK = "embedding:"
SUFFIXES = (".safetensors", ".pt", ".bin")
_FIRST = 1 << 20
"""Ids from here on stand for vectors: CLIP's vocabulary ends at 49,407."""


class Vector(int):
    """The token of one vector of an embedding: an id that its file's name and its number make, and the vector [D]
    itself."""

    vector: torch.Tensor

    @classmethod
    def of(cls, name: str, number: int, vector: torch.Tensor) -> Vector:
        token = cls(_FIRST + (zlib.crc32(name.encode()) << 10) + number)
        token.vector = vector
        return token


def split(text: str) -> list[str]:
    """A text in pieces: an embedding's word `embedding:name` is one of its own, after a space or at the start; what
    follows its name in the same word (a comma, a bracket) belongs to the next piece. Joined they are the text, less
    spaces around embeddings."""
    pieces, rest = [], text
    while match := re.search(rf"(?:^|(?<=\s)){MARK}\s*([^\s<\[]*)", rest):
        word = match.group(1)
        name = word if not word or find(word) else word.strip(",")
        pieces += [rest[: match.start()], MARK + name]
        rest = word[word.index(name) + len(name) :] + rest[match.end() :]
    return [piece for piece in (*pieces, rest) if piece.strip()]


def find(name: str) -> Path | None:
    """The file of an embedding: its name with or without its ending, in a folder of models/embeddings."""
    for folder in current().models_dirs("embeddings"):
        for suffix in ("", *SUFFIXES):
            path = find_inside(folder, name + suffix)
            if path.is_file():
                return path
    return None


def tokens(name: str, tower: str, width: int | None = None) -> list[Vector]:
    """The tokens of an embedding.

    tower  whose vectors: clip_l, clip_g or clip_h
    width  D of that tower, where it is known

    UserError where there is none of that name, or it is of another width: it was made for another model family.
    """
    path = find(name) if name else None
    if path is None:
        known = current().list_files("embeddings", SUFFIXES)
        near = did_you_mean(name, [Path(file).with_suffix("").as_posix() for file in known])
        folders = " or ".join(str(f) for f in current().models_dirs("embeddings"))
        raise UserError(
            f"The prompt names the embedding '{name}', and there is no such file in {folders}.{near} Put it there, or "
            f"take '{MARK}{name}' out of the prompt."
        )
    state = path.stat()
    vectors = _vectors(path, tower, state.st_size, state.st_mtime_ns)
    if width is not None and vectors.shape[1] != width:
        raise UserError(
            f"The embedding '{name}' is {vectors.shape[1]} wide, and the model's text encoder ({tower}) {width}: it "
            "was made for another model family (768: SD1.5; 1024: SD2; 768 and 1280: SDXL)."
        )
    return [Vector.of(name, i, vector) for i, vector in enumerate(vectors)]


@lru_cache(maxsize=64)
def _vectors(path: Path, tower: str, *_: int) -> torch.Tensor:
    """[n, D] of a file, read anew once its size or time has changed."""
    if path.suffix.lower() == ".safetensors":
        content: Any = load_safetensors(path)[0]
    else:
        content = load_pickled(path)
    found = _chosen(content, tower)
    if (
        not isinstance(found, torch.Tensor)
        or found.ndim not in (1, 2)
        or not found.is_floating_point()
        or not found.numel()
    ):
        raise UserError(f"'{path.name}' is not an embedding: it has no vectors for {tower}.")
    found = found.float().reshape(-1, found.shape[-1])
    if len(found) > 1000 or not torch.isfinite(found).all():
        raise UserError(
            f"The embedding '{path.name}' is damaged: {len(found)} vectors, or values that are not numbers."
        )
    return found


def _chosen(content: Any, tower: str) -> Any:
    """The tensor of a tower: A1111's `string_to_param`, SDXL's `clip_l` and `clip_g`, else the first one."""
    if isinstance(content, dict) and isinstance(content.get("string_to_param"), dict):
        content = content["string_to_param"]
    if isinstance(content, dict):
        return content.get(tower, next((v for v in content.values() if isinstance(v, torch.Tensor)), None))
    return content
