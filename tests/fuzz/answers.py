"""Answers of a ComfyUI (`affect run --server`) and of an MLLM's server that a correct one does not give."""

from __future__ import annotations

import gzip
import json
import os
import random
from typing import Any

from fuzz import servers
from fuzz.junk import VALUES, Numbered, damaged, dumps, mutated
from fuzz.sandbox import Sandbox, command
from fuzz.servers import Loopback, drip, frame, raw, shake, wait_for_prompt
from PIL import Image

COMFY_KEYS = ("object_info", "upload", "prompt", "history", "queue", "view", "ws")


def _websocket(*pieces: bytes, after: Any = None) -> Any:
    def send(handler: servers.Handler) -> None:
        shake(handler)
        wait_for_prompt(handler)
        for piece in pieces:
            handler.wfile.write(piece)
        if after:
            after(handler)

    return send


def _odd(key: str, rng: random.Random) -> Any:
    """One answer: of another type, mutated, damaged, endless, redirected, broken off, compressed."""
    good = servers.good()[key]
    how = rng.randrange(9)
    if key == "ws":
        return [
            lambda: [mutated(m, rng, 2) for m in good] + good,
            lambda: rng.sample(VALUES, 9) + good,
            lambda: _websocket(frame("", length=2**62), after=drip(b"", b" " * 1000, 0.01)),
            lambda: _websocket(damaged(frame(good[0]), rng)),
            lambda: _websocket(after=drip(b"\x81\x7e\xff\xff")),
            lambda: raw(b"HTTP/1.1 302 Found\r\nLocation: ws://192.0.2.1/\r\n\r\n"),
            lambda: raw(b"HTTP/1.1 101 X\r\n\r\n"),
            lambda: _websocket(frame(b"\0\0\0\3" + b"\xff" * 20), frame("", 9) * 50, *map(frame, good)),
            list,
        ][how]()
    if key == "view" and how < 4:
        return [b"", (404, {}, b"no"), drip(b"HTTP/1.1 200 OK\r\n\r\n"), (200, {"Content-Length": "999999"}, b"x")][how]
    return [
        lambda: rng.choice([v for v in VALUES if not isinstance(v, str)]),
        lambda: dumps(mutated(good, rng, 3)) if key != "view" else b"x",
        lambda: damaged(dumps(good), rng) if key != "view" else b"y",
        lambda: drip(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n["),
        lambda: drip(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
        lambda: (rng.choice([301, 302, 307, 308]), {"Location": "http://192.0.2.1/x"}, b""),
        lambda: (200, {"Content-Encoding": "gzip"}, gzip.compress(b" " * 300_000_000)),
        lambda: (rng.choice([200, 400, 401, 404, 500]), {}, b"\x1b[31m" * 99),
        lambda: raw(
            rng.choice(
                [b"", b"HTTP", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", b"\0" * 99, b"HTTP/1.1 abc\r\n\r\n"]
            )
        ),
    ][how]()


class Comfy:
    """60 cases: each kind of answer in turn is replaced."""

    @staticmethod
    def set_up(sandbox: Sandbox) -> None:
        from comfyui_affect.workflows.headless.remote import server, wire

        server._ASK_AFTER, wire._EVERY = 0.2, 0.1
        server.Server.__init__.__defaults__ = (2.0,)
        Image.new("RGB", (8, 8), "red").save(sandbox.root / "input" / "here.png")
        (sandbox.root / "home" / "w.json").write_text(json.dumps(servers.PROMPT))
        with Loopback(servers.good()) as fake:
            command(
                "run",
                sandbox.root / "home" / "w.json",
                "--server",
                fake.url,
                "--input-dir",
                sandbox.root / "input",
                "--output-dir",
                sandbox.root / "output",
            )

    @staticmethod
    def case(sandbox: Sandbox, rng: Numbered) -> Any:
        key = COMFY_KEYS[rng.index % len(COMFY_KEYS)]
        answer = _odd(key, rng)

        def work() -> str | None:
            with Loopback(servers.good() | {key: answer}) as fake:
                return command(
                    "run",
                    sandbox.root / "home" / "w.json",
                    "--server",
                    fake.url,
                    "--input-dir",
                    sandbox.root / "input",
                    "--output-dir",
                    sandbox.root / "output",
                )

        return work


def _completion(content: Any) -> dict[str, Any]:
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}],
    }


class Mllm:
    """40 cases: the server's answer or the model's text is replaced. The API key must not appear anywhere."""

    SECRET = "sk-very-secret-0123456789"
    GOOD = {
        "objects": [{"name": "tree", "attribute": "bare", "box": [0.1, 0.2, 0.5, 0.9]}],
        "source_prompt": "a tree",
        "target_prompt": "a bare tree",
    }

    @classmethod
    def set_up(cls, sandbox: Sandbox) -> None:
        from comfyui_affect.models.moodifier import chat_server

        chat_server.Server.__init__.__defaults__ = (2.0, 0, False)
        Image.new("RGB", (64, 48), "teal").save(sandbox.root / "input" / "here.png")
        cls._tried(sandbox, _completion(json.dumps(cls.GOOD)))()

    @classmethod
    def _answer(cls, rng: random.Random) -> Any:
        words = lambda: json.dumps(mutated(cls.GOOD, rng, 2)).replace(
            "tree", cls.SECRET if rng.random() < 0.3 else "tree"
        )
        how = rng.randrange(10)
        return [
            lambda: _completion(words()),
            lambda: _completion(rng.choice(["{" * 9000, "[" * 9000, '{"a":' * 9000, "\ud800", cls.SECRET, 5, None])),
            lambda: dumps(mutated(_completion(words()), rng, 2)),
            lambda: damaged(dumps(_completion(words())), rng),
            lambda: drip(b"HTTP/1.1 200 OK\r\n\r\n{"),
            lambda: drip(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
            lambda: (307, {"Location": f"http://192.0.2.1/{cls.SECRET}"}, b""),
            lambda: (rng.choice([400, 401, 403, 404, 429, 500, 503]), {}, cls.SECRET.encode()),
            lambda: (200, {"Content-Encoding": "gzip"}, gzip.compress(b" " * 100_000_000)),
            lambda: b" " * 1_000_000,
        ][how]()

    @classmethod
    def case(cls, sandbox: Sandbox, rng: Numbered) -> Any:
        return cls._tried(sandbox, cls._answer(rng))

    @classmethod
    def _tried(cls, sandbox: Sandbox, answer: Any) -> Any:
        node = lambda key, **inputs: {"class_type": key, "inputs": inputs}

        def work() -> str | None:
            with Loopback({"v1": answer}) as fake:
                os.environ.update(
                    AFFECT_MLLM_HOSTS=fake.url.removeprefix("http://"), AFFECT_MLLM_API_KEY=f"{cls.SECRET}\n"
                )
                (sandbox.root / "home" / "w.json").write_text(
                    json.dumps(
                        {
                            "1": node("LoadImage", image="here.png"),
                            "2": node("AffectEmotion", emotion="fear", intensity=1.0),
                            "3": node(
                                "AffectMLLMLoader", provider="openai-compatible", model="m", base_url=f"{fake.url}/v1"
                            ),
                            "4": node(
                                "AffectMLLMMaskGenerator",
                                image=["1", 0],
                                emotion=["2", 0],
                                mllm=["3", 0],
                                objects="",
                                grounding="boxes",
                                feather=2,
                            ),
                            "5": node("SaveImage", images=["4", 3], filename_prefix="overlay"),
                            "6": node("PreviewAny", source=["4", 4]),
                        }
                    )
                )
                message = command(
                    "run",
                    sandbox.root / "home" / "w.json",
                    "--input-dir",
                    sandbox.root / "input",
                    "--output-dir",
                    sandbox.root / "output",
                )
            assert cls.SECRET not in str(message)
            for folder in ("output", "home"):
                for path in (p for p in (sandbox.root / folder).rglob("*") if p.is_file()):
                    assert cls.SECRET.encode() not in path.read_bytes(), f"the key is in {path}"
            return message

        return work
