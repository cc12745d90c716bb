"""Galleries: what is read, kept, picked up and mended; and retrieval against brute force."""

import json
import os
import shutil
import zlib
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from comfyui_affect.models import host
from comfyui_affect.models.emotions import EmotionTarget
from comfyui_affect.models.errors import UserError
from comfyui_affect.models.reference import (
    edge_response,
    edges,
    index,
    labels,
    luminance,
    open_gallery,
    retrieve,
    ssim,
    state,
)
from comfyui_affect.models.reference import gallery as galleries
from listening import Listening
from PIL import Image


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
    assert {p.path for p in gallery.select(noun="water")} == {
        f"{d}/{i}.png" for d in ("misty_lake", "clear_river") for i in range(3)
    }
    assert {p.emotion for p in gallery.select(adjective="dark")} == {"fear"}
    assert len(gallery.select(emotions=("sadness",))) == 6
    with pytest.raises(UserError, match="no picture of 'boat'.*nouns: home, lake, mountain, river"):
        gallery.select(noun="boat")


def test_a_csv_and_a_table_of_emotions_override_the_folders(folder, notes):
    (folder / "labels.csv").write_text(
        "file,noun,adjective,emotion\nmisty_lake/0.png,city,great,\nmisty_lake/1.png,city,odd,anger\n"
        "misty_lake/2.png,,,\n"
    )
    (folder / "emotions.csv").write_text("adjective,emotion\ngreat,amusement\n")
    by_path = {p.path: p for p in open_gallery(folder).pictures}
    assert len(by_path) == 3 and (by_path["misty_lake/0.png"].noun, by_path["misty_lake/0.png"].emotion) == (
        "city",
        "amusement",
    )
    assert by_path["misty_lake/1.png"].emotion == "anger" and by_path["misty_lake/2.png"].noun == "lake"


def test_retrieval_is_brute_force_in_float64(folder, notes):
    gallery = open_gallery(folder)
    query = picture(99, (200, 120))
    edges = [
        edge_response(luminance(Image.open(folder / p.path).convert("RGB"), Fraction(5, 3))) for p in gallery.pictures
    ]
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
    assert gallery.cached.shape == (12, 2 * 118 * 118 + 2)
    found = retrieve(Image.open(folder / "clear_river/1.png"), gallery, 1)
    assert found[0].picture.path == "clear_river/1.png" and found[0].score == pytest.approx(1)


def test_new_changed_and_deleted_files_are_picked_up_and_others_are_not_read_again(folder, notes, monkeypatch):
    open_gallery(folder)
    read = []
    original = edges.edge_of_file
    monkeypatch.setattr(
        edges, "edge_of_file", lambda path, *how: read.append((path.name, *how)) or original(path, *how)
    )
    (folder / "dark_home/0.png").unlink()
    picture(50).save(folder / "misty_lake/new.png")
    picture(51).save(folder / "misty_lake/1.png")
    os.utime(folder / "misty_lake/1.png", ns=(1, 1))
    gallery = open_gallery(folder, cache=True)
    assert sorted(read) == [("1.png", "scharr"), ("new.png", "scharr")] and len(gallery.pictures) == 12
    assert retrieve(picture(51), gallery, 1)[0].picture.path == "misty_lake/1.png"
    assert "dark_home/0.png" not in {p.path for p in gallery.pictures}
    read.clear()
    open_gallery(folder)
    assert not read


def test_unusable_files_are_skipped_and_told(folder, notes, monkeypatch):
    (folder / "dark_home/broken.png").write_bytes((folder / "dark_home/0.png").read_bytes()[:200])
    (folder / "dark_home/empty.jpg").write_bytes(b"")
    Image.new("RGB", (5, 5)).save(folder / "dark_home/tiny.png")
    Image.new("1", (10000, 10000)).save(folder / "dark_home/huge.png")
    gallery = open_gallery(folder)
    assert set(gallery.skipped) == {f"dark_home/{n}" for n in ("broken.png", "empty.jpg", "tiny.png", "huge.png")}
    assert (
        "100 megapixels" in gallery.skipped["dark_home/huge.png"] and "small" in gallery.skipped["dark_home/tiny.png"]
    )
    assert len(gallery.pictures) == 12 and open_gallery(folder).skipped == gallery.skipped


