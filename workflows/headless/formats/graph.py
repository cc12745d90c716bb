"""The UI format as a graph: nodes with their slots and widget values, and links by id.

ComfyUI saves drawings, not calls. A `Scope` is one drawn graph: the workflow itself, or one instance of a subgraph,
whose nodes get ids such as `12:34`. `widgets` derives a node's widgets and slots from its type's definition;
`subgraphs` unfolds the instances of subgraphs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ....models.errors import UserError
from ..registry import FRONTEND_ONLY, Input, NodeType, Registry
from .widgets import Drawn, draw, is_upload

MUTED, BYPASSED = 2, 4
SUBGRAPH_INPUT, SUBGRAPH_OUTPUT = "-10", "-20"
"""Ids of a subgraph's own inputs and outputs in the links inside it."""


@dataclass(frozen=True)
class Link:
    """From output `origin_slot` of a node to an input. Ids are kept as strings, because files hold both numbers and
    strings."""

    id: str
    origin_id: str
    origin_slot: int
    target_id: str

    @classmethod
    def of(cls, raw: Any) -> Link:
        """From a file: a list in the top-level graph, an object inside a subgraph."""
        if isinstance(raw, dict):
            return cls(str(raw["id"]), str(raw["origin_id"]), int(raw["origin_slot"]), str(raw["target_id"]))
        return cls(str(raw[0]), str(raw[1]), int(raw[2]), str(raw[3]))


@dataclass
class Slot:
    """An input of a drawn node; `widget`: it is the input of the widget of the same name."""

    name: str
    type: str
    link: str | None = None
    widget: bool = False


@dataclass(frozen=True)
class Home:
    """The place where a top-level widget's value is stored in the file: `container[key]`."""

    container: Any
    key: Any


class Node:
    """A drawn node in one scope.

    widgets   values that go into a prompt, by input name; of a subgraph's instance those that override its promoted
              ones
    homes     the places where they are stored, for nodes at the top level
    unplaced  stored values of a custom pack's node that its definition has no place for
    shifted   (input, value by position, value by name) where a file stores both and they differ
    """

    def __init__(self, raw: dict[str, Any], scope: Scope):
        self.raw = raw
        self.scope = scope
        self.raw_id = str(raw["id"])
        self.id = ":".join([*scope.path, self.raw_id])
        self.type = str(raw.get("type"))
        self.mode = raw.get("mode", 0)
        self.kind: NodeType | None = scope.registry.get(self.type)
        self.is_subgraph = self.type in scope.definitions
        self.is_virtual = self.type in FRONTEND_ONLY or self.is_subgraph
        name = scope.definitions[self.type].get("name") if self.is_subgraph else None
        self.title = str(raw.get("title") or name or (self.kind.display_name if self.kind else self.type))
        self.homes: dict[str, Home] = {}
        self.unplaced: list[Any] = []
        self.shifted: list[tuple[str, Any, Any]] = []
        self.widgets: dict[str, Any] = {}
        self.held: set[str] = set()
        """Names of widgets whose values are stored in an enclosing instance of a subgraph."""
        self.promoted: dict[str, Any] = {}
        self.sources: dict[str, tuple[str, str, Any]] = {}
        """Of a subgraph's instance, once it is unfolded: the values of the widgets that it shows, and their sources
        inside (`subgraphs`)."""
        saved = {s.get("name") or "": s for s in raw.get("inputs") or []}
        drawn = self._drawn()
        self.slots = self._slots(saved, drawn)
        self._by_link = {s.link: s for s in reversed(self.slots) if s.link is not None}

    def slot_of(self, link: Link) -> Slot | None:
        """The input that a link ends in. The link's own slot number is not used: it follows the saved order."""
        return self._by_link.get(link.id)

    def cut(self, slot: Slot) -> None:
        """Removes the link of an input."""
        if slot.link is not None:
            self._by_link.pop(slot.link, None)
        slot.link = None

    def _drawn(self) -> Drawn:
        """The widgets and slots of the type's definition; the widgets' values go into `widgets`."""
        stored = self.raw.get("widgets_values")
        if self.is_subgraph:
            inputs = self.scope.definitions[self.type]["inputs"]
            return Drawn(slots=[(d["name"], str(d.get("type", "*")), False) for d in inputs])
        if self.kind is None:
            if self.type == "PrimitiveNode" and isinstance(stored, list) and stored:
                self.widgets["value"] = stored[0]
            return Drawn()
        inputs = self.scope.inputs_of(self.kind)
        drawn = draw(self.type, inputs, [] if stored is None else stored, self.raw.get("inputs") or [])
        self.widgets.update(drawn.values)
        if not self.scope.path:
            self.homes = {name: Home(stored, key) for name, key in drawn.places.items()}
        if isinstance(stored, list) and self.kind.from_pack and not self.scope.registry.whole:
            rest = stored[drawn.used + any(is_upload(i) for i in inputs) :]
            self.unplaced = [v for v in rest if v not in (None, "")]
        named = self.raw.get("widgets_values_named")
        if isinstance(named, dict):
            self.shifted = [(n, v, named[n]) for n, v in drawn.values.items() if named.get(n) not in (None, v)]
        return drawn

    def _slots(self, saved: dict[Any, dict[str, Any]], drawn: Drawn) -> list[Slot]:
        slots = {name: Slot(name, kind, _link_id(saved.get(name, {})), widget) for name, kind, widget in drawn.slots}
        shown = [slots[name] for name, _, _ in drawn.slots]
        for raw in self.raw.get("inputs") or []:
            name = raw.get("name") or ""
            # An input of a choice that is no longer chosen loses its link, as in the frontend.
            if name not in slots and not name.startswith(tuple(drawn.groups)):
                shown.append(Slot(name, str(raw.get("type", "*")), _link_id(raw), bool(raw.get("widget"))))
        return shown


