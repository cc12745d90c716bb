"""A drawn node's widgets and slots, derived from its type's definition, and each widget's value in the file.

A drawing stores widget values as a list without names. Which value belongs to which widget follows from the definition
and from the values before it: a dynamic list of choices adds widgets, and some widgets store values besides inputs.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from ..registry import Input, inputs_of

_UNSTORED = {"IMAGECOMPARE", "AUDIO_UI"}
"""Widget types whose values are not stored."""

_UNSENT = {"IMAGEUPLOAD", "AUDIOUPLOAD", "AUDIO_UI"}
"""Widget types whose values never reach a prompt."""

_MOST_GROWN = 1000
"""The most inputs of a growing list."""

_BUTTONS_OF_3D = 3
"""Buttons that come before a 3D view if the node has a choice of model files."""


@dataclass
class Drawn:
    """What `draw` returns.

    values  values of the widgets that go into a prompt, by input name
    places  input name -> index, or key, of its stored value, for those that may be changed in the file
    slots   (name, type, whether it is a widget's input), in the frontend's order
    used    how many of the stored values belong to widgets
    groups  prefixes of the names of inputs that exist for one choice of a dynamic list only
    """

    values: dict[str, Any] = field(default_factory=dict)
    places: dict[str, Any] = field(default_factory=dict)
    slots: list[tuple[str, str, bool]] = field(default_factory=list)
    used: int = 0
    groups: list[str] = field(default_factory=list)


def draw(key: str, inputs: list[Input], stored: list[Any] | dict[str, Any], slots: list[dict[str, Any]]) -> Drawn:
    """Widgets and slots of a node of type `key`.

    stored  the file's `widgets_values`
    slots   the file's `inputs`. A growing list has as many slots as its links need. A slot that is marked as a widget's
            is one, even if only an extension of the frontend knows its type
    """
    pen = _Pen(stored, slots)
    pen.skipped = _placeholders(inputs, stored)
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


def number_of_choice(values: dict[str, Any]) -> int:
    """The index, from 0, of a CustomCombo's choice among its options; -1 if it is not among them."""
    options = [value for name, value in values.items() if name.startswith("option")]
    return next((n for n, value in enumerate(options) if value == values.get("choice")), -1)


class _Pen:
    """Goes through the inputs in the frontend's order and takes a stored value for each widget."""

    def __init__(self, stored: list[Any] | dict[str, Any], slots: list[dict[str, Any]]):
        self.stored = stored
        self.linked = [str(s.get("name")) for s in slots if s.get("link") is not None]
        self.marked = {str(s.get("name")) for s in slots if s.get("widget")}
        self.skipped: set[int] = set()
        """Indices of stored values that belong to no widget."""
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
        """The next stored value, or `otherwise` if there are no more; its place is noted under `name`."""
        if isinstance(self.stored, dict):
            if name not in self.stored:
                return otherwise
            self.drawn.places[name] = name
            return self.stored[name]
        while self.at in self.skipped:
            self.at += 1
        index, self.at = self.at, self.at + 1
        if index >= len(self.stored):
            return otherwise
        self.drawn.places[name] = index
        return self.stored[index]

    def skip(self, count: int) -> None:
        """Skips stored values that are not inputs: control values, buttons."""
        if not isinstance(self.stored, dict):
            self.at += count

    def _widget(self, spec: Input) -> None:
        kind = spec.widget_type
        if kind == "LOAD_3D" and "model_file" in self.drawn.values:
            self.skip(_BUTTONS_OF_3D)
        # A file without a value may be older than the input, which then says what it was before.
        value = spec.default if kind in _UNSTORED else self.take(spec.name, spec.options.get("absent", spec.default))
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
            self.drawn.places.pop(spec.name, None)  # changing it in the file would shift the values after it
            self.drawn.groups.append(f"{spec.name}.")
            for further in spec.variants.get(str(value), ()):
                self.add(further)

    def _growing(self, spec: Input, template: dict[str, Any]) -> None:
        """A growing list of inputs (COMFY_AUTOGROW_V3), which always shows one more than are linked."""
        names, prefix = template.get("names"), template.get("prefix") or ""
        declared = [i for i in inputs_of(template.get("input") or {}) if i.type != "COMFY_AUTOGROW_V3"]
        low, high = template.get("min", 1), min(len(names) if names else template.get("max", 100), _MOST_GROWN)

        def name_of(ordinal: int, one: Input) -> str:
            own = names[ordinal] if names else f"{prefix if len(declared) == 1 else one.name}{ordinal}"
            return f"{spec.name}.{own}"

        linked = {name for name in self.linked if name.startswith(f"{spec.name}.")}
        start = min(low + 1, high)
        used = [o for o in range(high) if any(name_of(o, one) in linked for one in declared)] if linked else []
        shown = max(start, used[-1] + 2) if used else start
        for ordinal in range(min(shown, high)):
            for one in declared:
                grown = replace(one, name=name_of(ordinal, one))
                if ordinal >= start and self.is_widget(grown):
                    self.later.append(grown)  # the frontend adds such a widget once the one before it is linked
                else:
                    self.add(grown)


def _placeholders(inputs: list[Input], stored: list[Any] | dict[str, Any]) -> set[int]:
    """Indices of stored values that belong to sockets.

    Before its version 1.16 the frontend stored a value for forceInput sockets too. Such a file is recognised by its
    number of values, as the frontend does it.
    """
    if isinstance(stored, dict) or not any(i.options.get("forceInput") for i in inputs):
        return set()
    at = 0
    indices: set[int] = set()
    for i in inputs:
        if i.type.startswith("COMFY_"):  # newer than such files
            return set()
        if i.options.get("forceInput"):
            indices.update(range(at, at + 1 + i.control_values))
        elif not i.is_widget:
            continue
        at += 1 + i.control_values
    return indices if at + any(is_upload(i) for i in inputs) == len(stored) else set()


def is_upload(spec: Input) -> bool:
    """Whether the frontend adds an upload button, which stores a value of its own at the end."""
    return spec.type == "COMBO" and any(
        spec.options.get(f"{kind}_upload") for kind in ("image", "animated_image", "video", "audio")
    )


def _custom_combo(pen: _Pen) -> None:
    """A CustomCombo keeps its choices in further widgets, option1 to the first that is empty, and sends the index of
    the chosen one."""
    values, slots = pen.drawn.values, pen.drawn.slots
    pen.skip(1)  # the stored index, which is computed again
    count, last = 0, None
    while count == 0 or last not in ("", None):
        count += 1
        last = pen.take(f"option{count}", "")
        values[f"option{count}"] = last
        slots.append((f"option{count}", "STRING", True))
    values["index"] = number_of_choice(values)


def _wrapped_curve(value: Any) -> Any:
    """A curve in the server's form; older files store a list of points."""
    return {"__type__": "CURVE", "__value__": value} if isinstance(value, list) else value
