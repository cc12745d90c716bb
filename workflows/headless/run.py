"""From a workflow file to results: load, convert, edit, check, execute. The command and other programs call these
functions."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...models import host
from .check import check
from .edit import apply
from .execute import Executor, NodeResult
from .formats.convert import convert
from .formats.graph import Home
from .formats.load import Loaded, load
from .formats.shape import check_content
from .problems import WorkflowError
from .prompt import Prompt
from .registry import Registry, default_registry


@dataclass
class Prepared:
    """A prompt that may be run, the UI workflow that results carry (or None), and notes for the user."""

    prompt: Prompt
    workflow: dict[str, Any] | None
    notes: list[str] = field(default_factory=list)


def prepare(
    source: Path | str | Loaded,
    assignments: list[str] | None = None,
    choice_seed: int = 0,
    registry: Registry | None = None,
    rewire: Callable[[Prompt], Prompt] | None = None,
) -> Prepared:
    """Reads, converts, edits and checks a workflow. Nothing runs and nothing is written.

    source       a file's path ("-" for standard input), or what `load` returned
    assignments  `--set` changes, NODE.INPUT=VALUE
    choice_seed  of `{a|b}` choices in UI workflows
    registry     the node types; default: those that run here
    rewire       makes of the edited prompt the one that is checked

    UserError, or WorkflowError with every problem, if it cannot run. Files are looked up in the current host's folders.
    """
    registry = registry or default_registry()
    loaded = source if isinstance(source, Loaded) else load(source)
    if loaded is source:  # not read by `load`, which checks the content of files
        check_content([loaded.prompt, loaded.workflow], "workflow")
    prompt, workflow = copy.deepcopy(loaded.prompt), copy.deepcopy(loaded.workflow)
    homes: dict[tuple[str, str], Home] = {}
    notes: list[str] = []
    if prompt is None:
        converted = convert(workflow or {}, registry, choice_seed)
        prompt, homes, notes = converted.prompt, converted.homes, list(converted.notes)
    if assignments and not apply(prompt, assignments, registry, homes) and workflow is not None:
        # ComfyUI then opens the prompt, which is what ran, instead of a drawing that differs from it.
        workflow = None
        notes.append("--set changed an input that the drawing cannot show, so the results carry the prompt alone.")
    if rewire is not None:
        prompt = rewire(prompt)
    problems = check(prompt, registry)
    if problems:
        raise WorkflowError(problems)
    return Prepared(prompt, workflow, notes)


def execute(prepared: Prepared, executor: Executor | None = None) -> list[dict[str, str]]:
    """Runs it and returns what `affect run --json` prints: {"node", "type", "path" | "text"} for each result.
    NodeFailed if a node fails."""
    executor = executor or Executor(default_registry())
    extra = None if prepared.workflow is None else {"workflow": prepared.workflow}
    results = executor.run(prepared.prompt, extra)
    return [output for node_id, result in results.items() for output in _outputs(node_id, result)]


def _outputs(node_id: str, result: NodeResult) -> list[dict[str, str]]:
    """A node's `ui`: files as paths (type 'preview' if temporary), everything else as text."""
    current = host.current()
    folders = {"output": current.output_dir, "temp": current.temp_dir, "input": current.input_dir}
    outputs = []
    for key, items in result.ui.items():
        kind = {"images": "image"}.get(key, key)
        for item in items:
            if isinstance(item, dict) and "filename" in item:
                where = item.get("type", "output")
                path = folders.get(where, current.output_dir) / item.get("subfolder", "") / item["filename"]
                outputs.append({"node": node_id, "type": "preview" if where == "temp" else kind, "path": str(path)})
            else:
                outputs.append({"node": node_id, "type": kind, "text": str(item)})
    return outputs
