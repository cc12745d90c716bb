"""This pack and the pack of random models, loaded as ComfyUI loads custom nodes, for scripts that ComfyUI's own
Python runs."""

import importlib.util
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]


def _load(name, folder):
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


affect = _load("affect_pack", _ROOT)
random_models = _load("random_models", Path(__file__).parent / "random_models")
