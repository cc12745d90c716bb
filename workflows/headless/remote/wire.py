"""HTTP and websocket to one server, which may be anybody's: bounded in size and time, and redirects are not
followed."""

from __future__ import annotations

import base64
import json
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit

from ....models.errors import UserError
from ....models.files import open_regular
from ....models.foreign import one_line
from ....models.waiting import TooLate, within
from ..formats.shape import check_content

if TYPE_CHECKING:
    import requests

T = TypeVar("T")

LARGEST_ANSWER = 64_000_000
"""Bytes of an answer that is read into memory, uncompressed. The node list of a ComfyUI with hundreds of packs has
about ten million."""

MOST_VALUES = 5_000_000
"""Values in an answer's JSON. The node list of a bare ComfyUI has 130,000."""

LARGEST_MESSAGE = 32_000_000
"""Bytes of a message over the websocket; the largest are previews."""

LARGEST_FILE = 8_000_000_000
"""Bytes of a result."""

SLOWEST = 100_000
"""Bytes per second. A file may take as long as at this speed, in addition to the deadline of an answer."""

_PIECE = 65536
"""Bytes that are read at once."""

_EVERY = 1.0
"""Seconds after which a reader of messages gets None if none has arrived."""

_MOST_WAITING = 64
"""Messages that are read ahead."""


class ServerFailed(Exception):
    """The server did not do what a ComfyUI does, or the workflow was stopped there. The message is for the user."""


class Answer(NamedTuple):
    """A server's answer: the HTTP status and the body."""

    status: int
    body: bytes

    @property
    def ok(self) -> bool:
        """Whether the status reports success (2xx)."""
        return 200 <= self.status < 300

    @property
    def content(self) -> Any:
        """The body as JSON. ValueError if it is not JSON, or too large or too deep."""
        try:
            content = json.loads(
                self.body, parse_constant=lambda name: None
            )  # NaN and infinities: some nodes show them
            check_content(content, "the answer", MOST_VALUES)
            return content
        except (RecursionError, UserError) as error:
            raise ValueError(str(error)) from error


