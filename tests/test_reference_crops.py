"""References are compared as they are given: cropped to the image's ratio."""

import json
import os
import shutil
from fractions import Fraction

import numpy as np
import pytest
import torch
from comfyui_affect.models.errors import UserError
from comfyui_affect.models.reference import (
    cropped,
    edge_response,
    edges,
    luminance,
    open_gallery,
    ratio_of,
    retrieve,
    ssim,
)
from comfyui_affect.models.reference import (
    gallery as galleries,
)
from comfyui_affect.nodes.reference import AffectSSIMReferenceRetriever
from comfyui_affect.workflows.headless.cli import main
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps


def picture(seed, size):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8)).resize(size, Image.BICUBIC)


@pytest.fixture
def folder(tmp_path):
    """Pictures of four shapes."""
    root = tmp_path / "gallery"
    for i, size in enumerate(((300, 200), (200, 300), (256, 256), (600, 150)) * 3):
        path = root / ("misty_lake", "dark_home")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(i, size).save(path)
    return root


def by_brute_force(folder, gallery, query):
    """(path, score) of every picture, best first, without an index. Where the crop is of whole pixels its score is also
    that of the picture that Pillow cuts out, but for the rounding to 8 bits."""
    edge, ratio, found = edge_response(luminance(query)), ratio_of(query.size), []
    for p in gallery.pictures:
        image = Image.open(folder / p.path).convert("RGB")
        score = ssim.exact(edge, [edge_response(luminance(image, ratio))])[0]
        found.append((p.path, score))
        box = edges.crop_box(image.size, ratio)
        if all(side.is_integer() for side in box):
            cut = edge_response(luminance(image.crop(tuple(map(int, box)))))
            assert score == pytest.approx(ssim.exact(edge, [cut])[0], abs=2e-3)
    return sorted(found, key=lambda one: -one[1])


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("size", [(300, 200), (160, 200), (150, 600), (451, 300), (128, 128)])
def test_answers_are_those_of_brute_force_over_crops(folder, notes, size, cache):
    gallery, query = open_gallery(folder, cache=cache), picture(99, size)
    want = by_brute_force(folder, gallery, query)
    found = retrieve(query, gallery, 12)
    assert [f.picture.path for f in found] == [path for path, _ in want]
    assert [f.score for f in found] == pytest.approx([score for _, score in want], abs=1e-12)
    assert (gallery.crops(ratio_of(size)).cached is not None) == cache


def test_what_lies_outside_the_crop_does_not_count(folder, notes):
    """The image stands in the middle of a wide picture: whole pictures squeezed to a square would never match."""
    query, wide = picture(50, (200, 200)), picture(51, (800, 200))
    wide.paste(query, (300, 0))
    wide.save(folder / "misty_lake" / "wide.png")
    (found,) = retrieve(query, open_gallery(folder), 1)
    assert found.picture.path == "misty_lake/wide.png" and found.score == pytest.approx(1, abs=1e-9)


def test_the_node_gives_the_crop_that_was_compared(folder, notes):
    query = picture(99, (240, 160))
    image = torch.from_numpy(np.asarray(query)[None].astype(np.float32) / 255)
    out, text = AffectSSIMReferenceRetriever().run(image, open_gallery(folder), "lake", 3, adjective="misty")
    rows = json.loads(text)
    assert out.shape == (3, 160, 240, 3) and len(rows) == 3
    assert set(rows[0]) == {"file", "ssim", "noun", "adjective", "emotion"}
    for shown, row in zip(out, rows):
        crop = ImageOps.fit(Image.open(folder / row["file"]).convert("RGB"), (240, 160), Image.Resampling.LANCZOS)
        assert np.array_equal((shown.numpy() * 255).round().astype(np.uint8), np.asarray(crop))
        edge = edge_response(luminance(crop))  # of the resized crop: resampled once more than what was compared
        again = ssim.exact(edge_response(luminance(query)), [edge])[0]
        assert row["ssim"] == pytest.approx(again, abs=0.05)


@given(st.integers(1, 20_000), st.integers(1, 20_000))
def test_a_ratio_is_a_simple_one_very_near(width, height):
    ratio = ratio_of((width, height))
    assert abs(ratio * height / width - 1) <= Fraction(1, 399)
    assert ratio_of((height, width)) == 1 / ratio
    box = edges.crop_box((width, height), ratio)
    assert 0 <= box[0] < box[2] <= width and 0 <= box[1] < box[3] <= height
    assert (box[2] - box[0]) * (box[3] - box[1]) >= width * height * (1 - 1 / 300)


