"""A real ComfyUI, started from the folder that COMFYUI_PATH names (its Python from COMFYUI_PYTHON), for these tests.

It gets a base folder of its own: this package as its one custom node, models that are made here, no user settings.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
from comfyui_affect.benchmarks.comfyui_server import start, stop

COMFYUI = os.environ.get("COMFYUI_PATH")
PYTHON = os.environ.get("COMFYUI_PYTHON", sys.executable)
FRONTEND = os.environ.get(
    "COMFYUI_FRONTEND"
)  # the `static` folder of another comfyui-frontend-package than ComfyUI's own


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not COMFYUI:
        skip = pytest.mark.skip(reason="COMFYUI_PATH names no ComfyUI")
        for item in items:
            if Path(__file__).parent in item.path.parents and item.path.name != "test_corpus.py":
                item.add_marker(skip)


@pytest.fixture(scope="session")
def comfy(tmp_path_factory):
    base = tmp_path_factory.mktemp("comfyui")
    options = ["--preview-method", "latent2rgb", *(["--front-end-root", FRONTEND] if FRONTEND else [])]
    server = start(Path(COMFYUI), PYTHON, base, *options, packs=[Path(__file__).parent / "random_models"])
    yield server
    log = server.log
    stop(server)
    assert "memory leak" not in log, "ComfyUI found networks without their patcher"
    shutil.rmtree(base, ignore_errors=True)
