"""Gram transfer: the losses by hand, both solvers, masks, sizes and what cannot be transferred."""

import copy
import math

import pytest
import torch
from comfyui_affect.models import gram, host
from comfyui_affect.models.errors import UserError
from comfyui_affect.models.gram import GramConfig, GramLoss, total_variation, transfer
from comfyui_affect.models.networks import backbones
from comfyui_affect.models.networks.backbones import (
    LAYERS,
    Backbone,
    build_tiny_densenet,
    build_tiny_vgg,
    feature_maps,
    folded,
)
from comfyui_affect.models.tensors.luminance import with_luminance
from torch.nn import functional as F


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return Backbone("tiny-densenet", build_tiny_densenet()).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def vgg():
    torch.manual_seed(0)
    return Backbone("tiny-vgg", build_tiny_vgg()).eval().requires_grad_(False)


def picture(seed, h=64, w=64, low=0.0, high=1.0):
    x = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return (low + (high - low) * F.interpolate(x, size=(h, w), mode="bilinear")).clamp(0, 1)


def test_gram_by_hand():
    f = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])  # C = 2, h w = 2
    assert torch.allclose(gram.gram(f), torch.tensor([[5.0, 11.0], [11.0, 25.0]]) / 4)
    left = torch.tensor([[[[1.0, 0.0]]]])
    assert torch.allclose(gram.gram(f, left), torch.tensor([[1.0, 3.0], [3.0, 9.0]]) / 2)


def test_the_five_layers_of_a_densenet(net):
    image = picture(0)
    seen = {}
    hooks = [net.features.relu0.register_forward_hook(lambda m, i, o: seen.setdefault(0, o.clone()))]
    for i in (1, 2, 3, 4):
        layer = getattr(net.features, f"denseblock{i}").denselayer1.relu1
        hooks.append(layer.register_forward_hook(lambda m, a, o, i=i: seen.setdefault(i, o.clone())))
    net(image)
    for hook in hooks:
        hook.remove()
    first = feature_maps(net, image, "first")
    assert all(torch.allclose(first[i], seen[i]) for i in range(5))
    last = feature_maps(net, image, "last")
    assert all(torch.allclose(last[i], seen[i + 1]) for i in range(4))
    assert torch.allclose(last[4], F.relu(net(image)))


def test_the_five_layers_of_a_vgg(vgg):
    image = picture(0)
    x, outputs = vgg.normalised(image), []
    for layer in vgg.features:
        x = layer(x)
        outputs.append(x.clone())
    assert all(torch.allclose(f, outputs[i]) for f, i in zip(feature_maps(vgg, image), (1, 6, 11, 20, 29)))


@pytest.mark.parametrize("layers", ["first", "last"])
def test_the_loss_is_equation_1(net, layers):
    source, reference, image = picture(0), picture(1), picture(2)
    config = GramConfig(content_weight=2.0, sentiment_weight=3e5, smoothness=0.0, layers=layers)
    f, fs, ft = (feature_maps(net, x, layers) for x in (image, source, reference))
    flat = lambda x: x.flatten(2)[0]
    g = lambda x: flat(x) @ flat(x).T / x.numel()
    want = 2.0 * ((f[3] - fs[3]) ** 2).mean() + 3e5 * sum(((g(a) - g(b)) ** 2).mean() for a, b in zip(f, ft)) / 5
    assert float(GramLoss(net, source, reference, config)(image)) == pytest.approx(float(want), rel=1e-4)
    assert float(GramLoss(net, source, source, config)(source)) == pytest.approx(0, abs=1e-6)


def test_smoothness_counts_the_steps_of_the_change():
    """A change by one value costs nothing, whatever the source; a ramp its slope; and no change has a gradient of
    zero."""
    flat, ramp = torch.full((1, 3, 6, 5), 0.2), torch.arange(5.0).expand(1, 3, 6, 5)
    assert float(total_variation(flat)) == pytest.approx(0, abs=1e-6)
    assert float(total_variation(0.3 * ramp, grey=1e-4)) == pytest.approx(0.3, abs=1e-3)
    still = torch.zeros(1, 3, 6, 5, requires_grad=True)
    total_variation(still).backward()
    assert not still.grad.any()


