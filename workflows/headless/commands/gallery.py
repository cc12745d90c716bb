"""`affect gallery build`: makes or updates the index of a reference gallery."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from ....models.foreign import say
from .arguments import Commands, add_json


def add_commands(commands: Commands) -> None:
    """Declares `gallery build`."""
    gallery = commands.add_parser("gallery", help="galleries of reference pictures")
    actions = gallery.add_subparsers(dest="action", required=True, metavar="ACTION")
    build = actions.add_parser(
        "build",
        help="make or update a gallery's index",
        description="Reads every picture of a folder once and keeps its edge response in one file in that folder. "
        "Resumes where it was stopped, and picks up new, changed and deleted files. Labels come from folders named "
        "adjective_noun or from a CSV of file, noun, adjective, emotion, valence, arousal; emotions.csv (adjective, "
        "emotion) overrides which emotion an adjective means.",
    )
    build.add_argument("folder", type=Path)
    build.add_argument(
        "--edges", choices=("scharr", "canny"), default="scharr", help="what is compared (default: %(default)s)"
    )
    build.add_argument(
        "--ratio",
        action="append",
        type=_ratio,
        default=[],
        metavar="W:H",
        help="also index the pictures as cropped for images of this width to height, such as 3:2, which the first "
        "search for such an image does otherwise. May be given several times",
    )
    build.add_argument(
        "--cache",
        action="store_true",
        help="also keep local statistics: queries take half the time, for 56 kB a picture",
    )
    add_json(build)
    build.set_defaults(run=_build)


def _ratio(text: str) -> tuple[int, int]:
    """ "3:2" or "768x512" -> (width, height)."""
    match = re.fullmatch(r"([1-9]\d{0,5})[:x/]([1-9]\d{0,5})", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"'{text}' is not width and height, such as 3:2 or 768x512")
    return int(match[1]), int(match[2])


def _build(args: argparse.Namespace) -> int:
    from ....models import host
    from ....models.reference import open_gallery, ratio_of
    from ..host import EmbeddedHost

    with host.use(EmbeddedHost()):
        gallery = open_gallery(args.folder, args.edges, args.cache)
        for size in args.ratio:
            gallery.crops(ratio_of(size))
    rated = sum(picture.rating is not None for picture in gallery.pictures)
    if args.json:
        print(
            json.dumps(
                {
                    "status": "ok",
                    "pictures": len(gallery.pictures),
                    "rated": rated,
                    "skipped": gallery.skipped,
                    "absent": gallery.absent,
                    "nouns": gallery.nouns,
                    "adjectives": gallery.adjectives,
                    "adjectives_without_emotion": gallery.adjectives_without_emotion,
                }
            )
        )
        return 0
    say(f"{len(gallery.pictures)} pictures in {args.folder}; {len(gallery.skipped)} files skipped.")
    if rated:
        say(f"{rated} of them have ratings of valence and arousal.")
    for name, why in gallery.skipped.items():
        say(f"  skipped {name!r}: {why}")
    for name in gallery.absent[:20]:
        say(f"  listed in a CSV and missing from the folder: {name!r}")
    if len(gallery.absent) > 20:
        say(f"  and {len(gallery.absent) - 20} more")
    if gallery.adjectives_without_emotion:
        say(
            "These adjectives have no emotion, so no search by emotion returns them; give each one of the eight in the "
            f"folder's emotions.csv (adjective, emotion): {', '.join(gallery.adjectives_without_emotion)}"
        )
    say(f"nouns: {', '.join(gallery.nouns) or '(none)'}\nadjectives: {', '.join(gallery.adjectives) or '(none)'}")
    return 0
