"""Where to change: columns of words, masks of each grounding, feathering, the overlay."""

import pytest
import torch
from comfyui_affect.models.diffusion.diffusers import UNetContext
from comfyui_affect.models.errors import UserError
from comfyui_affect.models.moodifier import masks
from comfyui_affect.models.moodifier.instruction import Change
from torch.nn import functional as F


def test_columns_of_words_in_a_prompt():
    assert masks.token_columns("a house by a lake", "house") == [2]
    assert masks.token_columns("three houses by a lake", "house") == [2]
    assert masks.token_columns("a street lamp and a lamp", "street lamp") == [2, 3]
    with pytest.raises(UserError, match="no 'boat' in the source prompt"):
        masks.token_columns("a house", "boat")


def test_maps_come_from_the_denoiser(small_unet):
    context = UNetContext(torch.randn(1, 6, 16, generator=torch.Generator().manual_seed(0)))
    latent = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    look = lambda seed: masks.attention_maps(small_unet, context, latent, [[1], [2, 3]], seed, levels=(1.0,), draws=1)
    maps = look(0)
    assert maps.shape == (2, 2, 8, 8) and torch.equal(maps, look(0)) and not torch.equal(maps, look(1))


def test_otsu_parts_two_heaps():
    values = torch.cat([torch.full((60,), 0.2), torch.full((40,), 0.8)])
    assert 0.2 < float(masks.threshold(values)) < 0.8


def test_an_attention_mask_is_each_objects_own():
    maps = torch.full((1, 2, 8, 8), 0.001)
    maps[0, 0, :2], maps[0, 1, :, 6:] = 0.002, 0.5  # a word that is looked at little counts as much
    want = torch.zeros(8, 8)
    want[:2], want[:, 6:] = 1, 1
    assert torch.equal(masks.above(maps)[0, 0], want)


def test_attention_is_drawn_to_the_images_edges():
    """A coarse blob over a red square: the mask takes the square's outline, also between the map's cells."""
    image = torch.full((1, 3, 96, 128), 0.2)
    square = torch.zeros(96, 128, dtype=torch.bool)
    square[27:69, 45:87] = True
    image[0, 0][square] = 0.9
    maps = F.interpolate(square[None, None].float(), size=(6, 8), mode="area")
    maps = F.avg_pool2d(F.pad(maps, (1, 1, 1, 1)), 3, 1)  # as blurred as attention is
    coarse = F.interpolate(masks.above(maps), size=(96, 128), mode="nearest")[0, 0] > 0
    fine = masks.attention_mask(torch.cat([maps, torch.ones_like(maps)], dim=1), image)[0, 0] > 0
    iou = lambda m: float((m & square).sum() / (m | square).sum())
    assert iou(fine) > 0.95 > 0.8 > iou(coarse)
    large = F.interpolate(image, scale_factor=3.0)  # fitted at a bounded size, given at the image's own
    assert masks.attention_mask(torch.cat([maps, torch.ones_like(maps)], dim=1), large).shape == (1, 1, 288, 384)


def test_a_place_belongs_to_the_word_that_claims_it_most():
    mine, other = torch.tensor([[[[0.4, 0.1]]]]), torch.tensor([[[[0.1, 0.4]]]])
    assert torch.allclose(masks.contested(mine, mine + other), torch.tensor([[[[0.32, 0.02]]]]))
    assert masks.word_columns("a house by a lake") == [1, 2, 3, 4, 5] and masks.word_columns("") == [1]
    assert masks.word_columns("word " * 80) == [
        *range(1, 76),
        *range(78, 83),
    ]  # 75 in a chunk, and the next begins with its start


def test_boxes():
    mask = masks.box_mask([Change("a", "", (0.25, 0.5, 0.5, 1.0)), Change("b", "")], 8, 16)
    assert mask.sum() == 4 * 4 and mask[0, 0, 4:, 4:8].all()
    with pytest.raises(UserError, match="No object has a box"):
        masks.box_mask([Change("b", "")], 8, 8)


def test_what_stands_out_is_salient():
    rows = torch.linspace(0, 40, 96)
    image = (0.5 + 0.2 * torch.sin(rows[:, None] + 0.5 * rows)).expand(1, 3, 96, 96).clone()  # stripes all over
    image[..., 40:56, 60:76] = torch.tensor([1.0, 0.9, 0.1]).view(3, 1, 1)
    mask = masks.saliency_mask(image)
    inside = torch.zeros_like(mask)
    inside[..., 32:64, 52:84] = 1
    assert mask.sum() > 0 and float((mask * inside).sum() / mask.sum()) > 0.5  # a ninth by area
    assert torch.isfinite(masks.saliency(torch.zeros(1, 3, 64, 64))).all()


