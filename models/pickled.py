"""Weights in torch's own files (.pth, .pt, .bin), which are pickles: nothing in them is executed, and nothing in them
is larger than the file."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from .errors import UserError


def load_pickled(path: Path | str) -> Any:
    """What a file holds, read with weights_only. UserError where it holds more than weights, is damaged, or unpacks to
    more than its own size: compressed, or tensors that repeat a few numbers without storing them."""
    path = Path(path)
    try:
        size = path.stat().st_size
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if sum(part.file_size for part in archive.infolist()) > size:  # torch compresses nothing
                    raise ValueError("compressed")
        found = torch.load(path, map_location="cpu", weights_only=True)
        tensors = {id(tensor): tensor for tensor in _tensors(found, set())}.values()
        if any(t.is_meta or t.layout != torch.strided for t in tensors):
            raise ValueError("tensors without numbers of their own")
        if sum(t.numel() * t.element_size() for t in tensors) > _SHARED * size:
            raise ValueError("tensors larger than the file")
        return found
    except MemoryError:
        raise
    except Exception as error:  # whatever a damaged archive makes torch raise
        raise UserError(
            f"'{path.name}' holds more than weights, or is damaged; it is not loaded. Convert it to safetensors, or "
            "download it again."
        ) from error


_SHARED = 4
"""How often a number may be used: tied weights are stored once."""


def _tensors(value: Any, seen: set[int]) -> Iterator[torch.Tensor]:
    """The tensors in dictionaries and lists in one another, each of which is looked into once."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
        seen.add(id(value))
        for one in value.values() if isinstance(value, dict) else value:
            yield from _tensors(one, seen)
