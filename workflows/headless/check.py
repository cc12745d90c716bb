"""Looks at a whole prompt before anything runs and reports every problem, each with its node, title and
input.

What ComfyUI's own validation refuses is refused here, with its rules for types, ranges and choices. Beyond
it, unknown inputs, links to missing nodes or outputs, and cycles are problems rather than a crash or silence.
Only nodes that an output needs are looked at closely: what hangs loose is no more in the way than in ComfyUI.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

from ...models.errors import UserError
from .formats.load import Prompt, is_link
from .formats.widgets import active_inputs
from .problems import Problem, cut, did_you_mean, nearest
from .registry import WIDGET_TYPES, Input, NodeType, Registry

_NEAR = 0.8
"""How alike an unknown node type and the one that is suggested for it must be."""

_MOST_NAMED = 12
"""How many of a kind a message lists."""

IGNORED_INPUTS = {"upload", "control_after_generate"}
"""Values of the frontend's own buttons that older exports left among the inputs."""


def title_of(prompt: Prompt, node_id: str, registry: Registry) -> str:
    """The title that the user gave, else the node type's display name."""
    node = prompt[node_id]
    given = (node.get("_meta") or {}).get("title")
    kind = registry.get(str(node.get("class_type")))
    return str(given or (kind.display_name if kind else node.get("class_type")))


def needed(prompt: Prompt, registry: Registry) -> list[str]:
    """Ids of the nodes that output nodes need, each after what it needs (cycles are cut where they close)."""
    order: list[str] = []
    seen: set[str] = set()

    def visit(start: str) -> None:
        stack = [(start, iter(_sources(prompt, start)))]
        seen.add(start)
        while stack:  # by hand, because a long chain would exceed Python's recursion limit
            node_id, sources = stack[-1]
            following = next((s for s in sources if s in prompt and s not in seen), None)
            if following is None:
                order.append(node_id)
                stack.pop()
            else:
                seen.add(following)
                stack.append((following, iter(_sources(prompt, following))))

    for node_id, node in prompt.items():
        kind = registry.get(str(node.get("class_type")))
        if kind is not None and kind.is_output and node_id not in seen:
            visit(node_id)
    return order


def check(prompt: Prompt, registry: Registry) -> list[Problem]:
    """All problems of `prompt`, none where it can run.

    Constants are converted in place to the types that their inputs declare, as ComfyUI does.
    """
    problems = _unknown_types(prompt, registry)
    order = needed(prompt, registry)
    if not order and not problems:
        problems.append(
            Problem(
                "The workflow has no output node (such as SaveImage or PreviewImage), so "
                "there is nothing to run. Add one."
            )
        )
    problems += _cycles(prompt, order, registry)
    for node_id in order:
        problems += _check_node(prompt, node_id, registry)
    return problems


def _sources(prompt: Prompt, node_id: str) -> list[str]:
    inputs = prompt[node_id]["inputs"].values()
    return [v[0] for v in inputs if is_link(v) and len(v) == 2 and isinstance(v[0], str)]


def _unknown_types(prompt: Prompt, registry: Registry) -> list[Problem]:
    """One problem for all node types that are not there, however many: what helps against it is the same."""
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
    alone = unknown if len(unknown) > 1 else next(iter(unknown.values()))
    if len(alone) == 1:
        [(key, [node_id])] = unknown.items()
        return [
            *problems,
            Problem(
                f"The node type '{cut(key)}' is not available {registry.where}."
                f"{did_you_mean(key, registry.keys(), _NEAR)} {registry.remedy}",
                node_id,
                title_of(prompt, node_id, registry),
            ),
        ]
    listed = []
    for key, ids in list(unknown.items())[:_MOST_NAMED]:
        near = nearest(key, registry.keys(), _NEAR)
        listed.append(
            f"'{cut(key)}' (node{'s' if len(ids) > 1 else ''} {_some(ids)}{f', perhaps {near!r}' if near else ''})"
        )
    many = f"{len(unknown)} node types are" if len(unknown) > 1 else "A node type is"
    more = f" and {len(unknown) - _MOST_NAMED} more" if len(unknown) > _MOST_NAMED else ""
    return [*problems, Problem(f"{many} not available {registry.where}: {', '.join(listed)}{more}. {registry.remedy}")]


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return f"{', '.join(names[:_MOST_NAMED])}{more}"


def _cycles(prompt: Prompt, order: list[str], registry: Registry) -> list[Problem]:
    # `order` puts a node behind its sources, except where a cycle was cut: there the source comes later.
    place = {node_id: i for i, node_id in enumerate(order)}
    problems = []
    for node_id in order:
        for name, value in prompt[node_id]["inputs"].items():
            if (
                is_link(value)
                and len(value) == 2
                and isinstance(value[0], str)
                and place.get(value[0], -1) >= place[node_id]
            ):
                source = title_of(prompt, value[0], registry)
                problems.append(
                    Problem(
                        f"The link from node {value[0]} '{source}' closes a cycle: each of the two needs the "
                        "other's result. Remove one of the links.",
                        node_id,
                        title_of(prompt, node_id, registry),
                        name,
                    )
                )
    return problems


