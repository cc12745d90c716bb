"""`affect apply`: which photographs, which outputs, going on after a stop, what fails, what is refused."""

import errno
import json
import os
import re
import struct
import zlib

import numpy as np
import pytest
import torch
from comfyui_affect.models import files
from comfyui_affect.models.grade.grid import Grid
from comfyui_affect.nodes.grade import AffectGradeLoad
from comfyui_affect.workflows.headless.core.images import ImageScale
from comfyui_affect.workflows.headless.series import journal, plan, run
from headless.applied import below, statuses, times
from PIL import Image


def test_each_photograph_is_made_under_its_own_name(apply, photos, workspace):
    photos("a.png", "b.jpg", "c.tif", "d.webp", "e.JPEG")
    (workspace / "photos" / "notes.txt").write_text("a list")
    (workspace / "photos" / "._a.png").write_text("hidden")
    answer = apply()
    assert answer.code == 0 and "5 of 5 photographs made" in answer.out and "'notes.txt'" in answer.err
    assert below(workspace / "out") == ["a.png", "b.jpg", "c.tif", "d.webp", "e.JPEG"]
    for name in below(workspace / "out"):
        with Image.open(workspace / "photos" / name) as old, Image.open(workspace / "out" / name) as new:
            assert old.format == new.format and old.size == new.size
            if name in ("a.png", "c.tif"):
                assert np.array_equal(np.asarray(old), np.asarray(new))
    assert not (workspace / "output").exists()


def test_a_grade_over_photographs_is_loaded_once(apply, photos, workspace, keep, monkeypatch):
    coefficients = torch.zeros(12, 1, 1, 1)
    coefficients[[2, 6, 10]] = 1.0  # every channel becomes blue
    Grid(coefficients).save(workspace / "output" / "grades" / "blue.safetensors")
    calls, load = [], AffectGradeLoad.run
    monkeypatch.setattr(AffectGradeLoad, "run", lambda self, name: calls.append(name) or load(self, name))
    keep["2"] = {"class_type": "AffectGradeApply", "inputs": {"image": ["1", 0], "grade": ["4", 0], "strength": 1.0}}
    keep["4"] = {"class_type": "AffectGradeLoad", "inputs": {"name": "blue"}}
    photos("a.png", "b.png", "c.png")
    assert apply(workflow=keep).code == 0 and calls == ["blue"]
    for name in ("a.png", "b.png", "c.png"):
        with Image.open(workspace / "photos" / name) as old, Image.open(workspace / "out" / name) as new:
            assert np.array_equal(np.asarray(new), np.repeat(np.asarray(old)[..., 2:], 3, axis=2))
    # A file that the workflow reads has changed, though not its name.
    Grid.identity().save(workspace / "output" / "grades" / "blue.safetensors")
    assert statuses(apply("--json", workflow=keep)) == dict.fromkeys(("a.png", "b.png", "c.png"), "made")


def test_a_second_run_makes_what_is_new_or_changed(apply, photos, workspace):
    photos("a.png", "b.png")
    assert apply().code == 0
    before = times(workspace / "out")
    os.utime(workspace / "photos" / "a.png")  # another time, the same content
    answer = apply("--json")
    assert statuses(answer) == {"a.png": "kept", "b.png": "kept"} and times(workspace / "out") == before
    photos("b.png", "c.png")
    assert statuses(apply("--json")) == {"a.png": "kept", "b.png": "made", "c.png": "made"}
    (workspace / "out" / "c.png").unlink()
    assert statuses(apply("--json")) == {"a.png": "kept", "b.png": "kept", "c.png": "made"}
    assert set(statuses(apply("--json", "--set", "Size.width=12")).values()) == {"made"}
    with Image.open(workspace / "out" / "a.png") as image:
        assert image.size == (12, 8)


