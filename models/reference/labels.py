"""The labels of a gallery's pictures: nouns, adjectives and emotions, from the names of folders (`adjective_noun`, as
in the Visual Sentiment Ontology) or from CSV files."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

from .. import files, host
from ..emotions import MIKELS
from ..errors import UserError

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


def read_labels(folder: Path) -> tuple[Callable[[str], tuple[str, str, str] | None], set[str]]:
    """(path -> (noun, adjective, emotion), the files that a CSV lists). Where the gallery has a CSV with a column
    `file`, its pictures are those that it lists (others: None); else labels come from the names of folders
    (`adjective_noun`, as in VSO). Where no CSV gives an emotion it follows from the adjective. UserError for an emotion
    that is not one of the eight."""
    emotions = dict(ADJECTIVES)
    table: dict[str, dict[str, str]] = {}
    listed = False
    for path in tables(folder):
        rows, key = _table(path), "adjective" if path.name == "emotions.csv" else "file"
        if rows and key not in rows[0]:
            host.current().note(
                f"'{path.name}' in the gallery '{folder.name}' has no column '{key}' in its first line: it is not used."
            )
        for row in rows:
            if not row.get(key):
                continue
            if path.name == "emotions.csv":
                emotions[row["adjective"].lower()] = _emotion(row.get("emotion", ""), f"'{path.name}'")
            else:
                listed = True
                name = Path(row["file"].replace("\\", "/")).as_posix()
                table[name] = {**row, "emotion": _emotion(row.get("emotion", ""), f"'{path.name}', at {name},")}

    def labels(name: str) -> tuple[str, str, str] | None:
        if listed and name not in table:
            return None
        row = table.get(name, {})
        parent = name.rsplit("/", 2)[-2] if "/" in name else ""
        adjective, _, noun = parent.partition("_")
        noun, adjective = row.get("noun") or noun, row.get("adjective") or (adjective if noun else "")
        return noun, adjective, row.get("emotion") or emotions.get(adjective.lower(), "")

    return labels, set(table)
