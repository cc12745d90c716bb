"""`--server` with malicious or broken servers: every answer gives results or an error message, nothing is sent or
written elsewhere, nothing hangs."""

import json
from pathlib import Path

import pytest
from comfyui_affect.models import host
from comfyui_affect.models.errors import UserError
from comfyui_affect.models.foreign import printable
from comfyui_affect.workflows.headless.execute import NodeFailed
from comfyui_affect.workflows.headless.host import EmbeddedHost
from comfyui_affect.workflows.headless.remote import server as remote
from comfyui_affect.workflows.headless.remote import wire
from fuzz.servers import INFO, PROMPT, Loopback, drip, frame, good, raw, shake, wait_for_prompt
from PIL import Image


@pytest.fixture
def ask(tmp_path, monkeypatch):
    """ask(key=answer, ...) runs `PROMPT` on a server that answers like a ComfyUI except for the given answers. Returns
    the results, or the message of the error."""
    (tmp_path / "input").mkdir()
    Image.new("RGB", (8, 8), "red").save(tmp_path / "input" / "here.png")
    monkeypatch.setattr(remote, "_ASK_AFTER", 0.05)
    monkeypatch.setattr(wire, "_EVERY", 0.05)

    def run(seconds=20.0, **answers):
        with Loopback(good() | answers) as fake, host.use(EmbeddedHost(tmp_path / "input", tmp_path / "output")):
            run.requests = fake.requests
            server = remote.Server(fake.url, seconds)
            try:
                return remote.run_on(server, json.loads(json.dumps(PROMPT)), None, server.registry())
            except (UserError, wire.ServerFailed, NodeFailed) as error:
                return str(error)

    run.folder = tmp_path
    yield run
    written = {p.relative_to(tmp_path).parts[0] for p in tmp_path.rglob("*") if p.is_file()}
    assert written <= {"input", "output"}  # nothing outside the output folder


def test_a_comfyui(ask):
    (result,) = ask()
    assert (result["node"], result["type"]) == ("2", "image")
    assert Path(result["path"]).relative_to(ask.folder) == Path("output/x_00001_.png")
    assert Image.open(result["path"]).size == (8, 8)
    queued = next(json.loads(body) for key, _, _, body in ask.requests if key == "prompt")
    assert queued["prompt"]["1"]["inputs"]["image"] == "affect/here.png"


NAMES = {
    "a result's file name is": ["", ".", "..", " ", None, 5, ["x"], "a/b.png", "..\\x.png"],
    "is not a file's name": ["x\0y", "x" * 400],
}


@pytest.mark.parametrize("words, name", [(words, name) for words, names in NAMES.items() for name in names])
def test_a_result_without_a_name_is_not_written(ask, words, name):
    item = {"filename": name, "subfolder": "", "type": "output"}
    message = ask(history={"p1": {"outputs": {"2": {"images": [item]}}}})
    assert words in message and "may have run" in message
    assert not list((ask.folder / "output").rglob("*.png"))


@pytest.mark.parametrize(
    "folder, word", [("../..", "leaves its folder"), ("/tmp", "leaves its folder"), (7, "type int")]
)
def test_a_result_stays_in_the_output_folder(ask, folder, word):
    assert word in ask(
        history={"p1": {"outputs": {"2": {"images": [{"filename": "x.png", "subfolder": folder, "type": "output"}]}}}}
    )


def test_an_upload_that_fails_ends_the_run(ask):
    """It must not continue with the server's own picture of that name, which is another one."""
    message = ask(upload=(500, {}, b"disk full"))
    assert "answered 500 to /upload/image" in message and not any(key == "prompt" for key, *_ in ask.requests)


@pytest.fixture
def elsewhere():
    """Another server, to which redirects lead."""
    try:
        other = Loopback({}, "127.0.0.2")
    except OSError:
        pytest.skip("this machine has only one loopback address")
    with other:
        yield other


