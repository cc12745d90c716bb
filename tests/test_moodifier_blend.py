"""Moodifier's attention control and inversion-free sampling, on small networks, against values worked by hand."""

import pytest
import torch
from comfyui_affect.models.diffusion.diffusers import UNetContext
from comfyui_affect.models.diffusion.sampling import schedule
from comfyui_affect.models.errors import UserError
from comfyui_affect.models.moodifier.attention import BlendControl, Recorder, align, embedding_scores, id_scores
from comfyui_affect.models.moodifier.blend import BlendConfig, attention_blend, token_alignment


def test_needleman_wunsch_keeps_order_and_leaves_new_words_open():
    assert align(id_scores([1, 5, 6, 9], [1, 5, 7, 6, 9])).tolist() == [0, 1, -1, 2, 3]
    assert align(id_scores([1, 2, 3], [3, 2, 1])).tolist().count(-1) == 2  # crossing matches cannot both be kept
    assert align(id_scores([1, 2], [3, 4])).tolist() == [-1, -1]
    assert align(id_scores([1, 2, 3, 4], [1, 4])).tolist() == [0, 3]


def test_words_are_found_again_by_their_embeddings():
    torch.manual_seed(0)
    words = torch.randn(6, 32)
    source, target = words[[0, 1, 2, 3]], words[[0, 4, 1, 2, 5, 3]] + 0.2 * torch.randn(6, 32)
    assert align(embedding_scores(source + 3, target + 3)).tolist() == [0, -1, 1, 2, -1, 3]


@pytest.mark.parametrize("known", ["conditioning", "texts", "nothing"])
def test_words_of_real_prompts_find_themselves(known, capsys):
    from comfyui_affect.models import tiny

    _, encoder, _ = tiny.load_pipeline()
    texts = (
        "a river scene with a tree on the left and a bird",
        "a river scene with a bare tree on the left and a bird, gray sky",
    )
    source, target = (encoder.encode(t) for t in texts)
    want = token_alignment(source, target)
    # start, a river scene with a, bare, tree on the left and a bird; the comma and the sky are new
    assert want[:15].tolist() == [0, 1, 2, 3, 4, 5, -1, 6, 7, 8, 9, 10, 11, 12, -1]
    if known != "conditioning":
        for c in (source, target):
            c[0][1].pop("token_ids")
    found = token_alignment(source, target, texts if known == "texts" else ("", ""))
    if known == "nothing":  # what stands before the new word is alike to the last digit
        assert found[:6].tolist() == [0, 1, 2, 3, 4, 5] and "Connect source_text" in "".join(capsys.readouterr())
    else:
        assert torch.equal(found, want)


def three(b=1, n=4, heads=2, width=8, tokens=(3, 4, 4), seed=0):
    g = torch.Generator().manual_seed(seed)
    q = torch.randn(3 * b, n, width, generator=g)
    k, v = (torch.randn(3 * b, max(tokens), width, generator=g) for _ in "kv")
    return q, k, v, heads, tokens


