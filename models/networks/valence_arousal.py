"""A judge that people taught: valence and arousal of photographs, read off an ImageNet network's features.

Ridge regression on people's ratings (`affect train va-head`). Two heads are bundled: efficientnet-lite0's, and
efficientnet-lite2's, which has seen other themes, so that one may judge what the other took part in. As a classifier of
Mikels' eight emotions it answers by the distance to each emotion's own point; what lies near in these two dimensions,
it cannot tell apart: anger from fear above all, and amusement from excitement.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import bundled, files, host
from ..emotions import MIKELS, EmotionTarget
from ..errors import UserError
from ..tensors.resize import resized
from . import efficientnet

BUNDLED = {"photo": "va-lite0", "photo-lite2": "va-lite2"}
"""Name of a classifier -> bundled file."""

SIDE = 224
"""Pixels of the shorter side at which a network looks at a picture."""

SHARPNESS = 60.0
"""How fast an emotion's logit falls with the squared distance to its point: at 0.2 of the plane's side by 2.4."""


class ValenceArousal(nn.Module):
    """Images [B, 3, H, W] in 0..1 -> logits [B, 8] of `MIKELS`; `points` gives valence and arousal. Differentiable.

    backbone  a network of `efficientnet.NAMES`
    weight, bias  [2, D] and [2]: the regression on its pooled features
    """

    weight: torch.Tensor
    bias: torch.Tensor
    emotions: torch.Tensor

    def __init__(self, backbone: str, weight: torch.Tensor, bias: torch.Tensor):
        super().__init__()
        self.backbone = backbone
        self.network = efficientnet.load_whole(backbone)
        width = self.network._fc.in_features
        if tuple(weight.shape) != (2, width) or tuple(bias.shape) != (2,):
            raise UserError(
                f"This head is {list(weight.shape)} and {backbone} gives {width} features: it is another's."
            )
        self.register_buffer("weight", weight.float())
        self.register_buffer("bias", bias.float())
        points = [EmotionTarget.of(name).vad[:2] for name in MIKELS]
        self.register_buffer("emotions", torch.tensor(points), persistent=False)

    def points(self, image: torch.Tensor) -> torch.Tensor:
        """[B, 2]: valence and arousal in 0..1, as people on average rate a photograph."""
        return torch.addmm(self.bias, pooled_features(self.network, image), self.weight.T)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        distance = (self.points(image)[:, None] - self.emotions).square().sum(dim=-1)
        return -SHARPNESS * distance


def pooled_features(network: Any, image: torch.Tensor) -> torch.Tensor:
    """[B, 3, H, W] in 0..1 -> [B, D]: an EfficientNet-Lite's last features, averaged over the picture, which is
    shown with its shorter side at `SIDE`."""
    h, w = image.shape[-2:]
    scale = SIDE / min(h, w)
    shown = resized(image.float(), round(h * scale), round(w * scale))
    return network.extract_features((shown - efficientnet.MEAN) / efficientnet.STD).mean(dim=(2, 3))


def load_valence_arousal(name: str) -> ValenceArousal:
    """A head of `BUNDLED`, or a file that `affect train va-head` wrote. UserError where its network is not on this
    machine."""
    if name in BUNDLED:
        bundled.verify(BUNDLED[name])
        path = bundled.path(BUNDLED[name])
    else:
        path = Path(name)
    state, metadata = files.load_safetensors(path)
    if set(state) != {"va.weight", "va.bias"}:
        raise UserError(f"'{path.name}' is not a valence and arousal head: train one with `affect train va-head`.")
    head = ValenceArousal(json.loads(metadata["backbone"]), state["va.weight"], state["va.bias"])
    return head.eval().requires_grad_(False).to(host.current().device)


def photo_judge() -> ValenceArousal | None:
    """The head `photo`, or None where its network is not on this machine."""
    return load_valence_arousal("photo") if efficientnet.weights_file("efficientnet-lite0") else None
