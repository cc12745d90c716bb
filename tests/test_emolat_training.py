"""EmoLat's data and its two training stages, on small random networks."""

import json

import numpy as np
import pytest
import torch
from comfyui_affect.models.emolat import space as spaces
from comfyui_affect.models.emolat.space import EmoLat, EmoLatCode, EmoLatConfig
from comfyui_affect.models.emotions import MIKELS, EmotionTarget
from comfyui_affect.models.errors import UserError
from comfyui_affect.models.networks.backbones import Backbone, build_tiny_vgg
from comfyui_affect.models.networks.scorers import load_scorer
from comfyui_affect.training import emolat as stage_one
from comfyui_affect.training import transfer as stage_two
from comfyui_affect.training.data.annotated import read_annotations
from comfyui_affect.training.data.graphs import GraphRows, make_pictures, text_features
from comfyui_affect.training.loop import LoopConfig
from comfyui_affect.training.tokens import TokensConfig, train_tokens
from PIL import Image


def put(folder, name, note, image=True, kind="emospace"):
    path = folder / kind / str(note.get("emotion", "x")) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(note))
    if image:
        where = folder / "images" / f"{name}.png"
        where.parent.mkdir(exist_ok=True)
        colour = tuple(int(v) for v in np.random.default_rng(len(name)).integers(0, 255, 3))
        Image.new("RGB", (40, 30), colour).save(where)


def note(emotion="fear", pairs=(("tree", "bare"),), adjective="dark", **more):
    return {"emotion": emotion, "global_adjective": adjective, "ontology_adjective": [list(p) for p in pairs], **more}


class Words:
    """A stand-in for a scorer's text side: a word's feature is drawn from its letters; counts what it encodes."""

    name, feature_width = "words", 8

    def __init__(self):
        self.clip, self.encoded = torch.nn.Linear(2, 2), []

    def text_features(self, texts):
        self.encoded += texts
        rows = [torch.randn(8, generator=torch.Generator().manual_seed(sum(map(ord, t)))) for t in texts]
        return torch.nn.functional.normalize(torch.stack(rows), dim=-1)


def test_annotations_are_read_skipped_and_counted(tmp_path):
    put(tmp_path, "a", note())
    put(tmp_path, "b", note("awe", [(f"thing{i}", "odd") for i in range(20)]))
    put(tmp_path, "c", note("sadness", (), "grey"))
    put(tmp_path, "j", note("sadness", (), ""))
    put(tmp_path, "k", note("awe") | {"file": "../elsewhere.png"})
    put(tmp_path, "d", note("anger", [("dog", "")]))
    put(tmp_path, "e", note("boredom"))
    put(tmp_path, "f", note(), image=False)
    put(tmp_path, "g", {"emotion": "fear", "global_adjective": "dim", "ontology_adjective": {"hill": "grey"}})
    (tmp_path / "emospace" / "h.json").write_text("{not json")
    (tmp_path / "emospace" / "i.json").write_text('["a list"]')
    reading = read_annotations(tmp_path)
    assert [MIKELS[r.emotion] for r in reading.rows] == ["anger", "awe", "fear", "fear", "sadness"]
    assert reading.rows[3].pairs == (("hill", "grey"),) and len(reading.rows[1].pairs) == 20
    assert set(reading.skipped) == {
        "emospace/boredom/e.json",
        "emospace/fear/f.json",
        "emospace/h.json",
        "emospace/i.json",
        "emospace/sadness/j.json",
        "emospace/awe/k.json",
    }
    assert reading.unusual == {"no objects": 1, "more than 14 pairs": 1, "no attribute": 1}
    said = reading.summary()
    assert "5 annotated images; 6 skipped" in said and "boredom" in said and "more than 14 pairs" in said


def test_emosets_own_form(tmp_path):
    put(
        tmp_path,
        "a",
        {
            "emotion": "Amusement",
            "object": ["Dog", "Ball"],
            "scene": "beach",
            "facial_expression": "smile",
            "brightness": 0.2,
            "colorfulness": 0.9,
            "image_id": "a.jpg",
        },
        kind="annotation",
    )
    (row,) = read_annotations(tmp_path).rows
    assert row.pairs == (("dog", ""), ("ball", ""), ("beach", ""), ("person", "smile")) and row.adjective == "dark"


