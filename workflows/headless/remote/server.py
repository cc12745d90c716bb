"""Runs a workflow on a ComfyUI that is already running: its nodes, its models, its GPU.

The workflow is read and converted here, with the server's own list of node types. Images are uploaded, results are
downloaded.
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
from ..execute import NodeFailed
from ..problems import WorkflowError
from ..prompt import Prompt, needed, title_of
from ..registry import Input, Registry
from . import answers
from .answers import File, UnexpectedAnswer
from .object_info import registry_of
from .wire import ServerFailed, Wire

T = TypeVar("T")

_TEXT_MESSAGE = 3
"""ComfyUI's number of binary messages that hold a text for a node."""

_ASK_AFTER = 15.0
"""Seconds after which the history is asked whether the prompt has ended."""

FOLDER = "affect"
"""The folder of the server's input folder that images are uploaded to."""


class Server(Wire):
    """A running ComfyUI. `url` and `seconds` as for `Wire`."""

    def __init__(self, url: str, seconds: float = 60.0):
        super().__init__(url, seconds)
        self.client_id = uuid.uuid4().hex

    def _read(self, what: Callable[..., T], *given: Any) -> T:
        """The result of a function of `answers`. UserError if the answer is not what a ComfyUI gives."""
        try:
            return what(*given)
        except UnexpectedAnswer as error:
            raise UserError(f"{self.url} gives answers that no ComfyUI gives: {error}.") from error

    def registry(self) -> Registry:
        """The node types that the server has."""
        return registry_of(self._json("GET", "/object_info"))

    def upload(self, path: Path) -> str:
        """Uploads an image; returns the name under which nodes find it. An existing image of that name is kept."""
        return self._read(answers.uploaded, self._send("/upload/image", path, type="input", subfolder=FOLDER))

    def queue(self, prompt: Prompt, workflow: dict[str, Any] | None) -> str:
        """Queues a prompt and returns its id. WorkflowError with the problems that the server reports."""
        extra = {"extra_pnginfo": {"workflow": workflow}} if workflow is not None else {}
        answer = self._call(
            "POST", "/prompt", json={"prompt": prompt, "client_id": self.client_id, "extra_data": extra}
        )
        try:
            body = answer.content
            prompt_id = answers.queued(body)
            # A server queues a prompt if some of its outputs can run. Here it is the whole workflow or nothing.
            problems = list(answers.problems(body, prompt))
        except (ValueError, UnexpectedAnswer):
            raise ServerFailed(
                f"{self.url} answered {answer.status} to the prompt, with a body that no ComfyUI sends."
            ) from None
        if problems:
            if prompt_id is not None:
                self.cancel(prompt_id)
            raise WorkflowError(problems)
        if prompt_id is None:
            raise ServerFailed(
                f"{self.url} answered {answer.status} to the prompt, without a reason why it does not run it."
            )
        return prompt_id

    def cancel(self, prompt_id: str) -> None:
        """Removes a prompt from the queue, or stops it if it runs."""
        self._call("POST", "/queue", json={"delete": [prompt_id]})
        running = self._read(answers.running, self._json("GET", "/queue"))
        if any(prompt_id in entry for entry in running if isinstance(entry, (list, dict))):
            # An older server ignores the id and stops whatever runs.
            self._call("POST", "/interrupt", json={"prompt_id": prompt_id})

    def events(self) -> Events:
        """The server's messages to this client. Open them before queueing: earlier messages are lost."""
        return Events(self)

    def _record(self, prompt_id: str) -> dict[str, Any] | None:
        return self._read(answers.record, self._json("GET", f"/history/{quote(prompt_id, safe='')}"), prompt_id)

    def verdict(self, prompt_id: str) -> list[tuple[str, dict[str, Any]]]:
        """The messages with which a prompt ended, from the history; none while it runs."""
        return self._read(answers.verdict, self._record(prompt_id))

    def knows(self, prompt_id: str) -> bool:
        """Whether a prompt waits, runs, or has run."""
        # Entries of the queue are lists or objects, by version; the id is unique enough to be searched as text.
        queue = self._call("GET", "/queue").body
        return json.dumps(prompt_id)[1:-1].encode() in queue or self._record(prompt_id) is not None

    def outputs(self, prompt_id: str) -> list[tuple[str, str, File | str]]:
        """What the output nodes of a finished prompt showed: (node, kind, a file or a text)."""
        for _ in range(100):  # a server announces success a moment before it records the results
            kept = self._record(prompt_id)
            if kept is not None:
                return self._read(lambda record: list(answers.shown(record)), kept)
            time.sleep(0.1)
        raise ServerFailed("The server no longer has the prompt's results: its history was cleared.")

    def download(self, item: File, to: Path) -> Path:
        """Downloads a result into the folder `to` and returns its path; an existing file is not replaced."""
        path = files.safe_join(to, "/".join(part for part in (item.folder, item.name) if part))
        wanted = {"filename": item.name, "subfolder": item.folder, "type": item.place}

        def write(target: Path) -> None:
            status = self._fetch("/view", wanted, target)
            if not 200 <= status < 300:
                raise ServerFailed(f"The server does not serve '{item.name}' ({status}).")

        return files.write_new(_numbered(path), write)


