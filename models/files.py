"""Reading and writing files safely, or with an error that says what is wrong.

Weights are safetensors; `pickled` reads the published files that are not.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import re
import secrets
import stat
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from . import host
from .errors import UserError, did_you_mean

if TYPE_CHECKING:
    import numpy as np
    import torch

TINY_DIR = Path(__file__).parent / "tiny"
"""The bundled tiny models."""

_LONGEST_NAME, _LONGEST_PATH = 255, 4000
"""Bytes of one part of a path, and characters of a whole path, that file systems accept."""

_BEGINNING = 40
"""Characters of a file's name that its temporary name begins with; of up to four bytes each."""


def safe_join(root: Path | str, name: str) -> Path:
    """`root / name` for writing. UserError where it leaves `root` (`..`, absolute paths, drives, links that leave) or
    cannot be a file's name (control characters, lone surrogates, too long). For reading, which may follow links, see
    `find_inside`."""
    root, text = Path(root).resolve(), _as_name(name)
    try:
        path = (root / text).resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: links that lead in a circle
        raise UserError(f"The path '{name}' cannot be followed: {error}.") from error
    if not path.is_relative_to(root):
        raise UserError(_LEAVES.format(name=name))
    return path


def find_inside(root: Path | str, name: str) -> Path:
    """`root / name` for reading: as `safe_join`, but links inside `root` are followed wherever they lead, as in ComfyUI
    (model folders are often links to another disk)."""
    return Path(root) / os.path.normpath(_as_name(name))


_LEAVES = "The path '{name}' leaves its folder. Give a name inside it, without '..' or a leading '/'."


def _as_name(name: str) -> str:
    """A name with forward slashes. UserError where a file cannot have it, or where it leads out of its folder."""
    text = name.replace("\\", "/")
    try:
        too_long = len(text) > _LONGEST_PATH or any(len(os.fsencode(part)) > _LONGEST_NAME for part in text.split("/"))
        if too_long or any(c < " " or c == "\x7f" for c in text):
            raise ValueError
    except ValueError as error:  # also raised for a lone surrogate
        raise UserError(
            f"{name[:60]!a} is not a file's name: it holds characters that a name cannot have, or is too long."
        ) from error
    if os.path.normpath(text).split(os.sep)[0] == ".." or text.startswith("/") or ":" in text.split("/")[0]:
        raise UserError(_LEAVES.format(name=name))
    return text


def open_regular(path: Path | str) -> BinaryIO:
    """Opens a regular file, or a link to one, to read its bytes. UserError for pipes, sockets and devices, whose
    reading may never end, and for folders; OSError as `open` raises it."""
    # Not blocking: opening a pipe would wait for its writer.
    number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        if stat.S_ISREG(os.fstat(number).st_mode):
            return os.fdopen(number, "rb")
        raise UserError(
            f"'{Path(path).name}' is not a regular file but a folder, pipe, socket or device: it is not read."
        )
    except BaseException:
        os.close(number)
        raise


def read_text(path: Path | str, most: int) -> bytes:
    """The bytes of a text file of at most `most` bytes. UserError where it is longer, or not a regular file
    (`open_regular`)."""
    with open_regular(path) as f:
        data = f.read(most + 1)
    if len(data) > most:
        raise UserError(
            f"'{Path(path).name}' is larger than {most / 1e6:.0f} MB, more than any file of its kind needs."
        )
    return data


def write_atomically(path: Path | str, write: Callable[[Path], object]) -> Path:
    """Calls `write` on a temporary name in the same folder, then renames: the file is complete or absent. A link named
    `path` is replaced, not followed."""
    path = Path(path)
    with _written(path, write) as temporary:
        os.replace(temporary, path)
    return path


def write_new(names: Iterable[Path], write: Callable[[Path], object]) -> Path:
    """As `write_atomically`, under the first of `names` (all in one folder) that no file has. Nothing is ever replaced,
    even where several programs write into a folder at once."""
    names = iter(names)
    path = next(names)
    with _written(path, write) as temporary:
        while not _claim(temporary, path):
            path = next(names)
    return path


