"""`affect demo`, `data`, `train`, `bench`, `evaluate`: commands that other modules implement.

Each part of the package lists its commands in a registry, name -> (module, help), which is light to import. A module,
such as "training.tiny" (relative to this package's root), has `add_arguments(parser)` and `main(args) -> int`. It is
imported when its command is chosen, so that `affect --help` does not import torch.
"""

from __future__ import annotations

import argparse
import importlib

from ....models.errors import UserError, did_you_mean
from .arguments import Commands, Parser

_PACKAGE = __name__.rsplit(".", 4)[0]

GROUPS: dict[str, tuple[str, str, str, str]] = {
    # command: (module with the registry, the registry's name, metavar, help)
    "data": ("training.data", "COMMANDS", "NAME", "make or prepare a data set"),
    "train": ("training", "COMMANDS", "NAME", "train a model"),
    "bench": ("benchmarks", "COMMANDS", "NAME", "measure: quality or speed"),
    "evaluate": ("benchmarks", "TABLES", "TABLE", "measure the figures of a table"),
}


def add_commands(commands: Commands) -> None:
    """Declares them for the list in `affect --help` only: `parse` takes these commands before argparse sees them."""
    commands.add_parser("demo", help="make images that show what this package does")
    for command, (_, _, _, help_text) in GROUPS.items():
        commands.add_parser(command, help=help_text)


def parse(argv: list[str]) -> argparse.Namespace | None:
    """What to run if the command is one of these, else None. Its options are left to its own module."""
    if argv[:1] == ["demo"]:
        return argparse.Namespace(command="demo", rest=argv[1:], run=_demo)
    if argv and argv[0] in GROUPS:
        return argparse.Namespace(command=argv[0], rest=argv[1:], run=_dispatch)
    return None


def _demo(args: argparse.Namespace) -> int:
    return _hand_over("workflows.headless.commands.demo", "affect demo", args)


def _dispatch(args: argparse.Namespace) -> int:
    module, registry_name, metavar, help_text = GROUPS[args.command]
    registry = getattr(importlib.import_module(f"{_PACKAGE}.{module}"), registry_name, {})
    known = "\n".join(f"  {name:<16} {text}" for name, (_, text) in registry.items()) or "  (none)"
    parser = Parser(
        prog=f"affect {args.command}",
        usage=f"affect {args.command} {metavar} ...",
        description=help_text,
        epilog=f"{metavar} is one of:\n{known}\n\n`affect {args.command} {metavar} --help` describes one.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if not args.rest or args.rest[0] in ("-h", "--help"):
        parser.print_help()
        return 0 if args.rest else 2
    name = args.rest[0]
    if name not in registry:
        raise UserError(
            f"`affect {args.command}` does not know '{name}'.{did_you_mean(name, registry)} It takes one "
            f"of: {', '.join(registry) or '(none)'}."
        )
    args.rest = args.rest[1:]
    return _hand_over(registry[name][0], f"affect {args.command} {name}", args)


def _hand_over(module_path: str, prog: str, args: argparse.Namespace) -> int:
    module = importlib.import_module(f"{_PACKAGE}.{module_path}")
    parser = Parser(prog=prog, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    module.add_arguments(parser)
    parser.parse_args(args.rest, namespace=args)  # the same object: cli.main reads --json from it
    code: int = module.main(args)
    return code
