"""The host: what the program around us provides, such as progress bars, the interrupt flag, folders.

There are three hosts: ComfyUI (its modules are imported here, inside functions, and in `diffusion/comfy`, nowhere
else); the embedded host of `workflows/headless`, which installs itself with `use`; and plain Python, without bars and
interruption. Algorithms ask `current()` and do not depend on which one it is.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from .foreign import printable, say

HOSTS_SETTING = "Affect.MLLM.Hosts"
"""The setting of ComfyUI's frontend (web/settings.js) that lists machines which may be sent pictures, separated by
commas."""

NOTICE = "affect_notice"
"""The server's message to its client about a note of a node: {"node", "prompt_id", "text"}."""


class Bar(Protocol):
    """A progress bar: `update(n)` advances it, `set(n)` moves it, `text` says what goes on inside a step, `preview`
    shows an image [3, H, W] in 0..1 where the host can."""

    def update(self, n: int = 1) -> None: ...
    def set(self, n: int) -> None: ...
    def text(self, message: str) -> None: ...
    def preview(self, image: Any) -> None: ...
    def close(self) -> None: ...


class SilentBar:
    """A progress bar that shows nothing."""

    def update(self, n: int = 1) -> None:
        pass

    def set(self, n: int) -> None:
        pass

    def text(self, message: str) -> None:
        pass

    def preview(self, image: Any) -> None:
        pass

    def close(self) -> None:
        pass


class _ComfyBar(SilentBar):
    """The bar of the running node, with previews as a sampler's."""

    def __init__(self, total: int):
        import comfy.utils

        self._bar, self._total, self._done = comfy.utils.ProgressBar(total), total, 0

    def update(self, n: int = 1) -> None:
        self.set(self._done + n)

    def set(self, n: int) -> None:
        self._done = n
        self._bar.update_absolute(n, self._total)

    def preview(self, image: Any) -> None:
        from PIL import Image

        from .tensors.uint8 import to_uint8

        picture = Image.fromarray(to_uint8(image.permute(1, 2, 0)))
        self._bar.update_absolute(self._done, self._total, ("JPEG", picture, 512))


class Host:
    """Plain Python: silent bars, never interrupted, folders under the working directory."""

    def __init__(self, root: Path | str = "."):
        self.root = Path(root)
        self.input_dir = self.root / "input"
        self.output_dir = self.root / "output"
        self.temp_dir = self.root / "temp"

    @property
    def device(self) -> str:
        """The device of bundled and embedded models: "cuda" where there is one, else "cpu"."""
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"

    def progress(self, total: int, label: str = "") -> Bar:
        """A bar for `total` units of work."""
        return SilentBar()

    def check_interrupted(self) -> None:
        """Raises where the user asked to stop."""

    def inner(self, step: int, done: int, total: int, loss: float) -> None:
        """Called after an inner optimisation step: `done` of at most `total` inside sampler step `step`."""

    def note(self, message: str) -> None:
        """Tells the user something that is not an error."""
        say(message, sys.stderr)

    def mllm_hosts(self) -> list[str]:
        """Other machines that pictures may be sent to: hosts, with or without a port. Here those in
        $AFFECT_MLLM_HOSTS."""
        return [name.strip() for name in os.environ.get("AFFECT_MLLM_HOSTS", "").split(",") if name.strip()]

    def how_to_allow(self, name: str) -> str:
        """What the user can do to add a host to `mllm_hosts`, with the exact setting."""
        return f"Set AFFECT_MLLM_HOSTS={','.join([*Host.mllm_hosts(self), name])} in the environment and start again."

    def models_dirs(self, kind: str) -> list[Path]:
        """Folders of model files of a kind: 'checkpoints', 'loras', 'vae', or ours such as 'affect'."""
        return [self.root / "models" / kind]

    def list_files(self, kind: str, suffixes: tuple[str, ...] = (".safetensors",)) -> list[str]:
        """Model files of a kind, as relative names with forward slashes, sorted."""
        return sorted(
            {name for folder in self.models_dirs(kind) for name in files_below(folder) if Path(name).suffix in suffixes}
        )


