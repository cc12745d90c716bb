"""People's ratings of valence and arousal in a gallery's CSV, on any scale: stated in the header or found out."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from .. import host
from ..errors import UserError

SCALES = (
    (0.0, 1.0),
    (-1.0, 1.0),
    (1.0, 5.0),
    (1.0, 7.0),
    (1.0, 9.0),
    (0.0, 10.0),
    (-2.0, 2.0),
    (-3.0, 3.0),
    (-4.0, 4.0),
    (0.0, 100.0),
    (-100.0, 100.0),
)
"""Scales in use, in the order in which they are tried where a header states none. OASIS has 1 to 7, IAPS 1 to 9."""

DIMENSIONS = ("valence", "arousal")

_NUMBER = r"-?\d+(?:\.\d+)?"
_COLUMN = r"(?:mean[ _]?)?{name}(?:[ _.]?mean)?[ _]*(?P<scale>[\[(].*[\])]|{number}.*)?"
_SCALE = re.compile(rf"[\[(]?\s*({_NUMBER})\s*(?:-|–|\.\.+|to|,|:|/)\s*({_NUMBER})\s*[\])]?")


class Column(NamedTuple):
    """A column of ratings: its name in the table, and its scale's ends where its header states them."""

    name: str
    scale: tuple[float, float] | None


def rating_columns(keys: list[str], where: str) -> list[Column] | None:
    """The columns of valence and arousal among a table's (in lower case): `valence`, `valence_mean`,
    `valence (1-7)`, ...; None where it has neither. UserError where it has one without the other, or a header whose
    brackets hold no scale.

    where  the table's name, for errors
    """
    found = {}
    for name in DIMENSIONS:
        pattern = re.compile(_COLUMN.format(name=name, number=_NUMBER))
        matches = ((key, pattern.fullmatch(key)) for key in keys)
        key, match = next(((k, m) for k, m in matches if m), (None, None))
        if key is not None and match is not None:
            found[name] = Column(key, _stated(match["scale"], key, where))
    if not found:
        return None
    for name, other in (DIMENSIONS, DIMENSIONS[::-1]):
        if name not in found:
            raise UserError(
                f"{where} has a column '{found[other].name}' and none of {name}: ratings are pairs. Add the column "
                f"'{name}', or rename '{found[other].name}'."
            )
    return [found[name] for name in DIMENSIONS]


def _stated(text: str | None, key: str, where: str) -> tuple[float, float] | None:
    if text is None:
        return None
    match = _SCALE.fullmatch(text.strip())
    low, high = (float(match[1]), float(match[2])) if match else (0.0, 0.0)
    if low >= high:
        raise UserError(f"{where} has a column '{key}', and '{text}' is not a scale. Write it as in 'valence (1-7)'.")
    return low, high


def read_ratings(rows: list[dict[str, str]], where: str) -> list[tuple[float, float] | None]:
    """(valence, arousal) of each row, both from 0 to 1; None where both cells are empty, or where the table has no
    such columns.

    UserError for a cell that is not a number, one without the other, and a rating outside the scale. A scale that is
    found out (the first of `SCALES` that holds all ratings) is told.
    """
    fullest: dict[str, str] = max(rows, key=len, default={})  # a row may end before its table's last columns
    columns = rating_columns(list(fullest), where)
    if columns is None:
        return [None] * len(rows)
    pairs = [_pair(row, columns, where) for row in rows]
    scales = [c.scale or _found_out([p for p in pairs if p], i, columns, where) for i, c in enumerate(columns)]
    out: list[tuple[float, float] | None] = []
    for row, pair in zip(rows, pairs):
        if pair is None:
            out.append(None)
            continue
        for value, column, (low, high) in zip(pair, columns, scales):
            if not low <= value <= high:
                raise UserError(
                    f"{where}, at {row.get('file', '')}, has {value:g} in '{column.name}', outside its scale of "
                    f"{low:g} to {high:g}. Correct the rating, or the scale in the header."
                )
        valence, arousal = ((value - low) / (high - low) for value, (low, high) in zip(pair, scales))
        out.append((valence, arousal))
    return out


def _pair(row: dict[str, str], columns: list[Column], where: str) -> tuple[float, float] | None:
    """A row's two ratings as they are written; None where both cells are empty."""
    at = f"{where}, at {row.get('file', '')},"
    cells = [row.get(column.name, "") for column in columns]
    if not any(cells):
        return None
    values = []
    for cell, column in zip(cells, columns):
        try:
            value = float(cell.replace(",", "."))  # a decimal comma, where semicolons separate cells
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            wrong = f"{cell[:40]!r}, which is not a number," if cell else "no number"
            raise UserError(f"{at} has {wrong} in '{column.name}'. Write a number, or leave both ratings empty.")
        values.append(value)
    return values[0], values[1]


def _found_out(pairs: list[tuple[float, float]], i: int, columns: list[Column], where: str) -> tuple[float, float]:
    """The scale of column i, from the ratings of both columns where neither states one: they share it."""
    if not pairs:
        return SCALES[0]
    shared = columns[1 - i].scale is None
    values = [value for pair in pairs for value in (pair if shared else pair[i : i + 1])]
    least, most = min(values), max(values)
    scale = next((s for s in SCALES if s[0] <= least and most <= s[1]), None)
    if scale is None:
        raise UserError(
            f"{where} has ratings from {least:g} to {most:g}, which are on no usual scale. State the scale in the "
            f"header, as in '{columns[i].name} (0-{math.ceil(most)})'."
        )
    if i == 0 or not shared:
        host.current().note(
            f"{where} states no scale for its ratings ({least:g} to {most:g}): they are read as {scale[0]:g} to "
            f"{scale[1]:g}. If that is wrong, state it in the header, as in '{columns[i].name} (1-9)'."
        )
    return scale
