"""The node types that a workflow may use here: this package's own, and ComfyUI's core nodes in `core/`."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
"""Input types with a plain widget, whose values `values` checks."""

DRAWN_TYPES = WIDGET_TYPES | {
    "MARKDOWN",
    "TEXTAREA",
    "COLOR",
    "COLORS",
    "CURVE",
    "RANGE",
    "BOUNDING_BOX",
    "BOUNDING_BOXES",
    "PAINTER",
    "COMPOSITOR",
    "VIDEO_EDIT",
    "CHART",
    "GALLERIA",
    "IMAGECOMPARE",
    "IMAGEUPLOAD",
    "AUDIOUPLOAD",
    "AUDIO_UI",
    "AUDIO_RECORD",
    "WEBCAM",
    "LOAD_3D",
    "LOAD_3D_ADVANCED",
    "PREVIEW_3D",
    "COMFY_DYNAMICCOMBO_V3",
}
"""Input types that ComfyUI's frontend draws as a widget. Every other type is a socket."""

FRONTEND_ONLY = {"Note", "MarkdownNote", "Reroute", "PrimitiveNode"}
"""Node types that exist only in ComfyUI's frontend and never reach a prompt."""

_EMPTY = {
    "INT": 0,
    "FLOAT": 0.0,
    "BOOLEAN": False,
    "STRING": "",
    "COLOR": "#000000",
    "BOUNDING_BOX": {"x": 0, "y": 0, "width": 512, "height": 512},
    "BOUNDING_BOXES": [],
    "COLORS": [],
    "CURVE": {"points": [[0, 0], [1, 1]], "interpolation": "monotone_cubic"},
    "RANGE": {"min": 0.0, "max": 1.0},
    "IMAGECOMPARE": ["", ""],
}
"""What the frontend puts into a new widget whose definition has no default."""


@dataclass(frozen=True)
class Input:
    """One input of a node type, as its INPUT_TYPES declare it."""

    name: str
    type: str
    """A socket type, a widget type, or several socket types separated by commas. A list of choices is COMBO."""
    options: dict[str, Any] = field(default_factory=dict)
    required: bool = True
    choices: tuple[Any, ...] | None = None

    @classmethod
    def of(cls, name: str, spec: Any, required: bool = True) -> Input:
        """From a declaration such as ("INT", {"default": 1}) or (["a", "b"],)."""
        kind, options = spec[0], spec[1] if len(spec) > 1 else {}
        listed = isinstance(kind, (list, tuple))
        choices = kind if listed else options.get("options") if kind == "COMBO" else None
        return cls(
            name, "COMBO" if listed else str(kind), options, required, None if choices is None else tuple(choices)
        )

    @property
    def widget_type(self) -> str:
        """The widget's type: the socket's, unless the definition names another."""
        return str(self.options.get("widgetType") or self.type)

    @property
    def is_widget(self) -> bool:
        """Whether the frontend draws a widget, whose value a workflow stores."""
        return self.widget_type in DRAWN_TYPES and not self.options.get("forceInput")

    @property
    def control_values(self) -> int:
        """How many further values the frontend stores after the widget's: control_after_generate, and for a list of
        choices the filter. They are not inputs of the node."""
        legacy = self.widget_type == "INT" and self.name in ("seed", "noise_seed")
        control = self.options.get("control_after_generate")
        if not (legacy if control is None else control):
            return 0
        return {"INT": 1, "FLOAT": 1, "COMBO": 1 if self.options.get("multi_select") else 2}.get(self.widget_type, 0)

    @property
    def default(self) -> Any:
        """What the frontend puts into a new widget."""
        given = self.options.get("default")
        if self.type == "COMFY_DYNAMICCOMBO_V3":
            return next(iter(self.variants), None)
        if self.choices is not None:
            return given or next(iter(self.choices), given)
        return copy.deepcopy(_EMPTY.get(self.widget_type)) if given is None else given

    @property
    def variants(self) -> dict[str, list[Input]]:
        """Of a dynamic list of choices (COMFY_DYNAMICCOMBO_V3): choice -> the further inputs that it adds. Their names
        start with this input's name and a dot."""
        return {
            str(o.get("key")): inputs_of(o.get("inputs") or {}, f"{self.name}.")
            for o in self.options.get("options") or ()
        }


