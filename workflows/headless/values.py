"""Whether a constant fits the input that declares it: ComfyUI's rules for types, ranges and choices."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from .problems import cut, did_you_mean
from .registry import WIDGET_TYPES, Input

MOST_NAMED = 12
"""How many names of one kind a message lists."""

_CONVERT: dict[str, Callable[[Any], Any]] = {
    "INT": int,
    "FLOAT": float,
    "BOOLEAN": bool,
    "STRING": lambda v: "" if v is None else str(v),
}


def fitted(value: Any, spec: Input, check_range: bool) -> Any:
    """`value` converted to the type that `spec` declares. ValueError, with the sentence to print, if it does not fit.

    check_range  also check bounds and choices
    """
    if isinstance(value, dict) and "__value__" in value:
        value = value["__value__"]
    if spec.type not in WIDGET_TYPES:
        if spec.type == "*" or (value is None and not spec.required):
            return value
        raise ValueError(f"It must be linked to a node that gives {spec.type}; it holds the value {cut(repr(value))}.")
    try:
        if spec.type == "BOOLEAN" and not isinstance(value, (bool, int, float)):
            raise TypeError
        if spec.type == "COMBO" and not isinstance(value, str) and not _takes_other_types(spec):
            raise TypeError
        value = _CONVERT[spec.type](value) if spec.type in _CONVERT else value
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"It must be {describe(spec)}, and is {cut(repr(value))}.") from error
    if check_range:
        _check_range(value, spec)
    return value


def describe(spec: Input) -> str:
    """What an input takes, for the middle of a sentence: "a whole number", "one of: a, b"."""
    if spec.choices is not None:
        return f"one of: {listed(spec.choices)}"
    words = {"INT": "a whole number", "FLOAT": "a number", "STRING": "a text", "BOOLEAN": "true or false"}
    return words.get(spec.type, spec.type)


def listed(choices: tuple[Any, ...] | list[str]) -> str:
    """The first choices, separated by commas, and how many more there are."""
    if not choices:
        return "(none are available)"
    more = f" and {len(choices) - MOST_NAMED} more" if len(choices) > MOST_NAMED else ""
    return f"{', '.join(cut(c) for c in choices[:MOST_NAMED])}{more}"


def _takes_other_types(spec: Input) -> bool:
    """Whether a list of choices accepts values other than texts: some choices are not texts, or several may be
    chosen."""
    return bool(spec.options.get("multi_select")) or not all(isinstance(c, str) for c in spec.choices or ())


def _check_range(value: Any, spec: Input) -> None:
    if spec.type == "FLOAT" and not math.isfinite(value):
        raise ValueError(f"It must be a finite number, and is {value}.")
    if spec.type in ("INT", "FLOAT"):
        _check_bounds(value, spec.options.get("min"), spec.options.get("max"))
    if spec.choices is None:
        return
    for one in value if isinstance(value, list) else [value]:
        if one not in spec.choices:
            raise ValueError(
                f"'{cut(one)}' is not among its choices.{did_you_mean(str(one), spec.choices)} "
                f"It takes: {listed(spec.choices)}."
            )


def _check_bounds(value: float, low: float | None, high: float | None) -> None:
    if (low is None or value >= low) and (high is None or value <= high):
        return
    if low is None or high is None:
        bounds = f"at least {low}" if high is None else f"at most {high}"
    else:
        bounds = f"from {low} to {high}"
    raise ValueError(f"It must be {bounds}, and is {value}.")