def test_names_may_hold_dots(tmp_path):
    put(tmp_path, "a.b", note())
    put(tmp_path, "a.c", note("awe"))
    assert [row.image.name for row in read_annotations(tmp_path).rows] == ["a.c.png", "a.b.png"]


def test_images_of_one_name_in_two_folders_are_told_apart(tmp_path):
    for emotion in ("amusement", "fear"):
        for folder in ("image", "annotation"):
            (tmp_path / folder / emotion).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "image" / emotion / "1.png")
    by_id, by_folder = (
        note("fear") | {"image_id": "fear/1.png"},
        {k: v for k, v in note("amusement").items() if k != "image_id"},
    )
    (tmp_path / "annotation" / "x.json").write_text(json.dumps(by_id))
    (tmp_path / "annotation" / "amusement" / "1.json").write_text(json.dumps(by_folder))
    (tmp_path / "annotation" / "y.json").write_text(json.dumps(note("awe") | {"image_id": "1"}))
    reading = read_annotations(tmp_path)
    assert [(MIKELS[r.emotion], r.image.parent.name) for r in reading.rows] == [
        ("amusement", "amusement"),
        ("fear", "fear"),
    ]
    assert reading.skipped == {
        "annotation/y.json": "several images of that name: image/amusement/1.png, image/fear/1.png"
    }


def test_nothing_usable_stops_with_the_reasons(tmp_path):
    with pytest.raises(UserError, match="no folder"):
        read_annotations(tmp_path / "nowhere")
    put(tmp_path, "a", note("boredom"))
    with pytest.raises(UserError, match="unknown emotion 'boredom'"):
        read_annotations(tmp_path)


def test_words_are_encoded_once_and_graphs_are_lookups(tmp_path):
    put(tmp_path, "a", note("fear", [("tree", "bare"), ("sky", "")]))
    put(tmp_path, "b", note("awe", [("lake", "")], ""))
    rows, words = read_annotations(tmp_path).rows, Words()
    graphs = GraphRows(rows, words, tmp_path, "cpu")
    batch = graphs.batch(torch.tensor([0, 1]))  # awe's row comes first
    assert batch.objects.shape == (2, 2, 8) and batch.present.tolist() == [[True, False], [True, True]]
    assert torch.allclose(batch.objects[1, 0], words.text_features(["tree"])[0], atol=1e-6)
    assert torch.allclose(batch.emotion[1], words.text_features(["fear"])[0], atol=1e-6)
    assert not batch.attributes[1, 1].any() and not batch.adjective[0].any() and batch.adjective[1].any()
    before = len(words.encoded)
    again = GraphRows(rows, words, tmp_path, "cpu")
    assert len(words.encoded) == before and torch.equal(again.features, graphs.features)
    assert not torch.equal(text_features(["", "tree"], words, tmp_path)[1], torch.zeros(8))


def test_words_that_the_text_encoder_never_learned_are_counted(tmp_path):
    put(tmp_path, "a", note("fear", [("tree", "bare"), ("zeppelin", "")]))
    reading = read_annotations(tmp_path)
    reading.outside = GraphRows(reading.rows, load_scorer("tiny"), tmp_path, "cpu").outside
    assert reading.outside == ["zeppelin"]
    assert "1 x a word outside the text encoder's vocabulary" in reading.summary() and "zeppelin" in reading.summary()


