"""Workflows that people saved with an earlier version: what they asked for then is what they ask for now.

`tests/frozen` holds the thirteen templates as they were when the first version was complete, in the form that the
frontend saves, and the prompt that each of them was. Neither is ever changed; a template that is changed in
`workflows/` leaves them as they are. What these prompts give, bit for bit, is compared by `tests/frozen/pixels.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from comfyui_affect.workflows.headless.run import prepare
from PIL import Image

FROZEN = Path(__file__).parent.parent / "frozen"
PROMPTS = json.loads((FROZEN / "prompts.json").read_text(encoding="utf-8"))


def test_every_frozen_workflow_has_its_prompt() -> None:
    assert len(PROMPTS) == 13
    assert sorted(PROMPTS) == sorted(path.stem for path in (FROZEN / "workflows").glob("*.json"))


@pytest.mark.parametrize("name", sorted(PROMPTS))
def test_a_saved_workflow_asks_for_what_it_asked_for(name: str, embedded: Any) -> None:
    Image.effect_noise((64, 48), 60).convert("RGB").save(embedded.input_dir / "example.png")
    prompt = prepare(FROZEN / "workflows" / f"{name}.json").prompt
    asked = {node: {key: content[key] for key in ("class_type", "inputs")} for node, content in prompt.items()}
    assert asked == PROMPTS[name]
