"""The node types that a workflow may use here: this package's own and ComfyUI's core ones of `core/`."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
"""Input types with a plain widget, whose values are checked here."""

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
"""Node types that exist in ComfyUI's frontend alone and never reach a prompt."""

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
"""What the frontend puts into a new widget whose definition says nothing."""


@dataclass(frozen=True)
class Input:
    """One input of a node type, as its INPUT_TYPES declare it."""

    name: str
    type: str
    """A socket type, a widget type, or several socket types with commas between. A list of choices is
    COMBO."""
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
        """The type of the widget, where the definition names another than the socket's."""
        return str(self.options.get("widgetType") or self.type)

    @property
    def is_widget(self) -> bool:
        """Whether the frontend draws a widget, whose value a workflow stores."""
        return self.widget_type in DRAWN_TYPES and not self.options.get("forceInput")

    @property
    def control_values(self) -> int:
        """How many values of its own the frontend stores behind the widget's: control_after_generate, and for
        a list of choices the filter. They are no inputs of the node."""
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
        """Of a dynamic list of choices (COMFY_DYNAMICCOMBO_V3): choice -> the further inputs that it brings, whose
        names follow its own behind a dot."""
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


class NodeType:
    """A node class and what it declares. Inputs are read anew each time: lists of files change."""

    def __init__(self, key: str, cls: type, display_name: str):
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
        return tuple("COMBO" if isinstance(t, (list, tuple)) else str(t) for t in self.cls.RETURN_TYPES)

    @property
    def output_names(self) -> tuple[str, ...]:
        return tuple(getattr(self.cls, "RETURN_NAMES", None) or self.output_types)

    @property
    def from_pack(self) -> bool:
        """Whether a pack of nodes brings it, and with it perhaps an extension of the frontend, rather than ComfyUI
        itself."""
        return getattr(self.cls, "FROM_PACK", True) is True

    @property
    def is_output(self) -> bool:
        return getattr(self.cls, "OUTPUT_NODE", False) is True


class Registry:
    """Node types by key.

    where   what is said of a type that is not among them: "not available ..."
    remedy  what to do then
    whole   whether the types declare all that they take. A server's /object_info does not: nodes may take inputs that
            are not in it and check values themselves, so only the server can judge those
    """

    def __init__(
        self,
        classes: dict[str, type],
        display_names: dict[str, str],
        where: str = "without ComfyUI",
        remedy: str = "The nodes that are: `affect nodes`. To use any other node, run this workflow in a ComfyUI "
        "that has it: `affect run --server URL`.",
        whole: bool = True,
    ):
        self.where, self.remedy, self.whole = where, remedy, whole
        self._types = {k: NodeType(k, c, display_names.get(k, k)) for k, c in classes.items()}

    def get(self, key: str) -> NodeType | None:
        return self._types.get(key)

    def __contains__(self, key: str) -> bool:
        return key in self._types

    def __iter__(self) -> Iterator[NodeType]:
        return iter(self._types.values())

    def keys(self) -> list[str]:
        return list(self._types)


@lru_cache(maxsize=1)
def default_registry() -> Registry:
    """ComfyUI's core nodes of `core/` and this package's nodes."""
    from ...nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS
    from .core import CORE_CLASSES, CORE_DISPLAY_NAMES

    return Registry({**CORE_CLASSES, **NODE_CLASS_MAPPINGS}, {**CORE_DISPLAY_NAMES, **NODE_DISPLAY_NAME_MAPPINGS})
