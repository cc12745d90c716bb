"""The UI format as a graph: nodes with their slots and widget values, and subgraphs unfolded.

ComfyUI saves drawings, not calls: which stored value belongs to which input follows from the node type's
declaration. A `Scope` is one drawn graph: the workflow itself, or one instance of a subgraph, whose nodes get
ids such as `12:34`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Iterator

from ...models.errors import UserError
from .registry import FRONTEND_ONLY, NodeType, Registry

MUTED, BYPASSED = 2, 4
SUBGRAPH_INPUT, SUBGRAPH_OUTPUT = "-10", "-20"
"""Ids that stand for a subgraph's own inputs and outputs in the links inside it."""


@dataclass(frozen=True)
class Link:
    """From output `origin_slot` of a node to an input. Stored as lists at the top, as objects inside
    subgraphs. Ids are kept as strings, because files hold both numbers and strings."""

    id: str
    origin_id: str
    origin_slot: int
    target_id: str

    @classmethod
    def of(cls, raw: Any) -> "Link":
        if isinstance(raw, dict):
            return cls(str(raw["id"]), str(raw["origin_id"]), int(raw["origin_slot"]), str(raw["target_id"]))
        return cls(str(raw[0]), str(raw[1]), int(raw[2]), str(raw[3]))


@dataclass
class Slot:
    """An input of a drawn node; `widget` says that a widget of this name stands behind it."""

    name: str
    type: str
    link: str | None = None
    widget: bool = False


@dataclass(frozen=True)
class Home:
    """Where a top-level widget's value is stored in the file: `container[key]`."""

    container: Any
    key: Any


class Node:
    """A drawn node in one scope."""

    def __init__(self, raw: dict[str, Any], scope: "Scope"):
        self.raw = raw
        self.scope = scope
        self.id = ":".join([*scope.path, str(raw["id"])])
        self.type = str(raw.get("type"))
        self.mode = raw.get("mode", 0)
        self.kind: NodeType | None = scope.registry.get(self.type)
        self.is_subgraph = self.type in scope.definitions
        self.is_virtual = self.type in FRONTEND_ONLY or self.is_subgraph
        name = scope.definitions[self.type].get("name") if self.is_subgraph else None
        self.title = str(raw.get("title") or name or (self.kind.display_name if self.kind else self.type))
        self.slots = self._slots()
        self.homes: dict[str, Home] = {}
        self.unplaced: list[Any] = []
        self.widgets: dict[str, Any] = {} if self.is_subgraph else self._widgets()

    def slot_of(self, link: Link) -> Slot | None:
        """The input that a link ends in. A link's own slot number is not asked: it follows the saved
        order."""
        return next((s for s in self.slots if s.link == link.id), None)

    def _slots(self) -> list[Slot]:
        saved = {s.get("name"): s for s in self.raw.get("inputs") or []}
        if self.is_subgraph:
            inputs = self.scope.definitions[self.type]["inputs"]
            declared = [(d["name"], d.get("type", "*"), False) for d in inputs]
        elif self.kind is not None:
            inputs = list(self.kind.inputs().values())
            # The frontend's order: sockets first, then the widgets' inputs. A bypass goes by this order.
            declared = [(i.name, i.type, i.is_widget) for i in sorted(inputs, key=lambda i: i.is_widget)]
        else:
            declared = []
        names = {name for name, _, _ in declared}
        extra = [s for s in self.raw.get("inputs") or [] if s.get("name") not in names]
        return [Slot(n, t, _link_id(saved.get(n, {})), w) for n, t, w in declared] + [
            Slot(s.get("name", ""), str(s.get("type", "*")), _link_id(s), "widget" in s) for s in extra]

    def _widgets(self) -> dict[str, Any]:
        """Widget values by input name. Control values (after a seed) and upload buttons have a place in the
        file but are no inputs."""
        stored = self.raw.get("widgets_values")
        if self.kind is None:
            primitive = self.type == "PrimitiveNode" and isinstance(stored, list) and stored
            return {"value": stored[0]} if primitive else {}
        inputs = self.kind.inputs().values()
        widgets = {i.name: i.default for i in inputs if i.is_widget}
        if isinstance(stored, dict):
            places: dict[str, Any] = {n: n for n in widgets if n in stored}
        else:
            stored = stored or []
            self.unplaced = [] if self.scope.registry.whole else _unplaced(list(inputs), stored)
            places = {n: k for n, k in _places(list(inputs), len(stored)).items() if k < len(stored)}
        for name, key in places.items():
            widgets[name] = stored[key]
            if not self.scope.path:
                self.homes[name] = Home(stored, key)
        return widgets


def _link_id(saved_slot: dict[str, Any]) -> str | None:
    return None if saved_slot.get("link") is None else str(saved_slot["link"])


def _unplaced(inputs: list[Any], stored: list[Any]) -> list[Any]:
    """Stored values behind the last that the node type declares a place for."""
    places = _places(inputs, len(stored))
    end = max((at + 1 + next(i for i in inputs if i.name == name).control_values for name, at in places.items()), default=0)
    end += any(i.options.get("image_upload") for i in inputs)
    return [v for v in stored[end:] if v not in (None, "")]


