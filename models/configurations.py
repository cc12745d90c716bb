"""The config.json of a model's folder, which comes with the weights from anybody: looked at before a library acts on
it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from .errors import UserError
from .files import read_text

MOST_LAYERS = 500
"""Layers of a network, or blocks of a kind. A library builds as many as a configuration says, before it looks at the
weights."""

_MOST_BYTES = 10_000_000
_COUNTS = re.compile("layers|depth|block")


def read_config(path: Path) -> dict[str, Any]:
    """The content of a config.json. UserError where it cannot be read, asks for more than `MOST_LAYERS`, or names code
    on a hub that transformers would fetch and run (`attn_implementation: "owner/kernel"`)."""
    where = f"'{path.parent.name}/{path.name}' of the model folder '{path.parent.parent.name}'"
    try:
        content = json.loads(read_text(path, _MOST_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{where} cannot be read: {error}. Download the folder again.") from error
    if not isinstance(content, dict):
        raise UserError(f"{where} is not an object. Download the folder again.")
    rest: list[Any] = [content]
    while rest:
        part = rest.pop()
        for key, value in part.items() if isinstance(part, dict) else ():
            if key.endswith("_implementation") and "/" in str(value):
                raise UserError(
                    f"{where} names code on a hub that would be fetched and run: '{key[:60]}' is {str(value)[:60]!r}. "
                    "Take that entry out if you trust the rest of the folder."
                )
            if _COUNTS.search(key) and (most := _count(key, value)) > MOST_LAYERS:
                raise UserError(f"{where} asks for {most} of '{key[:60]}'; no model has more than {MOST_LAYERS}.")
        rest += part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    return content


def _count(key: str, value: Any) -> int:
    """How many layers or blocks an entry asks for. Numbers under "block" may be channels: there lists alone count."""
    if isinstance(value, list):
        return max([len(value), *(_count(key, one) for one in value if not isinstance(one, list))])
    return value if isinstance(value, int) and ("layers" in key or "depth" in key) else 0
