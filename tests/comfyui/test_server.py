"""The extension inside a running ComfyUI: it loads clean and quick, and its nodes explain themselves."""

import json
import re
from pathlib import Path

import pytest
from comfyui_affect.nodes import NODE_CLASS_MAPPINGS


def test_it_loads_without_a_warning(comfy):
    assert re.search(r"[\d.]+ seconds:.*ComfyUI-Affect", comfy.log), comfy.log[
        -2000:
    ]  # how many: `affect bench comfyui`
    ours = [line for line in comfy.log.splitlines() if "affect" in line.lower()]
    assert not any(word in line for line in ours for word in ("IMPORT FAILED", "WARNING", "Warning", "Traceback")), ours


def test_the_command_runs_a_workflow_on_it(comfy, tmp_path, capsys):
    """`affect run --server`: results and exit codes as without one."""
    from comfyui_affect.workflows.headless.cli import main

    node = lambda key, **inputs: {"class_type": key, "inputs": inputs}
    prompt = {
        "1": node("EmptyImage", width=16, height=16, batch_size=1, color=255),
        "2": node("SaveImage", images=["1", 0], filename_prefix="c"),
    }
    (tmp_path / "w.json").write_text(json.dumps(prompt))
    run = lambda *more: main(
        ["run", str(tmp_path / "w.json"), "--server", comfy.server.url, "--output-dir", str(tmp_path / "out"), *more]
    )
    assert run("--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["status"] == "ok" and Path(told["outputs"][0]["path"]).is_file()
    assert (
        run("--set", "1.width=0") == 2 and "width" in capsys.readouterr().err
    )  # the server's own judgement, shown as ours
    assert run("--set", "1.width=wide") == 2
    assert main(["run", str(tmp_path / "w.json"), "--server", "http://127.0.0.1:9"]) == 2


def test_the_command_checks_a_workflow_against_it(comfy, tmp_path, capsys):
    from comfyui_affect.workflows.headless.cli import main

    node = lambda key, **inputs: {"class_type": key, "inputs": inputs}
    prompt = {
        "1": node("EmptyImage", width=16, height=16, batch_size=1, color=255),
        "2": node("ImageScale", image=["1", 0], upscale_method="by hand", width=8, height=8, crop="disabled"),
        "3": node("SaveImage", images=["2", 0], filename_prefix="c"),
    }
    check = lambda: main(["check", str(tmp_path / "w.json"), "--server", comfy.server.url])
    (tmp_path / "w.json").write_text(json.dumps(prompt))
    assert check() == 0
    assert "'by hand' is not among the choices that the server lists" in capsys.readouterr().err
    prompt["2"]["class_type"] = "ImageScal"
    (tmp_path / "w.json").write_text(json.dumps(prompt))
    assert check() == 2
    assert "not available on this server. Did you mean 'ImageScale'" in capsys.readouterr().err
    assert main(["check", str(tmp_path / "w.json"), "--server", "http://127.0.0.1:9"]) == 2


@pytest.mark.parametrize(
    "case", ["batch_autogrow", "custom_combo", "resize_dynamic_combo", "save_advanced", "switch_matchtype"]
)
def test_it_runs_what_the_frontend_of_today_draws(comfy, tmp_path, case):
    drawing = Path(__file__).parent.parent / "headless" / "data" / f"ui_{case}.json"
    unknown = {node["type"] for node in json.loads(drawing.read_text())["nodes"]} - set(comfy.registry.keys())
    if unknown:
        pytest.skip(f"this ComfyUI has no {', '.join(sorted(unknown))}")
    outputs = comfy.run(drawing, tmp_path / "out", inputs=comfy.base / "input")
    assert outputs and all(Path(o["path"]).is_file() if "path" in o else o["text"] for o in outputs)
    if case == "custom_combo":
        assert [o["text"] for o in outputs] == ["2"]


def test_progress_and_previews_while_it_samples(comfy, tmp_path):
    """A browser sees every step's bar move and a picture of it: the tiny model's latents have colours of their own."""
    import io

    import websocket
    from comfyui_affect.benchmarks.comfyui import _graph, _sampled
    from PIL import Image

    socket = websocket.create_connection(f"{comfy.url.replace('http', 'ws')}/ws?clientId=browser", timeout=300)
    prompt = _sampled(_graph(seed=77, steps=3, inner=2))
    asked = comfy.server._json("POST", "/prompt", json={"prompt": prompt, "client_id": "browser"})["prompt_id"]
    steps, pictures = [], []
    while True:
        message = socket.recv()
        if isinstance(message, bytes):
            start = (
                8 if message[:4] == bytes([0, 0, 0, 1]) else 8 + int.from_bytes(message[4:8], "big")
            )  # 4: with metadata
            if message[3] in (1, 4):
                pictures.append(Image.open(io.BytesIO(message[start:])).convert("RGB"))
            continue
        told = json.loads(message)
        if told["type"] == "progress" and told["data"]["node"] == "11":
            steps.append((told["data"]["value"], told["data"]["max"]))
        assert told["type"] != "execution_error", told
        if told["type"] == "executing" and told["data"]["node"] is None and told["data"]["prompt_id"] == asked:
            break
    socket.close()
    assert (3, 3) in steps and len(set(steps)) >= 3
    assert pictures and any(high > low for low, high in pictures[-1].getextrema())


def test_every_node_is_there_and_explains_itself(comfy):
    info = comfy.server._json("GET", "/object_info")
    assert set(NODE_CLASS_MAPPINGS) <= set(info)
    for key in NODE_CLASS_MAPPINGS:
        assert len(info[key]["description"]) > 20 and info[key]["category"].startswith("affect/")
        for group in info[key]["input"].values():
            assert all(spec[1].get("tooltip") for spec in group.values())