def inputs_of(declared: dict[str, Any], prefix: str = "") -> list[Input]:
    """Inputs of {"required": {...}, "optional": {...}}, required then optional, each in the order declared."""
    return [
        Input.of(prefix + name, spec, group == "required")
        for group in ("required", "optional")
        for name, spec in (declared.get(group) or {}).items()
    ]


def active_inputs(inputs: list[Input], given: dict[str, Any]) -> dict[str, Input]:
    """`inputs` and the further ones that the given choices of dynamic lists add, by name."""
    active: dict[str, Input] = {}
    waiting = list(reversed(inputs))
    while waiting:
        spec = waiting.pop()
        active[spec.name] = spec
        if spec.type == "COMFY_DYNAMICCOMBO_V3":
            waiting += reversed(spec.variants.get(str(given.get(spec.name)), []))
    return active


class NodeType:
    """A node class and what it declares. Inputs are read again on each call, because lists of files change.

    cls  a class that follows ComfyUI's convention (INPUT_TYPES, RETURN_TYPES, FUNCTION, ...), which no type describes
    """

    def __init__(self, key: str, cls: Any, display_name: str):
        self.key = key
        self.cls = cls
        self.display_name = display_name

    def inputs(self) -> dict[str, Input]:
        """Inputs by name, required then optional, each in the order declared."""
        return {i.name: i for i in inputs_of(self.cls.INPUT_TYPES())}

    @property
    def hidden(self) -> dict[str, str]:
        """Hidden inputs: name -> PROMPT, EXTRA_PNGINFO or UNIQUE_ID."""
        return dict(self.cls.INPUT_TYPES().get("hidden", {}))

    @property
    def output_types(self) -> tuple[str, ...]:
        """Socket types of the outputs, in order."""
        return tuple("COMBO" if isinstance(t, (list, tuple)) else str(t) for t in self.cls.RETURN_TYPES)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs: RETURN_NAMES, else the types."""
        return tuple(getattr(self.cls, "RETURN_NAMES", None) or self.output_types)

    @property
    def from_pack(self) -> bool:
        """Whether a node pack provides it, which may also extend the frontend, rather than ComfyUI itself."""
        return getattr(self.cls, "FROM_PACK", True) is True

    @property
    def is_output(self) -> bool:
        """Whether it is an output node: one for whose sake others run."""
        return getattr(self.cls, "OUTPUT_NODE", False) is True


class Registry:
    """Node types by key.

    where   completes the message about an unknown type: "not available ..."
    remedy  what to do then
    whole   whether the types declare all that they take. A server's /object_info does not: its nodes may take further
            inputs and check values themselves, so only the server can judge those
    """

    def __init__(
        self,
        classes: dict[str, type],
        display_names: dict[str, str],
        where: str = "without ComfyUI",
        remedy: str = "`affect nodes` lists those that are. To use any other node, run this workflow in a ComfyUI "
        "that has it: `affect run --server URL`.",
        whole: bool = True,
    ):
        self.where, self.remedy, self.whole = where, remedy, whole
        self._types = {k: NodeType(k, c, display_names.get(k, k)) for k, c in classes.items()}

    def with_type(self, key: str, cls: type, display_name: str) -> Registry:
        """A copy that knows one more type."""
        more = copy.copy(self)
        more._types = {**self._types, key: NodeType(key, cls, display_name)}
        return more

    def get(self, key: str) -> NodeType | None:
        """The type of a key, None if it is unknown."""
        return self._types.get(key)

    def known(self, key: str) -> NodeType:
        """The type of a node in a prompt that `check` has accepted. KeyError for a key that is not there."""
        return self._types[key]

    def __contains__(self, key: str) -> bool:
        return key in self._types

    def __iter__(self) -> Iterator[NodeType]:
        return iter(self._types.values())

    def keys(self) -> list[str]:
        """All keys, in the order of registration."""
        return list(self._types)


@lru_cache(maxsize=1)
def default_registry() -> Registry:
    """ComfyUI's core nodes of `core/` and this package's nodes."""
    from ...nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS
    from .core import CORE_CLASSES, CORE_DISPLAY_NAMES

    return Registry({**CORE_CLASSES, **NODE_CLASS_MAPPINGS}, {**CORE_DISPLAY_NAMES, **NODE_DISPLAY_NAME_MAPPINGS})
