import json

import pytest
import torch
from comfyui_affect.models import tiny
from comfyui_affect.models.emotions import MIKELS
from comfyui_affect.models.errors import UserError
from comfyui_affect.models.networks.classifiers import TINY, ZeroShotEmotion
from comfyui_affect.models.networks.clip import FITTING, UNRELATED, ClipScorer
from comfyui_affect.models.networks.heads import ClipEmotionHead, read_head


@pytest.fixture(scope="module")
def scorer():
    import open_clip

    torch.manual_seed(0)
    return ClipScorer(tiny.build_clip(), open_clip.get_tokenizer("ViT-B-32"), "random")


@pytest.mark.parametrize("name", TINY)
def test_tiny_classifiers_are_differentiable_at_any_size(name):
    image = torch.rand(2, 3, 96, 160, requires_grad=True)
    logits = TINY[name]()(image)
    assert logits.shape == (2, 8)
    logits.sum().backward()
    assert image.grad.abs().sum() > 0


def test_zero_shot_prefers_the_emotion_whose_words_fit(scorer):
    """An image whose features are those of an emotion's own words is that emotion, by the model's own temperature."""
    model = ZeroShotEmotion(scorer)
    i = MIKELS.index("fear")
    words = scorer.text_features([t.format("fear") for t in ZeroShotEmotion.TEMPLATES]).mean(dim=0, keepdim=True)
    scorer.image_features = lambda image: words / words.norm()
    try:
        logits = model(torch.rand(1, 3, 64, 64))[0]
    finally:
        del scorer.image_features
    assert logits.argmax() == i and torch.isclose(logits[i], scorer.logit_scale, rtol=1e-4)


def test_zero_shot_tells_the_twenty_seven_apart(scorer):
    from comfyui_affect.models.emotions import GOEMOTIONS
    from comfyui_affect.nodes.models import AffectEmotionReadout

    model = ZeroShotEmotion(scorer)
    words = scorer.text_features([t.format("grief") for t in ZeroShotEmotion.TEMPLATES]).mean(dim=0, keepdim=True)
    scorer.image_features = lambda image: (words / words.norm()).expand(len(image), -1)
    try:
        assert model.fine(torch.rand(2, 3, 64, 64)).argmax(dim=1).tolist() == [GOEMOTIONS.index("grief")] * 2
        (row,) = json.loads(AffectEmotionReadout().run(torch.rand(1, 64, 64, 3), model)[1])
    finally:
        del scorer.image_features
    assert (
        next(iter(row["goemotions"])) == "grief"
        and len(row["goemotions"]) == 27
        and abs(sum(row["goemotions"].values()) - 1) < 0.01
    )


def test_zero_shot_is_differentiable_in_the_image(scorer):
    image = torch.rand(2, 3, 64, 64, requires_grad=True)
    logits = ZeroShotEmotion(scorer)(image)
    assert logits.shape == (2, 8)
    logits[0, 0].backward()
    assert image.grad[0].abs().sum() > 0 and image.grad[1].abs().sum() == 0


