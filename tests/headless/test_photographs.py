"""Photographs of every kind, read and written again: pixels, depth, and all that their files carry."""

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
import torch
from comfyui_affect.models.errors import UserError
from comfyui_affect.workflows.headless.core.deep import deep_colour
from comfyui_affect.workflows.headless.photographs import encode, ifd, jpeg, png, read
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

tifffile = pytest.importorskip("tifffile")

NOISE = np.random.default_rng(3).integers(0, 65536, (12, 20, 4), dtype=np.uint16)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6" dc:title="Dunes"/></x:xmpmeta>'
MAKER_NOTE = b"maker's own, with offsets \x00\x01\x02"


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def deep_png(values, colour, more=b""):
    height, width = values.shape[:2]
    rows = values.astype(">u2").reshape(height, -1).view(np.uint8)
    rows = np.hstack([np.zeros((height, 1), np.uint8), rows])
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0))
    return png.SIGNATURE + header + more + chunk(b"IDAT", zlib.compress(rows.tobytes())) + chunk(b"IEND", b"")


def exif(orientation=6, order="<"):
    """EXIF as a camera writes it: orientation, maker, its own directory with size and maker's note, a preview."""

    def short(value):
        return ifd.SHORT, 1, struct.pack(order + "H", value)

    inner = {40962: short(20), 40963: short(12), 37500: (7, len(MAKER_NOTE), MAKER_NOTE)}
    tags = {271: (2, 6, b"Maker\0"), ifd.ORIENTATION: short(orientation), ifd.EXIF: inner}
    block = bytearray((b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8))
    block += ifd.directory(tags, order, 8)
    struct.pack_into(order + "I", block, 8 + 2 + 12 * 3, len(block))  # the preview's directory
    return b"Exif\0\0" + bytes(block) + ifd.directory({256: short(160)}, order, len(block))


def again(path, change=lambda image: image):
    """Writes what `change` makes of a photograph; (the new file's path, the photograph, notes)."""
    photograph = read(path)
    image, _ = photograph.hand_over()
    out = path.with_name("out" + path.suffix)
    notes = encode(photograph, change(image)[0], out)
    return out, photograph, notes


@pytest.fixture
def saved(tmp_path):
    """saved(name, array or image, **options): a file."""

    def save(name, pixels, **options):
        image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
        image.save(tmp_path / name, **options)
        return tmp_path / name

    return save


COLOUR8 = (NOISE >> 8).astype(np.uint8)
LOSSLESS = {
    "rgb.png": {},
    "rgba.png": {},
    "rgb.tif": {},
    "rgba.tif": {"compression": "tiff_lzw"},
    "rgb.webp": {"lossless": True},
    "rgba.webp": {"lossless": True, "exact": True},
}


@pytest.mark.parametrize("name", LOSSLESS)
def test_what_is_not_changed_returns_exactly(saved, name):
    pixels = COLOUR8 if "rgba" in name else COLOUR8[..., :3]
    out, _, notes = again(saved(name, pixels, **LOSSLESS[name]))
    with Image.open(out) as image:
        assert np.array_equal(np.asarray(image), pixels) and notes == []
        assert image.format == {"png": "PNG", "tif": "TIFF", "webp": "WEBP"}[out.suffix[1:]]


@pytest.mark.parametrize("bands, colour", [(3, 2), (4, 6), (2, 4)])
def test_sixteen_bits_of_a_png_return_exactly(tmp_path, bands, colour):
    (tmp_path / "deep.png").write_bytes(deep_png(NOISE[..., :bands], colour))
    wanted = NOISE[..., :bands] if bands != 2 else NOISE[..., [0, 0, 0, 1]]
    assert np.array_equal(deep_colour(tmp_path / "deep.png"), wanted)
    out, photograph, _ = again(tmp_path / "deep.png")
    assert photograph.bits == 16 and np.array_equal(deep_colour(out), wanted)
    with Image.open(out) as image:  # what other programs see: the higher bytes
        assert np.array_equal(np.asarray(image), wanted >> 8)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("bands", [3, 4])
