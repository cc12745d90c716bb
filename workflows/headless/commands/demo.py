"""Shows in two minutes what this package does: a photograph graded to eight emotions; then the tiny diffusion model's
pictures, one prompt in eight emotions and a photograph edited to two.

Runs the shipped workflow files, the same ones that ComfyUI opens. A classifier that took no part in the guidance then
judges every picture of the tiny model.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from PIL.Image import Image

TEMPLATES = Path(__file__).parents[2]
JUDGE = "tiny-b"
LOOKS = {
    "amusement": ("bright", "river"),
    "awe": ("scenic", "mountain"),
    "contentment": ("scenic", "mountain"),
    "excitement": ("great", "mountain"),
    "anger": ("dark", "lake"),
    "disgust": ("muddy", "mountain"),
    "fear": ("misty", "city"),
    "sadness": ("misty", "river"),
}
"""The adjective and noun that the example gallery is asked for beside each emotion."""
_CELL = 768
"""Pixels of a graded photograph's longer side on the sheet."""


class _Job(NamedTuple):
    """A run of a template.

    name        the template's, without .json
    changes     `--set` assignments
    photograph  a file in the input folder that takes the place of the template's example image; "": none does
    """

    name: str
    changes: tuple[str, ...] = ()
    photograph: str = ""


class _Shown(NamedTuple):
    """A picture of the contact sheet: its name in the table, the picture, the judge's probability for each emotion."""

    name: str
    image: Image
    probabilities: dict[str, float]

    @property
    def caption(self) -> str:
        best = max(self.probabilities, key=self.probabilities.__getitem__)
        return f"{self.name}\n{JUDGE}: {best} {self.probabilities[best]:.0%}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `affect demo`."""
    parser.add_argument(
        "--output-dir",
        type=Path,
        default=Path("demo_output"),
        metavar="D",
        help="where the images go (default: %(default)s)",
    )
    parser.add_argument("--photo", type=Path, metavar="FILE", help="a photograph of yours in place of the examples")
    parser.add_argument("--describe", default="a photo", metavar="TEXT", help="what that photograph shows")
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")


def main(args: argparse.Namespace) -> int:
    """Runs the workflows, writes both contact sheets, and prints the judge's table. The exit code."""
    from ....models.files import write_atomically

    start = time.perf_counter()
    inputs = args.output_dir / "input"
    inputs.mkdir(parents=True, exist_ok=True)
    photo = _photograph(args.photo)
    write_atomically(inputs / "example.png", lambda p: photo.save(p))
    describe = (f"What the photograph shows.value={args.describe}",) if args.photo else ()
    with _two_at_once(inputs, args.output_dir) as run:
        graded = _graded(run, "example.png" if args.photo else "")
        photographs = args.output_dir / "photographs.png"
        original = photo if args.photo else _photograph(TEMPLATES / "examples" / "photograph.jpg")
        _write_photographs(photographs, original, graded)
        print(f"{photographs}: a photograph in eight emotions", file=sys.stderr)
        eight, edits = run([_Job("eight_emotions")], [_Job("edit_photograph", describe)])
    shown = _judged(eight, photo, edits)
    sheet = args.output_dir / "contact_sheet.png"
    _write_sheet(sheet, shown)
    ssim = _reconstruction_ssim(shown)
    seconds = round(time.perf_counter() - start, 1)
    table = {one.name: one.probabilities for one in shown}
    if args.json:
        answer = {"status": "ok", "sheet": str(sheet), "probabilities": table, "seconds": seconds}
        answer |= {"photographs_sheet": str(photographs), "photographs": {e: str(p) for e, p in graded.items()}}
        print(json.dumps(answer | {"reconstruction_ssim": ssim}))
        return 0
    print(f"A photograph in eight emotions, at its own size: {photographs} and beside it\n")
    _print(table)
    print(f"\nSSIM of the photograph's reconstruction without an emotion, the upper bound of any edit's: {ssim:.2f}")
    print(f"\n{sheet} ({seconds:.0f} s)")
    return 0


def _photograph(path: Path | None) -> Image:
    """The given photograph, upright, or scikit-image's cup of coffee, which no model was trained on."""
    from ....models import pictures

    return pictures.read(path or TEMPLATES / "examples" / "example.png")


_Both = Callable[[list[_Job], list[_Job]], tuple[list[Path], list[Path]]]


@contextmanager
def _two_at_once(inputs: Path, output: Path) -> Iterator[_Both]:
    """`_run_all` for two lists of jobs at once, the second in another process and without progress bars.

    Models this small gain nothing from a second core, and two runs do. Both run with the number of threads that
    `affect run` uses, because another number gives other pixels. Threads that wait sleep, so the two do not take the
    cores from each other.
    """
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import active_children, get_context

    from ....models import host

    if host.cores() < 2:
        yield lambda first, second: (_run_all(first, inputs, output), _run_all(second, inputs, output))
        return
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:

        def both(first: list[_Job], second: list[_Job]) -> tuple[list[Path], list[Path]]:
            other = pool.submit(_run_all, second, inputs, output, quiet=True)
            return _run_all(first, inputs, output), other.result()

        try:
            yield both
        except BaseException:
            for process in active_children():
                process.terminate()
            raise


