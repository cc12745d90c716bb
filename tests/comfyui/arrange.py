"""Arranges the templates: nodes in columns, each as high as the frontends draw it, groups around them.

    COMFYUI_PATH=... COMFYUI_PYTHON=... python tests/comfyui/arrange.py [--frontend FOLDER]... [TEMPLATE...]

To be run where a node has got another widget. A template's columns (its nodes of one x), their order and the groups
that nodes lie in stay; heights are measured in both renderers of every frontend named, before and during a run. Also
writes which pack and version each node comes from into its properties, as the frontend does.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from comfyui_affect import __version__, workflows
from comfyui_affect.benchmarks.comfyui_server import ROOT, start, stop
from comfyui_affect.nodes import NODE_CLASS_MAPPINGS
from frontend import RENDERERS, browser

TITLE, GAP, PADDING, HEADING = 30, 24, 8, 40
"""Pixels: a node's title bar, between two nodes, between a group's border and its nodes, and for a group's title."""
STRETCHES = {
    "PreviewImage",
    "SaveImage",
    "LoadImage",
    "PreviewAny",
    "CLIPTextEncode",
    "MarkdownNote",
    "Note",
    "PrimitiveStringMultiline",
    "AffectClipTimingGate",
    "AffectMoodifyCLIPTextEncode",
}
"""Nodes with a text or a picture, whose height is a matter of taste: it stays. Others are made as low as they can
be."""
CORE = {"cnr_id": "comfy-core", "ver": "0.3.64"}
VIRTUAL = {"MarkdownNote", "Note", "Reroute", "PrimitiveNode"}

Sizes = dict[str, list[float]]


def columns_of(workflow: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """The nodes by their x, left to right, each column from top to bottom."""
    columns: dict[float, list[dict[str, Any]]] = {}
    for node in workflow["nodes"]:
        columns.setdefault(node["pos"][0], []).append(node)
    return [sorted(columns[x], key=lambda n: n["pos"][1]) for x in sorted(columns)]


def group_of(node: dict[str, Any], groups: list[dict[str, Any]]) -> int | None:
    """The number of the group that a node's middle lies in."""
    x, y = node["pos"][0] + node["size"][0] / 2, node["pos"][1] + 1
    for i, group in enumerate(groups):
        left, top, width, height = group["bounding"]
        if left <= x <= left + width and top <= y <= top + height:
            return i
    return None


def arranged(workflow: dict[str, Any], heights: dict[str, float], rooms: dict[str, float]) -> dict[str, Any]:
    """The workflow with its nodes stacked anew.

    heights  node id -> height without the title bar that the node is stored with
    rooms    node id -> the height that it grows to, which the node below it keeps clear of
    """
    workflow = copy.deepcopy(workflow)
    groups = workflow["groups"]
    inside = {node["id"]: group_of(node, groups) for node in workflow["nodes"]}
    x = 0
    for column in columns_of(workflow):
        width, y, above = max(node["size"][0] for node in column), HEADING, None
        for node in column:
            group = inside[node["id"]]
            if node is not column[0] and group != above:
                y += PADDING + (HEADING if group is not None else 0)
            node["pos"] = [x, y + TITLE]
            node["size"] = [width, heights[str(node["id"])]]
            y += TITLE + rooms[str(node["id"])] + GAP
            above = group
        x += width + GAP
    for i, group in enumerate(groups):
        nodes = [node for node in workflow["nodes"] if inside[node["id"]] == i]
        left, top = min(n["pos"][0] for n in nodes) - PADDING, min(n["pos"][1] for n in nodes) - TITLE - HEADING + 4
        right = max(n["pos"][0] + n["size"][0] for n in nodes) + PADDING
        bottom = max(n["pos"][1] + rooms[str(n["id"])] for n in nodes) + PADDING
        group["bounding"] = [left, top, right - left, bottom - top]
    workflow["extra"] = {k: v for k, v in (workflow.get("extra") or {}).items() if k != "ds"}
    return workflow


def stamped(workflow: dict[str, Any]) -> dict[str, Any]:
    """With the pack and the version that each node comes from."""
    ours = pack()
    for node in workflow["nodes"]:
        if node["type"] not in VIRTUAL:
            node["properties"] |= ours if node["type"] in NODE_CLASS_MAPPINGS else CORE
    return workflow


def pack() -> dict[str, str]:
    """This pack's name in the registry and its version, as a node's properties hold them."""
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {"cnr_id": project["name"], "ver": __version__}


def measured(page: Any, workflow: dict[str, Any]) -> tuple[Sizes, Sizes]:
    """(every node's box, its largest box when results are there) in the renderer in use."""
    page.open(workflow)
    before = page.boxes()
    page.pretend(workflow)
    return before, page.largest()


def natural(page: Any, workflow: dict[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
    """(the height that each node needs, the height that it may grow to) in both renderers, without title bars."""
    low = copy.deepcopy(workflow)
    for number, node in enumerate(low["nodes"]):
        if node["type"] not in STRETCHES:
            node["size"][1] = 10
        node["pos"] = [node["pos"][0], 1200 * number]  # nothing is in anything's way
    heights, rooms = {}, {}
    for renderer in RENDERERS:
        page.render(renderer)
        for found, into in zip(measured(page, low), (heights, rooms)):
            for node_id, box in found.items():
                into[node_id] = max(into.get(node_id, 0), box[3] - TITLE)
    whole = {node_id: math.ceil(height - 0.01) for node_id, height in heights.items()}
    return whole, {node_id: max(math.ceil(rooms[node_id]), whole[node_id]) for node_id in whole}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--frontend", action="append", default=[], help="another frontend's `static` folder")
    parser.add_argument("templates", nargs="*", help="by their file's name without .json (default: all)")
    asked = parser.parse_args()
    paths = [
        p
        for p in sorted(Path(workflows.__file__).parent.glob("*.json"))
        if not asked.templates or p.stem in asked.templates
    ]
    found: dict[Path, list[Any]] = {path: [] for path in paths}
    for frontend in ("", *asked.frontend):
        with tempfile.TemporaryDirectory() as base:
            comfy = start(
                Path(os.environ["COMFYUI_PATH"]),
                os.environ.get("COMFYUI_PYTHON", sys.executable),
                Path(base),
                *(["--front-end-root", frontend] if frontend else []),
            )
            try:
                with browser(comfy) as page:
                    for path in paths:
                        found[path].append(natural(page, json.loads(path.read_text(encoding="utf-8"))))
            finally:
                stop(comfy)
    for path, sizes in found.items():
        heights, rooms = ({i: max(one[part][i] for one in sizes) for i in sizes[0][part]} for part in (0, 1))
        workflow = stamped(arranged(json.loads(path.read_text(encoding="utf-8")), heights, rooms))
        path.write_text(json.dumps(workflow, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
