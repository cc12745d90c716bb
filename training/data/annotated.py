"""Images with emotion, objects, attributes and a global adjective: EmoSpace's, EmoSet-118K's and MoodScenes'
annotations.

A folder holds one JSON an image, anywhere below `emospace/`, `annotation/` or itself, and images below `images/`,
`image/` or itself; an image belongs to the JSON whose `image_id` (else file name) is its own name without suffix. Where
folders hold images of one name, the folder in `image_id`, else the JSON's own, tells them apart.

    EmoSpace and MoodScenes   emotion, global_adjective, ontology_adjective: [[object, attribute], ...] or {object:
                              attribute}
    `affect data annotate`    one JSONL of such objects, each with `file`, the image's path below the folder
    EmoSet-118K               emotion, object: [names], scene, facial_expression, human_action, brightness and
                              colorfulness 0..1
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...models.emolat.graph import MAX_PAIRS
from ...models.emotions import LABELS, MIKELS, EmotionTarget
from ...models.errors import UserError
from ...models.files import safe_join

MOST_PAIRS = 256
"""Of one image: a graph's adjacency grows with their square, and one broken note would take the memory of a whole
run."""

_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


@dataclass(frozen=True)
class Annotated:
    """One image: its emotion's number in `MIKELS`, its object-attribute pairs and its global adjective. "" is a word
    that nobody gave."""

    image: Path
    emotion: int
    pairs: tuple[tuple[str, str], ...]
    adjective: str


@dataclass
class Reading:
    """What a folder held: the usable rows, why others were skipped, and what was encoded although it is out of the
    ordinary.

    skipped  file -> why; what follows a colon says more of that file
    left     how many usable ones were left for testing
    outside  words that the text encoder reads as an unknown one (`graphs.outside`)
    """

    rows: list[Annotated] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    left: int = 0
    outside: list[str] = field(default_factory=list)

    @property
    def unusual(self) -> Counter[str]:
        """What is out of the ordinary in the rows -> how many."""
        return Counter(what for row in self.rows for what in _unusual(row.pairs, row.adjective))

    def summary(self) -> str:
        """The closing words of a run: what was used, skipped and unusual."""
        lines = [
            f"{len(self.rows)} annotated images; {len(self.skipped)} skipped"
            + f", {self.left} left for testing" * bool(self.left)
            + "."
        ]
        shown = Counter(MIKELS[row.emotion] for row in self.rows)
        lines.append("  of " + ", ".join(f"{name} {shown[name]}" for name in MIKELS))
        kinds: dict[str, list[str]] = {}
        for name, why in self.skipped.items():
            kind, _, more = why.partition(": ")
            kinds.setdefault(kind, []).append(f"{name}: {more}" if more else name)
        lines += [
            f"  {len(names)} x {kind} (the first: {names[0]})"
            for kind, names in sorted(kinds.items(), key=lambda item: -len(item[1]))
        ]
        lines += [f"  {n} x {what}: encoded" for what, n in sorted(self.unusual.items())]
        if self.outside:
            lines.append(
                f"  {len(self.outside)} x a word outside the text encoder's vocabulary: encoded as an unknown one (the "
                f"first: {self.outside[0]})"
            )
        return "\n".join(lines)


def read_annotations(folder: Path) -> Reading:
    """Every annotated image below a folder, in the order of its annotation files.

    What cannot be used is skipped and listed: a JSON that is none, an emotion that nobody knows (GoEmotions' and
    Ekman's count as the one of Mikels' that they are nearest to), an image that is missing, outside the folder, or not
    to be told from others of its name, a note with neither object nor adjective, more than `MOST_PAIRS` pairs. What is
    unusual is encoded and counted: no objects (the graph is the adjective and the emotion), more than 14 pairs (graphs
    are pooled, never cut), an empty attribute or adjective (a node of zeros). UserError where the folder is missing
    or nothing usable is left.
    """
    if not folder.is_dir():
        raise UserError(
            f"There is no folder {folder} with annotated images. Make one with `affect data moodscenes --out "
            f"{folder}`, or give EmoSet's or EmoSpace's."
        )
    reading = Reading()
    images: dict[str, list[Path]] = {}
    for path in _files(_root(folder, ("images", "image"))):
        if path.suffix.lower() in _SUFFIXES:
            images.setdefault(path.stem, []).append(path)
    for name, own, text in _notes(folder):
        try:
            note = json.loads(text)
            emotion = str(note["emotion"]).strip().lower()
            found = (
                [safe_join(folder, str(note["file"]))]
                if "file" in note
                else _named(images, Path(str(note.get("image_id", own))), own)
            )
            pairs, adjective = _words(note)
        except UserError:
            reading.skipped[name] = "its image is outside the folder"
            continue
        except (ValueError, KeyError, TypeError, AttributeError):
            reading.skipped[name] = "no annotation: a JSON object with an emotion is wanted"
            continue
        if emotion not in LABELS:
            reading.skipped[name] = f"the unknown emotion '{emotion}'"
        elif not pairs and not adjective:
            reading.skipped[name] = "neither an object nor a global adjective"
        elif len(pairs) > MOST_PAIRS:
            reading.skipped[name] = f"more than {MOST_PAIRS} pairs: {len(pairs)}"
        elif len(found) > 1:
            reading.skipped[name] = (
                f"several images of that name: {', '.join(p.relative_to(folder).as_posix() for p in found[:3])}"
            )
        elif not found or not found[0].is_file():
            reading.skipped[name] = "its image is missing"
        else:
            emotion = emotion if emotion in MIKELS else EmotionTarget.of(emotion).dominant
            reading.rows.append(Annotated(found[0], MIKELS.index(emotion), pairs, adjective))
    if not reading.rows:
        raise UserError(f"Nothing in {folder} can be used. {reading.summary()}")
    return reading


def _named(images: dict[str, list[Path]], wanted: Path, own: Path) -> list[Path]:
    """The images that a note may mean: all of that name, or, of several, those whose path ends in the wanted one's
    folder, else in the note's own."""
    found = images.get(wanted.name) or images.get(wanted.stem, [])  # a name may hold dots
    ends = lambda path, folder: path.parent.parts[-len(folder.parts) :] == folder.parts
    for folder in (wanted.parent, own.parent):
        if len(found) > 1 and folder.parts:
            found = [p for p in found if ends(p, folder)] or found
    return found


