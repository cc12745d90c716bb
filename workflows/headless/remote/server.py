"""Runs a workflow on a ComfyUI that is already running: its nodes, its models, its GPU.

The workflow is read and converted here, against what the server says its nodes are; images go up, results come down.
"""

from __future__ import annotations

import copy
import itertools
import json
import struct
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from ....models import files, host
from ....models.errors import UserError
from ....models.foreign import one_line
from ..check import needed, title_of
from ..execute import NodeFailed
from ..formats.load import Prompt
from ..problems import WorkflowError
from ..registry import Registry
from . import answers
from .answers import File, Odd
from .object_info import registry_of
from .wire import ServerFailed, Wire

T = TypeVar("T")

_TEXT_MESSAGE = 3
"""ComfyUI's number for a binary message that is a text for a node."""

_ASK_AFTER = 15
"""Seconds after which the history is asked whether all is over."""

FOLDER = "affect"
"""The folder of the server's input folder that images are uploaded to."""


class Server(Wire):
    """A running ComfyUI. `url` and `seconds` as for `Wire`."""

    def __init__(self, url: str, seconds: float = 60.0):
        super().__init__(url, seconds)
        self.client_id = uuid.uuid4().hex

    def _read(self, what: Callable[..., T], *given: Any) -> T:
        """What a reader of `answers` finds in an answer. UserError where that is none."""
        try:
            return what(*given)
        except Odd as error:
            raise UserError(f"{self.url} gives answers that no ComfyUI gives: {error}.") from error

    def registry(self) -> Registry:
        """The node types that the server has."""
        return registry_of(self._json("GET", "/object_info"))

    def upload(self, path: Path) -> str:
        """Sends an image; returns the name under which nodes find it. An image of that name that is there already
        stays as it is."""
        return self._read(answers.uploaded, self._send("/upload/image", path, type="input", subfolder=FOLDER))

    def queue(self, prompt: Prompt, workflow: dict[str, Any] | None) -> str:
        """Queues a prompt and returns its id. WorkflowError with what the server has against it."""
        extra = {"extra_pnginfo": {"workflow": workflow}} if workflow is not None else {}
        answer = self._call(
            "POST", "/prompt", json={"prompt": prompt, "client_id": self.client_id, "extra_data": extra}
        )
        try:
            body = answer.content
            prompt_id = answers.queued(body)
            # Some outputs may be fine and run alone; what is asked for here is the whole workflow or nothing.
            problems = list(answers.problems(body, prompt))
        except (ValueError, Odd):
            raise ServerFailed(
                f"{self.url} answered {answer.status} to the prompt, and nothing that a ComfyUI says."
            ) from None
        if problems:
            if prompt_id is not None:
                self.cancel(prompt_id)
            raise WorkflowError(problems)
        if prompt_id is None:
            raise ServerFailed(
                f"{self.url} answered {answer.status} to the prompt, without saying why it does not run it."
            )
        return prompt_id

    def cancel(self, prompt_id: str) -> None:
        """Takes a prompt out of the queue, or stops it where it runs."""
        self._call("POST", "/queue", json={"delete": [prompt_id]})
        running = self._read(answers.running, self._json("GET", "/queue"))
        if any(prompt_id in entry for entry in running if isinstance(entry, (list, dict))):
            # An older server stops whatever runs, whoever asked for it.
            self._call("POST", "/interrupt", json={"prompt_id": prompt_id})

    def events(self) -> Events:
        """The server's messages to this client. Open them before queueing: what was said before is lost."""
        return Events(self)

    def _record(self, prompt_id: str) -> dict[str, Any] | None:
        return self._read(answers.record, self._json("GET", f"/history/{quote(prompt_id, safe='')}"), prompt_id)

    def verdict(self, prompt_id: str) -> list[tuple[str, dict[str, Any]]]:
        """The messages with which a prompt ended, from the history; none while it runs."""
        return self._read(answers.verdict, self._record(prompt_id))

    def knows(self, prompt_id: str) -> bool:
        """Whether a prompt waits, runs, or has run."""
        queue = self._call(
            "GET", "/queue"
        ).body  # its entries are lists here and objects there; an id is like nothing else
        return json.dumps(prompt_id)[1:-1].encode() in queue or self._record(prompt_id) is not None

    def outputs(self, prompt_id: str) -> list[tuple[str, str, File | str]]:
        """What the output nodes of a finished prompt showed: (node, kind, a file or a text)."""
        for _ in range(100):  # a server announces success a moment before it files the results
            kept = self._record(prompt_id)
            if kept is not None:
                return self._read(lambda: list(answers.shown(kept)))
            time.sleep(0.1)
        raise ServerFailed("The server has forgotten the prompt's results: its history was cleared.")

    def download(self, item: File, to: Path) -> Path:
        """Fetches a result into the folder `to`; a file that is there already is not replaced."""
        path = files.safe_join(to, "/".join(part for part in (item.folder, item.name) if part))
        wanted = {"filename": item.name, "subfolder": item.folder, "type": item.place}

        def write(target: Path) -> None:
            status = self._fetch("/view", wanted, target)
            if not 200 <= status < 300:
                raise ServerFailed(f"The server does not hand out '{item.name}' ({status}).")

        return files.write_new(_numbered(path), write)