class Wire:
    """The connection to a server; the base of classes that know its routes.

    url      such as http://127.0.0.1:8188; a host and port are enough. A login in it goes into headers and never into a
             message
    seconds  the deadline of one answer, from the first byte of the request to the last of the answer
    """

    def __init__(self, url: str, seconds: float = 60.0):
        import requests

        try:
            parts = urlsplit((url if "://" in url else f"http://{url}").rstrip("/"))
            good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            parts, good = urlsplit(""), False
        if not good:
            raise UserError(
                f"'{one_line(url.rpartition('@')[2] or 'a login alone')}' is not the address of a server. Give one "
                "such as http://127.0.0.1:8188."
            )
        self.url = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))
        self.login = (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
        self.seconds = seconds
        self._session = requests.Session()
        self._session.auth = self.login

    def _call(self, method: str, path: str, size: int = 0, **options: Any) -> Answer:
        """Sends a request and reads the whole answer. UserError if the server does not answer in time and within
        bounds, or redirects.

        size     bytes of the upload, which extend the deadline
        options  those of `requests.Session.request`
        """

        def work() -> Answer:
            with self._open(method, path, **options) as answer:
                body = bytearray()
                for part in answer.iter_content(_PIECE):
                    body += part
                    if len(body) > LARGEST_ANSWER:
                        raise UserError(
                            f"{self.url} gave an answer to {path} of more than {LARGEST_ANSWER / 1e6:.0f} MB: it does "
                            "not seem to be a ComfyUI."
                        )
                return Answer(answer.status_code, bytes(body))

        return self._in_time(work, path, self.seconds + size / SLOWEST)

    def _json(self, method: str, path: str, **options: Any) -> Any:
        """The JSON of a successful answer. UserError for any other."""
        answer = self._call(method, path, **options)
        if answer.ok:
            with suppress(ValueError):
                return answer.content
        if answer.status in (401, 403):
            raise UserError(
                f"{self.url} requires a login ({answer.status}): write it into the address, as in --server "
                "http://name:password@host:8188. It is shown nowhere."
            )
        raise UserError(f"{self.url} answered {answer.status} to {path}: it does not seem to be a ComfyUI.")

    def _send(self, path: str, file: Path, **fields: str) -> Any:
        """Uploads a file as a form and returns the JSON of the answer."""
        with open_regular(file) as f:
            return self._json("POST", path, size=file.stat().st_size, files={"image": (file.name, f)}, data=fields)

    def _fetch(self, path: str, params: dict[str, str], to: Path) -> int:
        """Writes an answer's body to a file and returns the status. ServerFailed if it is too large or too slow."""
        read = 0

        def work() -> int:
            nonlocal read
            with self._open("GET", path, params=params) as answer, to.open("wb") as f:
                for part in answer.iter_content(_PIECE):
                    read += f.write(part)
                    if read > LARGEST_FILE:
                        raise ServerFailed(
                            f"{self.url} sends a result of more than {LARGEST_FILE / 1e9:g} GB. Fetch it yourself."
                        )
                return int(answer.status_code)

        return self._in_time(work, path, lambda: self.seconds + read / SLOWEST)

    def _open(self, method: str, path: str, **options: Any) -> requests.Response:
        answer = self._session.request(
            method, f"{self.url}{path}", timeout=self.seconds, stream=True, allow_redirects=False, **options
        )
        if answer.is_redirect:
            answer.close()
            to = urlsplit(answer.headers.get("Location", ""))
            where = one_line(
                urlunsplit((to.scheme, to.netloc.rpartition("@")[2], "", "", "")) or "a page of its own", 200
            )
            raise UserError(
                f"{self.url} redirects to {where}, which is not followed: the picture and the prompt would go there. "
                "If that is the server you mean, give its address with --server."
            )
        return answer

    def _in_time(self, work: Callable[[], T], path: str, seconds: float | Callable[[], float]) -> T:
        import requests
        import urllib3

        try:
            return within(seconds, work)
        except (TooLate, requests.Timeout) as error:
            raise UserError(
                f"{self.url} did not answer {path} completely in time. Is it busy, or not a ComfyUI?"
            ) from error
        except (
            requests.RequestException,
            urllib3.exceptions.HTTPError,
            ValueError,
        ) as error:  # ValueError: bad address
            raise UserError(
                f"No ComfyUI answers at {self.url}: {short(error)}. Start it, or give its address with --server."
            ) from error

    def messages(self, path: str) -> Messages:
        """The server's messages over a websocket."""
        return Messages(self, path)


class Messages:
    """A websocket: inside a `with` block an iterator of messages (text or bytes). It gives None after each second in
    which no complete message arrived, however slowly its bytes arrive."""

    def __init__(self, wire: Wire, path: str):
        self._wire, self._path = wire, path
        self._queue: queue.Queue[Any] = queue.Queue(_MOST_WAITING)
        self._closed = False
        self._socket: Any = None

    def __enter__(self) -> Iterator[str | bytes | None]:
        import websocket

        wire = self._wire
        header = {}
        if wire.login is not None:
            header["Authorization"] = "Basic " + base64.b64encode(":".join(wire.login).encode()).decode()
        try:
            self._socket = within(
                wire.seconds,
                lambda: websocket.create_connection(
                    f"ws{wire.url.removeprefix('http')}{self._path}",
                    timeout=wire.seconds,
                    header=header,
                    redirect_limit=0,
                    class_=_bounded(),
                ),
            )
        except (TooLate, TimeoutError, websocket.WebSocketTimeoutException) as error:
            raise UserError(f"{wire.url} did not open a websocket in time. Is it busy, or not a ComfyUI?") from error
        except (OSError, ValueError, websocket.WebSocketException) as error:
            raise UserError(f"No ComfyUI answers at {wire.url}: {short(error)}.") from error
        self._socket.settimeout(None)
        threading.Thread(target=self._listen, daemon=True).start()
        return self._read()

    def __exit__(self, *_: Any) -> None:
        self._closed = True
        self._socket.shutdown()  # at once: a closing handshake would wait for the other side

    def _listen(self) -> None:
        import websocket

        try:
            while not self._closed:
                self._put(self._socket.recv())
                self._socket.received = 0
        except (OSError, ValueError, AttributeError, websocket.WebSocketException) as error:
            self._put(error)  # AttributeError: the socket was closed meanwhile

    def _put(self, message: Any) -> None:
        while not self._closed:
            with suppress(queue.Full):
                self._queue.put(message, timeout=1)
                return

    def _read(self) -> Iterator[str | bytes | None]:
        while True:
            try:
                message = self._queue.get(timeout=_EVERY)
            except queue.Empty:
                message = None
            if isinstance(message, Exception):
                raise ServerFailed(
                    f"The connection to {self._wire.url} was lost: {short(message)}. The workflow may still be running "
                    "there."
                ) from message
            yield message


def _bounded() -> type:
    """The library's websocket, which has no limit on messages, with one: `LARGEST_MESSAGE` bytes."""
    import websocket

    class Bounded(websocket.WebSocket):
        received = 0

        def _recv(self, bufsize: int) -> bytes:
            data: bytes = super()._recv(bufsize)  # type: ignore[no-untyped-call,unused-ignore]  # untyped there
            self.received += len(data)
            if self.received > LARGEST_MESSAGE:
                raise websocket.WebSocketException(f"it sent a message of more than {LARGEST_MESSAGE / 1e6:.0f} MB")
            return data

    return Bounded


def short(error: BaseException) -> str:
    """An error's message, or else its type, in one line."""
    return one_line(str(error).strip() or type(error).__name__, 200)
