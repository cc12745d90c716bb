"""`--server` against servers that mean ill or are broken: every answer ends in words, nothing goes elsewhere,
nothing hangs."""

import json
from pathlib import Path

import pytest
from comfyui_affect.models import host
from comfyui_affect.models.errors import UserError
from comfyui_affect.workflows.headless.execute import NodeFailed
from comfyui_affect.workflows.headless.host import EmbeddedHost
from comfyui_affect.workflows.headless.remote import server as remote
from comfyui_affect.workflows.headless.remote import wire
from fuzz.servers import INFO, PROMPT, Loopback, drip, frame, good, raw, shake, wait_for_prompt
from PIL import Image


@pytest.fixture
def ask(tmp_path, monkeypatch):
    """ask(key=answer, ...) runs `PROMPT` on a server that answers as a ComfyUI but for these; the results, or what
    was raised as text."""
    (tmp_path / "input").mkdir()
    Image.new("RGB", (8, 8), "red").save(tmp_path / "input" / "here.png")
    monkeypatch.setattr(remote, "_ASK_AFTER", 0.05)
    monkeypatch.setattr(wire, "_EVERY", 0.05)

    def run(seconds=20.0, **answers):
        with Loopback(good() | answers) as fake, host.use(EmbeddedHost(tmp_path / "input", tmp_path / "output")):
            run.heard = fake.heard
            server = remote.Server(fake.url, seconds)
            try:
                return remote.run_on(server, json.loads(json.dumps(PROMPT)), None, server.registry())
            except (UserError, wire.ServerFailed, NodeFailed) as error:
                return str(error)

    run.folder = tmp_path
    yield run
    written = {p.relative_to(tmp_path).parts[0] for p in tmp_path.rglob("*") if p.is_file()}
    assert written <= {"input", "output"}  # nothing beside the output folder


def test_a_comfyui(ask):
    found = ask()
    assert [(f["node"], f["type"], Path(f["path"]).relative_to(ask.folder)) for f in found] == [
        ("2", "image", Path("output/x_00001_.png"))
    ]
    assert Image.open(found[0]["path"]).size == (8, 8)
    queued = next(json.loads(body) for key, _, _, body in ask.heard if key == "prompt")
    assert queued["prompt"]["1"]["inputs"]["image"] == "affect/here.png"


@pytest.mark.parametrize("name", ["", ".", "..", " ", None, 5, ["x"], "a/b.png", "..\\x.png", "x\0y", "x" * 400])
def test_a_result_without_a_name_is_not_written(ask, name):
    item = {"filename": name, "subfolder": "", "type": "output"}
    told = ask(history={"p1": {"outputs": {"2": {"images": [item]}}}})
    assert "file name" in told or "no name of a file" in told
    assert not list((ask.folder / "output").rglob("*.png"))


@pytest.mark.parametrize(
    "folder, word", [("../..", "leaves its folder"), ("/tmp", "leaves its folder"), (7, "type int")]
)
def test_a_result_stays_in_the_output_folder(ask, folder, word):
    assert word in ask(
        history={"p1": {"outputs": {"2": {"images": [{"filename": "x.png", "subfolder": folder, "type": "output"}]}}}}
    )


def test_an_upload_that_fails_ends_the_run(ask):
    """It must not go on with the server's own picture of that name, which is another one."""
    told = ask(upload=(500, {}, b"disk full"))
    assert "answered 500 to /upload/image" in told and not any(key == "prompt" for key, *_ in ask.heard)


@pytest.mark.parametrize("key", ["object_info", "upload", "prompt", "history", "view", "ws"])
def test_who_is_sent_on_does_not_go(ask, key):
    try:
        away = Loopback({}, "127.0.0.2")
    except OSError:
        pytest.skip("this machine has one loopback address only")
    with away:
        told = ask(
            **{key: (307, {"Location": f"{away.url}/{key}"}, b"")}
            if key != "ws"
            else {key: raw(f"HTTP/1.1 302 Found\r\nLocation: {away.url}/ws\r\nContent-Length: 0\r\n\r\n".encode())}
        )
        assert away.heard == []
    assert ("302" in told or "Redirect" in told) if key == "ws" else f"redirects to {away.url}," in told


