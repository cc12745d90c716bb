"""Reads a workflow from a file: API format, UI format, a /prompt request, or a PNG that carries either."""

from __future__ import annotations

import codecs
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....models.errors import UserError
from ....models.files import open_regular, read_text
from ..prompt import Prompt
from . import png
from .shape import MAX_BYTES, MAX_VALUES, check_content

TEMPLATES = Path(__file__).parents[2]
"""The folder of the workflow templates, also where the package is installed."""

_MARKS = [
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
]
"""Byte order marks and their encodings. UTF-32's mark begins with UTF-16's, so UTF-32 comes first."""


@dataclass
class Loaded:
    """The content of a file. `prompt` is None if the file has only the UI format, which `convert` turns into one."""

    prompt: Prompt | None
    workflow: dict[str, Any] | None


def load(path: Path | str) -> Loaded:
    """Reads `path`, and runs no code and asks no network. UserError if it does not hold a workflow.

    path  a JSON file or a PNG; "-" is standard input. A PNG's `prompt` is what ran; its `workflow` goes to the results
    """
    if str(path) in ("-", "/dev/stdin"):
        return _from_standard_input()
    path = Path(path)
    if not path.is_file():
        raise UserError(f"There is no workflow file '{path}'. The templates are in '{TEMPLATES}'.")
    with open_regular(path) as f:
        is_png = f.read(len(png.SIGNATURE)) == png.SIGNATURE
    if is_png:
        chunks = png.read_chunks(path)
        if not chunks:
            raise UserError(
                f"The PNG '{path.name}' does not carry a workflow. Only images saved by ComfyUI (or by `affect run`) "
                "do, until another program saves them again."
            )
        check_content(chunks, path.name)
        return _loaded(chunks.get("prompt"), chunks.get("workflow"), path.name)
    content = _json(path)
    check_content(content, path.name)
    request = content.get("prompt") if isinstance(content, dict) else None
    if isinstance(request, dict) and "class_type" not in request:
        # The body of a /prompt request. Its extra_data may hold API keys: only the workflow is taken from it.
        inside = content
        for key in ("extra_data", "extra_pnginfo", "workflow"):
            inside = inside.get(key) if isinstance(inside, dict) else None
        return _loaded(request, inside, path.name)
    if isinstance(content, dict) and isinstance(content.get("nodes"), list):
        return _loaded(None, content, path.name)
    return _loaded(content, None, path.name)


def _from_standard_input() -> Loaded:
    data = sys.stdin.buffer.read(MAX_BYTES + 1)
    if not data:
        raise UserError("Standard input is empty: pipe a workflow into it, or name a file.")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "standard input"
        path.write_bytes(data)
        return load(path)


def _json(path: Path) -> Any:
    """A JSON file's content; UTF-8, or UTF-16 and UTF-32 if the file begins with their byte order mark, as some
    editors save it."""
    if path.stat().st_size > MAX_BYTES:
        raise UserError(
            f"The file '{path.name}' has {path.stat().st_size / 1e6:.0f} MB; a workflow may have "
            f"{MAX_BYTES / 1e6:.0f} MB. Is it a workflow?"
        )
    data = read_text(path, MAX_BYTES)
    if data.count(b"[") + data.count(b"{") > MAX_VALUES:  # parsing them could exhaust the memory
        raise UserError(
            f"'{path.name}' holds more than {MAX_VALUES:,} lists and objects, which no workflow needs. "
            "Is it a workflow?"
        )
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    try:
        return json.loads(data.decode(encoding))
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"The file '{path.name}' is not JSON and not a PNG: {error}. A workflow is a JSON file saved from ComfyUI "
            "(Save or Export (API)), or a PNG that ComfyUI wrote."
        ) from error


def _loaded(prompt: Any, workflow: Any, name: str) -> Loaded:
    if prompt is not None:
        return Loaded(_prompt(prompt, name), workflow if isinstance(workflow, dict) else None)
    if not isinstance(workflow, dict) or not isinstance(workflow.get("nodes"), list):
        raise UserError(
            f"'{name}' does not hold a workflow: neither nodes by id (API format) nor a list of nodes (UI format). "
            "Save it from ComfyUI again."
        )
    if not workflow["nodes"]:
        raise UserError(f"The workflow '{name}' holds no nodes, so there is nothing to run.")
    return Loaded(None, workflow)


def _prompt(content: Any, name: str) -> Prompt:
    if content == {}:
        raise UserError(f"The workflow '{name}' holds no nodes, so there is nothing to run.")
    if not isinstance(content, dict) or not all(isinstance(node, dict) for node in content.values()):
        raise UserError(
            f"'{name}' is JSON but not a workflow: the API format maps node ids to objects with 'class_type' and "
            "'inputs'."
        )
    if not any("class_type" in node for node in content.values()):
        raise UserError(f"'{name}' is JSON but not a workflow: none of its entries has a 'class_type'.")
    return {str(key): _node(node) for key, node in content.items()}


def _node(node: dict[str, Any]) -> dict[str, Any]:
    # Other keys (such as ComfyUI's own is_changed) are dropped: they belong to the run that wrote them.
    given = node.get("inputs")
    inputs = {}
    for name, value in (given if isinstance(given, dict) else {}).items():
        linked = isinstance(value, list) and len(value) == 2 and isinstance(value[0], (str, int))
        inputs[str(name)] = [str(value[0]), value[1]] if linked else value
    clean: dict[str, Any] = {"class_type": node.get("class_type"), "inputs": inputs}
    if isinstance(node.get("_meta"), dict):
        clean["_meta"] = node["_meta"]
    return clean
