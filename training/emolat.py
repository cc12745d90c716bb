"""EmoLat's first stage: graph encoder, eight codebooks and adversary, learned from annotated images (equations 1 to 14).

    affect train emolat --data FOLDER --out emolat.safetensors
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.func import functional_call

from ..models import host
from ..models.backbones import VGG_CUTS, Backbone, load_backbone
from ..models.clip import load_scorer
from ..models.emolat.codebook import Codebooks, mean_dispersion
from ..models.emolat.discriminator import Discriminator, discriminator_loss, generator_loss
from ..models.emolat.graph import GraphBatch, GraphEncoder
from ..models.emolat.space import EmoLat, EmoLatConfig, save
from ..models.emotions import MIKELS
from ..models.errors import UserError
from .config import load_config, read
from .data.annotated import Annotated, read_annotations
from .data.graphs import GraphRows, make_pictures
from .loop import LoopConfig, Losses, fit, split

VECTORS = 32
"""Real vectors of an image that the adversary sees, drawn once where there are more: 118,100 images of 196 would be 23 GB."""


@dataclass
class DataConfig:
    """folder: annotated images (`data.annotated`); empty: `n` MoodScenes are made. size: pixels a side."""

    folder: str = ""
    n: int = 8000
    size: int = 128
    data_seed: int = 71


@dataclass
class SpaceConfig:
    """Stage one. `adversary` and `dispersion` weigh their losses: 0 leaves one out. Dead codes are revived every
    `revive_every` steps."""

    hidden: int = 256
    slots: int = 32
    adversary: float = 1.0
    dispersion: float = 1.0
    revive_every: int = 2


@dataclass
class Data:
    """What both stages train on: graphs [N], pictures [N, S, S, 3] uint8 (memory-mapped), the annotations."""

    rows: list[Annotated]
    graphs: GraphRows
    pictures: np.ndarray

    def images(self, index: torch.Tensor) -> torch.Tensor:
        """[B, 3, S, S] in 0..1 on the graphs' device."""
        part = torch.from_numpy(np.stack([self.pictures[i] for i in index.tolist()]))
        return part.to(self.graphs.emotions.device).permute(0, 3, 1, 2).float() / 255


def read_data(config: DataConfig, model: EmoLatConfig, runs: Path, device: str) -> Data:
    """The training data of a config, prepared and cached in `runs`. Says what was skipped."""
    folder = Path(config.folder) if config.folder else _moodscenes(config, runs)
    reading = read_annotations(folder)
    pictures, broken = make_pictures(reading.rows, config.size, runs)
    for i, why in broken.items():
        reading.skipped[str(reading.rows[i].image)] = why
    kept = [i for i in range(len(reading.rows)) if i not in broken]
    reading.rows = [reading.rows[i] for i in kept]
    host.current().note(reading.summary())
    if not kept:
        raise UserError(f"No image in {folder} can be read.")
    graphs = GraphRows(reading.rows, load_scorer(model.clip), runs, device)
    return Data(reading.rows, graphs, pictures if not broken else pictures[kept])


def _moodscenes(config: DataConfig, runs: Path) -> Path:
    from .data.moodscenes.dataset import write_dataset

    folder = runs / f"moodscenes-{config.n}-{config.size}-{config.data_seed}"
    if not (folder / "index.csv").is_file():  # written last
        write_dataset(folder, config.n, config.size, config.data_seed, split="train", workers=host.cores(), uniform=True)
    return folder


@torch.no_grad()
def real_vectors(vgg: Backbone, data: Data, runs: Path, name: str) -> torch.Tensor:
    """[N, V, W] half: two neighbouring vectors of relu5_1 each, standardised over the data, at most `VECTORS` an image."""
    n, size = len(data.rows), data.pictures.shape[1]
    path = runs / f"vectors-{name}-{n}-{size}.npy"
    if not path.is_file():
        out = [codes_of(vgg, data.images(torch.arange(i, min(i + 64, n)))).half().cpu() for i in range(0, n, 64)]
        np.save(path, torch.cat(out).numpy())
    vectors = torch.from_numpy(np.load(path)).to(data.graphs.emotions.device)
    return standardised(vectors)


def standardised(vectors: torch.Tensor) -> torch.Tensor:
    """[N, V, W] -> the same with each of the W dimensions at mean 0 and deviation 1: ReLU maps differ in scale by orders of
    magnitude, and quantisation compares by distance."""
    flat = vectors.flatten(0, 1).float()
    return ((vectors.float() - flat.mean(dim=0)) / flat.std(dim=0).clamp(min=1e-3)).half()


def codes_of(vgg: Backbone, images: torch.Tensor) -> torch.Tensor:
    """[B, 3, S, S] -> [B, V, 2 C]: relu5_1's vectors, two horizontal neighbours side by side."""
    x = vgg.features[:VGG_CUTS[-1]](vgg.normalised(images)).permute(0, 2, 3, 1)  # [B, h, w, C]
    x = x[:, :, :x.shape[2] // 2 * 2].flatten(1, 2).unflatten(1, (-1, 2)).flatten(2)
    if x.shape[1] > VECTORS:
        chosen = torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(0))[:VECTORS].sort().values
        x = x[:, chosen.to(x.device)]
    return x