def test_usual_ratios_have_their_usual_names():
    sizes = {
        (451, 300): "3/2",
        (1920, 1080): "16/9",
        (1024, 683): "3/2",
        (4032, 3024): "4/3",
        (500, 400): "5/4",
        (9, 9): "1",
    }
    assert {size: str(ratio_of(size)) for size in sizes} == sizes


@pytest.mark.parametrize("size", [(2000, 11), (11, 2000), (12, 12)])
def test_extreme_images_find_something(folder, notes, size):
    found = retrieve(picture(3, size), open_gallery(folder), 2)
    assert len(found) == 2 and np.isfinite([f.score for f in found]).all()
    assert cropped(picture(1, (300, 200)), size).size == size


def test_a_ratio_is_read_once_and_follows_the_folder(folder, notes, monkeypatch):
    read, original = [], edges.edge_of_file
    monkeypatch.setattr(
        edges, "edge_of_file", lambda path, *how: read.append((path.name, *how)) or original(path, *how)
    )
    gallery = open_gallery(folder)
    read.clear()
    for size in ((300, 200), (451, 300), (1500, 1000)):
        retrieve(picture(1, size), gallery)
    assert len(read) == 12 and {how[2] for how in read} == {Fraction(3, 2)}
    read.clear()
    picture(70, (300, 200)).save(folder / "misty_lake" / "new.png")
    retrieve(picture(1, (300, 200)), open_gallery(folder))
    assert [how[:1] + how[2:] for how in read] == [("new.png",), ("new.png", Fraction(3, 2))]


def test_pictures_that_go_while_the_gallery_is_open_are_told(folder, notes):
    gallery = open_gallery(folder)
    (folder / "misty_lake" / "0.png").unlink()
    found = retrieve(picture(1, (300, 200)), gallery, 20)
    assert len(found) == 11 and "can no longer be read (such as 'misty_lake/0.png')" in notes[-1]
    shutil.rmtree(folder / "dark_home")
    with pytest.raises(UserError, match="None of the 6 pictures that fit can be read any longer"):
        retrieve(picture(1, (400, 200)), gallery, noun="home")


def test_indexes_of_many_ratios_are_not_kept(folder, notes, monkeypatch):
    monkeypatch.setattr(galleries, "RATIOS", 2)
    for i, size in enumerate(((3, 2), (1, 1), (3, 2), (4, 3))):
        gallery = open_gallery(folder, cache=True)
        retrieve(picture(1, (100 * size[0], 100 * size[1])), gallery)
        path = folder / f".affect-gallery-scharr-{size[0]}x{size[1]}.index"
        os.utime(path, ns=(10**18 + i, 10**18 + i))
    left = {path.name for path in folder.glob(".affect-gallery*") if path.suffix != ".lock"}
    assert left == {
        f".affect-gallery{name}.{kind}" for name in ("", "-scharr-3x2", "-scharr-4x3") for kind in ("index", "cache")
    }


def test_a_ratio_is_indexed_beforehand(folder, capsys, monkeypatch):
    assert main(["gallery", "build", str(folder), "--ratio", "768x512", "--ratio", "1:1"]) == 0
    assert {path.name for path in folder.glob("*-scharr-*.index")} == {
        ".affect-gallery-scharr-3x2.index",
        ".affect-gallery-scharr-1x1.index",
    }
    monkeypatch.setattr(edges, "edge_of_file", lambda *_: pytest.fail("everything is indexed"))
    assert retrieve(picture(1, (300, 200)), open_gallery(folder))
    capsys.readouterr()
    assert main(["gallery", "build", str(folder), "--ratio", "0:2"]) == 2
    assert "'0:2' is not width and height, such as 3:2" in capsys.readouterr().err


def test_noun_and_adjective_are_both_asked_for(folder, notes):
    gallery = open_gallery(folder)
    assert {p.path.split("/")[0] for p in gallery.select("lake", "misty", ("sadness",))} == {"misty_lake"}
    for asked in (dict(noun="lake", adjective="dark"), dict(noun="lake", emotions=("fear",))):
        with pytest.raises(UserError, match=r"each of them, but not together.*of 'lake' are: misty \(sadness\)"):
            gallery.select(**asked)
    with pytest.raises(UserError, match="not together: all are asked for. Leave one empty"):
        gallery.select(adjective="misty", emotions=("fear",))
    with pytest.raises(UserError, match="It has nouns: home, lake; adjectives: dark, misty"):
        gallery.select("boat", "misty")
