"""Shared by the tests of the embedded host: folders, the command run in this process, small workflows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from comfyui_affect.models import host
from comfyui_affect.workflows.headless import cli
from comfyui_affect.workflows.headless.core import CORE_CLASSES, CORE_DISPLAY_NAMES
from comfyui_affect.workflows.headless.host import EmbeddedHost
from comfyui_affect.workflows.headless.registry import Registry
from comfyui_affect.workflows.headless.remote.object_info import registry_of
from headless.drawings import read
from PIL import Image

_NOISE = np.random.default_rng(5).integers(0, 256, (16, 24, 3), dtype=np.uint8)
"""The photographs' pixels, each time with another number added."""


class Answer(NamedTuple):
    code: int
    out: str
    err: str


class Forced:
    """A node with a forceInput socket between widgets, and a seed."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"seed": ("INT", {}), "text": ("STRING", {"forceInput": True}), "image": ("IMAGE",)},
            "optional": {"late": ("FLOAT", {"default": 0.5}), "tags": ("STRING", {})},
        }

    RETURN_TYPES = ("STRING", "IMAGE")
    FUNCTION = "run"

    def run(self, **inputs: Any) -> tuple[Any, Any]:
        return inputs["text"], inputs["image"]


class OldestFirst:
    """Declares its optional inputs first; the required ones still come first on the node."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "optional": {"extra": ("INT", {"default": 9}), "mask": ("MASK",)},
            "required": {
                "name": ("STRING", {}),
                "mode": (["a", "b"], {"control_after_generate": True}),
                "strength": ("FLOAT", {"default": 1.0}),
            },
        }

    RETURN_TYPES = ("STRING",)
    FUNCTION = "run"

    def run(self, **inputs: Any) -> tuple[str]:
        return (json.dumps({k: v for k, v in inputs.items() if k != "mask"}),)


@pytest.fixture
def registry() -> Registry:
    return Registry({**CORE_CLASSES, "Forced": Forced, "OldestFirst": OldestFirst}, CORE_DISPLAY_NAMES)


@pytest.fixture(scope="session")
def server() -> Registry:
    """The node types in `drawings`, as a ComfyUI server describes them."""
    return registry_of(read("object_info"))


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with an input folder that holds plain.png (40 x 30)."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "input").mkdir()
    Image.effect_noise((40, 30), 60).convert("RGB").save(tmp_path / "input" / "plain.png")
    return tmp_path


@pytest.fixture
def embedded(workspace: Path) -> Any:
    """The embedded host on the workspace, in use for the test; `.notes` collects its notes to the user."""

    class Noting(EmbeddedHost):
        def note(self, message: str) -> None:
            self.notes.append(message)

    current = Noting(workspace / "input", workspace / "output", workspace / "models")
    current.notes = []
    with host.use(current):
        yield current


@pytest.fixture
def affect(workspace: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """affect("run", workflow, ...): a dict is written to workflow.json first."""

    def run(*arguments: Any) -> Answer:
        words = []
        for argument in arguments:
            if isinstance(argument, dict):
                (workspace / "workflow.json").write_text(json.dumps(argument))
                argument = "workflow.json"
            words.append(str(argument))
        capsys.readouterr()
        code = cli.main(words)
        return Answer(code, *capsys.readouterr())

    return run


@pytest.fixture
def scale_prompt() -> dict[str, Any]:
    """LoadImage -> ImageScale -> SaveImage in the API format."""
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": "plain.png"}},
        "2": {
            "class_type": "ImageScale",
            "_meta": {"title": "Shrink"},
            "inputs": {"image": ["1", 0], "upscale_method": "bilinear", "width": 20, "height": 0, "crop": "disabled"},
        },
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "small"}},
    }


def _node(
    id: int,
    type: str,
    inputs: list[tuple[str, str, Any]] = (),
    outputs: list[str] = (),
    widgets: Any = None,
    **more: Any,
) -> dict[str, Any]:
    node = {
        "id": id,
        "type": type,
        "mode": 0,
        "pos": [0, 0],
        "flags": {},
        "order": 0,
        "properties": {},
        "inputs": [{"name": n, "type": t, "link": link} for n, t, link in inputs],
        "outputs": [{"name": t, "type": t, "links": []} for t in outputs],
        **more,
    }
    return node if widgets is None else {**node, "widgets_values": widgets}


@pytest.fixture
def node() -> Callable[..., dict[str, Any]]:
    """node(id, type, [(input, type, link)], [output types], widgets, **more): a node of the UI format."""
    return _node


@pytest.fixture
def scale_workflow() -> dict[str, Any]:
    """The same graph as `scale_prompt` in the UI format."""
    return {
        "last_node_id": 3,
        "last_link_id": 2,
        "version": 0.4,
        "groups": [],
        "config": {},
        "extra": {},
        "nodes": [
            _node(1, "LoadImage", outputs=["IMAGE", "MASK"], widgets=["plain.png", "image"]),
            _node(2, "ImageScale", [("image", "IMAGE", 1)], ["IMAGE"], ["bilinear", 20, 0, "disabled"], title="Shrink"),
            _node(3, "SaveImage", [("images", "IMAGE", 2)], widgets=["small"]),
        ],
        "links": [[1, 1, 0, 2, 0, "IMAGE"], [2, 2, 0, 3, 0, "IMAGE"]],
    }


@pytest.fixture
def keep():
    """A workflow that changes nothing. The picture that it names does not exist."""
    scale = {"upscale_method": "bilinear", "width": 0, "height": 0, "crop": "disabled"}
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": "absent.png"}},
        "2": {"class_type": "ImageScale", "_meta": {"title": "Size"}, "inputs": {"image": ["1", 0], **scale}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}},
    }


@pytest.fixture
def photos(workspace):
    """photos(name, ...): photographs of that name, each another, in the folder `photos`."""
    count = 0

    def make(*names):
        nonlocal count
        for name in names:
            path = workspace / "photos" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            count += 1
            Image.fromarray(_NOISE + np.uint8(count)).save(path, format=None if path.suffix else "PNG")
        return workspace / "photos"

    return make


@pytest.fixture
def apply(affect, keep):
    """apply(option, ...): the command with the workflow that changes nothing, from photos to out."""
    return lambda *options, workflow=None: affect(
        "apply", keep if workflow is None else workflow, "--each", "photos", "--out", "out", *options
    )