def by_hand(q, k, v, heads):
    split = lambda t: t.unflatten(-1, (heads, -1)).transpose(1, 2)
    weights = (split(q) @ split(k).transpose(-1, -2) / (q.shape[-1] // heads) ** 0.5).softmax(-1)
    return weights, split(v)


def test_refined_maps_by_hand():
    """Equation 7: inside the mask the target's map, outside the source's of the aligned token, unaligned tokens
    their own."""
    q, k, v, heads, tokens = three()
    mask = torch.tensor([1.0, 0, 0, 1]).view(1, 1, 2, 2)
    control = BlendControl(1, tokens, torch.tensor([0, -1, 1, 2]), mask)
    out = control(q, k, v, heads, (2, 2))
    ws, _ = by_hand(q[:1], k[:1, :3], v[:1, :3], heads)
    wt, vt = by_hand(q[1:2], k[1:2], v[1:2], heads)
    want = wt.clone()
    for cell in (1, 2):
        want[:, :, cell, 0], want[:, :, cell, 2], want[:, :, cell, 3] = (
            ws[:, :, cell, 0],
            ws[:, :, cell, 1],
            ws[:, :, cell, 2],
        )
    assert torch.allclose(out[1], (want @ vt)[0].transpose(0, 1).flatten(1), atol=1e-6)
    for row, length in ((0, 3), (2, 4)):  # the others attend as they would alone, to their own tokens
        w, value = by_hand(q[row : row + 1], k[row : row + 1, :length], v[row : row + 1, :length], heads)
        assert torch.allclose(out[row], (w @ value)[0].transpose(0, 1).flatten(1), atol=1e-6)


def test_after_the_last_blended_step_every_row_attends_alone():
    q, k, v, heads, tokens = three(b=2)
    control = BlendControl(2, tokens, torch.tensor([0, -1, 1, 2]), torch.zeros(1, 1, 2, 2))
    control.active = False
    w, value = by_hand(q[2:4], k[2:4], v[2:4], heads)
    assert torch.allclose(control(q, k, v, heads, (2, 2))[2:4], (w @ value).transpose(1, 2).flatten(2), atol=1e-6)


def test_a_control_that_sees_other_texts_says_so():
    q, k, v, heads, tokens = three()
    control = BlendControl(1, tokens, torch.tensor([0, -1, 1, 2]), torch.ones(1, 1, 2, 2))
    with pytest.raises(UserError, match="IPAdapter"):
        control(q, k[:, :2], v[:, :2], heads, (2, 2))


def contexts(seed=0):
    g = torch.Generator().manual_seed(seed)
    return [UNetContext(torch.randn(1, n, 16, generator=g)) for n in (5, 6, 5)]


def test_side_by_side_is_each_alone(small_unet):
    """Padding and control change nothing while maps are not blended."""
    source, target, negative = contexts()
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    sigma = torch.full((6,), 2.0)
    together = small_unet.side_by_side([source, target, negative], 2)
    control = BlendControl(2, (5, 6, 5), torch.full((6,), -1), torch.ones(1, 1, 8, 8))
    for active in (False, True):  # with a mask of ones the target keeps its own maps
        control.active = active
        with torch.no_grad(), small_unet.attention(control):
            parts = small_unet(x.repeat(3, 1, 1, 1), sigma, together).chunk(3)
        for part, context in zip(parts, (source, target, negative)):
            with torch.no_grad():
                assert torch.allclose(part, small_unet(x, sigma[:2], context), atol=1e-4)


def test_the_processors_are_put_back(small_unet):
    before = small_unet.unet.attn_processors
    with pytest.raises(RuntimeError, match="inside"), small_unet.attention(lambda *_: None):
        assert small_unet.unet.attn_processors != before
        raise RuntimeError("inside")
    assert small_unet.unet.attn_processors == before


def between(source, target):
    return token_alignment([[source.embeds, {}]], [[target.embeds, {}]])


def blended(model, mask, source, target, negative=None, seed=3, **more):
    latent = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(7))
    g = torch.Generator().manual_seed(seed)
    noise = lambda: torch.randn(latent.shape, generator=g)
    return latent, attention_blend(
        model,
        source,
        target,
        negative,
        latent,
        mask,
        schedule("karras", model.sigma_table, 4),
        BlendConfig(**more),
        noise,
        between(source, target),
    )


def test_a_mask_of_zeros_gives_the_source_back(small_unet):
    source, target, negative = contexts()
    latent, out = blended(small_unet, torch.zeros(1, 1, 8, 8), source, target, negative)
    assert torch.equal(out, latent)


def test_outside_the_mask_the_latent_is_the_sources(small_unet):
    source, target, negative = contexts()
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :3] = torch.tensor([1.0, 0.5, 0.1])
    latent, out = blended(small_unet, mask, source, target, negative)
    assert torch.equal(out[..., 3:], latent[..., 3:]) and (out[..., :3] - latent[..., :3]).abs().max() > 1e-2


