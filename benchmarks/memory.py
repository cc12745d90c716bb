"""Memory: of a process at its peak, and what is left."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from ..models import host


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


_BATCH_GB = {8: 1.5, 4: 1.0, 2: 0.8, 1: 0.0}
"""Memory of one process that guides the tiny model, by the images of its batch."""


def fitting_batch() -> int:
    """How many images one process makes at once: eight, or as many as the memory that is free lets it; said where it
    is fewer."""
    gb = free() / 1e9
    batch = next(n for n, needed in _BATCH_GB.items() if gb >= needed)
    if batch < 8:
        host.current().note(f"{gb:.1f} GB of memory are free: batches of {batch} in place of 8.")
    return batch


def free() -> int:
    """Bytes that a process may take: what the system has left, or a container's limit leaves."""
    import psutil

    left = psutil.virtual_memory().available
    try:  # of a container, where it has one
        folder = Path("/sys/fs/cgroup")
        left = min(left, int((folder / "memory.max").read_text()) - int((folder / "memory.current").read_text()))
    except (OSError, ValueError):
        pass
    return left
