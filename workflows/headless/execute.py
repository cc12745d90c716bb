"""Runs a checked prompt: what its outputs need, each node after its sources, nothing twice that did not
change.

ComfyUI's rules for node functions hold: an output is a list of values, one a call; a node that takes no lists
is called once for each; INPUT_IS_LIST, OUTPUT_IS_LIST, IS_CHANGED, hidden inputs and `ui` results are as
there.
"""

from __future__ import annotations

import hashlib
import json
import math
import uuid
from dataclasses import dataclass, field
from typing import Any

from ...models import host
from ...models.errors import UserError, unwritable
from .check import needed, title_of
from .formats.load import Prompt, is_link
from .registry import NodeType, Registry


class NodeFailed(Exception):
    """A node raised an error while it ran: which one, and why. `__cause__` is the error itself."""

    def __init__(self, node: str, title: str, key: str, cause: BaseException):
        self.node, self.title = node, title
        super().__init__(f"Node {node} '{title}' ({key}) failed: {_explain(cause)}")


def _explain(cause: BaseException) -> str:
    if isinstance(cause, UserError):
        return str(cause)
    if isinstance(cause, MemoryError) or type(cause).__name__ == "OutOfMemoryError":
        return "the memory ran out. Make the image or the batch smaller, or close other programs."
    if isinstance(cause, OSError) and (said := unwritable(cause)):
        return said
    return f"{type(cause).__name__}: {cause}. Run again with --debug for the traceback."


@dataclass
class NodeResult:
    """What a node gave: a list of values for each output, and what it shows (`ui`, ComfyUI's form)."""

    outputs: list[list[Any]]
    ui: dict[str, list[Any]] = field(default_factory=dict)


class Executor:
    """Runs prompts one after another. Results stay while the next prompt still uses them unchanged."""

    def __init__(self, registry: Registry):
        self.registry = registry
        self._cache: dict[str, NodeResult] = {}
        self.ran: list[str] = []
        """Ids of the nodes that the last `run` really called, in order."""

    def run(self, prompt: Prompt, extra_pnginfo: dict[str, Any] | None = None) -> dict[str, NodeResult]:
        """Runs what the outputs of a checked prompt need; results by node id. NodeFailed where a node
        fails."""
        import torch

        order = needed(prompt, self.registry)
        self.ran = []
        results: dict[str, NodeResult] = {}
        signatures: dict[str, str] = {}
        bar = host.current().progress(len(order), "nodes")
        try:
            with torch.no_grad():
                for node_id in order:
                    host.current().check_interrupted()
                    kind = self.registry.get(prompt[node_id]["class_type"])
                    bar.text(title_of(prompt, node_id, self.registry))
                    try:
                        signatures[node_id] = self._signature(prompt, node_id, kind, signatures)
                        results[node_id] = self._cache.get(signatures[node_id]) or self._call(
                            prompt, node_id, kind, results, extra_pnginfo
                        )
                    except Exception as error:
                        title = title_of(prompt, node_id, self.registry)
                        raise NodeFailed(node_id, title, kind.key, error) from error
                    self._cache[signatures[node_id]] = results[node_id]
                    bar.update(1)
        finally:
            bar.close()
            # What this prompt did not touch is given up, as in ComfyUI: memory is worth more than old
            # results.
            self._cache = {s: self._cache[s] for s in signatures.values() if s in self._cache}
        return results

    def _signature(self, prompt: Prompt, node_id: str, kind: NodeType, signatures: dict[str, str]) -> str:
        """A hash of everything that the node's result depends on; unequal to all others where IS_CHANGED is
        NaN."""
        inputs = prompt[node_id]["inputs"]
        parts: list[Any] = [kind.key]
        for name in sorted(inputs):
            value = inputs[name]
            parts.append([name, signatures[value[0]], value[1]] if is_link(value) else [name, repr(value)])
        if hasattr(kind.cls, "IS_CHANGED"):
            parts.append(["IS_CHANGED", _fingerprint(kind, inputs)])
        if "UNIQUE_ID" in kind.hidden.values() or getattr(kind.cls, "NOT_IDEMPOTENT", False):
            parts.append(["UNIQUE_ID", node_id])
        return _digest(parts)

    def _call(
        self,
        prompt: Prompt,
        node_id: str,
        kind: NodeType,
        results: dict[str, NodeResult],
        extra_pnginfo: dict[str, Any] | None,
    ) -> NodeResult:
        declared = kind.inputs()
        given: dict[str, list[Any]] = {}
        for name, value in prompt[node_id]["inputs"].items():
            if is_link(value):
                given[name] = results[value[0]].outputs[value[1]]
            elif name in declared:
                given[name] = [value]
        hidden = {"PROMPT": prompt, "EXTRA_PNGINFO": extra_pnginfo, "UNIQUE_ID": node_id}
        for name, what in kind.hidden.items():
            given[name] = [hidden.get(what)]
        function = getattr(kind.cls(), kind.cls.FUNCTION)
        self.ran.append(node_id)
        if getattr(kind.cls, "INPUT_IS_LIST", False):
            returned = [function(**given)]
        else:
            # One call a list entry; the last entry of a shorter list is repeated.
            calls = max((len(v) for v in given.values()), default=1)
            returned = [function(**{k: v[min(i, len(v) - 1)] for k, v in given.items()}) for i in range(calls)]
        return _merge(kind, returned)


def _fingerprint(kind: NodeType, inputs: dict[str, Any]) -> str:
    """What IS_CHANGED says of the constants; something new each time where it says NaN or cannot say."""
    declared = kind.inputs()
    constants = {n: None if is_link(v) else v for n, v in inputs.items() if n in declared}
    try:
        changed = kind.cls.IS_CHANGED(**constants)
    except Exception as error:
        # Of a linked input it sees None. As in ComfyUI, what it makes of that is no failure of the run.
        changed = math.nan
        if None not in constants.values():
            host.current().note(f"{kind.key} could not say whether it changed, so it runs again: {error}")
    return uuid.uuid4().hex if isinstance(changed, float) and math.isnan(changed) else repr(changed)


def _digest(parts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _merge(kind: NodeType, returned: list[Any]) -> NodeResult:
    """One list of values for each output, and the `ui` lists one behind the other."""
    ui: dict[str, list[Any]] = {}
    rows = []
    for value in returned:
        if isinstance(value, dict):
            for key, items in value.get("ui", {}).items():
                ui.setdefault(key, []).extend(items)
            value = value.get("result", ())
        rows.append(value if value is not None else ())
    types = kind.output_types
    is_list = getattr(kind.cls, "OUTPUT_IS_LIST", None) or (False,) * len(types)
    for row in rows:
        if len(row) != len(types):
            raise TypeError(f"it returned {len(row)} outputs and declares {len(types)}")
    outputs = []
    for slot, as_list in enumerate(is_list):
        column = [row[slot] for row in rows]
        outputs.append([item for items in column for item in items] if as_list else column)
    return NodeResult(outputs, ui)
