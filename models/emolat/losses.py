"""Stage two's losses, each named after its equation (20 to 27).

`features` are lists of maps of a frozen VGG, finest first; images are [B, 3, H, W] in 0..1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

Maps = Sequence[torch.Tensor]


def content_loss(result: Maps, source: Maps) -> torch.Tensor:
    """Equation 20: the distance of the coarsest maps, each channel normalised over its places (as in work after AdaIN):
    positions count, brightness does not."""
    return F.mse_loss(_normalised(result[-1]), _normalised(source[-1]))


def _normalised(x: torch.Tensor) -> torch.Tensor:
    return (x - x.mean(dim=(2, 3), keepdim=True)) / (x.var(dim=(2, 3), keepdim=True) + 1e-5).sqrt()


def style_loss(result: Maps, reference: Maps) -> torch.Tensor:
    """Equation 21: means and deviations of every map against the reference's, averaged over the maps."""
    deviation = lambda x: (x.var(dim=(2, 3)) + 1e-5).sqrt()
    parts = [
        F.mse_loss(a.mean(dim=(2, 3)), b.mean(dim=(2, 3))) + F.mse_loss(deviation(a), deviation(b))
        for a, b in zip(result, reference)
    ]
    return torch.stack(parts).mean()


def identity_loss(
    image: torch.Tensor, reference: torch.Tensor, maps: Maps, reference_maps: Maps, gamma: float = 0.01
) -> torch.Tensor:
    """Equation 22: the network run on the reference with the reference's own emotion must give the reference back."""
    features = torch.stack([F.mse_loss(a, b) for a, b in zip(maps, reference_maps)]).mean()
    return F.mse_loss(image, reference) + gamma * features


def adversary_loss(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """Equation 23 for the discriminator: logits of references and of results. (Logits without and with the text may be
    joined along any dimension.)"""
    return F.binary_cross_entropy_with_logits(real, torch.ones_like(real)) + F.binary_cross_entropy_with_logits(
        fake, torch.zeros_like(fake)
    )


def gan_loss(fake: torch.Tensor) -> torch.Tensor:
    """Equation 23 for the generator, in the non-saturating form (Goodfellow et al. 2014): the discriminator should take
    results for real."""
    return F.binary_cross_entropy_with_logits(fake, torch.ones_like(fake))


def emotion_loss(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Equation 25: cross-entropy of a frozen classifier's logits [B, 8] with the target emotions [B]."""
    return F.cross_entropy(logits, label)


def patch_clip_loss(
    encode: Callable[[torch.Tensor], torch.Tensor],
    image: torch.Tensor,
    source: torch.Tensor,
    text: torch.Tensor,
    source_text: torch.Tensor,
    patches: int = 8,
    size: float = 0.5,
    threshold: float = 0.7,
    perspective: float = 0.5,
) -> torch.Tensor:
    """Equation 26 with CLIPstyler's patches and directions (Kwon and Ye 2022): 1 - cosine between two directions in
    CLIP's space, from the source to each random patch of the result and from the source's text to the target's. Patches
    with a distance below `threshold` do not count. Each patch is distorted by a random perspective of strength
    `perspective`.

    encode       images [N, 3, h, w] -> normalised features [N, D]
    text, source_text  [B, D] normalised
    """
    from torchvision.transforms import RandomPerspective

    b, _, h, w = image.shape
    side_h, side_w = int(h * size), int(w * size)
    tops = torch.randint(h - side_h + 1, (patches,)).tolist()
    lefts = torch.randint(w - side_w + 1, (patches,)).tolist()
    crops = [image[:, :, t : t + side_h, le : le + side_w] for t, le in zip(tops, lefts)]
    if perspective:
        tilted = RandomPerspective(perspective, p=1.0)
        crops = [tilted(crop) for crop in crops]
    together = torch.stack(crops, dim=1).flatten(0, 1)
    with torch.no_grad():
        before = encode(source)
    moved = F.normalize(encode(together).view(b, patches, -1) - before[:, None], dim=-1)
    wanted = F.normalize(text - source_text, dim=-1)
    distance = 1 - (moved * wanted[:, None]).sum(dim=-1)
    return torch.where(distance < threshold, torch.zeros_like(distance), distance).mean()


@dataclass(frozen=True)
class Weights:
    """Equations 24 and 27. A weight of 0 leaves its loss out, as the ablations do. `smooth` is ours, against halos
    along the source's edges: the total variation of the change (`gram.total_variation`)."""

    content: float = 6.0
    style: float = 2.0
    identity: float = 3.0
    gan: float = 5.0
    emotion: float = 1.0
    clip: float = 100.0
    smooth: float = 0.0


def total_loss(parts: dict[str, torch.Tensor], weights: Weights) -> torch.Tensor:
    """Equations 24 and 27: the weighted sum of the given parts."""
    return sum(getattr(weights, name) * value for name, value in parts.items())


class ImageJudge(nn.Module):
    """Equation 23's adversary: patches of an image, alone and with a text. image [B, 3, H, W], text [B, D] -> [B, 2,
    h, w]: logits without and with the text."""

    def __init__(self, text: int, width: int = 32):
        super().__init__()
        down = lambda a, b: nn.Sequential(nn.Conv2d(a, b, 4, 2, 1), nn.LeakyReLU(0.2))
        self.body = nn.Sequential(down(3, width), down(width, 2 * width), down(2 * width, 4 * width))
        self.alone = nn.Conv2d(4 * width, 1, 3, 1, 1)
        self.key = nn.Linear(text, 4 * width)
        self.together = nn.Conv2d(4 * width, 4 * width, 3, 1, 1)

    def forward(self, image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        x = self.body(2 * image - 1)
        match = (F.leaky_relu(self.together(x), 0.2) * self.key(text)[..., None, None]).sum(dim=1, keepdim=True)
        return torch.cat([self.alone(x), match / x.shape[1] ** 0.5], dim=1)
