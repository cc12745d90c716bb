"""Galleries: what is read, kept, picked up and mended; and retrieval against brute force."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from comfyui_affect.models import gallery as index
from comfyui_affect.models import host, reference, ssim
from comfyui_affect.models.emotions import EmotionTarget
from comfyui_affect.models.errors import UserError
from comfyui_affect.models.reference import edge_response, luminance, open_gallery, retrieve


class Listening(host.Host):
    def __init__(self, root):
        super().__init__(root)
        self.notes = []

    def note(self, message):
        self.notes.append(message)


@pytest.fixture
def notes(tmp_path):
    with host.use(Listening(tmp_path)) as listening:
        yield listening.notes


def picture(seed, size=(96, 64)):
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return small.resize(size, Image.BICUBIC)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "gallery"
    for i, name in enumerate(("misty_lake", "misty_mountain", "clear_river", "dark_home")):
        (root / name).mkdir(parents=True)
        for j in range(3):
            picture(10 * i + j).save(root / name / f"{j}.png")
    return root


def test_labels_and_groups(folder, notes):
    gallery = open_gallery(folder)
    assert len(gallery.pictures) == 12 and gallery.nouns == ["home", "lake", "mountain", "river"]
    assert {p.path for p in gallery.select(noun="water")} == {f"{d}/{i}.png" for d in ("misty_lake", "clear_river") for i in range(3)}
    assert {p.emotion for p in gallery.select(adjective="dark")} == {"fear"}
    assert len(gallery.select(emotions=("sadness",))) == 6
    with pytest.raises(UserError, match="no picture of 'boat'.*nouns: home, lake, mountain, river"):
        gallery.select(noun="boat")


def test_a_csv_and_a_table_of_emotions_override_the_folders(folder, notes):
    (folder / "labels.csv").write_text("file,noun,adjective,emotion\nmisty_lake/0.png,city,great,\nmisty_lake/1.png,city,odd,anger\n")
    (folder / "emotions.csv").write_text("adjective,emotion\ngreat,amusement\n")
    by_path = {p.path: p for p in open_gallery(folder).pictures}
    assert (by_path["misty_lake/0.png"].noun, by_path["misty_lake/0.png"].emotion) == ("city", "amusement")
    assert by_path["misty_lake/1.png"].emotion == "anger" and by_path["misty_lake/2.png"].noun == "lake"


def test_retrieval_is_brute_force_in_float64(folder, notes):
    gallery = open_gallery(folder)
    query = picture(99, (200, 120))
    edges = [edge_response(luminance(Image.open(folder / p.path).convert("RGB"))) for p in gallery.pictures]
    want = ssim.exact(edge_response(luminance(query)), np.stack(edges))
    found = retrieve(query, gallery, 5)
    assert [f.picture.path for f in found] == [gallery.pictures[i].path for i in np.argsort(-want)[:5]]
    assert [f.score for f in found] == pytest.approx(np.sort(want)[::-1][:5], abs=1e-12)
    sad = retrieve(query, gallery, 20, emotion=EmotionTarget.of("sadness"))
    assert len(sad) == 6 and all(f.picture.adjective == "misty" for f in sad)
    with pytest.raises(UserError, match="at least 1"):
        retrieve(query, gallery, 0)


def test_a_picture_finds_itself(folder, notes):
    gallery = open_gallery(folder, cache=True)
    assert gallery.cached.shape == (12, 2, 118, 118)
    found = retrieve(Image.open(folder / "clear_river/1.png"), gallery, 1)
    assert found[0].picture.path == "clear_river/1.png" and found[0].score == pytest.approx(1)


def test_new_changed_and_deleted_files_are_picked_up_and_others_are_not_read_again(folder, notes, monkeypatch):
    open_gallery(folder)
    read = []
    original = reference._edge_of_file
    monkeypatch.setattr(reference, "_edge_of_file", lambda path: read.append(path.name) or original(path))
    (folder / "dark_home/0.png").unlink()
    picture(50).save(folder / "misty_lake/new.png")
    picture(51).save(folder / "misty_lake/1.png")
    os.utime(folder / "misty_lake/1.png", ns=(1, 1))
    gallery = open_gallery(folder, cache=True)
    assert sorted(read) == ["1.png", "new.png"] and len(gallery.pictures) == 12
    assert retrieve(picture(51), gallery, 1)[0].picture.path == "misty_lake/1.png"
    assert "dark_home/0.png" not in {p.path for p in gallery.pictures}
    read.clear()
    open_gallery(folder)
    assert not read


def test_unusable_files_are_skipped_and_told(folder, notes, monkeypatch):
    (folder / "dark_home/broken.png").write_bytes((folder / "dark_home/0.png").read_bytes()[:200])
    (folder / "dark_home/empty.jpg").write_bytes(b"")
    Image.new("RGB", (5, 5)).save(folder / "dark_home/tiny.png")
    Image.new("1", (11000, 10000)).save(folder / "dark_home/huge.png")
    gallery = open_gallery(folder)
    assert set(gallery.skipped) == {f"dark_home/{n}" for n in ("broken.png", "empty.jpg", "tiny.png", "huge.png")}
    assert "110 megapixels" in gallery.skipped["dark_home/huge.png"] and "small" in gallery.skipped["dark_home/tiny.png"]
    assert len(gallery.pictures) == 12 and open_gallery(folder).skipped == gallery.skipped


def test_a_killed_build_loses_the_picture_in_hand(folder, notes, monkeypatch):
    original, count = reference._edge_of_file, []

    def dies(path):
        count.append(path)
        if len(count) == 8:
            raise KeyboardInterrupt
        return original(path)

    monkeypatch.setattr(reference, "_edge_of_file", dies)
    with pytest.raises(KeyboardInterrupt):
        open_gallery(folder)
    with (folder / index.INDEX).open("ab") as f:
        f.write(b"half a record")
    again = []
    monkeypatch.setattr(reference, "_edge_of_file", lambda path: again.append(path) or original(path))
    gallery = open_gallery(folder)
    assert len(again) == 5 and len(gallery.pictures) == 12 and "middle of a record" in notes[0]
    assert (folder / index.INDEX).stat().st_size == 64 + 12 * index.RECORD


@pytest.mark.parametrize("damage", [lambda b: b"other" + b[5:], lambda b: b[:10], lambda b: b""])
def test_a_damaged_index_is_made_anew(folder, notes, damage):
    open_gallery(folder)
    path = folder / index.INDEX
    path.write_bytes(damage(path.read_bytes()))
    assert len(open_gallery(folder).pictures) == 12 and ("made anew" in notes[0])


def test_a_damaged_record_is_read_again(folder, notes):
    open_gallery(folder)
    with (folder / index.INDEX).open("r+b") as f:
        f.seek(64 + 3 * index.RECORD + index.EDGE + 5)
        f.write(b"xxxx")
    assert len(open_gallery(folder).pictures) == 12


def test_an_index_of_mostly_stale_records_is_compacted(folder, notes, monkeypatch):
    monkeypatch.setattr(index, "COMPACT_FROM", 5)
    open_gallery(folder, cache=True)
    shutil.rmtree(folder / "misty_lake"), shutil.rmtree(folder / "misty_mountain"), shutil.rmtree(folder / "dark_home")
    gallery = open_gallery(folder, cache=True)
    assert (folder / index.INDEX).stat().st_size == 64 + 3 * index.RECORD and len(gallery.cached) == 3
    assert retrieve(Image.open(folder / "clear_river/1.png"), gallery, 1)[0].picture.path == "clear_river/1.png"


def test_missing_and_empty_folders(tmp_path, notes):
    with pytest.raises(UserError, match="no gallery folder"):
        open_gallery(tmp_path / "absent")
    (tmp_path / "bare").mkdir()
    with pytest.raises(UserError, match="no usable picture"):
        open_gallery(tmp_path / "bare")


def test_edge_responses():
    step = np.zeros((32, 32), np.float32)
    step[:, 16:] = 1
    assert edge_response(step).max() == 255 and edge_response(step)[:, :10].max() == 0
    assert edge_response(np.zeros((32, 32), np.float32)).max() == 0
    canny = edge_response(step, "canny")
    assert canny[:, 14:18].max() > 150 and canny[:, :8].max() == 0
    with pytest.raises(UserError, match="no edge response"):
        edge_response(step, "sobel")


def test_a_black_query_gives_finite_scores(folder, notes):
    assert all(np.isfinite(f.score) for f in retrieve(Image.new("RGB", (64, 64)), open_gallery(folder), 3))