def test_smoothness_is_the_weight_of_the_third_term(net):
    source, reference, image = picture(0), picture(1), picture(2)
    bare, smooth = (float(GramLoss(net, source, reference, GramConfig(smoothness=c))(image)) for c in (0.0, 7.0))
    assert smooth - bare == pytest.approx(7 * float(total_variation(image - source)), rel=1e-3)


def test_checkpointing_changes_nothing(net, vgg, monkeypatch):
    for network in (net, vgg):
        gradients = []
        for limit in (10**9, 0):
            monkeypatch.setattr(gram, "CHECKPOINT_FROM", limit)
            x = picture(2).requires_grad_(True)
            GramLoss(network, picture(0), picture(1), GramConfig())(x).backward()
            gradients.append(x.grad)
        assert torch.allclose(*gradients, rtol=1e-3, atol=1e-7) and gradients[0].abs().max() > 0


@pytest.mark.parametrize("solver", gram.SOLVERS)
def test_a_transfer_lowers_the_loss_and_keeps_the_bounds(net, solver):
    source, reference = picture(0, low=0.6), picture(1, high=0.4)
    config = GramConfig(iterations=25, solver=solver)
    loss = GramLoss(net, source, reference, config)
    done = transfer(net, source, reference, config)
    assert float(loss(done.image)) < 0.5 * float(loss(source)) and len(done.losses) <= 25
    assert float(done.image.min()) >= 0 and float(done.image.max()) <= 1
    assert float(done.image.mean()) < float(source.mean())
    assert torch.equal(done.image, transfer(net, source, reference, config).image)


@pytest.mark.parametrize("dtype, near", [(torch.float32, 1e-3), (torch.bfloat16, 0.1)])
@pytest.mark.parametrize("layers", LAYERS)
def test_folding_changes_no_feature(net, layers, dtype, near, monkeypatch):
    monkeypatch.setattr(backbones, "_dtype", lambda device: dtype)
    trained = copy.deepcopy(net)
    for module in trained.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            (
                module.running_mean.normal_(std=0.3),
                module.running_var.uniform_(0.5, 2),
                module.weight.data.uniform_(0.5, 2),
                module.bias.data.normal_(),
            )
    image = picture(0)
    before = {key: value.clone() for key, value in trained.state_dict().items()}
    for a, b in zip(feature_maps(trained, image, layers), feature_maps(folded(trained), image, layers), strict=True):
        assert torch.allclose(a, b, atol=near * float(a.abs().max())) and b.dtype == torch.float32
    assert all(torch.equal(value, before[key]) for key, value in trained.state_dict().items())


def test_evaluations_at_the_sizes_below_are_few(net):
    done = transfer(net, picture(0, 256, 256), picture(1), GramConfig(iterations=24, tolerance=0.0))
    assert [done.pixels.count(side**2) for side in (128, 256)] == [12, 12]
    done = transfer(net, picture(0, 256, 256), picture(1), GramConfig(iterations=130, tolerance=0.0))
    assert [done.pixels.count(side**2) for side in (128, 256)] == [gram.COARSE, 130 - gram.COARSE]


@pytest.mark.parametrize("side", [64, 256])
def test_half_the_bits_come_as_far(net, side, monkeypatch):
    losses = []
    for dtype in (torch.float32, torch.bfloat16):
        monkeypatch.setattr(backbones, "_dtype", lambda device, dtype=dtype: dtype)
        config = GramConfig(iterations=50, tolerance=0.0)
        losses.append(
            float(
                GramLoss(net, picture(0, side, side), picture(1), config)(
                    transfer(net, picture(0, side, side), picture(1), config).image
                )
            )
        )
    assert losses[1] < 1.1 * losses[0]


def test_large_images_start_below_their_size(net):
    done = transfer(net, picture(0, 256, 320), picture(1, 100, 50), GramConfig(iterations=30, tolerance=0.5))
    assert done.image.shape == (1, 3, 256, 320) and list(dict.fromkeys(done.pixels)) == [128 * 160, 256 * 320]


