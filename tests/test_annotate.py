"""`affect data annotate`: both forms from a fake MLLM, resumed runs, broken answers, the estimate, and what is kept."""

import json
import os

import pytest
from comfyui_affect.models.emotions import MIKELS
from comfyui_affect.models.errors import UserError
from comfyui_affect.models.moodifier.instruction import BrokenAnswer
from comfyui_affect.models.networks.scorers import load_scorer
from comfyui_affect.training.data import annotate as A
from comfyui_affect.training.data.annotated import read_annotations
from PIL import Image

CAPTION = {
    "summary": "A house by a lake.",
    "stimuli": ["a dark sky", "a bare tree", "an empty boat"],
    "assessment": "The scene evokes sadness.",
    "emotion": "sadness",
}


class Asked:
    """Answers as an MLLM does, and counts."""

    def __init__(self, **answers):
        self.answers, self.questions = answers, []

    def __call__(self, image, question):
        self.questions.append(question)
        if "as nouns" in question:
            return self.answers.get("objects", "House, tree, house,  Boat.")
        if "global perspective" in question:
            return self.answers.get("adjective", "Gloomy.")
        if "Which one" in question:
            return self.answers.get("emotion", "It evokes Sadness.")
        if "JSON" in question:
            return self.answers.get("caption", "Here it is: " + json.dumps(CAPTION))
        return self.answers.get("attribute", "abandoned")


