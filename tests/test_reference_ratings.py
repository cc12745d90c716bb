"""Galleries that people rated: how their tables are read, and what an emotion finds in them."""

import json
import math

import numpy as np
import pytest
import torch
from comfyui_affect.models.emotions import EmotionTarget
from comfyui_affect.models.errors import UserError
from comfyui_affect.models.reference import open_gallery, ratings, retrieve, search
from comfyui_affect.nodes.reference import AffectReferenceGallery, AffectSSIMReferenceRetriever
from comfyui_affect.workflows.headless.cli import main
from PIL import Image


def picture(seed, size=(96, 64)):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize(size, Image.BICUBIC)


SAD, ANGRY = EmotionTarget.of("sadness"), EmotionTarget.of("anger")


@pytest.fixture
def folder(tmp_path):
    """Twelve pictures, in OASIS's layout and on its scale: 0 to 3 are sad, 4 to 7 angry, 8 to 11 between; odd ones are
    lakes."""
    root = tmp_path / "input" / "rated"
    (root / "images").mkdir(parents=True)
    rows = ["file,theme,category,source,valence_mean,valence_sd,valence_n,arousal_mean,arousal_sd,arousal_n"]
    for i in range(12):
        picture(i).save(root / "images" / f"{i}.png")
        centre = np.array((SAD.vad, ANGRY.vad, (0.5, 0.5, 0))[i // 4][:2]) + 0.005 * (i % 4)
        valence, arousal = 1 + 6 * centre
        rows.append(f"{i}.png,{('Dog', 'Lake')[i % 2]},Scenery,Web,{valence:.4f},1.2,100.0,{arousal:.4f},1.1,100.0")
    (root / "ratings.csv").write_text("\n".join(rows) + "\n")
    return root


def numbers(references):
    return {int(r.picture.path.split("/")[1].split(".")[0]) for r in references}


def test_oasis_tables_are_read(folder, notes):
    gallery = open_gallery(folder)
    by_path = {p.path: p for p in gallery.pictures}
    first = by_path["images/1.png"]
    assert len(by_path) == 12 and gallery.rated and gallery.absent == [] and gallery.nouns == ["Dog", "Lake"]
    assert (first.noun, first.adjective, first.emotion) == ("Lake", "", "")
    assert first.rating == pytest.approx((SAD.vad[0] + 0.005, SAD.vad[1] + 0.005), abs=1e-4)
    (note,) = notes
    assert "'ratings.csv' states no scale" in note and "read as 1 to 7" in note and "valence_mean (1-9)" in note


def test_an_emotion_finds_what_people_rated_near_it_and_ssim_ranks_it(folder, notes):
    gallery = open_gallery(folder)
    for target, near in ((SAD, {0, 1, 2, 3}), (ANGRY, {4, 5, 6, 7})):
        found = retrieve(picture(99), gallery, 4, emotion=target)
        assert numbers(found) == near and [f.score for f in found] == sorted((f.score for f in found), reverse=True)
        assert all(f.distance == pytest.approx(math.dist(f.picture.rating, target.vad[:2])) for f in found)
    for i in (1, 6, 9):  # the picture itself, if its mood is the right one
        (found,) = retrieve(picture(i), gallery, 1, emotion=SAD)
        assert (numbers([found]) == {i}) == (i < 4)
    assert retrieve(picture(9), gallery, 1)[0].distance is None


def test_noun_and_ratings_are_both_asked_for(folder, notes):
    gallery = open_gallery(folder)
    assert numbers(retrieve(picture(99), gallery, 2, noun="water", emotion=SAD)) == {1, 3}
    assert numbers(retrieve(picture(99), gallery, 2, noun="dogs", emotion=ANGRY)) == {4, 6}
    with pytest.raises(UserError, match="no picture of 'boat'"):
        retrieve(picture(99), gallery, 1, noun="boat", emotion=SAD)


def test_candidates_are_those_within_the_slack_of_the_kth_nearest(folder, notes, monkeypatch):
    gallery = open_gallery(folder)
    chosen = lambda k: {p.path for p in search.candidates(gallery, k, emotion=SAD)[0]}
    assert len(chosen(1)) == 4 and len(chosen(12)) == 12 and len(chosen(50)) == 12
    monkeypatch.setattr(search, "SLACK", 0.0)
    assert chosen(1) == {"images/0.png"} and chosen(3) == {f"images/{i}.png" for i in range(3)}


def test_the_node_names_valence_arousal_and_distance(folder, notes):
    (gallery,) = AffectReferenceGallery().run("rated")
    image = torch.from_numpy(np.asarray(picture(99))[None].astype(np.float32) / 255)
    rows = json.loads(AffectSSIMReferenceRetriever().run(image, gallery, "", 2, emotion=SAD)[1])
    assert len(rows) == 2 and all(0 <= row["distance"] < 0.05 for row in rows)
    assert rows[0]["valence"] == pytest.approx(SAD.vad[0], abs=0.03)
    assert rows[0]["arousal"] == pytest.approx(SAD.vad[1], abs=0.03)
    rows = json.loads(AffectSSIMReferenceRetriever().run(image, gallery, "", 1)[1])
    assert "valence" in rows[0] and "distance" not in rows[0]


def test_labels_decide_where_nobody_rated(folder, notes):
    (folder / "ratings.csv").write_text(
        "file,noun,emotion,valence (1-7),arousal (1-7)\nimages/0.png,lake,fear,,\nimages/1.png,lake,sadness,,\n"
        "images/2.png,dog,fear,1.3,2.7\nimages/3.png,dog,fear,,\n"
    )
    gallery = open_gallery(folder)
    assert notes == []
    (found,) = retrieve(picture(99), gallery, 5, noun="lake", emotion=SAD)
    assert numbers([found]) == {1} and found.distance is None and notes == []
    (found,) = retrieve(picture(99), gallery, 5, noun="dog", emotion=SAD)
    assert numbers([found]) == {2} and "1 of 2 pictures have no rating" in notes[0]


@pytest.mark.parametrize(
    "header, cells, want, told",
    [
        ("valence,arousal", ["0,0.25", "1,0.5"], [(0, 0.25), (1, 0.5)], 1),
        ("valence,arousal", ["-1,0", "1,0.5"], [(0, 0.5), (1, 0.75)], 1),
        ("valence,arousal", ["1,1", "5,3"], [(0, 0), (1, 0.5)], 1),
        ("Valence_Mean,Arousal_Mean", ["1.0,4", "7,6.5"], [(0, 0.5), (1, 5.5 / 6)], 1),
        ("valence,arousal", ["9,1", "5,3"], [(1, 0), (0.5, 0.25)], 1),
        ("valence,arousal", ["75,20", "5,3"], [(0.75, 0.2), (0.05, 0.03)], 1),
        ("valence (1-9),arousal (1-9)", ["5,1", "1,3"], [(0.5, 0), (0, 0.25)], 0),
        ("mean valence [-4..4],arousal 0 to 8", ["0,4", "-4,8"], [(0.5, 0.5), (0, 1)], 0),
        ("valence (1-9),arousal", ["5,1", "9,0"], [(0.5, 1), (1, 0)], 1),
        ("valence (1-9),arousal (1-9)", ["5,1", ","], [(0.5, 0), None], 0),
        ("valence_sd,arousal_sd", ["5,1"], [None], 0),
    ],
)
def test_scales_are_stated_or_found_out(notes, header, cells, want, told):
    keys = ["file", *header.lower().split(",")]
    rows = [dict(zip(keys, [f"{i}.png", *cell.split(",")])) for i, cell in enumerate(cells)]
    found = ratings.read_ratings(rows, "'x.csv'")
    assert [w and pytest.approx(w) for w in want] == found
    assert len(notes) == told


@pytest.mark.parametrize(
    "table, said",
    [
        ("file,valence\n0.png,3\n", "'r.csv' has a column 'valence' and none of arousal"),
        ("file,arousal (1-7)\n0.png,3\n", "'r.csv' has a column 'arousal (1-7)' and none of valence"),
        ("file,valence (1-7),arousal (1-7)\n0.png,7.5,3\n", "at 0.png, has 7.5 in 'valence (1-7)', outside its scale"),
        ("file,valence (1-7),arousal (1-7)\n0.png,2,0\n", "at 0.png, has 0 in 'arousal (1-7)', outside its scale"),
        ("file,valence,arousal\n0.png,500,3\n", "ratings from 3 to 500, which are on no usual scale"),
        ("file,valence,arousal\n0.png,high,3\n", "at 0.png, has 'high', which is not a number, in 'valence'"),
        ("file,valence,arousal\n0.png,nan,3\n", "at 0.png, has 'nan', which is not a number, in 'valence'"),
        ("file,valence,arousal\n0.png,inf,3\n", "which is not a number"),
        ("file,valence,arousal\n0.png,3,\n", "at 0.png, has no number in 'arousal'"),
        ("file,valence (likert),arousal\n0.png,3,3\n", "'(likert)' is not a scale. Write it as in 'valence (1-7)'"),
        ("file,valence (7-1),arousal\n0.png,3,3\n", "'(7-1)' is not a scale"),
    ],
)
def test_bad_ratings_get_one_sentence_and_nothing_is_written(folder, notes, table, said, capsys):
    (folder / "ratings.csv").unlink()
    (folder / "r.csv").write_text(table)
    assert main(["gallery", "build", str(folder)]) == 2
    err = capsys.readouterr().err
    assert said in err and len(err.splitlines()) == 1
    assert not list(folder.glob(".affect*"))


def test_ratings_with_decimal_commas(folder, notes):
    (folder / "ratings.csv").write_text("file;valence (1-7);arousal (1-7)\nimages/0.png;4,0;2,5\n")
    assert open_gallery(folder).pictures[0].rating == pytest.approx((0.5, 0.25))


def test_ratings_of_files_that_are_not_there_are_told(folder, notes, capsys):
    with (folder / "ratings.csv").open("a") as f:
        f.write("gone.png,Lake,Scenery,Web,3,1,100,3,1,100\n")
    (folder / "other").mkdir()
    picture(5).save(folder / "other" / "7.png")  # two files have this name: which one was rated is not known
    gallery = open_gallery(folder)
    assert gallery.absent == ["7.png", "gone.png"] and len(gallery.pictures) == 11
    (told,) = AffectReferenceGallery().run("rated")
    assert any("2 files that the CSV of the gallery 'rated' lists are absent" in note for note in notes)
    assert main(["gallery", "build", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rated"] == 11


def test_a_rating_stands_for_an_emotion_that_its_adjective_does_not_have(folder, notes):
    (folder / "ratings.csv").write_text(
        "file,noun,adjective,valence (1-7),arousal (1-7)\nimages/0.png,lake,odd,4,4\nimages/1.png,lake,strange,,\n"
    )
    assert open_gallery(folder).adjectives_without_emotion == ["strange"]


def test_a_short_first_row_does_not_hide_the_columns(folder, notes):
    (folder / "ratings.csv").write_text("file,valence (1-7),arousal (1-7)\nimages/0.png\nimages/1.png,4,4\n")
    by_path = {p.path: p.rating for p in open_gallery(folder).pictures}
    assert by_path == {"images/0.png": None, "images/1.png": pytest.approx((0.5, 0.5))}
