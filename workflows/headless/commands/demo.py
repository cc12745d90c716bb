"""Shows in two minutes what this package does: one prompt in eight emotions, and a photograph edited to two.

Runs the shipped workflow files, the very ones that ComfyUI opens, and lets a classifier that did not guide say what
it feels.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

TEMPLATES = Path(__file__).parents[2]
JUDGE = "tiny-b"


def add_arguments(parser: argparse.ArgumentParser) -> None:
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
    from PIL import Image

    from ....models import pictures
    from ....models.files import write_atomically
    from ....models.plots import contact_sheet
    from ....models.tensors.uint8 import to_uint8

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
    images, captions, table = [], [], {}
    for path in eight:
        images.append(pictures.read(path))
        captions.append(path.stem.rsplit("_", 2)[0].split("_", 1)[-1])
    images.append(_square(photo))
    captions.append("a photograph")
    for path in edits:
        images.append(pictures.read(path))
        captions.append(f"edited: {path.stem.split('_')[0]}")
    for i, (image, caption) in enumerate(zip(images, captions)):
        probabilities = _judge(image)
        table[caption] = probabilities
        best = max(probabilities, key=probabilities.__getitem__)
        captions[i] = f"{caption}\n{JUDGE}: {best} {probabilities[best]:.0%}"
    import numpy as np

    sheet = contact_sheet(
        [np.asarray(image) for image in images],
        captions,
        columns=3,
        title="One prompt in eight emotions, and a photograph in two",
    )
    target = args.output_dir / "contact_sheet.png"
    write_atomically(target, lambda p: Image.fromarray(to_uint8(sheet)).save(p))
    seconds = round(time.perf_counter() - start, 1)
    kept = _ssim(
        images[captions.index(next(c for c in captions if c.startswith("a photograph")))],
        images[next(i for i, c in enumerate(captions) if "reconstruction" in c)],
    )
    if args.json:
        print(
            json.dumps(
                {
                    "status": "ok",
                    "sheet": str(target),
                    "probabilities": table,
                    "seconds": seconds,
                    "reconstruction_ssim": kept,
                }
            )
        )
    else:
        _print(table)
        print(
            f"\nSSIM of the photograph's reconstruction without an emotion, which bounds what editing keeps: {kept:.2f}"
        )
        print(f"\n{target} ({seconds:.0f} s)")
    return 0


def _photograph(path: Path | None) -> Any:
    """The given photograph, upright, or scikit-image's cup of coffee, which nothing was trained on."""
    from ....models import pictures

    return pictures.read(path or TEMPLATES / "examples" / "example.png")


def _square(image: Any) -> Any:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side)).resize((128, 128))


def _side_by_side(shown: tuple[Any, ...], silent: tuple[Any, ...]) -> tuple[list[Path], list[Path]]:
    """`_run` for two workflows at once, the second in a process of its own without bars: so small a model gains
    nothing from a second core, and two runs do. Both have as many threads as `affect run` has, because another
    number gives other pixels; threads that wait sleep, so that the two do not keep one another from the cores."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import active_children, get_context

    from ....models import host

    if host.cores() < 2:
        return _run(*shown), _run(*silent)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        second = pool.submit(_run, *silent, True)
        try:
            return _run(*shown), second.result()
        except BaseException:
            for process in active_children():
                process.terminate()
            raise


def _run(workflow: Path, inputs: Path, output: Path, changes: list[str], quiet: bool = False) -> list[Path]:
    if quiet:
        os.environ["TQDM_DISABLE"] = "1"  # read when tqdm is imported
    from ....models import host
    from ..host import EmbeddedHost
    from ..run import execute, prepare

    print(f"{workflow.name} ...", file=sys.stderr)
    with host.use(EmbeddedHost(inputs, output)):
        outputs = execute(prepare(workflow, changes))
    return sorted(Path(o["path"]) for o in outputs if o["type"] == "image")


def _ssim(a: Any, b: Any) -> float:
    from ....models.metrics import ssim
    from ....models.tensors.uint8 import image_of

    x, y = (image_of(i)[None] for i in (a, b))
    return float(ssim(x, y)[0])


def _judge(image: Any) -> dict[str, float]:
    import torch

    from ....models import host
    from ....models.emotions import MIKELS
    from ....models.networks.classifiers import load_classifier
    from ....models.tensors.uint8 import image_of

    x = image_of(image)[None].to(host.current().device)
    with torch.no_grad():
        return dict(zip(MIKELS, load_classifier(JUDGE)(x).softmax(dim=-1)[0].tolist()))


def _print(table: dict[str, dict[str, float]]) -> None:
    names = list(next(iter(table.values())))
    print(f"What {JUDGE} feels, which did not guide (percent):\n")
    print(f"{'':<20}" + "".join(f"{name:>12}" for name in names))
    for caption, row in table.items():
        print(f"{caption:<20}" + "".join(f"{100 * row[name]:>12.0f}" for name in names))