@pytest.fixture
def folder(tmp_path):
    for name in ("sadness/a.png", "awe/b.jpg", "c.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (24, 24), "gray").save(path)
    (tmp_path / "images" / "broken.png").write_bytes(b"no image")
    return tmp_path / "images"


def test_links_that_leave_the_folder_are_not_sent_to_anybody(folder, tmp_path, capsys):
    Image.new("RGB", (24, 24), "red").save(tmp_path / "private.png")
    (tmp_path / "elsewhere").mkdir()
    Image.new("RGB", (24, 24), "red").save(tmp_path / "elsewhere" / "private.png")
    (folder / "link.png").symlink_to(tmp_path / "private.png")
    (folder / "awe" / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "endless.png").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.png")
    (folder / "inside.png").symlink_to(folder / "c.png")
    assert [name for name, _ in A.pictures(folder)] == [
        "awe/b.jpg",
        "broken.png",
        "c.png",
        "inside.png",
        "sadness/a.png",
    ]
    assert "3 names in" in capsys.readouterr().err


def test_emospaces_questions_are_the_papers():
    ask = Asked()
    row = A.emospace(None, ask, None, "")
    assert row == {
        "emotion": "sadness",
        "global_adjective": "gloomy",
        "ontology_adjective": [["house", "abandoned"], ["tree", "abandoned"], ["boat", "abandoned"]],
    }
    assert any(
        q.startswith("From the perspective of house in the image, provide a corresponding adjective")
        for q in ask.questions
    )
    tagged = Asked()
    A.emospace(
        None, tagged, ["Lake", "lake ", "pier"], "awe"
    )  # a tagger's nouns, duplicates removed; a known emotion is not asked
    assert len(tagged.questions) == 3 and not any("as nouns" in q or "Which one" in q for q in tagged.questions)


def test_moodarchives_caption():
    row = A.moodarchive(None, Asked(), None, "")
    assert row == CAPTION
    for broken in (
        "none",
        json.dumps(CAPTION | {"stimuli": ["one"]}),
        json.dumps({"summary": "x"}),
        json.dumps(CAPTION | {"emotion": "hunger"}),
    ):
        with pytest.raises(BrokenAnswer):
            A.moodarchive(None, Asked(caption=broken), None, "")


def test_a_folder_is_annotated_and_what_is_done_is_not_asked_again(folder, tmp_path):
    out = tmp_path / "rows.jsonl"
    ask = Asked()
    skipped = A.annotate(folder, A.Lines(out), "emospace", ask, {}, workers=3)
    rows = {row["file"]: row for row in map(json.loads, out.read_text().splitlines())}
    assert set(rows) == {"sadness/a.png", "awe/b.jpg", "c.png"} and "unreadable" in skipped["broken.png"]
    assert rows["awe/b.jpg"]["emotion"] == "awe" and rows["c.png"]["emotion"] == "sadness"
    with out.open("a") as f:
        f.write('{"file": "half')  # killed in the middle of a line
    out.write_text("".join(out.read_text().splitlines(keepends=True)[1:]))  # and one line lost
    again = Asked()
    A.annotate(folder, A.Lines(out), "emospace", again, {}, workers=1)
    assert len(out.read_text().splitlines()) == 3 and 3 <= len(again.questions) <= 6
    assert all(json.loads(line)["file"] for line in out.read_text().splitlines())


def test_an_answer_that_cannot_be_used_is_asked_again_once_and_then_skipped(folder, tmp_path):
    ask = Asked(caption="I cannot help with that.")
    skipped = A.annotate(folder, A.Lines(tmp_path / "rows.jsonl"), "moodarchive", ask, {}, workers=1)
    assert len(skipped) == 4 and "outside the form" in skipped["c.png"] and len(ask.questions) == 6


def test_what_it_writes_trains_emolat(folder, tmp_path):
    A.annotate(folder, A.Lines(folder / "rows.jsonl"), "emospace", Asked(emotion="grief"), {}, workers=1)
    reading = read_annotations(folder)
    assert len(reading.rows) == 3 and all(len(r.pairs) == 3 and r.adjective == "gloomy" for r in reading.rows)
    assert {MIKELS[r.emotion] for r in reading.rows} == {"awe", "sadness"}


def test_the_lowest_fifth_is_left_out(folder):
    rows = [{"file": f, "emotion": "sadness"} for f in ("sadness/a.png", "awe/b.jpg", "c.png")] * 2
    kept = A.keep_fitting(folder, rows, load_scorer("tiny"))
    assert len(kept) == 5 and all("clip" in row for row in kept)

    from comfyui_affect.benchmarks.tasks import Task, scene

    for i, emotion in enumerate(("awe", "awe", "sadness", "sadness", "fear")):
        picture = scene(Task("", emotion, i, layout=i), emotion)
        Image.fromarray((picture.permute(1, 2, 0) * 255).byte().numpy()).save(folder / f"{i}.png")
    rows = [{"file": f"{i}.png", "emotion": "awe"} for i in range(5)]
    kept = A.keep_fitting(folder, rows, load_scorer("tiny"))
    every = A.keep_fitting(folder, rows, load_scorer("tiny"), share=1.0)
    lowest = min(every, key=lambda row: row["clip"])
    assert len({row["clip"] for row in every}) == 5 and [r for r in every if r != lowest] == kept


def test_what_one_image_is_refused_ends_no_run_and_damaged_files_are_named(folder, tmp_path, capsys):
    from comfyui_affect.models.moodifier.chat_server import Refused

    def ask(image, question):
        raise Refused("refused: content policy")

    lines = A.Lines(tmp_path / "rows.jsonl")
    skipped = A.annotate(folder, lines, "emospace", ask, {}, workers=1)
    assert len(skipped) == 4 and "content policy" in skipped["c.png"]
    long = A.annotate(
        folder, lines, "emospace", Asked(adjective="From a global perspective the image is gloomy."), {}, workers=1
    )
    assert "one word was asked for" in long["c.png"]
    (tmp_path / "rows.jsonl").write_text('\n{"file": "c.png"}\n')
    assert set(A.Lines(tmp_path / "rows.jsonl").done) == {"c.png"}
    for bad in ("[1]", "{no json", '{"file": "../x.png"}'):
        (tmp_path / "rows.jsonl").write_text(f"{bad}\n")
        with pytest.raises(UserError, match="Line 1|leaves its folder"):
            A.Lines(tmp_path / "rows.jsonl")


def test_refusals_without_end_stop_the_run(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(A, "MOST_IN_A_ROW", 3)
    with pytest.raises(UserError, match="3 images in a row"):
        A.annotate(folder, A.Lines(tmp_path / "rows.jsonl"), "emospace", Asked(adjective="no " * 9), {}, workers=1)


def test_files_that_cannot_be_read_are_no_refusals_and_hidden_ones_no_images(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(A, "MOST_IN_A_ROW", 2)
    for name in ("._c.png", ".trash/d.png", "a1.png", "a2.png", "a3.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"\x00\x05\x16\x07 no image")
    skipped = A.annotate(folder, A.Lines(tmp_path / "rows.jsonl"), "emospace", Asked(), {}, workers=1)
    assert set(skipped) == {"a1.png", "a2.png", "a3.png", "broken.png"} and all(
        "unreadable" in why for why in skipped.values()
    )


def test_the_filter_is_there_before_anything_is_asked_and_misses_no_image_that_has_gone(
    folder, tmp_path, monkeypatch, capfd
):
    import argparse

    from comfyui_affect.models.moodifier import mllm

    ask = Asked()
    monkeypatch.setattr(mllm, "load_mllm", lambda *_, **__: argparse.Namespace(complete=ask))
    parser = argparse.ArgumentParser()
    A.add_arguments(parser)
    run = lambda *more: A.main(
        parser.parse_args(
            [str(folder), "--out", str(tmp_path / "rows.jsonl"), "--model", "m", "--form", "moodarchive", *more]
        )
    )
    with pytest.raises(UserError):
        run("--clip", "no such clip")
    assert not ask.questions
    (tmp_path / "rows.jsonl").write_text(json.dumps(CAPTION | {"file": "gone.png"}) + "\n")
    assert run("--clip", "tiny") == 0
    kept = [json.loads(line)["file"] for line in (tmp_path / "rows.kept.jsonl").read_text().splitlines()]
    assert len(kept) == 2 and "gone.png" not in kept  # four fifths of three
    assert "'gone.png' is left out" in "".join(capfd.readouterr())


def test_an_estimate_and_empty_folders(tmp_path):
    text = A.estimate(1000, "moodarchive", False, 2.0, 4, 0.5)
    assert "1000 questions" in text and "0.78 million tokens" in text and "about 0.39" in text and "8 minutes" in text
    with pytest.raises(UserError, match="no folder"):
        A.pictures(tmp_path / "absent")
    with pytest.raises(UserError, match="no image"):
        A.pictures(tmp_path)


def test_a_picture_of_broken_chunks_is_named_and_what_is_paid_for_stays(folder, tmp_path):
    import struct
    import zlib

    chunk = lambda kind, data: (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) ^ 1)
    )  # a wrong checksum
    (folder / "chunks.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))
    )
    lines = A.Lines(tmp_path / "out.jsonl")
    skipped = A.annotate(folder, lines, "emospace", Asked(), {}, 2)
    assert set(skipped) == {"broken.png", "chunks.png"} and all(
        why.startswith("unreadable: ") for why in skipped.values()
    )

    class Leaves(Asked):
        """Answers about one image, and is gone."""

        def __call__(self, image, question):
            if len(self.questions) >= 6:
                raise UserError("gone")
            return super().__call__(image, question)

    again = A.Lines(tmp_path / "again.jsonl")
    with pytest.raises(UserError, match="gone"):
        A.annotate(folder, again, "emospace", Leaves(), {}, 1)
    assert len(A.Lines(tmp_path / "again.jsonl").done) == 1


def test_a_file_of_another_form_and_tags_that_are_none_are_refused(folder, tmp_path):
    A.annotate(folder, A.Lines(tmp_path / "out.jsonl"), "emospace", Asked(), {}, 1)
    with pytest.raises(UserError, match='Line 1 of .* has no "summary": it was annotated in another form'):
        A.Lines(tmp_path / "out.jsonl", A.KEYS["moodarchive"])
    assert A.Lines(tmp_path / "out.jsonl", A.KEYS["emospace"]).done
    from comfyui_affect.workflows.headless.cli import main

    for tags in ('"lake | pier"', "null"):
        (tmp_path / "tags.jsonl").write_text('{"file": "c.png", "tags": ' + tags + "}\n")
        assert (
            main(
                [
                    "data",
                    "annotate",
                    str(folder),
                    "--out",
                    str(tmp_path / "x.jsonl"),
                    "--model",
                    "m",
                    "--tags",
                    str(tmp_path / "tags.jsonl"),
                    "--dry-run",
                ]
            )
            == 2
        )
