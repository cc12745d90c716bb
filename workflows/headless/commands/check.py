"""`affect check`: says what would keep a workflow from running, and runs nothing."""

from __future__ import annotations

import argparse
import json
import sys

from ....models.foreign import say
from .arguments import Commands, add_workflow, host_of


def add_commands(commands: Commands) -> None:
    """Declares `check`."""
    check = commands.add_parser("check", help="say what would keep a workflow from running, and run nothing")
    add_workflow(check)
    check.add_argument(
        "--server",
        metavar="URL",
        help="ask a running ComfyUI which nodes it has, and check the workflow against its answer",
    )
    check.set_defaults(run=_check, output_dir="output")


def _check(args: argparse.Namespace) -> int:
    from ....models import host
    from ..check import doubts
    from ..prompt import needed
    from ..registry import default_registry
    from ..remote.server import Server
    from ..run import prepare

    with host.use(host_of(args)):
        registry = Server(args.server).registry() if args.server is not None else default_registry()
        prepared = prepare(args.workflow, args.assignments, args.choice_seed, registry)
    notes = prepared.notes + (doubts(prepared.prompt, registry) if args.server is not None else [])
    count = len(needed(prepared.prompt, registry))
    if args.json:
        answer = {"status": "ok", "problems": [], "nodes": len(prepared.prompt), "needed": count}
        print(json.dumps(answer | ({"notes": notes} if notes else {})))
        return 0
    for note in notes:
        say(note, sys.stderr)
    counts = f"{count} of its {len(prepared.prompt)} nodes are needed"
    if args.server is None:
        say(f"The workflow can run: {counts}.")
    else:
        say(f"No problem found in the workflow: {counts}. The server checks the values when it gets the workflow.")
    return 0