def _check_node(prompt: Prompt, node_id: str, registry: Registry) -> list[Problem]:
    node = prompt[node_id]
    kind = registry.get(str(node.get("class_type")))
    if kind is None:
        return []
    title = title_of(prompt, node_id, registry)
    declared, given = kind.inputs(), node["inputs"]
    if not registry.whole:
        return _check_for_server(prompt, node_id, title, list(declared.values()))
    own = _validated_inputs(kind)
    problems, received = [], {}

    def problem(name: str | None, message: str) -> None:
        problems.append(Problem(message, node_id, title, name))

    unknown = [name for name in given if name not in declared and name not in IGNORED_INPUTS]
    for name in unknown[:_MOST_NAMED]:
        problem(
            name,
            f"{kind.key} has no such input.{did_you_mean(name, declared)} Its inputs are: "
            f"{', '.join(declared) or 'none'}.",
        )
    if len(unknown) > _MOST_NAMED:
        problem(None, f"{len(unknown) - _MOST_NAMED} more of its inputs are unknown to {kind.key}.")
    for name, spec in declared.items():
        if name not in given:
            if spec.required:
                problem(name, _missing(spec))
        elif is_link(given[name]):
            message, received[name] = _check_link(prompt, given[name], spec, registry, "input_types" in own)
            if message:
                problem(name, message)
        else:
            try:
                given[name] = _value(given[name], spec, check_range=name not in own and "**" not in own)
            except ValueError as error:
                problem(name, str(error))
    if not problems and own:
        for name, message in _own_validation(kind, given, declared, own, received):
            problem(name, message)
    # Some core nodes can tell from what they are linked to that they will fail (`VALIDATE_LINKS`).
    beyond = getattr(kind.cls, "VALIDATE_LINKS", None)
    found = beyond(prompt, given) if beyond and not problems else None
    if found:
        problem(*found)
    return problems


def _missing(spec: Input) -> str:
    how = "Give it" if spec.is_widget else "Link a node that gives"
    return f"A required input is missing. {how} {_describe(spec)}."


def _check_for_server(prompt: Prompt, node_id: str, title: str, declared: list[Input]) -> list[Problem]:
    """What no server takes: links to nodes that are not there, and required inputs left out. Everything else it
    judges itself, when the prompt reaches it and before anything runs: a node there may take inputs, types and
    values that it does not declare."""
    given = prompt[node_id]["inputs"]
    problems = [
        Problem(
            f"It is linked to node {cut(value[0])}, which does not exist. Link it to another node.",
            node_id,
            title,
            name,
        )
        for name, value in given.items()
        if is_link(value) and len(value) == 2 and isinstance(value[0], str) and value[0] not in prompt
    ]
    return problems + [
        Problem(_missing(spec), node_id, title, name)
        for name, spec in active_inputs(declared, given).items()
        if spec.required and name not in given and not spec.type.startswith("COMFY_")
    ]


def doubts(prompt: Prompt, registry: Registry) -> list[str]:
    """Values that a server may refuse, because its lists of choices do not hold them. A node there may take others
    all the same."""
    found = []
    for node_id in needed(prompt, registry):
        kind = registry.get(str(prompt[node_id].get("class_type")))
        for name, spec in (
            active_inputs(list(kind.inputs().values()), prompt[node_id]["inputs"]).items() if kind else ()
        ):
            value = prompt[node_id]["inputs"].get(name)
            if (
                spec.choices is not None
                and isinstance(value, str)
                and value not in spec.choices
                and not spec.options.get("remote")
            ):
                found.append(
                    str(
                        Problem(
                            f"'{cut(value)}' is not among the choices that the server lists, so it may refuse it. It lists: "
                            f"{_list(spec.choices)}.",
                            node_id,
                            title_of(prompt, node_id, registry),
                            name,
                        )
                    )
                )
    return found


def _check_link(
    prompt: Prompt, link: list[Any], spec: Input, registry: Registry, types_are_free: bool
) -> tuple[str | None, str]:
    """(what is wrong or None, the type that arrives)."""
    if len(link) != 2 or not isinstance(link[0], str) or not isinstance(link[1], int):
        return ('A link is [node id, output number]. A list as a value is written {"__value__": [...]}.', "*")
    source = prompt.get(link[0])
    if source is None:
        return (f"It is linked to node {link[0]}, which does not exist. Link it to another node.", "*")
    kind = registry.get(str(source.get("class_type")))
    if kind is None:
        return None, "*"  # reported already as an unknown type
    who = f"node {link[0]} '{title_of(prompt, link[0], registry)}'"
    types = kind.output_types
    if not 0 <= link[1] < len(types):
        return (f"It is linked to output {link[1]} of {who}, which has {len(types)} (counted from 0).", "*")
    arrives = types[link[1]]
    if not types_are_free and not fits(arrives, spec.type):
        return (
            f"It takes {spec.type}, and {who} gives {arrives} at output {link[1]} "
            f"('{kind.output_names[link[1]]}'). Link it to an output of type {spec.type}.",
            arrives,
        )
    return None, arrives


