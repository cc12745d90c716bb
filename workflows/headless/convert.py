"""From the UI format, which ComfyUI saves, to the API format, which runs: what its frontend does when it
queues."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ...models.errors import UserError
from .graph import BYPASSED, MUTED, SUBGRAPH_INPUT, SUBGRAPH_OUTPUT, Home, Node, Scope, Slot, promoted
from .load import Prompt
from .problems import Problem, WorkflowError
from .registry import Registry
from .text import choose, fill_in

_GET_SET = re.compile(r"^(easy )?[gs]etnode$|^anything everywhere|^prompts everywhere", re.IGNORECASE)
_SAVERS = {"SaveImage", "SaveAnimatedWEBP", "SaveWEBM", "SaveAudio", "SaveGLB", "SaveAnimatedPNG", "CLIPSave",
           "VAESave", "ModelSave", "LoraSave", "SaveLatent"}
"""Node types whose filename_prefix the frontend fills in."""


@dataclass
class Converted:
    """A prompt, and where its constants stand in the workflow (for those that stand at its top level)."""

    prompt: Prompt
    homes: dict[tuple[str, str], Home] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Value:
    """An input resolved to a constant rather than to a node's output."""

    value: Any


def convert(workflow: dict[str, Any], registry: Registry, choice_seed: int = 0) -> Converted:
    """The prompt that ComfyUI's frontend would queue. WorkflowError where the drawing cannot be a prompt.

    Two things are settled that the frontend leaves to chance or to later: `{a|b}` choices follow
    `choice_seed`, the node's id and the input's name; and a seed's "randomize" is not carried out, as in a
    workflow queued just once.
    """
    return _Converter(Scope(workflow, registry, _definitions(workflow)), choice_seed).run()