class Events:
    """Messages from a server: an iterator of (event, data) inside a `with` block; "silence" now and then, whatever
    else is said, because packs chatter while the one message that matters may be lost."""

    def __init__(self, server: Server):
        self._messages = server.messages(f"/ws?clientId={server.client_id}")

    def __enter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        return self._read(self._messages.__enter__())

    def __exit__(self, *_: Any) -> None:
        self._messages.__exit__()

    def _read(self, messages: Iterator[str | bytes | None]) -> Iterator[tuple[str, dict[str, Any]]]:
        asked = time.monotonic()
        for message in messages:
            host.current().check_interrupted()
            if time.monotonic() - asked > _ASK_AFTER:
                asked = time.monotonic()
                yield "silence", {}  # a node may take long; or messages were lost, and the reader should ask
            if isinstance(message, str):
                try:
                    event = answers.event(json.loads(message))
                except (ValueError, RecursionError):
                    continue
                if event is not None:
                    yield event
            elif message and len(message) > 8 and struct.unpack(">I", message[:4])[0] == _TEXT_MESSAGE:
                length = struct.unpack(">I", message[4:8])[0]
                node, text = message[8 : 8 + length], message[8 + length :]
                yield "text", {"node": node.decode("utf-8", "replace"), "text": text.decode("utf-8", "replace")}


def run_on(server: Server, prompt: Prompt, workflow: dict[str, Any] | None, registry: Registry) -> list[dict[str, str]]:
    """Runs a prepared prompt on a server and brings its results; as `run.execute`, with progress bars.

    NodeFailed where a node fails there, ServerFailed where anything else goes wrong once it runs; KeyboardInterrupt
    cancels the prompt there too.
    """
    prompt, workflow = upload_images(server, prompt, workflow, registry)
    with server.events() as events:
        prompt_id = server.queue(prompt, workflow)
        try:
            _follow(server, events, prompt_id, prompt, registry)
            return _fetch(server, prompt_id)
        except UserError as error:
            raise ServerFailed(f"{error} The workflow had been queued there and may have run.") from error
        except BaseException as error:
            if not isinstance(error, (NodeFailed, ServerFailed)):
                with suppress(UserError):  # it may be gone
                    server.cancel(prompt_id)
            raise


