"""How ComfyUI's memory management sees our networks: in its own Python, without a server."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SCRIPT = """
import sys, json, gc, logging, importlib.util
sys.argv = ["main.py", "--cpu"]
sys.path.insert(0, ".")
import torch
import comfy.options
comfy.options.enable_args_parsing()
import comfy.model_management as mm
spec = importlib.util.spec_from_file_location("affect_pack", ROOT + "/__init__.py", submodule_search_locations=[ROOT])
pack = importlib.util.module_from_spec(spec); sys.modules["affect_pack"] = pack; spec.loader.exec_module(pack)
from affect_pack.models.diffusion.comfy import memory

class Odd(torch.nn.Module):
    # what ComfyUI's loading by parts passes over: a parameter and a buffer of a module that has parts
    def __init__(self):
        super().__init__()
        self.position = torch.nn.Parameter(torch.zeros(8))
        self.register_buffer("mean", torch.zeros(3))
        self.inner = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8))
    def forward(self, x): return self.inner(x + self.position)

records = []
class Keep(logging.Handler):
    def emit(self, record): records.append(record.getMessage())
logging.getLogger().addHandler(Keep())
out = {}
net = Odd()
out["one"] = memory.patcher(net) is memory.patcher(net)
patcher = memory.patcher(net)
patcher.load_device = torch.device("meta")
patcher.partially_load(torch.device("meta"), extra_memory=0.1)
out["devices"] = sorted({t.device.type for t in [*net.parameters(), *net.buffers()]})
class Fixed(Odd):
    # a device that cannot be set, as transformers' models have it
    @property
    def device(self): return self.position.device
fixed = Fixed()
memory.load(fixed)
out["fixed"] = [fixed.device.type, "device" in net.__dict__]
other = Odd()
for _ in range(3):
    memory.load(other); gc.collect(); mm.cleanup_models_gc(); mm.free_memory(1e30, torch.device("cpu"))
out["leaks"] = [r for r in records if "leak" in r]
out["dead"] = sum(m.model is None for m in mm.current_loaded_models)
import weakref
there = weakref.ref(other); del other; gc.collect()
out["freed"] = there() is None
print("RESULT" + json.dumps(out))
"""


@pytest.fixture(scope="module")
def seen():
    done = subprocess.run(
        [os.environ.get("COMFYUI_PYTHON", sys.executable), "-c", f"ROOT = {str(ROOT)!r}\n" + SCRIPT],
        cwd=os.environ["COMFYUI_PATH"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    assert lines, done.stderr[-3000:]
    return json.loads(lines[0].removeprefix("RESULT"))


def test_a_network_is_loaded_whole_however_little_memory_there_is(seen):
    assert seen["devices"] == ["meta"]


def test_a_network_has_one_patcher_and_leaves_no_dead_entry(seen):
    assert seen["one"] and not seen["leaks"] and seen["dead"] == 0


def test_nothing_is_written_onto_a_network(seen):
    assert seen["fixed"] == ["cpu", False]


def test_a_network_that_nobody_holds_is_freed(seen):
    assert seen["freed"]
