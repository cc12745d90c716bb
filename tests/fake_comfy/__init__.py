"""A ComfyUI of our own, small enough for every test run: what `models/diffusion/comfy` and `host.ComfyHost` use, under
ComfyUI's names and with its ways (its order of calls, its inference mode, its ways of holding weights), and no more.

Written for these tests after reading ComfyUI 0.3.64 and 0.33.0; the real one is tested in `tests/comfyui`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from comfyui_affect.models import diffusion, host

MODULES = Path(__file__).parent / "modules"
ENGINE = "comfyui_affect.models.diffusion.comfy"


def imported() -> list[str]:
    """The modules here that are imported now, and those of the engine over them."""
    roots = {path.stem for path in MODULES.iterdir()}
    return [name for name in sys.modules if name.split(".")[0] in roots or f"{name}.".startswith(f"{ENGINE}.")]


@contextmanager
def installed() -> Iterator[None]:
    """A block in which `import comfy` finds the modules here, as inside ComfyUI. Nothing is left of them afterwards:
    other tests run where there is no ComfyUI."""
    assert not imported(), "another ComfyUI is imported already"
    sys.path.insert(0, str(MODULES))
    host._comfy.cache_clear()
    try:
        for name in ("model_management", "model_patcher"):  # which ComfyUI has always loaded
            importlib.import_module(f"comfy.{name}")
        yield
    finally:
        sys.path.remove(str(MODULES))
        for name in imported():
            del sys.modules[name]
        vars(diffusion).pop("comfy", None)
        host._comfy.cache_clear()
