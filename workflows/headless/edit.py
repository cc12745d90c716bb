"""`--set NODE.INPUT=VALUE`: changes constants of a prompt, and of the workflow that travels with it."""

from __future__ import annotations

from typing import Any

from ...models.errors import UserError
from .check import title_of
from .graph import Home
from .load import Prompt
from .problems import did_you_mean
from .registry import Input, Registry


def apply(prompt: Prompt, assignments: list[str], registry: Registry,
          homes: dict[tuple[str, str], Home]) -> bool:
    """Carries out assignments in place; a linked input loses its link and takes the value.

    Returns whether the workflow that `homes` point into still draws the same prompt: where an input has no
    home (linked, or inside a subgraph), it no longer does.
    """
    same = True
    for assignment in assignments:
        target, equals, text = assignment.partition("=")
        node_name, dot, name = target.rpartition(".")
        if not (equals and dot and node_name and name):
            raise UserError(f"--set takes NODE.INPUT=VALUE, and got '{assignment}'. For example: --set "
                            "3.seed=7.")
        node_id = _find_node(prompt, node_name, registry)
        kind = registry.get(str(prompt[node_id]["class_type"]))
        if kind is None:
            raise UserError(f"--set {assignment}: the type of node {node_id} is not known here: "
                            f"'{prompt[node_id]['class_type']}'.")
        declared = kind.inputs()
        if name not in declared:
            raise UserError(f"--set {assignment}: node {node_id} '{title_of(prompt, node_id, registry)}' has "
                            f"no input '{name}'.{did_you_mean(name, declared)} Its inputs are: "
                            f"{', '.join(declared)}.")
        value = parse(text, declared[name], assignment)
        prompt[node_id]["inputs"][name] = value
        home = homes.get((node_id, name))
        if home is None:
            same = False
        else:
            home.container[home.key] = value
    return same


def _find_node(prompt: Prompt, name: str, registry: Registry) -> str:
    if name in prompt:
        return name
    found = [n for n in prompt if title_of(prompt, n, registry) == name]
    found = found or [n for n in prompt if prompt[n].get("class_type") == name]
    if not found:
        known = [*prompt, *(title_of(prompt, n, registry) for n in prompt)]
        raise UserError(f"--set: no node has the id or title '{name}'.{did_you_mean(name, known)} The nodes "
                        "are: "
                        + ", ".join(f"{n} '{title_of(prompt, n, registry)}'" for n in prompt) + ".")
    if len(found) > 1:
        raise UserError(f"--set: {len(found)} nodes are called '{name}'. Name one by its id: "
                        f"{', '.join(found)}.")
    return found[0]


def parse(text: str, spec: Input, where: str) -> Any:
    """The text in the input's type. Ranges and choices are checked later, with everything else."""
    try:
        if spec.type == "INT":
            return int(text, 0)
        if spec.type == "FLOAT":
            return float(text)
    except ValueError as error:
        kind = "a whole number" if spec.type == "INT" else "a number"
        raise UserError(f"--set {where}: '{spec.name}' takes {kind}.") from error
    if spec.type == "BOOLEAN":
        known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if text.lower() not in known:
            raise UserError(f"--set {where}: '{spec.name}' takes true or false.")
        return known[text.lower()]
    if spec.type == "COMBO":
        return next((c for c in spec.choices or () if str(c) == text), text)
    if spec.type == "STRING":
        return text
    raise UserError(f"--set {where}: '{spec.name}' takes a link from a node that gives {spec.type}, not a "
                    "value.")
