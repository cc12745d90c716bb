"""Starts a real ComfyUI with this package as a custom node, for tests and benchmarks.

It gets a base folder of its own: node packs, models, input and output; no user settings are touched.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..models import host
from ..workflows.headless.formats.load import Loaded
from ..workflows.headless.host import EmbeddedHost
from ..workflows.headless.remote.server import Server, run_on
from ..workflows.headless.run import prepare

ROOT = Path(__file__).resolve().parent.parent


@dataclass
class ComfyUI:
    """A running server and its folders."""

    process: subprocess.Popen
    url: str
    base: Path
    log_file: Path

    def __post_init__(self) -> None:
        self.server = Server(self.url)
        self._registry: Any = None

    @property
    def registry(self) -> Any:
        self._registry = self._registry or self.server.registry()
        return self._registry

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def run(
        self, workflow: Any, output: Path, inputs: Path | None = None, changes: list[str] | None = None
    ) -> list[dict]:
        """As `affect run --server`: a workflow file, or an API prompt as a dict."""
        source = Loaded(workflow, None) if isinstance(workflow, dict) else workflow
        with host.use(EmbeddedHost(inputs or output, output)):
            prepared = prepare(source, changes, registry=self.registry)
            return run_on(self.server, prepared.prompt, prepared.workflow, self.registry)

    def memory(self) -> int:
        """Resident bytes."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(re.findall(r"\d+", line)[0]) * 1024
        raise RuntimeError("the server's memory cannot be read")


def start(
    comfyui: Path,
    python: str,
    base: Path,
    *options: str,
    packs: list[Path] | None = None,
    environment: dict[str, str] | None = None,
    api_nodes: bool = False,
) -> ComfyUI:
    """Starts ComfyUI on loopback and a free port and waits until it answers. RuntimeError with its log where it does
    not.

    comfyui  its folder; python the interpreter that has its requirements; base a folder for everything it writes
    packs    further node packs to load
    api_nodes  whether it loads the nodes that call services for money, which official templates hold
    """
    _base_folder(base, packs or [])
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    log = base / "server.log"
    own = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")} | {"OMP_WAIT_POLICY": "PASSIVE"}
    process = subprocess.Popen(
        [
            python,
            "main.py",
            "--cpu",
            "--listen",
            "127.0.0.1",
            "--port",
            str(port),
            "--base-directory",
            str(base),
            "--database-url",
            f"sqlite:///{base / 'comfyui.db'}",  # its own, too: two servers of one would wait for each other
            "--disable-auto-launch",
            *([] if api_nodes else ["--disable-api-nodes"]),
            *options,
        ],
        cwd=comfyui,
        stdout=log.open("w"),
        stderr=subprocess.STDOUT,
        env=own | (environment or {}),
    )
    comfy = ComfyUI(process, f"http://127.0.0.1:{port}", base, log)
    for _ in range(600):  # five minutes: it takes seconds, and far longer where other work keeps the cores busy
        if process.poll() is not None:
            raise RuntimeError(f"ComfyUI did not start:\n{comfy.log[-4000:]}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return comfy
        except OSError:
            time.sleep(0.5)
    stop(comfy)
    raise RuntimeError(f"ComfyUI does not answer:\n{comfy.log[-4000:]}")


def _base_folder(base: Path, packs: list[Path]) -> None:
    """A base folder with this package and further packs as links, and the templates' picture."""
    for folder in ("custom_nodes", "models/checkpoints", "models/loras", "models/controlnet", "input", "output"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    for name, pack in (("ComfyUI-Affect", ROOT), *((p.name, p) for p in packs)):
        if not (base / "custom_nodes" / name).exists():
            (base / "custom_nodes" / name).symlink_to(pack, target_is_directory=True)
    shutil.copy(ROOT / "workflows" / "examples" / "example.png", base / "input")  # ComfyUI's own folder has one too


def stop(comfy: ComfyUI) -> None:
    """Ends the server; by force where it does not end in twenty seconds."""
    comfy.process.send_signal(signal.SIGTERM)
    try:
        comfy.process.wait(20)
    except subprocess.TimeoutExpired:
        comfy.process.kill()
