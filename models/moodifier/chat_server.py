"""A server with OpenAI's chat interface, asked about an image. Time and size of an answer are bounded whatever the
server does, and it gets a key only where the environment assigns one to it."""

from __future__ import annotations

import base64
import importlib
import io
import json
import time
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from ..errors import UserError
from ..waiting import TooLate, within
from .addresses import NO_ADDRESS, check_allowed, check_url, is_this_machine, key_for, named, place, redacted
from .instruction import SCHEMA, BrokenAnswer

SIDE = 768
"""Pixels a side at most of an image that is sent."""

LARGEST_ANSWER = 200_000
"""Bytes of an answer at most."""

_HEADERS = {"host", "accept", "content-type", "content-length", "connection", "user-agent"}


class Refused(UserError):
    """A request that a server refused or did not answer in time; another one may succeed."""


def shrunk(image: Any) -> Any:
    """A PIL image at most `SIDE` pixels a side, as models are shown it."""
    small = image.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    return small


def jpeg(image: Any) -> bytes:
    """A PIL image as JPEG, at most `SIDE` pixels a side, without metadata."""
    out = io.BytesIO()
    shrunk(image).save(out, "JPEG", quality=90)
    return out.getvalue()


class _TooLong(Exception):
    """An answer beyond `LARGEST_ANSWER`, or a compressed one, which could have any length."""


class Server:
    """Questions about an image, and their answers as text.

    seconds  for a whole answer, from the first request over all retries to the last byte
    retries  after 429, 5xx and cut connections, with the client library's back-off, which respects Retry-After
    confirmed  whether the person at this machine typed the address (it did not come with a workflow)
    schema   whether the request asks for the answer's schema; off for other questions, and where a server does not
             support it
    """

    def __init__(self, base_url: str, model: str, seconds: float = 120.0, retries: int = 2, confirmed: bool = False):
        try:
            import openai
        except ImportError as error:
            raise UserError(
                "The openai-compatible provider needs the openai library: pip install openai. Or choose rules."
            ) from error
        self.url, self.model, self.seconds, self.confirmed = check_url(base_url), model, seconds, confirmed
        check_allowed(base_url, confirmed)
        # httpx, or in newer versions of the library its successor.
        self.http = importlib.import_module(openai.DefaultHttpxClient.__mro__[1].__module__.split(".")[0])
        try:
            self.client = openai.OpenAI(
                base_url=base_url,
                api_key="none",
                timeout=seconds,
                max_retries=retries,
                http_client=_bounded_client(openai, self.http, base_url, seconds),
            )
        except self.http.InvalidURL:
            raise UserError(NO_ADDRESS) from None
        self.schema = True
        self.unknown: set[str] = set()  # parameters that this server refused; without them it answered

    def __call__(self, image: Any, question: str) -> str:
        """The answer, waited for at most `seconds`, even where a header never ends. UserError where the server cannot
        be reached or refuses; BrokenAnswer for a reply that is not an answer."""
        check_allowed(self.url, self.confirmed)  # again: permissions may have changed since a cached node was made
        key_for(self.url)  # raises here for a key that does not fit into a header
        try:
            return within(self.seconds, lambda: self._asked(jpeg(image), question))
        except TooLate:
            raise Refused(self._say(f"gave no whole answer in {self.seconds:g} seconds")) from None

    def _parameters(self, unknown: set[str]) -> dict[str, Any]:
        """The request's parameters, without `unknown` ones."""
        wanted: dict[str, Any] = {"temperature": 0, "max_tokens": 2000}
        if self.schema:
            wanted["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "instruction", "strict": True, "schema": SCHEMA},
            }
        if "max_tokens" in unknown:
            wanted["max_completion_tokens"] = wanted["max_tokens"]
        return {k: v for k, v in wanted.items() if k not in unknown}

    def _asked(self, picture: bytes, question: str, refused: frozenset[str] = frozenset()) -> str:
        """`refused`: parameters that the server has just refused. They count as unknown once it answers without
        them."""
        import openai

        data = base64.b64encode(picture).decode()
        messages = [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": question},
                    {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{data}"}},
                ],
            }
        ]
        sent = self._parameters(self.unknown | refused)
        try:
            made = self.client.chat.completions.with_raw_response.create(model=self.model, messages=messages, **sent)
            self.unknown |= refused
            content = json.loads(made.content)["choices"][0]["message"]["content"]
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            # Older servers do not support the response format, newer models not the temperature: what the error names
            # is not sent again.
            named_keys = [key for key in sent if key in f"{error} {error.body}"]
            refusing = named_keys or ["response_format"] * ("response_format" in sent)
            if not refusing:
                raise Refused(self._say(f"refused the request (error {error.status_code})")) from None
            return self._asked(picture, question, refused | set(refusing))
        except openai.APIStatusError as error:
            raise self._of_status(error) from None
        except (_TooLong, openai.APIConnectionError, self.http.HTTPError) as error:
            raise self._of_connection(error) from None
        except (ValueError, KeyError, IndexError, TypeError, RecursionError):
            raise BrokenAnswer("the server's reply is not a chat completion") from None
        if not isinstance(content, str):
            raise BrokenAnswer("the server's reply has no text")
        return redacted(content)

    def _of_status(self, error: Any) -> UserError:
        """What to raise for an answer with an error's status (an openai.APIStatusError)."""
        code, onward = error.status_code, error.response.next_request
        if code in (401, 403):
            another = " (another one than it was sent)" if key_for(self.url) else ""
            return UserError(
                self._say(
                    f"wants a key{another}. Set AFFECT_MLLM_API_KEY in the environment, and "
                    f"AFFECT_MLLM_HOSTS={named(self.url)}: the key goes where that says and nowhere else"
                )
            )
        if code == 404:
            return UserError(self._say("does not know the model or the address (error 404)"))
        if onward:
            to = f"{onward.url.scheme}://{named(str(onward.url))}"
            return UserError(
                self._say(
                    f"sends us on to {redacted(to)[:200]}, where we do not follow. If that is the server you mean, "
                    "give its address as base_url"
                )
            )
        # Too many questions, or a fault of the server's: the next image may fare better.
        kind = Refused if code in (408, 409, 429) or code >= 500 else UserError
        return kind(self._say(f"answered with error {code}, after the retries"))

    def _of_connection(self, error: Exception) -> Exception:
        """What to raise where a connection failed. Errors that are raised while the body is read come as they are, or
        as the cause of the library's own."""
        if _caused(error, _TooLong):
            return BrokenAnswer(f"it is longer than {LARGEST_ANSWER} bytes, or compressed, which was not asked for")
        if _caused(error, self.http.TimeoutException):
            return Refused(self._say(f"gave no whole answer in {self.seconds:g} seconds"))
        if _caused(error, (self.http.ReadError, self.http.WriteError, self.http.RemoteProtocolError)):
            return Refused(self._say("broke off the connection, after the retries too"))
        return UserError(self._say("cannot be reached. Start it, or correct base_url; rules need no server"))

    def _say(self, what: str) -> str:
        return f"The MLLM server at {self.url} (provider openai-compatible, model '{self.model}') {what}."


