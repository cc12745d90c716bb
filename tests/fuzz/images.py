"""Hostile pictures: in LoadImage, as a PNG with a workflow, in a gallery, in a folder to annotate."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fuzz.junk import Numbered, damaged
from fuzz.sandbox import Sandbox, command
from fuzz.servers import Loopback
from PIL import Image


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: tuple[bytes, bytes], data: bytes = bytes(999)) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(*c) for c in [(b"IHDR", head), *chunks, (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    )


def _saved(format: str, image: Image.Image | None = None, **options: Any) -> bytes:
    out = io.BytesIO()
    (image or Image.effect_noise((60, 40), 50).convert("RGB")).save(out, format, **options)
    return out.getvalue()


def _frames(format: str, n: int, size: int) -> bytes:
    still = [Image.new("P", (size, size), i % 250) for i in range(n)]
    return _saved(format, still[0], save_all=True, append_images=still[1:])


def _scans(n: int, size: int) -> bytes:
    whole = _saved("JPEG", Image.new("L", (size, size)), progressive=True)
    return whole[:-2] + whole[whole.rfind(b"\xff\xda") : -2] * n + whole[-2:]


def _bmp(width: int, height: int) -> bytes:
    return (
        b"BM"
        + struct.pack("<IHHI", 54, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    )


def _tiff(width: int, height: int, count: int = 1, following: int = 0) -> bytes:
    entries = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 1, 8),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        (273, 4, count, 8),
        (277, 3, 1, 1),
        (278, 4, 1, height),
        (279, 4, count, 99),
    ]
    return (
        b"II*\0"
        + struct.pack("<I", 8)
        + struct.pack("<H", len(entries))
        + b"".join(struct.pack("<HHII", *e) for e in entries)
        + struct.pack("<I", following)
    )


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n%%EndComments\n{} loop\n%%EOF\n"
MADE: dict[str, Callable[[], bytes]] = {
    "PostScript": lambda: POSTSCRIPT,
    "PostScript in a TIFF's name": lambda: b"\xc5\xd0\xd3\xc6" + struct.pack("<II", 32, 99) + bytes(20) + POSTSCRIPT,
    "169 megapixels": lambda: png(13000, 13000),
    "a real 60 megapixels": lambda: _saved("PNG", Image.new("L", (10000, 6000))),
    "a bomb": lambda: png(60000, 60000),
    "2^31 wide": lambda: png(2**31 - 1, 2**31 - 1),
    "no pixels": lambda: png(0, 0),
    "a text of 90 MB": lambda: png(8, 8, (b"zTXt", b"prompt\0\0" + zlib.compress(bytes(90_000_000)))),
    "a colour profile of 90 MB": lambda: png(8, 8, (b"iCCP", b"x\0\0" + zlib.compress(bytes(90_000_000)))),
    "many texts": lambda: png(8, 8, *[(b"tEXt", b"prompt\0" + b"x" * 900_000)] * 100),
    "2^31 frames": lambda: png(8, 8, (b"acTL", struct.pack(">II", 2**31 - 1, 0))),
    "frames without data": lambda: png(8, 8, (b"acTL", struct.pack(">II", 9, 0))),
    "an animation": lambda: _frames("GIF", 500, 740),
    "a long animation": lambda: _frames("GIF", 4000, 8),
    "WebP's animation": lambda: _frames("WEBP", 60, 300),
    "TIFF's pages": lambda: _frames("TIFF", 50, 400),
    "scans": lambda: _scans(3000, 2000),
    "a BMP of nothing": lambda: _bmp(30000, 5000),
    "a BMP upside down": lambda: _bmp(100, -(2**31)),
    "a TIFF of nothing": lambda: _tiff(12000, 12000),
    "a TIFF of 2^32": lambda: _tiff(2**32 - 1, 2**32 - 1),
    "a TIFF in a circle": lambda: _tiff(8, 8, following=8),
    "a TIFF of many strips": lambda: _tiff(8, 8, 2**30),
    "a plain PPM": lambda: b"P3 9000 9000 255 " + b"1 " * 500,
    "a PPM of nothing": lambda: b"P6 20000 20000 255\n",
    "a GIF that grows": lambda: b"GIF89a\1\0\1\0\0\0\0" + b",\0\0\0\0\xff\xff\xff\xff\0\2\2D\1\0;",
    "a large JPEG 2000": lambda: _saved("JPEG2000", Image.new("L", (7700, 7700))),
    "an ICO of a bomb": lambda: b"\0\0\1\0\1\0\0\0\0\0\1\0\x20\0" + struct.pack("<II", 9999, 22) + png(40000, 40000),
    "a TGA": lambda: b"\0\0\x0a" + bytes(9) + struct.pack("<HHBB", 60000, 2000, 24, 0) + b"\xff\1\2\3" * 50,
    "a PSD": lambda: (
        b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 9000, 9000, 8, 3) + bytes(12) + b"\0\0" + bytes(90)
    ),
    "a PSD of 60000 channels": lambda: (
        b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 60000, 900, 900, 8, 3) + bytes(14)
    ),
    "nothing": lambda: b"",
    "one byte": lambda: b"\x89",
    "HTML": lambda: b"<html><img src=x>",
    "SVG": lambda: b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
    "a zip": lambda: b"PK\3\4" + bytes(200),
    "HDF5": lambda: b"\x89HDF\r\n\x1a\n" + bytes(200),
}
GOOD: list[Callable[[], bytes]] = [
    lambda f=f: _saved(f) for f in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "TGA", "ICO", "JPEG2000")
] + [
    lambda: _frames("GIF", 5, 30),
    lambda: _frames("WEBP", 5, 30),
    lambda: _scans(3, 60),
    lambda: _saved("TIFF", compression="tiff_lzw"),
]
SPECIAL = ("a pipe", "an endless link", "a link out", "a folder", "a socket's name")
LARGE = ("a real 60 megapixels", "a large JPEG 2000", "an animation", "a long animation", "scans")
"""Cases that take seconds; they are tried last."""
NAMES = [name for name in MADE if name not in LARGE] + [*SPECIAL, *LARGE]


PROMPT = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "x.png"}},
    "2": {"class_type": "LoadImageMask", "inputs": {"image": "x.png", "channel": "alpha"}},
    "3": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
    "4": {"class_type": "PreviewAny", "inputs": {"source": ["2", 0]}},
}


def set_up(sandbox: Sandbox) -> None:
    sandbox.may_write(sandbox.root / "work" / "gallery")
    sandbox.mllm = Loopback({"v1": {"choices": [{"message": {"content": "tree"}}]}}).__enter__()

    (_folder(sandbox) / "x.png").write_bytes(_saved("PNG"))
    _tried(sandbox)()


def _folder(sandbox: Sandbox) -> Path:
    folder = sandbox.root / "work" / "gallery"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def case(sandbox: Sandbox, rng: Numbered) -> Any:
    n = rng.index
    path = _folder(sandbox) / "x.png"
    if n < len(NAMES):
        name = NAMES[n]
        if name in SPECIAL:
            _special(name, path, sandbox)
        else:
            path.write_bytes(MADE[name]())
    else:
        path.write_bytes(damaged(rng.choice(GOOD)(), rng))
    return _tried(sandbox)


def _tried(sandbox: Sandbox) -> Any:
    """Everything that opens the picture of the folder."""
    folder, prompt = sandbox.root / "work" / "gallery", sandbox.root / "home" / "w.json"
    path = folder / "x.png"
    prompt.write_text(json.dumps(PROMPT))

    def work() -> str | None:
        messages = [
            command("check", prompt, "--input-dir", folder),
            command("run", prompt, "--input-dir", folder, "--output-dir", sandbox.root / "output"),
            command("check", path),
            command("gallery", "build", folder),
            command(
                "data",
                "annotate",
                folder,
                "--out",
                sandbox.root / "output" / "rows.jsonl",
                "--model",
                "m",
                "--base-url",
                f"{sandbox.mllm.url}/v1",
            ),
        ]
        return next((message for message in messages if message is not None), None)

    return work


def _special(name: str, path: Any, sandbox: Sandbox) -> None:
    if name == "a pipe":
        os.mkfifo(path)
    elif name == "an endless link":
        path.symlink_to("/dev/zero")
    elif name == "a link out":
        path.symlink_to(sandbox.root / "elsewhere" / "private.txt")
    elif name == "a folder":
        path.mkdir()
    else:
        import socket

        with socket.socket(socket.AF_UNIX) as s:
            s.bind(os.path.relpath(path))
