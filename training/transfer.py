"""EmoLat's second stage: the transfer network, trained on unpaired images through frozen networks (equations 15 to 27).

affect train transfer --out emolat.safetensors data.folder=FOLDER
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from ..models import host
from ..models.emolat import losses
from ..models.emolat.space import VGG_CHANNELS, EmoLat, EmoLatConfig, load, save
from ..models.emolat.transfer import TransferNet
from ..models.emotions import MIKELS
from ..models.errors import UserError
from ..models.gram import total_variation
from ..models.networks.classifiers import load_classifier
from ..models.networks.clip import ClipScorer
from ..models.networks.views import view
from .config import read
from .emolat import Data, DataConfig, add_arguments, prepared, read_data
from .loop import LoopConfig, Losses, fit, split

__all__ = ["add_arguments", "main"]


@dataclass(frozen=True)
class TransferConfig(losses.Weights):
    """Stage two: weights of the losses (0 leaves one out: that is each ablation), the classifier of equation 25 and the
    CLIP it may need, CLIPstyler's patches, and the most codes an image is trained with.

    views   the classifier sees this number of random views of a result (as MUSE's, `models.networks.views`): a change
            that every view shows convinces classifiers that did not train it; 0 shows it the result itself, as the
            paper does
    coarse  share of the steps, from the first on, whose images have half the size: palette and light are learned there
            at a quarter of the cost, texture after it
    """

    classifier: str = "tiny-a"
    classifier_clip: str = "tiny"
    patches: int = 8
    most_codes: int = 4
    views: int = 0
    coarse: float = 0.0

    def __post_init__(self) -> None:
        for key, low in (("patches", 1), ("most_codes", 1), ("views", 0)):
            if getattr(self, key) < low:
                raise UserError(f"[transfer] {key} is at least {low}, got {getattr(self, key)}.")


class Transfer(nn.Module):
    """Everything stage two trains: the network and the adversary of equation 23. One forward pass gives all losses."""

    scorer: ClipScorer
    classifier: nn.Module

    def __init__(self, network: TransferNet, config: TransferConfig, scorer: ClipScorer, classifier: nn.Module):
        super().__init__()
        self.network, self.config = network, config
        self.judge = losses.ImageJudge(scorer.feature_width) if config.gan else None
        self.__dict__["scorer"], self.__dict__["classifier"] = scorer, classifier  # frozen: neither trained nor saved

    def forward(
        self,
        content: torch.Tensor,
        reference: torch.Tensor,
        text: torch.Tensor,
        source_text: torch.Tensor,
        codes: torch.Tensor,
        label: torch.Tensor,
    ) -> Losses:
        """content, reference [B, 3, S, S]; text, source_text [B, D]: features of the target's and the source's words;
        codes [B, n, W]; label [B] the target, which is the reference's emotion."""
        weights, net, b = self.config, self.network, len(content)
        with torch.no_grad():
            maps = net.encode(torch.cat([content, reference]))
        of = lambda part: [m[part] for m in maps]
        content_maps, reference_maps = of(slice(b)), of(slice(b, None))
        if weights.identity:  # the reference with its own emotion, in the same pass
            both = net(torch.cat([content, reference]), text.repeat(2, 1), codes.repeat(2, 1, 1), maps)
            both_maps = net.encode(both)
            result, result_maps = both[:b], [m[:b] for m in both_maps]
        else:
            result = net(content, text, codes, content_maps)
            result_maps = net.encode(result)
        parts: Losses = {}
        if weights.content:
            parts["content"] = losses.content_loss(result_maps, content_maps)
        if weights.style:
            parts["style"] = losses.style_loss(result_maps, reference_maps)
        if weights.identity:
            parts["identity"] = losses.identity_loss(both[b:], reference, [m[b:] for m in both_maps], reference_maps)
        if weights.emotion:
            seen = [view(result, each=True) for _ in range(self.config.views)] or [result]
            parts["emotion"] = torch.stack([losses.emotion_loss(self.classifier(x), label) for x in seen]).mean()
        if weights.clip:
            encode = lambda x: F.normalize(self.scorer.image_features(x), dim=-1)
            parts["clip"] = losses.patch_clip_loss(encode, result, content, text, source_text, self.config.patches)
        if weights.smooth:
            parts["smooth"] = total_variation(result - content)
        adversary = result.new_zeros(())
        if self.judge is not None:
            held = {k: v.detach() for k, v in self.judge.named_parameters()}
            parts["gan"] = losses.gan_loss(functional_call(self.judge, held, (result, text)))
            adversary = losses.adversary_loss(self.judge(reference, text), self.judge(result.detach(), text))
        return {"loss": losses.total_loss(parts, weights) + adversary, "adversary": adversary, **parts}


def train_transfer(
    data: Data,
    emolat: EmoLat,
    config: TransferConfig,
    loop: LoopConfig,
    runs: Path,
    device: str,
    name: str = "transfer",
) -> TransferNet:
    """Trains a transfer network on an EmoLat's codebooks and returns it."""
    from accelerate import PartialState

    model = emolat.config
    network = TransferNet(
        emolat.vgg,
        VGG_CHANNELS[model.vgg][:4],
        emolat.scorer.feature_width,
        model.code_width,
        model.layers,
        model.heads,
        model.codes,
    )
    classifier = load_classifier(config.classifier, config.classifier_clip).to(device).requires_grad_(False)
    emotions, words, process = data.graphs.emotions, data.graphs.words_of_emotions, PartialState().process_index
    of_emotion = [(emotions == k).nonzero().flatten().cpu() for k in range(len(MIKELS))]
    there = torch.tensor([k for k, rows in enumerate(of_emotion) if len(rows)])

    def batches(step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed((loop.seed + 7919 * process) * 1_000_003 + step)
        draw = lambda n: int(torch.randint(n, (), generator=generator))
        content = torch.randint(len(emotions), (loop.batch,), generator=generator)
        target = there[torch.randint(len(there), (loop.batch,), generator=generator)]
        reference = torch.stack([of_emotion[k][draw(len(of_emotion[k]))] for k in target.tolist()])
        # As inference draws: codes of the emotion's own book, by their use.
        codes = emolat.codebooks.sample(target.to(emotions.device), 1 + draw(config.most_codes), 1.0, generator)
        return content, reference, target.to(emotions.device), codes.detach()

    def loss(module: nn.Module, batch: tuple, step: int) -> Losses:
        content, reference, target, codes = batch
        source = emotions[content.to(emotions.device)]
        before, wanted = data.images(content), data.images(reference)
        if step < config.coarse * loop.steps:
            before, wanted = F.avg_pool2d(before, 2), F.avg_pool2d(wanted, 2)
        return module(before, wanted, words[target], words[source], codes, target)

    return fit(
        Transfer(network, config, emolat.scorer, classifier),
        loss,
        batches,
        loop,
        runs / name,
        name,
        model,
        config,
        *data.given(),
        emolat.codebooks,
        emolat.vgg,
        emolat.scorer,
        classifier,
    ).network


def with_network(space: EmoLat, config: EmoLatConfig) -> EmoLat:
    """An EmoLat on the codebooks (and token map) of another, with an untrained network of `config`. UserError where
    the books are not what `config` says."""
    same = ("clip", "vgg", "entries")
    if any(getattr(config, key) != getattr(space.config, key) for key in same):
        said = lambda c: ", ".join(f"{key} = {getattr(c, key)}" for key in same)
        raise UserError(
            f"These codebooks were trained with {said(space.config)}; the config's [model] says {said(config)}. Give "
            "stage two the settings of stage one."
        )
    emolat = EmoLat(config, space.vgg, space.scorer, network=True)
    emolat.codebooks, emolat.token_map = space.codebooks, space.token_map
    emolat.training_config = dict(space.training_config)
    return emolat


def main(args: argparse.Namespace) -> int:
    config, model = prepared(args)
    own, loop = split(config["transfer"], TransferConfig, "transfer")
    if not args.out.is_file():
        raise UserError(
            f"There is no {args.out} to learn from: make its codebooks first, by `affect train emolat --out "
            f"{args.out}`."
        )
    # What may be missing comes first, what takes hours after it.
    space = load(args.out, args.device)
    load_classifier(own.classifier, own.classifier_clip)
    torch.manual_seed(loop.seed)  # the network's first weights
    emolat = with_network(space, model)
    data = read_data(read(DataConfig, config["data"], "[data]"), model, args.runs, args.device)
    network = train_transfer(data, emolat, own, loop, args.runs, args.device)
    assert emolat.network is not None  # of `with_network`
    emolat.network.load_state_dict(network.state_dict())
    emolat.training_config |= {"data": config["data"], "transfer": config["transfer"]}
    save(args.out, emolat)
    host.current().note(data.summary)
    host.current().note(f"Wrote {args.out}.")
    return 0
