"""EmoLat's first stage: graph encoder, eight codebooks and adversary, learned from annotated images (equations 1 to
14).

affect train emolat --out emolat.safetensors data.folder=FOLDER
"""

from __future__ import annotations

import argparse
import hashlib
import math
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.func import functional_call

from ..models import host
from ..models.emolat.codebook import Codebooks, mean_dispersion, perplexity, uniformity_loss
from ..models.emolat.discriminator import Discriminator, discriminator_loss, generator_loss
from ..models.emolat.graph import GraphBatch, GraphEncoder
from ..models.emolat.space import EmoLat, EmoLatConfig, save
from ..models.emotions import MIKELS
from ..models.errors import UserError
from ..models.files import write_atomically
from ..models.networks.backbones import VGG_CUTS, Backbone, load_backbone
from ..models.networks.scorers import load_scorer
from .config import load_config, read
from .data.annotated import Annotated, read_annotations
from .data.graphs import GraphRows, make_pictures
from .loop import LoopConfig, Losses, digest, fit, on_device, split

VECTORS = 32
"""Real vectors of an image that the adversary sees, drawn once where there are more: 118,100 images of 196 would be
23 GB."""

COUNT_EVERY = 200
"""Steps between exact counts of the books' use."""

SETTLING = 3
"""Passes in which the books settle at the end: in a trained space the least used book went from a perplexity of 108
to 182, 195 and 197, and to 199 in eight; a probe named 0.55 of the codes before and after."""


@dataclass
class DataConfig:
    """folder: annotated images (`data.annotated`); empty: `n` MoodScenes are made. size: pixels a side. share: of
    each emotion's images, the first ones, that the transfer network is trained on; the others are for testing (the
    paper's 95 %). The space is learned from all, as the paper's."""

    folder: str = ""
    n: int = 8000
    size: int = 128
    data_seed: int = 71
    share: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 < self.share <= 1.0:
            raise UserError(f"data.share is a share of the images, above 0 and at most 1, got {self.share}.")


@dataclass
class SpaceConfig:
    """Stage one. `adversary`, `dispersion` and `uniformity` (ours) weigh their losses: 0 leaves one out. Dead codes are
    revived every `revive_every` steps.

    Without a weight on uniformity an emotion's graphs fall together onto one vector a place: 10 to 17 entries of a book
    are in use at a time, however high their running average is. With it, by one training each (dispersion, uniformity,
    seed: entries in use at the end of the training, a probe's accuracy, how far apart the books lie over how wide they
    are, share of an entry's neighbours on the map that are of its own book):

        0.25, 0.1,  0   136  0.67  1.04  0.82        0.25, 0.15, 0   132  0.61  0.84  0.81
        0.25, 0.1,  1   124  0.55  2.34  0.93        0.25, 0.25, 0   127  0.71  0.50  0.67
        0.5,  0.15, 0   120  0.61  2.24  0.93        0.5,  0.15, 1   129  0.57  1.80  0.90"""

    hidden: int = 256
    slots: int = 32
    adversary: float = 1.0
    dispersion: float = 0.25
    uniformity: float = 0.0
    revive_every: int = 2


@dataclass
class Data:
    """What both stages train on: annotations and graphs [N]; pictures [M, S, S, 3] uint8, memory-mapped, of which
    row i's is number `at[i]` (those that cannot be read have no row). summary: what was used, skipped and unusual."""

    rows: list[Annotated]
    graphs: GraphRows
    pictures: np.ndarray
    at: list[int]
    summary: str = ""

    def given(self) -> tuple[torch.Tensor | str, ...]:
        """What tells these data from others, for `loop.fit`."""
        graphs = self.graphs
        return self.known, graphs.features, graphs.objects, graphs.attributes, graphs.adjectives, graphs.emotions

    @cached_property
    def known(self) -> str:
        """The pictures' shape and the checksum of every pixel of them."""
        check = 0
        for i in range(0, len(self.pictures), 256):
            check = zlib.crc32(self.pictures[i : i + 256].data, check)
        return f"{self.pictures.shape} {check:08x}"

    def images(self, index: torch.Tensor) -> torch.Tensor:
        """[B, 3, S, S] in 0..1 on the graphs' device."""
        part = torch.from_numpy(np.stack([self.pictures[self.at[i]] for i in index.tolist()]))
        return part.to(self.graphs.emotions.device).permute(0, 3, 1, 2).float() / 255


