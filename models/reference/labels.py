"""The labels of a gallery's pictures: nouns, adjectives, emotions and people's ratings, from the names of folders
(`adjective_noun`, as in the Visual Sentiment Ontology) or from CSV files."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from .. import files, host
from ..emotions import MIKELS
from ..errors import UserError
from .ratings import read_ratings

LARGEST_TABLE = 200_000_000
"""Bytes of a CSV at most, enough for two million pictures."""

ADJECTIVES: dict[str, str] = {
    "warm": "contentment",
    "clear": "contentment",
    "lovely": "contentment",
    "calm": "contentment",
    "peaceful": "contentment",
    "scenic": "awe",
    "great": "awe",
    "beautiful": "awe",
    "majestic": "awe",
    "bright": "excitement",
    "colorful": "excitement",
    "exciting": "excitement",
    "happy": "amusement",
    "funny": "amusement",
    "cute": "amusement",
    "muddy": "disgust",
    "dirty": "disgust",
    "ugly": "disgust",
    "dark": "fear",
    "scary": "fear",
    "creepy": "fear",
    "stormy": "fear",
    "misty": "sadness",
    "poor": "sadness",
    "lonely": "sadness",
    "sad": "sadness",
    "abandoned": "sadness",
    "harsh": "anger",
    "rough": "anger",
    "angry": "anger",
    "violent": "anger",
}
"""Adjective -> one of Mikels' eight emotions (by VSO's sentiments; the choice among the eight is ours). A
gallery's own `emotions.csv` (adjective, emotion) overrides it."""

GROUPS = ({"mountain", "hill", "landscape"}, {"home", "room", "house"}, {"river", "water", "lake"}, {"city"})
"""Nouns that are compared with one another (the paper's table I)."""


def singular(noun: str) -> str:
    """A noun's form for comparison: lower case, without the plural of VSO's folders (mountains, cities, beaches,
    movies). Not for display: "movies" becomes "movy"."""
    noun = noun.lower().strip()
    if noun.endswith(("ches", "shes", "sses", "xes", "zes")):
        return noun[:-2]
    noun = noun[:-1] if noun.endswith("s") and not noun.endswith("ss") else noun
    return noun[:-2] + "y" if noun.endswith("ie") else noun


def tables(folder: Path) -> list[Path]:
    """The CSV files of a gallery, without pipes, devices and links that leave the folder, whose content and size are
    unknown."""
    out, root = [], folder.resolve()
    for path in sorted(folder.glob("*.csv")):
        if path.is_file() and path.resolve().is_relative_to(root):
            out.append(path)
        else:
            host.current().note(
                f"'{path.name}' in the gallery '{folder.name}' is not a regular file, or a link that leaves the "
                "folder: it is not used."
            )
    return out


def _table(path: Path) -> list[dict[str, str]]:
    """A CSV's rows with lower-case keys. Tables that Excel wrote in the system's code page, or with semicolons or tabs,
    are read too."""
    raw = files.read_text(path, LARGEST_TABLE)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    lines = text.splitlines()
    delimiter = max(",;\t", key=lines[0].count) if lines else ","
    try:
        # Not DictReader: it fills short rows up to the width of the first line, which may have 100,000 columns.
        rows = (row for row in csv.reader(lines, delimiter=delimiter) if row)
        keys = [key.strip().lower() for key in next(rows, [])]
        return [{key: cell.strip() for key, cell in zip(keys, row)} for row in rows]
    except csv.Error as error:
        raise UserError(
            f"The table '{path.name}' in the gallery cannot be read: {error}. Save it again as CSV."
        ) from error


def _emotion(name: str, where: str) -> str:
    if name and name.lower() not in MIKELS:
        raise UserError(f"{where} names the emotion '{name}'. The eight are: {', '.join(MIKELS)}.")
    return name.lower()


class Labels(NamedTuple):
    """What is known of a picture; a rating is (valence, arousal), each in 0..1."""

    noun: str
    adjective: str
    emotion: str
    rating: tuple[float, float] | None = None


class _Row(NamedTuple):
    cells: dict[str, str]
    rating: tuple[float, float] | None


def read_labels(folder: Path, names: Iterable[str] = ()) -> tuple[Callable[[str], Labels | None], set[str]]:
    """(path -> its labels, the files that a CSV lists). Where the gallery has a CSV with a column `file`, its pictures
    are those that it lists (others: None); else labels come from the names of folders (`adjective_noun`, as in VSO).
    Where no CSV gives an emotion it follows from the adjective; where none has a column `noun`, it may be `theme`
    (OASIS's word). Ratings: `ratings.read_ratings`.

    names  the folder's files: a listed name without a folder stands for the only file of that name in any sub-folder

    UserError for an emotion that is not one of the eight, and as `read_ratings` raises it."""
    emotions = dict(ADJECTIVES)
    table: dict[str, _Row] = {}
    for path in tables(folder):
        rows, key = _table(path), "adjective" if path.name == "emotions.csv" else "file"
        if rows and key not in rows[0]:
            host.current().note(
                f"'{path.name}' in the gallery '{folder.name}' has no column '{key}' in its first line: it is not used."
            )
        rows = [row for row in rows if row.get(key)]
        if path.name == "emotions.csv":
            for row in rows:
                emotions[row["adjective"].lower()] = _emotion(row.get("emotion", ""), f"'{path.name}'")
            continue
        for row, rating in zip(rows, read_ratings(rows, f"'{path.name}'")):
            name = Path(row["file"].replace("\\", "/")).as_posix()
            row["emotion"] = _emotion(row.get("emotion", ""), f"'{path.name}', at {name},")
            table[name] = _Row(row, rating)
    listed = bool(table)
    table = _found(table, names)

    def labels(name: str) -> Labels | None:
        if listed and name not in table:
            return None
        row, rating = table.get(name, ({}, None))
        parent = name.rsplit("/", 2)[-2] if "/" in name else ""
        adjective, _, folder_noun = parent.partition("_")
        noun = row.get("noun") or row.get("theme") or folder_noun
        if not folder_noun and adjective.lower() not in emotions:
            adjective = ""  # a folder such as "images" says nothing
        adjective = row.get("adjective") or (adjective if noun else "")
        return Labels(noun, adjective, row.get("emotion") or emotions.get(adjective.lower(), ""), rating)

    return labels, set(table)


def _found(table: dict[str, _Row], names: Iterable[str]) -> dict[str, _Row]:
    """A table's rows by path: a name without a folder that is not there stands for the only file of that name."""
    present = set(names)
    missing = {name for name in table if "/" not in name and name not in present}
    places: dict[str, list[str]] = {}
    for name in present if missing else ():
        if (base := name.rsplit("/", 1)[-1]) in missing:
            places.setdefault(base, []).append(name)
    only = {base: found[0] for base, found in places.items() if len(found) == 1 and found[0] not in table}
    return {only.get(name, name): row for name, row in table.items()}