def _run_all(jobs: list[_Job], inputs: Path, output: Path, quiet: bool = False) -> list[Path]:
    """The images of all jobs, in their order."""
    if quiet:
        os.environ["TQDM_DISABLE"] = "1"  # read when tqdm is imported
    return [path for job in jobs for path in _run(job, inputs, output)]


def _run(job: _Job, inputs: Path, output: Path) -> list[Path]:
    """Runs one job; the images that it saved, sorted by name."""
    from ....models import host
    from ..formats.load import load
    from ..host import EmbeddedHost
    from ..run import execute, prepare

    print(f"{job.name}.json {', '.join(job.changes)} ...", file=sys.stderr)
    loaded = load(TEMPLATES / f"{job.name}.json")
    for node in (loaded.workflow or {}).get("nodes", ()):
        if job.photograph and node["type"] == "AffectExampleImage":
            node |= {"type": "LoadImage", "widgets_values": [job.photograph, "image"]}
    with host.use(EmbeddedHost(inputs, output)):
        outputs = execute(prepare(loaded, list(job.changes)))
    return sorted(Path(o["path"]) for o in outputs if o["type"] == "image")


def _graded(run: _Both, photograph: str) -> dict[str, Path]:
    """Emotion -> the photograph in it."""
    jobs = [
        _Job(
            "photograph_in_emotion",
            (
                f"Emotion.emotion={emotion}",
                f"SSIM Reference Retriever.adjective={adjective}",
                f"SSIM Reference Retriever.noun={noun}",
                f"Save Image.filename_prefix=photograph_{emotion}",
            ),
            photograph,
        )
        for emotion, (adjective, noun) in LOOKS.items()
    ]
    half = len(jobs) // 2
    first, second = run(jobs[:half], jobs[half:])
    return dict(zip(LOOKS, first + second, strict=True))


def _write_photographs(path: Path, original: Image, graded: dict[str, Path]) -> None:
    """The sheet of the photograph and its grades."""
    from ....models import pictures
    from ....models.tensors.resize import fitted

    height, width = fitted((original.height, original.width), _CELL)
    images = [original, *(pictures.read(file) for file in graded.values())]
    captions = ["the photograph", *(f"{emotion}: {' '.join(LOOKS[emotion])}" for emotion in graded)]
    _write_images(path, images, captions, "A photograph in eight emotions", (width, height))


def _judged(eight: list[Path], photo: Image, edits: list[Path]) -> list[_Shown]:
    """The sheet's pictures in order: the eight emotions, the photograph, its edits."""
    from ....models import pictures

    named = [(path.stem.rsplit("_", 2)[0].split("_", 1)[-1], pictures.read(path)) for path in eight]
    named.append(("a photograph", _square(photo)))
    named += [(f"edited: {path.stem.split('_')[0]}", pictures.read(path)) for path in edits]
    return [_Shown(name, image, _judge(image)) for name, image in named]


def _square(image: Image) -> Image:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side)).resize((128, 128))


def _judge(image: Image) -> dict[str, float]:
    """The judge's probability for each of the eight emotions."""
    import torch

    from ....models import host
    from ....models.emotions import MIKELS
    from ....models.networks.classifiers import load_classifier
    from ....models.tensors.uint8 import image_of

    with torch.no_grad():
        logits = load_classifier(JUDGE)(image_of(image)[None].to(host.current().device))
    return dict(zip(MIKELS, logits.softmax(dim=-1)[0].tolist()))


def _write_sheet(path: Path, shown: list[_Shown]) -> None:
    title = "One prompt in eight emotions, and a photograph in two"
    _write_images(path, [one.image for one in shown], [one.caption for one in shown], title, (160, 160))


def _write_images(path: Path, images: list[Image], captions: list[str], title: str, cell: tuple[int, int]) -> None:
    """A contact sheet of three columns with cells of that width and height."""
    import numpy as np
    from PIL import Image

    from ....models.files import write_atomically
    from ....models.plots import contact_sheet
    from ....models.tensors.uint8 import to_uint8

    small = [np.asarray(image.convert("RGB").resize(cell, Image.Resampling.LANCZOS)) for image in images]
    pixels = Image.fromarray(to_uint8(contact_sheet(small, captions, 3, title, cell)))
    write_atomically(path, lambda p: pixels.save(p))


def _reconstruction_ssim(shown: list[_Shown]) -> float:
    """SSIM, -1..1, of the photograph and its edit without an emotion."""
    from ....models.metrics import ssim
    from ....models.tensors.uint8 import image_of

    photo = next(one.image for one in shown if one.name == "a photograph")
    reconstruction = next(one.image for one in shown if "reconstruction" in one.name)
    return float(ssim(image_of(photo)[None], image_of(reconstruction)[None])[0])


def _print(table: dict[str, dict[str, float]]) -> None:
    names = list(next(iter(table.values())))
    print(f"What {JUDGE} sees, which took no part in the guidance (percent):\n")
    print(f"{'':<20}" + "".join(f"{name:>12}" for name in names))
    for name, row in table.items():
        print(f"{name:<20}" + "".join(f"{100 * row[emotion]:>12.0f}" for emotion in names))