def read_data(config: DataConfig, model: EmoLatConfig, runs: Path, device: str, whole: bool = False) -> Data:
    """The training data of a config, prepared and cached in `runs`; all of them, where `whole`. Says what was
    skipped."""
    scorer = load_scorer(model.clip)
    folder = Path(config.folder) if config.folder else _moodscenes(config, runs)
    reading = read_annotations(folder)
    pictures, broken = make_pictures([row.image for row in reading.rows], config.size, runs)
    for i, why in broken.items():
        reading.skipped[str(reading.rows[i].image)] = why
    kept = [i for i in range(len(reading.rows)) if i not in broken]
    if not kept:
        raise UserError(f"No image in {folder} can be read. {reading.summary()}")
    by_emotion = [[i for i in kept if reading.rows[i].emotion == k] for k in range(len(MIKELS))]
    share, readable = 1.0 if whole else config.share, len(kept)
    kept = sorted(i for own in by_emotion for i in own[: math.ceil(share * len(own))])
    reading.rows, reading.left = [reading.rows[i] for i in kept], readable - len(kept)
    graphs = GraphRows(reading.rows, scorer, runs, device)
    reading.outside = graphs.outside
    host.current().note(reading.summary())
    return Data(reading.rows, graphs, pictures, kept, reading.summary())


def _moodscenes(config: DataConfig, runs: Path) -> Path:
    from .data.moodscenes import dataset

    painted = hashlib.sha256(
        b"".join(p.read_bytes() for p in sorted(Path(dataset.__file__).parent.glob("*.py")))
    ).hexdigest()[:8]
    folder = runs / f"moodscenes-{config.n}-{config.size}-{config.data_seed}-{painted}"
    if not (folder / "index.csv").is_file():  # written last
        dataset.write_dataset(
            folder, config.n, config.size, config.data_seed, split="train", workers=host.cores(), uniform=True
        )
    return folder


@torch.no_grad()
def real_vectors(vgg: Backbone, data: Data, runs: Path) -> torch.Tensor:
    """[N, V, W] half, on the CPU: two neighbouring vectors of relu5_1 each, standardised over the data, at most
    `VECTORS` an image. Kept in `runs` under what the images and the network's weights are."""
    n, size = len(data.rows), data.pictures.shape[1]
    path = runs / f"vectors-{n}-{size}-{digest(data.known, data.at, vgg)}.npy"
    if not path.is_file():
        parts = (codes_of(vgg, data.images(torch.arange(i, min(i + 64, n)))).cpu().numpy() for i in range(0, n, 64))
        write_atomically(path, lambda temporary: standardised(parts, n, temporary))
    # Copied when written to, and never that: torch has no tensors that are read alone.
    return torch.from_numpy(np.load(path, mmap_mode="c"))


def standardised(parts: Iterable[np.ndarray], n: int, path: Path) -> None:
    """Parts [.., V, W] of n rows -> a file [n, V, W] half in which each of the W dimensions has mean 0 and deviation
    1: ReLU maps differ in scale by orders of magnitude, and quantisation compares by distance. A part at a time, for
    the paper's are 8 GB."""
    start, out, total, squares = 0, None, 0.0, 0.0
    for part in parts:
        if out is None:
            out = np.lib.format.open_memmap(path, "w+", np.float16, (n, *part.shape[1:]))
        out[start : start + len(part)], start = part, start + len(part)
        total, squares = total + part.sum((0, 1), np.float64), squares + np.square(part, dtype=np.float64).sum((0, 1))
    assert out is not None  # of the first part
    mean = total / (n * out.shape[1])
    deviation = np.sqrt(np.maximum(squares / (n * out.shape[1]) - mean**2, 1e-6))
    for i in range(0, n, 64):
        out[i : i + 64] = (out[i : i + 64] - mean) / deviation
    out.flush()