class Space(nn.Module):
    """Everything stage one trains. A step moves generator and adversary at once: the adversary learns from detached codes,
    the generator through an adversary whose weights are held."""

    def __init__(self, model: EmoLatConfig, config: SpaceConfig, text: int, margin: float):
        super().__init__()
        self.config, self.margin = config, margin
        width = model.code_width
        self.encoder = GraphEncoder(text, config.hidden, config.slots, width // 2)
        self.codebooks, self.judge = Codebooks(model.entries, width), Discriminator(width)

    def forward(self, graphs: GraphBatch, real: torch.Tensor, emotion: torch.Tensor, revive: bool) -> Losses:
        z = self.encoder(graphs)
        codes, _, quantisation = self.codebooks(z, emotion)
        if revive:
            self.codebooks.revive(z.detach(), emotion)
        dispersion = self.config.dispersion * mean_dispersion(self.codebooks.entries, self.margin)
        held = {k: v.detach() for k, v in self.judge.named_parameters()}
        seen = functional_call(self.judge, held, (codes,))
        generator = generator_loss(seen, emotion, quantisation, dispersion, self.config.adversary)
        adversary = discriminator_loss(self.judge(real), self.judge(codes.detach()), emotion)
        return {"loss": generator + self.config.adversary * adversary, "generator": generator, "adversary": adversary,
                "quantisation": quantisation, "dispersion": dispersion, "perplexity": self.codebooks.perplexity().min(),
                "recognised": (seen.argmax(dim=-1) == emotion[:, None]).float().mean()}


def margin_of(vectors: torch.Tensor, emotions: torch.Tensor) -> float:
    """m of the bounded dispersion: 1.5 times the median distance of the real vectors' class means."""
    means = torch.stack([vectors[emotions == k].flatten(0, 1).float().mean(dim=0) for k in emotions.unique()])
    return 1.5 * float(torch.pdist(means).median()) if len(means) > 1 else 1.0


def train_space(data: Data, vectors: torch.Tensor, model: EmoLatConfig, config: SpaceConfig, loop: LoopConfig,
                runs: Path, name: str = "emolat") -> Space:
    """Trains stage one and returns it."""
    emotions = data.graphs.emotions
    space = Space(model, config, data.graphs.features.shape[1], margin_of(vectors, emotions))
    generator = torch.Generator().manual_seed(loop.seed)
    with torch.no_grad():  # books begin on what is real
        for k in range(len(MIKELS)):
            own = vectors[emotions == k].flatten(0, 1)
            if len(own):
                rows = torch.randint(len(own), (model.entries,), generator=generator)
                space.codebooks.entries[k] = own[rows.to(own.device)].cpu()

    def batches(step: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(loop.seed * 1_000_003 + step)
        return torch.randint(len(data.rows), (loop.batch,), generator=generator).to(emotions.device)

    def loss(space: nn.Module, index: torch.Tensor, step: int) -> Losses:
        revive = step > 0 and step % config.revive_every == 0
        return space(data.graphs.batch(index), vectors[index].float(), emotions[index], revive)

    return fit(space, loss, batches, loop, runs / name, name)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", default="emolat", help="TOML file, or a shipped config: emolat (MoodScenes), emolat-paper")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="checkpoints, logs and caches")
    parser.add_argument("--out", type=Path, default=Path("emolat.safetensors"), help="the EmoLat file (default: %(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("overrides", nargs="*", metavar="SECTION.KEY=VALUE", help="for example data.folder=EmoSpace")


def prepared(args: argparse.Namespace) -> tuple[dict[str, Any], EmoLatConfig, Data]:
    """(config, what the model is made of, the data) of a command line."""
    config = load_config(args.config, args.overrides)
    model = read(EmoLatConfig, config["model"], "[model]")
    args.runs.mkdir(parents=True, exist_ok=True)
    return config, model, read_data(read(DataConfig, config["data"], "[data]"), model, args.runs, args.device)


def main(args: argparse.Namespace) -> int:
    config, model, data = prepared(args)
    own, loop = split(config["emolat"], SpaceConfig, "emolat")
    vgg = load_backbone(model.vgg).to(args.device)
    torch.manual_seed(loop.seed)
    space = train_space(data, real_vectors(vgg, data, args.runs, model.vgg), model, own, loop, args.runs)
    emolat = EmoLat(model, vgg, load_scorer(model.clip), network=False)
    emolat.codebooks.load_state_dict(space.codebooks.state_dict())
    save(args.out, emolat)
    host.current().note(f"Wrote {args.out}. Stage two: affect train transfer --out {args.out}")
    return 0
