"""Workflows that were saved with an earlier version still convert to the same prompts.

`tests/frozen` has the thirteen templates as they were when the first version was complete, in the form that the
frontend saves, and the prompt of each. Neither is ever changed, even if a template in `workflows/` changes.
`tests/frozen/pixels.py` compares the results of these prompts bit for bit.
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
def test_a_saved_workflow_converts_to_its_frozen_prompt(name: str, embedded: Any) -> None:
    Image.effect_noise((64, 48), 60).convert("RGB").save(embedded.input_dir / "example.png")
    prompt = prepare(FROZEN / "workflows" / f"{name}.json").prompt
    converted = {node: {key: content[key] for key in ("class_type", "inputs")} for node, content in prompt.items()}
    assert converted == PROMPTS[name]