def test_very_large_images_are_changed_at_a_smaller_size(net, monkeypatch, capsys):
    monkeypatch.setattr(gram, "LARGEST", 64 * 64)
    done = transfer(net, picture(0, 128, 96), picture(1), GramConfig(iterations=3))
    assert done.image.shape == (1, 3, 128, 96) and max(done.pixels) <= 64 * 64
    assert "transferred at" in capsys.readouterr().err


@pytest.mark.parametrize("solver", gram.SOLVERS)
def test_nothing_changes_outside_the_mask(net, solver):
    source = picture(0)
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., :32] = 1
    done = transfer(net, source, picture(1), GramConfig(iterations=6, solver=solver), mask)
    assert torch.equal(done.image[..., 32:], source[..., 32:])
    assert (done.image[..., :32] - source[..., :32]).abs().max() > 0.01


def test_a_mask_that_covers_nothing_returns_the_source(net, capsys):
    source = picture(0)
    done = transfer(net, source, picture(1), GramConfig(iterations=3), torch.zeros(1, 1, 64, 64))
    assert torch.equal(done.image, source) and "covers nothing" in capsys.readouterr().err


def test_colour_only_keeps_the_light(net):
    source = picture(0, low=0.3, high=0.7)
    done = transfer(net, source, picture(1), GramConfig(iterations=10, colour_only=True))
    y = lambda t: 0.299 * t[:, 0] + 0.587 * t[:, 1] + 0.114 * t[:, 2]
    inside = ((done.image > 0) & (done.image < 1)).all(dim=1)
    assert inside.float().mean() > 0.5 and torch.allclose(y(done.image)[inside], y(source)[inside], atol=1e-4)
    assert not torch.allclose(done.image, source, atol=1e-2)
    assert torch.allclose(with_luminance(source, source), source, atol=1e-6)


@pytest.mark.parametrize("solver", gram.SOLVERS)
def test_black_images_stay_finite(net, solver):
    black = torch.zeros(1, 3, 64, 64)
    for source, reference in ((black, picture(1)), (picture(1), black), (black, black)):
        done = transfer(net, source, reference, GramConfig(iterations=4, solver=solver))
        assert torch.isfinite(done.image).all() and all(math.isfinite(v) for v in done.losses)


def test_a_soft_mask_counts_once_at_any_size(net, monkeypatch):
    source, mask = picture(0, 96, 96), torch.full((1, 1, 96, 96), 0.5)
    config = GramConfig(iterations=8)
    free = transfer(net, source, picture(1), config).image - source
    monkeypatch.setattr(gram, "LARGEST", 96 * 96 - 1)
    with host.use(host.Host()):
        half = transfer(net, source, picture(1), config, mask).image - source
    assert float(half.abs().mean()) > 0.3 * float(free.abs().mean())


def test_it_runs_inside_inference_mode():
    with torch.inference_mode():
        torch.manual_seed(0)
        net = Backbone("tiny-densenet", build_tiny_densenet()).eval().requires_grad_(False)
        done = transfer(net, picture(0), picture(1), GramConfig(iterations=12))
        assert net.mean.is_inference() and next(net.parameters()).is_inference()  # as they were
    assert min(done.losses) < done.losses[0]


def test_images_too_small_for_the_network_are_refused(net):
    with pytest.raises(UserError, match="too small"):
        transfer(net, picture(0, 24, 64), picture(1))


def test_an_interrupt_ends_a_transfer(net):
    class Stopped(host.Host):
        def check_interrupted(self):
            raise KeyboardInterrupt

    with host.use(Stopped()), pytest.raises(KeyboardInterrupt):
        transfer(net, picture(0), picture(1), GramConfig(iterations=4))


@pytest.mark.parametrize(
    "bad", [dict(iterations=0), dict(content_weight=-1), dict(smoothness=-1), dict(solver="sgd"), dict(layers="all")]
)
def test_bad_settings_are_refused(bad):
    with pytest.raises(UserError):
        GramConfig(**bad)
