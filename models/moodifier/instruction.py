"""What is to be changed: the one answer that every MLLM provider gives, checked against one schema."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from typing import Any

from ..emotions import LABELS
from ..errors import UserError
from . import rules

MOST_OBJECTS = 8
LONGEST_NAME, LONGEST_PROMPT = 60, 1200

SCHEMA: dict[str, Any] = {
    "type": "object", "additionalProperties": False,
    "required": ["objects", "source_prompt", "target_prompt"],
    "properties": {
        "objects": {"type": "array", "maxItems": MOST_OBJECTS, "items": {
            "type": "object", "additionalProperties": False, "required": ["name", "attribute", "box"],
            "properties": {"name": {"type": "string"}, "attribute": {"type": "string"},
                           "box": {"type": ["array", "null"], "items": {"type": "number"}}}}},
        "source_prompt": {"type": "string"}, "target_prompt": {"type": "string"},
    },
}
"""JSON schema of an answer. A box is left, top, right, bottom as shares of the image's sides, or null."""


class BrokenAnswer(Exception):
    """An answer that is not what was asked for; its text says why, for the second try and for the user."""


@dataclass(frozen=True)
class Change:
    """One object: its name as it stands in the source prompt, the attribute it takes, and its box (left, top, right, bottom in
    0..1) where one was given."""

    name: str
    attribute: str
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Instruction:
    """What to change, and both prompts. `warning` says where it comes from when that is not what was asked."""

    objects: tuple[Change, ...]
    source_prompt: str
    target_prompt: str
    provider: str = ""
    warning: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def plain(text: Any, longest: int) -> str:
    """Text of a model as text for a prompt: one line, no control characters, none of the marks that a prompt's parser obeys
    (weights, embeddings, dynamic prompts), no longer than `longest` (cut behind a sentence or a word)."""
    text = re.sub(r"\bembedding:", "embedding ", str(text), flags=re.IGNORECASE)
    text = " ".join(re.sub(r"[\x00-\x1f\x7f()\[\]{}|<>\\]", " ", text).split())
    if len(text) <= longest:
        return text
    cut = text[:longest]
    end = max(cut.rfind(". ") + 1, 0) or max(cut.rfind(" "), 0) or longest
    return cut[:end].strip()


def parse(answer: str) -> Instruction:
    """The instruction in an answer, which may stand between words or a code fence. BrokenAnswer where there is none, or it is
    outside the schema. Boxes in percent or per thousand are taken as such."""
    start = answer.find("{")
    if start < 0:
        raise BrokenAnswer("it holds no JSON object")
    try:
        data, _ = json.JSONDecoder().raw_decode(answer[start:])
    except (ValueError, RecursionError) as error:
        raise BrokenAnswer(f"its JSON is broken ({error})" if isinstance(error, ValueError) else "its JSON is nested too deep") from None
    for key, kind in (("objects", list), ("source_prompt", str), ("target_prompt", str)):
        if not isinstance(data.get(key), kind):
            raise BrokenAnswer(f"'{key}' is missing or is no {'list' if kind is list else 'text'}")
    objects = []
    for item in data["objects"][:MOST_OBJECTS]:
        if not isinstance(item, dict) or not isinstance(item.get("name"), str) or not isinstance(item.get("attribute", ""), str):
            raise BrokenAnswer("an entry of 'objects' has no name, or no text as attribute")
        name = plain(item["name"], LONGEST_NAME).lower()
        if name:
            objects.append(Change(name, plain(item.get("attribute", ""), LONGEST_NAME).lower(), _box(item.get("box"))))
    source, target = (plain(data[key], LONGEST_PROMPT) for key in ("source_prompt", "target_prompt"))
    if not source or not target:
        raise BrokenAnswer("a prompt is empty")
    return Instruction(tuple(objects), source, target)


def _box(value: Any) -> tuple[float, float, float, float] | None:
    if value is None or value == []:
        return None
    if not isinstance(value, list) or len(value) != 4 or not all(
            isinstance(v, (int, float)) and not isinstance(v, bool) and abs(v) < 1e6 for v in value):
        raise BrokenAnswer("a box is not four numbers")
    scale = next((s for s in (1.0, 100.0, 1000.0) if max(value) <= s), None)
    if scale is None or min(value) < 0:
        raise BrokenAnswer("a box lies outside the image: shares from 0 to 1 are wanted")
    left, top, right, bottom = (v / scale for v in value)
    if right <= left or bottom <= top:
        raise BrokenAnswer("a box is empty")
    return left, top, right, bottom


def by_rules(emotion: str, objects: list[str], description: str = "") -> Instruction:
    """What needs no MLLM. `objects` are the user's own; without any the whole picture changes. `description` says what the
    image shows. UserError for an unknown emotion."""
    if emotion not in LABELS:
        raise UserError(f"'{emotion}' is none of the emotions known here: {', '.join(LABELS)}.")
    names = [plain(name, LONGEST_NAME).lower() for name in objects]
    changes = tuple(Change(name, rules.attribute(emotion, name)) for name in names if name)
    seen = plain(description, LONGEST_PROMPT) or " and ".join(_article(c.name) for c in changes) or "a picture"
    missing = [c.name for c in changes if c.name not in seen.lower()]
    source = seen + "".join(f" with {_article(name)}" for name in missing)
    target = source
    for change in changes:
        target = re.sub(rf"\b(?:(an?) )?({re.escape(change.name)})\b", lambda m: _with(change.attribute, m), target, count=1,
                        flags=re.IGNORECASE)
    return Instruction(changes, source, f"{target}, {rules.atmosphere(emotion)}", "rules")


def _article(words: str) -> str:
    return f"{'an' if words[:1] in 'aeiou' else 'a'} {words}"


def _with(attribute: str, match: re.Match[str]) -> str:
    words = f"{attribute} {match.group(2)}"
    return _article(words) if match.group(1) else words