def test_pictures_are_read_once_and_broken_ones_named(tmp_path):
    for name in ("a", "b", "c"):
        put(tmp_path, name, note())
    (tmp_path / "images" / "b.png").write_bytes(b"no picture")
    rows = [row.image for row in read_annotations(tmp_path).rows]
    pictures, broken = make_pictures(rows, 16, tmp_path / "cache")
    assert pictures.shape == (3, 16, 16, 3) and list(broken) == [1] and "unreadable" in broken[1]
    expected = np.asarray(Image.open(tmp_path / "images" / "c.png"))[0, 0]
    assert (pictures[2] == expected).all() and not pictures[1].any()
    again, broken = make_pictures(rows, 16, tmp_path / "cache")
    assert np.array_equal(again, pictures) and list(broken) == [1]
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 1


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A folder of annotated images, and random networks in place of the bundled ones."""
    rng = np.random.default_rng(0)
    for i in range(24):
        emotion = MIKELS[i % 8]
        put(tmp_path / "data", f"im{i:02d}", note(emotion, [("tree", f"word{i % 3}")] * (1 + i % 3), f"adj{i % 2}"))
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(
            tmp_path / "data" / "images" / f"im{i:02d}.png"
        )
    torch.manual_seed(0)
    vgg = Backbone("tiny-vgg", build_tiny_vgg()).eval().requires_grad_(False)

    class Scorer(torch.nn.Module):
        name, feature_width = "small", 8

        def __init__(self):
            super().__init__()
            self.clip, self.image = torch.nn.Linear(2, 2), torch.nn.Conv2d(3, 8, 8, 8)
            self.requires_grad_(False)

        def text_features(self, texts):
            return Words().text_features(texts)

        def image_features(self, x, normalize=True):
            return self.image(x).mean(dim=(2, 3))

    scorer = Scorer()
    classifier = torch.nn.Sequential(
        torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(48, 8)
    ).requires_grad_(False)
    for module in (stage_one, spaces):
        monkeypatch.setattr(module, "load_backbone", lambda name: vgg)
        monkeypatch.setattr(module, "load_scorer", lambda name: scorer)
    monkeypatch.setattr(stage_two, "load_classifier", lambda *_: classifier)
    return tmp_path, vgg, scorer


def test_both_stages_run_and_save(world):
    folder, vgg, scorer = world
    from comfyui_affect.workflows.headless.cli import main

    out = folder / "mine.safetensors"
    common = [
        "--runs",
        str(folder / "runs"),
        "--out",
        str(out),
        "--device",
        "cpu",
        f"data.folder={folder / 'data'}",
        "data.size=64",
        "model.entries=8",
        "model.layers=1",
    ]
    assert main(["train", "emolat", *common, "emolat.steps=3", "emolat.batch=4", "emolat.log_every=1"]) == 0
    space = spaces.load(out)
    assert space.network is None and space.codebooks.entries.shape == (8, 8, 256)
    with pytest.raises(UserError, match="only codebooks"):
        from comfyui_affect.models.emolat.repaint import repaint

        repaint(space, torch.rand(1, 3, 64, 64), space.sample(EmotionTarget.of("awe"), 1, 1.0, 0))
    assert main(["train", "transfer", *common, "transfer.steps=2", "transfer.batch=2", "transfer.log_every=1"]) == 0
    emolat = spaces.load(out)
    assert emolat.network is not None and torch.equal(emolat.codebooks.entries, space.codebooks.entries)
    logged = [json.loads(line) for line in (folder / "runs" / "transfer" / "log.jsonl").read_text().splitlines()]
    assert {"content", "style", "identity", "gan", "emotion", "clip", "adversary"} <= set(logged[0])
    assert all(np.isfinite(v) for row in logged for v in row.values())


def loaded(folder, vgg, scorer, seed=0):
    torch.manual_seed(seed)
    emolat = EmoLat(EmoLatConfig(entries=8, layers=1), vgg, scorer).eval()
    for p in emolat.network.parameters():
        p.data += 0.03 * torch.randn(p.shape)
    return emolat.requires_grad_(False)


def test_codes_follow_the_seed_and_the_emotion(world):
    emolat = loaded(*world)
    draw = lambda emotion, seed=5, n=40: emolat.sample(emotion, n, 1.0, seed).codes
    fear = EmotionTarget.of("fear")
    assert torch.equal(draw(fear), draw(fear)) and not torch.equal(draw(fear), draw(fear, 6))
    books = lambda codes: {int((emolat.codebooks.entries == c).all(-1).any(-1).nonzero()[0]) for c in codes}
    assert books(draw(fear)) == {MIKELS.index("fear")}
    assert books(draw(fear.mix(EmotionTarget.of("awe")))) == {MIKELS.index("fear"), MIKELS.index("awe")}


def test_repainting_strength_mask_and_size(world):
    from comfyui_affect.models.emolat.repaint import repaint

    emolat = loaded(*world)
    image, code = torch.rand(2, 3, 50, 70), emolat.sample(EmotionTarget.of("fear"), 2, 1.0, 0)
    whole = repaint(emolat, image, code)
    assert whole.shape == image.shape and (whole - image).abs().max() > 1e-3
    assert torch.equal(repaint(emolat, image, code, strength=0.0), image)
    assert torch.equal(whole[1:], repaint(emolat, image[1:], code))
    half = repaint(emolat, image, EmoLatCode(code.codes, EmotionTarget.of("fear", 0.5)))
    inside = (whole > 0) & (whole < 1)
    assert torch.allclose((half - image)[inside], 0.5 * (whole - image)[inside], atol=1e-5)
    mask = torch.zeros(1, 1, 50, 70)
    mask[..., :35] = 1
    masked = repaint(emolat, image, code, mask=mask)
    assert torch.equal(masked[..., 35:], image[..., 35:]) and torch.allclose(
        masked[..., :35], whole[..., :35], atol=1e-6
    )
    with pytest.raises(UserError, match="too small"):
        repaint(emolat, torch.rand(1, 3, 8, 8), code)
    with pytest.raises(UserError, match="another EmoLat"):
        repaint(emolat, image, EmoLatCode(torch.zeros(1, 7), EmotionTarget.of("fear")))


def test_a_foreign_file_is_refused(world, tmp_path):
    from comfyui_affect.models.files import load_safetensors, save_safetensors

    emolat = loaded(*world)
    path = spaces.save(tmp_path / "a.safetensors", emolat)
    state, metadata = load_safetensors(path)
    assert spaces.load(path).config == emolat.config
    save_safetensors(tmp_path / "b.safetensors", state, metadata | {"emotions": json.dumps(sorted(MIKELS))})
    with pytest.raises(UserError, match="order amusement, anger.*Expected: amusement, awe"):
        spaces.load(tmp_path / "b.safetensors")
    save_safetensors(tmp_path / "c.safetensors", state | {"codebooks.entries": torch.zeros(8, 8, 64)}, metadata)
    with pytest.raises(UserError, match="64 wide codes.*Expected with tiny-vgg: \\(8, 8, 256\\)"):
        spaces.load(tmp_path / "c.safetensors")
    save_safetensors(tmp_path / "d.safetensors", {"x": torch.zeros(1)}, {})
    with pytest.raises(UserError, match="does not hold an EmoLat"):
        spaces.load(tmp_path / "d.safetensors")
    for missing in ("emotions", "config"):
        save_safetensors(tmp_path / "e.safetensors", state, {k: v for k, v in metadata.items() if k != missing})
        with pytest.raises(UserError, match="'e.safetensors' does not say"):
            spaces.load(tmp_path / "e.safetensors")


@pytest.mark.parametrize("method", ["PCA", "t-SNE"])
def test_the_map_shows_every_book(world, method):
    from comfyui_affect.models.emolat.repaint import codebook_map, flat

    emolat = loaded(*world)
    picture = codebook_map(emolat, method)
    assert picture.ndim == 3 and picture.shape[2] == 3 and picture.std() > 0.01
    line = torch.tensor([[0.0, 0], [1, 1], [2, 2]])
    points = flat(line, "PCA")
    assert np.allclose(np.abs(points[:, 0]), [np.sqrt(2), 0, np.sqrt(2)], atol=1e-6) and np.allclose(
        points[:, 1], 0, atol=1e-6
    )


@pytest.mark.parametrize("kept", ["content", "style", "smooth"])
def test_a_loss_left_out_is_not_computed(world, kept):
    _, vgg, scorer = world
    none = dict(content=0, style=0, identity=0, gan=0, emotion=0, clip=0, smooth=0)
    config = stage_two.TransferConfig(**none | {kept: 1})
    emolat = EmoLat(EmoLatConfig(entries=8, layers=1), vgg, scorer)
    module = stage_two.Transfer(emolat.network, config, scorer, None)
    x = torch.rand(2, 3, 64, 64)
    got = module(x, x, torch.randn(2, 8), torch.randn(2, 8), torch.randn(2, 1, 256), torch.tensor([0, 1]))
    assert set(got) == {"loss", "adversary", kept}


@pytest.mark.parametrize("only", ["content", "style", "identity", "emotion", "clip", "smooth", "gan"])
def test_every_loss_reaches_the_networks_weights_through_the_training_module(world, only):
    """In the published code those of CLIP and of the classifier do not, and the discriminator learns from real
    images alone."""
    _, vgg, scorer = world
    none = dict(content=0, style=0, identity=0, gan=0, emotion=0, clip=0, smooth=0)
    emolat = loaded(*world).requires_grad_(True)
    classifier = torch.nn.Sequential(
        torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(48, 8)
    ).requires_grad_(False)
    config = stage_two.TransferConfig(**none | {only: 1})
    module = stage_two.Transfer(emolat.network, config, scorer, classifier)
    torch.manual_seed(1)
    content, reference = torch.rand(2, 3, 64, 64, requires_grad=True), torch.rand(2, 3, 64, 64, requires_grad=True)
    features = lambda: torch.nn.functional.normalize(torch.randn(2, 8), dim=-1)
    got = module(content, reference, features(), features(), torch.randn(2, 1, 256), torch.tensor([0, 1]))
    weights = lambda part: sum(float(p.grad.abs().sum()) for p in part.parameters() if p.grad is not None)
    (got["loss"] - got["adversary"]).backward(retain_graph=True)
    assert all(weights(part) > 0 for part in (module.network.mapper, module.network.ups, module.network.last))
    assert (module.judge is not None) == (only == "gan")
    # Identity repaints the reference, and compares it with itself; the others repaint the content.
    repainted, other = (reference, content) if only == "identity" else (content, reference)
    moved = lambda t: t.grad is not None and bool(t.grad.any())
    assert moved(repainted) and not moved(other)
    if only == "gan":
        assert weights(module.judge) == 0  # what the network learns moves no adversary
        before = weights(module.network)
        got["adversary"].backward()
        assert (
            weights(module.judge) > 0 and weights(module.network) == before
        )  # and what the adversary learns moves no network


def test_the_adversary_learns_from_fakes_too():
    losses = stage_two.losses
    judge, real, text = losses.ImageJudge(8, 4), torch.rand(2, 3, 32, 32), torch.randn(2, 8)
    fake = torch.rand(2, 3, 32, 32, requires_grad=True)
    losses.adversary_loss(judge(real, text), judge(fake, text)).backward()
    assert fake.grad.abs().sum() > 0


def test_stage_one_goes_on_to_the_same_books(world, monkeypatch):
    """Revival, running averages, the last count and the encoder's statistics are kept with the weights."""
    folder, vgg, scorer = world
    data = stage_one.read_data(
        stage_one.DataConfig(str(folder / "data"), size=64), EmoLatConfig(entries=8), folder / "runs", "cpu", whole=True
    )
    vectors, model = stage_one.real_vectors(vgg, data, folder / "runs"), EmoLatConfig(entries=8)
    monkeypatch.setattr(stage_one, "COUNT_EVERY", 2)
    own = stage_one.SpaceConfig(hidden=16, slots=4)

    def train(name):
        loop = LoopConfig(steps=7, batch=4, warmup=0, save_every=1)
        torch.manual_seed(0)
        return stage_one.train_space(data, vectors, model, own, loop, folder / "runs", name)

    whole = train("whole").state_dict()
    before, steps = stage_one.Space.forward, []

    def stops(self, *args):
        steps.append(1)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return before(self, *args)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(stage_one.Space, "forward", stops)
        train("parts")
    again = train("parts").state_dict()
    assert all(torch.equal(whole[key], again[key]) for key in whole) and len(steps) == 4
    assert whole["counted"].min() > 0