@pytest.mark.parametrize(
    "key, content",
    [
        ("object_info", drip(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n")),
        ("object_info", drip(b"HTTP/1.1 200 OK\r\n\r\n")),
        ("prompt", drip(b"HTTP/1.1 200 OK\r\n\r\n{")),
        ("upload", drip(b"HTTP/1.1 200 OK\r\nX: ", b"y")),
        ("view", drip(b"HTTP/1.1 200 OK\r\n\r\n")),
        ("ws", drip(b"HTTP/1.1 101 Switching Protocols\r\nX: ", b"y")),
        ("ws", drip(b"", b"")),
    ],
)
def test_a_drip_is_given_up(ask, key, content):
    assert "in time" in ask(seconds=0.7, **{key: content})


def test_a_drip_over_the_websocket_does_not_keep_the_result(ask):
    def send(handler):
        shake(handler)
        wait_for_prompt(handler)
        drip(b"\x81\x7e\xff\xff")(handler)

    assert ask(ws=send)[0]["type"] == "image"


def test_answers_are_bounded(ask, monkeypatch):
    monkeypatch.setattr(wire, "LARGEST_ANSWER", 1_000_000)
    monkeypatch.setattr(wire, "LARGEST_FILE", 1_000_000)
    monkeypatch.setattr(wire, "LARGEST_MESSAGE", 1_000_000)
    endless = drip(b"HTTP/1.1 200 OK\r\n\r\n", b" " * 100_000, 0.001)
    assert "more than 1 MB" in ask(object_info=endless)
    assert "more than 0.001 GB" in ask(view=endless)
    assert not [p for p in (ask.folder / "output").rglob("*") if p.is_file()]

    def large(handler):
        shake(handler)
        wait_for_prompt(handler)
        drip(frame("", length=2**40), b" " * 100_000, 0.001)(handler)

    runs = {"queue": {"queue_running": [[0, "p1"]]}, "history": {}}  # for ever, as far as one can ask
    assert "message of more than 1 MB" in ask(ws=large, **runs)


ODD = [
    None,
    5,
    "x",
    [],
    [1],
    [[]],
    {},
    {"p1": 5},
    {"p1": None},
    {"p1": []},
    True,
    1e400,
    b"{",
    b"",
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"p1": {"status": {"messages": [5, [], ["execution_error", 5], {}]}}}',
    {"p1": {"status": 5}},
    {"p1": {"outputs": {"2": 5}}},
    {"p1": {"outputs": [1]}},
    {"p1": {"outputs": {"2": {"images": [{"filename": "x", "type": "evil"}]}}}},
]


@pytest.mark.parametrize("key", ["object_info", "upload", "prompt", "history", "queue"])
@pytest.mark.parametrize("said", ODD, ids=lambda s: repr(s)[:30])
def test_answers_of_other_kinds_end_in_words(ask, monkeypatch, key, said):
    monkeypatch.setattr(remote.time, "sleep", lambda s: None)
    told = ask(**{key: said}, **({"ws": []} if key == "queue" else {}))
    assert told and (isinstance(told, list) or "Traceback" not in told)


@pytest.mark.parametrize(
    "said",
    [
        {"error": 5},
        {"error": {"message": ["x"]}, "node_errors": []},
        {"node_errors": {"1": 5}},
        {"node_errors": {"1": {"errors": 7}}},
        {"node_errors": {"1": {"errors": [5, {"message": 1, "extra_info": 4}]}}},
        {"node_errors": 3},
        {"prompt_id": ""},
        {"prompt_id": 7},
        {"prompt_id": "x" * 999},
        {"prompt_id": None},
        {"prompt_id": ["p1"]},
    ],
)
def test_what_a_server_has_against_a_prompt(ask, said):
    assert isinstance(ask(prompt=said), str)


@pytest.mark.parametrize(
    "message",
    [
        "",
        "{",
        "5",
        [],
        {"type": 5},
        {"type": "progress", "data": 5},
        {"type": "progress", "data": {"value": "x", "max": [1], "prompt_id": "p1"}},
        {"type": "progress", "data": {"value": 1e308, "max": -1}},
        {"type": "executing", "data": {"node": {}, "prompt_id": []}},
        {"type": "execution_cached", "data": {"nodes": [{}, 5, None]}},
        {"type": "execution_cached", "data": {"nodes": 5}},
        b"\0\0\0\3\xff\xff\xff\xff\xff",
        b"\0\0\0\3\0\0\0\1\xff\xfe",
        b"\0\0\0\1" + bytes(99),
        "\ud800",
        "[" * 5000,
    ],
)
def test_messages_of_other_kinds_are_passed_over(ask, message):
    told = ask(ws=[message, *good()["ws"]])
    assert isinstance(told, list) or "connection" in told  # half a character is no message at all


def test_what_a_server_declares_oddly_is_left_to_it(ask):
    odd = {
        "B": {"input": 5},
        "C": {"input": {"required": [1]}},
        "D": {"input": {"required": {"x": 5}}},
        "E": {"input": {"required": {"x": []}}},
        "F": {"output": 3},
    }
    assert isinstance(ask(object_info=INFO | odd), list)
    assert "not a list of node types" in ask(object_info=INFO | {"A": 5})


def test_a_server_of_many_packs_may_have_more_to_say_than_a_workflow(ask):
    many = {"input": {"required": {"lora": [["a"] * 1_200_000, {}]}}, "output": [], "output_name": []}
    assert isinstance(ask(object_info=INFO | {"Many": many}), list)


def test_a_servers_words_obey_no_terminal(ask, capsys):
    evil = "\x1b]0;owned\x07\x1b[31mred\x9b2J \u202etxt.exe\r\nline"
    told = ask(
        ws=[
            {
                "type": "execution_error",
                "data": {
                    "prompt_id": "p1",
                    "node_id": "9",
                    "node_type": evil,
                    "exception_type": evil,
                    "exception_message": evil,
                },
            }
        ]
    )
    assert "red" in told
    for said in (
        told,
        ask(prompt={"node_errors": {"1": {"class_type": evil, "errors": [{"message": evil, "details": evil}]}}}),
        ask(prompt={"error": {"message": evil}}),
        ask(object_info=(302, {"Location": "http://x\x1b[31m/"}, b"")),
    ):
        from comfyui_affect.models.foreign import printable

        assert not set("\x1b\x07\x9b\u202e\r") & set(printable(said))


def test_a_server_that_is_none():
    for url in ("", "http://", "ftp://x", "http://[::1", "http://x:99999", "http://x:port", "http:///"):
        with pytest.raises(UserError, match="not the address of a server"):
            remote.Server(url)
    with pytest.raises(UserError, match="No ComfyUI answers"):
        remote.Server("http://127.0.0.1:9").registry()
