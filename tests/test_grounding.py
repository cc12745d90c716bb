"""The grounding of words in cross-attention: the loss by hand, gradients, and what a pack knows of its objects."""

import numpy as np
import pytest
import torch
from comfyui_affect.training.data.pack import PackSpec, make_pack
from comfyui_affect.training.grounding import Maps, token_loss


def test_the_loss_by_hand():
    maps = torch.zeros(1, 4, 3)
    maps[0, :, 1] = torch.tensor([0.5, 0.25, 0.25, 0.0])  # the word's attention over a grid of 2 x 2
    masks = torch.zeros(1, 2, 4, 4)
    masks[0, 0, :2, :2] = 1  # the first cell
    masks[0, 1, 2:, :] = 1
    assert float(token_loss([maps], masks, torch.tensor([[1, -1]]))) == pytest.approx(0.25)
    assert float(token_loss([maps], masks, torch.tensor([[1, 1]]))) == pytest.approx((0.25 + 0.75**2) / 2)
    assert float(token_loss([maps], masks, torch.tensor([[-1, -1]]))) == 0


def test_maps_are_kept_and_attention_is_as_ever(small_unet):
    unet = small_unet.unet
    before = unet.attn_processors
    x, t, text = torch.randn(2, 4, 8, 8), torch.tensor([3, 9]), torch.randn(2, 77, 16)
    plain = unet(x, t, text).sample
    try:
        maps = Maps(unet)
        assert torch.allclose(unet(x, t, text).sample, plain, atol=1e-5)
        assert maps.kept and all(m.shape[0] == 2 and m.shape[2] == 77 for m in maps.kept)
        assert torch.allclose(maps.kept[0].sum(dim=2), torch.ones(()), atol=1e-5)
        maps.clear()
        assert not maps.kept
    finally:
        unet.set_attn_processor(before)


def test_a_pack_knows_where_its_objects_are_and_where_they_are_said(tmp_path):
    pack = make_pack(PackSpec("train", 6, variants=2, seed=3, objects=5), tmp_path, workers=1)
    assert pack.masks.shape == (6, 5, 16, 16) and pack.places.shape == (6, 2, 5)
    assert (pack.places >= 0).any() and pack.masks.max() == 255
    from comfyui_affect.models.networks.tokenizer import bpe

    for i, v, k in np.argwhere(pack.places >= 0):
        word = bpe().decode([int(pack.tokens[i, v, pack.places[i, v, k]])]).strip()
        assert word and word in pack.captions[i][v]
        assert pack.masks[i, k].any()