def codes_of(vgg: Backbone, images: torch.Tensor) -> torch.Tensor:
    """[B, 3, S, S] -> [B, V, 2 C]: relu5_1's vectors, two horizontal neighbours side by side."""
    assert isinstance(vgg.features, nn.Sequential)  # a VGG's are
    x = vgg.features[: VGG_CUTS[-1]](vgg.normalised(images)).permute(0, 2, 3, 1)  # [B, h, w, C]
    x = x[:, :, : x.shape[2] // 2 * 2].flatten(1, 2).unflatten(1, (-1, 2)).flatten(2)
    if x.shape[1] > VECTORS:
        chosen = torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(0))[:VECTORS].sort().values
        x = x[:, chosen.to(x.device)]
    return x


class Space(nn.Module):
    """Everything stage one trains. A step moves generator and adversary at once: the adversary learns from detached
    codes, the generator through an adversary whose weights are held.

    counted [8]: each book's perplexity over all graphs when that was last counted. What is logged as `perplexity` goes
    by a running average over many steps, while the encoder moves and entries are revived: it can be high although few
    are in use at a time.
    """

    counted: torch.Tensor

    def __init__(self, model: EmoLatConfig, config: SpaceConfig, text: int):
        super().__init__()
        self.config = config
        width = model.code_width
        self.encoder = GraphEncoder(text, config.hidden, config.slots, width // 2)
        self.codebooks, self.judge = Codebooks(model.entries, width), Discriminator(width)
        self.register_buffer("counted", torch.zeros(len(MIKELS)))

    def forward(self, graphs: GraphBatch, real: torch.Tensor, emotion: torch.Tensor, revive: bool) -> Losses:
        z = self.encoder(graphs)
        codes, numbers, quantisation = self.codebooks(z, emotion)
        if revive:
            self.codebooks.revive(z.detach(), emotion)
            if torch.distributed.is_initialized():  # each process moved entries onto its own graphs' vectors
                torch.distributed.broadcast(self.codebooks.entries.data, 0)
        dispersion = self.config.dispersion * mean_dispersion(self.codebooks.means(z, numbers, emotion))
        held = {k: v.detach() for k, v in self.judge.named_parameters()}
        seen = functional_call(self.judge, held, (codes,))
        generator = generator_loss(seen, emotion, quantisation, dispersion, self.config.adversary)
        uniformity = uniformity_loss(z, emotion) if self.config.uniformity else z.new_zeros(())
        generator = generator + self.config.uniformity * uniformity
        adversary = discriminator_loss(self.judge(real), self.judge(codes.detach()), emotion)
        return {
            "loss": generator + self.config.adversary * adversary,
            "generator": generator,
            "adversary": adversary,
            "quantisation": quantisation,
            "dispersion": dispersion,
            "uniformity": uniformity,
            "perplexity": least(self.codebooks.perplexity()),
            "recognised": (seen.argmax(dim=-1) == emotion[:, None]).float().mean(),
            "counted": least(self.counted),
        }

    def encoded(self, graphs: Iterator[tuple[GraphBatch, torch.Tensor]]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Graphs in batches, given with their emotions, as what the books quantise: standardised as training does
        it, by each batch's own statistics."""
        return ((self.encoder(batch), emotion) for batch, emotion in graphs)

    @torch.no_grad()
    def count(self, graphs: Iterator[tuple[GraphBatch, torch.Tensor]]) -> None:
        """Sets `counted` by graphs in batches, given with their emotions [B]."""
        self.counted.copy_(perplexity(self.codebooks.tally(self.encoded(graphs))))


def least(perplexities: torch.Tensor) -> torch.Tensor:
    """That of the book which is used least, of those [8] that are used at all."""
    return perplexities[perplexities > 0].min()


@torch.no_grad()
def start_books(vectors: torch.Tensor, emotions: torch.Tensor, model: EmoLatConfig, seed: int) -> Codebooks:
    """Books that begin on real vectors [N, V, W] of their own emotion; one without any is marked as unused."""
    books, generator = Codebooks(model.entries, model.code_width), torch.Generator().manual_seed(seed)
    for k in range(len(MIKELS)):
        own = vectors[emotions.cpu() == k].flatten(0, 1)
        if len(own):
            books.entries[k] = own[torch.randint(len(own), (model.entries,), generator=generator)].float()
        else:
            books.use[k] = 0.0
    return books


def train_space(
    data: Data,
    vectors: torch.Tensor,
    model: EmoLatConfig,
    config: SpaceConfig,
    loop: LoopConfig,
    runs: Path,
    name: str = "emolat",
) -> Space:
    """Trains stage one on vectors [N, V, W] and returns it, its books' use counted over all graphs at the end.
    UserError where the batch or the data are a single image: graphs are standardised by those beside them."""
    from accelerate import PartialState

    if min(loop.batch, len(data.rows)) < 2:
        raise UserError(
            "Stage one learns from several graphs at once: it takes two annotated images at least and [emolat] batch "
            f"= 2, got {len(data.rows)} and {loop.batch}."
        )
    emotions, process = data.graphs.emotions, PartialState().process_index
    space = Space(model, config, data.graphs.features.shape[1])
    # Of every other image: what names the emotion of others may then be asked about these books.
    space.codebooks = start_books(vectors[1::2], emotions[1::2], model, loop.seed)

    def batches(step: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed((loop.seed + 7919 * process) * 1_000_003 + step)
        return torch.randint(len(data.rows), (loop.batch,), generator=generator)

    order = torch.randperm(len(data.rows), generator=torch.Generator().manual_seed(loop.seed)).to(emotions.device)

    def graphs() -> Iterator[tuple[GraphBatch, torch.Tensor]]:
        return ((data.graphs.batch(part), emotions[part]) for part in order.split(loop.batch) if len(part) > 1)

    def loss(module: nn.Module, index: torch.Tensor, step: int) -> Losses:
        revive = step > 0 and step % config.revive_every == 0
        if step % COUNT_EVERY == 0:
            space.count(graphs())
        real, index = vectors[index].to(emotions.device).float(), index.to(emotions.device)
        return module(data.graphs.batch(index), real, emotions[index], revive)

    space = fit(space, loss, batches, loop, runs / name, name, model, config, *data.given(), vectors)
    # Entries that were moved lately have not found their places, and the running average has counted them where they
    # were.
    space.encoder.train()
    space.count(graphs())
    with torch.no_grad():
        for _ in range(SETTLING):
            space.codebooks.settle(space.encoded(graphs()))
        space.codebooks.recount(space.encoded(graphs()))
    return space.eval()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", default="emolat", help="TOML file, or a shipped config: emolat (MoodScenes), emolat-paper"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="checkpoints, logs and caches")
    parser.add_argument(
        "--out", type=Path, default=Path("emolat.safetensors"), help="the EmoLat file (default: %(default)s)"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("overrides", nargs="*", metavar="SECTION.KEY=VALUE", help="for example data.folder=EmoSpace")


def prepared(args: argparse.Namespace) -> tuple[dict[str, Any], EmoLatConfig]:
    """(config, what the model is made of) of a command line, its device and folder made ready."""
    config = load_config(args.config, args.overrides)
    model = read(EmoLatConfig, config["model"], "[model]")
    args.runs.mkdir(parents=True, exist_ok=True)
    on_device(args.device)
    return config, model


def main(args: argparse.Namespace) -> int:
    config, model = prepared(args)
    own, loop = split(config["emolat"], SpaceConfig, "emolat")
    vgg = load_backbone(model.vgg).to(args.device)  # what may be missing comes first, what takes hours after it
    data = read_data(read(DataConfig, config["data"], "[data]"), model, args.runs, args.device, whole=True)
    torch.manual_seed(loop.seed)
    space = train_space(data, real_vectors(vgg, data, args.runs), model, own, loop, args.runs)
    emolat = EmoLat(model, vgg, load_scorer(model.clip), network=False)
    emolat.codebooks.load_state_dict(space.codebooks.state_dict())
    emolat.training_config = {key: config[key] for key in ("data", "emolat")}
    save(args.out, emolat)
    used = ", ".join(f"{p:.0f}" for p in emolat.codebooks.perplexity().tolist())
    host.current().note(f"Of {model.entries} entries a book these are in use (perplexity): {used}.")
    host.current().note(data.summary)  # once more: what was printed before the training has scrolled away
    host.current().note(f"Wrote {args.out}. Stage two: affect train transfer --out {args.out}")
    return 0