@pytest.mark.parametrize("key", ["object_info", "upload", "prompt", "history", "view"])
def test_redirects_are_not_followed(ask, elsewhere, key):
    message = ask(**{key: (307, {"Location": f"{elsewhere.url}/{key}"}, b"")})
    assert f"redirects to {elsewhere.url}," in message and elsewhere.requests == []


def test_redirects_of_the_websocket_are_not_followed(ask, elsewhere):
    answer = f"HTTP/1.1 302 Found\r\nLocation: {elsewhere.url}/ws\r\nContent-Length: 0\r\n\r\n"
    assert "Redirect" in ask(ws=raw(answer.encode())) and elsewhere.requests == []


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
def test_answers_that_never_end_are_given_up(ask, key, content):
    assert "in time" in ask(seconds=0.7, **{key: content})


def test_a_websocket_message_that_never_ends_does_not_hold_up_the_result(ask):
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

    runs = {"queue": {"queue_running": [[0, "p1"]]}, "history": {}}  # the prompt never ends
    assert "message of more than 1 MB" in ask(ws=large, **runs)


NOT_JSON = [b"{", b"", b"\xff\xfe", b"[" * 100_000]
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
    {"p1": {"status": {"messages": [5, [], ["execution_error", 5], {}]}}},
    {"p1": {"status": 5}},
    {"p1": {"outputs": {"2": 5}}},
    {"p1": {"outputs": [1]}},
    {"p1": {"outputs": {"2": {"images": [{"filename": "x", "type": "evil"}]}}}},
]


@pytest.mark.parametrize(
    "key, words",
    [
        ("object_info", "answered 200 to /object_info: it does not seem to be a ComfyUI"),
        ("upload", "answered 200 to /upload/image: it does not seem to be a ComfyUI"),
        ("prompt", "with a body that no ComfyUI sends"),
        ("history", "answered 200 to /history/p1: it does not seem to be a ComfyUI"),
    ],
)
@pytest.mark.parametrize("answer", NOT_JSON, ids=lambda s: repr(s)[:30])
def test_answers_that_are_not_json(ask, key, words, answer):
    assert words in ask(**{key: answer})


@pytest.mark.parametrize("answer", ODD, ids=lambda s: repr(s)[:30])
def test_node_lists_of_another_form(ask, answer):
    result = ask(object_info=answer)
    if isinstance(answer, dict) and all(isinstance(one, dict) for one in answer.values()):
        assert result[0]["type"] == "image"  # node types are declared, if oddly; the server judges the prompt
    else:
        assert "not a list of node types" in result


@pytest.mark.parametrize("answer", ODD, ids=lambda s: repr(s)[:30])
def test_answers_of_another_form(ask, monkeypatch, answer):
    monkeypatch.setattr(remote.time, "sleep", lambda s: None)
    assert "gives answers that no ComfyUI gives: the " in ask(upload=answer)
    assert "answered 200 to the prompt, with" in ask(prompt=answer)
    message = ask(history=answer)
    if answer in ({}, {"p1": None}):
        assert "no longer has the prompt's results" in message
    else:
        assert "gives answers that no ComfyUI gives: " in message


@pytest.mark.parametrize("answer", ODD + NOT_JSON, ids=lambda s: repr(s)[:30])
def test_the_form_of_the_queue_does_not_matter(ask, answer):
    assert ask(queue=answer, ws=[])[0]["type"] == "image"  # no messages, so the queue and the history are asked


