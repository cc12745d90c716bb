"""The one place that opens picture files, which may come from anybody.

Only a fixed list of formats is read (Pillow would pass PostScript to Ghostscript, whatever a file's name), only regular
files, and with a bound on memory that counts all frames and is checked before decoding. Any error of a decoder becomes
`Unreadable`, with a readable message.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from .errors import UserError
from .files import open_regular

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "TGA", "ICO", "PSD")
"""The formats that are opened, by Pillow's names: those that Pillow decodes itself, in compiled code. (JPEG includes
the MPO of stereo cameras.)"""

SUFFIXES = {
    ".png",
    ".apng",
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".mpo",
    ".webp",
    ".gif",
    ".bmp",
    ".dib",
    ".tif",
    ".tiff",
    ".avif",
    ".jp2",
    ".j2k",
    ".jpx",
    ".ppm",
    ".pgm",
    ".pbm",
    ".pnm",
    ".pfm",
    ".tga",
    ".ico",
    ".psd",
}
"""Suffixes of their files."""

BYTES_A_PIXEL = 16
"""Bytes per pixel of a frame that is kept: three or four floats."""

_WORKING = 8
"""Bytes per pixel of the frame that is being read: Pillow's own, and a converted or rotated copy."""

_SMALL = 4096
"""Pixels that a frame counts as at least, for its fixed cost."""

_IN_PYTHON = {"ppm": 16_000_000, "bmp_rle": 16_000_000, "ppm_plain": 500_000}
"""Pillow's decoders that are written in Python, and the bytes of a file that they read in some seconds."""

_MOST_EXIF = 200
"""Blocks of EXIF in a JPEG, which has one. Pillow joins them, and copies all that it has for each."""

_SCANNED = 4e9
"""Pixels times scans of a progressive JPEG at most. A file of a few kilobytes may hold thousands of scans of the whole
picture."""


class Unreadable(UserError):
    """A picture file that cannot be used.

    why      the reason only, for lists of many files
    passing  whether it may be readable later: permissions, a network, a lack of memory
    """

    def __init__(
        self,
        path: Path,
        why: str,
        remedy: str = "It is cut off or not an image; export or download it again.",
        passing: bool = False,
    ):
        self.why, self.passing = why, passing
        super().__init__(f"The image '{path.name}' cannot be read: {why.rstrip('.')}. {remedy}".strip())


def memory_limit() -> float:
    """Bytes that one picture file may take, all its frames together: 1.5 GB (62 megapixels), or $AFFECT_PICTURE_GB."""
    try:
        return max(0.01, float(os.environ.get("AFFECT_PICTURE_GB", ""))) * 1e9
    except ValueError:
        return 1.5e9


@contextmanager
def opened(path: Path | str, every_frame: bool = False, decode: bool = True) -> Iterator[Image]:
    """A picture file as PIL image, not decoded yet, inside a `with` block. Unreadable where it cannot be used, and for
    any error with it inside the block.

    every_frame  whether all frames of an animation will be kept: then the memory bound counts them all
    decode       off where only the size or the texts of the file are read: then pixels are not bounded
    """
    path = Path(path)
    with sentences(path):
        from PIL import Image

        Image.init()
        with (
            _file(path) as file,
            Image.open(_looked_at(path, file), formats=[name for name in FORMATS if name in Image.OPEN]) as image,
        ):
            if decode:
                _bound(path, image, every_frame)
            yield image


def _looked_at(path: Path, file: BinaryIO) -> BinaryIO:
    """The file, at its beginning. Unreadable where its header alone would take minutes."""
    if file.read(2) == b"\xff\xd8" and (blocks := _count(file, b"Exif\0\0")) > _MOST_EXIF:
        raise Unreadable(path, f"it holds {blocks} blocks of EXIF, and a JPEG has one", "Save it again.")
    file.seek(0)
    return file


def _file(path: Path) -> BinaryIO:
    try:
        return open_regular(path)
    except UserError as error:
        raise Unreadable(path, "it is not a regular file but a folder, pipe, socket or device", "") from error


