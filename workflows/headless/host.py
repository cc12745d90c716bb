"""The host (`models/host.py`) of the `affect` command: folders from its options, progress bars on standard error."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...models.errors import UserError
from ...models.foreign import one_line, printable
from ...models.host import Bar, Host, files_below

_ROOM = 20_000_000
"""Bytes that must be free in the output folder: enough for some pictures."""


def writable(folder: Path | str, option: str = "--output-dir") -> None:
    """UserError if results cannot be written into a folder, which may not exist yet. Creates and writes nothing.

    option  the option that names the folder, for the message
    """
    folder = Path(folder)
    try:
        existing = next(p for p in (folder, *folder.absolute().parents) if p.exists() or p.is_symlink())
        if not existing.is_dir():
            raise UserError(
                f"The output folder '{folder}' cannot be used: '{existing}' is not a folder. "
                f"Choose another with {option}."
            )
        if not os.access(existing, os.W_OK | os.X_OK):
            raise UserError(
                f"Nothing can be written into the output folder '{folder}': '{existing}' is read-only, or belongs to "
                f"another user. Choose another with {option}."
            )
        free = shutil.disk_usage(existing).free
    except (OSError, ValueError) as error:  # a name that no folder can have
        raise UserError(
            f"The output folder {str(folder)[:200]!r} cannot be used: {error}. Choose another with {option}."
        ) from error
    if free < _ROOM:
        raise UserError(
            f"The disk of the output folder '{folder}' is full: {free / 1e6:.0f} MB are free. Make room, or choose "
            f"another with {option}."
        )


class EmbeddedHost(Host):
    """Folders as in ComfyUI; nested progress bars (nodes, steps, inner steps) if standard error is a terminal.

    input_dir   images that workflows name
    output_dir  results; previews go to its folder `temp`
    models_dir  one folder for each kind of model, ComfyUI's `models` layout; default $AFFECT_MODELS_DIR, else `models`
    hosts       other machines on which an MLLM may be used (--allow-host), besides those of $AFFECT_MLLM_HOSTS
    """

    def __init__(
        self,
        input_dir: Path | str = "input",
        output_dir: Path | str = "output",
        models_dir: Path | str | None = None,
        hosts: Iterable[str] = (),
    ):
        super().__init__()
        self._hosts = list(hosts)
        self.input_dir = Path(input_dir)
        self.output_dir = Path(output_dir)
        self.temp_dir = self.output_dir / "temp"
        self.models_dir = Path(models_dir or os.environ.get("AFFECT_MODELS_DIR") or "models")
        self._depth = 0
        self._inner: TqdmBar | None = None

    def models_dirs(self, kind: str) -> list[Path]:
        return [self.models_dir / kind]

    def mllm_hosts(self) -> list[str]:
        return super().mllm_hosts() + self._hosts

    def how_to_allow(self, name: str) -> str:
        return f"Add --allow-host {name} to the command. Or, to allow it permanently: {super().how_to_allow(name)}"

    def progress(self, total: int, label: str = "") -> Bar:
        return TqdmBar(self, total, label)

    def inner(self, step: int, done: int, total: int, loss: float) -> None:
        """A separate bar below the steps' bar: it starts again with every sampler step."""
        if self._inner is None or not self._inner.is_open:
            self._inner = TqdmBar(self, total, "inner steps")
        self._inner.set(done)
        self._inner.text(f"step {step + 1}, loss {loss:.4f}")

    def note(self, message: str) -> None:
        import sys

        from tqdm import tqdm

        tqdm.write(printable(message), file=sys.stderr)  # print would break the bars

    def list_files(self, kind: str, suffixes: tuple[str, ...] = (".safetensors",)) -> list[str]:
        """As `Host.list_files`; among the checkpoints also folders in diffusers' layout."""
        names = super().list_files(kind, suffixes)
        if kind != "checkpoints":
            return names
        for folder in self.models_dirs(kind):
            names += [name.rpartition("/")[0] for name in files_below(folder) if name.endswith("/model_index.json")]
            inside = tuple(f"{name}/" for name in names if (folder / name).is_dir())
            names = [name for name in names if not name.startswith(inside)] if inside else names
        return sorted(set(names))


class TqdmBar:
    """A bar on standard error, below those that are open; silent if standard error is not a terminal."""

    def __init__(self, host: EmbeddedHost, total: int, label: str):
        from tqdm import tqdm

        self._host = host
        self._label = label
        self._bar: Any = tqdm(total=total, desc=label, position=host._depth, leave=host._depth == 0, disable=None)
        host._depth += 1
        self._open = True

    @property
    def is_open(self) -> bool:
        """False once it is closed."""
        return self._open

    def update(self, n: int = 1) -> None:
        self._bar.update(n)

    def set(self, n: int) -> None:
        """Moves the bar to n, forwards or back."""
        self._bar.n = n
        self._bar.refresh()

    def text(self, message: str) -> None:
        self._bar.set_postfix_str(one_line(message))

    def preview(self, image: Any) -> None:
        """Nothing: a terminal shows no pictures."""

    def close(self) -> None:
        if self._open:
            self._open = False
            if self._host._inner is not None and self._host._inner is not self:
                self._host._inner.close()  # it belongs to the steps that have ended
                self._host._inner = None
            self._host._depth -= 1
            self._bar.close()