def test_pictures_that_changed_are_not_taken_for_those_trained_on(world):
    folder, vgg, scorer = world
    from comfyui_affect.workflows.headless.cli import main

    common = [
        "--runs",
        str(folder / "runs"),
        "--out",
        str(folder / "mine.safetensors"),
        "--device",
        "cpu",
        f"data.folder={folder / 'data'}",
        "model.entries=8",
        "model.layers=1",
        "emolat.steps=1",
        "emolat.batch=4",
        "transfer.steps=1",
        "transfer.batch=2",
    ]
    assert (
        main(["train", "emolat", *common, "data.size=64"]) == main(["train", "transfer", *common, "data.size=64"]) == 0
    )
    assert main(["train", "transfer", *common, "data.size=48"]) == 2
    Image.new("RGB", (64, 64), "red").save(folder / "data" / "images" / "im03.png")
    assert main(["train", "transfer", *common, "data.size=64"]) == 2


def test_what_is_missing_is_said_before_the_data_are_read(world, capsys):
    folder, *_ = world
    from comfyui_affect.workflows.headless.cli import main

    common = [
        "--runs",
        str(folder / "runs"),
        "--out",
        str(folder / "none.safetensors"),
        "--device",
        "cpu",
        f"data.folder={folder / 'data'}",
    ]
    assert main(["train", "transfer", *common]) == 2
    assert "affect train emolat --out" in capsys.readouterr().err and not list((folder / "runs").glob("pictures*"))
    (folder / "bare.toml").write_text("[data]\nn = 8\n")
    assert main(["train", "emolat", *common, "--config", str(folder / "bare.toml")]) == 2
    assert "has no section [model]; it has [data]" in capsys.readouterr().err


