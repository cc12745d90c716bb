import ldm
import pytest
import torch
from comfyui_affect.models import host
from comfyui_affect.models.diffusion import checkpoints, embeddings
from comfyui_affect.models.diffusion.text import TextEncoder, check, parse_weights, tokenize
from comfyui_affect.models.diffusion.towers import OpenClipTower
from comfyui_affect.models.errors import UserError
from comfyui_affect.models.networks.moodifyclip import fitting
from comfyui_affect.models.networks.tokenizer import CHUNK, END, START, bpe
from safetensors.torch import save_file


@pytest.mark.parametrize(
    "text,expected",
    [
        ("a house", [("a house", 1.0)]),
        ("a (red) house", [("a ", 1.0), ("red", 1.1), (" house", 1.0)]),
        ("a ((red)) house", [("a ", 1.0), ("red", 1.1 * 1.1), (" house", 1.0)]),
        ("(red:1.3)", [("red", 1.3)]),
        ("(a (b:0.5) c:2)", [("a ", 2.0), ("b", 0.5), (" c", 2.0)]),
        (r"a \(red\) house", [("a (red) house", 1.0)]),
        ("open (paren", [("open ", 1.0), ("(paren", 1.0)]),
        ("(red:1.)", [("red", 1.0)]),
        ("(red:1e-1)", [("red", 0.1)]),
        ("(red: .5)", [("red", 0.5)]),
        ("(red:nan) (blue:inf)", [("red:nan", 1.1), (" ", 1.0), ("blue:inf", 1.1)]),
        ("a) (b)", [("a) (b)", 1.0)]),
        ("(a (b)", [("a ", 1.1), ("(b", 1.1)]),
    ],
)
def test_weights(text, expected):
    parts = parse_weights(text)
    assert [t for t, _ in parts] == [t for t, _ in expected]
    assert [w for _, w in parts] == pytest.approx([w for _, w in expected])


def test_a_prompt_is_one_chunk_of_77():
    (chunk,) = tokenize("a house by a lake")
    ids = [i for i, _ in chunk]
    assert len(ids) == CHUNK and ids[0] == START and ids[6] == END and set(ids[6:]) == {END}
    assert ids[1:6] == bpe().encode("a house by a lake")


def test_parentheses_nested_too_deeply_are_refused_in_words():
    assert parse_weights("(" * 90 + "x" + ")" * 90) == [("x", pytest.approx(1.1**90))]
    with pytest.raises(UserError, match="nested"):
        parse_weights("(" * 5000 + "x" + ")" * 5000)


@pytest.mark.parametrize("text", ["x" * 400_000, "(" * 400_000, "(a:1" * 100_000, "embedding:x " * 50_000])
def test_prompts_of_megabytes_are_refused_before_they_are_read(text):
    with pytest.raises(UserError, match="at most 20,000 are read"):
        check(text)
    with pytest.raises(UserError, match="at most 20,000 are read"):
        fitting(text)
    assert len(tokenize("house " * 3000)) == 40
    assert fitting("house " * 3000) == "house " * 245 + "house"


def test_long_prompts_take_several_chunks():
    chunks = tokenize("house " * 100)
    house = bpe().encode("house")[0]
    assert len(chunks) == 2 and sum(i == house for c in chunks for i, _ in c) == 100
    # A short piece of another weight is moved whole, a long one is cut where the chunk ends: as in ComfyUI.
    first, second = tokenize("house " * 73 + "(a red lake:1.2)")
    assert [w for _, w in first].count(1.2) == 0 and [w for _, w in second].count(1.2) == 3
    first, second = tokenize("house " * 73 + "(a red lake by a large green house at night:1.2)")
    assert [w for _, w in first].count(1.2) == 2 and [w for _, w in second].count(1.2) == 8


@pytest.fixture
def folder(tmp_path):
    """models/embeddings of the host in use."""
    (tmp_path / "models" / "embeddings" / "style").mkdir(parents=True)
    with host.use(host.Host(tmp_path)):
        yield tmp_path / "models" / "embeddings"


