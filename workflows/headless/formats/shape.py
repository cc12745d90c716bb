"""Checks the shape of a workflow before anything is read from it.

A workflow comes from strangers. Only types, sizes and depths are checked here, not the meaning, so that the following
steps may rely on them.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from ....models.errors import UserError

MAX_BYTES = 50_000_000
"""Bytes of a workflow file. The largest official template has half a million."""

MAX_DEPTH = 100
"""Depth of nested objects and lists. Each subgraph that is defined inside another takes four."""

MAX_VALUES = 1_000_000
"""Numbers, texts, lists and objects of a workflow, in total."""

MAX_INPUTS = 5_000
"""Inputs, outputs or promoted widgets of one node."""

MAX_TYPE = 2_000
"""Characters of a slot's type, which may list several types separated by commas."""

_MAY_BE_NAN = {"is_changed"}
"""Keys under which ComfyUI writes NaN, alone or in a list: numbers there are not checked, everything else is."""


def check_content(content: Any, name: str, most: int | None = None) -> None:
    """UserError if a file's content is too deep, too large, or holds NaN, infinities or lone surrogates.

    name  the file's name, for the message
    most  the most values that it may hold; `MAX_VALUES` if None
    """
    most = MAX_VALUES if most is None else most
    stack, seen = [(content, 1)], 1
    while stack:
        value, depth = stack.pop()
        seen += len(value) if isinstance(value, (dict, list)) else 0
        if seen > most or depth > MAX_DEPTH:
            excess = f"more than {most:,} values"
            if seen <= most:
                excess = f"lists and objects nested more than {MAX_DEPTH} deep"
            raise UserError(f"'{name}' holds {excess}, which no workflow needs. Save the workflow from ComfyUI again.")
        if isinstance(value, dict):
            stack += ((v, depth + 1) for k, v in value.items() if not (k in _MAY_BE_NAN and _are_numbers(v)))
            stack += ((k, depth + 1) for k in value)
        elif isinstance(value, list):
            stack += ((v, depth + 1) for v in value)
        elif isinstance(value, float) and not math.isfinite(value):
            raise UserError(
                f"'{name}' holds the number {value}, which a workflow may not contain. Give a finite number there."
            )
        elif isinstance(value, str) and not value.isascii() and _has_half_character(value):
            raise UserError(
                f"'{name}' holds half of a character (a lone surrogate, \\ud800 to \\udfff) in the text "
                f"{value[:60]!r}. Write that text again."
            )


def _are_numbers(value: Any) -> bool:
    return all(isinstance(one, float) for one in (value if isinstance(value, list) else [value]))


def _has_half_character(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def check_graph(graph: dict[str, Any], name: str | None = None) -> None:
    """UserError, naming the place, if a drawn graph cannot be read, or if two of its nodes have the same id.

    name  the name of the subgraph that the graph defines; None for the workflow itself
    """
    checker = _Checker(f" in the subgraph '{name}'" if name is not None else "")
    nodes = checker.list_of(graph.get("nodes"), "nodes", dict, optional=False)
    for i, node in enumerate(nodes):
        checker.node(node, f"nodes[{i}]")
    for i, link in enumerate(checker.list_of(graph.get("links"), "links", (list, dict, type(None)))):
        if link is not None:
            checker.link(link, f"links[{i}]")
    for key in ("inputs", "outputs"):
        for i, border in enumerate(checker.list_of(graph.get(key), key, dict)):
            checker.is_a(border.get("name"), str, f"{key}[{i}].name")
            checker.type(border, f"{key}[{i}]")
            checker.list_of(border.get("linkIds"), f"{key}[{i}].linkIds", (int, str))
    _refuse_duplicate_ids(nodes, checker.where)


def _refuse_duplicate_ids(nodes: list[dict[str, Any]], where: str) -> None:
    for id, count in Counter(str(node["id"]) for node in nodes).items():
        if count > 1:
            names = [f"'{node.get('title') or node.get('type')}'" for node in nodes if str(node["id"]) == id]
            raise UserError(
                f"{count} nodes{where} have the id {id}: {', '.join(names[:5])}. Links name nodes by their ids, so "
                "these links are ambiguous, and all but one of the nodes would be lost. Open the workflow in ComfyUI, "
                "check the links of these nodes, and save it again."
            )


class _Checker:
    """Checks types and sizes; UserError names the place of the first that is wrong.

    where  " in the subgraph 'NAME'" or the empty string
    """

    def __init__(self, where: str):
        self.where = where

    def is_a(self, value: Any, kinds: Any, place: str, optional: bool = False) -> Any:
        """`value`, if it is of one of the types `kinds` (a bool does not count as an int)."""
        wanted = kinds if isinstance(kinds, tuple) else (kinds,)
        if (value is None and optional) or (
            isinstance(value, wanted) and (bool in wanted or not isinstance(value, bool))
        ):
            return value
        raise UserError(f"The workflow is damaged{self.where}: {place} is {_short(value)}. Save it from ComfyUI again.")

    def list_of(self, value: Any, place: str, kinds: Any, optional: bool = True) -> list[Any]:
        items: list[Any] = self.is_a(value, list, place, optional) or []
        for i, one in enumerate(items):
            self.is_a(one, kinds, f"{place}[{i}]")
        return items

    def node(self, node: dict[str, Any], place: str) -> None:
        self.is_a(node.get("id"), (int, str), f"{place}.id")
        self.is_a(node.get("type"), str, f"{place}.type")
        self.is_a(node.get("mode"), int, f"{place}.mode", optional=True)
        self.is_a(node.get("properties"), dict, f"{place}.properties", optional=True)
        self.is_a(node.get("widgets_values"), (list, dict), f"{place}.widgets_values", optional=True)
        self.at_most(MAX_INPUTS, (node.get("properties") or {}).get("proxyWidgets"), f"{place}.properties.proxyWidgets")
        for key in ("inputs", "outputs"):
            slots = self.list_of(node.get(key), f"{place}.{key}", dict)
            self.at_most(MAX_INPUTS, slots, f"{place}.{key}")
            for i, slot in enumerate(slots):
                at = f"{place}.{key}[{i}]"
                self.is_a(slot.get("name"), str, f"{at}.name", optional=True)
                self.type(slot, at)
                self.is_a(slot.get("link"), (int, str), f"{at}.link", optional=True)

    def at_most(self, most: int, items: Any, place: str) -> None:
        if isinstance(items, list) and len(items) > most:
            raise UserError(
                f"The workflow cannot be read{self.where}: {place} holds {len(items):,} entries, and at most {most:,} "
                "are read. Save it from ComfyUI again."
            )

    def type(self, slot: dict[str, Any], place: str) -> None:
        kind = self.is_a(slot.get("type"), (str, int, list), f"{place}.type", optional=True)
        if isinstance(kind, str) and len(kind) > MAX_TYPE:
            raise UserError(
                f"The workflow is damaged{self.where}: {place}.type has {len(kind):,} characters. "
                "Save it from ComfyUI again."
            )

    def link(self, link: Any, place: str) -> None:
        if isinstance(link, list):
            if len(link) < 4:
                self.is_a(None, int, f"{place}[{len(link)}]")
            parts = dict(zip(("[0]", "[1]", "[2]", "[3]"), link))
            slot = "[2]"
        else:
            parts = {f".{key}": link.get(key) for key in ("id", "origin_id", "origin_slot", "target_id")}
            slot = ".origin_slot"
        for key, value in parts.items():
            self.is_a(value, int if key == slot else (int, str), f"{place}{key}")


def _short(value: Any) -> str:
    if value is None:
        return "missing"
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list"
    text = ascii(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