def fits(given: str, wanted: str) -> bool:
    """Whether an output type fits an input type: equal, `*` on either side, or one in common of several."""
    one, other = ({t.strip() for t in text.split(",")} for text in (given, wanted))
    return bool("*" in one | other or one & other)


def _describe(spec: Input) -> str:
    if spec.choices is not None:
        return f"one of: {_list(spec.choices)}"
    return {"INT": "a whole number", "FLOAT": "a number", "STRING": "a text", "BOOLEAN": "true or false"}.get(
        spec.type, spec.type
    )


def _list(choices: tuple[Any, ...]) -> str:
    if not choices:
        return "(there are none)"
    return _some([cut(c) for c in choices])


def _value(value: Any, spec: Input, check_range: bool) -> Any:
    """`value` in the type that `spec` declares. ValueError, with the sentence to print, where it does not
    fit."""
    if isinstance(value, dict) and "__value__" in value:
        value = value["__value__"]
    if spec.type not in WIDGET_TYPES:
        if spec.type == "*" or (value is None and not spec.required):
            return value
        raise ValueError(f"It must be linked to a node that gives {spec.type}; it holds the value {cut(repr(value))}.")
    try:
        if spec.type == "BOOLEAN" and not isinstance(value, (bool, int, float)):
            raise TypeError
        if spec.type == "COMBO" and not isinstance(value, str) and not _takes_others(spec):
            raise TypeError
        value = _CONVERT.get(spec.type, lambda v: v)(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"It must be {_describe(spec)}, and is {cut(repr(value))}.") from error
    return _in_range(value, spec) if check_range else value


_CONVERT = {"INT": int, "FLOAT": float, "BOOLEAN": bool, "STRING": lambda v: "" if v is None else str(v)}


def _takes_others(spec: Input) -> bool:
    """Whether a list of choices takes values that are no texts: some are none, or several may be chosen."""
    return bool(spec.options.get("multi_select")) or not all(isinstance(c, str) for c in spec.choices or ())


def _in_range(value: Any, spec: Input) -> Any:
    if spec.type == "FLOAT" and not math.isfinite(value):
        raise ValueError(f"It must be a finite number, and is {value}.")
    low, high = spec.options.get("min"), spec.options.get("max")
    if spec.type in ("INT", "FLOAT"):
        if (low is not None and value < low) or (high is not None and value > high):
            bounds = (
                f"from {low} to {high}"
                if None not in (low, high)
                else (f"at least {low}" if high is None else f"at most {high}")
            )
            raise ValueError(f"It must be {bounds}, and is {value}.")
    if spec.choices is not None:
        for one in value if isinstance(value, list) else [value]:
            if one not in spec.choices:
                raise ValueError(
                    f"'{cut(one)}' is not among its choices.{did_you_mean(str(one), spec.choices)} "
                    f"It takes: {_list(spec.choices)}."
                )
    return value


def _validated_inputs(kind: NodeType) -> set[str]:
    """Names of the inputs that the node's own VALIDATE_INPUTS takes over; '**' where it takes them all."""
    function = getattr(kind.cls, "VALIDATE_INPUTS", None)
    if function is None:
        return set()
    spec = inspect.getfullargspec(function)
    names = set(spec.args) | set(spec.kwonlyargs)
    if inspect.ismethod(function):
        names.discard(spec.args[0])
    return names | ({"**"} if spec.varkw else set())


def _own_validation(
    kind: NodeType, given: dict[str, Any], declared: dict[str, Input], own: set[str], received: dict[str, str]
) -> list[tuple[str | None, str]]:
    """What VALIDATE_INPUTS refuses. As in ComfyUI it sees constants; a linked input is None."""
    names = [n for n in given if n in declared and (n in own or "**" in own)]
    arguments = {n: None if is_link(given[n]) else given[n] for n in names}
    if "input_types" in own:
        arguments["input_types"] = received
    try:
        answer = kind.cls.VALIDATE_INPUTS(**arguments)
    except UserError as error:
        answer = str(error)
    if answer is True:
        return []
    constants = [n for n in names if not is_link(given[n])]
    where = constants[0] if len(constants) == 1 else None
    return [(where, answer if isinstance(answer, str) else "The node refuses this value.")]
