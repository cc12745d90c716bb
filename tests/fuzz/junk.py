"""Unusual values, texts and JSON."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any


class Numbered(random.Random):
    """A generator that knows the number of the case it is for."""

    def __init__(self, seed: str, index: int):
        super().__init__(seed)
        self.index = index


DEEP = "\0deep:"
"""DEEP + "40" is written by `dumps` as 40 nested lists, which Python's own encoder could not do for large numbers."""

VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1.5,
    10**30,
    -(10**30),
    2**63,
    1e308,
    float("inf"),
    float("-inf"),
    float("nan"),
    "",
    " ",
    "x",
    "\0",
    "\ud800",
    "\udfff\ud800",
    "\u202e",
    "\x1b[31m",
    "..",
    "../../elsewhere/private.txt",
    "/etc/passwd",
    "C:\\x",
    "a" * 5000,
    "{" * 300,
    "{a|" * 200,
    "/*" * 3000,
    "/*/" * 3000,
    "//",
    "(x:1e400)",
    "(((((x" * 50,
    "embedding:../../x",
    "%date:yyyyyyyyyyyy%",
    "%a.b%" * 50,
    "%" * 999,
    "%batch_num%",
    "1:2:3",
    "-10",
    "-20",
    "*",
    "IMAGE,MASK",
    "__value__",
    [],
    {},
    [[]],
    [None],
    [1],
    ["1", 0],
    ["1", "0"],
    [1, 0],
    ["1", -1],
    ["1", 1e9],
    ["999", 0],
    {"__value__": [1]},
    {"__value__": {"__value__": 1}},
    {"a": 1},
    {"": {}},
    DEEP + "40",
    DEEP + "90",
    DEEP + "900",
    DEEP + "90000",
]
KEYS = [
    "id",
    "type",
    "inputs",
    "outputs",
    "links",
    "nodes",
    "class_type",
    "widgets_values",
    "mode",
    "properties",
    "definitions",
    "subgraphs",
    "name",
    "link",
    "_meta",
    "title",
    "",
    "\ud800",
    "prompt",
    "extra_data",
    "extra",
    "state",
    "is_changed",
    "proxyWidgets",
    "linkIds",
    "origin_id",
]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of keys and indices to every value inside a value."""
    stack = [(value, path)]
    while stack:
        here, way = stack.pop()
        if way:
            yield way
        if isinstance(here, dict):
            stack += [(v, (*way, k)) for k, v in here.items()]
        elif isinstance(here, list):
            stack += [(v, (*way, i)) for i, v in enumerate(here)]


def at(value: Any, way: tuple[Any, ...]) -> Any:
    """The value at a path of `places`."""
    for key in way:
        value = value[key]
    return value


def mutated(value: Any, rng: random.Random, changes: int = 1) -> Any:
    """A copy with some changes: values replaced, removed, duplicated, moved, renamed, wrapped."""
    value = copy.deepcopy(value)
    for _ in range(changes):
        ways = list(places(value))
        if not ways:
            return value
        *way, last = rng.choice(ways)
        container, how = at(value, tuple(way)), rng.random()
        if how < 0.5:
            container[last] = copy.deepcopy(rng.choice(VALUES))
        elif how < 0.62:
            del container[last]
        elif how < 0.72:
            container[last] = copy.deepcopy(at(value, rng.choice(ways)))
        elif how < 0.82 and isinstance(container, list):
            container.insert(rng.randrange(len(container) + 1), copy.deepcopy(container[last]))
        elif how < 0.9 and isinstance(container, dict):
            container[rng.choice(KEYS)] = container.pop(last)
        elif how < 0.95:
            container[last] = [container[last]]
        elif isinstance(container[last], str):
            text, where = container[last], rng.randrange(len(container[last]) + 1)
            container[last] = (
                text[:where]
                + str(rng.choice([v for v in VALUES if isinstance(v, str) and not v.startswith(DEEP)]))
                + text[where:]
            )
    return value


def dumps(value: Any) -> bytes:
    """JSON with everything that `VALUES` has: deep nesting, lone surrogates, NaN and infinities."""
    text = json.dumps(value)
    while (start := text.find('"\\u0000deep:')) >= 0:
        end = text.index('"', start + 1)
        n = int(text[start + len('"\\u0000deep:') : end])
        text = text[:start] + "[" * n + "]" * n + text[end + 1 :]
    return text.encode()


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Bytes removed, changed, inserted, or encoded in another way."""
    how, where = rng.randrange(8), rng.randrange(max(1, len(data)))
    if how == 0:
        return data[:where]
    if how == 1:
        return data[:where] + bytes([rng.randrange(256)]) + data[where + 1 :]
    if how == 2:
        return (
            data[:where]
            + rng.choice([b"\0", b"\xff\xfe", b"[", b"{", b'"', b"\\", b"1e999", b"NaN", b"Infinity", b"9" * 5000])
            + data[where:]
        )
    if how == 3:
        return rng.choice([b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\0", b")]}'\n"]) + data
    if how == 4:
        return data.decode("utf-8", "replace").encode(rng.choice(["utf-16", "utf-32", "utf-16-le"]), "surrogatepass")
    if how == 5:
        return data + data[:where]
    if how == 6:
        return bytes(b if rng.random() > 0.002 else rng.randrange(256) for b in data)
    return data[where:]