def test_an_emotion_that_was_never_seen_is_named(world):
    folder, vgg, scorer = world
    emolat = loaded(*world)
    emolat.codebooks.use[MIKELS.index("awe")] = 0.0
    with pytest.raises(UserError, match="not trained on awe"):
        emolat.sample(EmotionTarget.of("awe").mix(EmotionTarget.of("fear")), 1, 1.0, 0)
    assert emolat.sample(EmotionTarget.of("fear"), 1, 1.0, 0).codes.shape == (1, 256)
    assert float(emolat.codebooks.perplexity()[MIKELS.index("awe")]) == 0
    assert stage_one.least(emolat.codebooks.perplexity()) == pytest.approx(8)
    (folder / "few").mkdir()
    rows = torch.tensor([0, 2])
    books = stage_one.start_books(torch.randn(2, 3, 256), rows, EmoLatConfig(entries=8), 0)
    assert books.use.sum(dim=1).tolist() == pytest.approx([1, 0, 1, 0, 0, 0, 0, 0])


def test_a_mixed_emotion_has_the_mean_of_its_words(world):
    emolat = loaded(*world)
    fear, awe = EmotionTarget.of("fear"), EmotionTarget.of("awe")
    assert torch.allclose(emolat.words(fear), emolat.text(["fear"]), atol=1e-6)
    mean = emolat.text(["fear"]) + emolat.text(["awe"])
    assert torch.allclose(emolat.words(fear.mix(awe)), torch.nn.functional.normalize(mean, dim=-1), atol=1e-6)


