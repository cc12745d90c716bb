"""Memory of a process at its peak."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, Callable


def peak() -> int:
    """Bytes of resident memory of this process at its peak. On Linux the kernel's own count: what `getrusage` gives is
    inherited from the process that started this one."""
    try:
        with open("/proc/self/status", encoding="ascii") as f:
            return next(int(line.split()[1]) * 1024 for line in f if line.startswith("VmHWM"))
    except (FileNotFoundError, StopIteration):
        import resource  # macOS, in bytes; Windows has none

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function of a module's top level gives in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()
