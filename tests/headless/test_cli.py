"""`affect run` and `affect check`: exit codes, standard output and standard error, and files."""

import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import types

import pytest
from comfyui_affect.workflows.headless.core.images import ImageScale
from PIL import Image


def results(workspace):
    return sorted(str(p.relative_to(workspace)) for p in (workspace / "output").rglob("*") if p.is_file())


def test_run_prints_paths_and_writes_an_image_that_runs_again(affect, workspace, scale_prompt):
    answer = affect("run", scale_prompt)
    assert (answer.code, answer.out.strip()) == (0, os.path.join("output", "small_00001_.png"))
    with Image.open(workspace / "output" / "small_00001_.png") as image:
        assert image.size == (20, 15)
        assert json.loads(image.text["prompt"])["2"]["inputs"]["width"] == 20
        assert "workflow" not in image.text
    assert affect("run", "output/small_00001_.png", "--set", "2.width=10").code == 0
    with Image.open(workspace / "output" / "small_00002_.png") as image:
        assert image.size == (10, 8)


def test_json_is_one_object_on_standard_output(affect, scale_prompt):
    scale_prompt["4"] = {"class_type": "PreviewAny", "inputs": {"source": "hello"}}
    scale_prompt["5"] = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}
    answer = affect("run", scale_prompt, "--json")
    result = json.loads(answer.out)
    assert answer.code == 0 and set(result) == {"status", "outputs", "seconds"} and result["status"] == "ok"
    by_node = {o["node"]: o for o in result["outputs"]}
    assert by_node["3"]["type"] == "image" and os.path.isfile(by_node["3"]["path"])
    assert by_node["4"] == {"node": "4", "type": "text", "text": "hello"}
    assert by_node["5"]["type"] == "preview" and os.path.isfile(by_node["5"]["path"])


def test_a_ui_workflow_travels_with_its_image_and_shows_what_was_set(affect, workspace, scale_workflow):
    assert affect("run", scale_workflow, "--set", "Shrink.width=12").code == 0
    with Image.open(workspace / "output" / "small_00001_.png") as image:
        carried = json.loads(image.text["workflow"])
        assert carried["nodes"][1]["widgets_values"] == ["bilinear", 12, 0, "disabled"]
        assert json.loads(image.text["prompt"])["2"]["inputs"]["width"] == 12 and image.size[0] == 12


def test_setting_a_linked_input_replaces_the_link_and_drops_the_drawing(affect, workspace, node, scale_workflow):
    scale_workflow["nodes"][1]["inputs"].append(
        {"name": "width", "type": "INT", "link": 9, "widget": {"name": "width"}}
    )
    scale_workflow["nodes"].append(node(8, "PrimitiveInt", outputs=["INT"], widgets=[33, "fixed"]))
    scale_workflow["links"].append([9, 8, 0, 2, 1, "INT"])
    answer = affect("run", scale_workflow, "--set", "2.width=12")
    assert answer.code == 0 and "--set changed an input" in answer.err
    with Image.open(workspace / "output" / "small_00001_.png") as image:
        assert image.size[0] == 12 and "workflow" not in image.text


@pytest.mark.parametrize(
    "assignment, words",
    [
        ("2.width", ["NODE.INPUT=VALUE"]),
        ("width=3", ["NODE.INPUT=VALUE"]),
        ("2.width=wide", ["a whole number"]),
        ("2.widht=3", ["Did you mean 'width'?"]),
        ("Shrnk.width=3", ["Did you mean 'Shrink'?"]),
        ("2.image=x.png", ["a link from a node that gives IMAGE"]),
        ("2.width=99999", ["from 0 to 16384"]),
        ("2.crop=left", ["disabled, center"]),
        ("Load Image.image=../x.png", ["leaves its folder"]),
    ],
)
def test_settings_that_are_wrong(affect, workspace, scale_prompt, assignment, words):
    answer = affect("run", scale_prompt, "--set", assignment)
    assert answer.code == 2 and answer.out == "" and not (workspace / "output").exists()
    for word in words:
        assert word in answer.err


def test_a_title_that_two_nodes_have_is_ambiguous(affect, scale_prompt):
    scale_prompt["4"] = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "b"}}
    answer = affect("run", scale_prompt, "--set", "Save Image.filename_prefix=x")
    assert answer.code == 2 and "3, 4" in answer.err


