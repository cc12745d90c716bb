"""The AFFECT_EMOLAT socket: eight codebooks, the transfer network (where it was trained), and the feature networks that
they read. One safetensors file; its metadata says what it was trained with."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from .. import bundled, files, host
from ..emotions import MIKELS, EmotionTarget
from ..errors import UserError
from ..muse import EmotionTokens
from ..networks.backbones import Backbone, load_backbone
from ..networks.clip import ClipScorer
from ..networks.scorers import load_scorer
from .codebook import Codebooks
from .transfer import TransferNet

VGG_CHANNELS = {"tiny-vgg": (16, 32, 48, 96, 128), "vgg19": (64, 128, 256, 512, 512)}
"""Channels of a VGG's five blocks."""


@dataclass(frozen=True)
class EmoLatConfig:
    """The architecture of an EmoLat.

    clip     the `scorers.load_scorer` name of the text encoder
    vgg      the `backbones.load_backbone` name of the feature network; a code is two neighbouring vectors of its
             relu5_1
    entries  codes in each of the eight books
    layers, heads  the multi-modal transformer's
    codes    False: the mapper reads the text alone (the paper's Table III)
    """

    clip: str = "tiny"
    vgg: str = "tiny-vgg"
    entries: int = 256
    layers: int = 2
    heads: int = 4
    codes: bool = True

    def __post_init__(self) -> None:
        if self.vgg not in VGG_CHANNELS:
            raise UserError(f"EmoLat's feature network must be {' or '.join(VGG_CHANNELS)}, not '{self.vgg}'.")

    @property
    def code_width(self) -> int:
        return 2 * VGG_CHANNELS[self.vgg][-1]


@dataclass(frozen=True)
class EmoLatCode:
    """The AFFECT_EMOLAT_CODE socket: codes [n, W] drawn for an emotion, and `tokens` [n, D], their projection to
    initial tokens for MUSE (None where the EmoLat has none)."""

    codes: torch.Tensor
    emotion: EmotionTarget
    tokens: torch.Tensor | None = None

    def as_tokens(self) -> EmotionTokens:
        """Initial tokens for MUSE. UserError where the EmoLat has no projection onto them."""
        if self.tokens is None:
            raise UserError(
                "This EmoLat's codes cannot start emotional tokens: it has no projection onto them. Train one with "
                "`affect train emolat-tokens`, or leave init_tokens open."
            )
        return EmotionTokens(self.tokens[None], self.emotion.label)


class TokenMap(nn.Linear):
    """Codes [.., W] -> MUSE's initial tokens [.., D]: linear in the standardised code (the emotion is in its direction,
    not its length), and at most as long as a text's embeddings, whose root mean square is 1."""

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        tokens = super().forward(F.layer_norm(codes, codes.shape[-1:]))
        return tokens / tokens.square().mean(dim=-1, keepdim=True).sqrt().clamp(min=1.0)


class EmoLat(nn.Module):
    """Codebooks and transfer network. `network` is None after stage one, `token_map` where it was not trained.
    `training_config`: the tables of the configs of its training, from which benchmarks train rivals."""

    vgg: Backbone
    scorer: ClipScorer

    def __init__(
        self, config: EmoLatConfig, vgg: Backbone, scorer: ClipScorer, network: bool = True, token_width: int = 0
    ):
        super().__init__()
        self.config = config
        self.__dict__["vgg"], self.__dict__["scorer"] = vgg, scorer  # frozen and shared: not part of the file
        self.codebooks = Codebooks(config.entries, config.code_width)
        self.network = (
            TransferNet(
                vgg,
                VGG_CHANNELS[config.vgg][:4],
                scorer.feature_width,
                config.code_width,
                config.layers,
                config.heads,
                config.codes,
            )
            if network
            else None
        )
        self.token_map = TokenMap(config.code_width, token_width) if token_width else None
        self.training_config: dict[str, Any] = {}

    @property
    def parts(self) -> tuple[nn.Module, ...]:
        """The networks that must be on one device."""
        return self, self.vgg, self.scorer

    def sample(self, emotion: EmotionTarget, n: int, temperature: float, seed: int) -> EmoLatCode:
        """n codes for an emotion, by a seed: books are drawn by the emotion's distribution, codes inside a book by
        their use and the temperature. UserError for an emotion that the EmoLat was never trained on."""
        distribution = torch.tensor(emotion.distribution)
        unknown = [
            name
            for name, share, used in zip(MIKELS, distribution, self.codebooks.use.sum(dim=1))
            if share > 0 and not used
        ]
        if unknown:
            raise UserError(
                f"This EmoLat was not trained on {' or '.join(unknown)}. Choose another emotion, or train it on images "
                "of that one."
            )
        generator = torch.Generator().manual_seed(seed % 2**63)
        books = torch.multinomial(distribution, n, replacement=True, generator=generator)
        codes = self.codebooks.sample(books.to(self.codebooks.entries.device), 1, temperature, generator)[:, 0].detach()
        return EmoLatCode(codes, emotion, None if self.token_map is None else self.token_map(codes).detach())

    @torch.no_grad()
    def text(self, texts: list[str]) -> torch.Tensor:
        """[n, D] normalised features of texts."""
        return self.scorer.text_features(texts).float()

    @torch.no_grad()
    def words(self, emotion: EmotionTarget) -> torch.Tensor:
        """[1, D]: the text features of an emotion in equation 15: for one of the eight those of its word, for a mixture
        the weighted mean of the eight words', because the network learned these words."""
        weights = torch.tensor(emotion.distribution)
        mixed = weights.nonzero().flatten()
        features = self.text([MIKELS[k] for k in mixed.tolist()])
        return F.normalize(weights[mixed].to(features) @ features, dim=-1)[None]