def _caused(error: BaseException | None, kind: type[BaseException] | tuple[type[BaseException], ...]) -> bool:
    """Whether an error, or one of its causes, is of a kind."""
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error is not None


def _bounded_client(openai: Any, http: Any, base_url: str, seconds: float) -> Any:
    """The client library's HTTP client with three restrictions: answers end at `LARGEST_ANSWER` bytes and at a deadline
    (its own timeouts start again with every byte); no headers but a fixed few and our key (the library would send what
    it finds in the environment to any server that a workflow names); no other host or port than the allowed one."""

    class Stream(http.SyncByteStream):
        def __init__(self, inner: Any, end: float):
            self.inner, self.end = inner, end

        def __iter__(self) -> Any:
            size = 0
            for part in self.inner:
                size += len(part)
                if size > LARGEST_ANSWER:
                    raise _TooLong
                if time.monotonic() > self.end:
                    raise http.ReadTimeout("the deadline has passed")
                yield part

        def close(self) -> None:
            self.inner.close()

    class Transport(http.HTTPTransport):
        def handle_request(self, request: Any) -> Any:
            if place(str(request.url)) != place(base_url):
                raise http.ConnectError("another server than the one that was allowed")
            end = time.monotonic() + seconds
            headers = {name: value for name, value in request.headers.items() if name.lower() in _HEADERS}
            headers["accept-encoding"] = "identity"
            if key := key_for(str(request.url)):
                headers["authorization"] = f"Bearer {key}"
            # A new request: the library still reads the headers of its own.
            sent = http.Request(
                request.method, request.url, headers=headers, stream=request.stream, extensions=request.extensions
            )
            response = super().handle_request(sent)
            if response.headers.get("Content-Encoding", "identity") != "identity":
                response.close()
                raise _TooLong
            response.stream = Stream(response.stream, end)
            return response

    where = urlsplit(base_url)
    proxy = (
        None
        if proxy_bypass(where.hostname or "") or is_this_machine(where.hostname or "")
        else getproxies().get(where.scheme)
    )
    return openai.DefaultHttpxClient(transport=Transport(proxy=proxy), timeout=seconds, follow_redirects=False)