class Events:
    """Messages from a server: inside a `with` block an iterator of (event, data). At intervals it gives "silence", even
    if other messages arrive: node packs send many while the one that matters may be lost."""

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
                yield "silence", {}  # a node may take long; or messages were lost, and the reader should check
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
    """Runs a prepared prompt on a server and downloads its results; returns the same as `run.execute`.

    NodeFailed if a node fails there, ServerFailed if anything else goes wrong once it is queued. KeyboardInterrupt
    cancels the prompt on the server.
    """
    prompt, workflow = upload_images(server, prompt, workflow, registry)
    with server.events() as events:
        prompt_id = server.queue(prompt, workflow)
        try:
            _Following(server, prompt_id, prompt, registry).until_end(events)
            return _fetch(server, prompt_id)
        except UserError as error:
            raise ServerFailed(f"{error} The workflow had been queued there and may have run.") from error
        except BaseException as error:
            if not isinstance(error, (NodeFailed, ServerFailed)):
                with suppress(UserError):  # the server may be gone
                    server.cancel(prompt_id)
            raise


def upload_images(
    server: Server, prompt: Prompt, workflow: dict[str, Any] | None, registry: Registry
) -> tuple[Prompt, dict[str, Any] | None]:
    """Uploads the images of the input folder here that a prompt loads. Other images are left to the server, whose own
    input folder may have them. Returns the prompt and the workflow with the names that the server knows."""
    sent: dict[str, str] = {}
    workflow = copy.deepcopy(workflow)
    drawn = {str(node.get("id")): node for node in (workflow or {}).get("nodes", []) if isinstance(node, dict)}
    prompt = {k: {**node, "inputs": dict(node["inputs"])} for k, node in prompt.items()}
    for node_id, node in prompt.items():
        kind = registry.get(node["class_type"])
        for name, spec in (kind.inputs() if kind else {}).items():
            value = node["inputs"].get(name)
            if not spec.options.get("image_upload") or not isinstance(value, str):
                continue
            if value.endswith(("[output]", "[temp]")):  # an image that the server has made
                continue
            if value not in sent:
                sent[value] = _upload(server, value, spec)
            node["inputs"][name] = sent[value]
            stored = drawn.get(node_id, {}).get("widgets_values")
            if isinstance(stored, list):
                stored[:] = [sent[value] if v == value else v for v in stored]
    return prompt, workflow


def _upload(server: Server, name: str, spec: Input) -> str:
    """The name under which the server finds an image: uploaded from the input folder here, or, if it is not there, its
    own image of that name."""
    from ..core.image_files import find_image

    try:
        path = find_image(name)
    except UserError:
        if name not in spec.options.get("affect_choices", ()):
            raise
        return name
    return server.upload(path)  # an error here must not lead to the server's own image of the same name