def test_a_killed_build_loses_the_picture_in_hand(folder, notes, monkeypatch):
    original, count = edges.edge_of_file, []

    def dies(path, edges):
        count.append(path)
        if len(count) == 8:
            raise KeyboardInterrupt
        return original(path, edges)

    monkeypatch.setattr(edges, "edge_of_file", dies)
    with pytest.raises(KeyboardInterrupt):
        open_gallery(folder)
    with (folder / index.INDEX).open("ab") as f:
        f.write(b"half a record")
    again = []
    monkeypatch.setattr(edges, "edge_of_file", lambda path, edges: again.append(path) or original(path, edges))
    gallery = open_gallery(folder)
    assert len(again) == 5 and len(gallery.pictures) == 12 and "middle of a record" in notes[0]
    assert (folder / index.INDEX).stat().st_size == 64 + 12 * index.RECORD


@pytest.mark.parametrize(
    "damage", [lambda b: b"other" + b[5:], lambda b: b[:10], lambda b: b.replace(b"gallery 2", b"gallery 1")]
)
def test_a_damaged_index_is_made_anew(folder, notes, damage):
    open_gallery(folder)
    path = folder / index.INDEX
    path.write_bytes(damage(path.read_bytes()))
    assert len(open_gallery(folder).pictures) == 12 and "built again" in notes[0]


def test_an_index_of_terabytes_is_not_read(folder, notes):
    open_gallery(folder)
    os.truncate(folder / index.INDEX, 64 + 10**9 * index.RECORD)  # a file of holes, which takes no room
    assert len(open_gallery(folder).pictures) == 12 and "far more pictures than there are" in notes[0]
    assert (folder / index.INDEX).stat().st_size == 64 + 12 * index.RECORD


HEAD = b"affect gallery 2 scharr 0123456789abcdef\n".ljust(64)


def record(text):
    """A record whose checksums are right, whatever it says."""
    text = text.ljust(1020, b"\0")
    return bytes(index.EDGE) + text + zlib.crc32(text).to_bytes(4, "little")


@pytest.mark.parametrize(
    "content",
    [b"affect gallery 2 scharr ".ljust(64), HEAD.replace(b"0123", b"....")]
    + [
        HEAD + record(text)
        for text in (
            b"5",
            b"[]",
            b"{",
            b"\xff",
            b"{}",
            b'{"edge": "x"}',
            b'{"path": 5, "file": [], "edge": %d}' % zlib.crc32(bytes(index.EDGE)),
            b'{"path": "a", "file": 3, "edge": %d}' % zlib.crc32(bytes(index.EDGE)),
            b"[" * 1000,
            b'{"edge": null, "path": {}}',
        )
    ],
)
def test_an_index_that_somebody_else_wrote_is_made_anew_or_passed_over(folder, notes, content):
    (folder / index.INDEX).write_bytes(content)
    assert len(open_gallery(folder, cache=True).pictures) == 12 and len(open_gallery(folder).pictures) == 12


@pytest.mark.parametrize("suffix", [".index", ".cache", ".lock"])
def test_links_in_place_of_the_index_are_not_written_through(folder, notes, tmp_path, suffix):
    outside, path = tmp_path / "outside.txt", (folder / index.INDEX).with_suffix(suffix)
    outside.write_text("mine")
    path.symlink_to(outside)
    assert len(open_gallery(folder, cache=True).pictures) == 12
    assert outside.read_text() == "mine" and not path.is_symlink() and "was a link" in notes[0]
    path.unlink(missing_ok=True)
    path.symlink_to(tmp_path / "absent.txt")
    open_gallery(folder, cache=True)
    os.mkfifo(tmp_path / "pipe")
    path.unlink(missing_ok=True)
    (tmp_path / "pipe").rename(path)
    assert len(open_gallery(folder, cache=True).pictures) == 12 and not (tmp_path / "absent.txt").exists()


