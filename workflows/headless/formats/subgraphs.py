"""Subgraphs: their definitions, their unfolded instances, and the values of promoted widgets.

An instance stores a value for each of its inputs that leads to a widget inside. Older frontends also showed widgets
from inside that have no input, listed in `properties.proxyWidgets`. Today's frontend turns each of these into an
input; here the value is written to the widget directly.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ....models.errors import UserError
from ..problems import cut
from .graph import BYPASSED, MUTED, Node, Scope, Slot
from .shape import check_graph

MAX_DEPTH = 50
"""Depth of nested subgraphs."""

MAX_SIZE = 100_000
"""Nodes, inputs, stored values and links of a workflow with all its subgraphs unfolded."""

_PREFIX = re.compile(r"\s*(\d+)\s*:\s*(.+)$", re.DOTALL)


def definitions_of(workflow: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Subgraph definitions by id, including nested ones. UserError if one cannot be read or contains itself, or if the
    unfolded workflow is too large or too deep."""
    definitions: dict[str, dict[str, Any]] = {}
    graphs = [workflow]
    while graphs:
        container = graphs.pop().get("definitions") or {}
        listed = container.get("subgraphs") or [] if isinstance(container, dict) else None
        for definition in listed if isinstance(listed, list) else [None]:
            if not isinstance(definition, dict) or not isinstance(definition.get("id"), (str, int)):
                raise UserError(
                    "The workflow is damaged: the definition of a subgraph cannot be read. Save it from ComfyUI again."
                )
            whole = {
                **definition,
                "inputs": definition.get("inputs") or [],
                "outputs": definition.get("outputs") or [],
                "nodes": definition.get("nodes") or [],
            }
            check_graph(whole, str(definition.get("name") or definition["id"]))
            if definitions.get(str(definition["id"]), whole) != whole:
                raise UserError(
                    f"Two different subgraphs have the id {cut(definition['id'])}, so their instances are ambiguous. "
                    "Open the workflow in ComfyUI, check them, and save it again."
                )
            definitions[str(definition["id"])] = whole
            graphs.append(definition)
    check_graph(workflow)
    _measure(workflow, definitions, {}, [])
    return definitions


def _measure(
    graph: dict[str, Any], definitions: dict[str, dict[str, Any]], known: dict[str, tuple[int, int]], path: list[str]
) -> tuple[int, int]:
    """(size, depth of nested subgraphs) of a graph with its subgraphs unfolded. Each definition is measured once.

    known  results so far, by definition
    path   ids of the definitions that enclose the graph
    """
    borders = [*(graph.get("inputs") or []), *(graph.get("outputs") or [])]
    size = len(graph.get("links") or []) + sum(1 + len(b.get("linkIds") or []) for b in borders)
    depth = 0
    for node in graph["nodes"]:
        size += 1 + len(node.get("inputs") or []) + len(node.get("widgets_values") or [])
        kind = node["type"]
        if kind in definitions:
            if kind in path:
                raise UserError(
                    f"The subgraph '{cut(node.get('title') or definitions[kind].get('name'))}' (node "
                    f"{cut(node['id'])}) contains itself. Remove one of the two."
                )
            if kind not in known and len(path) <= MAX_DEPTH:
                known[kind] = _measure(definitions[kind], definitions, known, [*path, kind])
            more, below = known.get(kind, (0, MAX_DEPTH))
            size, depth = size + more, max(depth, 1 + below)
        if depth > MAX_DEPTH:
            raise UserError(
                f"The workflow's subgraphs are nested more than {MAX_DEPTH} deep. Unpack some of them in ComfyUI."
            )
        if size > MAX_SIZE:
            raise UserError(
                f"The workflow, with its subgraphs unfolded, has more than {MAX_SIZE:,} nodes, inputs and links: "
                "nested instances multiply. Use fewer of them."
            )
    return size, depth


def inside(node: Node) -> Scope:
    """The unfolded inside of a subgraph's instance, with the values that the instance stores for widgets there."""
    children = node.scope.children
    if node.id not in children:
        scope = Scope(node.scope.definitions[node.type], node.scope.registry, node.scope.definitions, node)
        children[node.id] = scope
        node.promoted = _promote(node, scope)
        scope.apply_primitives()
    return children[node.id]


