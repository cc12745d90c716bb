"""Workflows inside PNGs: text chunks `prompt` (API format) and `workflow` (UI format), as ComfyUI writes
them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...models.errors import UserError
from ...models.files import write_atomically

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def read_chunks(path: Path) -> dict[str, Any]:
    """{"prompt": ..., "workflow": ...} as far as the PNG carries them. UserError where it cannot be read."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            texts = {k: image.info[k] for k in ("prompt", "workflow") if k in image.info}
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"The PNG '{path.name}' cannot be read: {error}. Export the workflow again."
                        ) from error
    try:
        return {k: json.loads(v) for k, v in texts.items()}
    except (ValueError, RecursionError) as error:
        raise UserError(f"The workflow inside the PNG '{path.name}' is not JSON: {error}.") from error


def write(path: Path, image: Any, prompt: Any, extra_pnginfo: dict[str, Any] | None,
          compress_level: int) -> Path:
    """Writes a PIL image with its chunks, atomically: the file is complete or absent."""
    from PIL.PngImagePlugin import PngInfo

    chunks = PngInfo()
    if prompt is not None:
        chunks.add_text("prompt", json.dumps(prompt))
    for key, value in (extra_pnginfo or {}).items():
        chunks.add_text(key, json.dumps(value))
    return write_atomically(path, lambda p: image.save(p, format="PNG", pnginfo=chunks,
                                                       compress_level=compress_level))
