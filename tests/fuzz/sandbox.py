"""Folders in which hostile input is tried, and the supervision of each case: what it writes, starts and runs, how long
it takes, and how much memory."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SLOWEST = 10.0
"""Seconds that a case may take."""

MOST_MEMORY = 3_000_000_000
"""Bytes of memory that the process may use."""

_HARMLESS_PATHS = ("/dev/null", "/dev/tty", "/proc/self/")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC
_STARTING = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "pty.spawn"}
_LIBRARIES = {"ldconfig", "uname"}
"""Programs that libraries start when they are first imported."""

_CHANGING = {
    "os.rename": 2,
    "os.remove": 1,
    "os.rmdir": 1,
    "os.mkdir": 1,
    "os.symlink": 2,
    "os.link": 2,
    "os.truncate": 1,
    "os.chmod": 1,
    "shutil.rmtree": 1,
    "shutil.move": 2,
}


_WATCHED = frozenset({"open", "exec", "pickle.find_class", "socket.connect", *_STARTING, *_CHANGING})


class Hang(BaseException):
    """A case took longer than `SLOWEST`."""


@dataclass
class Outcome:
    """How a case ended: "ran", "words" (refused with a message), or a fault: "raw" (an unexpected error), "hang",
    "memory", "outside" (it wrote, started or ran what it must not)."""

    kind: str
    detail: str = ""
    seconds: float = 0.0
    megabytes: int = 0

    @property
    def fault(self) -> bool:
        return self.kind not in ("ran", "words")


class Sandbox:
    """Folders `input`, `output`, `models`, `home` and `work` (the working directory) below a root. No case may change
    the files in `elsewhere`."""

    def __init__(self, root: Path):
        self.root = root.resolve()
        for name in ("input", "output", "models", "home", "work", "elsewhere"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        (self.root / "elsewhere" / "private.txt").write_text("private")
        self.allowed = tuple(f"{self.root / name}/" for name in ("output", "home")) + _HARMLESS_PATHS
        self.seen: list[str] = []
        self.watching = False
        self.mllm: Any = None
        """A server for cases that ask an MLLM."""
        os.environ.update(
            HOME=str(self.root / "home"),
            XDG_CACHE_HOME=str(self.root / "home" / "cache"),
            TMPDIR=str(self.root / "home"),
            TORCHINDUCTOR_CACHE_DIR=str(self.root / "home" / "inductor"),  # torch hands it down to child processes
        )
        tempfile.tempdir = None
        os.chdir(self.root / "work")
        sys.addaudithook(self._audit)

    def may_write(self, *folders: Path) -> None:
        """Allows writing into further folders: a gallery keeps its index next to its pictures."""
        self.allowed += tuple(f"{folder}/" for folder in folders)

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if event not in _WATCHED or not self.watching:
            return
        self.watching = False  # opening files here must not be recorded
        try:
            if (
                event == "open"
                and isinstance(args[2], int)
                and args[2] & _WRITING
                and isinstance(args[0], (str, bytes, os.PathLike))
            ):
                self._wrote(args[0])
            elif event in _CHANGING:
                for path in args[: _CHANGING[event]]:
                    self._wrote(path)
            elif event in _STARTING and os.path.basename(str(args[0])) not in _LIBRARIES:
                self.seen.append(f"started {args[0]!r}")
            elif event == "exec" and str(getattr(args[0], "co_filename", "")).startswith(str(self.root)):
                self.seen.append(f"ran the code of {args[0].co_filename}")
            elif event == "pickle.find_class":
                self.seen.append(f"unpickled {args}")
            elif (
                event == "socket.connect"
                and isinstance(args[1], tuple)
                and not str(args[1][0]).startswith(("127.", "::1", "localhost"))
            ):
                self.seen.append(f"connected to {args[1]}")
        finally:
            self.watching = True

    def _wrote(self, path: Any) -> None:
        if not isinstance(path, (str, bytes, os.PathLike)):
            return
        whole = os.path.join(
            os.path.realpath(os.path.dirname(os.fsdecode(path)) or "."), os.path.basename(os.fsdecode(path))
        )
        if not f"{whole}/".startswith(self.allowed) and "__pycache__" not in whole:
            self.seen.append(f"wrote {whole}")

    def outside(self) -> dict[str, bytes]:
        """Every file that no case may touch."""
        folders = (self.root / name for name in ("input", "models", "work", "elsewhere"))
        return {
            str(p): p.read_bytes()
            for folder in folders
            for p in folder.rglob("*")
            if p.is_file() and not p.is_symlink() and not f"{p}".startswith(self.allowed)
        }

    def attempt(self, work: Callable[[], str | None], seconds: float = SLOWEST) -> Outcome:
        """Runs a case.

        work  returns None if the input was accepted, and the message if it was refused; any exception is a fault
        """
        before, began = self.outside(), time.monotonic()
        _forget_peak()
        self.seen.clear()
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed), _alarm(seconds):
                self.watching = True
                try:
                    message = work()
                finally:
                    self.watching = False
            outcome = Outcome("ran") if message is None else Outcome("words", message[:300])
        except Hang:
            outcome = Outcome("hang", "".join(traceback.format_exc(limit=-4)))
        except BaseException as error:
            detail = f"{type(error).__name__}: {str(error)[-1500:]}"
            if not isinstance(error, AssertionError):
                detail += "\n" + "".join(traceback.format_tb(error.__traceback__)[-4:])
            outcome = Outcome("raw", detail)
        outcome.seconds, outcome.megabytes = round(time.monotonic() - began, 2), _peak() // 1_000_000
        if not outcome.fault:
            changed = [f"changed {path}" for path, content in self.outside().items() if before.get(path) != content]
            if self.seen or changed:
                outcome.kind, outcome.detail = "outside", "; ".join([*self.seen, *changed])[:500]
            elif outcome.megabytes * 1_000_000 > MOST_MEMORY:
                outcome.kind = "memory"
        return outcome


_work_began = 0.0


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Raises Hang after `seconds` of CPU time, or if almost none was used in that time. Other programs may be busy, so
    elapsed time alone does not count."""

    def ring(*_: Any) -> None:
        if 0.1 < time.process_time() - _work_began < seconds:
            signal.setitimer(signal.ITIMER_REAL, 1.0)
        else:
            raise Hang

    previous = signal.signal(signal.SIGALRM, ring)
    _wind(seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _wind(seconds: float) -> None:
    global _work_began
    _work_began = time.process_time()
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _forget_peak() -> None:
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as f:
        f.write("5")


def _peak() -> int:
    """The most bytes that the process has used since `_forget_peak`."""
    try:
        with open("/proc/self/status") as f:
            return next(int(line.split()[1]) * 1024 for line in f if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def command(*words: Any) -> str | None:
    """Runs the command line in this process: None if it succeeded, else its message. AssertionError if that is not a
    message but an error's type, or a traceback. Each call has the whole time of a case."""
    from comfyui_affect.workflows.headless import cli

    if signal.getitimer(signal.ITIMER_REAL)[0]:
        _wind(SLOWEST)
    out = io.StringIO()
    with contextlib.redirect_stderr(out):
        code = cli.main([str(word) for word in words])
    if code == 0:
        return None
    message = out.getvalue()
    if "Run again with --debug" in message or "Traceback" in message or not message.strip():
        with contextlib.redirect_stderr(out):
            cli.main([*(str(word) for word in words), "--debug"])  # the report shows the traceback
        raise AssertionError(f"exit code {code} without a message: {out.getvalue()[-1500:]}")
    return message
