"""Shows in two minutes what this package does: one prompt in eight emotions, and a photograph edited to two.

Runs the shipped workflow files, the same ones that ComfyUI opens. A classifier that took no part in the guidance then
judges every picture.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from PIL.Image import Image

TEMPLATES = Path(__file__).parents[2]
JUDGE = "tiny-b"


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
    parser.add_argument("--photo", type=Path, metavar="FILE", help="a photograph to edit instead of scikit-image's")
    parser.add_argument("--describe", default="a photo", metavar="TEXT", help="what that photograph shows")
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")


def main(args: argparse.Namespace) -> int:
    """Runs both workflows, writes the contact sheet, and prints the judge's table. The exit code."""
    from ....models.files import write_atomically

    start = time.perf_counter()
    inputs = args.output_dir / "input"
    inputs.mkdir(parents=True, exist_ok=True)
    photo = _photograph(args.photo)
    write_atomically(inputs / "example.png", lambda p: photo.save(p))
    describe = [f"What the photograph shows.value={args.describe}"] if args.photo else []
    eight, edits = _side_by_side(
        (TEMPLATES / "eight_emotions.json", inputs, args.output_dir, []),
        (TEMPLATES / "edit_photograph.json", inputs, args.output_dir, describe),
    )
    shown = _judged(eight, photo, edits)
    sheet = args.output_dir / "contact_sheet.png"
    _write_sheet(sheet, shown)
    ssim = _reconstruction_ssim(shown)
    seconds = round(time.perf_counter() - start, 1)
    table = {one.name: one.probabilities for one in shown}
    if args.json:
        answer = {"status": "ok", "sheet": str(sheet), "probabilities": table, "seconds": seconds}
        print(json.dumps(answer | {"reconstruction_ssim": ssim}))
        return 0
    _print(table)
    print(f"\nSSIM of the photograph's reconstruction without an emotion, the upper bound of any edit's: {ssim:.2f}")
    print(f"\n{sheet} ({seconds:.0f} s)")
    return 0


def _photograph(path: Path | None) -> Image:
    """The given photograph, upright, or scikit-image's cup of coffee, which no model was trained on."""
    from ....models import pictures

    return pictures.read(path or TEMPLATES / "examples" / "example.png")


def _side_by_side(
    first: tuple[Path, Path, Path, list[str]], second: tuple[Path, Path, Path, list[str]]
) -> tuple[list[Path], list[Path]]:
    """`_run` for two workflows at once, the second in another process and without progress bars.

    A model this small gains nothing from a second core, and two runs do. Both run with the number of threads that
    `affect run` uses, because another number gives other pixels. Threads that wait sleep, so the two do not take the
    cores from each other.
    """
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import active_children, get_context

    from ....models import host

    if host.cores() < 2:
        return _run(*first), _run(*second)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        other = pool.submit(_run, *second, quiet=True)
        try:
            return _run(*first), other.result()
        except BaseException:
            for process in active_children():
                process.terminate()
            raise


def _run(workflow: Path, inputs: Path, output: Path, changes: list[str], quiet: bool = False) -> list[Path]:
    """Runs a workflow with the given `--set` changes; the images that it saved, sorted by name."""
    if quiet:
        os.environ["TQDM_DISABLE"] = "1"  # read when tqdm is imported
    from ....models import host
    from ..host import EmbeddedHost
    from ..run import execute, prepare

    print(f"{workflow.name} ...", file=sys.stderr)
    with host.use(EmbeddedHost(inputs, output)):
        outputs = execute(prepare(workflow, changes))
    return sorted(Path(o["path"]) for o in outputs if o["type"] == "image")


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
    import numpy as np
    from PIL import Image

    from ....models.files import write_atomically
    from ....models.plots import contact_sheet
    from ....models.tensors.uint8 import to_uint8

    sheet = contact_sheet(
        [np.asarray(one.image) for one in shown],
        [one.caption for one in shown],
        columns=3,
        title="One prompt in eight emotions, and a photograph in two",
    )
    pixels = Image.fromarray(to_uint8(sheet))
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
