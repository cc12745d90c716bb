"""Waiting with a time limit."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from . import host

T = TypeVar("T")


class TooLate(Exception):
    """The time limit has passed."""


def within(seconds: float | Callable[[], float], work: Callable[[], T]) -> T:
    """What `work()` returns or raises within `seconds`, TooLate after them; the user may interrupt meanwhile. `seconds`
    may be a function, whose value may grow while the work makes progress.

    The work runs in a thread of its own, because a server that sends a byte now and then defeats the time-outs of a
    socket. After TooLate it continues in the background until it ends or the program does.
    """
    done: list[tuple[T | None, BaseException | None]] = []
    ended = threading.Event()

    def run() -> None:
        try:
            done.append((work(), None))
        except BaseException as error:  # raised again in the waiting thread
            done.append((None, error))
        ended.set()

    began = time.monotonic()
    threading.Thread(target=contextvars.copy_context().run, args=(run,), daemon=True).start()
    while not ended.wait(0.05):
        host.current().check_interrupted()
        if time.monotonic() - began >= (seconds() if callable(seconds) else seconds):
            raise TooLate
    result, error = done[0]
    if error is not None:
        raise error
    return result  # type: ignore[return-value]
