"""Emotional tokens: what MUSE optimises (section IV-A), saved, and put after any text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from .. import files
from ..diffusion.protocol import Conditioning
from ..errors import UserError


@dataclass(frozen=True)
class EmotionTokens:
    """The EMOTION_TOKENS socket: tokens [B, n, D] that follow a text's embeddings, and what they mean."""

    tokens: torch.Tensor
    label: str = ""
    optimised: bool = True
    """False where a run left them as drawn: its gate never opened, or its intensity was 0."""

    def save(self, path: Path | str) -> Path:
        """Writes a safetensors file. UserError where the tokens were never optimised."""
        if not self.optimised:
            raise UserError(
                "These emotion tokens were never optimised: the gate did not open, or the intensity was 0. "
                "Nothing was saved; look at the trace."
            )
        return files.save_safetensors(path, {"emotion_tokens": self.tokens.float()}, {"label": self.label})

    @classmethod
    def load(cls, path: Path | str) -> EmotionTokens:
        """Reads what `save` wrote. UserError where the file holds something else."""
        state, metadata = files.load_safetensors(path)
        if set(state) != {"emotion_tokens"} or state["emotion_tokens"].ndim != 3:
            raise UserError(f"'{Path(path).name}' holds no emotion tokens: save some with Save Emotion Tokens.")
        if not torch.isfinite(state["emotion_tokens"].float()).all():
            raise UserError(
                f"The emotion tokens in '{Path(path).name}' hold values that are not numbers (NaN or infinity): the "
                "file is damaged. Optimise and save them again."
            )
        return cls(state["emotion_tokens"], metadata.get("label", ""))

    def apply(self, conditioning: Conditioning) -> Conditioning:
        """The conditioning with the tokens after each of its texts; UserError where their widths differ."""
        out = []
        for embeds, options in conditioning:
            check_width(self.tokens, embeds.shape[-1])
            options, mask = dict(options), options.get("attention_mask")
            if mask is not None:
                if mask.ndim != 2 or mask.shape[-1] != embeds.shape[1]:
                    raise UserError(
                        "This conditioning carries an attention mask that does not count its tokens one by one (Redux "
                        "and other image prompts make one), which emotional tokens would make wrong. Connect the text "
                        "encoder's own."
                    )
                options["attention_mask"] = torch.cat([mask, mask.new_ones(len(mask), self.tokens.shape[1])], dim=1)
            tokens = self.tokens.to(embeds)
            batch = max(len(tokens), len(embeds))
            parts = [t.expand(batch, -1, -1) if len(t) == 1 else t for t in (embeds, tokens)]
            if {len(p) for p in parts} != {batch}:
                raise UserError(f"{len(tokens)} sets of emotion tokens do not fit a conditioning of {len(embeds)}.")
            out.append([torch.cat(parts, dim=1), options])
        return out


def check_width(tokens: torch.Tensor, width: int) -> None:
    """UserError where tokens [.., D] are not as wide as a model's text."""
    if tokens.shape[-1] != width:
        raise UserError(
            f"These emotion tokens are {tokens.shape[-1]} wide and the model's text is {width} wide: they "
            "were optimised for another model family. Optimise them for this one."
        )


def initial_tokens(batch: int, n: int, like: torch.Tensor, seed: int) -> torch.Tensor:
    """[batch, n, D] float32, small and random: a tenth of the deviation of the text's own embeddings `like`
    [.., D] (the paper says only "randomly initialize"; small ones hardly disturb the step they first enter)."""
    generator = torch.Generator("cpu").manual_seed((seed + 2**32) % 2**64)  # not the stream of the latent's noise
    noise = torch.randn(batch, n, like.shape[-1], generator=generator)
    return noise.to(like.device) * (0.1 * like.float().std())