BAD = {
    "unknown node": (lambda p: p["2"].update(class_type="FancyScale"), "FancyScale"),
    "missing link": (lambda p: p["2"]["inputs"].update(image=["9", 0]), "node 9"),
    "cycle": (lambda p: p["2"]["inputs"].update(image=["2", 0]), "cycle"),
    "socket type": (lambda p: p["2"]["inputs"].update(image=["1", 1]), "MASK"),
    "range": (lambda p: p["2"]["inputs"].update(width=-1), "from 0 to 16384"),
    "choice": (lambda p: p["2"]["inputs"].update(crop="left"), "disabled, center"),
    "outside": (lambda p: p["1"]["inputs"].update(image="../workflow.json"), "leaves its folder"),
    "truncated": (lambda p: p["1"]["inputs"].update(image="cut.png"), "cut.png"),
    "no checkpoint": (
        lambda p: p.update(
            {
                "5": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "x"}},
                "6": {"class_type": "PreviewAny", "inputs": {"source": ["5", 0]}},
            }
        ),
        "'x'",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_requests_exit_2_in_one_line_and_write_nothing(affect, workspace, scale_prompt, case):
    whole = (workspace / "input" / "plain.png").read_bytes()
    (workspace / "input" / "cut.png").write_bytes(whole[: len(whole) // 2])
    change, word = BAD[case]
    change(scale_prompt)
    for command in ("run", "check"):
        answer = affect(command, scale_prompt)
        assert answer.code == 2 and answer.out == "" and word in answer.err
        assert answer.err.count("\n") == 1 and "Traceback" not in answer.err
    answer = affect("run", scale_prompt, "--json")
    result = json.loads(answer.out)
    assert result["status"] == "invalid" and result["problems"][0]["node"] in ("1", "2", "5")
    assert not (workspace / "output").exists()


@pytest.mark.parametrize("content", ["{", "", "{}", "[1, 2]", '{"nodes": []}', "\x00\x01"])
def test_files_that_are_not_workflows_exit_2(affect, workspace, content):
    (workspace / "w.json").write_text(content)
    answer = affect("run", "w.json")
    assert answer.code == 2 and "w.json" in answer.err and not (workspace / "output").exists()


def test_a_drawing_with_an_unknown_node_names_it_unless_it_is_muted(affect, node, scale_workflow):
    scale_workflow["nodes"].append(node(7, "FancyBlur", [("image", "IMAGE", None)], ["IMAGE"], [1, 2]))
    answer = affect("check", scale_workflow)
    assert answer.code == 2 and "Node 7 'FancyBlur'" in answer.err and "--server URL" in answer.err
    scale_workflow["nodes"][-1]["mode"] = 2
    assert affect("check", scale_workflow).code == 0


def test_check_counts_the_nodes_that_are_needed(affect, workspace, scale_prompt):
    scale_prompt["9"] = {"class_type": "EmptyLatentImage", "inputs": {}}
    answer = affect("check", scale_prompt, "--json")
    assert json.loads(answer.out) == {"status": "ok", "problems": [], "nodes": 4, "needed": 3}
    assert answer.code == 0 and not (workspace / "output").exists()


def test_a_failure_while_running_exits_1_and_names_the_node(affect, workspace, scale_prompt, monkeypatch):
    monkeypatch.setattr(ImageScale, "upscale", lambda self, **inputs: 1 / 0)
    answer = affect("run", scale_prompt)
    assert answer.code == 1 and "Node 2 'Shrink' (ImageScale) failed: ZeroDivisionError" in answer.err
    assert "Traceback" not in answer.err and not (workspace / "output").exists()
    assert "Traceback" in affect("run", scale_prompt, "--debug").err
    assert json.loads(affect("run", scale_prompt, "--json").out)["status"] == "failed"


def test_ctrl_c_exits_130_and_leaves_no_partial_file(affect, workspace, scale_prompt, monkeypatch):
    def stop(self, **inputs):
        raise KeyboardInterrupt

    monkeypatch.setattr(ImageScale, "upscale", stop)
    answer = affect("run", scale_prompt, "--json")
    assert answer.code == 130 and json.loads(answer.out)["status"] == "interrupted"
    assert not (workspace / "output").exists()


def test_termination_unwinds_and_restores_the_handler(affect, workspace, scale_prompt, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(ImageScale, "upscale", lambda self, **inputs: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as caught:
        affect("run", scale_prompt)
    assert caught.value.code == 143 and signal.getsignal(signal.SIGTERM) is before


def test_images_that_are_converted_are_used_and_noted(affect, workspace, scale_prompt):
    Image.new("CMYK", (8, 8)).save(workspace / "input" / "c.jpg")
    answer = affect("run", scale_prompt, "--set", "1.image=c.jpg")
    assert answer.code == 0 and "converted from CMYK" in answer.err


def test_an_image_too_small_for_the_vae_is_refused_before_anything_runs(affect, workspace):
    Image.new("RGB", (1, 40), "red").save(workspace / "input" / "thin.png")
    prompt = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "thin.png"}},
        "2": {"class_type": "AffectTinyModelLoader", "inputs": {}},
        "3": {"class_type": "VAEEncode", "inputs": {"pixels": ["1", 0], "vae": ["2", 2]}},
        "4": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["2", 2]}},
        "5": {"class_type": "SaveImage", "inputs": {"images": ["4", 0], "filename_prefix": "x"}},
    }
    answer = affect("run", prompt)
    assert answer.code == 2 and "1 x 40" in answer.err and "ImageScale" in answer.err and not results(workspace)


