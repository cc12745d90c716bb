"""Checks a whole prompt before anything runs and reports every problem, each with its node, title and input.

What ComfyUI's own validation refuses is refused here, by the same rules for types, ranges and choices. In addition,
unknown inputs, links to missing nodes or outputs, and cycles are reported as problems; in ComfyUI some of them crash or
pass unnoticed. Only nodes that an output needs are checked in detail: as in ComfyUI, unconnected nodes may be wrong.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from ...models.errors import UserError
from .problems import Problem, cut, did_you_mean, nearest
from .prompt import Prompt, is_link, needed, source_of, title_of
from .registry import Input, NodeType, Registry, active_inputs
from .values import MOST_NAMED, describe, fitted, listed

_NEAR = 0.8
"""How similar, 0..1, a known node type must be to an unknown one to be suggested for it."""

IGNORED_INPUTS = {"upload", "control_after_generate"}
"""Values of the frontend's own buttons that older exports left among the inputs."""


def check(prompt: Prompt, registry: Registry) -> list[Problem]:
    """All problems of `prompt`; none if it can run.

    Constants are converted in place to the types that their inputs declare, as ComfyUI does.
    """
    problems = _unknown_types(prompt, registry)
    order = needed(prompt, registry)
    if not order and not problems:
        problems.append(
            Problem(
                "The workflow has no output node (such as SaveImage or PreviewImage), so there is nothing to run. "
                "Add one."
            )
        )
    problems += _cycles(prompt, order, registry)
    for node_id in order:
        kind = registry.get(str(prompt[node_id].get("class_type")))
        if kind is not None:
            checked = _Checked(prompt, registry, node_id, kind)
            problems += checked.problems() if registry.whole else checked.problems_for_server()
    return problems


def doubts(prompt: Prompt, registry: Registry) -> list[str]:
    """Values that a server may refuse because its lists of choices do not contain them. A node of the server may
    accept other values too, so these are notes and not problems."""
    notes = []
    for node_id in needed(prompt, registry):
        kind = registry.get(str(prompt[node_id].get("class_type")))
        if kind is None:
            continue
        given = prompt[node_id]["inputs"]
        for name, spec in active_inputs(list(kind.inputs().values()), given).items():
            value = given.get(name)
            if spec.choices is None or not isinstance(value, str) or spec.options.get("remote"):
                continue
            if value not in spec.choices:
                message = (
                    f"'{cut(value)}' is not among the choices that the server lists, so it may refuse it. It lists: "
                    f"{listed(spec.choices)}."
                )
                notes.append(str(Problem(message, node_id, title_of(prompt, node_id, registry), name)))
    return notes


def fits(given: str, wanted: str) -> bool:
    """Whether an output type fits an input type: equal, `*` on either side, or, of several types separated by commas,
    one in common."""
    one, other = ({t.strip() for t in text.split(",")} for text in (given, wanted))
    return bool("*" in one | other or one & other)


# -- the graph as a whole ------------------------------------------------------------------------------------------


def _unknown_types(prompt: Prompt, registry: Registry) -> list[Problem]:
    """One problem for all node types that are not available: the remedy is the same for all."""
    problems: list[Problem] = []
    unknown: dict[str, list[str]] = {}
    for node_id, node in prompt.items():
        key = node.get("class_type")
        if key is None:
            problems.append(Problem("The node has no 'class_type'. Export the workflow again.", node_id))
        elif str(key) not in registry:
            unknown.setdefault(str(key), []).append(node_id)
    if not unknown:
        return problems
    first, ids = next(iter(unknown.items()))
    if len(unknown) == len(ids) == 1:
        message = (
            f"The node type '{cut(first)}' is not available {registry.where}."
            f"{did_you_mean(first, registry.keys(), _NEAR)} {registry.remedy}"
        )
        return [*problems, Problem(message, ids[0], title_of(prompt, ids[0], registry))]
    named = []
    for key, ids in list(unknown.items())[:MOST_NAMED]:
        near = nearest(key, registry.keys(), _NEAR)
        nodes = f"node{'s' if len(ids) > 1 else ''} {listed(ids)}"
        named.append(f"'{cut(key)}' ({nodes}{f', perhaps {near!r}' if near else ''})")
    start = f"{len(unknown)} node types are" if len(unknown) > 1 else "A node type is"
    more = f" and {len(unknown) - MOST_NAMED} more" if len(unknown) > MOST_NAMED else ""
    message = f"{start} not available {registry.where}: {', '.join(named)}{more}. {registry.remedy}"
    return [*problems, Problem(message)]


def _cycles(prompt: Prompt, order: list[str], registry: Registry) -> list[Problem]:
    # `order` puts a node after its sources, except where a cycle was cut: there the source comes later.
    place = {node_id: i for i, node_id in enumerate(order)}
    problems = []
    for node_id in order:
        for name, value in prompt[node_id]["inputs"].items():
            source = source_of(value)
            if source is not None and place.get(source, -1) >= place[node_id]:
                message = (
                    f"The link from node {source} '{title_of(prompt, source, registry)}' closes a cycle: each of the "
                    "two needs the other's result. Remove one of the links."
                )
                problems.append(Problem(message, node_id, title_of(prompt, node_id, registry), name))
    return problems


# -- one node ------------------------------------------------------------------------------------------------------