def _claim(temporary: Path, path: Path) -> bool:
    """Gives a file the name `path`; False where a file has it. One atomic step, or under a lock file where the file
    system has no hard links (exFAT)."""
    try:
        os.link(temporary, path, follow_symlinks=False)
        return True
    except FileExistsError:
        return False
    except (OSError, NotImplementedError):
        pass
    lock = path.with_name(f".{path.name[:_BEGINNING]}.lock")
    try:
        os.close(os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return False
    try:
        if os.path.lexists(path):
            return False
        os.rename(temporary, path)
        return True
    finally:
        lock.unlink()


@contextmanager
def _written(path: Path, write: Callable[[Path], object]) -> Iterator[Path]:
    """A new file in the same folder under an unpredictable name, with what `write` writes; removed at the end if it
    still exists. Its mode follows the user's umask, whatever a writer sets (safetensors restricts files to their
    owner)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:_BEGINNING]}.{secrets.token_hex(6)}.tmp{path.suffix}")
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        mode = temporary.stat().st_mode
        write(temporary)
        temporary.chmod(mode)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def leftovers(folder: Path, names: Iterable[str]) -> list[Path]:
    """Temporary files in a folder that writing the files `names` has left behind, where a run was killed. A run that
    is at work has such a file too."""
    beginnings = {name[:_BEGINNING] for name in names}
    pattern = re.compile(r"\.(.+)\.[0-9a-f]{12}\.tmp(\.[^.]*)?", re.DOTALL)
    found = ((name, pattern.fullmatch(name)) for name in sorted(os.listdir(folder)))
    return [folder / name for name, match in found if match and match.group(1) in beginnings]


def release(mapped: np.ndarray) -> None:
    """Returns the pages of a memory-mapped array that were read to the system, where it supports that: otherwise they
    count as this process's memory as long as the file is mapped. The array stays valid; what is read again comes from
    the system's cache."""
    base: Any = mapped
    while base is not None and not isinstance(base, mmap.mmap):
        base = getattr(base, "base", None)
    if base is not None and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)


MAX_HEADER, MAX_TENSORS = 16_000_000, 20_000
"""Limits of a safetensors header. The largest models have some thousand tensors and a header below one megabyte; a file
far beyond that would only cost the reader time."""

_BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "U16": 16,
    "I16": 16,
    "U32": 32,
    "I32": 32,
    "U64": 64,
    "I64": 64,
    "F16": 16,
    "BF16": 16,
    "F32": 32,
    "F64": 64,
    "C64": 64,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "F4": 4,
}
"""Bits of a value of each of the format's types."""