def test_tables_that_never_end_or_lie_elsewhere_are_not_read(folder, notes, tmp_path):
    (tmp_path / "secret.csv").write_text("file,noun\nmisty_lake/0.png,secret\n")
    (folder / "linked.csv").symlink_to(tmp_path / "secret.csv")
    (folder / "endless.csv").symlink_to("/dev/zero")
    (folder / "folder.csv").mkdir()
    os.mkfifo(folder / "pipe.csv")
    os.mkfifo(folder / "misty_lake" / "pipe.png")
    gallery = open_gallery(folder)
    assert len(gallery.pictures) == 12 and "secret" not in gallery.nouns
    assert len([n for n in notes if "not a regular file, or a link that leaves" in n]) == 4
    before = state(folder)
    (tmp_path / "secret.csv").write_text("file,noun\nmisty_lake/0.png,another\n")
    assert state(folder) == before


def test_a_table_that_csv_cannot_read_is_spoken_of(folder, notes):
    (folder / "labels.csv").write_text('file,noun\n"' + "x" * 200_000 + '",a\n')
    with pytest.raises(UserError, match="'labels.csv' in the gallery cannot be read"):
        open_gallery(folder)


def test_a_table_is_read_by_its_cells_however_wide_its_first_line(folder, notes):
    (folder / "labels.csv").write_text("file" + "," * 100_000 + "\n" + "misty_lake/0.png\n" * 100_000)
    assert [p.path for p in open_gallery(folder).pictures] == ["misty_lake/0.png"]


def test_statistics_never_belong_to_other_pictures(folder, notes):
    """The index is built again after the cache was, with its rows in another order."""
    open_gallery(folder, cache=True)
    (folder / "clear_river/0.png").rename(folder / "zz.png")
    (folder / index.INDEX).unlink()
    gallery = open_gallery(folder)
    want = np.stack(
        [ssim.statistics(row[: index.EDGE].reshape(edges.SIDE, edges.SIDE)).reshape(-1) for row in gallery.rows]
    )
    assert np.array_equal(gallery.cached[:, : want.shape[1]], want)


def test_statistics_cut_off_behind_their_header_are_made_anew(folder, notes):
    want = np.array(open_gallery(folder, cache=True).cached)
    path = (folder / index.INDEX).with_suffix(".cache")
    path.write_bytes(path.read_bytes()[:48])
    assert np.array_equal(open_gallery(folder, cache=True).cached, want)


def test_a_damaged_row_of_statistics_is_made_anew(folder, notes):
    want = np.array(open_gallery(folder, cache=True).cached)
    path = (folder / index.INDEX).with_suffix(".cache")
    with path.open("r+b") as f:
        f.seek(64 + 5 * 2 * index.CACHED + 2 * index.STATISTICS)
        f.write(b"xxxx")
    assert np.array_equal(open_gallery(folder).cached, want)


BUILDER = """import sys
from comfyui_affect.models.reference import open_gallery
print(len(open_gallery(sys.argv[1]).pictures))"""