def test_the_first_share_of_the_steps_sees_half_the_size_and_the_classifier_views(world, monkeypatch):
    folder, vgg, scorer = world
    from comfyui_affect.workflows.headless.cli import main

    sizes, seen = [], []
    before = stage_two.Transfer.forward
    monkeypatch.setattr(
        stage_two.Transfer, "forward", lambda self, x, *a: sizes.append(x.shape[-1]) or before(self, x, *a)
    )
    shown = stage_two.view
    monkeypatch.setattr(stage_two, "view", lambda x, **k: seen.append(k["each"]) or shown(x, **k))
    common = [
        "--runs",
        str(folder / "runs"),
        "--out",
        str(folder / "mine.safetensors"),
        "--device",
        "cpu",
        f"data.folder={folder / 'data'}",
        "data.size=64",
        "model.entries=8",
        "model.layers=1",
    ]
    assert main(["train", "emolat", *common, "emolat.steps=1", "emolat.batch=4"]) == 0
    assert (
        main(
            [
                "train",
                "transfer",
                *common,
                "transfer.steps=3",
                "transfer.batch=2",
                "transfer.coarse=0.5",
                "transfer.views=2",
            ]
        )
        == 0
    )
    assert sizes == [32, 32, 64] and seen == [True] * 6


@pytest.mark.parametrize(
    "stage, wrong, said",
    [
        ("emolat", "emolat.batch=1", "two annotated images at least and .emolat. batch = 2, got 24 and 1"),
        ("transfer", "transfer.most_codes=0", "most_codes is at least 1, got 0"),
    ],
)
def test_settings_that_cannot_train_are_refused(world, capsys, stage, wrong, said):
    import re

    from comfyui_affect.workflows.headless.cli import main

    folder, *_ = world
    common = [
        "--runs",
        str(folder / "runs"),
        "--out",
        str(folder / "mine.safetensors"),
        "--device",
        "cpu",
        f"data.folder={folder / 'data'}",
        "data.size=64",
        "data.share=1",
        "model.entries=8",
        "model.layers=1",
    ]
    assert main(["train", "emolat", *common, "emolat.steps=1", "emolat.batch=4"]) == 0
    assert main(["train", stage, *common, wrong]) == 2
    assert re.search(said, capsys.readouterr().err)


