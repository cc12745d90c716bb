"""What a node shows of its type's definition: its widgets, where each finds its value in the file, and its slots.

A drawing stores widget values as a list without names. Which belongs to which follows from the definition and from the
values before it: a dynamic list of choices brings widgets of its own, and some widgets store values that are no inputs.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from ..registry import Input, inputs_of

_UNSTORED = {"IMAGECOMPARE", "AUDIO_UI"}
"""Widget types that have no place among the stored values."""

_UNSENT = {"IMAGEUPLOAD", "AUDIOUPLOAD", "AUDIO_UI"}
"""Widget types whose values never reach a prompt."""

_MOST_GROWN = 1000
"""Inputs of a list that grows, at most."""

_BUTTONS_OF_3D = 3
"""Buttons that stand before a 3D view where the node chooses a model file."""


@dataclass
class Drawn:
    """What `draw` finds.

    values  of the widgets that go into a prompt, by input name
    places  input name -> index, or name, of its value in what the file stores, for those that may be changed there
    slots   (name, type, whether a widget stands behind it), in the frontend's order
    used    how many of the stored values have a place
    groups  what the names of inputs begin with that exist for one choice of a dynamic list only
    """

    values: dict[str, Any] = field(default_factory=dict)
    places: dict[str, Any] = field(default_factory=dict)
    slots: list[tuple[str, str, bool]] = field(default_factory=list)
    used: int = 0
    groups: list[str] = field(default_factory=list)


def draw(key: str, inputs: list[Input], stored: list[Any] | dict[str, Any], slots: list[dict[str, Any]]) -> Drawn:
    """Widgets and slots of a node of type `key`.

    stored  `widgets_values` as the file has them
    slots   `inputs` as the file has them. A list that grows has as many slots as their links need; and one that is
            marked as a widget's is one, though its type is known to an extension of the frontend alone
    """
    pen = _Pen(stored, slots)
    pen.skipped = _dummies(inputs, stored)
    for spec in inputs:
        if not pen.is_widget(spec):
            pen.add(spec)
    for spec in inputs:
        if pen.is_widget(spec):
            pen.add(spec)
    for spec in pen.later:
        pen.add(spec)
    if key == "CustomCombo":
        _custom_combo(pen)
    pen.drawn.used = pen.at
    return pen.drawn


def active_inputs(inputs: list[Input], given: dict[str, Any]) -> dict[str, Input]:
    """Those inputs, and the further ones that the given choices of dynamic lists bring, by name."""
    found: dict[str, Input] = {}
    waiting = list(reversed(inputs))
    while waiting:
        spec = waiting.pop()
        found[spec.name] = spec
        if spec.type == "COMFY_DYNAMICCOMBO_V3":
            waiting += reversed(spec.variants.get(str(given.get(spec.name)), ()))
    return found


def number_of_choice(values: dict[str, Any]) -> int:
    """Which of a CustomCombo's options its choice is, from 0; -1 where it is none of them."""
    options = [value for name, value in values.items() if name.startswith("option")]
    return next((n for n, value in enumerate(options) if value == values.get("choice")), -1)


