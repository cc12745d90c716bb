"""Follows an input's link through reroutes, bypassed nodes and the borders of subgraphs to a node's output or a
value."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ..problems import Problem, WorkflowError
from .graph import BYPASSED, MUTED, SUBGRAPH_INPUT, SUBGRAPH_OUTPUT, Node, Slot
from .subgraphs import inside, promoted


@dataclass(frozen=True)
class Value:
    """An input resolved to a constant rather than to a node's output."""

    value: Any


@dataclass(frozen=True)
class _AtInput:
    """On the way at an input. `wanted` is the type of the input that the way started from."""

    node: Node
    slot: Slot
    wanted: str


@dataclass(frozen=True)
class _AtOutput:
    """On the way at an output."""

    node: Node
    index: int
    wanted: str


@dataclass(frozen=True)
class _End:
    """The end of the way: [node id, output number], a Value, or None if nothing arrives."""

    result: Any


class Follower:
    """Follows links. Results are remembered, so that the cost of long chains is linear in their length."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, str], Any] = {}

    def follow(self, node: Node, slot: Slot) -> Any:
        """What arrives at an input: [node id, output number], a `Value`, or None. WorkflowError if a link leads nowhere
        or in a circle."""
        step: _AtInput | _AtOutput | _End = _AtInput(node, slot, slot.type)
        way: dict[tuple[int, str], None] = {}
        while not isinstance(step, _End):
            if isinstance(step, _AtOutput):
                step = _from_output(step)
                continue
            key = (id(step.slot), step.wanted)
            if key in self._known:
                step = _End(self._known[key])
            elif key in way:
                raise _problem(
                    "Following its link leads back to it: the links form a cycle. Remove one of them.",
                    step.node,
                    step.slot,
                )
            else:
                way[key] = None
                step = _from_input(step)
        self._known.update(dict.fromkeys(way, step.result))
        return step.result


def _problem(message: str, node: Node, slot: Slot | None = None) -> WorkflowError:
    return WorkflowError([Problem(message, node.id, node.title, slot.name if slot else None)])


def _from_input(at: _AtInput) -> _AtInput | _AtOutput | _End:
    node, slot = at.node, at.slot
    if slot.link is None:
        return _End(None)
    link = node.scope.links.get(slot.link)
    if link is None:
        raise _problem(
            f"Its link {slot.link} is missing from the workflow. Draw it again in ComfyUI and save.", node, slot
        )
    if link.origin_id == SUBGRAPH_INPUT and node.scope.instance is not None:
        return _from_outside(node.scope.instance, link.origin_slot)
    source = node.scope.nodes.get(link.origin_id)
    if source is None:
        raise _problem(
            f"It is linked to node {link.origin_id}, which is missing from the workflow. Draw the link again in "
            "ComfyUI and save.",
            node,
            slot,
        )
    return _AtOutput(source, link.origin_slot, at.wanted)


def _from_outside(instance: Node, index: int) -> _AtInput | _End:
    """At input `index` of a subgraph's instance: its link, or the value of its promoted widget."""
    declared = instance.scope.definitions[instance.type]["inputs"]
    if not 0 <= index < len(declared):
        raise _problem(
            f"A link inside the subgraph comes from input {index}, and it has {len(declared)}. Save the workflow from "
            "ComfyUI again.",
            instance,
        )
    slot = instance.slots[index]
    if slot.link is not None and slot.name not in instance.widgets:  # else it has the value of a PrimitiveNode
        return _AtInput(instance, slot, slot.type)
    values = promoted(instance)
    return _End(Value(values[slot.name]) if slot.name in values else None)


def _from_output(at: _AtOutput) -> _AtInput | _AtOutput | _End:
    node, index = at.node, at.index
    if node.mode == MUTED:
        return _End(None)
    if node.mode == BYPASSED:
        through = _bypass(node, index, at.wanted)
        return _End(None) if through is None else _AtInput(node, through, through.type)
    if node.is_subgraph:
        return _into_subgraph(at)
    if node.is_virtual:  # a Reroute passes its input on; a PrimitiveNode's value has been copied already
        return _AtInput(node, node.slots[index], at.wanted) if 0 <= index < len(node.slots) else _End(None)
    return _End([node.id, index])


def _into_subgraph(at: _AtOutput) -> _AtInput | _AtOutput | _End:
    node = at.node
    scope = inside(node)
    outputs = node.scope.definitions[node.type]["outputs"]
    link_ids = (outputs[at.index].get("linkIds") or []) if 0 <= at.index < len(outputs) else []
    link = next((scope.links[str(i)] for i in link_ids if str(i) in scope.links), None)
    if link is None or link.target_id != SUBGRAPH_OUTPUT:
        return _End(None)
    if link.origin_id == SUBGRAPH_INPUT:  # straight through
        return _from_outside(node, link.origin_slot)
    source = scope.nodes.get(link.origin_id)
    if source is None:
        raise _problem(
            f"The link to its output {at.index} comes from node {link.origin_id}, which is missing inside. Save the "
            "workflow from ComfyUI again.",
            node,
        )
    return _AtOutput(source, link.origin_slot, at.wanted)


def _bypass(node: Node, index: int, wanted: str) -> Slot | None:
    """The input that a bypassed node passes to its output `index`: the one with the same number if its type fits, else
    the first of exactly the wanted type, else the first that fits."""
    if node.kind is not None:
        types = node.kind.output_types
    else:
        types = tuple(str(o.get("type", "*")) for o in node.raw.get("outputs") or [])
    given = types[index] if 0 <= index < len(types) else "*"
    slots = node.slots
    if not slots:
        return None
    same = slots[index] if 0 <= index < len(slots) else None
    if wanted in ("*", ""):
        return same or slots[0]
    if same is not None and _fits(same.type, given) and _fits(same.type, wanted):
        return same
    exact = next((s for s in slots if s.type == wanted), None)
    return exact or next((s for s in slots if _fits(s.type, given) and _fits(s.type, wanted)), None)


@lru_cache(maxsize=4096)
def _types(text: str) -> frozenset[str]:
    # Only the frontend knows, while it draws, which type a dynamic type currently has.
    return (
        frozenset()
        if text in ("", "*", "COMFY_MATCHTYPE_V3")
        else frozenset(t.strip().lower() for t in text.split(","))
    )


def _fits(one: str, other: str) -> bool:
    first, second = _types(one), _types(other)
    return not first or not second or not first.isdisjoint(second)
