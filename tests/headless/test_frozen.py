"""Workflows that were saved with an earlier version still convert to the same prompts.

`tests/frozen` has the thirteen templates as they were when the first version was complete, in the form that the
frontend saves, and the prompt of each. Neither is ever changed, even if a template in `workflows/` changes. An input
that is newer than they are has the value that runs as they did (`absent` in its options), which is `run`'s default too.
`tests/frozen/pixels.py` compares the results of these prompts bit for bit.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from comfyui_affect.nodes import NODE_CLASS_MAPPINGS
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
    for node, content in converted.items():
        for newer in content["inputs"].keys() - PROMPTS[name][node]["inputs"].keys():
            assert content["inputs"].pop(newer) == _absent(content["class_type"])[newer]
    assert converted == PROMPTS[name]


def _absent(key: str) -> dict[str, Any]:
    """Input name -> its value in files that were saved before the node had it."""
    kinds = NODE_CLASS_MAPPINGS[key].INPUT_TYPES()
    declared = {**kinds["required"], **kinds.get("optional", {})}
    return {name: spec[1]["absent"] for name, spec in declared.items() if "absent" in spec[1]}


@pytest.mark.parametrize("key", sorted(NODE_CLASS_MAPPINGS))
def test_a_prompt_without_a_newer_input_runs_as_a_saved_workflow_does(key: str) -> None:
    defaults = inspect.signature(NODE_CLASS_MAPPINGS[key].run).parameters
    for name, value in _absent(key).items():
        assert defaults[name].default == value
