"""`affect nodes`: lists the node types, or describes the inputs and outputs of one."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from ....models.errors import UserError
from ....models.foreign import say
from .arguments import Commands, add_input_dir, add_json, add_models_dir

if TYPE_CHECKING:
    from ..registry import NodeType


def add_commands(commands: Commands) -> None:
    """Declares `nodes`."""
    nodes = commands.add_parser("nodes", help="list the node types, or describe one")
    nodes.add_argument("key", nargs="?", metavar="KEY", help="a node type, such as KSampler")
    add_models_dir(nodes)
    add_input_dir(nodes)
    add_json(nodes)
    nodes.set_defaults(run=_nodes)


def _nodes(args: argparse.Namespace) -> int:
    from ....models import host
    from ..host import EmbeddedHost
    from ..problems import did_you_mean
    from ..registry import FRONTEND_ONLY, default_registry

    registry = default_registry()
    kinds = list(registry) if args.key is None else [registry.get(args.key)]
    with host.use(EmbeddedHost(args.input_dir, models_dir=args.models_dir)):
        described = {kind.key: describe(kind) for kind in kinds if kind is not None}
    if not described:
        raise UserError(
            f"There is no node type '{args.key}'.{did_you_mean(args.key, registry.keys())} `affect nodes` lists them."
        )
    if args.json:
        print(json.dumps(described))
    elif args.key is None:
        for key, node in sorted(described.items(), key=lambda item: (item[1]["category"], item[0])):
            say(f"{node['category']:<44} {key:<32} {node['display_name']}")
        say(f"{'(drawing only)':<44} {', '.join(sorted(FRONTEND_ONLY))}")
    else:
        _print(described[args.key])
    return 0


def describe(kind: NodeType) -> dict[str, Any]:
    """What a node type declares, as data that JSON can hold."""
    inputs = []
    for i in kind.inputs().values():
        described = {"name": i.name, "type": i.type, "required": i.required}
        if i.is_widget:
            described["default"] = i.default
        if i.choices is not None:
            described["choices"] = list(i.choices)
        inputs.append(described | {k: i.options[k] for k in ("min", "max", "tooltip") if k in i.options})
    outputs = [{"name": n, "type": t} for n, t in zip(kind.output_names, kind.output_types)]
    return {
        "key": kind.key,
        "display_name": kind.display_name,
        "category": getattr(kind.cls, "CATEGORY", ""),
        "description": getattr(kind.cls, "DESCRIPTION", ""),
        "inputs": inputs,
        "outputs": outputs,
        "output_node": kind.is_output,
    }


def _print(node: dict[str, Any]) -> None:
    say(f"{node['key']} ({node['display_name']}), {node['category']}\n{node['description']}\n")
    for i in node["inputs"]:
        parts = [i["type"]] + ([] if i["required"] else ["optional"])
        if "default" in i:
            parts.append(f"default {i['default']!r}")
        if "min" in i or "max" in i:
            parts.append(f"{i.get('min', '')}..{i.get('max', '')}")
        say(f"  in   {i['name']:<20} {', '.join(parts)}")
        if i.get("choices"):
            say(f"       {'':<20} {', '.join(map(str, i['choices']))}")
        if i.get("tooltip"):
            say(f"       {'':<20} {i['tooltip']}")
    for o in node["outputs"]:
        say(f"  out  {o['name']:<20} {o['type']}")
