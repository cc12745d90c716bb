"""EmoLat's transfer network and its losses, each against values worked by hand."""

import math

import pytest
import torch
from comfyui_affect.models.emolat import losses
from comfyui_affect.models.emolat.transfer import Block, Mapper, TransferNet
from comfyui_affect.models.networks.backbones import Backbone, build_tiny_vgg
from torch.nn import functional as F

WIDTHS = (16, 32, 48, 96)


@pytest.fixture(scope="module")
def vgg():
    torch.manual_seed(0)
    return Backbone("tiny-vgg", build_tiny_vgg()).eval().requires_grad_(False)


def network(vgg, **more):
    torch.manual_seed(1)
    return TransferNet(vgg, WIDTHS, text=8, code=12, layers=1, **more)


def maps(*values):
    return [torch.tensor(v).float().view(1, 1, 1, -1) for v in values]


def test_the_mapper_reads_text_and_codes_and_without_codes_text_alone():
    torch.manual_seed(0)
    text, codes = torch.randn(2, 8), torch.randn(2, 3, 12)
    whole, bare = Mapper(8, 12, 6), Mapper(8, 12, 6, codes=False)
    assert whole(text, codes).shape == bare(text, codes).shape == (2, 3, 6)
    assert not torch.allclose(whole(text, codes), whole(text, codes + 1))
    assert torch.equal(bare(text, codes), bare(text, codes + 1)) and not torch.allclose(
        bare(text, codes), bare(text + 1, codes)
    )


def test_a_block_is_attention_and_mlp_with_residuals():
    torch.manual_seed(0)
    block, x = Block(8, 2), torch.randn(1, 5, 8)
    q, k, v = block.qkv(block.norm1(x)).chunk(3, dim=-1)
    heads = []
    for i in range(2):
        part = slice(4 * i, 4 * i + 4)
        heads.append(torch.softmax(q[..., part] @ k[..., part].transpose(1, 2) / 2, dim=-1) @ v[..., part])
    y = x + block.out(torch.cat(heads, dim=-1))
    assert torch.allclose(block(x), y + block.mlp(block.norm2(y)), atol=1e-5)


@pytest.mark.parametrize("size", [(64, 64), (72, 50), (40, 96)])
def test_any_size_and_an_untrained_network_changes_nothing(vgg, size):
    net, image = network(vgg), torch.rand(2, 3, *size)
    with torch.no_grad():
        assert torch.equal(net(image, torch.randn(2, 8), torch.randn(2, 4, 12)), image)


def test_a_trained_network_answers_to_text_and_code(vgg):
    net, image = network(vgg), torch.rand(1, 3, 64, 64)
    for p in net.parameters():
        p.data += 0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    text, codes = torch.randn(1, 8), torch.randn(1, 4, 12)
    with torch.no_grad():
        first = net(image, text, codes)
        assert (first - net(image, text, codes + 1)).abs().max() > 1e-4 and (
            first - net(image, text + 1, codes)
        ).abs().max() > 1e-4
        assert float(first.min()) >= 0 and float(first.max()) <= 1
    assert not any(name.startswith("encoder") for name in net.state_dict())


def test_an_untrained_network_can_learn(vgg):
    """It gives the source back, and a gradient reaches the layer that keeps it from doing anything else."""
    net = network(vgg)
    image = torch.rand(1, 3, 32, 32)
    (net(image, torch.randn(1, 8), torch.randn(1, 1, 12)) - 0.9).square().sum().backward()
    assert net.last.weight.grad.abs().max() > 1e-3


def test_content_loss_sees_places_and_not_brightness():
    source = maps([9, 9], [1.0, 3.0])
    assert float(losses.content_loss(maps([0, 0], [10.0, 30.0]), source)) == pytest.approx(0, abs=1e-4)
    assert float(losses.content_loss(maps([0, 0], [3.0, 1.0]), source)) == pytest.approx(
        2.0, rel=1e-3
    )  # (2 / sqrt 2)^2


def test_style_loss_by_hand():
    a, b = maps([0.0, 2.0], [1.0, 1.0]), maps([1.0, 5.0], [1.0, 1.0])  # means 1, 3; deviations sqrt 2, sqrt 8
    want = ((1 - 3) ** 2 + (math.sqrt(2) - math.sqrt(8)) ** 2) / 2
    assert float(losses.style_loss(a, b)) == pytest.approx(want, rel=1e-3)