@pytest.mark.parametrize(
    "answer, words",
    [
        ({"error": 5}, "The server refuses the workflow: 5"),
        ({"error": {"message": ["x"]}, "node_errors": []}, "The server refuses the workflow: ['x']"),
        ({"node_errors": {"1": {"errors": [5, {"message": 1, "extra_info": 4}]}}}, "Node 1: 5.\nNode 1: 1."),
        ({"node_errors": {"1": 5}}, "with a body that no ComfyUI sends"),
        ({"node_errors": {"1": {"errors": 7}}}, "with a body that no ComfyUI sends"),
        ({"node_errors": 3}, "with a body that no ComfyUI sends"),
        ({"prompt_id": ""}, "with a body that no ComfyUI sends"),
        ({"prompt_id": 7}, "with a body that no ComfyUI sends"),
        ({"prompt_id": "x" * 999}, "with a body that no ComfyUI sends"),
        ({"prompt_id": ["p1"]}, "with a body that no ComfyUI sends"),
        ({"prompt_id": None}, "without a reason"),
    ],
)
def test_problems_that_a_server_reports(ask, answer, words):
    assert words in ask(prompt=answer)


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
        {"type": "progress", "data": {"value": 10**400, "max": 10**400}},
        {"type": "executing", "data": {"node": {}, "prompt_id": []}},
        {"type": "execution_cached", "data": {"nodes": [{}, 5, None]}},
        {"type": "execution_cached", "data": {"nodes": 5}},
        b"\0\0\0\3\xff\xff\xff\xff\xff",
        b"\0\0\0\3\0\0\0\1\xff\xfe",
        b"\0\0\0\1" + bytes(99),
        "[" * 5000,
    ],
)
def test_messages_of_another_form_are_ignored(ask, message):
    assert ask(ws=[message, *good()["ws"]])[0]["type"] == "image"


def test_a_message_that_is_not_utf_8_ends_the_connection(ask):
    assert "The connection to http://127.0.0.1:" in ask(ws=["\ud800", *good()["ws"]])


def test_node_types_in_unknown_forms_are_left_to_the_server(ask):
    odd = {
        "B": {"input": 5},
        "C": {"input": {"required": [1]}},
        "D": {"input": {"required": {"x": 5}}},
        "E": {"input": {"required": {"x": []}}},
        "F": {"output": 3},
    }
    assert isinstance(ask(object_info=INFO | odd), list)
    assert "not a list of node types" in ask(object_info=INFO | {"A": 5})


def test_a_servers_node_list_may_be_larger_than_a_workflow(ask):
    many = {"input": {"required": {"lora": [["a"] * 1_200_000, {}]}}, "output": [], "output_name": []}
    assert isinstance(ask(object_info=INFO | {"Many": many}), list)


def test_a_servers_texts_do_not_control_the_terminal(ask):
    evil = "\x1b]0;owned\x07\x1b[31mred\x9b2J \u202etxt.exe\r\nline"
    data = {"prompt_id": "p1", "node_id": "9", "node_type": evil, "exception_type": evil, "exception_message": evil}
    errors = {"1": {"class_type": evil, "errors": [{"message": evil, "details": evil}]}}
    messages = [
        ask(ws=[{"type": "execution_error", "data": data}]),
        ask(prompt={"node_errors": errors}),
        ask(prompt={"error": {"message": evil}}),
        ask(object_info=(302, {"Location": "http://red\x1b31m/"}, b"")),
    ]
    assert all("red" in message.replace("redirects", "") for message in messages)
    assert not set("\x1b\x07\x9b\u202e\r") & set(printable("".join(messages)))


def test_addresses_without_a_server():
    for url in ("", "http://", "ftp://x", "http://[::1", "http://x:99999", "http://x:port", "http:///"):
        with pytest.raises(UserError, match="not the address of a server"):
            remote.Server(url)
    hidden = ("me:secret@x:99999", "me:secret@x:port", "me:secret@[::1", "me:sec/ret@x", "me:secret@")
    for url in (*hidden, *(f"http://{url}" for url in hidden)):
        with pytest.raises(UserError, match="not the address of a server") as caught:
            remote.Server(url)
        assert "ret" not in str(caught.value)
    with pytest.raises(UserError, match="No ComfyUI answers"):
        remote.Server("http://127.0.0.1:9").registry()