def test_the_map_without_scikit_learn_is_by_pca_and_says_so(world, monkeypatch, capsys):
    from comfyui_affect.models.emolat import repaint

    emolat = loaded(*world)
    monkeypatch.setattr(repaint, "find_spec", lambda name: None)
    assert np.array_equal(
        repaint.codebook_map(emolat, "t-SNE"), repaint.codebook_map(emolat, "PCA")
    ) and "scikit-learn" in "".join(capsys.readouterr())


def test_stage_two_keeps_the_token_map_and_refuses_other_books(world):
    folder, vgg, scorer = world
    space = EmoLat(EmoLatConfig(entries=8, layers=1), vgg, scorer, network=False, token_width=6)
    kept = stage_two.with_network(space, EmoLatConfig(entries=8, layers=2))
    assert kept.token_map is space.token_map and kept.codebooks is space.codebooks
    path = spaces.save(folder / "kept.safetensors", kept, half=False)
    assert torch.equal(spaces.load(path).token_map.weight, space.token_map.weight)
    with pytest.raises(
        UserError, match="entries = 8; the config's .model. says clip = tiny, vgg = tiny-vgg, entries = 16"
    ):
        stage_two.with_network(space, EmoLatConfig(entries=16))


def test_the_map_from_codes_to_tokens_is_trained(tmp_path):
    """A few steps on the bundled models: the map moves, takes codes to the diffusion model's width, and is kept with
    the space."""
    emolat = spaces.load_emolat("tiny")
    loop = LoopConfig(steps=2, batch=2, lr=1e-2, warmup=0, save_every=2)
    line = train_tokens(emolat, TokensConfig(n=4, n_tokens=2), loop, tmp_path, "cpu")
    emolat.token_map = line
    spaces.save(tmp_path / "e.safetensors", emolat)
    again = spaces.load(tmp_path / "e.safetensors", "cpu")
    code = emolat.sample(EmotionTarget.of("fear"), 3, 1.0, 0)
    assert code.as_tokens().tokens.shape == (1, 3, 128)
    assert torch.allclose(
        again.sample(EmotionTarget.of("fear"), 3, 1.0, 0).as_tokens().tokens, code.as_tokens().tokens, atol=1e-2
    )


def test_enormous_graphs_and_left_rows_are_told(tmp_path, monkeypatch):
    put(tmp_path / "data", "a", note("awe", [(f"thing{i}", "odd") for i in range(300)]))
    for i in range(8):
        put(tmp_path / "data", f"b{i}", note("fear", [("hill", "")] if i else ()))
    put(tmp_path / "data", "c", note())
    (tmp_path / "data" / "images" / "c.png").write_bytes(b"no picture")
    put(tmp_path / "data", "d", note())
    (tmp_path / "data" / "images" / "d.png").write_bytes(b"none either")
    monkeypatch.setattr(stage_one, "load_scorer", lambda name: Words())
    read = lambda whole: stage_one.read_data(
        stage_one.DataConfig(str(tmp_path / "data"), size=16, share=0.5), EmoLatConfig(), tmp_path, "cpu", whole
    )
    said = read(False).summary
    assert "4 annotated images; 3 skipped, 4 left for testing" in said and "2 x unreadable (the first:" in said
    assert "1 x more than 256 pairs" in said and "3 x no attribute" in said and "1 x no objects" in said
    assert len(read(True).rows) == 8  # the space is learned from all