def test_identity_loss_by_hand():
    image, reference = torch.full((1, 3, 2, 2), 0.5), torch.full((1, 3, 2, 2), 0.7)
    assert float(losses.identity_loss(image, reference, maps([1.0, 1]), maps([3.0, 1]))) == pytest.approx(
        0.04 + 0.01 * 2, rel=1e-5
    )


def test_gan_losses_by_hand():
    real, fake = torch.tensor([0.0, 2.0]), torch.tensor([0.0, -2.0])
    side = (math.log(2) + math.log(1 + math.exp(-2))) / 2
    assert float(losses.adversary_loss(real, fake)) == pytest.approx(2 * side, rel=1e-5)
    assert float(losses.gan_loss(fake)) == pytest.approx((math.log(2) + math.log(1 + math.exp(2))) / 2, rel=1e-5)


def test_emotion_loss_by_hand():
    logits = torch.log(torch.tensor([[0.5, 0.3] + [0.2 / 6] * 6]))
    assert float(losses.emotion_loss(logits, torch.tensor([1]))) == pytest.approx(-math.log(0.3), rel=1e-5)


def test_patch_clip_loss_by_hand():
    """An encoder that answers with the mean of two colours: every patch of a flat image moves the same way."""
    encode = lambda x: F.normalize(x.mean(dim=(2, 3))[:, :2] + 1e-6, dim=-1)
    flat = lambda r, g: torch.tensor([r, g, 0.0]).view(1, 3, 1, 1).expand(1, 3, 16, 16)
    text, source_text = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])
    toward, away = flat(0.0, 1.0), flat(1.0, -1.0)
    assert float(losses.patch_clip_loss(encode, toward, flat(1.0, 0.0), text, source_text)) == pytest.approx(
        0, abs=1e-5
    )
    assert (
        float(losses.patch_clip_loss(encode, away, flat(1.0, 0.0), text, source_text, threshold=1.99)) == 0.0
    )  # far enough
    moved = F.normalize(torch.tensor([1.0, -1.0]) / math.sqrt(2) - torch.tensor([1.0, 0.0]), dim=-1)
    wanted = F.normalize(torch.tensor([-1.0, 1.0]), dim=-1)
    assert float(
        losses.patch_clip_loss(encode, away, flat(1.0, 0.0), text, source_text, perspective=0.0)
    ) == pytest.approx(1 - float(moved @ wanted), rel=1e-3)


def test_total_loss_weighs_what_is_there():
    parts = {"content": torch.tensor(1.0), "clip": torch.tensor(0.5)}
    assert float(losses.total_loss(parts, losses.Weights())) == pytest.approx(6 + 50)
    assert float(losses.total_loss(parts, losses.Weights(clip=0.0))) == pytest.approx(6)


def test_clip_and_emotion_losses_reach_the_networks_weights(vgg):
    """In the published code they do not."""
    torch.manual_seed(2)
    image = torch.rand(2, 3, 64, 64)
    clip = torch.nn.Conv2d(3, 6, 8, 8)
    classifier = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64 * 64, 8))
    for frozen in (clip, classifier):
        frozen.requires_grad_(False)
    encode = lambda x: F.normalize(clip(x).mean(dim=(2, 3)), dim=-1)
    text = F.normalize(torch.randn(2, 6), dim=-1)
    for loss in (
        lambda out: losses.patch_clip_loss(encode, out, image, text, -text),
        lambda out: losses.emotion_loss(classifier(out), torch.tensor([1, 5])),
    ):
        net = network(vgg)
        torch.nn.init.normal_(net.last.weight, std=0.05), torch.nn.init.normal_(net.ups[0].modulate.weight, std=0.05)
        loss(net(image, torch.randn(2, 8), torch.randn(2, 4, 12))).backward()
        for part in (net.mapper, net.blocks, net.ups, net.last):
            assert sum(float(p.grad.abs().sum()) for p in part.parameters() if p.grad is not None) > 0
        assert all(p.grad is None for module in (clip, classifier, vgg) for p in module.parameters())


def test_the_adversary_sees_the_text():
    torch.manual_seed(0)
    judge, image = losses.ImageJudge(8, 4), torch.rand(2, 3, 32, 32)
    a, b = judge(image, torch.randn(2, 8)), judge(image, torch.randn(2, 8))
    assert a.shape == (2, 2, 4, 4) and torch.equal(a[:, 0], b[:, 0]) and not torch.allclose(a[:, 1], b[:, 1])