def test_sixteen_bits_of_a_tiff_return_exactly(tmp_path, order, compression, bands):
    tifffile.imwrite(
        tmp_path / "deep.tif",
        NOISE[..., :bands].astype(order + "u2"),
        byteorder=order,
        photometric="rgb",
        compression=compression,
        extrasamples=("unassalpha",) if bands == 4 else None,
    )
    out, photograph, _ = again(tmp_path / "deep.tif")
    assert photograph.bits == 16 and np.array_equal(deep_colour(out), NOISE[..., :bands])
    with tifffile.TiffFile(out) as file:
        assert file.byteorder == order and file.pages[0].dtype == np.uint16
        assert file.pages[0].compression == (8 if compression else 1)
        assert np.array_equal(file.asarray(), NOISE[..., :bands])


def test_the_transparent_colour_of_sixteen_bits_becomes_alpha(tmp_path):
    key = chunk(b"tRNS", struct.pack(">HHH", *NOISE[2, 3, :3]))
    (tmp_path / "deep.png").write_bytes(deep_png(NOISE[..., :3], 2, key))
    _, mask = read(tmp_path / "deep.png").hand_over()
    assert mask.sum() == 1 and mask[0, 2, 3] == 1


def test_planes_of_sixteen_bits_are_refused(tmp_path):
    planes = np.ascontiguousarray(NOISE[..., :3].transpose(2, 0, 1))
    tifffile.imwrite(tmp_path / "planes.tif", planes, photometric="rgb", planarconfig="separate")
    with pytest.raises(UserError, match="one plane for each colour"):
        read(tmp_path / "planes.tif")


CARRYING = {
    "a.jpg": {"quality": 95},
    "a.png": {},
    "a.webp": {"lossless": True},
    "a.tif": {},  # compressed, Pillow does not write EXIF's directory
}


@pytest.mark.parametrize("name", CARRYING)
def test_a_photograph_is_upright_and_keeps_profile_exif_and_xmp(saved, name):
    block = exif()
    given = {"icc_profile": SRGB, "xmp": XMP, "exif": block} | CARRYING[name]
    if name.endswith("png"):
        texts = PngInfo()
        texts.add_itxt("XML:com.adobe.xmp", XMP.decode())
        texts.add_text("Author", "somebody")
        given = {"icc_profile": SRGB, "pnginfo": texts, "exif": block}
    if name.endswith("tif"):
        tags = Image.Exif()
        tags.load(block)
        tags[700] = XMP
        given = {"icc_profile": SRGB, "exif": tags}
    out, photograph, notes = again(saved(name, COLOUR8[..., :3], **given))
    assert (photograph.width, photograph.height, photograph.turned, notes) == (12, 20, True, [])
    with Image.open(out) as image:
        assert image.size == (12, 20) and image.info["icc_profile"] == SRGB
        packet = image.info.get("xmp") or image.info["XML:com.adobe.xmp"].encode()
        assert packet == XMP.replace(b'Orientation="6"', b'Orientation="1"')
        tags = image.getexif()
        assert tags[0x0112] == 1 and tags[271] == "Maker"
        inner = tags.get_ifd(ifd.EXIF)
        assert inner[37500] == MAKER_NOTE and (inner[40962], inner[40963]) == (12, 20)
        if name.endswith("png"):
            assert image.text["Author"] == "somebody"
        image.load()
        if not name.endswith("jpg"):
            assert np.array_equal(np.asarray(image), np.rot90(COLOUR8[..., :3], -1))


@pytest.mark.parametrize("order", "<>")
def test_exif_is_corrected_in_place_and_its_preview_cut_off(order):
    block = exif(8, order)
    new = ifd.corrected(block, (700, 400))
    assert len(new) == len(block) and new.count(MAKER_NOTE) == 1
    assert new.index(MAKER_NOTE) == block.index(MAKER_NOTE)
    tags = ifd.tags(new[6:], ifd.first(new[6:]))
    assert struct.unpack(order + "H", tags[ifd.ORIENTATION][2]) == (1,)
    assert [struct.unpack(order + "H", tags[ifd.EXIF][t][2])[0] for t in (40962, 40963)] == [700, 400]
    assert struct.unpack_from(order + "I", new, 6 + 8 + 2 + 12 * 3) == (0,)