def upload_images(
    server: Server, prompt: Prompt, workflow: dict[str, Any] | None, registry: Registry
) -> tuple[Prompt, dict[str, Any] | None]:
    """The prompt, and the drawing that results will carry, with the images they load uploaded, those that are in the
    input folder here. Others are left to the server, whose own input folder may hold them."""
    from ..core.image_files import find_image

    sent: dict[str, str] = {}
    workflow = copy.deepcopy(workflow)
    drawn = {str(node.get("id")): node for node in (workflow or {}).get("nodes", []) if isinstance(node, dict)}
    prompt = {k: {**node, "inputs": dict(node["inputs"])} for k, node in prompt.items()}
    for node_id, node in prompt.items():
        kind = registry.get(node["class_type"])
        for name, spec in (kind.inputs() if kind else {}).items():
            value = node["inputs"].get(name)
            if (
                spec.options.get("image_upload")
                and isinstance(value, str)
                and not value.endswith(("[output]", "[temp]"))
            ):
                if value not in sent:
                    try:
                        path = find_image(value)
                    except UserError:
                        if value not in spec.options.get("affect_choices", ()):
                            raise
                        sent[value] = value
                    else:  # a picture that is here and cannot be sent must not become the server's own of that name
                        sent[value] = server.upload(path)
                node["inputs"][name] = sent[value]
                stored = drawn.get(node_id, {}).get("widgets_values")
                if isinstance(stored, list):
                    stored[:] = [sent[value] if v == value else v for v in stored]
    return prompt, workflow


def _follow(
    server: Server, events: Iterator[tuple[str, dict[str, Any]]], prompt_id: str, prompt: Prompt, registry: Registry
) -> None:
    ui = host.current()
    waiting = set(needed(prompt, registry))
    nodes = ui.progress(len(waiting), "nodes")
    steps: Any = None
    current: str | None = None

    def finished(ids: list[str]) -> None:
        for node_id in ids:
            if node_id in waiting:
                waiting.discard(node_id)
                nodes.update(1)

    def heard() -> Iterator[tuple[str, dict[str, Any]]]:
        missed = 0
        for event, data in events:
            if event != "silence":
                yield event, data
                continue
            yield from server.verdict(prompt_id)
            missed = 0 if server.knows(prompt_id) else missed + 1
            if missed == 2:  # once may be the moment between queue and history
                raise ServerFailed(
                    "The workflow was taken out of the server's queue, or its history was cleared. Run it again."
                )

    try:
        for event, data in heard():
            if data.get("prompt_id") not in (None, prompt_id):
                continue
            if event == "execution_cached":
                finished(data.get("nodes", []))
            elif event == "executing":
                if steps is not None:
                    steps.close()
                finished([current] if current else [])
                steps, current = None, data.get("node")
                if current in prompt:
                    nodes.text(title_of(prompt, current, registry))
                elif current is None and data.get("prompt_id") == prompt_id:
                    return  # servers from before execution_success
            elif event == "progress" and data.get("max", 0) > 0 and "value" in data:
                steps = steps or ui.progress(data["max"], "steps")
                steps.set(data["value"])
            elif event == "text":
                (steps or nodes).text(one_line(data["text"]))
            elif event == host.NOTICE and data.get("text"):
                ui.note(data["text"])
            elif event == "execution_success":
                return
            elif event == "execution_interrupted":
                raise ServerFailed("The workflow was interrupted on the server.")
            elif event == "execution_error":
                node_id = str(data.get("node_id"))
                title = title_of(prompt, node_id, registry) if node_id in prompt else str(data.get("node_type"))
                raise NodeFailed(node_id, title, str(data.get("node_type")), _remote_error(data))
    finally:
        if steps is not None:
            steps.close()
        nodes.close()


def _remote_error(data: dict[str, Any]) -> Exception:
    message = one_line(data.get("exception_message", ""), 2000)
    kind = one_line(data.get("exception_type", "error")).rsplit(".", 1)[-1]
    # A sentence of ours is shown as it is; anything else with its type.
    return UserError(message if kind == "UserError" else f"{kind}: {message} (the server's log has the traceback)")


def _fetch(server: Server, prompt_id: str) -> list[dict[str, str]]:
    ui = host.current()
    found = []
    for node_id, key, item in server.outputs(prompt_id):
        if isinstance(item, File):
            path = server.download(item, ui.temp_dir if item.place == "temp" else ui.output_dir)
            kind = "preview" if item.place == "temp" else {"images": "image"}.get(key, key)
            found.append({"node": node_id, "type": kind, "path": str(path)})
        else:
            found.append({"node": node_id, "type": key, "text": item})
    return found


def _numbered(path: Path) -> Iterator[Path]:
    """x.png, x (1).png, x (2).png, ..."""
    yield path
    for n in itertools.count(1):
        yield path.with_name(f"{path.stem} ({n}){path.suffix}")
