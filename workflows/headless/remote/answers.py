"""The answers of a ComfyUI server, type-checked before anything is read from them. `UnexpectedAnswer` names what is
wrong with one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

from ....models.foreign import one_line
from ..problems import Problem
from ..prompt import Prompt

T = TypeVar("T")

_PLACES = ("output", "temp", "input")
_ENDS = ("execution_error", "execution_interrupted", "execution_success")
_LONGEST_ID = 200


class UnexpectedAnswer(Exception):
    """An answer that no ComfyUI gives; the message names the reason."""


class File(NamedTuple):
    """A result that is stored on the server: `place` is output, temp or input."""

    name: str
    folder: str
    place: str


def _is(value: Any, kind: type[T], what: str) -> T:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise UnexpectedAnswer(f"{what} is {'missing' if value is None else f'of the type {type(value).__name__}'}")
    return value


def _maybe(value: Any, kind: type[T], what: str) -> T:
    return kind() if value is None else _is(value, kind, what)


def uploaded(body: Any) -> str:
    """/upload/image: the name under which nodes find the picture."""
    body = _is(body, dict, "the answer to an upload")
    name = _is(body.get("name"), str, "the uploaded file's name")
    folder = _maybe(body.get("subfolder"), str, "its folder")
    if not name.strip():
        raise UnexpectedAnswer("the uploaded file has no name")
    return "/".join(part for part in (folder, name) if part)


def queued(body: Any) -> str | None:
    """/prompt: the id of the queued prompt, None if it was not queued."""
    prompt_id = _is(body, dict, "the answer to the prompt").get("prompt_id")
    if prompt_id is None:
        return None
    if not 0 < len(_is(prompt_id, str, "the prompt's id")) <= _LONGEST_ID:
        raise UnexpectedAnswer("the prompt's id is empty or too long")
    return str(prompt_id)


def problems(body: dict[str, Any], prompt: Prompt) -> Iterator[Problem]:
    """/prompt: the problems that the server reports."""
    # Without errors the server sends an empty list instead of an object.
    errors = _maybe(body.get("node_errors") or None, dict, "its report of nodes")
    for node_id, report in errors.items():
        report = _is(report, dict, f"its report of node {one_line(node_id, 40)}")
        title = (prompt.get(node_id, {}).get("_meta") or {}).get("title") or report.get("class_type")
        for error in _maybe(report.get("errors"), list, "its list of errors"):
            yield _problem(error, node_id, one_line(title) if title else None)
    error = body.get("error")
    if error and not errors:
        parts = (error.get("message", ""), error.get("details", "")) if isinstance(error, dict) else (error,)
        yield Problem(f"The server refuses the workflow: {one_line(' '.join(map(str, parts)))}")


def _problem(error: Any, node_id: str, title: str | None) -> Problem:
    """One of a node's errors: an object in ComfyUI, anything in a server that only resembles it."""
    described = error if isinstance(error, dict) else {"message": error}
    parts = [one_line(described.get(key) or "").rstrip(".") for key in ("message", "details")]
    extra = described.get("extra_info")
    name = extra.get("input_name") if isinstance(extra, dict) else None
    message = ". ".join(filter(None, parts)) or "The server refuses it"
    return Problem(f"{message}.", node_id, title, name if isinstance(name, str) else None)


def running(body: Any) -> list[Any]:
    """/queue: the entries that run; lists in some versions, objects in others."""
    return _maybe(_is(body, dict, "the queue").get("queue_running"), list, "its list of running prompts")


def record(body: Any, prompt_id: str) -> dict[str, Any] | None:
    """/history/ID: the server's record of a prompt, None if it has none."""
    kept = _is(body, dict, "the history").get(prompt_id)
    return None if kept is None else _is(kept, dict, "the prompt's history")


def verdict(kept: dict[str, Any] | None) -> list[tuple[str, dict[str, Any]]]:
    """The messages with which a prompt ended, from its record; none while it runs."""
    status = _maybe((kept or {}).get("status"), dict, "the prompt's status")
    messages = _maybe(status.get("messages"), list, "its messages")
    events = [event({"type": m[0], "data": m[1]}) for m in messages if isinstance(m, list) and len(m) == 2]
    return [(one.kind, one.data) for one in events if one is not None and one.kind in _ENDS]


def shown(kept: dict[str, Any]) -> Iterator[tuple[str, str, File | str]]:
    """(node, kind, a file or a text) for everything that the output nodes of a finished prompt showed."""
    for node_id, outputs in _is(kept.get("outputs"), dict, "the list of the prompt's outputs").items():
        for key, items in _maybe(outputs, dict, f"the output of node {one_line(node_id, 40)}").items():
            for item in items if isinstance(items, list) else [items]:
                if isinstance(item, dict) and "filename" in item:
                    yield node_id, key, _file(item)
                elif key != "animated":  # a flag that ComfyUI's image savers add
                    yield node_id, key, str(item)


def _file(item: dict[str, Any]) -> File:
    name = _is(item["filename"], str, "a result's file name")
    folder = _maybe(item.get("subfolder"), str, "a result's folder")
    place = _maybe(item.get("type"), str, "a result's place") or "output"
    if name.strip() in ("", ".", "..") or "/" in name or "\\" in name:
        raise UnexpectedAnswer(f"a result's file name is {one_line(ascii(name), 60)}, which is not a file name")
    if place not in _PLACES:
        raise UnexpectedAnswer(f"a result's place is '{one_line(place, 40)}', which is not one of {', '.join(_PLACES)}")
    return File(name, folder, place)


class Event(NamedTuple):
    """A message over the websocket. `data` has those of these entries that are present and of the right type:
    prompt_id, node, node_id, node_type, exception_message, exception_type, text (all of them texts), nodes (texts),
    value and max (numbers)."""

    kind: str
    data: dict[str, Any]


def event(message: Any) -> Event | None:
    """A message, None if it cannot matter: node packs send messages of their own."""
    if not isinstance(message, dict):
        return None
    kind, fields = message.get("type"), message.get("data")
    if not isinstance(kind, str) or not isinstance(fields, dict):
        return None
    data: dict[str, Any] = {}
    for key, value in fields.items():
        if key == "nodes" and isinstance(value, list):
            data[key] = [str(one) for one in value if isinstance(one, (str, int))]
        elif key in ("value", "max"):
            if isinstance(value, (int, float)) and abs(value) < 1e12:  # false for NaN too
                data[key] = int(value)
        elif isinstance(value, (str, int)) and not isinstance(value, bool):
            data[key] = str(value)
    return Event(kind, data)
