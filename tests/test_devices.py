"""Devices that are no CUDA: no float64, no meeting of devices and no CUDA-only call on the nodes' paths."""

import os
import re
import subprocess
import sys
from pathlib import Path

import comfyui_affect
import pytest
import torch
from torch.utils import backend_registration

ROOT = Path(comfyui_affect.__file__).parent
HARMLESS = {"is_available", "OutOfMemoryError"}
"""What torch.cuda answers everywhere."""


def test_no_call_is_for_cuda_alone():
    found = []
    for folder in ("models", "nodes", "workflows"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            found += [(path.name, name) for name in set(re.findall(r"torch\.cuda\.(\w+)", text)) - HARMLESS]
            found += [(path.name, ".cuda()")] * bool(re.search(r"\.cuda\(", text))
    assert not found


@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend") or not hasattr(torch._C, "_acc"),
    reason="this torch takes no device written in Python",
)
def test_the_nodes_run_on_a_device_without_float64():
    """MUSE with gradients and inversion, Gram transfer, EmoLat, Moodifier, and what judges."""
    names = [
        "edit_photograph",
        "transfer_own_reference",
        "emolat_then_muse",
        "emolat_map",
        "moodifier_one_object",
        "judges",
    ]
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "standin_run.py"), *names],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert [line.split()[0] for line in done.stdout.splitlines() if line.endswith(" ran")] == names
