"""`affect apply`: one workflow over a folder of photographs."""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from ....models.foreign import one_line, say
from .arguments import Commands, add_workflow

if TYPE_CHECKING:
    from ..series.plan import Plan
    from ..series.run import Result


def add_commands(commands: Commands) -> None:
    """Declares `apply`."""
    apply = commands.add_parser(
        "apply",
        help="run a workflow over a folder of photographs",
        description=(
            "Runs a workflow once for each photograph of a folder, which stands in the place of a Load Image. Models, "
            "and every node that does not depend on the photograph, run once. The results have the photographs' names, "
            "formats (JPEG, PNG, TIFF, WebP), bit depths, colour profiles, EXIF and XMP. A run that was stopped goes "
            "on where it was: what is made is not made again, unless the workflow or the photograph has changed. A "
            "file that this command did not make is never replaced."
        ),
    )
    add_workflow(apply)
    apply.add_argument("--each", required=True, type=Path, metavar="FOLDER", help="the folder of photographs")
    apply.add_argument("--out", required=True, type=Path, metavar="D", help="where the results go")
    apply.add_argument(
        "--into",
        metavar="NODE.image",
        help="the Load Image that takes the photographs, by id or title; needed where there are several",
    )
    apply.add_argument(
        "--from",
        dest="output",
        metavar="NODE",
        help="the Save or Preview Image whose image is written, by id or title; needed where there are several",
    )
    apply.add_argument(
        "--recursive", action="store_true", help="also photographs in sub-folders, into the same sub-folders of D"
    )
    apply.add_argument(
        "--output-dir",
        default="output",
        metavar="D",
        help="where `affect run` has put what the workflow loads, such as saved grades (default: %(default)s)",
    )
    apply.set_defaults(run=_apply)


def _apply(args: argparse.Namespace) -> int:
    from ....models import host
    from ..host import writable
    from ..registry import default_registry
    from ..run import prepare
    from ..series.graph import Wiring
    from ..series.plan import plan
    from ..series.run import SeriesHost, run

    start = time.perf_counter()
    results: list[Result] = []
    with (
        host.use(SeriesHost(args.input_dir, args.output_dir, args.models_dir, args.allow_host)) as current,
        _quiet_pillow(),
    ):
        writable(args.out, "--out")
        wiring = Wiring(default_registry(), args.into, args.output)
        prepared = prepare(args.workflow, args.assignments, args.choice_seed, wiring.registry, wiring)
        series = wiring.series(prepared.prompt)
        planned = plan(args.each, args.out, series.digest, args.recursive)
        for note in prepared.notes:
            current.note(note)
        if planned.others:
            current.note(f"{len(planned.others)} other files are left alone: {_some(planned.others)}.")
        try:
            run(series, planned, results, args.debug)
        except (KeyboardInterrupt, SystemExit):
            _tell(planned, results, sys.stderr)
            say("The same command goes on where it stopped.", sys.stderr)
            raise
    seconds = round(time.perf_counter() - start, 3)
    failed = any(result.status in ("failed", "left") for result in results)
    if args.json:
        print(json.dumps(_answer(planned, results, failed, seconds)))
    _tell(planned, results, sys.stderr if args.json else sys.stdout)
    say(f"Done in {seconds:.1f} s.", sys.stderr)
    return 1 if failed else 0


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Pillow's fixed limit of pixels is lifted in this program, because `models/pictures` bounds the memory, after
    $AFFECT_PICTURE_GB. Its warnings (a broken EXIF, a second picture that is cut off) name no file and are not
    shown."""
    from PIL import Image

    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _answer(planned: Plan, results: list[Result], failed: bool, seconds: float) -> dict[str, object]:
    """What --json prints."""
    return {
        "status": "failed" if failed else "ok",
        "pictures": [
            {
                "photograph": str(planned.folder / result.name),
                "output": str(planned.out / result.name),
                "status": result.status,
                "reason": result.reason,
                "notes": result.notes,
            }
            for result in results
        ],
        "seconds": seconds,
    }


def _tell(planned: Plan, results: list[Result], stream: TextIO) -> None:
    """The summary: how many were made, what is not as it was, what failed and why."""
    count = Counter(result.status for result in results)
    say(
        f"{count['made']} of {len(planned.todo) + len(planned.done)} photographs made in {planned.out}"
        + (f", {count['kept']} were made before" if count["kept"] else "")
        + (f", {count['failed']} failed" if count["failed"] else "")
        + (f", {count['left']} not tried" if count["left"] else "")
        + ".",
        stream,
    )
    notes: dict[str, list[str]] = {}
    for result in results:
        for note in result.notes:
            notes.setdefault(note, []).append(result.name)
    for note, names in notes.items():
        say(f"  note: {note}: {_some(names)}.", stream)
    for result in results:
        if result.status == "failed":
            say(f"  failed: {one_line(result.name)}: {one_line(result.reason, 2000)}", sys.stderr)
    if count["left"]:
        say("Make room, and give the same command again: it goes on where it stopped.", sys.stderr)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(f"'{one_line(name)}'" for name in names[:3]) + more
