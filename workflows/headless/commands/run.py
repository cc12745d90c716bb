"""`affect run`: runs a workflow here, or on a ComfyUI server."""

from __future__ import annotations

import argparse
import json
import sys
import time

from ....models.foreign import say
from .arguments import Commands, add_workflow, host_of


def add_commands(commands: Commands) -> None:
    """Declares `run`."""
    run = commands.add_parser(
        "run",
        help="run a workflow",
        description=(
            "Runs a workflow: the API format, the UI format that ComfyUI saves, or a PNG that carries either. "
            "The whole workflow is checked before anything runs."
        ),
    )
    add_workflow(run)
    run.add_argument("--output-dir", default="output", metavar="D", help="where results go (default: %(default)s)")
    run.add_argument("--server", metavar="URL", help="run on a running ComfyUI, such as http://127.0.0.1:8188")
    run.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from ....models import host
    from ..host import writable
    from ..remote.server import Server, run_on
    from ..run import execute, prepare

    start = time.perf_counter()
    with host.use(host_of(args)) as current:
        writable(args.output_dir)
        server = Server(args.server) if args.server is not None else None
        registry = server.registry() if server else None
        prepared = prepare(args.workflow, args.assignments, args.choice_seed, registry)
        for note in prepared.notes:
            current.note(note)
        if server and registry:
            outputs = run_on(server, prepared.prompt, prepared.workflow, registry)
        else:
            outputs = execute(prepared)
    seconds = round(time.perf_counter() - start, 3)
    if args.json:
        print(json.dumps({"status": "ok", "outputs": outputs, "seconds": seconds}))
    else:
        for output in outputs:
            say(output.get("path") or f"node {output['node']} ({output['type']}): {output['text']}")
        say(f"Done in {seconds:.1f} s.", sys.stderr)
    return 0
