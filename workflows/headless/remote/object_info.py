"""Node types of a ComfyUI server, from its answer to /object_info."""

from __future__ import annotations

from typing import Any

from ....models.errors import UserError
from ..registry import Registry

_DEEPEST = 20
"""Depth of nested lists of choices that add inputs."""


def registry_of(object_info: Any) -> Registry:
    """The server's node types. UserError if `object_info` is not an object of objects.

    Lists of images are not treated as choices, because an image may still be uploaded. A declaration in a form that
    ComfyUI does not use is taken for a socket of any type, because the server, not this program, judges a prompt.
    """
    if not isinstance(object_info, dict) or not all(isinstance(info, dict) for info in object_info.values()):
        raise UserError("The server's answer is not a list of node types: it does not seem to be a ComfyUI.")
    classes, names = {}, {}
    for key, info in object_info.items():
        groups = _groups(info.get("input"), info.get("input_order"))
        classes[key] = type(
            "ServerNode",
            (),
            {
                "INPUT_TYPES": classmethod(lambda cls, groups=groups: groups),
                "RETURN_TYPES": tuple(_list(info.get("output"))),
                "RETURN_NAMES": tuple(map(str, _list(info.get("output_name")))),
                "OUTPUT_NODE": bool(info.get("output_node")),
                "FROM_PACK": str(info.get("python_module", "custom_nodes")).startswith("custom_nodes"),
            },
        )
        names[key] = str(info.get("display_name") or key)
    return Registry(
        classes, names, "on this server", "Install the node pack that has it there, and restart it.", whole=False
    )


def _groups(declared: Any, order: Any = None, depth: int = 0) -> dict[str, dict[str, Any]]:
    """{"required": {name: declaration}, "optional": ...}, each in the server's order."""
    groups = {}
    for group in ("required", "optional"):
        inputs = _dict(_dict(declared).get(group))
        first = [name for name in _list(_dict(order).get(group)) if isinstance(name, str) and name in inputs]
        groups[group] = {name: _spec(inputs[name], depth) for name in dict.fromkeys([*first, *inputs])}
    return groups


def _spec(spec: Any, depth: int) -> tuple[Any, dict[str, Any]]:
    """A declaration as (type or choices, options)."""
    if not isinstance(spec, list) or not spec or not isinstance(spec[0], (str, list)) or depth > _DEEPEST:
        return "*", {}
    kind, options = spec[0], dict(spec[1]) if len(spec) > 1 and isinstance(spec[1], dict) else {}
    if kind == "COMFY_DYNAMICCOMBO_V3":
        options["options"] = [
            {"key": str(o.get("key")), "inputs": _groups(o.get("inputs"), depth=depth + 1)}
            for o in _list(options.get("options"))
            if isinstance(o, dict)
        ]
    if kind in ("COMFY_AUTOGROW_V3", "COMFY_MATCHTYPE_V3"):
        options["template"] = _template(_dict(options.get("template")), depth)
    if kind == "COMBO" and not isinstance(options.get("options"), list):
        options.pop("options", None)
    if options.get("image_upload") and (isinstance(kind, list) or kind == "COMBO"):
        choices = kind if isinstance(kind, list) else options.pop("options", [])
        return "COMBO", {**options, "affect_choices": tuple(choices)}
    return kind, options


def _template(template: dict[str, Any], depth: int) -> dict[str, Any]:
    whole = {key: template[key] for key in ("min", "max") if type(template.get(key)) is int}
    names = [str(name) for name in _list(template.get("names"))]
    return {
        **template,
        "input": _groups(template.get("input"), depth=depth + 1),
        "min": 1,
        "max": 100,
        **whole,
        "names": names or None,
    }


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
