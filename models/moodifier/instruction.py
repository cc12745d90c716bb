"""An instruction: what to change in an image. Every MLLM provider's answer is checked against one schema."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..emotions import LABELS
from ..errors import UserError
from . import rules, words
from .addresses import redacted

MOST_OBJECTS = 8
LONGEST_NAME, LONGEST_PROMPT = 60, 1200

SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["objects", "source_prompt", "target_prompt"],
    "properties": {
        "objects": {
            "type": "array",
            "maxItems": MOST_OBJECTS,
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["name", "attribute", "box"],
                "properties": {
                    "name": {"type": "string"},
                    "attribute": {"type": "string"},
                    "box": {"type": ["array", "null"], "items": {"type": "number"}},
                },
            },
        },
        "source_prompt": {"type": "string"},
        "target_prompt": {"type": "string"},
    },
}
"""JSON schema of an answer. A box is left, top, right, bottom as shares of the image's sides, or null."""


class BrokenAnswer(Exception):
    """An answer that does not fit the schema; the text says why, for the second try and for the user."""


@dataclass(frozen=True)
class Change:
    """One object: its name as in the source prompt, the attribute it gets, and its box (left, top, right, bottom in
    0..1) where one was given."""

    name: str
    attribute: str
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Instruction:
    """What to change, and both prompts. `warning` says who answered where that is not who was asked, or what is in
    doubt."""

    objects: tuple[Change, ...]
    source_prompt: str
    target_prompt: str
    provider: str = ""
    warning: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values, by the fields' names."""
        return asdict(self)


def plain(text: Any, longest: int) -> str:
    """A model's text made safe for a prompt: one line, without control characters, without the environment's keys
    (`addresses.redacted`), without syntax that a prompt's parser interprets (weights, embeddings, dynamic prompts), and
    cut after a sentence or a word where it is longer than `longest`."""
    text = re.sub(r"\bembedding:", "embedding ", redacted(str(text)), flags=re.IGNORECASE)
    text = " ".join(re.sub(r"[\x00-\x1f\x7f()\[\]{}|<>\\]", " ", text).split())
    if len(text) <= longest:
        return text
    cut = text[:longest]
    end = max(cut.rfind(". ") + 1, 0) or max(cut.rfind(" "), 0) or longest
    return cut[:end].strip()


def names(objects: list[str]) -> list[str]:
    """The names that a user gave, as they are written in prompts: plain, in lower case, without punctuation around
    them, each once."""
    written = [plain(name, LONGEST_NAME).lower().strip(" .,;:!?\"'") for name in objects]
    return [name for name in dict.fromkeys(written) if name]


def parse(answer: str, size: tuple[int, int] = (1000, 1000)) -> Instruction:
    """The instruction in an answer: the first JSON object that fits the schema, whatever text or code fence is around
    it. BrokenAnswer where there is none; it says what is wrong with the first.

    size  width and height of the image as it was shown: boxes may come in its pixels
    """
    why, start, tries = "", answer.find("{"), 0
    while start >= 0 and tries < 50:
        try:
            data, _ = json.JSONDecoder().raw_decode(answer[start:])
            return _checked(data, size)
        except BrokenAnswer as error:
            why = why or str(error)  # the error of the outermost object, not of a part of it
        except RecursionError:
            raise BrokenAnswer("its JSON is nested too deep") from None
        except ValueError as error:
            why = why or f"its JSON is broken ({error})"
        start, tries = answer.find("{", start + 1), tries + 1
    raise BrokenAnswer(why or "it holds no JSON object")


def _checked(data: dict[str, Any], size: tuple[int, int]) -> Instruction:
    for key, kind in (("objects", list), ("source_prompt", str), ("target_prompt", str)):
        if not isinstance(data.get(key), kind):
            raise BrokenAnswer(f"'{key}' is missing or is not a {'list' if kind is list else 'text'}")
    items = data["objects"][:MOST_OBJECTS]
    for item in items:
        if (
            not isinstance(item, dict)
            or not isinstance(item.get("name"), str)
            or not isinstance(item.get("attribute", ""), str)
        ):
            raise BrokenAnswer("an entry of 'objects' has no name, or no text as attribute")
    boxes = _boxes([item.get("box") for item in items], size)
    named = [
        (plain(item["name"], LONGEST_NAME).lower(), plain(item.get("attribute", ""), LONGEST_NAME).lower())
        for item in items
    ]
    source, target = (plain(data[key], LONGEST_PROMPT) for key in ("source_prompt", "target_prompt"))
    if not source or not target:
        raise BrokenAnswer("a prompt is empty")
    return Instruction(tuple(Change(*words, box) for words, box in zip(named, boxes) if words[0]), source, target)


def _boxes(values: list[Any], size: tuple[int, int]) -> list[tuple[float, float, float, float] | None]:
    """Boxes as shares of the image. Whatever they are asked for, models answer in shares, in pixels of the image that
    they were shown, or per thousand; all boxes of one answer are read in the same unit."""
    given = [v for v in values if v]
    for v in given:
        if (
            not isinstance(v, list)
            or len(v) != 4
            or not all(isinstance(x, (int, float)) and not isinstance(x, bool) and abs(x) < 1e6 for x in v)
        ):
            raise BrokenAnswer("a box is not four numbers")
        if min(v) < 0:
            raise BrokenAnswer("a box lies outside the image: shares from 0 to 1 are expected")
        if v[2] <= v[0] or v[3] <= v[1]:
            raise BrokenAnswer("a box is empty")
    scales = ((1, 1), size, (1000, 1000))
    over = 1.05  # a model's box may end a little outside the picture
    scale = next((s for s in scales if all(v[2] <= over * s[0] and v[3] <= over * s[1] for v in given)), None)
    if scale is None or any(v[0] >= scale[0] or v[1] >= scale[1] for v in given):
        raise BrokenAnswer("a box lies outside the image: shares from 0 to 1 are expected")
    share = lambda x, most: min(x / most, 1.0)
    return [
        (share(v[0], scale[0]), share(v[1], scale[1]), share(v[2], scale[0]), share(v[3], scale[1])) if v else None
        for v in values
    ]


def complete(instruction: Instruction) -> Instruction:
    """The instruction with every object in both prompts: a grounding looks for its word in the source, and the target
    says what it becomes. What a model left out is added at the end."""
    source, target = instruction.source_prompt, instruction.target_prompt
    for change in instruction.objects:
        if not words.occurs_in(source, change.name):
            source = f"{source.rstrip('. ')} with {words.article(change.name)}"
        if not words.occurs_in(target, change.name):
            target = f"{target.rstrip('. ')} with {words.article(f'{change.attribute} {change.name}'.strip())}"
    return replace(instruction, source_prompt=source, target_prompt=target)


def by_rules(emotion: str, objects: list[str], description: str = "") -> Instruction:
    """An instruction without an MLLM. `objects` are the user's own; without any the whole picture changes.
    `description` says what the image shows. UserError for an unknown emotion."""
    if emotion not in LABELS:
        raise UserError(f"The emotion '{emotion}' is unknown. Choose from: {', '.join(LABELS)}.")
    changes = tuple(Change(name, rules.attribute(emotion, name)) for name in names(objects))
    shown = plain(description, LONGEST_PROMPT) or " and ".join(words.article(c.name) for c in changes) or "a picture"
    source = complete(Instruction(changes, shown, shown)).source_prompt
    target = source
    for change in changes:
        target = words.described(target, change.name, change.attribute)
    return Instruction(changes, source, f"{target}, {rules.atmosphere(emotion)}", "rules")
