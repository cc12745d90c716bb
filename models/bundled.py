"""The files of the bundled tiny models: where they lie, what they must be, reading and writing them.

Weights lie in `models/tiny` in half precision; `card.json` there says from what data, seed and command they came and
what they reach on held-out scenes. Their architectures are where networks of that kind are (`diffusion/tiny.py`,
`networks/`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from .errors import UserError
from .files import TINY_DIR, checksum, load_into, load_safetensors, save_safetensors, write_atomically

# A tiny world uses a few hundred of CLIP's 49,408 tokens. Rows that training never saw are one shared row, the
# "unknown word", which training does see (words are dropped to it), so files hold the few hundred and that one.
UNKNOWN_TOKEN = 0
VOCABULARY = 49408
"""Entries of CLIP's own vocabulary."""
_EMBEDDING = "token_embedding.weight"


def pack_vocabulary(state: dict[str, torch.Tensor], used: torch.Tensor) -> dict[str, torch.Tensor]:
    """Replaces the token embedding by its `used` rows [n] and the unknown row."""
    state = dict(state)
    rows = state.pop(_EMBEDDING)
    state["token_embedding.ids"] = used.to(torch.int32)
    state["token_embedding.rows"] = rows[used]
    state["token_embedding.unknown"] = rows[UNKNOWN_TOKEN]
    return state


def unpack_vocabulary(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inverse of `pack_vocabulary`; a state dict with a whole embedding is returned as it is."""
    if "token_embedding.ids" not in state:
        return state
    state = dict(state)
    ids, rows = state.pop("token_embedding.ids").long(), state.pop("token_embedding.rows")
    whole = state.pop("token_embedding.unknown").repeat(VOCABULARY, 1)
    whole[ids] = rows
    state[_EMBEDDING] = whole
    return state


def path(name: str) -> Path:
    """The weight file of a tiny model: unet, vae, clip, clip-eval, tiny-a, tiny-b, tiny-c."""
    return TINY_DIR / f"{name}.safetensors"


CHECKSUMS = "SHA256SUMS"
"""The file beside the weights that says what each must be, as `sha256sum --check` reads it."""


def checksums() -> dict[str, str]:
    """File name -> SHA-256 of the bundled models; empty where there is no such file (models being trained
    elsewhere)."""
    listed = TINY_DIR / CHECKSUMS
    lines = listed.read_text(encoding="utf-8").splitlines() if listed.is_file() else []
    return {name: sha for sha, name in (line.split(maxsplit=1) for line in lines if line.strip())}


def verify(name: str) -> None:
    """UserError where a tiny model is not the file that belongs to this version: half a download, another version's,
    or changed."""
    wanted = checksums().get(path(name).name)
    if wanted is not None and path(name).is_file() and checksum(path(name)) != wanted:
        raise UserError(
            f"The bundled model '{path(name).name}' is not the one that belongs to this version (its checksum differs "
            f"from {CHECKSUMS}): it was damaged or replaced. Install this package again, or take the file from its "
            "repository."
        )


def record(name: str) -> None:
    """Notes the checksum of a tiny model that was trained anew."""
    known = checksums() | {path(name).name: checksum(path(name))}
    text = "".join(f"{sha}  {file}\n" for file, sha in sorted(known.items()))
    write_atomically(TINY_DIR / CHECKSUMS, lambda p: p.write_text(text, encoding="utf-8", newline="\n"))


def save(name: str, state: dict[str, torch.Tensor], **metadata: Any) -> Path:
    """Writes a tiny model in half precision with its metadata (JSON values), and its checksum."""
    half = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    written = save_safetensors(path(name), half, {k: json.dumps(v) for k, v in metadata.items()})
    record(name)
    return written


def read(name: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """(state dict in float32, metadata) of a tiny model. UserError where the file is absent, damaged or another's."""
    verify(name)
    state, metadata = load_safetensors(path(name))
    state = unpack_vocabulary({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    return state, {k: json.loads(v) for k, v in metadata.items()}


def load(name: str, model: torch.nn.Module) -> dict[str, Any]:
    """Loads a tiny model's weights into `model` (float32) and returns its metadata."""
    state, metadata = read(name)
    load_into(model, state, name)
    return metadata