def test_an_empty_prompt_in_the_gate_is_refused(affect, workspace):
    prompt = {
        "1": {"class_type": "AffectClipScorerLoader", "inputs": {"model": "tiny"}},
        "2": {
            "class_type": "AffectClipTimingGate",
            "inputs": {
                "clip_scorer": ["1", 0],
                "prompt": " ",
                "threshold": 18.0,
                "estimate": "one_step",
                "force_open_at": 1.0,
            },
        },
        "3": {"class_type": "PreviewAny", "inputs": {"source": ["2", 0]}},
    }
    answer = affect("run", prompt)
    assert answer.code == 2 and "prompt is empty" in answer.err and not results(workspace)


def test_texts_of_a_workflow_do_not_control_the_terminal(affect, scale_prompt):
    evil = "\x1b]0;owned\x07\x9b31m\u202eexe.\u2066\r\nNode 9: all is well"
    scale_prompt["2"] |= {"_meta": {"title": evil}, "class_type": evil}
    for answer in (affect("check", scale_prompt), affect("run", scale_prompt, "--debug")):
        assert answer.code == 2 and "owned" in answer.err
        assert not set("\x1b\x07\x9b\u202e\u2066\r") & set(answer.err + answer.out)
        assert "\nNode 9" not in answer.err


def test_a_terminal_with_few_characters(workspace):
    (workspace / "w.json").write_text('{"1": {"class_type": "Zauberst\\u00e4be\\u2603", "inputs": {}}}')
    code = "import sys; from comfyui_affect.workflows.headless.cli import main; sys.exit(main(['check', 'w.json']))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        cwd=workspace,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 2 and b"Zauberst\\xe4be\\u2603" in done.stderr


@pytest.mark.parametrize("url", ["", "http://", "ftp://x"])
def test_an_invalid_address_is_refused_and_nothing_runs_here(affect, workspace, scale_prompt, url):
    for command in ("run", "check"):
        answer = affect(command, scale_prompt, "--server", url)
        assert answer.code == 2 and "not the address of a server" in answer.err and not (workspace / "output").exists()


@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_workflow_comes_from_standard_input(affect, workspace, scale_prompt, monkeypatch, name, encoding):
    monkeypatch.setattr(
        sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(json.dumps(scale_prompt).encode(encoding)))
    )
    assert affect("run", name).code == 0 and len(results(workspace)) == 1
    image = (workspace / "output" / "small_00001_.png").read_bytes()
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(image)))
    assert affect("run", name).code == 0 and len(results(workspace)) == 2
    for content, words in ((b"", "Standard input is empty"), (b"{", "'standard input' is not JSON")):
        monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(content)))
        answer = affect("run", name)
        assert answer.code == 2 and words in answer.err


def test_a_reader_that_stops_reading_is_not_an_error():
    """As in `affect nodes | head -1`: no traceback, and the code that a shell gives to such programs."""
    reading, writing = os.pipe()
    os.close(reading)
    code = "import sys; from comfyui_affect.workflows.headless.cli import main; sys.exit(main(['nodes']))"
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=writing, stderr=subprocess.PIPE, text=True, cwd=os.path.dirname(__file__)
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def full(monkeypatch, _):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=1_000_000))


def read_only(monkeypatch, _):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere


OUTPUTS = {
    "full": (full, "out", "is full: 1 MB are free"),
    "read-only": (read_only, "out/a/b", "is read-only"),
    "a file": (lambda _, w: (w / "out").touch(), "out", "is not a folder"),
    "in a file": (lambda _, w: (w / "out").touch(), "out/a", "is not a folder"),
    "broken link": (lambda _, w: (w / "out").symlink_to("nowhere"), "out", "is not a folder"),
    "long": (lambda *_: None, "x" * 300, "cannot be used"),
}


@pytest.mark.parametrize("case", OUTPUTS)
def test_an_unusable_output_folder_is_reported_before_the_run(affect, workspace, scale_prompt, monkeypatch, case):
    arrange, folder, words = OUTPUTS[case]
    arrange(monkeypatch, workspace)
    monkeypatch.setattr(ImageScale, "upscale", lambda self, **inputs: pytest.fail("it ran"))
    answer = affect("run", scale_prompt, "--output-dir", folder)
    assert answer.code == 2 and words in answer.err and len(answer.err.splitlines()) == 1 and answer.out == ""


def test_a_disk_that_fills_up_while_running_is_reported_in_a_sentence(affect, workspace, scale_prompt, monkeypatch):
    def write(self, *_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", "output/small_00001_.png")

    monkeypatch.setattr(Image.Image, "save", write)
    answer = affect("run", scale_prompt)
    assert (
        answer.code == 1 and "the disk is full" in answer.err and "Node 3" in answer.err and "Errno" not in answer.err
    )
    assert results(workspace) == []
