import pytest
import torch

from comfyui_affect.models.diffusion.text import CHUNK, END, START, TextEncoder, bpe, parse_weights, tokenize


@pytest.mark.parametrize("text,expected", [
    ("a house", [("a house", 1.0)]),
    ("a (red) house", [("a ", 1.0), ("red", 1.1), (" house", 1.0)]),
    ("a ((red)) house", [("a ", 1.0), ("red", 1.1 * 1.1), (" house", 1.0)]),
    ("(red:1.3)", [("red", 1.3)]),
    ("(a (b:0.5) c:2)", [("a ", 2.0), ("b", 0.5), (" c", 2.0)]),
    (r"a \(red\) house", [("a (red) house", 1.0)]),
    ("open (paren", [("open ", 1.0), ("(paren", 1.0)]),
])
def test_weights(text, expected):
    parts = parse_weights(text)
    assert [t for t, _ in parts] == [t for t, _ in expected]
    assert [w for _, w in parts] == pytest.approx([w for _, w in expected])


def test_a_prompt_is_one_chunk_of_77():
    chunk, = tokenize("a house by a lake")
    ids = [i for i, _ in chunk]
    assert len(ids) == CHUNK and ids[0] == START and ids[6] == END and set(ids[6:]) == {END}
    assert ids[1:6] == bpe().encode("a house by a lake")


def test_long_prompts_take_several_chunks_and_split_no_word():
    chunks = tokenize("house " * 100)
    house = bpe().encode("house")[0]
    assert len(chunks) == 2 and sum(i == house for c in chunks for i, _ in c) == 100


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

    (embeds, options), = TextEncoder([tower("l", 3), tower("g", 5)], pads=(END, 0)).encode("a house")
    assert embeds.shape == (1, 77, 8) and options["pooled_output"].shape == (1, 5)
    assert seen["l"][0, -1] == END and seen["g"][0, -1] == 0
