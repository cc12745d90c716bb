"""Workflows in the UI format for tests: those in `data/`, and a link of a subgraph."""

import json
from pathlib import Path

DATA = Path(__file__).parent / "data"
CASES = sorted(path.stem.removeprefix("expected_") for path in DATA.glob("expected_*.json"))
"""Drawings `ui_*.json` that the frontend of ComfyUI 0.33.0 (1.49.6) saved, with what its `app.graphToPrompt()` gave for
them in `expected_*.json`; `object_info.json` is that server's answer about the node types in them."""


def read(name):
    return json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))


def link(id, origin, origin_slot, target, target_slot, type):
    """A link inside a subgraph, which the UI format stores as an object."""
    return {
        "id": id,
        "origin_id": origin,
        "origin_slot": origin_slot,
        "target_id": target,
        "target_slot": target_slot,
        "type": type,
    }