class _Following:
    """Follows a queued prompt until it ends, with a bar for the nodes and one for the steps of the running node."""

    def __init__(self, server: Server, prompt_id: str, prompt: Prompt, registry: Registry):
        self._server, self._prompt_id, self._prompt, self._registry = server, prompt_id, prompt, registry
        self._waiting = set(needed(prompt, registry))
        self._nodes = host.current().progress(len(self._waiting), "nodes")
        self._steps: host.Bar | None = None
        self._current: str | None = None

    def until_end(self, events: Iterator[tuple[str, dict[str, Any]]]) -> None:
        """Returns when the prompt has succeeded. NodeFailed if a node failed, ServerFailed if it was stopped or
        lost."""
        try:
            for event, data in self._with_verdicts(events):
                if data.get("prompt_id") in (None, self._prompt_id) and self._ends(event, data):
                    return
        finally:
            self._close_steps()
            self._nodes.close()

    def _with_verdicts(self, events: Iterator[tuple[str, dict[str, Any]]]) -> Iterator[tuple[str, dict[str, Any]]]:
        """The events; after a silence also those that the history has, in case messages were lost."""
        missed = 0
        for event, data in events:
            if event != "silence":
                yield event, data
                continue
            yield from self._server.verdict(self._prompt_id)
            missed = 0 if self._server.knows(self._prompt_id) else missed + 1
            if missed == 2:  # once may be the moment between queue and history
                raise ServerFailed(
                    "The workflow was removed from the server's queue, or its history was cleared. Run it again."
                )

    def _ends(self, event: str, data: dict[str, Any]) -> bool:
        """Shows an event; whether the prompt has succeeded with it."""
        if event == "execution_cached":
            self._finish(data.get("nodes", []))
        elif event == "executing":
            return self._executing(data)
        elif event == "progress" and data.get("max", 0) > 0 and "value" in data:
            self._steps = self._steps or host.current().progress(data["max"], "steps")
            self._steps.set(data["value"])
        elif event == "text":
            (self._steps or self._nodes).text(one_line(data["text"]))
        elif event == host.NOTICE and data.get("text"):
            host.current().note(data["text"])
        elif event == "execution_interrupted":
            raise ServerFailed("The workflow was interrupted on the server.")
        elif event == "execution_error":
            node_id, kind = str(data.get("node_id")), str(data.get("node_type"))
            title = title_of(self._prompt, node_id, self._registry) if node_id in self._prompt else kind
            raise NodeFailed(node_id, title, kind, _remote_error(data))
        return event == "execution_success"

    def _executing(self, data: dict[str, Any]) -> bool:
        """The next node starts; servers from before execution_success report the end as a node of None."""
        self._close_steps()
        self._finish([self._current] if self._current else [])
        self._current = data.get("node")
        if self._current in self._prompt:
            self._nodes.text(title_of(self._prompt, self._current, self._registry))
        return self._current is None and data.get("prompt_id") == self._prompt_id

    def _finish(self, node_ids: list[str]) -> None:
        for node_id in self._waiting.intersection(node_ids):
            self._waiting.discard(node_id)
            self._nodes.update(1)

    def _close_steps(self) -> None:
        if self._steps is not None:
            self._steps.close()
        self._steps = None


def _remote_error(data: dict[str, Any]) -> Exception:
    message = one_line(data.get("exception_message", ""), 2000)
    kind = one_line(data.get("exception_type", "error")).rsplit(".", 1)[-1]
    # A message of this package is shown as it is; any other with the error's type.
    return UserError(message if kind == "UserError" else f"{kind}: {message} (the server's log has the traceback)")


def _fetch(server: Server, prompt_id: str) -> list[dict[str, str]]:
    ui = host.current()
    outputs = []
    for node_id, key, item in server.outputs(prompt_id):
        if isinstance(item, File):
            path = server.download(item, ui.temp_dir if item.place == "temp" else ui.output_dir)
            kind = "preview" if item.place == "temp" else {"images": "image"}.get(key, key)
            outputs.append({"node": node_id, "type": kind, "path": str(path)})
        else:
            outputs.append({"node": node_id, "type": key, "text": item})
    return outputs


def _numbered(path: Path) -> Iterator[Path]:
    """x.png, x (1).png, x (2).png, ..."""
    yield path
    for n in itertools.count(1):
        yield path.with_name(f"{path.stem} ({n}){path.suffix}")
