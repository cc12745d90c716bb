"""`--set NODE.INPUT=VALUE`: changes constants of a prompt, and of the UI workflow that results will carry."""

from __future__ import annotations

import json
from typing import Any

from ...models.errors import UserError
from .formats.graph import Home
from .formats.widgets import number_of_choice
from .problems import did_you_mean
from .prompt import Prompt, title_of
from .registry import Input, NodeType, Registry, active_inputs


def apply(prompt: Prompt, assignments: list[str], registry: Registry, homes: dict[tuple[str, str], Home]) -> bool:
    """Carries out assignments in place; a linked input loses its link and takes the value.

    homes  (node id, input) -> the value's place in the UI workflow, which is changed too

    Returns whether that workflow still converts to the same prompt: it does not if an input has no home (linked, or
    inside a subgraph). UserError if an assignment cannot be carried out.
    """
    same = True
    for assignment in assignments:
        target, equals, text = assignment.partition("=")
        if not equals or "." not in target.strip("."):
            raise UserError(f"--set takes NODE.INPUT=VALUE, and got '{assignment}'. For example: --set 3.seed=7.")
        node_id, name = find_input(prompt, target, registry)
        kind = registry.get(str(prompt[node_id]["class_type"]))
        if kind is None:
            raise UserError(
                f"--set {assignment}: the type of node {node_id} is not known here: '{prompt[node_id]['class_type']}'."
            )
        given = prompt[node_id]["inputs"]
        declared = _settable(kind, given)
        if name not in declared:
            raise UserError(
                f"--set {assignment}: node {node_id} '{title_of(prompt, node_id, registry)}' has no input '{name}'."
                f"{did_you_mean(name, declared)} Its inputs are: {', '.join(declared)}."
            )
        value = parse(text, declared[name], assignment)
        given[name] = value
        if declared[name].type == "COMFY_DYNAMICCOMBO_V3":
            _switch_choice(given, name, list(kind.inputs().values()))
        if kind.key == "CustomCombo":
            given["index"] = number_of_choice(given)
        home = homes.get((node_id, name))
        if home is None:
            same = False
        else:
            home.container[home.key] = value
    return same


def _settable(kind: NodeType, given: dict[str, Any]) -> dict[str, Input]:
    """The inputs that the node has with the given values, by name."""
    declared = active_inputs(list(kind.inputs().values()), given)
    if kind.key == "CustomCombo":
        declared |= {n: Input(n, "STRING") for n in given if n.startswith("option")}
    return declared


def _switch_choice(given: dict[str, Any], name: str, declared: list[Input]) -> None:
    """Adapts the inputs that a dynamic list of choices adds: those of the old choice are removed, and those of the new
    one start with their defaults."""
    active = active_inputs(declared, given)
    growing = tuple(f"{n}." for n, spec in active.items() if spec.type == "COMFY_AUTOGROW_V3")
    for other in [n for n in given if n.startswith(f"{name}.") and n not in active and not n.startswith(growing)]:
        del given[other]
    given.update(
        (n, spec.default)
        for n, spec in active_inputs(declared, given).items()
        if n.startswith(f"{name}.") and n not in given and spec.is_widget
    )


def find_input(prompt: Prompt, target: str, registry: Registry, option: str = "--set") -> tuple[str, str]:
    """Node id and input of NODE.INPUT. Both may contain dots: the longest beginning that names a node is the node.

    option  what the user gave, for the message of the UserError if there is no such node, or several
    """
    at = target.rfind(".")
    first = at
    while at > 0:
        if _nodes_called(prompt, target[:at], registry):
            return find_node(prompt, target[:at], registry, option), target[at + 1 :]
        at = target.rfind(".", 0, at)
    return find_node(prompt, target[:first], registry, option), target[first + 1 :]


def _nodes_called(prompt: Prompt, name: str, registry: Registry) -> list[str]:
    if name in prompt:
        return [name]
    titled = [n for n in prompt if title_of(prompt, n, registry) == name]
    return titled or [n for n in prompt if prompt[n].get("class_type") == name]


def find_node(prompt: Prompt, name: str, registry: Registry, option: str = "--set") -> str:
    """The id of the node with this id, title or type. UserError if there is none, or several."""
    ids = _nodes_called(prompt, name, registry)
    if not ids:
        titles = {n: title_of(prompt, n, registry) for n in prompt}
        raise UserError(
            f"{option}: no node has the id or title '{name}'.{did_you_mean(name, [*prompt, *titles.values()])} "
            "The nodes are: " + ", ".join(f"{n} '{title}'" for n, title in titles.items()) + "."
        )
    if len(ids) > 1:
        raise UserError(f"{option}: {len(ids)} nodes are called '{name}'. Name one by its id: {', '.join(ids)}.")
    return ids[0]


def parse(text: str, spec: Input, where: str) -> Any:
    """`text` as a value of the input's type. Ranges and choices are checked later, with everything else.

    where  the assignment, for the message of the UserError
    """
    try:
        if spec.widget_type == "INT":
            return int(text, 0)
        if spec.widget_type == "FLOAT":
            return float(text)
    except ValueError as error:
        kind = "a whole number" if spec.widget_type == "INT" else "a number"
        raise UserError(f"--set {where}: '{spec.name}' takes {kind}.") from error
    if spec.type == "BOOLEAN":
        known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if text.lower() not in known:
            raise UserError(f"--set {where}: '{spec.name}' takes true or false.")
        return known[text.lower()]
    if spec.type == "COMBO":
        return next((c for c in spec.choices or () if str(c) == text), text)
    if spec.type == "COMFY_DYNAMICCOMBO_V3" and text not in spec.variants:
        raise UserError(f"--set {where}: '{spec.name}' takes one of: {', '.join(spec.variants)}.")
    if spec.widget_type in ("STRING", "COMFY_DYNAMICCOMBO_V3"):
        return text
    if spec.is_widget:  # boxes, curves: JSON; colours: text
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text
    raise UserError(f"--set {where}: '{spec.name}' takes a link from a node that gives {spec.type}, not a value.")
