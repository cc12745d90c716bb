"""Guided sampling however ComfyUI holds weights: its dynamic VRAM (the default on NVIDIA), with weights resident or
fetched at each use, and models loaded in part. In ComfyUI's own Python, without a server or a GPU."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
KINDS = ("sd15", "sdxl", "sd3", "flux")
PYTHON = os.environ.get("COMFYUI_PYTHON", sys.executable)
if (
    "COMFYUI_PATH" in os.environ
    and subprocess.run([PYTHON, "-c", "import comfy_aimdo"], capture_output=True).returncode
):
    pytest.skip("this ComfyUI has no dynamic VRAM", allow_module_level=True)


def results(script, **environment):
    """What a script of this folder printed as JSON behind RESULT."""
    done = subprocess.run(
        [PYTHON, str(HERE / script)],
        cwd=os.environ["COMFYUI_PATH"],
        capture_output=True,
        text=True,
        timeout=900,
        env=os.environ | {"PYTHONPATH": str(HERE)} | environment,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    assert lines, done.stderr[-3000:]
    return json.loads(lines[0].removeprefix("RESULT"))


@pytest.fixture(scope="module")
def held():
    return results("held_weights.py")


@pytest.fixture(scope="module")
def quantised():
    return results("quantised.py")


@pytest.fixture(scope="module")
def reused():
    return results("held_weights.py", WRONG="1")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "way", ["resident", "resident after a plain pass", "fetched by two streams", "fetched", "partly loaded"]
)
def test_losses_are_those_of_a_model_that_is_loaded_whole(held, kind, way):
    whole, run = held[kind]["legacy"], held[kind][way]
    assert "error" not in run, run
    assert run["losses"] == pytest.approx(whole["losses"], rel=1e-3)
    assert whole["losses"][3] < whole["losses"][0]
    assert run["same"] and not run["patched"] and run["fetch"] == "cast_bias_weight" and not run["in_training"]


@pytest.mark.parametrize(
    "kind, way",
    [
        *((kind, "fetched by two streams") for kind in KINDS),
        *((kind, "partly loaded") for kind in ("sd15", "sdxl", "flux")),
    ],
)  # no token's gradient passes what the small SD3 fetches then
def test_gradients_of_reused_buffers_are_refused(reused, kind, way):
    refused = reused[kind][way].get("error", "")
    assert re.match("UserError: The gradients of this (diffusion model|VAE) are wrong", refused), reused[kind][way]


@pytest.mark.parametrize("kind", ["sd15", "flux"])
@pytest.mark.parametrize("form", ["float8_e4m3fn", "float8_e5m2", "nvfp4", "mxfp8", "int8_tensorwise"])
def test_gradients_run_through_quantised_weights(quantised, kind, form):
    run = quantised[f"{kind} {form}"]
    assert "error" not in run, run
    assert run["layers"] > 20 and run["same"] and run["losses"][3] < run["losses"][0]
