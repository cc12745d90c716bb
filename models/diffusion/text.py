"""From a prompt to CONDITIONING, as ComfyUI does it: `(word:1.3)` weights, `embedding:name` and chunks of 77 tokens.

All models here read CLIP's vocabulary, which open_clip ships, so no tokenizer file is needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..errors import UserError
from ..networks.tokenizer import CHUNK, END, START, check_length, token_ids
from ..tensors.ranges import finite
from . import embeddings
from .protocol import Conditioning

DEEPEST = 100
"""How deep parentheses may be nested: each is a factor of 1.1, and this many are 13,781."""


def parse_weights(text: str) -> list[tuple[str, float]]:
    """[(text, weight)]: `(x)` multiplies by 1.1, `(x:w)` sets w, nested; `\\(` and `\\)` are plain parentheses.
    UserError where they are nested too deeply."""
    text = text.replace("\\(", "\0").replace("\\)", "\1")
    parts: list[tuple[str, float]] = []
    _parse(text, 1.0, parts, 0)
    return [(t.replace("\0", "(").replace("\1", ")"), w) for t, w in parts]


def _parse(text: str, weight: float, out: list[tuple[str, float]], depth: int) -> None:
    if depth > DEEPEST:
        raise UserError(
            f"The prompt's parentheses are nested more than {DEEPEST} deep. Write the weight as a number: (word:1.5)."
        )
    for piece in _groups(text):
        if len(piece) < 2 or piece[0] != "(" or piece[-1] != ")":
            out.append((piece, weight))
            continue
        inner, inner_weight = piece[1:-1], weight * 1.1
        words, colon, number = inner.rpartition(":")
        if words and colon and (given := _number(number)) is not None:
            inner, inner_weight = words, given
        _parse(inner, inner_weight, out, depth + 1)


def _groups(text: str) -> list[str]:
    """A text cut before and after its outermost parentheses. As in ComfyUI, what is closed too often or never is
    cut nowhere."""
    pieces, depth, start = [], 0, 0
    for i, c in enumerate(text):
        if c == "(":
            if depth == 0 and i > start:
                pieces.append(text[start:i])
                start = i
            depth += 1
        elif c == ")":
            depth -= 1
            if depth == 0:
                pieces.append(text[start : i + 1])
                start = i + 1
    return pieces + [text[start:]] * (start < len(text))


def _number(text: str) -> float | None:
    """The weight that a text writes, in any form that Python reads (1., .5, 1e-1); None where it is no finite
    number."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def check(text: str) -> None:
    """UserError where a prompt cannot be read: too long, parentheses nested too deeply, embeddings that are not
    there."""
    tokenize(text)


def tokenize(
    text: str, pad: int = END, tower: str = "clip_l", width: int | None = None
) -> list[list[tuple[int, float]]]:
    """Chunks of exactly 77 (token id, weight), each with start and end tokens. SD pads with the end token, SDXL's
    second encoder with 0. A vector of an embedding is an `embeddings.Vector`.

    As in ComfyUI, a piece of the text between two changes of weight is moved to the next chunk whole where it has fewer
    than eight tokens, and else cut where the chunk ends.
    """
    check_length(text)
    chunks: list[list[tuple[int, float]]] = [[]]
    for group in _token_groups(text, tower, width):
        large = len(group) >= 8
        while group:
            room = CHUNK - 2 - len(chunks[-1])
            if len(group) <= room:
                chunks[-1] += group
                break
            if large:
                chunks[-1] += group[:room]
                group = group[room:]
            chunks.append([])
    full = []
    for chunk in chunks:
        row = [(START, 1.0), *chunk, (END, 1.0)]
        full.append(row + [(pad, 1.0)] * (CHUNK - len(row)))
    return full


def _token_groups(text: str, tower: str, width: int | None) -> list[list[tuple[int, float]]]:
    """(token, weight) of each piece of a text: what has one weight, and each embedding."""
    groups = []
    for segment, weight in parse_weights(text):
        for piece in embeddings.split(segment):
            if piece.startswith(embeddings.MARK):
                ids: list[int] = [*embeddings.tokens(piece.removeprefix(embeddings.MARK), tower, width)]
            else:
                ids = token_ids(piece)
            groups.append([(i, weight) for i in ids])
    return groups


Tower = Callable[..., tuple[torch.Tensor, torch.Tensor | None]]
"""ids [B, T] (and `towers.Vectors`, where the prompt has embeddings) -> (hidden [B, T, D], pooled [B, P] or None)."""


@dataclass
class TextEncoder:
    """The CLIP socket of the embedded host: one or two text towers.

    towers  functions ids [B, 77] -> (hidden [B, 77, D], pooled [B, P] or None)
    pads    the pad token of each tower
    names   what ComfyUI calls each tower: LoRA and embedding files go by it
    """

    towers: list[Tower]
    pads: tuple[int, ...] = (END,)
    names: tuple[str, ...] = ("clip_l", "clip_g")

    @torch.no_grad()
    def encode(self, text: str) -> Conditioning:
        """[[embeds [1, 77 n, D], {"pooled_output": [1, P] or None, "token_ids": [77 n]}]]. Towers are joined along
        D. A weight moves a token away from what the empty prompt gives at its place, as in ComfyUI: empty + w *
        (token - empty)."""
        hidden, pooled = [], None
        for tower, pad, name in zip(self.towers, self.pads, self.names):
            chunks = tokenize(text, pad, name, getattr(tower, "width", None))
            weights = torch.tensor([[w for _, w in c] for c in chunks])
            weighted = bool((weights != 1.0).any())
            if weighted:
                chunks = [*chunks, tokenize("", pad)[0]]
            h, p = _read(tower, [[i for i, _ in c] for c in chunks])
            if weighted:
                h, empty = h[:-1], h[-1:]
                w = weights[..., None].to(h)
                h = torch.where(w == 1, h, empty + w * (h - empty))
            hidden.append(h.reshape(1, -1, h.shape[-1]))
            pooled = p[:1] if p is not None else pooled
        if len({h.shape[1] for h in hidden}) > 1:
            raise UserError(
                "An embedding of this prompt has more vectors for one of the model's text encoders than for the other, "
                "so that the two read texts of different lengths. Make the prompt shorter."
            )
        embeds = finite(torch.cat(hidden, dim=-1), "The text encoder gave")
        known = [int(i) for chunk in tokenize(text, tower=self.names[0]) for i, _ in chunk]
        return [[embeds, {"pooled_output": pooled, "token_ids": known}]]


def _read(tower: Tower, chunks: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What a tower gives for rows of tokens, embeddings among them."""
    vectors = {
        (row, column): token.vector
        for row, ids in enumerate(chunks)
        for column, token in enumerate(ids)
        if isinstance(token, embeddings.Vector)
    }
    ids = torch.tensor([[0 if isinstance(token, embeddings.Vector) else token for token in row] for row in chunks])
    return tower(ids, vectors) if vectors else tower(ids)
