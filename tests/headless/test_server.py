"""Running on a server, with a fake one: what only the server can judge, and what happens if it sends nothing. A real
ComfyUI is tested in tests/comfyui."""

import json

import pytest
from comfyui_affect.models import host
from comfyui_affect.models.errors import UserError
from comfyui_affect.workflows.headless.check import check
from comfyui_affect.workflows.headless.cli import _sentence
from comfyui_affect.workflows.headless.formats.convert import convert
from comfyui_affect.workflows.headless.host import EmbeddedHost
from comfyui_affect.workflows.headless.remote import server as remote
from comfyui_affect.workflows.headless.remote.object_info import registry_of
from comfyui_affect.workflows.headless.remote.wire import Answer
from PIL import Image

INFO = {
    "Stack": {
        "input": {"required": {"lora": [["a.safetensors"], {}]}, "optional": {}},
        "output": ["MODEL"],
        "output_name": ["MODEL"],
    },
    "LoadImage": {
        "input": {"required": {"image": [["old.png"], {"image_upload": True}]}},
        "output": ["IMAGE"],
        "output_name": ["IMAGE"],
    },
    "Save": {"input": {"required": {"model": ["MODEL", {}]}}, "output": [], "output_node": True},
}


@pytest.fixture
def registry():
    return registry_of(INFO)


def prompt(**stack):
    return {
        "1": {"class_type": "Stack", "inputs": {"lora": "a.safetensors", **stack}},
        "2": {"class_type": "Save", "inputs": {"model": ["1", 0]}},
    }


def test_what_a_server_does_not_declare_is_left_to_the_server(registry):
    assert check(prompt(lora_1={"on": True}), registry) == []
    assert check(prompt(lora="mine.safetensors"), registry) == []
    broken = prompt()
    broken["2"]["inputs"]["model"] = ["7", 0]
    assert "does not exist" in check(broken, registry)[0].message


def test_stored_values_without_a_place_are_noted(registry):
    node = lambda number, kind, **more: {"id": number, "type": kind, "mode": 0, "inputs": [], "outputs": [], **more}
    drawing = {
        "nodes": [
            node(1, "Stack", widgets_values=["a.safetensors", {"lora": "b", "on": True}, ""]),
            node(3, "LoadImage", widgets_values=["old.png", "image"]),
        ],
        "links": [],
    }
    notes = convert(drawing, registry).notes
    assert len(notes) == 1 and "Node 1 'Stack' stores 1 values" in notes[0] and "Export (API)" in notes[0]


class Fake(remote.Server):
    """A server with the given events."""

    def __init__(self, events, known=False, fails=None):
        self.sent, self.known, self.fails, self.cancelled, self.url = events, known, fails, [], "http://server"

    def queue(self, prompt, workflow):
        self.queued = prompt, workflow
        return "p"

    def upload(self, path):
        return f"affect/{path.name}"

    def cancel(self, prompt_id):
        self.cancelled.append(prompt_id)

    def knows(self, prompt_id):
        return self.known

    def events(self):
        from contextlib import nullcontext

        return nullcontext(iter(self.sent))

    def verdict(self, prompt_id):
        return []

    def outputs(self, prompt_id):
        if self.fails:
            raise self.fails
        return []


def test_a_prompt_that_disappears_ends_the_run(registry):
    server = Fake([("silence", {})] * 5)
    with pytest.raises(remote.ServerFailed, match="removed from the server's queue"):
        remote.run_on(server, prompt(), None, registry)
    waiting = Fake([("silence", {})] * 5 + [("execution_success", {"prompt_id": "p"})], known=True)
    assert remote.run_on(waiting, prompt(), None, registry) == []


@pytest.mark.parametrize("entry", [[3, "abc-1", {}], {"prompt_id": "abc-1"}, {"queue_tuple": [3, "abc-1"]}])
def test_a_waiting_prompt_is_recognised_in_every_form_of_the_queue(monkeypatch, entry):
    server = remote.Server("http://127.0.0.1:1")
    answer = Answer(200, json.dumps({"queue_running": [entry], "queue_pending": []}).encode())
    monkeypatch.setattr(server, "_call", lambda *_, **__: answer)
    monkeypatch.setattr(server, "_json", lambda *_, **__: {})
    assert server.knows("abc-1") and not server.knows("abc-2")


def test_failures_after_queueing_are_not_wrong_requests(registry):
    done = [("execution_success", {"prompt_id": "p"})]
    with pytest.raises(remote.ServerFailed, match="No ComfyUI answers.*may have run") as caught:
        remote.run_on(Fake(done, fails=UserError("No ComfyUI answers at http://server.")), prompt(), None, registry)
    assert _sentence(caught.value) == str(caught.value)
    stopped = Fake([("execution_interrupted", {"prompt_id": "p"})])
    with pytest.raises(remote.ServerFailed, match="was interrupted on the server"):
        remote.run_on(stopped, prompt(), None, registry)
    server = Fake(done, fails=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        remote.run_on(server, prompt(), None, registry)
    assert server.cancelled == ["p"]


def test_text_of_the_first_step_is_shown_before_there_is_a_bar_of_steps(registry):
    shown = []

    class Bar:
        def text(self, message):
            shown.append(message)

        def __getattr__(self, name):
            return lambda *_: None

    class Ui(EmbeddedHost):
        def progress(self, *_):
            return Bar()

    events = [("text", {"node": "1", "text": "inner 3"}), ("execution_success", {"prompt_id": "p"})]
    with host.use(Ui()):
        remote.run_on(Fake(events), prompt(), None, registry)
    assert shown == ["inner 3"]


def test_uploaded_images_have_the_same_name_in_the_drawing(registry, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    given = {"1": {"class_type": "LoadImage", "inputs": {"image": "x.png"}}}
    drawing = {"nodes": [{"id": 1, "widgets_values": ["x.png", "image"]}]}
    with host.use(EmbeddedHost(tmp_path)):
        sent, drawn = remote.upload_images(Fake([]), given, drawing, registry)
    assert sent["1"]["inputs"]["image"] == drawn["nodes"][0]["widgets_values"][0] == "affect/x.png"
    assert drawing["nodes"][0]["widgets_values"][0] == given["1"]["inputs"]["image"] == "x.png"


def test_notices_of_a_servers_nodes_are_printed(registry, capsys):
    notice = {"node": "1", "prompt_id": "p", "text": "3 files were skipped.\x1b[2J\u202e"}
    events = [
        (host.NOTICE, notice),
        (host.NOTICE, notice | {"prompt_id": "another"}),
        (host.NOTICE, notice | {"text": None}),
        ("execution_success", {"prompt_id": "p"}),
    ]
    remote.run_on(Fake(events), prompt(), None, registry)
    printed = capsys.readouterr().err
    assert printed.count("3 files were skipped.") == 1 and "\x1b[2J" not in printed and "\u202e" not in printed
