"""Waiting for what may never come."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from . import host

T = TypeVar("T")


class TooLate(Exception):
    """The time was over."""


def within(seconds: float | Callable[[], float], work: Callable[[], T]) -> T:
    """What `work()` returns or raises, waited for at most so long (a function may give more as work gets on); TooLate
    then. The user may interrupt meanwhile.

    It runs in a thread of its own: a server that sends a byte now and then keeps every time-out of a socket from
    running out. Work that came too late goes on unheard until it ends or the program does.
    """
    done: list[tuple[T | None, BaseException | None]] = []
    ended = threading.Event()

    def run() -> None:
        try:
            done.append((work(), None))
        except BaseException as error:  # raised again where it is waited for
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
