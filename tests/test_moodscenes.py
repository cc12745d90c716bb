"""MoodScenes: determinism, what an emotion may and may not change, words, files."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from comfyui_affect.models.emotions import MIKELS
from comfyui_affect.models.errors import UserError
from comfyui_affect.training.data import moodscenes as ms
from comfyui_affect.training.data.moodscenes import cues
from comfyui_affect.training.data.moodscenes.captions import EMOTION_ADJECTIVE
from comfyui_affect.training.data.moodscenes.dataset import image_id
from PIL import Image

SEEDS = ms.layout_seeds("train", 24, seed=1)
TABLES = {
    "palette": cues.PALETTES,
    "light": cues.LIGHTS,
    "weather": cues.WEATHERS,
    "texture": cues.TEXTURES,
    **cues.ATTRIBUTES,
}


def _metadata() -> str:
    """Everything of some scenes that does not depend on how a version of Pillow rasterises."""
    rows = []
    for i, seed in enumerate(SEEDS):
        layout = ms.sample_layout(seed)
        mood = cues.draw_mood(MIKELS[i % 8], i, seed, layout.noun == "face")
        does = [mood.attribute(s.name, k, s.neutral) for k, s in enumerate(layout.slots)]
        rows.append(
            [
                layout.noun,
                layout.place,
                layout.backdrop,
                mood.palette,
                mood.light,
                mood.weather,
                mood.texture,
                mood.adjective,
                does,
                [[s.name, s.x, s.y, s.scale] for s in layout.slots],
            ]
        )
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _pixels(seeds: list[int]) -> str:
    h = hashlib.sha256()
    for i, seed in enumerate(seeds):
        for domain in "ab":
            h.update(ms.make_scene(seed, MIKELS[i % 8], i, domain, 64).image.tobytes())
    return h.hexdigest()


def test_metadata_is_what_it_always_was():
    assert _metadata() == "29cc0437591c8b8b5d35f3f0cb4bdf18c8a09b14cf1f3029c334de2378242ed4"


def test_pixels_follow_from_the_seeds_in_any_process():
    here = _pixels(SEEDS[:8])
    assert here == _pixels(SEEDS[:8])
    code = (
        "import hashlib\nfrom comfyui_affect.training.data import moodscenes as ms\nh = hashlib.sha256()\n"
        f"for i, s in enumerate({SEEDS[:8]}):\n  for d in 'ab':\n"
        "    h.update(ms.make_scene(s, ms.EMOTIONS[i % 8], i, d, 64).image.tobytes())\nprint(h.hexdigest())"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here


def test_other_seeds_and_emotions_give_other_pictures():
    seed = SEEDS[0]
    pictures = [ms.make_scene(seed, e, 0, size=64).image for e in (None, *MIKELS)]
    pictures += [
        ms.make_scene(seed, "awe", 1, size=64).image,
        ms.make_scene(SEEDS[1], "awe", 0, size=64).image,
        ms.make_scene(seed, "awe", 0, "b", size=64).image,
    ]
    assert len({p.tobytes() for p in pictures}) == len(pictures)


def test_emotions_share_the_layout():
    for seed in SEEDS[:6]:
        scenes = [ms.make_scene(seed, e, 5, size=64) for e in (None, *MIKELS)]
        assert all(s.layout == scenes[0].layout for s in scenes)
        assert len({(s.noun, s.layout.place) for s in scenes}) == 1


def test_neutral_has_no_cue():
    mood = ms.make_scene(SEEDS[2], None, size=64).mood
    assert (mood.palette, mood.light, mood.weather, mood.texture, mood.object_rate) == (None,) * 4 + (0.0,)


@pytest.mark.parametrize("table", TABLES)
def test_no_cue_belongs_to_one_emotion_and_each_emotion_has_cues(table):
    rows = np.array([[int(d) for d in row] for row in TABLES[table].values()])
    assert rows.shape[1] == 8
    assert ((rows > 0).sum(1) >= 2).all()
    assert (rows > 0).any(0).all()


def test_usually_three_to_five_families_are_on():
    on = Counter()
    for i in range(300):
        mood = cues.draw_mood(MIKELS[i % 8], i, 7)
        on[
            sum(x is not None for x in (mood.palette, mood.light, mood.weather, mood.texture)) + (mood.object_rate > 0)
        ] += 1
    assert set(on) == {3, 4, 5} and min(on.values()) > 30


def test_priors():
    layouts = [ms.sample_layout(s) for s in ms.layout_seeds(None, 150)]

    def prior(noun, place=None):
        fit = next(x.seed for x in layouts if x.noun == noun and place in (None, x.place))
        return MIKELS[int(ms.emotion_prior(fit).argmax())]

    assert prior("home", "park") == "contentment"
    assert prior("mountain") == "awe"
    assert prior("city", "street") == "excitement"
    p = ms.emotion_prior(SEEDS[0])
    assert p.shape == (8,) and p.min() > 0 and abs(p.sum() - 1) < 1e-12
    rng = np.random.default_rng(0)
    drawn = Counter(ms.sample_emotion(SEEDS[0], rng) for _ in range(800))
    assert all(abs(drawn[e] / 800 - q) < 0.06 for e, q in zip(MIKELS, p))


def test_splits_are_by_layout():
    lists = {s: ms.layout_seeds(s, 200) for s in ("train", "val", "test")}
    for split, seeds in lists.items():
        assert len(set(seeds)) == 200 and {ms.split_of(s) for s in seeds} == {split}
    assert ms.layout_seeds("val", 50) == lists["val"][:50]
    assert ms.layout_seeds("val", 50, seed=1) != lists["val"][:50]
    share = Counter(ms.split_of(s) for s in range(4000))
    assert 0.88 < share["train"] / 4000 < 0.92
    assert 0.035 < share["val"] / 4000 < 0.065 and 0.035 < share["test"] / 4000 < 0.065


def test_objects_masks_and_boxes():
    for i, seed in enumerate(SEEDS[:12]):
        scene = ms.make_scene(seed, MIKELS[i % 8], i, size=96, masks=True)
        assert 2 <= len(scene.objects) <= 14
        assert len(scene.masks) == len(scene.objects)
        assert (sum(m.astype(int) for m in scene.masks.values()) <= 1).all()
        for o, (name, mask) in zip(scene.objects, scene.masks.items()):
            rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            assert re.fullmatch(rf"{o.name}( \d+)?", name)
            assert o.box == (cols[0], rows[0], cols[-1] + 1, rows[-1] + 1)
            assert o.area == pytest.approx(mask.mean())


def test_masks_lie_where_objects_change():
    """What an object does shows inside its mask: a laughing mouth and a crying one differ there."""
    seed = next(s for s in SEEDS if ms.sample_layout(s).noun == "face")
    a, b = (ms.make_scene(seed, e, 1, masks=True) for e in ("amusement", "sadness"))
    mouth = a.masks["mouth"] | b.masks["mouth"]
    change = ms.change_mask(a.image, b.image)
    assert change[mouth].mean() > 0.5
    assert not ms.change_mask(a.image, a.image).any()


def test_content_captions_never_tell_the_emotion():
    words = {w for e in MIKELS for w in (e, *EMOTION_ADJECTIVE[e])} | set(cues.WEATHERS)
    # Green hills and gray or black hair are content.
    words |= {a for t in cues.ATTRIBUTES.values() for a in t} - {"green", "gray", "black"}
    for i, seed in enumerate(SEEDS):
        rng = np.random.default_rng(i)
        scene = ms.make_scene(seed, MIKELS[i % 8], i, size=64)
        said = set(re.findall(r"[a-z]+", scene.content_caption(rng)))
        assert not said & words, said & words


def test_captions_with_attributes_and_emotion():
    named = 0
    for i, seed in enumerate(SEEDS):
        scene = ms.make_scene(seed, MIKELS[i % 8], i, size=64)
        text = scene.content_caption(np.random.default_rng(i), attributes=1.0, emotion=True)
        assert any(w in text for w in (scene.emotion, *EMOTION_ADJECTIVE[scene.emotion])), text
        does = {o.attribute for o in scene.objects if o.attribute in cues.ATTRIBUTES.get(o.name, {})}
        named += any(a in text for a in does)
    assert named > len(SEEDS) * 0.7


def test_content_captions_pin_the_content():
    seeds = ms.layout_seeds("test", 100)
    texts = [ms.make_scene(s, None, size=64).content_caption(np.random.default_rng(s)) for s in seeds]
    assert len(set(texts)) >= 95
    scene = ms.make_scene(seeds[0], None, size=64)
    assert len({scene.content_caption(np.random.default_rng(k)) for k in range(20)}) >= 5


def test_structured_annotations():
    for i, seed in enumerate(SEEDS):
        scene = ms.make_scene(seed, MIKELS[i % 8], i, size=64)
        mood = scene.mood_caption()
        assert set(mood) == {"summary", "stimuli", "assessment"}
        assert len(set(mood["stimuli"])) == 3 and scene.emotion in mood["assessment"]
        note = scene.emoset()
        assert note["emotion"] == scene.emotion and ("facial_expression" in note) == (scene.noun == "face")
        assert 0 <= note["brightness"] <= 1 and 0 <= note["colorfulness"] <= 1
        space = scene.emospace()
        assert set(space) == {"emotion", "global_adjective", "ontology_adjective"}
        assert space["global_adjective"] in ms.ADJECTIVES and 2 <= len(space["ontology_adjective"]) <= 14
        assert all(len(p) == 2 for p in space["ontology_adjective"])


@pytest.mark.parametrize("size", [64, 150, 321])
def test_any_size(size):
    scene = ms.make_scene(SEEDS[4], "fear", 0, size=size)
    assert scene.image.shape == (size, size, 3) and scene.image.dtype == np.uint8
    assert scene.image.std() > 10


@pytest.mark.parametrize(
    "wrong", [{"emotion": "joy"}, {"domain": "c"}, {"size": 32}, {"size": 2048}, {"noun": "desert"}]
)
def test_wrong_requests_are_refused(wrong):
    with pytest.raises(UserError, match=str(next(iter(wrong.values())))):
        ms.make_scene(**{"layout_seed": 1, "emotion": "awe", **wrong})
    with pytest.raises(UserError, match="valid"):
        ms.layout_seeds("valid", 3)


def _tree(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_dataset_files_and_resume(tmp_path):
    ms.write_dataset(tmp_path / "d", 5, size=64, seed=2, split="val", progress=False)
    files = _tree(tmp_path / "d")
    rows = (tmp_path / "d" / "index.csv").read_text().splitlines()
    assert len(rows) == 6 and rows[0].startswith("file,noun,adjective,emotion")
    assert sum(f.startswith("images/") for f in files) == 5
    name = next(f for f in files if f.startswith("images/"))
    folder, stem = name.split("/")[1], name.split("/")[2][:-4]
    adjective, noun = folder.split("_")
    note = json.loads(files[f"annotation/{stem.split('_')[1]}/{stem}.json"])
    assert adjective in ms.ADJECTIVES and noun in ms.NOUNS and note["image_id"] == stem
    scene = json.loads(files[f"scenes/{stem}.json"])
    again = ms.make_scene(scene["layout_seed"], scene["emotion"], scene["emotion_seed"], size=64)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "d" / name)), again.image)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "d/masks" / f"{stem}.png")), again.owners)
    assert ms.split_of(scene["layout_seed"]) == "val" == scene["split"]
    # Interrupted: one scene lacks its last file, another picture was only begun. The rest is not drawn again.
    (tmp_path / "d/scenes" / f"{stem}.json").unlink()
    (tmp_path / "d" / name).write_bytes(b"half")
    (tmp_path / "d/index.csv").unlink()
    kept = next(p for p in (tmp_path / "d/images").rglob("*.png") if p.stem != stem)
    before = kept.stat().st_mtime_ns
    ms.write_dataset(tmp_path / "d", 5, size=64, seed=2, split="val", progress=False)
    assert _tree(tmp_path / "d") == files
    assert kept.stat().st_mtime_ns == before
    with pytest.raises(UserError, match="already holds"):
        ms.write_dataset(tmp_path / "d", 5, size=96, seed=2, split="val", progress=False)


def test_workers_write_the_same_files(tmp_path):
    ms.write_dataset(tmp_path / "one", 3, size=64, progress=False, uniform=True)
    ms.write_dataset(tmp_path / "two", 3, size=64, progress=False, uniform=True, workers=2)
    assert _tree(tmp_path / "one") == _tree(tmp_path / "two")


def test_pairs(tmp_path):
    ms.write_dataset(tmp_path, 1, size=64, pairs=True, progress=False)
    row = json.loads(next((tmp_path / "scenes").glob("*neutral*")).read_text())
    layout, seed = row["layout_seed"], row["emotion_seed"]
    pictures = {e: ms.make_scene(layout, e, seed, size=64).image for e in (None, "awe", "fear")}
    assert len(list((tmp_path / "images").rglob("*.png"))) == 9
    assert {json.loads(p.read_text())["layout_seed"] for p in (tmp_path / "scenes").iterdir()} == {layout}
    changes = tmp_path / "changes" / f"{layout:010d}"
    assert len(list(changes.iterdir())) == 36
    assert (tmp_path / "scenes" / f"{image_id(layout, 'fear', seed)}.json").is_file()
    for source, target in ((None, "awe"), ("awe", "fear")):
        mask = np.asarray(Image.open(changes / f"{source or 'neutral'}-{target}.png"))
        a, b = pictures[source].astype(int), pictures[target].astype(int)
        assert np.array_equal(mask, np.abs(a - b).max(-1) > 25.5) and mask.any()


def test_command(tmp_path):
    import argparse

    parser = argparse.ArgumentParser()
    ms.add_arguments(parser)
    args = parser.parse_args(f"--out {tmp_path} --n 2 --size 64 --domain b --seed 4".split())
    assert ms.main(args) == 0
    assert len(list((tmp_path / "images").rglob("*.png"))) == 2


def test_contact_sheet():
    sheet = ms.contact_sheet(size=64)
    assert sheet.width > 8 * 64 and sheet.height > 6 * 64
    assert np.asarray(sheet).std() > 30
