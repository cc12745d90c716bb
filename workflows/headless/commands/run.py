"""`affect run` and `affect check`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

from ....models.foreign import say


def add_commands(commands: Any) -> None:
    run = commands.add_parser(
        "run",
        help="run a workflow",
        description=(
            "Runs a workflow: the API format, the UI format that ComfyUI saves, or a PNG that carries either. "
            "The whole workflow is checked before anything runs."
        ),
    )
    _add_workflow(run)
    run.add_argument("--output-dir", default="output", metavar="D", help="where results go (default: %(default)s)")
    run.add_argument("--server", metavar="URL", help="run on a ComfyUI that is running, such as http://127.0.0.1:8188")
    run.set_defaults(run=_run)

    check = commands.add_parser("check", help="say what would keep a workflow from running, and run nothing")
    _add_workflow(check)
    check.add_argument(
        "--server",
        metavar="URL",
        help="ask a ComfyUI that is running which nodes it has, and check the workflow against what it says of them",
    )
    check.set_defaults(run=_check, output_dir="output")


def _add_workflow(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("workflow", metavar="WORKFLOW", help="a JSON file or a PNG; - reads it from standard input")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="assignments",
        metavar="NODE.INPUT=VALUE",
        help="change an input; NODE is an id or a title; a linked input loses its link. May be given several times",
    )
    parser.add_argument(
        "--choice-seed",
        type=int,
        default=0,
        metavar="N",
        help="seed of {a|b} choices in the prompts of UI workflows (default: %(default)s)",
    )
    parser.add_argument("--input-dir", default="input", metavar="D", help="where images are (default: %(default)s)")
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="HOST",
        help=(
            "a machine to which a workflow's MLLM may be sent the picture, such as gpu.lan or gpu.lan:8000; this machine always is. May be "
            "given several times. For always: AFFECT_MLLM_HOSTS, by commas"
        ),
    )
    add_models_dir(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")


def add_models_dir(parser: argparse.ArgumentParser) -> None:
    """--models-dir, which every command has that looks at model files."""
    parser.add_argument(
        "--models-dir",
        metavar="D",
        help=(
            "where model files are, in ComfyUI's layout, such as its `models` folder (default: "
            "$AFFECT_MODELS_DIR, else models)"
        ),
    )


def _host(args: argparse.Namespace) -> Any:
    from ..host import EmbeddedHost

    return EmbeddedHost(args.input_dir, args.output_dir, args.models_dir, args.allow_host)


def _run(args: argparse.Namespace) -> int:
    from ....models import host
    from ..host import writable
    from ..remote.server import Server, run_on
    from ..run import execute, prepare

    start = time.perf_counter()
    with host.use(_host(args)) as current:
        server = registry = None
        writable(args.output_dir)
        if args.server is not None:
            server = Server(args.server)
            registry = server.registry()
        prepared = prepare(args.workflow, args.assignments, args.choice_seed, registry)
        for note in prepared.notes:
            current.note(note)
        outputs = run_on(server, prepared.prompt, prepared.workflow, registry) if server else execute(prepared)
    seconds = round(time.perf_counter() - start, 3)
    if args.json:
        print(json.dumps({"status": "ok", "outputs": outputs, "seconds": seconds}))
    else:
        for output in outputs:
            say(output.get("path") or f"node {output['node']} ({output['type']}): {output['text']}")
        say(f"Done in {seconds:.1f} s.", sys.stderr)
    return 0


def _check(args: argparse.Namespace) -> int:
    from ....models import host
    from ..check import doubts, needed
    from ..registry import default_registry
    from ..remote.server import Server
    from ..run import prepare

    with host.use(_host(args)):
        registry = Server(args.server).registry() if args.server is not None else default_registry()
        prepared = prepare(args.workflow, args.assignments, args.choice_seed, registry)
    notes = prepared.notes + (doubts(prepared.prompt, registry) if args.server is not None else [])
    runs = len(needed(prepared.prompt, registry))
    if args.json:
        print(
            json.dumps(
                {"status": "ok", "problems": [], "nodes": len(prepared.prompt), "needed": runs}
                | ({"notes": notes} if notes else {})
            )
        )
        return 0
    for note in notes:
        say(note, sys.stderr)
    count = f"{runs} of its {len(prepared.prompt)} nodes are needed"
    say(
        f"Nothing speaks against the workflow: {count}. The server judges the values when the workflow reaches it."
        if args.server is not None
        else f"The workflow can run: {count}."
    )
    return 0