def _head(width, hidden=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    r = lambda *shape: torch.randn(shape, generator=generator)
    state = {"fc.weight": r(8, hidden or width), "fc.bias": r(8)}
    return state | ({"hidden.weight": r(hidden, width), "hidden.bias": r(hidden)} if hidden else {})


@pytest.mark.parametrize("hidden", [None, 256])
def test_published_heads_read_unnormalised_features(scorer, hidden):
    state = _head(scorer.feature_width, hidden)
    image = torch.rand(2, 3, 128, 128)
    x = scorer.image_features(image, normalize=False)
    if hidden:
        x = torch.relu(x @ state["hidden.weight"].T + state["hidden.bias"])
    expected = x @ state["fc.weight"].T + state["fc.bias"]
    assert torch.allclose(ClipEmotionHead(scorer, state)(image), expected, atol=1e-4)
    alphabet = tuple(sorted(MIKELS))
    turned = ClipEmotionHead(scorer, state, alphabet)(image)
    assert torch.allclose(turned[:, 0], expected[:, alphabet.index("amusement")], atol=1e-4)


def test_a_head_of_another_width_is_refused(scorer):
    with pytest.raises(UserError, match="ViT-L-14"):
        ClipEmotionHead(scorer, _head(768))


@pytest.mark.parametrize(
    "shapes",
    [
        {"fc.weight": (7, 16), "fc.bias": (7,)},
        {"fc.weight": (8,), "fc.bias": (8,)},
        {"hidden.weight": (32, 16), "hidden.bias": (32,), "fc.weight": (8, 31), "fc.bias": (8,)},
    ],
)
def test_a_head_that_is_not_of_eight_emotions_is_refused(scorer, shapes):
    with pytest.raises(UserError, match="not a head for Mikels' eight"):
        ClipEmotionHead(scorer, {k: torch.zeros(v) for k, v in shapes.items()})


def test_heads_are_read_without_running_pickles(tmp_path):
    state = _head(16)
    torch.save({f"module.{k}": v for k, v in state.items()}, tmp_path / "head.pth")
    assert set(read_head(tmp_path / "head.pth")) == set(state)

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"fc.weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match="more than weights"):
        read_head(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()
    torch.save({"x": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="not an emotion head"):
        read_head(tmp_path / "other.pth")


def test_scores_live_on_published_clips_scale(scorer):
    image, text = torch.rand(2, 3, 128, 128), scorer.text_features(["a house", "a lake"])
    cosine = (scorer.image_features(image) * text).sum(dim=-1)
    assert torch.allclose(scorer.score(image, text), 100 * cosine, atol=1e-4)
    mapped = ClipScorer(scorer.clip, scorer.tokenizer, "mapped", lo=float(cosine.min()), hi=float(cosine.max()))
    assert sorted(mapped.score(image, text).tolist()) == pytest.approx([UNRELATED, FITTING], abs=1e-3)


def test_a_clip_file_names_its_own_architecture():
    import open_clip
    from comfyui_affect.models.networks.scorers import architecture_of

    states = {
        name: open_clip.create_model(name, pretrained=None, device="meta").state_dict()
        for name in ("ViT-B-32", "ViT-L-14")
    }
    assert architecture_of(states["ViT-L-14"], "l.safetensors") == "ViT-L-14"
    assert architecture_of(states["ViT-B-32"], "clip_openai.safetensors") == "ViT-B-32-quickgelu"
    with pytest.raises(UserError, match="not an open_clip model"):
        architecture_of({"text_model.x": torch.zeros(1)}, "hf.safetensors")
    with pytest.raises(UserError, match="not have the shapes of a CLIP that this open_clip knows"):
        architecture_of(tiny.build_clip().state_dict(), "tiny.safetensors")


def test_a_clip_file_is_a_choice_and_loads(tmp_path, monkeypatch):
    import open_clip
    from comfyui_affect.models import files, host
    from comfyui_affect.models.networks import scorers
    from comfyui_affect.nodes import NODE_CLASS_MAPPINGS

    small = open_clip.get_model_config("ViT-S-32")
    monkeypatch.setattr(open_clip, "list_models", lambda: ["ViT-S-32"])
    torch.manual_seed(3)
    model = open_clip.create_model("ViT-S-32", pretrained=None)
    files.save_safetensors(tmp_path / "models/open_clip/mine.safetensors", model.state_dict(), {})
    with host.use(host.Host(tmp_path)):
        assert "mine.safetensors" in NODE_CLASS_MAPPINGS["AffectClipScorerLoader"].INPUT_TYPES()["required"]["model"][0]
        scorer = scorers.load_scorer("mine.safetensors")
    assert scorer.feature_width == small["embed_dim"] and scorer.size == small["vision_cfg"]["image_size"]
    assert torch.equal(scorer.clip.state_dict()["visual.proj"], model.state_dict()["visual.proj"])


def test_a_packed_vocabulary_shares_one_unknown_row():
    state = tiny.build_clip().state_dict()
    used = torch.tensor([7, 320, 49406, 49407])
    back = tiny.unpack_vocabulary(tiny.pack_vocabulary(state, used))
    rows = back["token_embedding.weight"]
    assert torch.equal(rows[used], state["token_embedding.weight"][used])
    assert torch.equal(rows[5000], state["token_embedding.weight"][tiny.UNKNOWN_TOKEN])
    assert set(back) == set(state)


def test_the_text_tower_pools_as_open_clip_does():
    from comfyui_affect.models.diffusion.text import tokenize
    from comfyui_affect.models.diffusion.towers import OpenClipTower

    clip = tiny.build_clip().eval()
    ids = torch.tensor([[i for i, _ in tokenize("a house by a lake")[0]]])
    with torch.no_grad():
        _, pooled = OpenClipTower(clip)(ids)
        assert torch.allclose(pooled, clip.encode_text(ids), atol=1e-5)
        _, short = OpenClipTower(clip)(ids[:, :20])
    assert torch.allclose(pooled, short, atol=1e-5)


NONE, DAMAGED = "is not an emotion head", "holds more than weights, or is damaged"


@pytest.mark.parametrize(
    "content, words",
    [
        (5, NONE),
        ([1], NONE),
        ({"fc.weight": 5}, NONE),
        ({5: torch.zeros(2)}, NONE),
        ({"state_dict": [1]}, NONE),
        ({"fc.weight": torch.zeros(3)}, "is not a head for Mikels'"),
        ({"fc.weight": torch.zeros(())}, "is not a head for Mikels'"),
        (b"", DAMAGED),
        (b"PK\3\4broken", DAMAGED),
        (bytes(100), DAMAGED),
    ],
    ids=range(10),
)
def test_published_heads_that_are_none_are_refused_in_words(tmp_path, scorer, content, words):
    path = tmp_path / "x.pth"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(UserError, match=words):
        ClipEmotionHead(scorer, read_head(path))