def test_equal_texts_change_nothing(small_unet):
    source, *_ = contexts()
    latent, out = blended(small_unet, torch.ones(1, 1, 8, 8), source, source)
    assert torch.allclose(out, latent, atol=1e-3)


def test_one_step_by_hand(small_unet):
    """z = z_source + D(x | target) - D(x | source), with both x alike in the first step."""
    source, target, _ = contexts()
    latent, out = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(7)), None
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(8))
    sigmas = torch.tensor([1.5, 0.0])
    out = attention_blend(
        small_unet,
        source,
        target,
        None,
        latent,
        torch.ones(1, 1, 8, 8),
        sigmas,
        BlendConfig(cfg=1.0, cross_replace=0.0),
        lambda: noise,
        between(source, target),
    )
    x, sigma = latent + 1.5 * noise, torch.tensor([1.5])
    with torch.no_grad():
        want = latent + small_unet(x, sigma, target) - small_unet(x, sigma, source)
    assert torch.allclose(out, want, atol=1e-4)


def test_a_mask_over_everything_marks_no_place(small_unet):
    """The latent may change everywhere, and the source's maps still say what stands where; a mask with a hole marks
    one."""
    source, target, _ = contexts()
    latent, noise = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(7))
    whole, part = torch.ones(1, 1, 8, 8), torch.ones(1, 1, 8, 8)
    part[..., -2:, -2:] = 0
    run = lambda mask, given: attention_blend(
        small_unet,
        source,
        target,
        None,
        latent,
        mask,
        torch.tensor([2.0, 1.0, 0.0]),
        BlendConfig(cross_replace=1.0),
        lambda: noise,
        torch.arange(target.embeds.shape[1]) % 3,
        attention_mask=given,
    )
    assert torch.equal(run(whole, None), run(whole, 0 * whole)) and not torch.equal(run(whole, None), run(whole, whole))
    assert torch.equal(run(part, None), run(part, part))
    nearly = 254 / 255 * whole  # as a picture of white is painted, or a found one misses a corner
    assert torch.allclose(run(nearly, None), run(nearly, 0 * whole))


def test_cross_replace_and_the_seed_matter(small_unet):
    source, target, _ = contexts()
    mask = torch.ones(1, 1, 8, 8)
    mask[..., 4:] = 0.5
    run = lambda **more: blended(small_unet, mask, source, target, **more)[1]
    assert torch.equal(run(), run()) and not torch.equal(run(), run(seed=4))
    assert not torch.allclose(run(cross_replace=0.0), run(cross_replace=1.0), atol=1e-5)
    with pytest.raises(UserError, match="0 to 1"):
        BlendConfig(cross_replace=1.5)


def test_recorded_maps_are_the_attention_of_the_words(small_unet):
    context = contexts()[0]
    recorder = Recorder([[1], [2, 3]], (8, 8))
    x, sigma = torch.randn(2, 4, 8, 8), torch.tensor([2.0, 2.0])
    with torch.no_grad(), small_unet.attention(recorder):
        got = small_unet(x, sigma, context)
    with torch.no_grad():
        assert torch.allclose(got, small_unet(x, sigma, context), atol=1e-4)
    maps = recorder.maps
    assert maps.shape == (2, 2, 8, 8) and (maps > 0).all() and float(maps.sum(dim=1).max()) < 1
    q = torch.randn(1, 4, 8)
    k = torch.randn(1, 3, 8)
    alone = Recorder([[0], [1], [2]], (2, 2))
    alone(q, k, torch.randn(1, 3, 8), 1, (2, 2))
    want = (q @ k.transpose(1, 2) / 8**0.5).softmax(-1)[0].T.view(3, 2, 2)
    assert torch.allclose(alone.maps[0], want, atol=1e-6)
    with pytest.raises(UserError, match="no cross-attention"):
        Recorder([[0]], (2, 2)).maps
