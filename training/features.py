"""The tiny feature networks (DenseNet and VGG): they learn which words a picture's captions hold.

A bag of words asks for objects, attributes, places, weather and mood at once, and takes photographs by the same road
(Joulin et al. 2016, "Learning visual features from large weakly supervised data").
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from ..models.networks.backbones import Backbone, build_tiny_densenet, build_tiny_vgg
from ..models.networks.views import view
from .batches import Rows, steps
from .data.pack import PackSpec, make_pack
from .loop import LoopConfig, Losses, fit


@dataclass
class FeatureConfig:
    """words: how many of the most frequent caption tokens are asked for."""

    n: int = 12000
    photos: float = 0.15
    variants: int = 6
    words: int = 256
    data_seed: int = 61


class WordNet(nn.Module):
    """Feature layers and one linear layer over their mean and maximum: images -> a logit for each word."""

    def __init__(self, features: nn.Sequential, width: int, words: int):
        super().__init__()
        self.backbone, self.head = Backbone("in training", features), nn.Linear(2 * width, words)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.backbone(image)
        return self.head(torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1))


def frequent_words(tokens: torch.Tensor, n: int) -> torch.Tensor:
    """Caption tokens [N, K, 77] -> [N, n] half: which of the n most frequent words any caption of a row holds. Words
    that nearly every row has, or fewer than one row in 500, tell nothing and are left out."""
    words = tokens.unique()
    words = words[words < 49406]  # CLIP's start and end tokens follow
    present = torch.stack([(tokens == w).flatten(1).any(dim=1) for w in words], dim=1)
    share = present.float().mean(dim=0)
    share[(share > 0.9) | (share < 0.002)] = 0.0
    kept = share.topk(min(n, int((share > 0).sum()))).indices
    return present[:, kept].half()


def train(config: FeatureConfig, loop: LoopConfig, runs: Path, device: str, name: str) -> nn.Module:
    """Trains "vgg" or "densenet" and returns its feature layers; VGG's batch normalisation is folded into them."""
    spec = PackSpec(
        "train", config.n, captions="whole", photos=config.photos, variants=config.variants, seed=config.data_seed
    )
    rows = Rows([make_pack(spec, runs / "packs")], device)
    words = frequent_words(rows.tokens, config.words)
    weight = ((1 - words.float().mean(dim=0)) / words.float().mean(dim=0)).sqrt()  # rare words count more

    def loss(net: nn.Module, batch: tuple, step: int) -> Losses:
        index, _ = batch
        logits, target = net(view(rows.pictures(index), each=True)).float(), words[index].float()
        hits = ((logits > 0) == (target > 0.5)).float().mean()
        return {"loss": F.binary_cross_entropy_with_logits(logits, target, pos_weight=weight), "hits": hits}

    features = build_tiny_vgg(norm=True) if name == "vgg" else build_tiny_densenet()
    with torch.no_grad():
        width = features(torch.zeros(2, 3, 64, 64)).shape[1]
    net = fit(
        WordNet(features, width, words.shape[1]),
        loss,
        steps(rows, loop.seed, loop.batch),
        loop,
        runs / name,
        name,
        config,
        rows.tokens,
    )
    trained = net.backbone.features.eval()
    assert isinstance(trained, nn.Sequential)  # as it was given
    return folded(trained) if name == "vgg" else trained


@torch.no_grad()
def folded(features: nn.Sequential) -> nn.Sequential:
    """A VGG with batch normalisation -> one without, which gives the same in evaluation mode."""
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    layers: list[nn.Module] = []
    for layer in features:
        if isinstance(layer, nn.BatchNorm2d):
            before = layers[-1]
            assert isinstance(before, nn.Conv2d)
            layers[-1] = fuse_conv_bn_eval(before, layer)
        else:
            layers.append(layer)
    return nn.Sequential(*layers)