def _link_id(saved_slot: dict[str, Any]) -> str | None:
    return None if saved_slot.get("link") is None else str(saved_slot["link"])


class Scope:
    """One drawn graph: its nodes by raw id and its links by id.

    graph        as in the file; its shape has been checked (`shape.check_graph`)
    definitions  of all subgraphs, by id
    instance     the node that the graph is the inside of; None for the workflow itself
    """

    def __init__(
        self,
        graph: dict[str, Any],
        registry: Registry,
        definitions: dict[str, dict[str, Any]],
        instance: Node | None = None,
    ):
        self.registry = registry
        self.definitions = definitions
        self.instance = instance
        self.graph = graph
        self.path: tuple[str, ...] = tuple(instance.id.split(":")) if instance else ()
        self.children: dict[str, Scope] = {}
        """Unfolded instances of subgraphs, by the instance's id."""
        self._inputs: dict[str, list[Input]] = instance.scope._inputs if instance else {}
        self.links: dict[str, Link] = {}
        for link in (Link.of(raw) for raw in graph.get("links") or [] if raw is not None):
            _refuse_ambiguous(self.links.setdefault(link.id, link), link)
        self.nodes: dict[str, Node] = {}
        for raw in graph["nodes"]:
            node = Node(raw, self)
            self.nodes[node.raw_id] = node

    def inputs_of(self, kind: NodeType) -> list[Input]:
        """The inputs that a node type declares, read once for the whole workflow."""
        if kind.key not in self._inputs:
            self._inputs[kind.key] = list(kind.inputs().values())
        return self._inputs[kind.key]

    def apply_primitives(self) -> None:
        """Copies each PrimitiveNode's value to the widgets that it is linked to, as the frontend does."""
        for link in self.links.values():
            source, target = self.nodes.get(link.origin_id), self.nodes.get(link.target_id)
            if source is None or target is None:
                continue
            if source.type != "PrimitiveNode" or "value" not in source.widgets:
                continue
            slot = target.slot_of(link)
            if slot is not None and (slot.widget or target.is_subgraph):
                target.widgets[slot.name] = source.widgets["value"]
                target.homes.pop(slot.name, None)
                if not self.path:
                    target.homes[slot.name] = Home(source.raw["widgets_values"], 0)


def _refuse_ambiguous(one: Link, other: Link) -> None:
    if (one.origin_id, one.origin_slot) != (other.origin_id, other.origin_slot):
        raise UserError(
            f"Two links have the id {one.id}, from node {one.origin_id} and from node {other.origin_id}, so inputs "
            "that name it are ambiguous. Open the workflow in ComfyUI, check the links, and save it again."
        )