def test_a_feather_rises_outside_and_ends():
    mask = torch.zeros(1, 1, 40, 40)
    mask[..., 15:25, 15:25] = 1
    soft = masks.feathered(mask, 6)
    assert (soft[mask > 0] == 1).all() and torch.equal(masks.feathered(mask, 0), mask)
    row = soft[0, 0, 20]
    assert (row[:9] == 0).all() and (row[31:] == 0).all() and 0 < float(row[11]) < float(row[13]) <= 1


def test_a_feather_grows_by_the_largest_value_of_its_window():
    mask = torch.rand(2, 1, 30, 41, generator=torch.Generator().manual_seed(0))
    for pixels in (0, 1, 5, 40):
        assert torch.equal(masks._grown(mask, pixels), F.max_pool2d(mask, 2 * pixels + 1, 1, pixels))


def test_an_empty_mask_stays_empty_and_what_is_doubtful_is_said():
    empty, boat = torch.zeros(1, 1, 16, 16), Change("boat", "broken")
    assert not masks.feathered(empty, 4).any()
    assert "boat by attention covers nothing" in masks.doubts(empty, [boat], "attention")[0]
    assert "covers everything" in masks.doubts(torch.ones(1, 1, 4, 4), [boat], "saliency")[0]
    half = torch.zeros(1, 1, 16, 16)
    half[..., :8] = 1
    assert masks.doubts(half, [boat], "saliency") == []
    assert "no box for boat" in masks.doubts(half, [boat, Change("tree", "", (0, 0, 1, 1))], "boxes")[0]
    assert (
        "20 x 10 and the image 16 x 16: it was stretched"
        in masks.doubts(half, [], "your mask", torch.zeros(1, 10, 20))[0]
    )
    assert masks.doubts(half, [], "your mask", torch.zeros(1, 64, 64)) == []
    (own,) = masks.doubts(empty, [boat], "your mask", torch.zeros(1, 16, 16))
    assert own == "Your mask covers nothing: nothing will change. Paint where to change, or disconnect it."
    assert "Choose another grounding." in masks.doubts(empty, [boat], "saliency")[0]
    each = torch.cat([empty, half], dim=1)
    (said,) = masks.doubts(half, [boat, Change("tree", "")], "clipseg", each=each)
    assert "shows no boat: not in the mask" in said and len(masks.doubts(empty, [boat], "clipseg", each=empty)) == 1


def test_clipseg_without_weights_says_what_to_do(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="not on this machine"):
        masks.clipseg_mask(torch.rand(1, 3, 64, 64), ["house"], model="nobody/clipseg-absent")


def test_a_folder_of_clipsegs_name_in_the_working_directory_is_not_looked_into(monkeypatch, tmp_path):
    """It could bring code of its own (auto_map), which transformers offers to run."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "nobody" / "clipseg-absent"
    folder.mkdir(parents=True)
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nProcessor = Config = object\n")
    for name in ("config.json", "preprocessor_config.json", "processor_config.json", "tokenizer_config.json"):
        (folder / name).write_text(
            '{"model_type": "x", "auto_map": {"AutoConfig": "evil.Config", "AutoProcessor": "evil.Processor"}}'
        )
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(UserError, match="not on this machine"):
        masks.clipseg_mask(torch.rand(1, 3, 64, 64), ["house"], model="nobody/clipseg-absent")
    assert not (tmp_path / "ran").exists()


def test_clipseg_makes_a_mask_of_each_name(monkeypatch):
    transformers = pytest.importorskip("transformers")
    from types import SimpleNamespace

    class Words(dict):
        def to(self, device):
            return self

    class Network(torch.nn.Module):
        def forward(self, text):
            return SimpleNamespace(
                logits=torch.stack([torch.full((8, 8), 5.0 if t == "house" else -5.0) for t in text])
            )

    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, local_files_only: "/cached")
    monkeypatch.setattr(
        transformers.CLIPSegProcessor, "from_pretrained", lambda *_, **__: lambda text, **more: Words(text=text)
    )
    monkeypatch.setattr(transformers.CLIPSegForImageSegmentation, "from_pretrained", lambda *_, **__: Network())
    each = masks.clipseg_mask(torch.rand(2, 3, 32, 48), ["house", "boat"])
    assert each.shape == (2, 2, 32, 48) and (each[:, 0] == 1).all() and not each[:, 1].any()


def test_the_overlay_shows_mask_and_words():
    image, mask = torch.full((1, 3, 64, 96), 0.5), torch.zeros(1, 1, 64, 96)
    mask[..., :48] = 1
    shown = masks.overlay(image, mask, "fear: a haunted house by the lake, the deep night, fog and bats")
    assert shown.shape[3] == 96 and shown.shape[2] > 64
    assert float(shown[0, 0, 10, 10]) > 0.6 > float(shown[0, 1, 10, 10]) and torch.equal(
        shown[:, :, :64, 60:], image[..., 60:]
    )
    assert float(shown[:, :, 64:].min()) < 0.5  # words
