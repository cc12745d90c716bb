"""Mutated workflows through `affect check`, and those that pass it and are cheap through `affect run`."""

from __future__ import annotations

import io
import json
import random
from functools import lru_cache
from pathlib import Path
from typing import Any

import comfyui_affect
from fuzz.junk import Numbered, damaged, dumps, mutated
from fuzz.sandbox import Sandbox, command
from PIL import Image
from PIL.PngImagePlugin import PngInfo


def _node(id: Any, type: str, inputs: Any = (), outputs: Any = (), widgets: Any = None, **more: Any) -> dict[str, Any]:
    return {
        "id": id,
        "type": type,
        "mode": 0,
        "pos": [0, 0],
        "size": [1, 1],
        "flags": {},
        "order": 0,
        "properties": {},
        "inputs": [{"name": n, "type": t, "link": link} for n, t, link in inputs],
        "outputs": [{"name": t, "type": t, "links": []} for t in outputs],
        "widgets_values": widgets or [],
        **more,
    }


SCALE: dict[str, Any] = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "plain.png"}},
    "2": {
        "class_type": "ImageScale",
        "_meta": {"title": "Shrink"},
        "inputs": {"image": ["1", 0], "upscale_method": "bilinear", "width": 20, "height": 0, "crop": "disabled"},
    },
    "3": {"class_type": "AffectEmotion", "inputs": {"emotion": "awe", "intensity": 1.0}},
    "4": {"class_type": "PreviewAny", "inputs": {"source": ["3", 0]}},
    "5": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "small"}},
}

DRAWN = {
    "nodes": [
        _node(1, "LoadImage", outputs=["IMAGE", "MASK"], widgets=["plain.png", "image"]),
        _node(2, "ImageScale", [("image", "IMAGE", 1)], ["IMAGE"], ["bilinear", 20, 0, "disabled"]),
        _node(3, "SaveImage", [("images", "IMAGE", 2)], widgets=["small"]),
        _node(4, "Reroute", [("", "*", 1)], ["*"]),
        _node(5, "PrimitiveNode", outputs=["INT"], widgets=[8, "fixed"]),
    ],
    "links": [[1, 1, 0, 2, 0, "IMAGE"], [2, 2, 0, 3, 0, "IMAGE"]],
    "version": 0.4,
    "extra": {},
}


def _nested(depth: int, width: int = 1) -> dict[str, Any]:
    """Nested subgraphs, each with `width` instances of the next and a promoted widget."""
    definitions = []
    for i in range(depth):
        inner = f"s{i + 1}" if i + 1 < depth else "ImageScale"
        widgets = ["bilinear", 20, 0, "disabled"] if inner == "ImageScale" else [20]
        inputs = [("image", "IMAGE", 1), ("width", "INT", 3)]
        definitions.append(
            {
                "id": f"s{i}",
                "name": f"Level {i}",
                "nodes": [_node(10 + j, inner, inputs, ["IMAGE"], widgets) for j in range(width)],
                "inputs": [
                    {"name": "image", "type": "IMAGE", "linkIds": [1]},
                    {"name": "width", "type": "INT", "linkIds": [3]},
                ],
                "outputs": [{"name": "IMAGE", "type": "IMAGE", "linkIds": [2]}],
                "links": [
                    {"id": 1, "origin_id": -10, "origin_slot": 0, "target_id": 10, "target_slot": 0, "type": "IMAGE"},
                    {"id": 3, "origin_id": -10, "origin_slot": 1, "target_id": 10, "target_slot": 1, "type": "INT"},
                    {"id": 2, "origin_id": 10, "origin_slot": 0, "target_id": -20, "target_slot": 0, "type": "IMAGE"},
                ],
            }
        )
    drawn = json.loads(json.dumps(DRAWN))
    drawn["nodes"][1] = _node(2, "s0", [("image", "IMAGE", 1), ("width", "INT", None)], ["IMAGE"], [20])
    return drawn | {"definitions": {"subgraphs": definitions}}


def _reroutes(n: int) -> dict[str, Any]:
    drawn = json.loads(json.dumps(DRAWN))
    drawn["nodes"] += [_node(100 + i, "Reroute", [("", "*", 100 + i)], ["*"]) for i in range(n)]
    drawn["links"] = [
        [100, 1, 0, 100, 0, "IMAGE"],
        *([101 + i, 100 + i, 0, 101 + i, 0, "*"] for i in range(n - 1)),
        [1, 99 + n, 0, 2, 0, "IMAGE"],
        [2, 2, 0, 3, 0, "IMAGE"],
    ]
    return drawn