@pytest.mark.parametrize(
    "build",
    [
        lambda: checkpoints.clip_l_tower(ldm.clip_l(), penultimate=False),
        lambda: OpenClipTower(checkpoints.text_transformer(ldm.open_clip_text()), penultimate=True),
    ],
)
def test_an_embedding_stands_for_its_vectors(folder, build):
    """What a tower gives is what it gives where the vectors stand in its own table; what follows the name is text
    again."""
    vectors, tower = torch.randn(3, 64), build()
    save_file({"emb_params": vectors}, folder / "style" / "calm.safetensors")
    encoder = TextEncoder([tower])
    ((hidden, options),) = encoder.encode("a embedding:style/calm, house")
    a, comma, house = (bpe().encode(w)[0] for w in ("a", ",", "house"))
    ids = options["token_ids"]
    assert (
        ids[:2] == [START, a] and ids[5:8] == [comma, house, END] and len(set(ids[2:5])) == 3 and min(ids[2:5]) > 49408
    )
    table = (
        tower.model.get_input_embeddings()
        if hasattr(tower.model, "get_input_embeddings")
        else tower.model.token_embedding
    )
    table.weight.data[[1000, 1001, 1002]] = vectors
    with torch.no_grad():
        expected, _ = tower(torch.tensor([[START, a, 1000, 1001, 1002, comma, house, *[END] * 70]]))
    assert torch.allclose(hidden, expected, atol=1e-6)
    ((weighted, same),) = encoder.encode("a (embedding:style/calm:1.2), house")
    assert same["token_ids"] == ids and not torch.allclose(weighted[0, 2:5], hidden[0, 2:5])
    assert torch.allclose(weighted[0, :2], hidden[0, :2], atol=1e-6)


def test_each_encoder_of_sdxl_takes_its_own_vectors(folder):
    save_file({"clip_l": torch.randn(2, 64), "clip_g": torch.randn(2, 32)}, folder / "xl.safetensors")
    towers = [
        checkpoints.clip_l_tower(ldm.clip_l(), penultimate=True),
        OpenClipTower(checkpoints.text_transformer(ldm.open_clip_text(width=32)), penultimate=True),
    ]
    encoder = TextEncoder(towers, pads=(END, 0))
    assert encoder.encode("embedding:xl house")[0][0].shape == (1, 77, 96)
    save_file({"emb_params": torch.randn(2, 64)}, folder / "small.safetensors")
    with pytest.raises(UserError, match=r"'small' is 64 wide.*\(clip_g\) 32.*another model family"):
        encoder.encode("embedding:small house")


def test_forms_of_embedding_files(folder):
    vectors = torch.randn(2, 8)
    torch.save({"string_to_param": {"*": vectors}, "name": "old"}, folder / "old.pt")
    torch.save({"<cat>": vectors[0]}, folder / "cat.bin")
    for name, expected in (("old", vectors), ("old.pt", vectors), ("cat", vectors[:1])):
        assert torch.equal(torch.stack([t.vector for t in embeddings.tokens(name, "clip_l")]), expected)


class Bomb:
    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.parametrize(
    "name, words",
    [
        ("cals", "Did you mean 'calm'"),
        ("../outside", "leaves its folder"),
        ("bomb", "holds more than weights"),
        ("broken", "holds more than weights, or is damaged"),
        ("nan", "not numbers"),
        ("cube", "is not an embedding"),
        ("empty", "is not an embedding"),
    ],
)
def test_embeddings_that_cannot_be_used_are_refused_before_anything_runs(folder, capsys, name, words):
    save_file({"emb_params": torch.randn(2, 8)}, folder / "calm.safetensors")
    torch.save({"x": Bomb()}, folder / "bomb.pt")
    (folder / "broken.bin").write_bytes(b"PK\3\4 no zip")
    save_file({"emb_params": torch.full((2, 8), float("nan"))}, folder / "nan.safetensors")
    save_file({"emb_params": torch.zeros(2, 2, 2)}, folder / "cube.safetensors")
    torch.save({"name": "nothing else"}, folder / "empty.pt")
    with pytest.raises(UserError, match=words):
        check(f"a embedding:{name} house")
    assert "executed" not in capsys.readouterr().out


def test_weighted_tokens_move_away_from_the_empty_prompt():
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(49408, 4, generator=generator)
    encoder = TextEncoder([lambda ids: (table[ids], None)])
    plain, heavy, empty = (encoder.encode(t)[0][0] for t in ("red house", "(red:2.0) house", ""))
    assert torch.allclose(heavy[0, 1], empty[0, 1] + 2 * (plain[0, 1] - empty[0, 1]))
    assert torch.equal(heavy[0, 2:], plain[0, 2:])


def test_two_towers_are_joined_and_the_second_pads_with_zero():
    seen = {}

    def tower(name, width):
        def encode(ids):
            seen[name] = ids
            return torch.full((len(ids), 77, width), float(width)), torch.zeros(len(ids), width)

        return encode

    ((embeds, options),) = TextEncoder([tower("l", 3), tower("g", 5)], pads=(END, 0)).encode("a house")
    assert embeds.shape == (1, 77, 8) and options["pooled_output"].shape == (1, 5)
    assert seen["l"][0, -1] == END and seen["g"][0, -1] == 0