@given(st.binary(max_size=12), st.integers(0, 150), st.booleans())
@settings(max_examples=300, deadline=None)
def test_damaged_directories_are_value_errors(damage, at, cut):
    data = bytearray(exif()[6:])
    data[at : at + len(damage)] = damage
    data = bytes(data[:-at] if cut and at else data)
    with contextlib.suppress(ValueError):
        assert len(ifd.corrected(data, (1, 1))) == len(data)
    with contextlib.suppress(ValueError):
        assert ifd.tags(data, ifd.first(data)).keys() <= {e.tag for e in ifd.entries(data, ifd.first(data))}


def test_directories_that_lead_to_one_another_end():
    """All entries of a directory lead to itself, or share one large value."""
    at, many = 8, 5000
    for kind, count in ((ifd.LONG, 1), (7, 60000)):
        tags = [ifd.EXIF] * many if kind == ifd.LONG else range(1, many + 1)
        entries = b"".join(struct.pack("<HHII", tag, kind, count, at) for tag in tags)
        data = b"II*\0" + struct.pack("<I", at) + struct.pack("<H", many) + entries + bytes(4)
        if kind == ifd.LONG:
            assert ifd.corrected(data, (1, 1)) == data
            assert list(ifd.tags(data, at)) == [ifd.EXIF]
        else:
            with pytest.raises(ValueError, match="too large"):
                ifd.tags(data, at)


def test_damaged_exif_is_a_value_error_and_is_left_out(saved, tmp_path):
    block = exif()
    for end in range(7, len(block) - 20):
        try:
            ifd.corrected(block[:end], (1, 1))
        except ValueError:
            continue
        # What is left is whole up to the preview's directory.
        assert MAKER_NOTE in block[:end]
    path = saved("a.jpg", COLOUR8[..., :3])
    plain = path.read_bytes()
    broken = b"Exif\0\0II*\0\xff\xff\0\0"
    path.write_bytes(jpeg.with_segments(plain, b"\xff\xe1" + struct.pack(">H", len(broken) + 2) + broken))
    out, _, _ = again(path)
    assert [c for m, c in jpeg.segments(out.read_bytes()) if m == 0xE1] == []


def test_texts_whose_orientation_cannot_be_corrected_are_left_out_of_a_turned_png(saved, tmp_path):
    texts = PngInfo()
    texts.add_itxt("XML:com.adobe.xmp", XMP.decode(), zip=True)
    texts.add_text("Raw profile type exif", "\nexif\n 0\n")
    texts.add_text("Title", "Dunes")
    for orientation, names in ((1, {"XML:com.adobe.xmp", "Raw profile type exif", "Title"}), (6, {"Title"})):
        out, _, _ = again(saved("a.png", COLOUR8[..., :3], pnginfo=texts, exif=exif(orientation)))
        with Image.open(out) as image:
            assert set(image.text) == names


def test_a_jpeg_keeps_comments_and_iptc_and_loses_second_pictures(saved):
    path = saved("a.jpg", COLOUR8[..., :3], comment=b"at the sea", dpi=(240, 240))
    more = {0xED: b"Photoshop 3.0\0" + b"8BIM iptc", 0xE2: b"MPF\0 a second picture", 0xEB: b"JP signed"}
    added = b"".join(bytes((255, m)) + struct.pack(">H", len(c) + 2) + c for m, c in more.items())
    path.write_bytes(jpeg.with_segments(path.read_bytes(), added))
    out, _, _ = again(path)
    found = dict(jpeg.segments(out.read_bytes()))
    assert found[0xFE] == b"at the sea" and found[0xED] == more[0xED] and not {0xE2, 0xEB} & found.keys()
    with Image.open(out) as image:
        assert image.info["dpi"] == (240, 240) and image.layer[1][1:3] == (1, 1)  # colours at full resolution


def test_grey_becomes_rgb_without_its_profile(saved):
    grey = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    grey = grey[:16] + b"GRAY" + grey[20:]
    for name in ("a.jpg", "a.png", "a.tif"):
        out, photograph, _ = again(saved(name, COLOUR8[..., 0], icc_profile=grey))
        with Image.open(out) as image:
            assert image.mode == "RGB" and "icc_profile" not in image.info
        assert "colour profile" in photograph.notes[0]
    values = np.arange(240, dtype=np.uint16).reshape(12, 20) * 273
    out, _, _ = again(saved("deep.png", values))
    assert np.array_equal(deep_colour(out), np.repeat(values[..., None], 3, axis=2))


