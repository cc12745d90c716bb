"""Workflow files: three formats, and files that are not workflows."""

import json
from pathlib import Path

import pytest
from comfyui_affect.models.errors import UserError
from comfyui_affect.workflows.headless.formats.load import load
from PIL import Image
from PIL.PngImagePlugin import PngInfo


def save(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def save_png(path, **chunks):
    info = PngInfo()
    for key, value in chunks.items():
        info.add_text(key, json.dumps(value))
    Image.new("RGB", (4, 4)).save(path, pnginfo=info)
    return path


def test_api_format(tmp_path, scale_prompt):
    scale_prompt["2"]["inputs"]["image"] = [1, 0]
    scale_prompt["2"]["is_changed"] = ["x"]
    loaded = load(save(tmp_path / "w.json", scale_prompt))
    assert loaded.workflow is None
    assert loaded.prompt["2"]["inputs"]["image"] == ["1", 0]
    assert "is_changed" not in loaded.prompt["2"]
    assert loaded.prompt["2"]["_meta"] == {"title": "Shrink"}


def test_ui_format_with_a_byte_order_mark(tmp_path, scale_workflow):
    path = tmp_path / "w.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(scale_workflow).encode())
    assert load(path).workflow == scale_workflow and load(path).prompt is None


def test_a_request_body_gives_its_prompt_and_drawing_but_not_its_keys(tmp_path, scale_prompt, scale_workflow):
    body = {
        "prompt": scale_prompt,
        "client_id": "me",
        "extra_data": {"api_key_comfy_org": "secret", "extra_pnginfo": {"workflow": scale_workflow}},
    }
    loaded = load(save(tmp_path / "w.json", body))
    assert sorted(loaded.prompt) == ["1", "2", "3"] and loaded.workflow == scale_workflow
    assert "secret" not in repr(loaded)


@pytest.mark.parametrize(
    "extra", [5, [], "x", {"extra_pnginfo": 5}, {"extra_pnginfo": []}, {"extra_pnginfo": {"workflow": 5}}]
)
def test_a_request_body_with_odd_extra_data(tmp_path, scale_prompt, extra):
    loaded = load(save(tmp_path / "w.json", {"prompt": scale_prompt, "extra_data": extra}))
    assert sorted(loaded.prompt) == ["1", "2", "3"] and loaded.workflow is None


def test_a_file_of_countless_lists_is_refused_before_it_exhausts_the_memory(tmp_path):
    (tmp_path / "w.json").write_text("[" + "[]," * 1_100_000 + "[]]")
    with pytest.raises(UserError, match="more than 1,000,000 lists and objects"):
        load(tmp_path / "w.json")


def test_a_png_prefers_its_prompt_and_falls_back_to_its_workflow(tmp_path, scale_prompt, scale_workflow):
    both = load(save_png(tmp_path / "both.png", prompt=scale_prompt, workflow=scale_workflow))
    assert sorted(both.prompt) == ["1", "2", "3"] and both.workflow == scale_workflow
    one = load(save_png(tmp_path / "one.png", workflow=scale_workflow))
    assert one.prompt is None and one.workflow == scale_workflow


@pytest.mark.parametrize(
    "content, word",
    [
        ("{", "not JSON"),
        ("not json at all", "not JSON"),
        ("\udcff".encode("utf-8", "surrogateescape"), "not JSON"),
        ("{}", "holds no nodes"),
        ('{"prompt": {}}', "holds no nodes"),
        ('{"nodes": [], "links": []}', "holds no nodes"),
        ("[]", "JSON but not a workflow"),
        ("3", "JSON but not a workflow"),
        ('{"a": 1}', "JSON but not a workflow"),
        ('{"a": {"b": 1}}', "class_type"),
    ],
)
def test_files_that_are_not_workflows(tmp_path, content, word):
    path = tmp_path / "w.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=word):
        load(path)


def test_a_png_without_a_workflow_a_truncated_one_and_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="does not carry a workflow"):
        load(save_png(tmp_path / "plain.png"))
    (tmp_path / "cut.png").write_bytes((tmp_path / "plain.png").read_bytes()[:20])
    with pytest.raises(UserError, match="cut.png"):
        load(tmp_path / "cut.png")
    with pytest.raises(UserError, match="no workflow file") as error:
        load(tmp_path / "absent.json")
    assert (Path(str(error.value).split("'")[-2]) / "emolat_map.json").is_file()  # where the templates are