def _places(inputs: list[Any], stored: int) -> dict[str, int]:
    """Widget name -> its place among `stored` values.

    Before its version 1.16 the frontend stored a value for forceInput sockets too. Such a file is known by
    its number of values, as the frontend knows it; the dummy's own place is left out.
    """
    def count(with_dummies: bool) -> tuple[dict[str, int], int]:
        places, at = {}, 0
        for i in inputs:
            if i.is_widget:
                places[i.name] = at
                at += 1 + i.control_values
            elif i.options.get("forceInput") and with_dummies:
                at += 1 + i.control_values
        return places, at + any(i.options.get("image_upload") for i in inputs)

    plain, _ = count(False)
    old, total = count(True)
    return old if total == stored and old != plain else plain


class Scope:
    """One drawn graph: its nodes by raw id and links by id, and for an instance of a subgraph what holds
    it."""

    def __init__(self, graph: dict[str, Any], registry: Registry, definitions: dict[str, dict[str, Any]],
                 instance: Node | None = None):
        self.registry = registry
        self.definitions = definitions
        self.instance = instance
        self.graph = graph
        self.path: tuple[str, ...] = tuple(instance.id.split(":")) if instance else ()
        self._children: dict[str, Scope] = {}
        try:
            _check_shape(graph)
            links = (Link.of(raw) for raw in graph.get("links") or [] if raw is not None)
            self.links = {link.id: link for link in links}
            self.nodes = {str(raw["id"]): Node(raw, self) for raw in graph["nodes"]}
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            where = f" in the subgraph '{graph.get('name')}'" if instance else ""
            raise UserError(f"The workflow is damaged: a node or link{where} cannot be read ({error!r}). "
                            "Save it from ComfyUI again.") from error
        self._apply_primitives()

    def child(self, node: Node) -> "Scope":
        """The inside of an instance of a subgraph."""
        if node.id not in self._children:
            if node.type in self._containing():
                raise UserError(f"The subgraph '{node.title}' (node {node.id}) contains itself. Remove one "
                                "of the two.")
            self._children[node.id] = Scope(self.definitions[node.type], self.registry, self.definitions,
                                            node)
        return self._children[node.id]

    def _containing(self) -> set[str]:
        return set() if self.instance is None else {self.instance.type} | self.instance.scope._containing()

    def walk(self) -> Iterator[Node]:
        """All nodes, those of subgraphs behind their instance. A muted or bypassed instance has no inside."""
        for node in self.nodes.values():
            yield node
            if node.is_subgraph and node.mode not in (MUTED, BYPASSED):
                yield from self.child(node).walk()

    def _apply_primitives(self) -> None:
        # A PrimitiveNode writes its value over the widgets that it is linked to; its links are no calls.
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


def _check_shape(graph: dict[str, Any]) -> None:
    """TypeError where lists of slots are none: read later on, they would fail in words that help nobody."""
    nodes = graph["nodes"]
    slots = [s for raw in nodes for key in ("inputs", "outputs") for s in raw.get(key) or []]
    borders = [*(graph.get("inputs") or []), *(graph.get("outputs") or [])]
    of_right_kind = (
        all(isinstance(s, dict) for s in [*nodes, *slots, *borders])
        and all(isinstance(raw.get("properties") or {}, dict) for raw in nodes)
        and all(isinstance(raw.get("widgets_values") or [], (list, dict)) for raw in nodes)
        and all(isinstance(b.get("linkIds") or [], list) for b in borders))
    if not of_right_kind:
        raise TypeError("a slot or link of the wrong kind")


def promoted(node: Node) -> dict[str, Any]:
    """Values of the widgets that a subgraph's instance shows: input name -> value.

    The instance's own stored value where it has one, else the value of the first widget inside that the input
    leads to. Stored in the order of the inputs; or, where `properties.proxyWidgets` lists entries of node
    "-1", in the order of that list, whose other entries are views of widgets inside and hold nothing of their
    own.
    """
    inside = node.scope.child(node)
    values: dict[str, Any] = {}
    for entry in node.scope.definitions[node.type]["inputs"]:
        for link_id in entry.get("linkIds") or []:
            link = inside.links.get(str(link_id))
            target = inside.nodes.get(link.target_id) if link else None
            slot = target.slot_of(link) if target else None
            if slot is None:
                continue
            inner = promoted(target) if target.is_subgraph else target.widgets if slot.widget else {}
            if slot.name in inner:
                values[entry["name"]] = inner[slot.name]
                break
    stored = node.raw.get("widgets_values") or []
    if isinstance(stored, dict):
        own = {n: stored[n] for n in values if n in stored}
    else:
        proxies = (node.raw.get("properties") or {}).get("proxyWidgets") or []
        of_inputs = any(str(p[0]) == "-1" for p in proxies)
        names = [p[1] if str(p[0]) == "-1" else None for p in proxies] if of_inputs else list(values)
        own = {n: v for n, v in zip(names, stored) if n in values and not (of_inputs and v is None)}
    return {**values, **own, **node.widgets}
