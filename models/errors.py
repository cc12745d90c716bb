"""The exception for the user, and suggestions for mistyped names."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


class UserError(Exception):
    """The request was wrong, or cannot be fulfilled. The message is one readable paragraph: what, where, what to do.

    The command prints it without a traceback (exit code 2 before anything ran, 1 while running); ComfyUI shows it
    on the node.
    """

    # ComfyUI heads an error's details with the exception's module and name, and names a node pack's modules by the
    # pack's whole path. With this it reads "affect.UserError".
    __module__ = "affect"

    def __reduce__(self) -> str | tuple[Any, ...]:
        """No module "affect" can be imported, so pickle (for a process pool's errors) is given a function that can."""
        return (_rebuilt, self.args, self.__dict__ or None) if type(self) is UserError else super().__reduce__()


def _rebuilt(*args: Any) -> UserError:
    return UserError(*args)


def nearest(name: object, known: Iterable[object], cutoff: float = 0.6) -> str | None:
    """The known name that is most similar to `name`; None where none is close.

    cutoff  how similar the two must be, 0..1; among many similar names a high one
    """
    names = {str(k).lower(): str(k) for k in known}
    given = str(name).lower()
    # The time of a comparison grows with the square of the length, and no name is as long as this.
    close = get_close_matches(given, list(names), n=1, cutoff=cutoff) if len(given) <= 200 else []
    return names[close[0]] if close else None


def did_you_mean(name: object, known: Iterable[object], cutoff: float = 0.6) -> str:
    """' Did you mean 'x'?' where a known name is close, else the empty string."""
    close = nearest(name, known, cutoff)
    return f" Did you mean '{close}'?" if close is not None else ""


def unwritable(error: OSError) -> str | None:
    """The sentence for a file or folder that could not be written; None for other errors."""
    forbidden, in_the_way = "there is no permission", "a file is where a folder should be"
    reasons = {
        errno.ENOSPC: "the disk is full",
        getattr(errno, "EDQUOT", -1): "the disk quota is used up",
        errno.EROFS: "the file system is read-only",
        errno.EACCES: forbidden,
        errno.EPERM: forbidden,
        errno.ENOTDIR: in_the_way,
        errno.EEXIST: in_the_way,
        errno.ENAMETOOLONG: "the name is too long",
    }
    reason = reasons.get(error.errno or 0)
    if reason is None:
        return None
    where = f" '{os.fsdecode(error.filename)}'" if isinstance(error.filename, (str, bytes, os.PathLike)) else " a file"
    return f"It was not possible to write or open{where}: {reason}. Make room, or choose another folder."
