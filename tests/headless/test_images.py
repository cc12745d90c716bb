"""Images of every kind through LoadImage, LoadImageMask, ImageScale and SaveImage."""

import json
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from comfyui_affect.models import host
from comfyui_affect.models.errors import UserError
from comfyui_affect.workflows.headless.core.image_io import LoadImage, LoadImageMask, PreviewImage, SaveImage
from comfyui_affect.workflows.headless.core.images import ImageScale
from PIL import Image


def gradient(width, height):
    return np.tile(np.linspace(0, 255, width).astype(np.uint8)[None, :, None], (height, 1, 3))


def test_plain(embedded, workspace):
    Image.fromarray(gradient(16, 8)).save(workspace / "input" / "g.png")
    image, mask = LoadImage().load_image("g.png")
    assert image.shape == (1, 8, 16, 3) and image.dtype == torch.float32
    assert torch.equal((image[0] * 255).round().byte(), torch.from_numpy(gradient(16, 8)))
    assert torch.equal(mask, torch.zeros(1, 64, 64)) and embedded.notes == []


def test_sixteen_bits_keep_their_range(embedded, workspace):
    values = np.array([[0, 257, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(workspace / "input" / "deep.png")
    image, _ = LoadImage().load_image("deep.png")
    assert torch.allclose(image[0, 0, :, 0], torch.tensor([0, 1 / 255, 32768 / 65535, 1.0]), atol=1e-6)
    assert image.shape[-1] == 3 and "16 bits" in embedded.notes[0]


def test_sixteen_bits_a_colour_are_read_whole(embedded, workspace):
    values = np.random.default_rng(0).integers(0, 65536, (5, 7, 3), dtype=np.uint16)
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(workspace / "input" / "deep.tif", values, photometric="rgb", compression="zlib")
    image, mask = LoadImage().load_image("deep.tif")
    assert np.array_equal((image[0].double() * 65535).round().numpy(), values)
    assert torch.equal(mask, torch.zeros(1, 64, 64)) and "converted from 16 bits." in embedded.notes[0]


def test_alpha_becomes_the_mask_and_does_not_change_the_colour(embedded, workspace):
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[..., 0], pixels[:2, :, 3] = 200, 255
    Image.fromarray(pixels).save(workspace / "input" / "rgba.png")
    image, mask = LoadImage().load_image("rgba.png")
    assert torch.allclose(image[..., 0], torch.tensor(200 / 255))
    assert torch.equal(mask[0, :, 0], torch.tensor([0.0, 0.0, 1.0, 1.0]))
    assert "alpha" in embedded.notes[0]
    assert torch.equal(LoadImageMask().load_image("rgba.png", "alpha")[0], mask)
    assert torch.allclose(LoadImageMask().load_image("rgba.png", "red")[0], torch.tensor(200 / 255))


def test_a_palette_with_transparency(embedded, workspace):
    image = Image.fromarray(gradient(8, 4)).quantize(8)
    image.save(workspace / "input" / "p.png", transparency=int(np.asarray(image)[0, 0]))
    loaded, mask = LoadImage().load_image("p.png")
    assert loaded.shape == (1, 4, 8, 3) and mask[0, 0, 0] == 1 and mask[0, 0, -1] == 0


def grey_png(path, bits, key, values):
    """A row of grey in a PNG whose tRNS chunk makes one grey transparent."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packed = int("".join(f"{v:0{bits}b}" for v in values), 2).to_bytes(len(values) * bits // 8, "big")
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", len(values), 1, bits, 0, 0, 0, 0))
        + chunk(b"tRNS", struct.pack(">H", key))
        + chunk(b"IDAT", zlib.compress(b"\0" + packed))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("bits, key", [(1, 1), (2, 2), (4, 5), (8, 200), (16, 300)])
def test_the_transparent_grey_of_a_png_becomes_the_mask(embedded, workspace, bits, key):
    values = [0, key, key, 2**bits - 1] * 2
    grey_png(workspace / "input" / "t.png", bits, key, values)
    image, mask = LoadImage().load_image("t.png")
    assert mask.tolist() == [[[float(v == key) for v in values]]]
    assert torch.allclose(image[0, 0, :, 0], torch.tensor(values) / (2**bits - 1), atol=1e-2)
    assert "its transparent colour became the mask" in embedded.notes[0]


def test_the_transparent_colour_of_a_png_becomes_the_mask(embedded, workspace):
    Image.fromarray(gradient(8, 4)).save(
        workspace / "input" / "c.png", transparency=tuple(int(v) for v in gradient(8, 4)[0, 2])
    )
    _, mask = LoadImage().load_image("c.png")
    assert mask[0].tolist() == [[0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]] * 4


def test_lab_has_colours_and_no_mask(embedded, workspace):
    lab = np.zeros((4, 8, 3), np.uint8)
    lab[..., 0], lab[:, :4, 1], lab[:, 4:, 1] = (
        128,
        60,
        256 - 60,
    )  # L 50; a is 60 on the left (red), -60 on the right (green)
    Image.fromarray(lab, "LAB").save(workspace / "input" / "lab.tif")
    image, mask = LoadImage().load_image("lab.tif")
    assert torch.equal(mask, torch.zeros(1, 64, 64)) and "converted from LAB" in embedded.notes[0]
    expected = torch.tensor([[207.6, 65.4, 121.7], [0.0, 142.5, 117.9]]) / 255  # scikit-image's
    assert torch.allclose(image[0, 0, [0, -1]], expected, atol=0.01)


def test_exif_turns_the_image_upright(embedded, workspace):
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((4, 12, 3), np.uint8)
    pixels[:, :6] = 255
    Image.fromarray(pixels).save(workspace / "input" / "turned.jpg", exif=exif, quality=95)
    image, _ = LoadImage().load_image("turned.jpg")
    assert image.shape == (1, 12, 4, 3)
    assert image[0, 1].mean() > 0.9 and image[0, -2].mean() < 0.1
    assert "EXIF" in embedded.notes[0]


def test_cmyk_is_converted_with_a_note(embedded, workspace):
    Image.new("CMYK", (5, 5), (0, 255, 255, 0)).save(workspace / "input" / "c.tif")
    image, _ = LoadImage().load_image("c.tif")
    assert image[0, 0, 0, 0] > 0.9 and image[0, 0, 0, 1] < 0.2
    assert "CMYK" in embedded.notes[0]


def test_one_pixel_wide(embedded, workspace):
    Image.fromarray(gradient(1, 9)).save(workspace / "input" / "thin.png")
    image, _ = LoadImage().load_image("thin.png")
    assert image.shape == (1, 9, 1, 3)
    for method in ("nearest-exact", "bilinear", "area", "bicubic", "lanczos"):
        assert ImageScale().upscale(image, method, 6, 4, "disabled")[0].shape == (1, 4, 6, 3)
    assert ImageScale().upscale(image, "bilinear", 6, 4, "center")[0].shape == (1, 4, 6, 3)


def test_an_animation_is_a_batch(embedded, workspace):
    frames = [Image.new("RGB", (6, 5), (40 * i, 0, 0)) for i in range(3)]
    frames[0].save(workspace / "input" / "a.gif", save_all=True, append_images=frames[1:], disposal=2)
    image, mask = LoadImage().load_image("a.gif")
    assert image.shape == (3, 5, 6, 3) and mask.shape[0] == 3


def test_truncated_and_foreign_files_are_refused_before_anything_runs(embedded, workspace):
    folder = workspace / "input"
    Image.effect_noise((300, 200), 80).convert("RGB").save(folder / "whole.jpg")
    (folder / "cut.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:5000])
    whole = (folder / "plain.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "text.png").write_text("no image")
    (folder / "empty.png").write_bytes(b"")
    for name in ("cut.jpg", "cut.png", "text.png", "empty.png"):
        with pytest.raises(UserError, match=f"'{name}' cannot be read"):
            LoadImage.VALIDATE_INPUTS(name)
    assert LoadImage.VALIDATE_INPUTS("whole.jpg") is True


def test_a_channel_is_read_from_the_first_frame_only(embedded, workspace):
    still = [Image.new("RGB", (6, 5), (40 * i, 0, 0)) for i in range(3)]
    still[0].save(workspace / "input" / "a.webp", save_all=True, append_images=still[1:], lossless=True)
    assert torch.equal(LoadImageMask().load_image("a.webp", "red")[0], torch.zeros(1, 5, 6))


def test_names_with_a_suffix_refer_to_the_other_folders(embedded, workspace):
    saved = SaveImage().save_images(torch.rand(1, 4, 5, 3))["ui"]["images"][0]
    assert saved == {"filename": "ComfyUI_00001_.png", "subfolder": "", "type": "output"}
    assert LoadImage().load_image("ComfyUI_00001_.png [output]")[0].shape == (1, 4, 5, 3)
    assert LoadImage().load_image("plain.png [input]")[0].shape == (1, 30, 40, 3)
    shown = PreviewImage().save_images(torch.rand(1, 4, 5, 3))["ui"]["images"][0]
    assert shown["type"] == "temp"
    assert LoadImage().load_image(f"{shown['filename']} [temp]")[0].shape == (1, 4, 5, 3)


def test_an_image_that_changes_has_another_hash(embedded, workspace):
    before = LoadImage.IS_CHANGED("plain.png")
    assert LoadImage.IS_CHANGED("plain.png") == before
    Image.new("RGB", (40, 30)).save(workspace / "input" / "plain.png")
    assert LoadImage.IS_CHANGED("plain.png") != before


def test_saving_counts_up_names_batches_and_carries_the_graph(embedded, workspace):
    images = torch.rand(2, 6, 7, 3)
    info = {"workflow": {"nodes": []}}
    for _ in range(2):
        SaveImage().save_images(images, "a/b_%width%x%height%", {"1": {}}, info)
    names = sorted(p.name for p in (workspace / "output" / "a").iterdir())
    assert names == [f"b_7x6_0000{i}_.png" for i in (1, 2, 3, 4)]
    with Image.open(workspace / "output" / "a" / names[1]) as saved:
        assert json.loads(saved.text["prompt"]) == {"1": {}}
        assert json.loads(saved.text["workflow"]) == {"nodes": []}
        assert np.array_equal(np.asarray(saved), (images[1] * 255).byte().numpy())


def test_batch_numbers_in_names(embedded, workspace):
    SaveImage().save_images(torch.rand(2, 4, 4, 3), "n%batch_num%")
    assert sorted(p.name for p in (workspace / "output").iterdir()) == ["n0_00001_.png", "n1_00002_.png"]


def test_batch_numbers_never_overwrite_an_earlier_run(embedded, workspace):
    for _ in range(3):
        SaveImage().save_images(torch.rand(2, 4, 4, 3), "n%batch_num%")
    assert sorted(p.name for p in (workspace / "output").iterdir()) == [
        "n0_00001_.png",
        "n0_00003_.png",
        "n0_00005_.png",
        "n1_00002_.png",
        "n1_00004_.png",
        "n1_00006_.png",
    ]


def test_concurrent_runs_into_one_folder_keep_every_picture(embedded, workspace):
    def work(worker):
        with host.use(embedded):
            return [
                SaveImage().save_images(torch.full((1, 4, 4, 3), worker / 10), "x")["ui"]["images"][0]["filename"]
                for _ in range(15)
            ]

    with ThreadPoolExecutor(6) as pool:
        names = [name for each in pool.map(work, range(6)) for name in each]
    assert sorted(names) == sorted(p.name for p in (workspace / "output").iterdir()) and len(set(names)) == 90


def test_dates_in_names(embedded, workspace):
    SaveImage().save_images(torch.rand(1, 4, 4, 3), "%date:yyyy%/%year%")
    (folder,) = (workspace / "output").iterdir()
    assert folder.name.isdigit() and [p.name for p in folder.iterdir()] == [f"{folder.name}_00001_.png"]


@pytest.mark.parametrize("prefix", ["", " ", ".", "..", "a/.."])
def test_a_prefix_without_a_name_is_refused(embedded, prefix):
    with pytest.raises(UserError, match="does not name a file"):
        SaveImage.VALIDATE_INPUTS(prefix)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_numbers_are_not_saved(embedded, workspace, value):
    image = torch.zeros(1, 4, 4, 3)
    image[0, 1, 2, 0] = value
    with pytest.raises(UserError, match="not numbers"):
        SaveImage().save_images(image)
    assert not (workspace / "output").exists()


def test_a_write_that_is_interrupted_leaves_nothing(embedded, workspace, monkeypatch):
    def cut(self, file, *args, **options):
        with open(file, "wb") as f:
            f.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", cut)
    with pytest.raises(KeyboardInterrupt):
        SaveImage().save_images(torch.rand(1, 4, 4, 3))
    assert list((workspace / "output").iterdir()) == []


def test_scaling_keeps_the_aspect_ratio_or_crops_to_it(embedded):
    image = torch.rand(2, 30, 40, 3)
    scale = ImageScale().upscale
    assert scale(image, "bilinear", 20, 0, "disabled")[0].shape == (2, 15, 20, 3)
    assert scale(image, "bilinear", 0, 15, "disabled")[0].shape == (2, 15, 20, 3)
    assert scale(image, "bilinear", 0, 0, "disabled")[0] is image
    assert torch.equal(scale(image, "nearest-exact", 30, 30, "center")[0], image[:, :, 5:35])
    with pytest.raises(UserError, match="leaves nothing"):
        scale(torch.rand(1, 1, 400, 3), "bilinear", 1, 4000, "center")
