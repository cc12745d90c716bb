"""Runs a checked prompt: the nodes that its outputs need, each after its sources; unchanged results are reused.

ComfyUI's rules for node functions apply: an output is a list of values, one for each call; a node that does not take
lists is called once for each value; INPUT_IS_LIST, OUTPUT_IS_LIST, IS_CHANGED, hidden inputs and `ui` results work as
in ComfyUI.
"""

from __future__ import annotations

import hashlib
import json
import math
import uuid
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from ...models import host
from ...models.errors import UserError, unwritable
from .prompt import Prompt, is_link, needed, title_of
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
    if isinstance(cause, OSError) and (message := unwritable(cause)):
        return message
    return f"{type(cause).__name__}: {cause}. Run again with --debug for the traceback."


@dataclass
class NodeResult:
    """A node's result: a list of values for each output, and what it shows (`ui`, in ComfyUI's form)."""

    outputs: list[list[Any]]
    ui: dict[str, list[Any]] = field(default_factory=dict)


class Executor:
    """Runs prompts one after another. A result is kept as long as the next prompt uses it unchanged."""

    def __init__(self, registry: Registry):
        self.registry = registry
        self._cache: dict[str, NodeResult] = {}
        self.ran: list[str] = []
        """Ids of the nodes that the last `run` called, in order; nodes whose result was kept are not among them."""

    def run(
        self,
        prompt: Prompt,
        extra_pnginfo: dict[str, Any] | None = None,
        ends: Iterable[str] | None = None,
        passing: Collection[str] = (),
    ) -> dict[str, NodeResult]:
        """Runs the nodes that the outputs of a checked prompt need; results by node id. NodeFailed if a node fails.

        ends     the nodes whose results are wanted; default: the output nodes
        passing  nodes whose results the next prompt will not use: they are let go as soon as nothing needs them, and
                 only those of `ends` are returned
        """
        import torch

        order = needed(prompt, self.registry, ends)
        left = _users(prompt, order)
        for end in order if ends is None else ends:
            left[end] += 1
        self.ran = []
        results: dict[str, NodeResult] = {}
        signatures: dict[str, str] = {}
        bar = host.current().progress(len(order), "nodes")
        try:
            with torch.no_grad():
                for node_id in order:
                    host.current().check_interrupted()
                    kind = self.registry.known(prompt[node_id]["class_type"])
                    title = title_of(prompt, node_id, self.registry)
                    bar.text(title)
                    try:
                        signatures[node_id] = _signature(prompt, node_id, kind, signatures, lambda: uuid.uuid4().hex)
                        results[node_id] = self._cache.get(signatures[node_id]) or self._call(
                            prompt, node_id, kind, results, extra_pnginfo
                        )
                    except Exception as error:
                        raise NodeFailed(node_id, title, kind.key, error) from error
                    if node_id not in passing:
                        self._cache[signatures[node_id]] = results[node_id]
                    for source in _sources(prompt, node_id):
                        left[source] -= 1
                        if source in passing and not left[source]:
                            del results[source]
                    bar.update(1)
        finally:
            bar.close()
            # As in ComfyUI, results that this prompt did not use are dropped to free their memory.
            self._cache = {s: self._cache[s] for s in signatures.values() if s in self._cache}
        return results

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
            # One call for each list entry; the last entry of a shorter list is repeated.
            calls = max((len(v) for v in given.values()), default=1)
            returned = [function(**{k: v[min(i, len(v) - 1)] for k, v in given.items()}) for i in range(calls)]
        return _merge(kind, returned)


def signature(prompt: Prompt, end: str, registry: Registry) -> str:
    """A hash of everything that a node's result depends on, the contents of files included, as long as the nodes say
    so in IS_CHANGED. The same each time: a node that always runs again (NaN) counts as unchanged."""
    signatures: dict[str, str] = {}
    for node_id in needed(prompt, registry, [end]):
        kind = registry.known(prompt[node_id]["class_type"])
        signatures[node_id] = _signature(prompt, node_id, kind, signatures, lambda: "")
    return signatures[end]


def _signature(
    prompt: Prompt, node_id: str, kind: NodeType, signatures: dict[str, str], always: Callable[[], str]
) -> str:
    """A hash of everything that the node's result depends on. `always`: what IS_CHANGED's NaN counts as."""
    inputs = prompt[node_id]["inputs"]
    parts: list[Any] = [kind.key]
    for name in sorted(inputs):
        value = inputs[name]
        parts.append([name, signatures[value[0]], value[1]] if is_link(value) else [name, repr(value)])
    if hasattr(kind.cls, "IS_CHANGED"):
        parts.append(["IS_CHANGED", _fingerprint(kind, inputs, always)])
    if "UNIQUE_ID" in kind.hidden.values() or getattr(kind.cls, "NOT_IDEMPOTENT", False):
        parts.append(["UNIQUE_ID", node_id])
    return _digest(parts)


def _sources(prompt: Prompt, node_id: str) -> list[str]:
    """The nodes that a node's inputs come from, one for each link."""
    return [value[0] for value in prompt[node_id]["inputs"].values() if is_link(value)]


def _users(prompt: Prompt, order: list[str]) -> dict[str, int]:
    """How many links lead from each node to others of `order`."""
    users = dict.fromkeys(order, 0)
    for node_id in order:
        for source in _sources(prompt, node_id):
            users[source] += 1
    return users


def _fingerprint(kind: NodeType, inputs: dict[str, Any], always: Callable[[], str]) -> str:
    """What IS_CHANGED returns for the constants; `always()` if it returns NaN or fails."""
    declared = kind.inputs()
    constants = {n: None if is_link(v) else v for n, v in inputs.items() if n in declared}
    try:
        changed = kind.cls.IS_CHANGED(**constants)
    except Exception as error:
        # It gets None for a linked input. As in ComfyUI, an error because of that does not stop the run.
        changed = math.nan
        if None not in constants.values():
            host.current().note(f"{kind.key} could not tell whether it changed, so it runs again: {error}")
    return always() if isinstance(changed, float) and math.isnan(changed) else repr(changed)


def _digest(parts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _merge(kind: NodeType, returned: list[Any]) -> NodeResult:
    """One list of values for each output, and the `ui` lists joined."""
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
