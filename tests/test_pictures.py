"""Picture files from anybody: what is opened, and what is refused before it costs anything."""

import io
import os
import re
import struct
import zlib
from pathlib import Path

import comfyui_affect
import numpy as np
import pytest
from comfyui_affect.models import pictures
from comfyui_affect.models.errors import UserError
from comfyui_affect.models.pictures import Unreadable, frames, opened, read
from PIL import Image

ROOT = Path(comfyui_affect.__file__).parent


def png(width, height, *chunks):
    """The bytes of a PNG that says it is so large and holds almost nothing."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        *chunks,
        (b"IDAT", zlib.compress(bytes(999))),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def test_one_place_in_the_package_opens_pictures():
    for path in ROOT.rglob("*.py"):
        if not {".venv", "build", "tests"} & set(path.relative_to(ROOT).parts) and path.name != "pictures.py":
            assert not re.search(r"\bImage\.open\(|import open\b", path.read_text(encoding="utf-8")), path


def test_a_picture_is_read_upright_in_rgb(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (12, 4), 90).save(tmp_path / "a.jpg", exif=exif)
    found = read(tmp_path / "a.jpg")
    assert found.mode == "RGB" and found.size == (4, 12)


@pytest.mark.parametrize(
    "name", ["a.png", "a.jpg", "a.webp", "a.gif", "a.bmp", "a.tif", "a.ppm", "a.tga", "a.ico", "a.jp2"]
)
def test_formats_that_are_read(tmp_path, name):
    Image.new("RGB", (16, 16), "red").save(tmp_path / name)
    assert read(tmp_path / name).size == (16, 16) and Path(name).suffix in pictures.SUFFIXES


@pytest.mark.parametrize(
    "content",
    [
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n%%EndComments\n{} loop\n%%EOF\n",
        b"\x89HDF\r\n\x1a\n" + bytes(99),
        b"SIMPLE  =                    T" + b" " * 2900,
        b"GRIB\0\0\0\1" + bytes(99),
    ],
)
def test_formats_that_other_programs_would_decode_are_not_opened(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(Unreadable, match="'a.png' cannot be read: its format is not supported"):
        read(tmp_path / "a.png")


def test_what_never_ends_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    for name in ("pipe.png", "zero.png", "."):
        with pytest.raises(Unreadable, match="not a regular file"):
            read(tmp_path / name)
    with pytest.raises(Unreadable, match="No such file") as caught:
        read(tmp_path / "absent.png")
    assert caught.value.passing and caught.value.why == "No such file or directory"


def test_pixels_are_bounded_before_they_are_decoded(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(png(13000, 13000))
    with pytest.raises(
        Unreadable, match=r"13000 x 13000 pixels would take 4.1 GB of memory, and 1.5 GB are allowed.*AFFECT_PICTURE_GB"
    ):
        list(frames(tmp_path / "a.png"))
    monkeypatch.setenv("AFFECT_PICTURE_GB", "0.5")
    with pytest.raises(Unreadable, match="0.5 GB are allowed"):
        read(tmp_path / "a.png")
    with opened(tmp_path / "a.png", decode=False) as image:
        assert image.size == (13000, 13000)


def test_frames_are_bounded_all_together(tmp_path):
    still = [Image.new("P", (700, 700), i % 250) for i in range(400)]
    still[0].save(tmp_path / "a.gif", save_all=True, append_images=still[1:])
    assert (tmp_path / "a.gif").stat().st_size < 2_000_000
    with pytest.raises(Unreadable, match="its 400 frames of 700 x 700 pixels would take 3.1 GB"):
        list(frames(tmp_path / "a.gif"))
    assert read(tmp_path / "a.gif").size == (700, 700)
    (tmp_path / "b.png").write_bytes(png(64, 64, (b"acTL", struct.pack(">II", 2**31 - 1, 0))))
    with pytest.raises(Unreadable, match="its 2147483648 frames"):
        list(frames(tmp_path / "b.png"))


@pytest.mark.parametrize(
    "content, why",
    [
        (png(40000, 40000), "too large to be opened safely"),
        (
            png(8, 8, (b"zTXt", b"a\0\0" + zlib.compress(bytes(90_000_000)))),
            "Decompressed data too large|too much memory",
        ),
        (png(800, 800), "truncated|broken"),
        (png(8, 8)[:40], "format is not supported"),
        (b"", "format is not supported"),
    ],
)
def test_bombs_are_spoken_of_as_cut_files_are(tmp_path, content, why):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(Unreadable, match=f"The image 'a.png' cannot be read: .*({why})"):
        read(tmp_path / "a.png")


def test_a_jpeg_of_thousands_of_scans(tmp_path):
    buffer = io.BytesIO()
    Image.new("L", (3000, 3000)).save(buffer, "JPEG", progressive=True)
    whole = buffer.getvalue()
    scan = whole[whole.rfind(b"\xff\xda") : -2]
    (tmp_path / "a.jpg").write_bytes(whole[:-2] + scan * 2000 + whole[-2:])
    with pytest.raises(Unreadable, match="stored in 2006 scans"):
        read(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes(whole)
    assert read(tmp_path / "b.jpg").size == (3000, 3000)


def test_a_jpeg_of_thousands_of_exif_blocks(tmp_path):
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "JPEG")
    start, rest = buffer.getvalue()[:2], buffer.getvalue()[2:]
    (tmp_path / "a.jpg").write_bytes(start + b"\xff\xe1\0\x20Exif\0\0" + bytes(24) + rest)
    assert read(tmp_path / "a.jpg").size == (8, 8)
    (tmp_path / "a.jpg").write_bytes(start + (b"\xff\xe1\0\x20Exif\0\0" + bytes(24)) * 200_000 + rest)
    with pytest.raises(Unreadable, match="holds 200000 blocks of EXIF"):
        read(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    "head, small, large",
    [
        (b"P3 2 2 255\n", b"7 " * 12, b"#\n" * 5_000_000),
        (b"P6 3000 3000 254\n", b"", bytes(27_000_000)),
    ],
)
def test_what_is_decoded_slowly_is_bounded_by_its_size(tmp_path, head, small, large):
    (tmp_path / "a.ppm").write_bytes(head + large)
    with pytest.raises(Unreadable, match="would take minutes. Save it as PNG"):
        read(tmp_path / "a.ppm")
    if small:
        (tmp_path / "a.ppm").write_bytes(head + small)
        assert read(tmp_path / "a.ppm").getpixel((1, 1)) == (7, 7, 7)


def test_frames_of_one_pixel_are_not_free(tmp_path):
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    head = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    (tmp_path / "a.gif").write_bytes(head + frame * 90_000 + b";")
    with pytest.raises(Unreadable, match="its 90000 frames of 1 x 1 pixels would take 5.9 GB"):
        list(frames(tmp_path / "a.gif"))


def test_whatever_a_decoder_raises_is_a_sentence(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    for error in (
        KeyError("x"),
        struct.error("unpack"),
        ZeroDivisionError(),
        RecursionError("deep"),
        AttributeError("seek"),
        MemoryError(),
    ):
        with pytest.raises(Unreadable, match="'a.png' cannot be read: .") as caught, opened(tmp_path / "a.png"):
            raise error
        assert caught.value.passing == isinstance(error, MemoryError)
    with pytest.raises(UserError, match="^mine$"), opened(tmp_path / "a.png"):
        raise UserError("mine")
    with pytest.raises(KeyboardInterrupt), opened(tmp_path / "a.png"):
        raise KeyboardInterrupt


def test_frames_of_other_sizes_are_left_out(tmp_path):
    small, large = Image.new("RGB", (8, 8)), Image.new("RGB", (900, 900))
    small.save(tmp_path / "a.tif", save_all=True, append_images=[large, small])
    assert [np.asarray(f).shape for f in frames(tmp_path / "a.tif")] == [(8, 8, 3)] * 2


def test_a_size_that_is_told_late_is_bounded_too(tmp_path, monkeypatch):
    """An icon's directory says 16 x 16, and its PNG is larger."""
    inside = io.BytesIO()
    Image.new("RGB", (3000, 3000)).save(inside, "PNG")
    head = b"\0\0\1\0\1\0" + b"\x10\x10\0\0\1\0\x20\0" + struct.pack("<II", len(inside.getvalue()), 22)
    (tmp_path / "a.ico").write_bytes(head + inside.getvalue())
    assert [f.size for f in frames(tmp_path / "a.ico")] == [(3000, 3000)]
    monkeypatch.setenv("AFFECT_PICTURE_GB", "0.1")
    with pytest.raises(Unreadable, match="3000 x 3000 pixels would take"):
        list(frames(tmp_path / "a.ico"))
