"""From a prompt to CONDITIONING, as ComfyUI does it: `(word:1.3)` weights and chunks of 77 tokens.

All models here read CLIP's vocabulary, which open_clip ships, so no tokenizer file is needed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Callable

import torch

from .protocol import Conditioning

CHUNK = 77
START, END = 49406, 49407


@lru_cache(maxsize=1)
def bpe() -> Any:
    """CLIP's byte-pair tokenizer (open_clip ships its vocabulary)."""
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()


def parse_weights(text: str) -> list[tuple[str, float]]:
    """[(text, weight)]: `(x)` multiplies by 1.1, `(x:w)` sets w, nested; `\\(` and `\\)` are plain parentheses."""
    text = text.replace("\\(", "\0").replace("\\)", "\1")
    parts: list[tuple[str, float]] = []
    _parse(text, 1.0, parts)
    return [(t.replace("\0", "(").replace("\1", ")"), w) for t, w in parts]


def _parse(text: str, weight: float, out: list[tuple[str, float]]) -> None:
    depth, start = 0, 0
    for i, c in enumerate(text):
        if c == "(":
            if depth == 0:
                if text[start:i]:
                    out.append((text[start:i], weight))
                start = i
            depth += 1
        elif c == ")" and depth:
            depth -= 1
            if depth == 0:
                inner, inner_weight = text[start + 1:i], weight * 1.1
                explicit = re.fullmatch(r"(.*):\s*([+-]?\d*\.?\d+)\s*", inner, flags=re.DOTALL)
                if explicit:
                    inner, inner_weight = explicit.group(1), float(explicit.group(2))
                _parse(inner, inner_weight, out)
                start = i + 1
    if text[start:]:  # an unclosed parenthesis is plain text
        out.append((text[start:], weight))


def tokenize(text: str, pad: int = END) -> list[list[tuple[int, float]]]:
    """Chunks of exactly 77 (token id, weight), each with start and end tokens; a word is not split over two
    chunks unless it is longer than eight tokens. SD pads with the end token, SDXL's second encoder with 0."""
    chunks: list[list[tuple[int, float]]] = [[]]
    for segment, weight in parse_weights(text):
        for word in re.findall(r"\S+", segment):
            ids = [(i, weight) for i in bpe().encode(word)]
            room = CHUNK - 2 - len(chunks[-1])
            if len(ids) > room:
                if len(ids) > 8:
                    chunks[-1] += ids[:room]
                    ids = ids[room:]
                while len(ids) > CHUNK - 2:
                    chunks.append(ids[:CHUNK - 2])
                    ids = ids[CHUNK - 2:]
                chunks.append([])
            chunks[-1] += ids
    full = []
    for chunk in chunks:
        row = [(START, 1.0), *chunk, (END, 1.0)]
        full.append(row + [(pad, 1.0)] * (CHUNK - len(row)))
    return full


Tower = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor | None]]


def open_clip_tower(clip: Any, penultimate: bool = False, norm: bool = True) -> Tower:
    """A function ids [B, T] -> (hidden [B, T, D], pooled [B, P]) of an open_clip CLIP or TextTransformer.

    penultimate  hidden states before the last block (SD2, SDXL) in place of those behind it (SD1.5)
    norm         through the final norm (not in SDXL)
    """

    def encode(ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        ids = ids.to(clip.positional_embedding.device)
        n = ids.shape[1]
        x, mask = clip.token_embedding(ids) + clip.positional_embedding[:n], clip.attn_mask[:n, :n]
        for block in clip.transformer.resblocks:
            before, x = x, block(x, attn_mask=mask)
        last = clip.ln_final(x)
        end = ids.argmax(dim=-1)  # the first end token: it has the largest id
        hidden = before if penultimate else x
        return (clip.ln_final(hidden) if norm else hidden), last[torch.arange(len(last)), end] @ clip.text_projection

    return encode


@dataclass
class TextEncoder:
    """The CLIP socket of the embedded host: one or two text towers.

    towers  functions ids [B, 77] -> (hidden [B, 77, D], pooled [B, P] or None)
    pads    the pad token of each tower
    """

    towers: list[Tower]
    pads: tuple[int, ...] = (END,)

    @torch.no_grad()
    def encode(self, text: str) -> Conditioning:
        """[[embeds [1, 77 n, D], {"pooled_output": [1, P] or None, "token_ids": [77 n]}]]. Towers are joined along D. A weight moves a
        token away from what the empty prompt gives at its place, as in ComfyUI: empty + w * (token - empty)."""
        hidden, pooled = [], None
        for tower, pad in zip(self.towers, self.pads):
            chunks = tokenize(text, pad)
            weights = torch.tensor([[w for _, w in c] for c in chunks])
            ids = torch.tensor([[i for i, _ in c] for c in chunks])
            weighted = bool((weights != 1.0).any())
            if weighted:
                ids = torch.cat([ids, torch.tensor([[i for i, _ in tokenize("", pad)[0]]])])
            h, p = tower(ids)
            if weighted:
                h, empty = h[:-1], h[-1:]
                w = weights[..., None].to(h)
                h = torch.where(w == 1, h, empty + w * (h - empty))
            hidden.append(h.reshape(1, -1, h.shape[-1]))
            pooled = p[:1] if p is not None else pooled
        known = [i for chunk in tokenize(text) for i, _ in chunk]
        return [[torch.cat(hidden, dim=-1), {"pooled_output": pooled, "token_ids": known}]]