@dataclass
class _Checked:
    """One node while it is checked."""

    prompt: Prompt
    registry: Registry
    node_id: str
    kind: NodeType

    @property
    def given(self) -> dict[str, Any]:
        inputs: dict[str, Any] = self.prompt[self.node_id]["inputs"]
        return inputs

    def problem(self, name: str | None, message: str) -> Problem:
        return Problem(message, self.node_id, title_of(self.prompt, self.node_id, self.registry), name)

    def problems(self) -> list[Problem]:
        """Everything that is wrong, of a node type whose class is here."""
        declared = self.kind.inputs()
        validated = _validated_inputs(self.kind)
        problems = self._unknown_inputs(declared)
        arriving: dict[str, str] = {}
        for name, spec in declared.items():
            message = self._check_input(spec, validated, arriving)
            if message is not None:
                problems.append(self.problem(name, message))
        if not problems and validated:
            problems += self._own_validation(declared, validated, arriving)
        # Some core nodes can tell from what they are linked to that they would fail (`VALIDATE_LINKS`).
        validate_links = getattr(self.kind.cls, "VALIDATE_LINKS", None)
        refused = validate_links(self.prompt, self.given) if validate_links and not problems else None
        return [*problems, self.problem(*refused)] if refused else problems

    def problems_for_server(self) -> list[Problem]:
        """What every server refuses: links to missing nodes, and missing required inputs. The server judges the rest
        itself when it gets the prompt, before anything runs: its nodes may take inputs, types and values that they do
        not declare."""
        problems = [
            self.problem(name, _linked_to_missing(source))
            for name, source in ((n, source_of(v)) for n, v in self.given.items())
            if source is not None and source not in self.prompt
        ]
        for name, spec in active_inputs(list(self.kind.inputs().values()), self.given).items():
            if spec.required and name not in self.given and not spec.type.startswith("COMFY_"):
                problems.append(self.problem(name, _missing(spec)))
        return problems

    def _unknown_inputs(self, declared: dict[str, Input]) -> list[Problem]:
        unknown = [name for name in self.given if name not in declared and name not in IGNORED_INPUTS]
        problems = [
            self.problem(
                name,
                f"{self.kind.key} has no such input.{did_you_mean(name, declared)} Its inputs are: "
                f"{', '.join(declared) or 'none'}.",
            )
            for name in unknown[:MOST_NAMED]
        ]
        if len(unknown) > MOST_NAMED:
            more = len(unknown) - MOST_NAMED
            problems.append(self.problem(None, f"{more} more of its inputs are unknown to {self.kind.key}."))
        return problems

    def _check_input(self, spec: Input, validated: set[str], arriving: dict[str, str]) -> str | None:
        """What is wrong with a declared input, or None. A constant is converted in place; the type that a link brings
        is noted in `arriving`."""
        name = spec.name
        if name not in self.given:
            return _missing(spec) if spec.required else None
        if is_link(self.given[name]):
            message, arriving[name] = self._check_link(self.given[name], spec, "input_types" in validated)
            return message
        try:
            check_range = name not in validated and "**" not in validated
            self.given[name] = fitted(self.given[name], spec, check_range)
        except ValueError as error:
            return str(error)
        return None

    def _check_link(self, link: list[Any], spec: Input, types_are_free: bool) -> tuple[str | None, str]:
        """(what is wrong or None, the type that arrives)."""
        origin = source_of(link)
        if origin is None or not isinstance(link[1], int):
            return 'A link is [node id, output number]. A list as a value is written {"__value__": [...]}.', "*"
        if origin not in self.prompt:
            return _linked_to_missing(origin), "*"
        kind = self.registry.get(str(self.prompt[origin].get("class_type")))
        if kind is None:
            return None, "*"  # already reported as an unknown type
        who = f"node {origin} '{title_of(self.prompt, origin, self.registry)}'"
        types, number = kind.output_types, link[1]
        if not 0 <= number < len(types):
            return f"It is linked to output {number} of {who}, which has {len(types)} (counted from 0).", "*"
        arrives = types[number]
        if types_are_free or fits(arrives, spec.type):
            return None, arrives
        return (
            f"It takes {spec.type}, and {who} gives {arrives} at output {number} ('{kind.output_names[number]}'). "
            f"Link it to an output of type {spec.type}."
        ), arrives

    def _own_validation(
        self, declared: dict[str, Input], validated: set[str], arriving: dict[str, str]
    ) -> list[Problem]:
        """What the node's own VALIDATE_INPUTS refuses. As in ComfyUI it gets the constants; a linked input is None."""
        names = [n for n in self.given if n in declared and (n in validated or "**" in validated)]
        arguments: dict[str, Any] = {n: None if is_link(self.given[n]) else self.given[n] for n in names}
        if "input_types" in validated:
            arguments["input_types"] = arriving
        try:
            answer = self.kind.cls.VALIDATE_INPUTS(**arguments)
        except UserError as error:
            answer = str(error)
        if answer is True:
            return []
        constants = [n for n in names if not is_link(self.given[n])]
        where = constants[0] if len(constants) == 1 else None
        return [self.problem(where, answer if isinstance(answer, str) else "The node refuses this value.")]


def _validated_inputs(kind: NodeType) -> set[str]:
    """Names of the inputs that the node's own VALIDATE_INPUTS takes over; '**' if it takes all of them."""
    function = getattr(kind.cls, "VALIDATE_INPUTS", None)
    if function is None:
        return set()
    spec = inspect.getfullargspec(function)
    names = set(spec.args) | set(spec.kwonlyargs)
    if inspect.ismethod(function):
        names.discard(spec.args[0])
    return names | ({"**"} if spec.varkw else set())


def _missing(spec: Input) -> str:
    how = "Give it" if spec.is_widget else "Link a node that gives"
    return f"A required input is missing. {how} {describe(spec)}."


def _linked_to_missing(node_id: str) -> str:
    return f"It is linked to node {cut(node_id)}, which does not exist. Link it to another node."
