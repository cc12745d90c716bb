"""Downloads a file over HTTP: resumed where it was stopped, checked, and complete or absent."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ...models import files, host
from ...models.errors import UserError

_CONNECT, _READ = 5, 60
"""Seconds until a server counts as unreachable, and as silent."""

_PIECE = 1 << 16
"""Bytes that are read at once: a piece that does not arrive whole is lost."""


def download(url: str, path: Path, sha256: str) -> Path:
    """Fetches a file into `path`.

    sha256  the content's checksum, or its beginning: required, because a resumed download may meet another file

    What has arrived is kept in a file `.NAME.part` beside it, and the next call goes on there. UserError where the
    server cannot be reached or answers with an error, where the connection ends early, where the disk has no room,
    where another program downloads the file, or where the checksum is another one (then the part is deleted).
    """
    try:
        import requests  # noqa: F401
    except ImportError as error:
        raise UserError(
            "Fetching needs the package requests: install this package with its extra `headless`."
        ) from error
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with _alone(part):
        _receive(url, path, part)
        check(
            part, sha256, f"What {urlsplit(url).hostname} sent", "It was deleted: run the command again.", delete=True
        )
        os.replace(part, path)
    return path


def check(path: Path, sha256: str, what: str, remedy: str, delete: bool = False) -> None:
    """UserError, of the file called `what`, where its checksum does not begin with `sha256`."""
    found = files.checksum(path)
    if not found.startswith(sha256.lower()):
        if delete:
            path.unlink()
        raise UserError(
            f"{what} is not the published file: its SHA-256 begins with {found[: len(sha256)]}, not {sha256}. {remedy}"
        )


@contextmanager
def _alone(part: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = FileLock(part.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(f"Another program is downloading '{part.name[1:-5]}' at this moment. Wait for it.") from error
    try:
        yield
    finally:
        lock.release()
        part.with_suffix(".lock").unlink(missing_ok=True)


def _receive(url: str, path: Path, part: Path) -> None:
    """Appends to `part` what it lacks; writes it anew where the server does not resume."""
    import requests

    have = part.stat().st_size if part.is_file() else 0
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
    by_hand = f"get {url} by other means and save it as {path}."
    try:
        response = requests.get(url, headers=headers, timeout=(_CONNECT, _READ), stream=True)
    except requests.RequestException as error:
        raise UserError(
            f"{urlsplit(url).hostname} cannot be reached ({_reason(error)}): check the network and run the command "
            f"again, or {by_hand}"
        ) from error
    with response:
        if response.status_code == 416:  # all of it has arrived, or more: the checksum decides
            return
        if not response.ok:
            raise UserError(
                f"{urlsplit(url).hostname} answered {response.status_code} {response.reason} to the request for {url}: "
                f"try later, or {by_hand}"
            )
        begins = response.headers.get("Content-Range", "").removeprefix("bytes ").split("-")[0]
        if response.status_code != 206 or begins != str(have):
            have = 0
        length = response.headers.get("Content-Length", "")
        whole = have + int(length) if length.isdigit() else None
        free = shutil.disk_usage(part.parent).free
        if whole is not None and whole - have > free:
            raise UserError(
                f"'{path.name}' needs {(whole - have) / 1e6:.0f} MB in {part.parent}, and {free / 1e6:.0f} MB are "
                "free. Make room and run the command again."
            )
        _append(response, part, have, whole)


def _append(response: Any, part: Path, have: int, whole: int | None) -> None:
    import requests

    bar = host.current().progress(round((whole or 0) / 1e6), "MB")
    done, reason = have, ""
    try:
        with part.open("ab" if have else "wb") as f:
            pieces = response.iter_content(_PIECE)
            while True:
                try:
                    piece = next(pieces, b"")
                except requests.RequestException as error:
                    reason = f" ({_reason(error)})"
                    break
                if not piece:
                    break
                f.write(piece)
                done += len(piece)
                bar.set(round(done / 1e6))
    finally:
        bar.close()
    if reason or (whole is not None and done < whole):
        of = f" of {whole / 1e6:.1f}" if whole else ""
        raise UserError(
            f"The connection ended after {done / 1e6:.1f}{of} MB{reason}: run the command again, and it goes on there."
        )


def _reason(error: BaseException) -> str:
    """The innermost cause, in its own words, short."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return " ".join(str(error).split())[:150] or type(error).__name__
