"""Published heads that read an emotion off CLIP's image features: EmoGen's and EmoEdit's."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from .. import files
from ..emotions import MIKELS
from ..errors import UserError
from ..pickled import load_pickled


class ClipEmotionHead(nn.Module):
    """A published head on unnormalised CLIP image features [B, D] -> logits [B, 8] in the order of `MIKELS`.

    EmoGen: one linear layer (`fc`) on ViT-L/14. EmoEdit: `hidden`, ReLU, `fc` on ViT-B/32. Sizes are read from the
    state dict. Both publish their classes in the order of `MIKELS`; another `order` is permuted.
    """

    def __init__(self, scorer: Any, state: dict[str, torch.Tensor], order: tuple[str, ...] = MIKELS):
        super().__init__()
        self.scorer = scorer
        shapes = {k: tuple(state[k].shape) for k in ("fc.weight", "hidden.weight") if k in state}
        hidden = shapes.get("hidden.weight", shapes["fc.weight"][-1:])
        if {len(v) for v in shapes.values()} != {2} or shapes["fc.weight"] != (len(MIKELS), hidden[0]):
            raise UserError(
                f"This file is not a head for Mikels' eight emotions: {shapes}. EmoGen's has fc.weight of 8 x 768, "
                "EmoEdit's hidden.weight of 256 x 512 and fc.weight of 8 x 256."
            )
        out, width = shapes["fc.weight"]
        self.fc = nn.Linear(width, out)
        wide = shapes.get("hidden.weight")
        self.hidden = nn.Linear(wide[1], wide[0]) if wide else None
        files.load_into(
            nn.ModuleDict({k: m for k, m in (("fc", self.fc), ("hidden", self.hidden)) if m is not None}),
            state,
            "the emotion head",
        )
        takes = (self.hidden or self.fc).in_features
        if takes != scorer.feature_width:
            raise UserError(
                f"This emotion head takes CLIP features {takes} wide and '{scorer.name}' gives "
                f"{scorer.feature_width}: choose ViT-L-14 for EmoGen's head, ViT-B-32 for EmoEdit's."
            )
        self.register_buffer("order", torch.tensor([order.index(name) for name in MIKELS]), persistent=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.scorer.image_features(image, normalize=False).float()
        if self.hidden is not None:
            x = F.relu(self.hidden(x))
        return self.fc(x)[:, self.order]


def read_head(path: Any) -> dict[str, torch.Tensor]:
    """The state dict of a published head: safetensors, or a `.pth` read with weights_only; a `module.` prefix is
    removed."""
    read: Any = files.load_safetensors(path)[0] if str(path).endswith(".safetensors") else load_pickled(path)
    read = read.get("state_dict", read) if isinstance(read, dict) else {}
    state = {str(k).removeprefix("module."): v for k, v in read.items()} if isinstance(read, dict) else {}
    if not isinstance(state.get("fc.weight"), torch.Tensor):
        raise UserError(
            f"'{path}' is not an emotion head: it has no 'fc.weight'. EmoGen's and EmoEdit's heads are supported."
        )
    return {k: v.float() for k, v in state.items() if k.startswith(("fc.", "hidden.")) and isinstance(v, torch.Tensor)}