def test_two_builders_at_once_make_one_index(folder, notes):
    import subprocess
    import sys

    both = [
        subprocess.Popen([sys.executable, "-c", BUILDER, str(folder)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [p.communicate(timeout=120)[0].strip() for p in both] == ["12", "12"]
    assert (folder / index.INDEX).stat().st_size == 64 + 12 * index.RECORD


def test_odd_names_do_not_end_a_build(folder, notes):
    odd = folder / "misty_lake" / os.fsdecode(b"caf\xe9.png")
    try:
        picture(60).save(odd)
    except OSError:
        pytest.skip("this file system takes no such name")
    deep = folder / ("d" * 200) / ("e" * 200) / ("f" * 200) / ("g" * 200)
    deep.mkdir(parents=True)
    picture(61).save(deep / ("h" * 200 + ".png"))
    gallery = open_gallery(folder)
    assert len(gallery.pictures) == 13 and "too long" in next(iter(gallery.skipped.values()))
    assert retrieve(picture(60), gallery, 1)[0].picture.path.endswith("caf\udce9.png")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser writes everywhere")
def test_a_folder_that_cannot_be_written_is_indexed_elsewhere(folder, notes, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder.chmod(0o555)
    assert len(open_gallery(folder).pictures) == 12
    assert not (folder / index.INDEX).exists()


def test_an_index_elsewhere(folder, notes, tmp_path, monkeypatch):
    """The same where the superuser tests: a folder stands in the index's place."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (folder / index.INDEX).mkdir()
    assert len(open_gallery(folder).pictures) == 12
    assert list((tmp_path / "home").rglob("*.index"))


def test_canny_has_an_index_of_its_own(folder, notes):
    scharr, canny = open_gallery(folder), open_gallery(folder, "canny")
    assert not np.array_equal(scharr.rows[:, : index.EDGE], canny.rows[:, : index.EDGE])
    assert retrieve(Image.open(folder / "clear_river/1.png"), canny, 1)[0].score == pytest.approx(1)
    with pytest.raises(UserError, match="no edge response 'sobel'"):
        open_gallery(folder, "sobel")


def test_tables_from_elsewhere(folder, notes):
    (folder / "labels.csv").write_bytes(
        "file,noun,adjective,emotion\nmisty_lake/0.png,Caf\xe9,Sch\xf6n,FEAR\n".encode("latin-1")
    )
    (only,) = open_gallery(folder).pictures  # a table with files says which pictures belong
    assert (only.noun, only.adjective, only.emotion) == ("Caf\xe9", "Sch\xf6n", "fear")
    (folder / "labels.csv").write_text("file,emotion\nmisty_lake/0.png,gloom\n")
    with pytest.raises(UserError, match="'gloom'"):
        open_gallery(folder)


def test_plurals_are_found(folder, notes):
    (folder / "misty_mountain").rename(folder / "misty_mountains")
    assert len(open_gallery(folder).select(noun="hill")) == 3 and labels.singular("Cities") == "city"


def test_what_a_gallery_depends_on(folder, notes):
    before = state(folder)
    assert state(folder) == before
    (folder / "emotions.csv").write_text("adjective,emotion\nmisty,fear\n")
    assert state(folder) != before


@pytest.mark.parametrize("place", [7, index.EDGE + 5], ids=["pixels", "json"])
def test_a_damaged_record_is_read_again(folder, notes, place):
    before = open_gallery(folder)
    edges = {p.path: before.rows[p.row, : index.EDGE].copy() for p in before.pictures}
    with (folder / index.INDEX).open("r+b") as f:
        f.seek(64 + 3 * index.RECORD + place)
        f.write(b"xxxx")
    again = open_gallery(folder)
    assert len(again.pictures) == 12 and len(again.rows) == len(before.rows) + 1
    assert all(np.array_equal(again.rows[p.row, : index.EDGE], edges[p.path]) for p in again.pictures)


def test_an_index_of_mostly_stale_records_is_compacted(folder, notes, monkeypatch):
    monkeypatch.setattr(galleries, "COMPACT_FROM", 5)
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
    found = retrieve(Image.new("RGB", (64, 64)), open_gallery(folder), 3)
    assert len(found) == 3 and np.isfinite([f.score for f in found]).all()


def test_the_build_command_says_what_no_search_will_find(tmp_path, capsys):
    from comfyui_affect.workflows.headless.cli import main

    for name in ("warm_river/a.png", "gloomy_river/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(tmp_path / name)
    assert main(["gallery", "build", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["pictures"] == 2 and told["adjectives_without_emotion"] == ["gloomy"] and told["absent"] == []
    (tmp_path / "labels.csv").write_text("file,noun\nwarm_river/a.png,river\nelsewhere/c.png,river\n")
    assert main(["gallery", "build", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "listed in a CSV and missing from the folder: 'elsewhere/c.png'" in out and "1 pictures" in out
    (tmp_path / "labels.csv").write_text("file,noun\nelsewhere/c.png,river\n")
    assert main(["gallery", "build", str(tmp_path)]) == 2
    assert "its CSV lists are not there, such as 'elsewhere/c.png'" in capsys.readouterr().err
    (tmp_path / "labels.csv").unlink()
    gallery = open_gallery(tmp_path)
    with pytest.raises(UserError, match="have no emotion yet.*gloomy"):
        gallery.select(emotions=("awe",))


def test_the_transfer_node_takes_several_references_for_one_image(monkeypatch):
    from comfyui_affect.models import gram
    from comfyui_affect.models.networks import backbones
    from comfyui_affect.nodes.reference import AffectDenseNetGramTransfer

    seen = []

    def transfer(net, source, reference, config, mask):
        seen.append([float(t.mean()) for t in (source, reference, mask)])
        return SimpleNamespace(image=source, losses=[1.0, 0.5], pixels=[1, 1])

    monkeypatch.setattr(gram, "transfer", transfer)
    monkeypatch.setattr(backbones, "cached_weights", lambda name: None)
    image = torch.full((1, 32, 32, 3), 0.5)
    references = torch.stack([torch.full((40, 20, 3), v) for v in (0.1, 0.2, 0.3)])
    out, plots, _ = AffectDenseNetGramTransfer().run(image, references, 5, 1.0, 1e6, 0, mask=torch.ones(1, 16, 16))
    assert out.shape == (3, 32, 32, 3) and len(plots) == 3
    assert [round(r, 3) for _, r, _ in seen] == [0.1, 0.2, 0.3] and all(s == 0.5 and m == 1.0 for s, _, m in seen)


def test_what_fails_for_now_is_asked_again(folder, notes, monkeypatch):
    """A network that is down, or too many open files: nothing is wrong with the pictures."""
    original = edges.edge_of_file

    def fails(path, edges):
        if path.parent.name == "dark_home":
            raise OSError(24, "Too many open files")
        return original(path, edges)

    monkeypatch.setattr(edges, "edge_of_file", fails)
    gallery = open_gallery(folder)
    assert len(gallery.pictures) == 9 and "Too many open files" in gallery.skipped["dark_home/0.png"]
    monkeypatch.setattr(edges, "edge_of_file", original)
    assert len(open_gallery(folder).pictures) == 12


def test_what_is_missing_for_an_edge_response_is_said_and_spoils_no_picture(folder, notes, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "skimage.feature", None)
    with pytest.raises(UserError, match="pip install scikit-image"):
        open_gallery(folder, "canny")
    monkeypatch.undo()
    assert len(open_gallery(folder, "canny").pictures) == 12


def test_a_gallery_that_is_open_keeps_its_statistics_when_another_compacts(folder, notes, monkeypatch):
    monkeypatch.setattr(galleries, "COMPACT_FROM", 4)
    opened = open_gallery(folder, cache=True)
    before = np.array(opened.cached)
    for name in ("misty_lake", "misty_mountain", "clear_river"):
        shutil.rmtree(folder / name)
    after = open_gallery(folder, cache=True)
    assert len(after.rows) == 3 and np.array_equal(opened.cached, before)
    assert retrieve(picture(30), opened, 1)[0].score == pytest.approx(1)


def test_a_csv_with_semicolons_is_read_and_one_without_files_is_told(folder, notes):
    (folder / "labels.csv").write_text("file;noun;adjective;emotion\nmisty_lake/0.png;city;great;anger\n;;;\n")
    (folder / "more.csv").write_text("filename,noun\nmisty_lake/1.png,city\n")
    (folder / "emotions.csv").write_text("adjective,emotion\n,fear\n")
    gallery = open_gallery(folder)
    assert [(p.path, p.emotion) for p in gallery.pictures] == [("misty_lake/0.png", "anger")] and gallery.absent == []
    assert any("'more.csv'" in note and "no column 'file'" in note for note in notes)
    assert labels.read_labels(folder)[0]("misty_lake/0.png")[2] == "anger"


def test_plurals_are_compared():
    pairs = (
        ("beaches", "beach"),
        ("churches", "church"),
        ("movies", "movie"),
        ("cities", "city"),
        ("houses", "house"),
        ("grass", "grass"),
    )
    assert all(labels.singular(a) == labels.singular(b) for a, b in pairs)


def test_who_waits_for_another_builder_is_told_and_may_leave(folder, notes):
    from filelock import FileLock

    class Impatient(Listening):
        def check_interrupted(self):
            if self.notes:
                raise KeyboardInterrupt

    lock = FileLock((folder / index.INDEX).with_suffix(".lock"))
    with lock, host.use(Impatient(folder)) as waiting, pytest.raises(KeyboardInterrupt):
        open_gallery(folder)
    assert "building the index" in waiting.notes[0] and len(open_gallery(folder).pictures) == 12
