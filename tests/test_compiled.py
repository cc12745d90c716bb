"""Numba's cache on disk, where one checkout is both the installed package and a custom node."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("numba")

ROOT = Path(__file__).parent.parent
LOAD = """
import importlib.util, sys
root = {root!r}
spec = importlib.util.spec_from_file_location({name!r}, root + "/__init__.py", submodule_search_locations=[root])
module = importlib.util.module_from_spec(spec)
sys.modules[{name!r}] = module
spec.loader.exec_module(module)
import numpy as np
kernels = importlib.import_module({name!r} + ".models.grade.kernels")
out = np.zeros((2, 2, 3), np.float32)
grid = np.zeros((2, 2, 2, 12), np.float32)
grid[..., 3] = 0.25
empty = np.zeros((0, 0), np.float32)
kernels.grade_rows(np.ones((2, 2, 3), np.float32), out, grid, np.float32(1.0), empty)
print(out[0, 0].tolist(), sum(kernels.grade_rows.__wrapped__.stats.cache_hits.values()))
"""


def load(name: str, cache: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", LOAD.format(name=name, root=str(ROOT))],
        capture_output=True,
        text=True,
        env={**os.environ, "NUMBA_CACHE_DIR": str(cache)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_checkout_of_two_names_compiles_for_each_of_them_and_once_only(tmp_path):
    fresh = {name: load(name, tmp_path) for name in ("affect_one", "affect_two")}
    assert all(said.endswith(" 0") for said in fresh.values())
    again = {name: load(name, tmp_path) for name in ("affect_one", "affect_two")}
    assert all(said.endswith(" 1") for said in again.values())


def test_a_cache_folder_that_cannot_be_written_falls_back_and_no_folder_at_all_compiles_in_memory(
    tmp_path, monkeypatch
):
    from comfyui_affect.models.tensors import compiled as module

    folders = module._candidates(tmp_path, "")
    assert folders[0].startswith(str(tmp_path)) and len(folders) == 2
    chosen = module._candidates(tmp_path, str(tmp_path / "chosen"))
    assert chosen == [str(tmp_path / "chosen" / folders[0].rpartition("numba-")[2])]
    (tmp_path / "file").write_text("")
    assert not module._writable(str(tmp_path / "file" / "below"))
    monkeypatch.setattr(module, "_writable", lambda folder: False)
    monkeypatch.setattr("numba.core.config.CACHE_DIR", "")

    def double(x):
        return 2 * x

    function = module.compiled(str(tmp_path))(double)
    assert function(21) == 42 and type(function._cache).__name__ == "NullCache"


def test_torch_keeps_its_number_of_threads():
    from comfyui_affect.models.grade.apply import apply_grade
    from comfyui_affect.models.grade.grid import Grid

    before = torch.get_num_threads()
    other = 1 if before > 1 else 2
    try:
        torch.set_num_threads(other)
        apply_grade(torch.rand(1, 32, 32, 3), Grid.identity())
        assert torch.get_num_threads() == other
    finally:
        torch.set_num_threads(before)
