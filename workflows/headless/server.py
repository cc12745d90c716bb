"""Runs a workflow on a ComfyUI that is already running: its nodes, its models, its GPU.

The workflow is read and converted here, against what the server says its nodes are; images go up, results come down.
"""

from __future__ import annotations

import base64
import copy
import itertools
import json
import struct
import time
import uuid
from pathlib import Path
from typing import Any, Iterator
from urllib.parse import unquote, urlsplit, urlunsplit

from ...models import files, host
from ...models.errors import UserError
from .check import needed, title_of
from .execute import NodeFailed
from .load import Prompt
from .object_info import registry_of
from .problems import Problem, WorkflowError
from .registry import Registry

_TEXT_MESSAGE = 3
"""ComfyUI's number for a binary message that is a text for a node."""

_ASK_AFTER = 15
"""Seconds after which the history is asked whether all is over."""

FOLDER = "affect"
"""The folder of the server's input folder that images are uploaded to."""


class ServerFailed(Exception):
    """The server did not do what a ComfyUI does, or the workflow was stopped there; its text is for the user."""


class Server:
    """A running ComfyUI.

    url  such as http://127.0.0.1:8188; a bare host and port will do
    """

    def __init__(self, url: str):
        import requests

        parts = urlsplit((url if "://" in url else f"http://{url}").rstrip("/"))
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"'{parts.netloc.rpartition('@')[2] or url}' is no address of a server. Give one such as "
                            "http://127.0.0.1:8188.")
        # A login in the address goes into headers and never into a message.
        self.url = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        self.login = (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
        self.client_id = uuid.uuid4().hex
        self._session = requests.Session()
        self._session.auth = self.login

    def _call(self, method: str, path: str, timeout: float = 60, **options: Any) -> Any:
        import requests

        try:
            return self._session.request(method, f"{self.url}{path}", timeout=timeout, **options)
        except requests.RequestException as error:
            raise UserError(f"No ComfyUI answers at {self.url}: {_short(error)}. Start it, or give its address with "
                            "--server.") from error

    def _json(self, method: str, path: str, **options: Any) -> Any:
        answer = self._call(method, path, **options)
        try:
            if answer.ok:
                return answer.json()
        except ValueError:
            pass
        if answer.status_code in (401, 403):
            raise UserError(f"{self.url} wants a login ({answer.status_code}): write it into the address, as in --server "
                            "http://name:password@host:8188. It is shown nowhere.")
        raise UserError(f"{self.url} answered {answer.status_code} to {path}: it does not seem to be a ComfyUI.")

    def registry(self) -> Registry:
        """The node types that the server has."""
        return registry_of(self._json("GET", "/object_info"))

    def upload(self, path: Path) -> str:
        """Sends an image; returns the name under which nodes find it. An image of that name that is there already
        stays as it is."""
        with path.open("rb") as f:
            answer = self._json("POST", "/upload/image", files={"image": (path.name, f)},
                                data={"type": "input", "subfolder": FOLDER})
        return "/".join(p for p in (answer.get("subfolder"), answer["name"]) if p)

    def queue(self, prompt: Prompt, workflow: dict[str, Any] | None) -> str:
        """Queues a prompt and returns its id. WorkflowError with what the server has against it."""
        extra = {"extra_pnginfo": {"workflow": workflow}} if workflow is not None else {}
        answer = self._call("POST", "/prompt", json={"prompt": prompt, "client_id": self.client_id, "extra_data": extra})
        try:
            body = answer.json()
        except ValueError:
            raise ServerFailed(f"{self.url} answered {answer.status_code} to the prompt, without saying why.") from None
        # Some outputs may be fine and run alone; what is asked for here is the whole workflow or nothing.
        problems = list(_problems(body, prompt))
        if problems:
            if "prompt_id" in body:
                self.cancel(body["prompt_id"])
            raise WorkflowError(problems)
        return body["prompt_id"]

    def cancel(self, prompt_id: str) -> None:
        """Takes a prompt out of the queue, or stops it where it runs."""
        self._call("POST", "/queue", json={"delete": [prompt_id]})
        running = self._json("GET", "/queue").get("queue_running", [])
        if any(prompt_id in entry for entry in running):  # an older server stops whatever runs, whoever asked for it
            self._call("POST", "/interrupt", json={"prompt_id": prompt_id})

    def events(self) -> "Events":
        """The server's messages to this client. Open them before queueing: what was said before is lost."""
        return Events(self)

    def verdict(self, prompt_id: str) -> list[tuple[str, dict[str, Any]]]:
        """The messages with which a prompt ended, from the history; none while it runs."""
        status = self._json("GET", f"/history/{prompt_id}").get(prompt_id, {}).get("status") or {}
        ends = ("execution_error", "execution_interrupted", "execution_success")
        return [(event, data) for event, data in status.get("messages", []) if event in ends]

    def knows(self, prompt_id: str) -> bool:
        """Whether a prompt waits, runs, or has run."""
        queue = self._call("GET", "/queue").text  # its entries are lists here and objects there; an id is like nothing else
        return prompt_id in queue or prompt_id in self._json("GET", f"/history/{prompt_id}")

    def outputs(self, prompt_id: str) -> dict[str, dict[str, list[Any]]]:
        """What the output nodes of a finished prompt showed, by node id."""
        for _ in range(100):  # a server announces success a moment before it files the results
            history = self._json("GET", f"/history/{prompt_id}")
            if prompt_id in history:
                break
            time.sleep(0.1)
        else:
            raise ServerFailed("The server has forgotten the prompt's results: its history was cleared.")
        return history[prompt_id]["outputs"]

    def download(self, item: dict[str, Any], to: Path) -> Path:
        """Fetches a result into the folder `to`; a file that is there already is not replaced."""
        answer = self._call("GET", "/view", params={k: item.get(k, "") for k in ("filename", "subfolder", "type")})
        if not answer.ok:
            raise ServerFailed(f"The server does not hand out '{item['filename']}' ({answer.status_code}).")
        path = files.safe_join(to, "/".join(p for p in (item.get("subfolder"), item["filename"]) if p))
        return files.write_new(_numbered(path), lambda p: p.write_bytes(answer.content))


class Events:
    """Messages from a server: an iterator of (event, data) inside a `with` block; "silence" now and then, whatever else is
    said, because packs chatter while the one message that matters may be lost."""

    def __init__(self, server: Server):
        self._server = server

    def __enter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        import websocket

        address = f"ws{self._server.url.removeprefix('http')}/ws?clientId={self._server.client_id}"
        login = self._server.login
        header = {"Authorization": "Basic " + base64.b64encode(":".join(login).encode()).decode()} if login else {}
        try:
            self._socket = websocket.create_connection(address, timeout=60, header=header)
        except (OSError, websocket.WebSocketException) as error:
            raise UserError(f"No ComfyUI answers at {self._server.url}: {_short(error)}.") from error
        self._socket.settimeout(_ASK_AFTER)
        return self._read()

    def __exit__(self, *_: Any) -> None:
        self._socket.close()

    def _read(self) -> Iterator[tuple[str, dict[str, Any]]]:
        import websocket

        asked = time.monotonic()
        while True:
            if time.monotonic() - asked > _ASK_AFTER:
                asked = time.monotonic()
                yield "silence", {}  # a node may take long; or messages were lost, and the reader should ask
            try:
                message = self._socket.recv()
            except websocket.WebSocketTimeoutException:
                continue
            except (OSError, websocket.WebSocketException) as error:
                raise ServerFailed(f"The connection to {self._server.url} was lost: {_short(error)}. The workflow may "
                                   "still be running there.") from error
            if isinstance(message, str):
                body = json.loads(message) if message else {}
                yield body.get("type", ""), body.get("data") or {}
            elif len(message) > 8 and struct.unpack(">I", message[:4])[0] == _TEXT_MESSAGE:
                length = struct.unpack(">I", message[4:8])[0]
                yield "text", {"node": message[8:8 + length].decode(), "text": message[8 + length:].decode("utf-8", "replace")}


def run_on(server: Server, prompt: Prompt, workflow: dict[str, Any] | None, registry: Registry) -> list[dict[str, str]]:
    """Runs a prepared prompt on a server and brings its results; as `run.execute`, with progress bars.

    NodeFailed where a node fails there, ServerFailed where anything else goes wrong once it runs; KeyboardInterrupt cancels the
    prompt there too.
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
                server.cancel(prompt_id)
            raise


def upload_images(server: Server, prompt: Prompt, workflow: dict[str, Any] | None,
                  registry: Registry) -> tuple[Prompt, dict[str, Any] | None]:
    """The prompt, and the drawing that results will carry, with the images they load uploaded, those that are in the input
    folder here. Others are left to the server, whose own input folder may hold them."""
    from .core.image_files import find_image

    sent: dict[str, str] = {}
    workflow = copy.deepcopy(workflow)
    drawn = {str(node.get("id")): node for node in (workflow or {}).get("nodes", []) if isinstance(node, dict)}
    prompt = {k: {**node, "inputs": dict(node["inputs"])} for k, node in prompt.items()}
    for node_id, node in prompt.items():
        kind = registry.get(node["class_type"])
        for name, spec in (kind.inputs() if kind else {}).items():
            value = node["inputs"].get(name)
            if spec.options.get("image_upload") and isinstance(value, str) and not value.endswith(("[output]", "[temp]")):
                if value not in sent:
                    try:
                        sent[value] = server.upload(find_image(value))
                    except UserError:
                        if value not in spec.options.get("affect_choices", ()):
                            raise
                        sent[value] = value
                node["inputs"][name] = sent[value]
                stored = drawn.get(node_id, {}).get("widgets_values")
                if isinstance(stored, list):
                    stored[:] = [sent[value] if v == value else v for v in stored]
    return prompt, workflow


def _follow(server: Server, events: Iterator[tuple[str, dict[str, Any]]], prompt_id: str, prompt: Prompt,
            registry: Registry) -> None:
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
                raise ServerFailed("The workflow was taken out of the server's queue, or its history was cleared. Run it again.")

    try:
        for event, data in heard():
            if data.get("prompt_id") not in (None, prompt_id):
                continue
            if event == "execution_cached":
                finished([str(n) for n in data.get("nodes", [])])
            elif event == "executing":
                if steps is not None:
                    steps.close()
                finished([current] if current else [])
                steps, current = None, data.get("node")
                if current in prompt:
                    nodes.text(title_of(prompt, current, registry))
                elif current is None and data.get("prompt_id") == prompt_id:
                    return  # servers from before execution_success
            elif event == "progress" and data.get("max"):
                steps = steps or ui.progress(int(data["max"]), "steps")
                steps.set(int(data["value"]))
            elif event == "text":
                (steps or nodes).text(data["text"])
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
    message = str(data.get("exception_message", "")).strip()
    kind = str(data.get("exception_type", "error")).rsplit(".", 1)[-1]
    # A sentence of ours is shown as it is; anything else with its type.
    return UserError(message if kind == "UserError" else f"{kind}: {message} (the server's log has the traceback)")


def _fetch(server: Server, prompt_id: str) -> list[dict[str, str]]:
    ui = host.current()
    found = []
    for node_id, shown in server.outputs(prompt_id).items():
        for key, items in shown.items():
            for item in items if isinstance(items, (list, tuple)) else [items]:
                if isinstance(item, dict) and "filename" in item:
                    temporary = item.get("type") == "temp"
                    path = server.download(item, ui.temp_dir if temporary else ui.output_dir)
                    kind = "preview" if temporary else {"images": "image"}.get(key, key)
                    found.append({"node": node_id, "type": kind, "path": str(path)})
                elif key != "animated":  # a flag that ComfyUI's image savers add
                    found.append({"node": node_id, "type": key, "text": str(item)})
    return found


def _problems(body: dict[str, Any], prompt: Prompt) -> Iterator[Problem]:
    for node_id, found in (body.get("node_errors") or {}).items():
        title = (prompt.get(node_id, {}).get("_meta") or {}).get("title") or found.get("class_type")
        for error in found.get("errors", []):
            text = ". ".join(t.rstrip(".") for t in (error.get("message", ""), str(error.get("details") or "")) if t)
            yield Problem(f"{text}.", node_id, title, (error.get("extra_info") or {}).get("input_name"))
    error = body.get("error")
    if error and not body.get("node_errors"):
        text = error if isinstance(error, str) else f"{error.get('message', '')} {error.get('details', '')}"
        yield Problem(f"The server refuses the workflow: {text.strip()}")


def _numbered(path: Path) -> Iterator[Path]:
    """x.png, x (1).png, x (2).png, ..."""
    yield path
    for n in itertools.count(1):
        yield path.with_name(f"{path.stem} ({n}){path.suffix}")


def _short(error: BaseException) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
