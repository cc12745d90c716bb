"""The transfer network: one pass from an image and a code to the image repainted (equations 15 to 19)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ..networks.backbones import VGG_CUTS, Backbone

LARGEST = 1024 * 1024
"""Images of more pixels are transferred at this size, and the change is enlarged: attention is quadratic in the
cells."""


class Mapper(nn.Module):
    """Equation 15: text features and codes -> emotion-semantic tokens.

    codes [B, n, W], text [B, D] -> [B, n, C]. With `codes` off the text alone is mapped: the ablation.
    """

    def __init__(self, text: int, code: int, width: int, hidden: int = 512, codes: bool = True):
        super().__init__()
        self.codes = codes
        self.net = nn.Sequential(
            nn.Linear(text + code * codes, hidden), nn.GELU(), nn.Linear(hidden, width), nn.LayerNorm(width)
        )

    def forward(self, text: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        text = text[:, None].expand(-1, codes.shape[1], -1)
        return self.net(torch.cat([text, codes], dim=-1) if self.codes else text)


class Block(nn.Module):
    """One layer of the multi-modal transformer: equations 16 and 17, each with its residual. Tokens [B, n, C] -> [B,
    n, C]."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        # scaled_dot_product_attention keeps memory linear in the number of cells: any image size.
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class _Up(nn.Module):
    """Doubles the size, joins the encoder's features of that size, and scales and shifts each channel by the code. A
    skip connection should keep the source's outlines, but not its palette, which comes from the emotion."""

    def __init__(self, width: int, skip: int, out: int, code: int):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(width + skip, out, 3, 1, 1), nn.Conv2d(out, out, 3, 1, 1)
        self.modulate = nn.Linear(code, 2 * out)
        zeroed(self.modulate)

    def forward(self, x: torch.Tensor, skip: torch.Tensor, code: torch.Tensor) -> torch.Tensor:
        x = F.interpolate(x, size=skip.shape[-2:], mode="nearest")
        scale, shift = self.modulate(code)[..., None, None].chunk(2, dim=1)
        x = F.relu(self.conv1(torch.cat([x, skip], dim=1)) * (1 + scale) + shift)
        return F.relu(self.conv2(x))


def zeroed(layer: nn.Module) -> None:
    """Sets the weights and biases of a layer to 0."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


class TransferNet(nn.Module):
    """Image [B, 3, H, W] in 0..1, text features [B, D] and codes [B, n, W] -> image [B, 3, H, W] in 0..1.

    encoder  a frozen VGG; it is not part of this module's state dict
    widths   its channels at relu1_1, relu2_1, relu3_1 and relu4_1
    """

    encoder: Backbone

    def __init__(
        self,
        encoder: Backbone,
        widths: tuple[int, int, int, int],
        text: int,
        code: int,
        layers: int = 3,
        heads: int = 4,
        codes: bool = True,
    ):
        super().__init__()
        self.__dict__["encoder"] = encoder  # frozen and shared: neither trained nor saved with this
        width = widths[-1]
        self.mapper = Mapper(text, code, width, codes=codes)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.ups = nn.ModuleList(_Up(a, b, b, width) for a, b in zip(widths[:0:-1], widths[-2::-1]))
        self.last = nn.Conv2d(widths[0], 3, 3, 1, 1)
        zeroed(self.last)  # begins as the identity

    def encode(self, image: torch.Tensor) -> list[torch.Tensor]:
        """The four feature maps, finest first."""
        layers = self.encoder.features
        assert isinstance(layers, nn.Sequential)  # a VGG's are
        x, start, out = self.encoder.normalised(image), 0, []
        for end in VGG_CUTS[:4]:
            for layer in layers[start:end]:
                x = F.relu(x) if isinstance(layer, nn.ReLU) else layer(x)
            out.append(x)
            start = end
        return out

    def forward(
        self, image: torch.Tensor, text: torch.Tensor, codes: torch.Tensor, maps: list[torch.Tensor] | None = None
    ) -> torch.Tensor:
        """`maps`: what `encode` gives for the image, where the caller has it already."""
        maps = self.encode(image) if maps is None else maps
        tokens = self.mapper(text, codes)
        b, c, h, w = maps[-1].shape
        x = torch.cat([tokens, maps[-1].flatten(2).transpose(1, 2)], dim=1)
        for block in self.blocks:
            x = block(x)
        tokens, cells = x[:, : tokens.shape[1]], x[:, tokens.shape[1] :]  # equation 18
        code = tokens.mean(dim=1)
        y = cells.transpose(1, 2).reshape(b, c, h, w)
        for up, skip in zip(self.ups, maps[-2::-1]):  # equation 19
            y = up(y, skip, code)
        # A share of the distance to white or to black: always in range, and an untrained network returns the source
        # exactly. (Without a bound the change diverged into flat colour; a clamp that passes gradients does not stop
        # that.)
        change = self.last(y).tanh()
        # Not by clamps: their gradient is 0 at a change of 0, where training begins.
        return image + change * torch.where(change >= 0, 1 - image, image)