def _definitions(graph: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Subgraph definitions by id, those nested in definitions too."""
    found: dict[str, dict[str, Any]] = {}
    container = graph.get("definitions") or {}
    listed = container.get("subgraphs") or [] if isinstance(container, dict) else [None]
    for definition in listed:
        if not isinstance(definition, dict) or "id" not in definition:
            raise UserError("The workflow is damaged: the definition of a subgraph cannot be read. Save it "
                            "from ComfyUI again.")
        found[str(definition["id"])] = {"inputs": [], "outputs": [], "nodes": [], **definition}
        found.update(_definitions(definition))
    return found


class _Converter:
    def __init__(self, root: Scope, choice_seed: int):
        self.root = root
        self.choice_seed = choice_seed
        self.now = datetime.now()
        self.nodes = list(root.walk())

    def run(self) -> Converted:
        self._refuse()
        result = Converted({})
        for node in self.nodes:
            if node.is_virtual or node.mode in (MUTED, BYPASSED):
                continue
            if node.unplaced:
                result.notes.append(
                    f"Node {node.id} '{node.title}' stores {len(node.unplaced)} values that the server does not declare; they are left "
                    "out. If its own frontend extension reads them, export the workflow from ComfyUI with 'Export (API)' and run that.")
            inputs = {name: _plain(self._text(node, name, value)) for name, value in node.widgets.items()}
            result.homes.update({(node.id, name): home for name, home in node.homes.items()})
            for slot in node.slots:
                resolved = self._input(node, slot, set())
                if isinstance(resolved, _Value):
                    inputs[slot.name] = _plain(self._text(node, slot.name, resolved.value))
                elif resolved is not None:
                    inputs[slot.name] = resolved
                if resolved is not None:
                    result.homes.pop((node.id, slot.name), None)
            result.prompt[node.id] = {"inputs": inputs, "class_type": node.type,
                                      "_meta": {"title": node.title}}
        self._drop_links_to_absent(result.prompt)
        if not result.prompt:
            raise UserError("The workflow holds no node that runs: all are muted, bypassed or notes.")
        return result

    def _refuse(self) -> None:
        problems = []
        for node in self.nodes:
            if node.mode in (MUTED, BYPASSED) or node.kind is not None:
                continue
            if re.match(r"workflow[>/]", node.type):
                problems.append(Problem(
                    f"'{node.type}' is a group node, which is not supported. In ComfyUI, right-click it and "
                    "choose 'Convert to nodes' (or make it a subgraph), then save again.", node.id,
                    node.title))
            elif _GET_SET.match(node.type):
                problems.append(Problem(
                    f"'{node.type}' hands values on without links, which only its own ComfyUI extension "
                    "understands. Draw the links instead, or export the workflow from ComfyUI with 'Export "
                    "(API)' and run that.",
                    node.id, node.title))
        if problems:
            raise WorkflowError(problems)

    # -- links: each returns [node id, slot], a _Value, or None where nothing arrives ------------------------

    def _input(self, node: Node, slot: Slot, visited: set[tuple[str, str]], wanted: str | None = None) -> Any:
        if slot.link is None:
            return None
        key = (node.id, f"in {slot.name}")
        if key in visited:
            raise WorkflowError([Problem("Following its link leads back to it: the links form a cycle. "
                                         "Remove one of them.", node.id, node.title, slot.name)])
        visited.add(key)
        scope = node.scope
        link = scope.links.get(slot.link)
        if link is None:
            raise WorkflowError([Problem(f"Its link {slot.link} is missing from the workflow. Draw it again "
                                         "in ComfyUI and save.", node.id, node.title, slot.name)])
        if link.origin_id == SUBGRAPH_INPUT and scope.instance is not None:
            return self._from_outside(scope.instance, link.origin_slot, visited)
        source = scope.nodes.get(link.origin_id)
        if source is None:
            raise WorkflowError([Problem(f"It is linked to node {link.origin_id}, which is missing from the "
                                         "workflow. Draw the link again in ComfyUI and save.", node.id,
                                         node.title, slot.name)])
        return self._output(source, link.origin_slot, wanted or slot.type, visited)

    def _from_outside(self, instance: Node, index: int, visited: set[tuple[str, str]]) -> Any:
        """What arrives at input `index` of a subgraph's instance: a link, or the value of its promoted
        widget."""
        declared = instance.scope.definitions[instance.type]["inputs"]
        if not 0 <= index < len(declared):
            raise WorkflowError([Problem(f"A link inside the subgraph comes from input {index}, and it has "
                                         f"{len(declared)}. Save the workflow from ComfyUI again.",
                                         instance.id,
                                         instance.title)])
        slot = instance.slots[index]
        resolved = self._input(instance, slot, visited)
        if resolved is not None:
            return resolved
        values = promoted(instance) if slot.link is None or slot.name in instance.widgets else {}
        return _Value(values[slot.name]) if slot.name in values else None

    def _output(self, node: Node, index: int, wanted: str, visited: set[tuple[str, str]]) -> Any:
        if node.mode == BYPASSED:
            through = _bypass(node, index, wanted)
            return None if through is None else self._input(node, through, visited, wanted)
        if node.is_subgraph:
            return self._from_inside(node, index, wanted, visited)
        if node.is_virtual:  # a Reroute hands its input on; a PrimitiveNode has written its value already
            return self._input(node, node.slots[index], visited, wanted) if index < len(node.slots) else None
        return [node.id, index]

    def _from_inside(self, node: Node, index: int, wanted: str, visited: set[tuple[str, str]]) -> Any:
        if node.mode == MUTED:
            return None
        inside = node.scope.child(node)
        outputs = node.scope.definitions[node.type]["outputs"]
        link_ids = (outputs[index].get("linkIds") or []) if 0 <= index < len(outputs) else []
        link = next((inside.links[str(i)] for i in link_ids if str(i) in inside.links), None)
        if link is None or link.target_id != SUBGRAPH_OUTPUT:
            return None
        if link.origin_id == SUBGRAPH_INPUT:  # straight through
            return self._from_outside(node, link.origin_slot, visited)
        source = inside.nodes.get(link.origin_id)
        if source is None:
            raise WorkflowError([Problem(
                f"The link to its output {index} comes from node {link.origin_id}, which is missing inside. "
                "Save the workflow from ComfyUI again.", node.id, node.title)])
        return self._output(source, link.origin_slot, wanted, visited)

    def _drop_links_to_absent(self, prompt: Prompt) -> None:
        for node in prompt.values():
            for name, value in list(node["inputs"].items()):
                if isinstance(value, list) and value[0] not in prompt:
                    del node["inputs"][name]

    # -- texts -----------------------------------------------------------------------------------------------

    def _text(self, node: Node, name: str, value: Any) -> Any:
        if not isinstance(value, str) or node.kind is None:
            return value
        spec = node.kind.inputs().get(name)
        if spec is not None and spec.options.get("dynamicPrompts"):
            return choose(value, random.Random(f"{self.choice_seed}/{node.id}/{name}"))
        if name == "filename_prefix" and node.type in _SAVERS:
            return fill_in(value, self._find_widget, self.now)
        return value

    def _find_widget(self, node_name: str, widget: str) -> tuple[bool, Any]:
        named = [n for n in self.nodes
                 if (n.raw.get("properties") or {}).get("Node name for S&R") == node_name]
        named = named or [n for n in self.nodes if n.title == node_name]
        return (True, named[0].widgets[widget]) if named and widget in named[0].widgets else (False, None)


def _plain(value: Any) -> Any:
    """A list as a value must not look like a link."""
    return {"__value__": value} if isinstance(value, list) else value


def _bypass(node: Node, index: int, wanted: str) -> Slot | None:
    """The input that a bypassed node passes on to its output `index`: the one of the same number if its type
    fits, else the first of exactly the wanted type, else the first that fits."""
    outputs = node.raw.get("outputs") or []
    if node.kind is not None:
        types = node.kind.output_types
    else:
        types = tuple(str(o.get("type", "*")) for o in outputs)
    given = types[index] if index < len(types) else "*"
    slots = node.slots
    if not slots:
        return None
    if wanted in ("*", ""):
        return slots[index] if index < len(slots) else slots[0]
    if index < len(slots) and _fits(slots[index].type, given) and _fits(slots[index].type, wanted):
        return slots[index]
    exact = next((s for s in slots if s.type == wanted), None)
    return exact or next((s for s in slots if _fits(s.type, given) and _fits(s.type, wanted)), None)


def _fits(one: str, other: str) -> bool:
    if one in ("", "*") or other in ("", "*"):
        return True
    return bool({t.strip().lower() for t in one.split(",")} & {t.strip().lower() for t in other.split(",")})
