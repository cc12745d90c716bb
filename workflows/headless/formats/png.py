"""Workflows inside PNGs: text chunks `prompt` (API format) and `workflow` (UI format), as ComfyUI writes them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ....models import files
from ....models.errors import UserError
from ....models.pictures import opened

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def read_chunks(path: Path) -> dict[str, Any]:
    """{"prompt": ..., "workflow": ...}, those that the PNG carries. UserError if it cannot be read."""
    with opened(path, decode=False) as image:
        texts = {k: image.info[k] for k in ("prompt", "workflow") if isinstance(image.info.get(k), str)}
    try:
        return {k: json.loads(v) for k, v in texts.items()}
    except (ValueError, RecursionError) as error:
        raise UserError(f"The workflow inside the PNG '{path.name}' is not JSON: {error}.") from error


def write_new(
    names: Iterable[Path], image: Any, prompt: Any, extra_pnginfo: dict[str, Any] | None, compress_level: int
) -> Path:
    """Writes a PIL image with its chunks under the first of `names` that no file has (`files.write_new`)."""
    from PIL.PngImagePlugin import PngInfo

    chunks = PngInfo()
    if prompt is not None:
        chunks.add_text("prompt", json.dumps(prompt))
    for key, value in (extra_pnginfo or {}).items():
        chunks.add_text(key, json.dumps(value))
    return files.write_new(names, lambda p: image.save(p, format="PNG", pnginfo=chunks, compress_level=compress_level))