def _chain(n: int) -> dict[str, Any]:
    prompt = json.loads(json.dumps(SCALE))
    for i in range(n):
        prompt[str(100 + i)] = {
            "class_type": "ImageScale",
            "inputs": {**SCALE["2"]["inputs"], "image": [str(99 + i) if i else "1", 0]},
        }
    prompt["5"]["inputs"]["images"] = [str(99 + n), 0]
    return prompt


@lru_cache(maxsize=1)
def _bases() -> list[tuple[Any, bool]]:
    """(a workflow, whether it is cheap to run)."""
    templates = sorted((Path(comfyui_affect.__file__).parent / "workflows").glob("*.json"))
    drawings = [(json.loads(p.read_text(encoding="utf-8")), False) for p in templates]
    small = [
        (SCALE, True),
        (DRAWN, True),
        ({"prompt": SCALE, "extra_data": {"extra_pnginfo": {"workflow": DRAWN}}}, True),
        (_nested(3), True),
    ]
    return (
        small * 4
        + drawings
        + [(_nested(30), False), (_nested(12, 3), False), (_reroutes(600), False), (_chain(300), False)]
    )


HEAVY: dict[int, Any] = {
    9990: lambda: b"[" + b"[]," * 16_000_000 + b"[]]",
    9991: lambda: b"[" + b'"ab",' * 9_900_000 + b"1]",
    9992: lambda: b"[" + b"1.5," * 12_000_000 + b"1]",
    9993: lambda: b'{"1": {"class_type": "PreviewAny", "inputs": {"source": "' + b"x" * 49_000_000 + b'"}}}',
    9994: lambda: b" " * 60_000_000,
    9995: lambda: b'{"nodes": [' + b'{"id": 1, "type": "Note"},' * 300_000 + b"{}]}",
    9996: lambda: b"[" * 40_000_000,
    9997: lambda: b'{"1": {"class_type": "CLIPTextEncode", "inputs": {"text": "' + b"{a|" * 900_000 + b'"}}}',
}
"""Files of tens of megabytes, by the number of the case: at the end of the full run."""


def set_up(sandbox: Sandbox) -> None:
    Image.new("RGB", (40, 30), "red").save(sandbox.root / "input" / "plain.png")
    (sandbox.root / "home" / "w.json").write_text(json.dumps(SCALE))
    command(
        "run",
        sandbox.root / "home" / "w.json",
        "--input-dir",
        sandbox.root / "input",
        "--output-dir",
        sandbox.root / "output",
    )


def case(sandbox: Sandbox, rng: Numbered) -> Any:
    base, cheap = rng.choice(_bases())
    content = mutated(base, rng, rng.choice([0, 1, 1, 1, 2, 3, 5])) if isinstance(base, dict) else base
    data, how = dumps(content), rng.random()
    if rng.index in HEAVY:
        data, how = HEAVY[rng.index](), 1.0
    if how < 0.15:
        data = damaged(data, rng)
    name = "w.json"
    if 0.15 <= how < 0.25:
        name, data = "w.png", _png(data, rng)
    (sandbox.root / "home" / name).write_bytes(data)
    words = [
        sandbox.root / "home" / name,
        "--input-dir",
        sandbox.root / "input",
        "--models-dir",
        sandbox.root / "models",
    ]
    if rng.random() < 0.1:
        words += [
            "--set",
            rng.choice(
                [
                    "2.width=7",
                    "Shrink.width=x",
                    "3.filename_prefix=../x",
                    "=",
                    "2.width",
                    "9.a=1",
                    "2.\ud800=1",
                    "1.image=\0",
                ]
            ),
        ]

    def work() -> str | None:
        message = command("check", *words, *rng.choice([[], ["--json"]]))
        if message is None and cheap and rng.random() < 0.3:
            return command("run", *words, "--output-dir", sandbox.root / "output")
        return message

    return work


def _png(text: bytes, rng: random.Random) -> bytes:
    chunks = PngInfo()
    chunks.add_text(rng.choice(["prompt", "workflow"]), text.decode("latin-1"), zip=rng.random() < 0.5)
    out = io.BytesIO()
    Image.new("RGB", (4, 4)).save(out, "PNG", pnginfo=chunks)
    return damaged(out.getvalue(), rng) if rng.random() < 0.2 else out.getvalue()
