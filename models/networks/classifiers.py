"""Emotion classifiers: image [B, 3, H, W] in 0..1 -> logits [B, 8] in the order of `emotions.MIKELS`, differentiable.

Three tiny ones of our own, zero-shot CLIP, the published heads on CLIP features (`heads`), and heads that people's
ratings of photographs taught (`valence_arousal`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from .. import bundled, files, host
from ..emotions import GOEMOTIONS, MIKELS
from ..tensors.resize import resized
from .valence_arousal import BUNDLED, load_valence_arousal

INPUT_SIZE = 128


class _Block(nn.Module):
    def __init__(self, width_in: int, width: int, stride: int):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(8, width_in), nn.Conv2d(width_in, width, 3, stride, 1)
        self.norm2, self.conv2 = nn.GroupNorm(8, width), nn.Conv2d(width, width, 3, 1, 1)
        self.skip = nn.Conv2d(width_in, width, 1, stride) if stride > 1 or width_in != width else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return self.skip(x) + self.conv2(F.silu(self.norm2(h)))


class ConvEmotionNet(nn.Module):
    """tiny-a and tiny-c: a residual network of 0.5 million parameters. SiLU throughout, for smooth gradients."""

    def __init__(self, widths: tuple[int, ...] = (32, 64, 96, 128)):
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 4, 4)
        pairs = zip((widths[0], *widths), widths)
        self.blocks = nn.Sequential(*(_Block(a, b, 1 if i == 0 else 2) for i, (a, b) in enumerate(pairs)))
        self.norm, self.head = nn.GroupNorm(8, widths[-1]), nn.Linear(2 * widths[-1], len(MIKELS))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = F.silu(self.norm(self.blocks(self.stem(resized(image, INPUT_SIZE, INPUT_SIZE) * 2 - 1))))
        return self.head(torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1))


class PatchEmotionNet(nn.Module):
    """tiny-b: a transformer over 16 x 16 patches, of 0.9 million parameters. Another architecture than tiny-a's, so
    that its errors are other ones."""

    def __init__(self, width: int = 128, layers: int = 5, heads: int = 4, patch: int = 16):
        super().__init__()
        self.patch = nn.Conv2d(3, width, patch, patch)
        self.position = nn.Parameter(torch.randn(1, (INPUT_SIZE // patch) ** 2, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, heads, 3 * width, dropout=0.1, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, len(MIKELS))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.patch(resized(image, INPUT_SIZE, INPUT_SIZE) * 2 - 1).flatten(2).transpose(1, 2)
        return self.head(self.encoder(x + self.position).mean(dim=1))


TINY: dict[str, Callable[[], nn.Module]] = {
    "tiny-a": ConvEmotionNet,
    "tiny-b": PatchEmotionNet,
    "tiny-c": ConvEmotionNet,
}


class ZeroShotEmotion(nn.Module):
    """CLIP without training: the cosine between the image and sentences for each emotion, over a temperature. Classes
    are Mikels' eight (`forward`) or GoEmotions' 27 (`fine`)."""

    TEMPLATES = ("a picture that evokes {}", "an image full of {}", "a scene of {}")
    text: torch.Tensor
    fine_text: torch.Tensor | None

    def __init__(self, scorer: Any):
        super().__init__()
        self.scorer = scorer
        self.register_buffer("text", self._features(MIKELS), persistent=False)
        # Computed at the first call of `fine`: guidance never calls it.
        self.register_buffer("fine_text", None, persistent=False)

    @torch.no_grad()
    def _features(self, labels: tuple[str, ...]) -> torch.Tensor:
        """[n, D] normalised: the mean over the templates of each label's features."""
        rows = [self.scorer.text_features([t.format(label) for t in self.TEMPLATES]).mean(dim=0) for label in labels]
        return F.normalize(torch.stack(rows), dim=-1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.scorer.logit_scale * self.scorer.image_features(image) @ self.text.T

    def fine(self, image: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W] in 0..1 -> logits [B, 27] in the order of `emotions.GOEMOTIONS`."""
        if self.fine_text is None:
            self.fine_text = self._features(GOEMOTIONS)
        return self.scorer.logit_scale * self.scorer.image_features(image) @ self.fine_text.T


ZERO_SHOT = "clip-zero-shot"


def names() -> list[str]:
    """The names of `load_classifier`: those that need no file, and the heads of this machine."""
    return [*TINY, ZERO_SHOT, *BUNDLED, *host.current().list_files("affect", (".safetensors", ".pth"))]


def load_classifier(name: str, clip_model: str = "tiny") -> nn.Module:
    """The classifier of a name: tiny-a, tiny-b, tiny-c, clip-zero-shot, photo, photo-lite2, or a head file under
    models/affect.

    clip_model names the CLIP (see `scorers.load_scorer`) whose features zero-shot and published heads read. "tiny"
    means tiny-eval for zero-shot: the CLIP that conditions the sampler must not judge its images.
    """
    from ..tensors.gradients import frozen
    from .heads import ClipEmotionHead, read_head
    from .scorers import load_scorer

    if name in BUNDLED:
        return load_valence_arousal(name)
    if name in TINY:
        model = TINY[name]()
        bundled.load(name, model)
    elif name == ZERO_SHOT:
        model = ZeroShotEmotion(load_scorer("tiny-eval" if clip_model == "tiny" else clip_model))
    else:
        model = ClipEmotionHead(load_scorer(clip_model), read_head(files.find_model("affect", name)))
    frozen([model])
    return model.to(host.current().device)
