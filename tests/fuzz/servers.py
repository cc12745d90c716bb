"""Servers on a loopback address that give the answers of a test: a ComfyUI, or any HTTP server."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

INFO = {
    "LoadImage": {
        "input": {"required": {"image": [["here.png", "old.png"], {"image_upload": True}]}},
        "output": ["IMAGE", "MASK"],
        "output_name": ["IMAGE", "MASK"],
        "display_name": "Load Image",
    },
    "SaveImage": {
        "input": {"required": {"images": ["IMAGE", {}], "filename_prefix": ["STRING", {"default": "x"}]}},
        "output": [],
        "output_name": [],
        "output_node": True,
        "display_name": "Save Image",
    },
}
PROMPT = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "here.png"}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
}


def picture() -> bytes:
    """A small PNG."""
    out = io.BytesIO()
    Image.new("RGB", (8, 8), "teal").save(out, "PNG")
    return out.getvalue()


def good() -> dict[str, Any]:
    """The answers of a ComfyUI to `PROMPT`, by the first part of the path; "ws" is its messages."""
    return {
        "object_info": INFO,
        "upload": {"name": "here.png", "subfolder": "affect", "type": "input"},
        "prompt": {"prompt_id": "p1", "number": 1, "node_errors": {}},
        "queue": {"queue_running": [], "queue_pending": []},
        "history": {
            "p1": {
                "status": {"status_str": "success", "messages": [["execution_success", {"prompt_id": "p1"}]]},
                "outputs": {"2": {"images": [{"filename": "x_00001_.png", "subfolder": "", "type": "output"}]}},
            }
        },
        "view": picture(),
        "interrupt": {},
        "ws": [
            {"type": "executing", "data": {"node": "2", "prompt_id": "p1"}},
            {"type": "execution_success", "data": {"prompt_id": "p1"}},
        ],
    }


class _Server(ThreadingHTTPServer):
    """answers   by the first part of the path
    requests  those that were received: (key, path, headers, body)
    over      set when the server stops
    """

    daemon_threads = True

    def __init__(self, address: str, answers: dict[str, Any]):
        super().__init__((address, 0), Handler)
        self.answers = answers
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.over = threading.Event()


class Handler(BaseHTTPRequestHandler):
    """Sends the server's answer for a path: JSON, bytes, (status, headers, JSON or bytes), or a function of this
    handler."""

    server: _Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def _answer(self, body: bytes) -> None:
        key = self.path.strip("/").split("/")[0].split("?")[0]
        self.server.requests.append((key, self.path, dict(self.headers), body))
        answer = self.server.answers.get(key, (404, {}, b"not found"))
        with suppress(OSError):  # the client may have closed the connection
            if callable(answer):
                answer(self)
            elif key == "ws":
                talk(self, answer)
            else:
                self.send(answer)

    def send(self, answer: Any) -> None:
        status, headers, content = answer if isinstance(answer, tuple) else (200, {}, answer)
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


def frame(message: Any, opcode: int | None = None, length: int | None = None) -> bytes:
    """A websocket's frame with a text, bytes, or anything else as JSON. `length`: the length that it declares instead
    of the true one."""
    data = (
        message
        if isinstance(message, bytes)
        else (message if isinstance(message, str) else json.dumps(message)).encode("utf-8", "surrogatepass")
    )
    opcode = opcode if opcode is not None else 2 if isinstance(message, bytes) else 1
    n = len(data) if length is None else length
    head = bytes([0x80 | opcode]) + (
        bytes([n]) if n < 126 else b"\x7e" + struct.pack(">H", n) if n < 65536 else b"\x7f" + struct.pack(">Q", n)
    )
    return head + data


def shake(handler: Handler) -> None:
    """The server's half of a websocket's opening."""
    key = handler.headers.get("Sec-WebSocket-Key", "") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    handler.close_connection = True
    handler.send_response(101)
    for name, value in (
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()),
    ):
        handler.send_header(name, value)
    handler.end_headers()


def talk(handler: Handler, messages: list[Any]) -> None:
    """Opens a websocket, sends messages once the prompt has been queued, and then waits for the client to leave."""
    shake(handler)
    wait_for_prompt(handler)
    for message in messages:
        handler.wfile.write(frame(message))
    handler.rfile.read(1)


def wait_for_prompt(handler: Handler) -> None:
    """Returns when the prompt has been queued, after ten seconds at the latest."""
    end = time.monotonic() + 10
    while not any(key == "prompt" for key, *_ in handler.server.requests) and time.monotonic() < end:
        time.sleep(0.01)


def raw(data: bytes) -> Callable[[Handler], None]:
    """An answer of exactly these bytes, including the headers."""

    def send(handler: Handler) -> None:
        handler.close_connection = True
        handler.wfile.write(data)

    return send


def drip(head: bytes, piece: bytes = b" ", every: float = 0.05) -> Callable[[Handler], None]:
    """An answer that begins with `head` and never ends."""

    def send(handler: Handler) -> None:
        handler.close_connection = True
        handler.wfile.write(head)
        while not handler.server.over.is_set():
            handler.wfile.write(piece)
            handler.wfile.flush()
            time.sleep(every)

    return send


class Loopback:
    """A server with the given answers on 127.0.0.1 (or another loopback address); `requests` are those that it
    received: (key, path, headers, body)."""

    def __init__(self, answers: dict[str, Any], address: str = "127.0.0.1"):
        self.http = _Server(address, answers)
        self.requests = self.http.requests
        self.url = f"http://{address}:{self.http.server_address[1]}"

    def __enter__(self) -> Loopback:
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.http.over.set()
        self.http.shutdown()
        self.http.server_close()
