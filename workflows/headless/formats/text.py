"""Texts that the frontend fills in when a workflow is queued: `{a|b}` choices and `%...%` in file names."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

from ....models.errors import UserError

MAX_CHOICES = 50
"""How deep `{a|b}` choices may be nested."""

MAX_LENGTH = 200_000
"""Characters of a text with choices. Every level of nesting reads what it holds once more."""

_LINE_END = re.compile(r"[\n\r\u2028\u2029]")
_DATE_PART = re.compile(r"dd?|MM?|hh?|mm?|ss?|yyyy?|yy?")
_NOT_IN_FILE_NAMES = re.compile(r'[/?<>\\:*|"\x00-\x1f\x7f]')


def choose(text: str, generator: random.Random) -> str:
    """Replaces each `{a|b}` by one of its parts, nested ones too, and removes // and /* */ comments.

    `\\{`, `\\|` and `\\}` are the characters themselves. The frontend chooses at random; here the generator decides, so
    that the same seed gives the same prompt. UserError if choices are nested more than `MAX_CHOICES` deep, or if the
    text is longer than `MAX_LENGTH`.
    """
    if len(text) > MAX_LENGTH:
        raise UserError(f"A prompt has {len(text):,} characters, and at most {MAX_LENGTH:,} are read. Make it shorter.")
    text = without_comments(text)
    if _depth(text) > MAX_CHOICES:
        raise UserError(
            f"A prompt holds {{a|b}} choices that are nested more than {MAX_CHOICES} deep. Remove some of the braces, "
            "or write \\{ for the character itself."
        )
    return _choose(text, generator)


def without_comments(text: str) -> str:
    """`text` without /* */ and // comments. A /* that is never closed is not a comment."""
    out, at = [], 0
    closing = 0  # where the last search for */ ended, so that no part is searched twice; -1 once there is none
    while (start := text.find("/", at)) >= 0:
        kind = text[start + 1 : start + 2]
        if kind == "*" and closing >= 0:
            closing = text.find("*/", max(start + 2, closing))
        end = closing + 2 if kind == "*" and closing >= 0 else None
        if kind == "/":
            line = _LINE_END.search(text, start)
            end = line.start() if line else len(text)
        out.append(text[at : start if end is not None else start + 1])
        at = start + 1 if end is None else end
    return "".join(out) + text[at:]


def _depth(text: str) -> int:
    deepest = depth = 0
    characters = iter(text)
    for c in characters:
        if c == "\\":
            next(characters, None)
        elif c == "{":
            depth += 1
            deepest = max(deepest, depth)
        elif c == "}":
            depth = max(0, depth - 1)
    return deepest


def _choose(text: str, generator: random.Random) -> str:
    out, i = [], 0
    while i < len(text):
        if text[i] == "\\" and i + 1 < len(text):
            out.append(text[i : i + 2])
            i += 2
        elif text[i] == "{":
            options, i = _options(text, i + 1)
            out.append(_choose(generator.choice(options), generator))
        else:
            out.append(text[i])
            i += 1
    return re.sub(r"\\([{}|])", r"\1", "".join(out))


def _options(text: str, i: int) -> tuple[list[str], int]:
    """The parts of the block that opened before `i`, and the index after its end."""
    options, part, depth = [], "", 0
    while i < len(text):
        c = text[i]
        if c == "\\" and i + 1 < len(text):
            part += text[i : i + 2]
            i += 2
            continue
        i += 1
        if c == "}" and depth == 0:
            break
        if c == "|" and depth == 0:
            options.append(part)
            part = ""
            continue
        depth += (c == "{") - (c == "}")
        part += c
    return [*options, part], i


def fill_in(text: str, find_widget: Callable[[str, str], tuple[bool, Any]], now: datetime) -> str:
    """Replaces `%date:yyyy-MM-dd%` and `%Node.widget%`; unknown names (and `%width%`, which SaveImage fills in itself)
    stay as they are.

    find_widget  (node name, widget name) -> (whether it exists, its value)
    """

    def replace(match: re.Match[str]) -> str:
        parts = match.group(1).split(".")
        if len(parts) != 2:
            return format_date(parts[0][5:], now) if parts[0].startswith("date:") else match.group(0)
        exists, value = find_widget(parts[0], parts[1])
        return _NOT_IN_FILE_NAMES.sub("_", as_text(value)) if exists else match.group(0)

    return re.sub(r"%([^%]+)%", replace, text)


def format_date(pattern: str, now: datetime) -> str:
    """`now` in a pattern such as `yyyy-MM-dd hh:mm:ss`, as the frontend reads them: one letter is not padded, two are;
    `yy` is the year's last two digits."""
    values = {"d": now.day, "M": now.month, "h": now.hour, "m": now.minute, "s": now.second}

    def replace(match: re.Match[str]) -> str:
        part = match.group(0)
        if part == "yyyy":
            return str(now.year)
        if part == "yy":
            return str(now.year)[2:]
        return str(values[part[0]]).zfill(len(part)) if part[0] in values else part

    return _DATE_PART.sub(replace, pattern)


def as_text(value: Any) -> str:
    """A widget's value as the frontend prints it: true, 7 for 7.0, and the empty string for null."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return str(int(value))
    return str(value)
