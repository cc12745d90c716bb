"""Images of a benchmark on disk: an image that exists is not made again, and images of other code or models are not
used.

An image's file lies in a folder named after everything that it depends on: the code and the weights, and the method
with all its settings. It carries notes of how it was made (inner steps, when the gate opened) in the PNG's text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..models import files, pictures, tiny
from ..models.errors import UserError
from ..models.tensors.uint8 import from_uint8, to_uint8
from . import dependencies
from .tasks import Task

CODE = ("benchmarks.methods:make",)
"""What makes the images of `methods.Method`."""

WEIGHTS = ("unet", "vae", "clip", "tiny-a", "tiny-b")


@lru_cache(maxsize=32)
def fingerprint(code: tuple[str, ...] = CODE, weights: tuple[str, ...] = WEIGHTS, settings: str = "") -> str:
    """Twelve hex digits over the code, the libraries, the weights and the settings that an image depends on.

    code     the functions that make it, as `dependencies.reached` takes them: all that they use counts
    weights  names of bundled models, or files

    UserError for a function or module that does not exist (any more).
    """
    import diffusers

    digest = hashlib.sha256(f"{torch.__version__} {np.__version__} {diffusers.__version__} {settings}".encode())
    digest.update(dependencies.digest(code))
    for name in weights:
        path = tiny.path(name)
        digest.update((path if path.is_file() else Path(name)).read_bytes())
    return digest.hexdigest()[:12]


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """What `make` gives (anything that JSON can hold), kept in a file: a bench that is stopped does not measure it
    again."""
    if not path.is_file():
        made = make()
        files.write_atomically(path, lambda p: p.write_text(json.dumps(made), encoding="utf-8"))
    return json.loads(path.read_text(encoding="utf-8"))


class Store:
    """The images of one method (`methods.Method`) under a benchmark's folder. Where it starts from EmoLat's codes, its
    fingerprint takes EmoLat's weights in.

    expected  the fingerprint that a process started with: a worker that finds other code than its parent's stops
    """

    def __init__(self, root: Path, method: Any, expected: str | None = None):
        if expected not in (None, fingerprint()):
            raise UserError(
                "The code or the models changed while the benchmark was running. Start it again: what is done "
                "under the old ones is kept apart."
            )
        settings = json.dumps(asdict(method), sort_keys=True)
        name = f"{method.kind}-{hashlib.sha256(settings.encode()).hexdigest()[:10]}"
        weights = (*WEIGHTS, "emolat") if method.start == "emolat" else WEIGHTS
        self.folder = root / fingerprint(CODE, weights) / name
        note = self.folder / "method.json"
        if not note.is_file():
            files.write_atomically(note, lambda p: p.write_text(settings + "\n", encoding="utf-8"))

    def path(self, task: Task) -> Path:
        digest = hashlib.sha256(json.dumps(asdict(task), sort_keys=True).encode()).hexdigest()[:10]
        return self.folder / f"{task.seed:05d}-{task.emotion}-{digest}.png"

    def put(self, task: Task, image: torch.Tensor, notes: dict[str, Any]) -> None:
        """image [3, H, W] in 0..1."""
        from PIL import Image
        from PIL.PngImagePlugin import PngInfo

        text = PngInfo()
        text.add_text("affect", json.dumps(notes))
        array = to_uint8(image.permute(1, 2, 0))
        files.write_atomically(self.path(task), lambda p: Image.fromarray(array).save(p, pnginfo=text))

    def missing(self, tasks: list[Task]) -> list[Task]:
        return [task for task in tasks if not self.path(task).is_file()]

    def images(self, tasks: list[Task]) -> torch.Tensor:
        """[n, 3, H, W] in 0..1."""
        arrays = [np.asarray(pictures.read(self.path(task))) for task in tasks]
        return torch.from_numpy(from_uint8(np.stack(arrays))).permute(0, 3, 1, 2)

    def notes(self, tasks: list[Task]) -> list[dict[str, Any]]:
        def text(path: Path) -> str:
            with pictures.opened(path, decode=False) as image:
                return image.info["affect"]

        return [json.loads(text(self.path(task))) for task in tasks]