def check_safetensors(path: Path | str) -> dict[str, dict[str, Any]]:
    """The header of a safetensors file: tensor name -> {dtype, shape, data_offsets}, and `__metadata__`.

    Reads only the header. UserError where the file is absent, cut off, or of another format. After it every tensor is
    known to be inside the file, as large as its shape says, without gaps or overlaps.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"There is no model file '{path.name}' in {path.parent}.")
    size = path.stat().st_size
    with path.open("rb") as f:
        start = f.read(8)
        if len(start) < 8:
            raise UserError(f"The model file '{path.name}' is cut off or empty ({size} bytes). Download it again.")
        length = struct.unpack("<Q", start)[0]
        if length > size - 8:
            raise UserError(
                f"'{path.name}' is not a safetensors file, or is cut off. Pickled checkpoints (.ckpt, .pt) are not "
                "executed here: convert it to safetensors, or download it again."
            )
        if length > MAX_HEADER:
            raise UserError(
                f"'{path.name}' has a header of {length / 1e6:.0f} MB, more than any model needs (the limit is "
                f"{MAX_HEADER / 1e6:.0f}). Write it again without its metadata, or choose another file."
            )
        header = _parsed(f.read(length), path.name)
    end = _checked_layout(header, path.name)
    if size < 8 + length + end:
        raise UserError(
            f"The model file '{path.name}' is cut off after {size} of {8 + length + end} bytes. Download it again."
        )
    if size > 8 + length + end:
        raise UserError(
            f"'{path.name}' is damaged: {size - 8 - length - end} bytes follow its last tensor. Download it again."
        )
    return header


def _parsed(text: bytes, name: str) -> dict[str, dict[str, Any]]:
    """A header's JSON, its types checked."""

    def is_size(value: object) -> bool:
        return type(value) is int and value >= 0

    try:
        header = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"'{name}' is not a safetensors file: its header cannot be read.") from error
    if not isinstance(header, dict):
        raise UserError(f"'{name}' is not a safetensors file: its header is not an object.")
    if len(header) > MAX_TENSORS:
        raise UserError(
            f"'{name}' holds {len(header)} tensors; no model has more than {MAX_TENSORS}. Choose another file."
        )
    metadata = header.get("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise UserError(f"'{name}' is not a safetensors file: its metadata are not texts.")
    for key, entry in header.items():
        if key == "__metadata__":
            continue
        shape, offsets = (entry.get("shape"), entry.get("data_offsets")) if isinstance(entry, dict) else (None, None)
        if not (
            isinstance(shape, list)
            and len(shape) <= 16
            and all(map(is_size, shape))
            and isinstance(offsets, list)
            and len(offsets) == 2
            and all(map(is_size, offsets))
            and offsets[0] <= offsets[1]
        ):
            raise UserError(f"'{name}' is not a safetensors file: its header's entry of '{key[:100]}' is invalid.")
        if not isinstance(entry.get("dtype"), str) or entry["dtype"] not in _BITS:
            raise UserError(
                f"'{name}' holds numbers of the unknown type {str(entry.get('dtype'))[:30]!r} ('{key[:100]}')."
            )
    return header


def _checked_layout(header: dict[str, dict[str, Any]], name: str) -> int:
    """The end of the last tensor, in bytes after the header. UserError where two overlap, a gap is between two, or one
    is not as large as its shape says."""
    end = 0
    tensors = ((key, entry) for key, entry in header.items() if key != "__metadata__")
    for key, entry in sorted(tensors, key=lambda item: item[1]["data_offsets"]):
        begin, stop = entry["data_offsets"]
        if begin != end or (stop - begin) * 8 != math.prod(entry["shape"]) * _BITS[entry["dtype"]]:
            raise UserError(f"'{name}' is damaged: '{key[:100]}' is not where its header says. Download it again.")
        end = stop
    return end


def load_safetensors(path: Path | str, device: str = "cpu") -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """(state dict, metadata) of a safetensors file. Raises UserError as `check_safetensors` does."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    header = check_safetensors(path)
    try:
        return load_file(str(path), device=device), header.get("__metadata__") or {}
    except (SafetensorError, KeyError, AttributeError) as error:  # the latter two: a type that this torch lacks
        raise UserError(f"The model file '{Path(path).name}' cannot be read: {error}.") from error


def checksum(path: Path | str) -> str:
    """The SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with open_regular(path) as f:
        while piece := f.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def save_safetensors(path: Path | str, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> Path:
    """Writes a safetensors file atomically."""
    from safetensors.torch import save_file

    tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    return write_atomically(path, lambda p: save_file(tensors, str(p), metadata))


def find_model(kind: str, name: str) -> Path:
    """The path of a model file of a kind (`host.Host.models_dirs`), inside its folder. UserError where absent."""
    folders = host.current().models_dirs(kind)
    for folder in folders:
        path = find_inside(folder, name)
        if path.exists():
            return path
    near = did_you_mean(name, host.current().list_files(kind, (Path(name).suffix or ".safetensors",)))
    raise UserError(
        f"There is no file '{name}' in {' or '.join(str(f) for f in folders)}.{near} Put it there, or choose another."
    )


def state_of(kind: str, name: str) -> str:
    """A text that changes with a model file of a kind (with its size or time); "" where there is no such file."""
    try:
        status = find_model(kind, name).stat()
    except UserError:
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"


def check_state(model: torch.nn.Module, state: dict[str, torch.Tensor], name: str) -> None:
    """UserError where a state dict does not have the keys and shapes of a model; it names the first difference."""
    own = model.state_dict()
    missing = [k for k in own if k not in state]
    surplus = [k for k in state if k not in own]
    shapes = [k for k in own if k in state and own[k].shape != state[k].shape]
    for what, keys in (("lacks", missing), ("has the unknown", surplus), ("has another shape of", shapes)):
        if keys:
            raise UserError(
                f"'{name}' has the wrong keys: it {what} '{keys[0]}' (and {len(keys) - 1} more). "
                "It is a file of another model."
            )


Network = TypeVar("Network", bound="torch.nn.Module")


def load_into(model: Network, state: dict[str, torch.Tensor], name: str) -> Network:
    """Loads a state dict strictly; UserError as `check_state`, and where a parameter holds NaN or infinity."""
    check_state(model, state, name)
    own = model.state_dict()
    model.load_state_dict({k: v.to(own[k].dtype) for k, v in state.items()})
    broken = next((k for k, parameter in model.named_parameters() if not parameter.isfinite().all()), None)
    if broken is not None:
        raise UserError(
            f"'{name}' holds values that are not numbers (NaN or infinity), in '{broken}': it is damaged. Download it "
            "again."
        )
    return model
