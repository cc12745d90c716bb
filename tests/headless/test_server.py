"""Running on a server, without one: what is left to its judgement, and what is said where it falls silent. The real
thing is tested in tests/comfyui."""

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


def test_what_a_server_does_not_declare_is_left_to_it(registry):
    assert check(prompt(lora_1={"on": True}), registry) == []
    assert check(prompt(lora="mine.safetensors"), registry) == []
    broken = prompt()
    broken["2"]["inputs"]["model"] = ["7", 0]
    assert "does not exist" in check(broken, registry)[0].message


def test_stored_values_without_a_place_are_spoken_of(registry):
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
    """A server that says what a test has it say."""

    def __init__(self, events, known=False, fails=None):
        self.said, self.known, self.fails, self.cancelled, self.url = events, known, fails, [], "http://server"

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

        return nullcontext(iter(self.said))

    def verdict(self, prompt_id):
        return []

    def outputs(self, prompt_id):
        if self.fails:
            raise self.fails
        return []


def test_a_prompt_that_vanished_ends_the_wait(registry):
    server = Fake([("silence", {})] * 5)
    with pytest.raises(remote.ServerFailed, match="removed from the server's queue"):
        remote.run_on(server, prompt(), None, registry)
    patient = Fake([("silence", {})] * 5 + [("execution_success", {"prompt_id": "p"})], known=True)
    assert remote.run_on(patient, prompt(), None, registry) == []


@pytest.mark.parametrize("entry", [[3, "abc-1", {}], {"prompt_id": "abc-1"}, {"queue_tuple": [3, "abc-1"]}])
def test_a_waiting_prompt_is_known_however_its_queue_is_written(monkeypatch, entry):
    server = remote.Server("http://127.0.0.1:1")
    answer = Answer(200, json.dumps({"queue_running": [entry], "queue_pending": []}).encode())
    monkeypatch.setattr(server, "_call", lambda *_, **__: answer)
    monkeypatch.setattr(server, "_json", lambda *_, **__: {})
    assert server.knows("abc-1") and not server.knows("abc-2")


def test_what_fails_after_queueing_is_no_wrong_request(registry):
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


def test_text_of_the_first_step_is_shown_where_there_is_no_bar_yet(registry):
    told = []

    class Bar:
        def text(self, message):
            told.append(message)

        def __getattr__(self, name):
            return lambda *_: None

    class Ui(EmbeddedHost):
        def progress(self, *_):
            return Bar()

    events = [("text", {"node": "1", "text": "inner 3"}), ("execution_success", {"prompt_id": "p"})]
    with host.use(Ui()):
        remote.run_on(Fake(events), prompt(), None, registry)
    assert told == ["inner 3"]


def test_uploaded_images_are_named_alike_in_the_drawing(registry, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    given = {"1": {"class_type": "LoadImage", "inputs": {"image": "x.png"}}}
    drawing = {"nodes": [{"id": 1, "widgets_values": ["x.png", "image"]}]}
    with host.use(EmbeddedHost(tmp_path)):
        sent, drawn = remote.upload_images(Fake([]), given, drawing, registry)
    assert sent["1"]["inputs"]["image"] == drawn["nodes"][0]["widgets_values"][0] == "affect/x.png"
    assert drawing["nodes"][0]["widgets_values"][0] == given["1"]["inputs"]["image"] == "x.png"


def test_what_a_node_has_to_say_there_is_printed_here(registry, capsys):
    said = {"node": "1", "prompt_id": "p", "text": "3 files were skipped.\x1b[2J\u202e"}
    events = [
        (host.NOTICE, said),
        (host.NOTICE, said | {"prompt_id": "another"}),
        (host.NOTICE, said | {"text": None}),
        ("execution_success", {"prompt_id": "p"}),
    ]
    remote.run_on(Fake(events), prompt(), None, registry)
    printed = capsys.readouterr().err
    assert printed.count("3 files were skipped.") == 1 and "\x1b[2J" not in printed and "\u202e" not in printed