def _notes(folder: Path) -> Iterator[tuple[str, Path, str]]:
    """(name for messages, the note's own path without suffix below the annotations, the note's text) of every
    annotation."""
    root = _root(folder, ("emospace", "annotation"))
    for path in _files(root):
        name = path.relative_to(folder).as_posix()
        if path.suffix == ".json":
            yield name, path.relative_to(root).with_suffix(""), path.read_text(encoding="utf-8", errors="replace")
        elif path.suffix == ".jsonl":
            for i, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
                yield f"{name}:{i}", Path(), line


def _root(folder: Path, names: tuple[str, ...]) -> Path:
    """The first of the named sub-folders that is there, else the folder itself."""
    return next((folder / name for name in names if (folder / name).is_dir()), folder)


def _files(root: Path) -> list[Path]:
    return sorted(p for p in root.rglob("*") if p.is_file())


def _words(note: dict[str, Any]) -> tuple[tuple[tuple[str, str], ...], str]:
    word = lambda value: str(value or "").strip().lower()
    if "ontology_adjective" in note:
        given = note["ontology_adjective"] or []
        given = given.items() if isinstance(given, dict) else given
        pairs = [(word(name), word(attribute)) for name, attribute in given]
        return tuple(p for p in pairs if p[0]), word(note.get("global_adjective"))
    # EmoSet names objects without attributes; what it says of people is theirs, and of light and colour the whole's.
    pairs = [(word(name), "") for name in [*(note.get("object") or []), note.get("scene")]]
    for key in ("facial_expression", "human_action"):
        if note.get(key):
            pairs.append(("person", word(note[key])))
    return tuple(p for p in pairs if p[0]), _look(note)


def _look(note: dict[str, Any]) -> str:
    light, colour = note.get("brightness"), note.get("colorfulness")
    if light is not None and not 0.35 <= float(light) <= 0.65:
        return "dark" if float(light) < 0.35 else "bright"
    if colour is not None and not 0.25 <= float(colour) <= 0.6:
        return "dull" if float(colour) < 0.25 else "colourful"
    return ""


def _unusual(pairs: tuple[tuple[str, str], ...], adjective: str) -> list[str]:
    found = [] if pairs else ["no objects"]
    found += [f"more than {MAX_PAIRS} pairs"] * (len(pairs) > MAX_PAIRS)
    found += ["no attribute"] * any(not attribute for _, attribute in pairs)
    return found + ["no global adjective"] * (not adjective)
