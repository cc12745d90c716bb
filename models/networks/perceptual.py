"""The perceptual distance of two images: LPIPS, or the same distance on one of our feature networks."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from .backbones import cached_weights, feature_maps, load_backbone, taps


def _lpips(trunk: torch.nn.Module) -> torch.nn.Module:
    """lpips' distance on AlexNet's features `trunk`; the library alone would unpickle them from torch's hub."""
    import lpips

    net = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    slices = (net.net.slice1, net.net.slice2, net.net.slice3, net.net.slice4, net.net.slice5)
    layers = {name: layer for part in slices for name, layer in part.named_children()}
    for name, layer in trunk.named_children():
        if name in layers:
            layers[name].load_state_dict(layer.state_dict())
    return net


class PerceptualDistance(torch.nn.Module):
    """LPIPS (Zhang et al. 2018): images a, b [B, 3, H, W] -> [B] distances; 0 for equal ones.

    `name` says what is measured: "LPIPS (AlexNet)" where torchvision's AlexNet weights are on this machine, else the
    same distance on the tiny VGG's features, unweighted: "perceptual distance (tiny VGG)". The two are not comparable.
    `network`, a name of `backbones.load_backbone`, asks for the unweighted distance on that one's features.
    """

    def __init__(self, network: str = "") -> None:
        super().__init__()
        if not network and cached_weights("alexnet"):
            self.name, self.net, self._taps = "LPIPS (AlexNet)", _lpips(load_backbone("alexnet").features), None
        else:
            self.net = load_backbone(network or "tiny-vgg")
            self.name = f"perceptual distance ({network or 'tiny VGG'})"
            self._taps = (lambda x: feature_maps(self.net, x)) if "densenet" in self.net.name else taps(self.net)
        self.requires_grad_(False).eval()

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        if self._taps is None:
            return self.net(a, b, normalize=True).flatten()
        total = a.new_zeros(len(a))
        for x, y in zip(self._taps(a), self._taps(b)):
            total = total + (F.normalize(x, dim=1) - F.normalize(y, dim=1)).square().sum(dim=1).mean(dim=(1, 2))
        return total