def test_cmyk_becomes_rgb_with_a_note(saved):
    for name in ("a.jpg", "a.tif"):
        path = saved(name, Image.new("CMYK", (30, 20), (0, 255, 255, 0)), icc_profile=SRGB[:16] + b"CMYK" + SRGB[20:])
        out, photograph, _ = again(path)
        with Image.open(out) as image:
            assert image.mode == "RGB" and "icc_profile" not in image.info and image.getpixel((4, 4))[0] > 240
        assert photograph.notes[0] == "it was converted from CMYK to RGB" and "profile" in photograph.notes[1]


def test_alpha_is_kept_where_the_size_is_and_left_out_with_a_note(saved):
    path = saved("a.png", COLOUR8)
    out, _, notes = again(path, lambda image: 1 - image)
    with Image.open(out) as image:
        assert np.array_equal(np.asarray(image), np.dstack([255 - COLOUR8[..., :3], COLOUR8[..., 3]])) and notes == []
    out, _, notes = again(path, lambda image: image[:, :6, :10])
    with Image.open(out) as image:
        assert image.mode == "RGB" and image.size == (10, 6) and "another size" in notes[0]
    out, _, _ = again(path, lambda image: torch.full((1, 12, 20, 4), 0.5))
    with Image.open(out) as image:  # the result's own
        assert image.getpixel((0, 0)) == (128, 128, 128, 128)


@pytest.mark.parametrize("size", [(1, 1), (16, 1), (20000, 2)])
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif"])
def test_tiny_and_extreme_sizes(saved, name, size):
    out, _, _ = again(saved(name, Image.new("RGB", size, (9, 99, 199))))
    with Image.open(out) as image:
        assert image.size == size and np.abs(np.asarray(image).astype(int) - (9, 99, 199)).max() <= 2


def test_what_cannot_be_written_is_refused_in_a_sentence(saved, tmp_path):
    for name, image, words in (
        ("a.gif", Image.new("L", (4, 4)), "format GIF are not written.*JPEG, PNG, TIFF or WebP"),
        ("a.tif", Image.new("F", (4, 4)), "floating point.*16 bits"),
    ):
        with pytest.raises(UserError, match=words):
            read(saved(name, image))
    frames = [Image.new("RGB", (6, 5), (40 * i, 0, 0)) for i in range(3)]
    with pytest.raises(UserError, match="several pictures"):
        read(saved("a.webp", frames[0], save_all=True, append_images=frames[1:], lossless=True))
    path = saved("b.webp", frames[0])
    with pytest.raises(UserError, match="WEBP holds sides of at most 16383"):
        again(path, lambda image: torch.zeros(1, 2, 16384, 3))
    with pytest.raises(UserError, match="not numbers"):
        again(path, lambda image: image * float("nan"))
    with pytest.raises(UserError, match="a picture is"):
        again(path, lambda image: image[..., :2])


def test_a_lossy_webp_stays_lossy(saved):
    out, _, _ = again(saved("a.webp", COLOUR8[..., :3], quality=90))
    data = out.read_bytes()
    assert b"VP8 " in data[:64] and b"VP8L" not in data[:64]


def test_directories_are_read_as_they_were_written():
    nested = {40965: {1: (2, 4, b"R98\0")}, 37500: (7, 5, b"12345")}
    tags = {271: (2, 3, b"ab\0"), 33432: (2, 9, b"somebody\0"), ifd.EXIF: nested}
    for order in "<>":
        data = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8) + ifd.directory(tags, order, 8)
        assert ifd.tags(data, 8) == tags
    with Image.open(io.BytesIO(saved_tiff(tags))) as image:
        assert image.getexif()[33432] == "somebody" and image.getexif().get_ifd(ifd.EXIF)[37500] == b"12345"


def saved_tiff(tags):
    from comfyui_affect.workflows.headless.photographs import tiff

    buffer = io.BytesIO()
    tiff.write(buffer, COLOUR8[..., :3], tags)
    return buffer.getvalue()
