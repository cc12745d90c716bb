"""CLIP as a scorer: how well does an image fit a text? The CLIP_SCORER socket."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

# Published CLIP models score about 30 on their own 100 * cosine scale for a fitting image and about 14 for one that
# shows nothing of the text. A model with other cosines is mapped onto that scale by two figures of its card.
UNRELATED, FITTING = 14.0, 30.0

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


class ClipScorer(nn.Module):
    """An open_clip model and its tokenizer.

    lo, hi  mean cosines with their own prompt of predictions from pure noise, and of plain samples (on the model's
            card); None for published models, whose score is 100 * cosine
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, clip: Any, tokenizer: Any, name: str, lo: float | None = None, hi: float | None = None):
        super().__init__()
        clip.eval().requires_grad_(False)
        self.clip, self.tokenizer, self.name, self.lo, self.hi = clip, tokenizer, name, lo, hi
        visual = clip.visual
        size = getattr(visual, "image_size", 224)
        self.size = size[0] if isinstance(size, (tuple, list)) else size
        config = getattr(visual, "preprocess_cfg", None) or {}
        self.register_buffer("mean", torch.tensor(config.get("mean", MEAN)).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.get("std", STD)).view(1, 3, 1, 1), persistent=False)

    @property
    def feature_width(self) -> int:
        """D, the width of the joint space."""
        return (
            self.clip.text_projection.shape[-1]
            if hasattr(self.clip, "text_projection")
            else self.clip.visual.output_dim
        )

    @property
    def logit_scale(self) -> torch.Tensor:
        """The learned inverse temperature."""
        return self.clip.logit_scale.exp()

    def preprocess(self, image: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W] in 0..1 -> [B, 3, S, S] as the image tower takes it: the whole image is resized (bicubic)."""
        x = F.interpolate(image, size=(self.size, self.size), mode="bicubic", antialias=True, align_corners=False)
        return (x - self.mean) / self.std

    def image_features(self, image: torch.Tensor, normalize: bool = True) -> torch.Tensor:
        """[B, 3, H, W] in 0..1 -> [B, D]. Differentiable."""
        return self.clip.encode_image(self.preprocess(image), normalize=normalize)

    def text_features(self, texts: list[str]) -> torch.Tensor:
        """n texts -> [n, D], normalised."""
        ids = self.tokenizer(texts).to(self.mean.device)
        return self.clip.encode_text(ids, normalize=True)

    @torch.no_grad()
    def score(self, image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """image [B, 3, H, W], text features [B or 1, D] -> [B] scores on the scale where published CLIP models
        give about 14 for unrelated and 30 for fitting pairs: 100 * cosine, or by lo and hi (MUSE equation 9; its
        division by 0.07 cannot exceed 14.3 and so cannot be the scale of its thresholds)."""
        cosine = (self.image_features(image) * text).sum(dim=-1)
        if self.lo is None or self.hi is None:
            return 100.0 * cosine
        return UNRELATED + (FITTING - UNRELATED) * (cosine - self.lo) / (self.hi - self.lo)