@contextmanager
def sentences(path: Path) -> Iterator[None]:
    """A block in which any error with a picture is raised as Unreadable; other UserErrors pass."""
    from PIL import Image, UnidentifiedImageError

    try:
        yield
    except UserError:
        raise
    except UnidentifiedImageError as error:
        raise Unreadable(path, f"its format is not supported (supported: {', '.join(FORMATS)})") from error
    except Image.DecompressionBombError as error:
        raise Unreadable(
            path, f"it is too large to be opened safely ({error})", "Scale it down in another program."
        ) from error
    except MemoryError as error:
        raise Unreadable(
            path, "there is not enough memory", "Scale it down, or close other programs.", passing=True
        ) from error
    except OSError as error:
        if error.errno is not None:
            raise Unreadable(path, error.strerror or str(error), "", passing=True) from error
        raise Unreadable(path, _message(error)) from error
    except Exception as error:  # a decoder may raise anything for a broken file
        raise Unreadable(path, _message(error)) from error


def _message(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _bound(path: Path, image: ImageFile, every_frame: bool) -> None:
    """Unreadable where decoding would take too much memory or time."""
    frames = getattr(image, "n_frames", 1) if every_frame and image.format != "MPO" else 1
    pixels = image.width * image.height
    need = max(pixels, _SMALL) * frames * BYTES_A_PIXEL * every_frame + pixels * _WORKING
    if need > memory_limit():
        what = (
            f"its {frames} frames of {image.width} x {image.height} pixels"
            if frames > 1
            else f"its {image.width} x {image.height} pixels"
        )
        raise Unreadable(
            path,
            f"{what} would take {need / 1e9:.1f} GB of memory, and {memory_limit() / 1e9:g} GB are allowed",
            "Scale it down, or set AFFECT_PICTURE_GB to what this machine can spare.",
        )
    for codec in {tile[0] for tile in image.tile} & _IN_PYTHON.keys():
        if path.stat().st_size > _IN_PYTHON[codec]:
            raise Unreadable(
                path,
                f"of its kind ({image.format}, {codec}) files of at most {_IN_PYTHON[codec] / 1e6:g} MB are read, "
                "larger ones would take minutes",
                "Save it as PNG.",
            )
    if image.format in ("JPEG", "MPO") and image.info.get("progressive"):
        with open_regular(path) as file:
            scans = _count(file, b"\xff\xda")
        if scans * pixels > _SCANNED:
            raise Unreadable(
                path,
                f"its {image.width} x {image.height} pixels are stored in {scans} scans, which no program does",
                "Save it again in another program.",
            )


def _count(file: BinaryIO, mark: bytes) -> int:
    """How often some bytes occur in the rest of a file, which is read in pieces."""
    count, last = 0, b""
    while piece := file.read(1 << 20):
        piece = last + piece
        count += piece.count(mark)
        last = piece[1 - len(mark) :]
    return count


def upright(image: Image) -> Image:
    """The image rotated as its EXIF orientation says."""
    from PIL import ImageOps

    return ImageOps.exif_transpose(image)


def frames(path: Path | str) -> Iterator[Image]:
    """The decoded frames of a picture file, one after another, each as it is stored. Frames of an animation that differ
    in size from the first are left out, as in ComfyUI. Each is valid until the next is read. Unreadable as `opened`
    says."""
    from PIL import ImageSequence

    with opened(path, every_frame=True) as image:
        size, bounded = None, image.size
        for frame in ImageSequence.Iterator(image):
            if size in (None, frame.size):
                for step in (lambda: None, frame.load):  # some formats give a frame's true size only on loading
                    step()
                    if frame.size != bounded:
                        bounded = frame.size
                        _bound(Path(path), frame, every_frame=True)
                if size in (None, frame.size):
                    size = frame.size
                    yield frame
            if image.format == "MPO":
                return  # the second picture of a stereo photograph is not an animation
        if size is None:
            raise Unreadable(Path(path), "it does not hold a picture")


def read(path: Path | str) -> Image:
    """A picture file as upright RGB PIL image. Unreadable as `opened` says."""
    with opened(path) as image:
        return upright(image).convert("RGB")