def test_a_run_that_was_stopped_goes_on(apply, photos, workspace, monkeypatch):
    photos(*(f"{i}.png" for i in range(4)))
    scale, calls = ImageScale.upscale, []

    def stop(self, **inputs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return scale(self, **inputs)

    monkeypatch.setattr(ImageScale, "upscale", stop)
    answer = apply()
    assert answer.code == 130 and "2 of 4" in answer.err and "goes on where it stopped" in answer.err
    assert below(workspace / "out") == ["0.png", "1.png"]
    before = times(workspace / "out")
    monkeypatch.setattr(ImageScale, "upscale", scale)
    assert statuses(apply("--json")) == {"0.png": "kept", "1.png": "kept", "2.png": "made", "3.png": "made"}
    assert before.items() <= times(workspace / "out").items()


@pytest.mark.parametrize("again", [False, True])
def test_a_kill_between_the_journal_and_the_name_loses_nothing(apply, photos, workspace, monkeypatch, again):
    """Also where an older result of this command was about to be replaced (`again`)."""
    photos("a.png")
    if again:
        assert apply("--set", "Size.width=12").code == 0

    def kill(*_, **__):
        raise SystemExit(137)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace" if again else "link", kill)
        patch.setattr(type(workspace), "unlink", lambda *_, **__: None)  # a killed process tidies nothing
        with pytest.raises(SystemExit):
            apply()
    assert len(below(workspace / "out")) == 1 + again  # the temporary file
    assert statuses(apply("--json")) == {"a.png": "made"} and below(workspace / "out") == ["a.png"]
    assert Image.open(workspace / "out" / "a.png").size == (24, 16)
    assert statuses(apply("--json")) == {"a.png": "kept"}


def test_a_journal_that_was_cut_off_is_read_up_to_there(apply, photos, workspace):
    photos("a.png", "b.png")
    assert apply().code == 0
    path = workspace / "out" / journal.NAME
    path.write_bytes(path.read_bytes()[:-30])
    (workspace / "out" / "b.png").unlink()
    assert statuses(apply("--json")) == {"a.png": "kept", "b.png": "made"}
    assert statuses(apply("--json")) == {"a.png": "kept", "b.png": "kept"}


def huge_png():
    """The beginning of a PNG of 200 megapixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 20000, 10000, 8, 2, 0, 0, 0)
    data = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + struct.pack(">I", 40) + b"IDAT"
    return b"\x89PNG\r\n\x1a\n" + data + bytes(40)


def test_what_fails_is_listed_and_the_others_are_made(apply, photos, workspace):
    folder = photos("a.png", "z.png")
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes()[:200])
    (folder / "c.jpg").write_text("not a picture")
    (folder / "d.png").write_bytes(huge_png())
    (folder / "e.jpg").symlink_to("nowhere")
    os.mkfifo(folder / "f.jpg")
    Image.new("L", (3, 3)).save(folder / "g.gif")
    answer = apply()
    assert answer.code == 1 and "2 of 8 photographs made" in answer.out and "6 failed" in answer.out
    assert below(workspace / "out") == ["a.png", "z.png"]
    failed = [line for line in answer.err.splitlines() if line.startswith("  failed: ")]
    words = ["b.png", "not supported", "20000 x 10000.*AFFECT_PICTURE_GB", "No such file", "pipe", "GIF"]
    assert [bool(re.search(w, line)) for w, line in zip(words, failed, strict=True)] == [True] * 6
    report = json.loads(apply("--json").out)
    assert report["status"] == "failed"
    assert [p["status"] for p in report["pictures"]] == ["kept"] * 2 + ["failed"] * 6
    assert all(p["reason"] for p in report["pictures"][2:])


def test_a_node_that_fails_for_one_photograph(apply, photos, workspace, monkeypatch):
    photos("a.png", "b.png", "c.png")
    scale, calls = ImageScale.upscale, []

    def fail(self, **inputs):
        calls.append(1)
        if len(calls) != 2:
            return scale(self, **inputs)
        raise ValueError("no such size")

    monkeypatch.setattr(ImageScale, "upscale", fail)
    answer = apply("--json")
    assert answer.code == 1 and statuses(answer) == {"a.png": "made", "b.png": "failed", "c.png": "made"}
    assert "Node 2 'Size' (ImageScale) failed: ValueError: no such size" in answer.err
    calls[:] = [1]  # the next one fails again
    assert "Traceback" not in answer.err and "Traceback" in apply("--debug").err


def test_files_of_others_are_never_replaced(apply, photos, workspace):
    photos("a.png", "b.png")
    (workspace / "out").mkdir()
    (workspace / "out" / "b.png").write_text("mine")
    answer = apply()
    assert answer.code == 2 and "1 files in 'out' would be replaced" in answer.err and "'b.png'" in answer.err
    assert below(workspace / "out") == ["b.png"] and not (workspace / "out" / journal.NAME).exists()
    (workspace / "out" / "b.png").unlink()
    assert apply().code == 0
    # What was changed by hand since is left alone, and refused where it would have to be made again.
    (workspace / "out" / "b.png").write_text("retouched")
    assert statuses(apply("--json")) == {"a.png": "kept", "b.png": "kept"}
    answer = apply("--set", "Size.width=12")
    assert answer.code == 2 and "changed since" in answer.err
    assert (workspace / "out" / "b.png").read_text() == "retouched"


def test_a_file_that_appears_meanwhile_is_left_as_it_is(apply, photos, workspace, monkeypatch):
    photos("a.png")
    scale = ImageScale.upscale

    def appear(self, **inputs):
        (workspace / "out" / "a.png").write_text("mine")
        return scale(self, **inputs)

    monkeypatch.setattr(ImageScale, "upscale", appear)
    answer = apply()
    assert answer.code == 1 and "appeared in the output folder meanwhile" in answer.err
    assert below(workspace / "out") == ["a.png"] and (workspace / "out" / "a.png").read_text() == "mine"


def test_names_that_are_one_on_other_systems_are_refused(apply, photos, workspace):
    photos("a.png", "A.png")
    answer = apply()
    assert answer.code == 2 and "'A.png' and 'a.png'" in answer.err and not (workspace / "out").exists()


def test_links_and_files_in_the_way_are_refused(apply, photos, workspace):
    photos("s/a.png")
    (workspace / "out").mkdir()
    (workspace / "elsewhere").mkdir()
    (workspace / "out" / "s").symlink_to(workspace / "elsewhere")
    assert apply("--recursive").code == 2
    (workspace / "out" / "s").unlink()
    (workspace / "out" / "s").write_text("a file")
    assert apply("--recursive").code == 2 and below(workspace / "elsewhere") == []


def test_folders_are_mirrored_and_results_are_not_read(affect, apply, photos, keep, workspace):
    photos("a.png", "s/b.png", "s/t/c.png", ".hidden/d.png")
    arguments = ("apply", keep, "--each", "photos", "--out", "photos/results", "--recursive", "--json")
    assert set(statuses(affect(*arguments))) == {"a.png", "b.png", "c.png"}
    assert below(workspace / "photos" / "results") == ["a.png", "s/b.png", "s/t/c.png"]
    assert set(statuses(affect(*arguments)).values()) == {"kept"}
    # Nor by another run, into another folder.
    assert apply("--recursive").code == 0
    assert below(workspace / "out") == ["a.png", "s/b.png", "s/t/c.png"]
    assert apply().code == 0 and affect(*arguments[:2], "--each", "photos", "--out", "flat").code == 0
    assert below(workspace / "flat") == ["a.png"]


ODD = ["a b'\"ü%s[output].png", "50%.png", "line\nbreak.png", "back\\slash.png", "-x.png", "漢" * 80 + ".png"]


def test_names_with_odd_characters(apply, photos, workspace):
    photos(*ODD)
    (workspace / "photos" / os.fsdecode(b"bytes\xff.png")).write_bytes((workspace / "photos" / "50%.png").read_bytes())
    answer = apply("--json")
    assert answer.code == 0 and len(below(workspace / "out")) == 7
    assert sorted(os.listdir(workspace / "photos")) == sorted(set(os.listdir(workspace / "out")) - {journal.NAME})
    assert set(statuses(apply("--json")).values()) == {"kept"}


def test_folders_that_hold_nothing_or_are_none(affect, apply, photos, keep, workspace):
    for each, words in (
        ("nowhere", "is not a folder"),
        ("workflow.json", "is not a folder"),
        ("input/empty", "no photo"),
    ):
        (workspace / "input" / "empty").mkdir(exist_ok=True)
        answer = affect("apply", keep, "--each", each, "--out", "out")
        assert answer.code == 2 and words in answer.err and len(answer.err.splitlines()) == 1
    photos("s/a.png")
    (workspace / "photos" / "raw.cr2").write_text("raw")
    answer = apply()
    assert answer.code == 2 and "'raw.cr2'" in answer.err and "--recursive" in answer.err
    answer = affect("apply", keep, "--each", "photos", "--out", "photos", "--recursive")
    assert answer.code == 2 and "Choose another folder" in answer.err and not (workspace / "out").exists()


@pytest.mark.parametrize("closed", ["photos", "photos/s"])
def test_a_folder_that_cannot_be_read_is_named(apply, photos, workspace, monkeypatch, closed):
    photos("a.png", "s/b.png")
    allowed = os.access  # root may read anything
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != closed and allowed(path, mode))
    answer = apply("--recursive")
    assert answer.code == 2 and f"'{closed}' cannot be read" in answer.err and not (workspace / "out").exists()


def test_a_full_disk_stops_the_run_in_a_sentence(apply, photos, workspace, monkeypatch):
    photos("a.png", "b.png", "c.png")
    encode = run.encode

    def full(photograph, image, path):
        if photograph.path.name == "b.png":
            path.write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return encode(photograph, image, path)

    monkeypatch.setattr(run, "encode", full)
    answer = apply("--json")
    assert answer.code == 1 and statuses(answer) == {"a.png": "made", "b.png": "failed", "c.png": "left"}
    assert "the disk is full" in answer.err and "Make room" in answer.err and below(workspace / "out") == ["a.png"]
    monkeypatch.setattr(run, "encode", encode)
    assert statuses(apply("--json")) == {"a.png": "kept", "b.png": "made", "c.png": "made"}


def test_an_output_folder_that_cannot_be_used(apply, photos, workspace, monkeypatch):
    photos("a.png")
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
        answer = apply()
    assert answer.code == 2 and "is read-only" in answer.err and "--out." in answer.err
    (workspace / "out").write_text("a file")
    answer = apply()
    assert answer.code == 2 and "is not a folder" in answer.err


def test_two_runs_at_once_into_one_folder(apply, photos, workspace):
    photos("a.png")
    with journal.Journal(workspace / "out").writing():
        answer = apply()
    assert answer.code == 2 and "Another `affect apply`" in answer.err and below(workspace / "out") == []


def test_leftovers_are_those_of_the_named_files_alone(tmp_path):
    ours = ".a.png.0123456789ab.tmp.png"
    for name in (ours, ".b.png.0123456789ab.tmp.png", ".a.png.tmp.png", ".a.png.0123456789AB.tmp.png", "a.png"):
        (tmp_path / name).touch()
    assert [p.name for p in files.leftovers(tmp_path, ["a.png"])] == [ours]


def test_the_plan_reads_no_more_than_it_needs(photos, workspace, apply, monkeypatch):
    """Size and time spare reading pictures again."""
    photos("a.png")
    assert apply().code == 0
    monkeypatch.setattr(journal, "checksum", lambda path: pytest.fail("read again"))
    again = plan.plan(workspace / "photos", workspace / "out", "another workflow")
    assert again.todo == ["a.png"] and again.done == []
