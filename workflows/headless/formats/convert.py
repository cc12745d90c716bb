"""Converts the UI format, which ComfyUI saves, to the API format, which runs: what its frontend does when a workflow is
queued."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

from ....models.errors import UserError
from ..problems import Problem, WorkflowError, cut
from ..prompt import Prompt
from ..registry import Registry
from .graph import BYPASSED, MUTED, Home, Node, Scope
from .links import Follower, Value
from .subgraphs import definitions_of, promoted, walk
from .text import choose, fill_in

_GET_SET = re.compile(r"^(easy )?[gs]etnode$|^anything everywhere|^prompts everywhere", re.IGNORECASE)
_SAVERS = {
    "SaveImage",
    "SaveImageAdvanced",
    "SaveSVGNode",
    "SaveVideo",
    "SaveAnimatedWEBP",
    "SaveWEBM",
    "SaveAudio",
    "SaveAudioMP3",
    "SaveAudioOpus",
    "SaveAudioAdvanced",
    "SaveGLB",
    "Save3DAdvanced",
    "SaveGaussianSplat",
    "SavePointCloud",
    "SaveAnimatedPNG",
    "CLIPSave",
    "VAESave",
    "ModelSave",
    "LoraSave",
    "SaveLatent",
}
"""Node types whose filename_prefix the frontend fills in."""


@dataclass
class Converted:
    """A prompt, the places of its constants in the workflow (of nodes at the top level), and notes for the user."""

    prompt: Prompt
    homes: dict[tuple[str, str], Home] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def convert(workflow: dict[str, Any], registry: Registry, choice_seed: int = 0) -> Converted:
    """The prompt that ComfyUI's frontend would queue. WorkflowError if the drawing cannot be converted.

    Two things differ from the frontend, so that the result is reproducible: `{a|b}` choices are drawn from
    `choice_seed`, the node's id and the input's name; and a seed's "randomize" is not carried out, as in a workflow
    queued only once.
    """
    root = Scope(workflow, registry, definitions_of(workflow))
    root.apply_primitives()
    return _Converter(root, choice_seed).run()


class _Converter:
    def __init__(self, root: Scope, choice_seed: int):
        self.root = root
        self.choice_seed = choice_seed
        self.now = datetime.now()
        self.nodes = list(walk(root))
        self.links = Follower()

    def run(self) -> Converted:
        self._refuse()
        result = Converted({})
        for node in self.nodes:
            if node.is_virtual or node.mode in (MUTED, BYPASSED):
                continue
            result.notes += _notes(node)
            inputs = {name: _plain(self._text(node, name, value)) for name, value in node.widgets.items()}
            result.homes.update({(node.id, name): home for name, home in node.homes.items()})
            for slot in node.slots:
                resolved = self.links.follow(node, slot)
                if isinstance(resolved, Value):  # a promoted value, in which the frontend draws no choices
                    inputs[slot.name] = _plain(resolved.value)
                elif resolved is not None:
                    inputs[slot.name] = resolved
                if resolved is not None:
                    result.homes.pop((node.id, slot.name), None)
            if node.id in result.prompt:  # a node at the top level may have an id such as 12:34
                raise UserError(
                    f"Two nodes have the id {node.id}, one of them inside a subgraph. Give the one at the top level, "
                    f"'{node.title}', another id in the file, and in its links."
                )
            result.prompt[node.id] = {"inputs": inputs, "class_type": node.type, "_meta": {"title": node.title}}
        self._drop_links_to_absent(result.prompt)
        if not result.prompt:
            raise UserError("The workflow has no node that runs: all are muted, bypassed or notes.")
        return result

    def _refuse(self) -> None:
        problems = []
        for node in self.nodes:
            if node.mode in (MUTED, BYPASSED) or node.kind is not None:
                continue
            if re.match(r"workflow[>/]", node.type):
                problems.append(
                    Problem(
                        f"'{node.type}' is a group node, which is not supported. In ComfyUI, right-click it and "
                        "choose 'Convert to nodes' (or make it a subgraph), then save again.",
                        node.id,
                        node.title,
                    )
                )
            elif _GET_SET.match(node.type):
                problems.append(
                    Problem(
                        f"'{node.type}' passes values on without links, which only its own ComfyUI extension "
                        "understands. Draw the links instead, or export the workflow from ComfyUI with 'Export "
                        "(API)' and run that.",
                        node.id,
                        node.title,
                    )
                )
        if problems:
            raise WorkflowError(problems)

    def _drop_links_to_absent(self, prompt: Prompt) -> None:
        for node in prompt.values():
            for name, value in list(node["inputs"].items()):
                if isinstance(value, list) and value[0] not in prompt:
                    del node["inputs"][name]

    # -- texts -----------------------------------------------------------------------------------------------

    def _text(self, node: Node, name: str, value: Any) -> Any:
        if not isinstance(value, str) or node.kind is None or name in node.held:
            return value
        spec = next((i for i in node.scope.inputs_of(node.kind) if i.name == name), None)
        if spec is not None and spec.options.get("dynamicPrompts"):
            return choose(value, random.Random(f"{self.choice_seed}/{node.id}/{name}"))
        if name == "filename_prefix" and node.type in _SAVERS:
            return fill_in(value, self._find_widget, self.now)
        return value

    @cached_property
    def _by_name(self) -> dict[str, Node]:
        """The first node with each name. A name in a node's properties takes precedence over every title."""
        named: dict[str, Node] = {}
        for node in self.nodes:
            given = (node.raw.get("properties") or {}).get("Node name for S&R")
            if isinstance(given, str):
                named.setdefault(given, node)
        for node in self.nodes:
            named.setdefault(node.title, node)
        return named

    def _find_widget(self, node_name: str, widget: str) -> tuple[bool, Any]:
        node = self._by_name.get(node_name)
        widgets = {} if node is None else promoted(node) if node.is_subgraph else node.widgets
        return (True, widgets[widget]) if widget in widgets else (False, None)


def _notes(node: Node) -> list[str]:
    """Notes about a node whose stored values do not fit its type."""
    who = f"Node {node.id} '{node.title}' stores"
    notes = []
    if node.unplaced:
        notes.append(
            f"{who} {len(node.unplaced)} values that the server does not declare; they are left out. If its own "
            "frontend extension reads them, export the workflow from ComfyUI with 'Export (API)' and run that."
        )
    if node.shifted:
        name, placed, named = node.shifted[0]
        notes.append(
            f"{who} two values for '{name}': {cut(repr(placed))} by its position and {cut(repr(named))} by its name. "
            "It was saved with another version of its type, or changed by a program that knows only the positions. The "
            "value by position is used, as in ComfyUI. If that is wrong, open it in ComfyUI, set the node's values and "
            "save it again."
        )
    return notes


def _plain(value: Any) -> Any:
    """A list as a value is wrapped, so that it is not taken for a link."""
    return {"__value__": value} if isinstance(value, list) else value