def walk(scope: Scope) -> Iterator[Node]:
    """All nodes; those of a subgraph follow its instance. A muted or bypassed instance is not unfolded."""
    for node in scope.nodes.values():
        yield node
        if node.is_subgraph and node.mode not in (MUTED, BYPASSED):
            yield from walk(inside(node))


def promoted(node: Node) -> dict[str, Any]:
    """Values of the widgets that a subgraph's instance shows, by input name."""
    inside(node)
    return {**node.promoted, **node.widgets}


def _promote(node: Node, scope: Scope) -> dict[str, Any]:
    """The value of each input that leads to a widget inside, in the order of the inputs: the instance's own stored
    value if it has one, else the value of the first widget that the input leads to."""
    sources = node.sources = _sources(node, scope)
    by_source = {(id, name): input for input, (id, name, _) in reversed(sources.items())}
    values = {name: value for name, (_, _, value) in sources.items()}
    stored = node.raw.get("widgets_values") or []
    if isinstance(stored, dict):
        return {**values, **{name: stored[name] for name in values if name in stored}}
    values.update((name, value) for name, value in zip(list(values), stored) if value is not None)
    properties = node.raw.get("properties") or {}
    for entry, value in zip(_pairs(properties.get("proxyWidgets")), stored):
        if entry is None or value is None:
            continue
        id, name = entry[:2]
        input = name if id == "-1" else by_source.get((id, name))
        if input is None:
            _write(scope, *entry, value=value)
        elif input in values:
            values[input] = value
    return values


def _pairs(entries: Any) -> list[tuple[str, ...] | None]:
    """Entries of proxyWidgets: (node id, widget name), sometimes also the id of the innermost node that has the widget.
    None for an entry of another form."""

    def is_pair(entry: Any) -> bool:
        return isinstance(entry, list) and len(entry) in (2, 3) and all(isinstance(part, (str, int)) for part in entry)

    return [tuple(map(str, e)) if is_pair(e) else None for e in (entries if isinstance(entries, list) else [])]


def _sources(node: Node, scope: Scope) -> dict[str, tuple[str, str, Any]]:
    """Input name -> (id of a node inside, name of its widget or input, its value), for the inputs that lead to a
    widget."""
    sources: dict[str, tuple[str, str, Any]] = {}
    for entry in node.scope.definitions[node.type]["inputs"]:
        for link_id in entry.get("linkIds") or []:
            link = scope.links.get(str(link_id))
            target = scope.nodes.get(link.target_id) if link else None
            slot = target.slot_of(link) if target and link else None
            if target is None or slot is None:
                continue
            shown = promoted(target) if target.is_subgraph else target.widgets
            if slot.name in shown or (slot.widget and not target.is_subgraph):
                sources[entry["name"]] = target.raw_id, slot.name, shown.get(slot.name)
                break
    return sources


def _write(scope: Scope, id: str, name: str, deepest: str | None = None, *, value: Any) -> None:
    """Overwrites the value of a widget of node `id` inside and cuts a link to it, as the frontend does when it turns
    the widget into an input."""
    target = scope.nodes.get(id)
    if target is None or name.startswith("$$"):  # $$...: a view of a picture
        return
    for _ in range(MAX_DEPTH):
        prefix = _PREFIX.match(name)
        if prefix is None or _slot_of_widget(target, name, None) is not None:
            break
        deepest, name = prefix.groups()
    slot = _slot_of_widget(target, name, deepest)
    if target.type == "PrimitiveNode":
        target.widgets["value"] = value
    elif slot is not None:
        target.widgets[slot.name] = value
        target.held.add(slot.name)
        target.cut(slot)


def _slot_of_widget(target: Node, name: str, deepest: str | None) -> Slot | None:
    """The input of node `target` that belongs to the widget `name`.

    deepest  the id of the innermost node that has the widget, if the file names it
    """
    if not target.is_subgraph:
        return next((s for s in target.slots if s.name == name and s.widget), None)
    inside(target)
    sources = target.sources
    if deepest is not None:
        wanted = next((i for i, (n, w, _) in sources.items() if (n, w) == (deepest, name)), None)
    else:
        wanted = next((i for i, (_, w, _) in sources.items() if name in (i, w)), None)
    return next((s for s in target.slots if s.name == wanted), None) if wanted is not None else None