_FORMAT = "emolat 1"


def save(path: Path, emolat: EmoLat, half: bool = True) -> Path:
    """Writes an EmoLat, in half precision unless told otherwise."""
    state = {k: v.half() if half and v.is_floating_point() else v for k, v in emolat.state_dict().items()}
    metadata = {
        "format": _FORMAT,
        "emotions": json.dumps(MIKELS),
        "config": json.dumps(asdict(emolat.config)),
        "training": json.dumps(emolat.training_config),
    }
    return files.save_safetensors(path, state, metadata)


def load(path: Path, device: str = "") -> EmoLat:
    """Reads what `save` wrote, in float32, onto a device (default: the host's). UserError where the file is something
    else, has its emotions in another order, or codes of another width than its VGG's."""
    state, metadata = files.load_safetensors(path)
    if metadata.get("format") != _FORMAT or "codebooks.entries" not in state:
        raise UserError(
            f"'{path.name}' does not hold an EmoLat. Train one with `affect train emolat` and `affect train transfer`."
        )
    try:
        order, made_of = tuple(json.loads(metadata["emotions"])), dict(json.loads(metadata["config"]))
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"'{path.name}' does not say which emotions its codebooks are for, or its architecture (its metadata's "
            "emotions and config). Write it again with `affect train emolat`."
        ) from None
    if order != tuple(MIKELS):
        raise UserError(
            f"'{path.name}' has its codebooks in the order {', '.join(map(str, order))}. Expected: {', '.join(MIKELS)}."
        )
    known = {f.name for f in fields(EmoLatConfig)}
    config = EmoLatConfig(**{k: v for k, v in made_of.items() if k in known})
    shape, wanted = tuple(state["codebooks.entries"].shape), (len(MIKELS), config.entries, config.code_width)
    if shape != wanted:
        raise UserError(
            f"'{path.name}' has codebooks of {shape[-1]} wide codes, {tuple(shape)} in all. Expected with "
            f"{config.vgg}: {wanted}, two neighbouring vectors of its relu5_1 a code."
        )
    emolat = EmoLat(
        config,
        load_backbone(config.vgg),
        load_scorer(config.clip),
        network=any(k.startswith("network.") for k in state),
        token_width=len(state["token_map.weight"]) if "token_map.weight" in state else 0,
    )
    files.load_into(emolat, {k: v.float() if v.is_floating_point() else v for k, v in state.items()}, path.name)
    emolat.training_config = json.loads(metadata.get("training", "{}"))
    device = device or host.current().device
    for part in emolat.parts:
        part.to(device)
    return emolat.eval().requires_grad_(False)


def names() -> list[str]:
    """The names of `load_emolat`: the bundled one's, and this machine's files."""
    return ["tiny", *host.current().list_files("emolat")]


def load_emolat(name: str) -> EmoLat:
    """The EmoLat of a name: tiny, or a file of models/emolat."""
    if name != "tiny":
        return load(files.find_model("emolat", name))
    bundled.verify("emolat")
    return load(bundled.path("emolat"))
