"""Numba's functions, compiled once per machine and per name of this package."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PACKAGE = __name__.partition(".models.")[0]
"""This package's name: `comfyui_affect`, or in a ComfyUI what it calls the folder under custom_nodes/."""


def compiled(source: str, **options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator: `numba.njit(**options)` with a cache on disk of this package's own name.

    Numba pickles the name of a function's module into its cache. One checkout has two names (installed, and as a custom
    node), and code that was compiled under one cannot be loaded under the other: so each name has a folder, below the
    NUMBA_CACHE_DIR that is set, or else in __pycache__ beside the source, or in the user's cache. Where none of them
    can be written, functions are compiled in each process.

    source  the folder of the functions' file
    """
    import numba

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        with _cache_folder(Path(source)) as kept:
            decorated: Callable[..., Any] = numba.njit(cache=kept, **options)(function)
        return _leaving_torch_its_threads(decorated) if options.get("parallel") else decorated

    return decorate


def _leaving_torch_its_threads(function: Callable[..., Any]) -> Callable[..., Any]:
    """Numba and torch share OpenMP, whose number of threads numba sets to its own and leaves there. Torch would go on
    with it: on another number of threads than was asked for, with other last digits, and many times slower where the
    cores are taken."""
    import torch

    @functools.wraps(function)
    def called(*arguments: Any) -> Any:
        threads = torch.get_num_threads()
        try:
            return function(*arguments)
        finally:
            torch.set_num_threads(threads)

    return called


@contextmanager
def _cache_folder(source: Path) -> Iterator[bool]:
    """Numba keeps what is decorated inside in a folder of this package's name. Yields whether there is one."""
    from numba.core import config

    before = config.CACHE_DIR
    config.CACHE_DIR = next(filter(_writable, _candidates(source, before)), before)
    try:
        yield bool(config.CACHE_DIR)
    finally:
        config.CACHE_DIR = before


def _candidates(source: Path, chosen: str) -> list[str]:
    name = hashlib.sha256(PACKAGE.encode()).hexdigest()[:12]
    if chosen:
        return [os.path.join(chosen, name)]
    return [str(source / "__pycache__" / f"numba-{name}"), os.path.expanduser(f"~/.cache/comfyui_affect/numba-{name}")]


def _writable(folder: str) -> bool:
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)