class ComfyHost(Host):
    """ComfyUI, which has one progress bar per node. In a node that samples it is the sampler's (`inner` writes text
    instead), so `progress` is for the other nodes."""

    def __init__(self) -> None:
        import folder_paths

        self.root = Path(folder_paths.base_path)
        self.input_dir = Path(folder_paths.get_input_directory())
        self.output_dir = Path(folder_paths.get_output_directory())
        self.temp_dir = Path(folder_paths.get_temp_directory())

        self._told = 0.0

    device = "cpu"
    """Where our networks are loaded; ComfyUI moves them to its own device while they are in use."""

    def progress(self, total: int, label: str = "") -> Bar:
        return _ComfyBar(total)

    def check_interrupted(self) -> None:
        import comfy.model_management

        comfy.model_management.throw_exception_if_processing_interrupted()

    def inner(self, step: int, done: int, total: int, loss: float) -> None:
        """As text under the node, a few times a second: the node's bar is the sampler's."""
        now = time.monotonic()
        if now - self._told < 0.2:
            return
        self._told = now
        server, where = _running()
        if where is not None:
            server.send_progress_text(f"step {step + 1}: emotion {done}/{total}, loss {loss:.3f}", where.node_id)

    def note(self, message: str) -> None:
        """In the log, and on the running node (MUSE's guider runs in SamplerCustomAdvanced): web/notices.js shows it
        there, and `affect run --server` prints it."""
        import logging

        logging.info("[Affect] %s", printable(message))
        server, where = _running()
        if where is not None:
            server.send_sync(
                NOTICE,
                {"node": where.node_id, "prompt_id": where.prompt_id, "text": printable(message)},
                server.client_id,
            )

    def mllm_hosts(self) -> list[str]:
        """Also those in ComfyUI's settings (`HOSTS_SETTING`), which the user can write and a workflow cannot."""
        import folder_paths
        from comfy.cli_args import args

        if getattr(args, "multi_user", False):  # a node does not know which user's prompt it belongs to
            return super().mllm_hosts()
        try:
            path = Path(folder_paths.get_user_directory()) / "default" / "comfy.settings.json"
            setting = json.loads(path.read_text(encoding="utf-8")).get(HOSTS_SETTING)
        except (OSError, ValueError, AttributeError):
            setting = None
        listed = setting.split(",") if isinstance(setting, str) else []
        return super().mllm_hosts() + [name.strip() for name in listed if name.strip()]

    def how_to_allow(self, name: str) -> str:
        return (
            "Open ComfyUI's settings, Affect, and add it to 'Servers that may be sent pictures'. Or, for a ComfyUI of "
            f"several users: {super().how_to_allow(name)}"
        )

    def models_dirs(self, kind: str) -> list[Path]:
        import folder_paths

        if kind in folder_paths.folder_names_and_paths:
            return [Path(p) for p in folder_paths.get_folder_paths(kind)]
        return [Path(folder_paths.models_dir) / kind]


def files_below(folder: Path | str, enter: Callable[[Path], bool] = lambda path: True) -> Iterator[str]:
    """Names of the files in a folder and its sub-folders, relative, with forward slashes. Links to folders are
    followed, each folder once.

    enter  whether a sub-folder is looked into
    """
    seen = {os.path.realpath(folder)}
    for where, inside, names in os.walk(folder, followlinks=True):
        places = {name: os.path.realpath(os.path.join(where, name)) for name in inside}
        inside[:] = [name for name in sorted(inside) if places[name] not in seen and enter(Path(where, name))]
        seen |= {places[name] for name in inside}
        yield from (Path(where, name).relative_to(folder).as_posix() for name in sorted(names))


def _running() -> tuple[Any, Any]:
    """ComfyUI's server and the running node's context (node_id, prompt_id); (None, None) outside of a prompt."""
    instance = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    if instance is None:  # a script that uses ComfyUI's modules without its server
        return None, None
    from comfy_execution.utils import get_executing_context

    where = get_executing_context()
    return (instance, where) if where is not None else (None, None)


def cores() -> int:
    """CPU cores that this process may use, which may be fewer than the machine has."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


_current: ContextVar[Host | None] = ContextVar("affect_host", default=None)


def current() -> Host:
    """The host in use: the one installed by `use`, else ComfyUI where it runs, else plain Python."""
    installed = _current.get()
    if installed is not None:
        return installed
    return _comfy() if "comfy.model_management" in sys.modules else Host()


@lru_cache(maxsize=1)
def _comfy() -> ComfyHost:
    return ComfyHost()


@contextmanager
def use(host: Host) -> Iterator[Host]:
    """Installs `host` for the duration of the block."""
    token = _current.set(host)
    try:
        yield host
    finally:
        _current.reset(token)
