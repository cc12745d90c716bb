"""The templates: they can run as they are, and a person can read them."""

import json
from pathlib import Path

import pytest
from comfyui_affect import __version__, workflows
from comfyui_affect.models import host
from comfyui_affect.nodes import NODE_CLASS_MAPPINGS
from comfyui_affect.workflows.headless.host import EmbeddedHost
from comfyui_affect.workflows.headless.run import prepare
from PIL import Image

TEMPLATES = sorted(Path(workflows.__file__).parent.glob("*.json"))


def _pack() -> dict[str, str]:
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib

    text = (Path(workflows.__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    return {"cnr_id": tomllib.loads(text)["project"]["name"], "ver": __version__}


def test_none_of_the_first_thirteen_is_missing():
    """Shared workflows name them; `frozen` has them as they were."""
    frozen = {path.stem for path in (Path(__file__).parent / "frozen" / "workflows").glob("*.json")}
    assert len(frozen) == 13 and frozen <= {path.stem for path in TEMPLATES}


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda p: p.stem)
def test_a_template_passes_every_check(path, tmp_path):
    Image.new("RGB", (200, 150), "teal").save(tmp_path / "example.png")
    with host.use(EmbeddedHost(tmp_path, tmp_path / "out")):
        prepared = prepare(path)
    assert prepared.workflow is not None and not (tmp_path / "out").exists()


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda p: p.stem)
def test_a_template_can_be_read(path):
    """No two nodes overlap, every node lies in a group or is a note, and every link points both ways."""
    workflow = json.loads(path.read_text(encoding="utf-8"))
    boxes = {n["id"]: (*n["pos"], n["pos"][0] + n["size"][0], n["pos"][1] + n["size"][1]) for n in workflow["nodes"]}
    for a, (ax, ay, ar, ab) in boxes.items():
        for b, (bx, by, br, bb) in boxes.items():
            assert a >= b or ar <= bx or br <= ax or ab <= by or bb <= ay, f"nodes {b} and {a} overlap"
    nodes = {n["id"]: n for n in workflow["nodes"]}
    for link, source, slot, target, place, kind in workflow["links"]:
        assert link in nodes[source]["outputs"][slot]["links"]
        assert nodes[target]["inputs"][place]["link"] == link
        assert {kind, "*"} & set(
            nodes[target]["inputs"][place]["type"].split(",")
        )  # a socket of several types names them all
    assert any(n["type"] == "MarkdownNote" for n in nodes.values()) and workflow["groups"]


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda p: p.stem)
def test_a_template_says_where_its_nodes_come_from(path):
    """By the pack's name in the registry and its version, so that a ComfyUI without the pack can offer to install
    it."""
    for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]:
        told = {key: node["properties"].get(key) for key in ("cnr_id", "ver")}
        if node["type"] in NODE_CLASS_MAPPINGS:
            assert told == _pack(), node["type"]
        elif node["type"] != "MarkdownNote":
            assert told["cnr_id"] == "comfy-core", node["type"]