class _Pen:
    """Draws input after input and takes a stored value for each widget."""

    def __init__(self, stored: list[Any] | dict[str, Any], slots: list[dict[str, Any]]):
        self.stored = stored
        self.linked = [str(s.get("name")) for s in slots if s.get("link") is not None]
        self.marked = {str(s.get("name")) for s in slots if s.get("widget")}
        self.skipped: set[int] = set()
        """Places of values that are none of any widget's."""
        self.drawn = Drawn()
        self.at = 0
        self.later: list[Input] = []

    def is_widget(self, spec: Input) -> bool:
        marked = spec.name in self.marked and not spec.options.get("forceInput") and not spec.type.startswith("COMFY_")
        return spec.is_widget or marked

    def add(self, spec: Input) -> None:
        template = spec.options.get("template") or {}
        if self.is_widget(spec):
            self._widget(spec)
        elif spec.type == "COMFY_AUTOGROW_V3":
            self._growing(spec, template)
        elif spec.type == "COMFY_MATCHTYPE_V3":
            allowed = str(template.get("allowed_types") or "*")
            self.add(replace(spec, type="*" if allowed.startswith("COMFY_") else allowed))
        else:
            self.drawn.slots.append((spec.name, spec.type, False))

    def take(self, name: str, otherwise: Any = None) -> Any:
        """The next stored value, or `otherwise` where there is none; the place is noted under `name`."""
        if isinstance(self.stored, dict):
            key: Any = name
            found = name in self.stored
        else:
            while self.at in self.skipped:
                self.at += 1
            key, self.at = self.at, self.at + 1
            found = key < len(self.stored)
        if not found:
            return otherwise
        self.drawn.places[name] = key
        return self.stored[key]

    def skip(self, count: int) -> None:
        """Passes over values that are no inputs: control values, buttons."""
        if not isinstance(self.stored, dict):
            self.at += count

    def _widget(self, spec: Input) -> None:
        kind = spec.widget_type
        if kind == "LOAD_3D" and "model_file" in self.drawn.values:
            self.skip(_BUTTONS_OF_3D)
        value = spec.default if kind in _UNSTORED else self.take(spec.name, spec.default)
        if value is None and kind in ("COMBO", "COMFY_DYNAMICCOMBO_V3"):
            value = next(iter(spec.choices or spec.variants), None)
        if kind not in _UNSENT:
            self.drawn.values[spec.name] = _wrapped_curve(value) if kind == "CURVE" else value
        if not spec.options.get("socketless"):
            self.drawn.slots.append((spec.name, spec.type, True))
        self.skip(spec.control_values + {"BOUNDING_BOX": 4}.get(kind, 0))
        remote = spec.options.get("remote")
        if remote:  # a switch, and a button where the definition asks for one
            self.skip(1 + bool(isinstance(remote, dict) and remote.get("refresh_button")))
        if kind == "COMFY_DYNAMICCOMBO_V3":
            self.drawn.places.pop(spec.name, None)  # changing it in the file alone would shift the values behind it
            self.drawn.groups.append(f"{spec.name}.")
            for further in spec.variants.get(str(value), ()):
                self.add(further)

    def _growing(self, spec: Input, template: dict[str, Any]) -> None:
        """A list of inputs (COMFY_AUTOGROW_V3) that always shows one more than are linked."""
        names, prefix = template.get("names"), template.get("prefix") or ""
        declared = [i for i in inputs_of(template.get("input") or {}) if i.type != "COMFY_AUTOGROW_V3"]
        low, high = template.get("min", 1), min(len(names) if names else template.get("max", 100), _MOST_GROWN)

        def name_of(ordinal: int, one: Input) -> str:
            own = names[ordinal] if names else f"{prefix if len(declared) == 1 else one.name}{ordinal}"
            return f"{spec.name}.{own}"

        linked = {name for name in self.linked if name.startswith(f"{spec.name}.")}
        start = min(low + 1, high)
        needed = (
            max((o + 2 for o in range(high) if any(name_of(o, one) in linked for one in declared)), default=0)
            if linked
            else 0
        )
        for ordinal in range(min(max(start, needed), high)):
            for one in declared:
                grown = replace(one, name=name_of(ordinal, one))
                if ordinal >= start and self.is_widget(grown):
                    self.later.append(grown)  # the frontend adds such a widget once the one before is linked
                else:
                    self.add(grown)


def _dummies(inputs: list[Input], stored: list[Any] | dict[str, Any]) -> set[int]:
    """Places of values that belong to sockets.

    Before its version 1.16 the frontend stored a value for forceInput sockets too. Such a file is known by
    its number of values, as the frontend knows it.
    """
    if isinstance(stored, dict) or not any(i.options.get("forceInput") for i in inputs):
        return set()
    at, found = 0, set()
    for i in inputs:
        if i.type.startswith("COMFY_"):  # younger than such files
            return set()
        if i.options.get("forceInput"):
            found.update(range(at, at + 1 + i.control_values))
        elif not i.is_widget:
            continue
        at += 1 + i.control_values
    return found if at + any(is_upload(i) for i in inputs) == len(stored) else set()


def is_upload(spec: Input) -> bool:
    """Whether the frontend adds an upload button, which stores a value of its own at the end."""
    return spec.type == "COMBO" and any(
        spec.options.get(f"{kind}_upload") for kind in ("image", "animated_image", "video", "audio")
    )


def _custom_combo(pen: _Pen) -> None:
    """A CustomCombo keeps its choices in widgets of its own, option1 to the first that is empty, and counts which of
    them is chosen."""
    values, slots = pen.drawn.values, pen.drawn.slots
    pen.skip(1)  # the number, which is counted anew
    count, last = 0, None
    while count == 0 or last not in ("", None):
        count += 1
        last = pen.take(f"option{count}", "")
        values[f"option{count}"] = last
        slots.append((f"option{count}", "STRING", True))
    values["index"] = number_of_choice(values)


def _wrapped_curve(value: Any) -> Any:
    """A curve that an older file stores as a list of points, as the server wants it."""
    return {"__type__": "CURVE", "__value__": value} if isinstance(value, list) else value
