"""PrimitiveInt, PrimitiveFloat, PrimitiveString, PrimitiveStringMultiline, PrimitiveBoolean, PreviewAny."""

from __future__ import annotations

import json
import sys
from typing import Any


def _primitive(kind: str, display_name: str, options: dict[str, Any] | None = None) -> type:
    """A node class that hands its one value on."""

    def input_types(cls: type) -> dict[str, Any]:
        return {"required": {"value": (kind, dict(options or {}))}}

    def execute(self: Any, value: Any) -> tuple[Any]:
        return (value,)

    return type(
        f"Primitive{display_name}",
        (),
        {
            "__doc__": f"A {display_name} value.",
            "INPUT_TYPES": classmethod(input_types),
            "RETURN_TYPES": (kind,),
            "FUNCTION": "execute",
            "CATEGORY": "utils/primitive",
            "DESCRIPTION": f"A {display_name} value.",
            "execute": execute,
        },
    )


class PreviewAny:
    """Shows any value as text."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"source": ("*", {})}}

    RETURN_TYPES = ()
    FUNCTION = "main"
    OUTPUT_NODE = True
    CATEGORY = "utils"
    DESCRIPTION = "Shows any value as text."

    def main(self, source: Any = None) -> dict[str, Any]:
        if source is None:
            text = "None"
        elif isinstance(source, (str, int, float, bool)):
            text = str(source)
        else:
            try:
                text = json.dumps(source)
            except (TypeError, ValueError):
                text = str(source)
        return {"ui": {"text": (text,)}}


_RANGE = {"min": -sys.maxsize, "max": sys.maxsize}

CLASSES = {
    "PrimitiveInt": _primitive("INT", "Int", {**_RANGE, "control_after_generate": True}),
    "PrimitiveFloat": _primitive("FLOAT", "Float", _RANGE),
    "PrimitiveString": _primitive("STRING", "String"),
    "PrimitiveStringMultiline": _primitive("STRING", "String (Multiline)", {"multiline": True}),
    "PrimitiveBoolean": _primitive("BOOLEAN", "Boolean"),
    "PreviewAny": PreviewAny,
}
DISPLAY_NAMES = {
    "PrimitiveInt": "Int",
    "PrimitiveFloat": "Float",
    "PrimitiveString": "String",
    "PrimitiveStringMultiline": "String (Multiline)",
    "PrimitiveBoolean": "Boolean",
    "PreviewAny": "Preview Any",
}
