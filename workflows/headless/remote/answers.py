"""What a ComfyUI answers, checked kind by kind before anything is read out of it. `Odd` says what is not as it
should be."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from ....models.foreign import one_line
from ..formats.load import Prompt
from ..problems import Problem

_PLACES = ("output", "temp", "input")
_ENDS = ("execution_error", "execution_interrupted", "execution_success")
_LONGEST_ID = 200


class Odd(Exception):
    """An answer that no ComfyUI gives; the text says why."""


class File(NamedTuple):
    """A result that lies on the server: `place` is output, temp or input."""

    name: str
    folder: str
    place: str


def _is(value: Any, kind: Any, what: str) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise Odd(f"{what} is {'missing' if value is None else f'of the type {type(value).__name__}'}")
    return value


def _maybe(value: Any, kind: Any, what: str) -> Any:
    return kind() if value is None else _is(value, kind, what)


def uploaded(body: Any) -> str:
    """/upload/image: the name under which nodes find the picture."""
    body = _is(body, dict, "the answer to an upload")
    name, folder = (
        _is(body.get("name"), str, "the uploaded file's name"),
        _maybe(body.get("subfolder"), str, "its folder"),
    )
    if not name.strip():
        raise Odd("the uploaded file has no name")
    return "/".join(part for part in (folder, name) if part)


def queued(body: Any) -> str | None:
    """/prompt: the id under which the prompt was queued, None where it was not."""
    found = _is(body, dict, "the answer to the prompt").get("prompt_id")
    if found is None:
        return None
    if not 0 < len(_is(found, str, "the prompt's id")) <= _LONGEST_ID:
        raise Odd("the prompt's id is empty or too long")
    return found


def problems(body: dict[str, Any], prompt: Prompt) -> Iterator[Problem]:
    """/prompt: what the server has against a prompt."""
    errors = _maybe(
        body.get("node_errors") or None, dict, "what it says of nodes"
    )  # an empty list where there are none
    for node_id, found in errors.items():
        found = _is(found, dict, f"what it says of node {one_line(node_id, 40)}")
        title = (prompt.get(node_id, {}).get("_meta") or {}).get("title") or found.get("class_type")
        for error in _maybe(found.get("errors"), list, "its list of errors"):
            said = (
                [one_line(error.get(key) or "").rstrip(".") for key in ("message", "details")]
                if isinstance(error, dict)
                else [one_line(error)]
            )
            extra = error.get("extra_info") if isinstance(error, dict) else None
            name = extra.get("input_name") if isinstance(extra, dict) else None
            yield Problem(
                f"{'. '.join(filter(None, said)) or 'The server refuses it'}.",
                node_id,
                one_line(title) if title else None,
                name if isinstance(name, str) else None,
            )
    error = body.get("error")
    if error and not errors:
        said = (
            one_line(error)
            if not isinstance(error, dict)
            else one_line(f"{error.get('message', '')} {error.get('details', '')}")
        )
        yield Problem(f"The server refuses the workflow: {said}")


def running(body: Any) -> list[Any]:
    """/queue: the entries that run; lists in some versions, objects in others."""
    return _maybe(_is(body, dict, "the queue").get("queue_running"), list, "its list of what runs")


def record(body: Any, prompt_id: str) -> dict[str, Any] | None:
    """/history/ID: what is kept of a prompt, None where nothing is."""
    found = _is(body, dict, "the history").get(prompt_id)
    return None if found is None else _is(found, dict, "the prompt's history")


def verdict(kept: dict[str, Any] | None) -> list[tuple[str, dict[str, Any]]]:
    """The messages with which a prompt ended, from its record; none while it runs."""
    status = _maybe((kept or {}).get("status"), dict, "the prompt's status")
    told = _maybe(status.get("messages"), list, "its messages")
    found = [event({"type": one[0], "data": one[1]}) for one in told if isinstance(one, list) and len(one) == 2]
    return [(one.kind, one.data) for one in found if one is not None and one.kind in _ENDS]


def shown(kept: dict[str, Any]) -> Iterator[tuple[str, str, File | str]]:
    """(node, kind, a file or a text) for everything that the output nodes of a finished prompt showed."""
    for node_id, found in _is(kept.get("outputs"), dict, "the list of what the prompt's outputs showed").items():
        for key, items in _maybe(found, dict, f"the output of node {one_line(node_id, 40)}").items():
            for item in items if isinstance(items, list) else [items]:
                if isinstance(item, dict) and "filename" in item:
                    yield node_id, key, _file(item)
                elif key != "animated":  # a flag that ComfyUI's image savers add
                    yield node_id, key, str(item)


def _file(item: dict[str, Any]) -> File:
    name, folder = (
        _is(item["filename"], str, "a result's file name"),
        _maybe(item.get("subfolder"), str, "a result's folder"),
    )
    place = _maybe(item.get("type"), str, "a result's place") or "output"
    if name.strip() in ("", ".", "..") or "/" in name or "\\" in name:
        raise Odd(f"a result's file name is {one_line(ascii(name), 60)}, which is none")
    if place not in _PLACES:
        raise Odd(f"a result lies in '{one_line(place, 40)}', which is none of {', '.join(_PLACES)}")
    return File(name, folder, place)


class Event(NamedTuple):
    """A message over the websocket. `data` holds, where they are there and of their kind: prompt_id, node, node_id,
    node_type, exception_message, exception_type, text (all of them texts), nodes (texts), value and max (numbers)."""

    kind: str
    data: dict[str, Any]


def event(message: Any) -> Event | None:
    """A message, None where it is none that could matter: packs say what they like."""
    if (
        not isinstance(message, dict)
        or not isinstance(message.get("type"), str)
        or not isinstance(message.get("data"), dict)
    ):
        return None
    data = {}
    for key, value in message["data"].items():
        if key == "nodes" and isinstance(value, list):
            data[key] = [str(one) for one in value if isinstance(one, (str, int))]
        elif key in ("value", "max"):
            if isinstance(value, (int, float)) and math.isfinite(value) and abs(value) < 1e12:
                data[key] = int(value)
        elif isinstance(value, (str, int)) and not isinstance(value, bool):
            data[key] = str(value)
    return Event(message["type"], data)
