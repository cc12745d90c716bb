"""The `affect` command. This file parses and reports; what a command does stands in its own file.

Exit codes: 0 done; 1 it failed while running; 2 the request was wrong, nothing ran and nothing was written;
130 stopped with Ctrl-C; 141 who read the output stopped reading. Nothing heavy is imported before a command is chosen.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import traceback

from ...models.errors import UserError, unwritable
from ...models.foreign import say
from .commands import dispatch as command_dispatch
from .commands import gallery as command_gallery
from .commands import models as command_models
from .commands import nodes as command_nodes
from .commands import run as command_run
from .commands.arguments import Parser
from .problems import WorkflowError

DONE, FAILED, WRONG, STOPPED, UNREAD = 0, 1, 2, 130, 141


def parser() -> argparse.ArgumentParser:
    """The command line, less the options that a trainer or benchmark declares itself."""
    top = Parser(
        prog="affect",
        description="Run ComfyUI workflows without ComfyUI; train and measure what they are made of.",
        epilog="--debug, anywhere, shows the traceback of an error.",
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for family in (command_run, command_nodes, command_models, command_gallery, command_dispatch):
        family.add_commands(commands)
    return top


def main(argv: list[str] | None = None) -> int:
    """Runs a command line (default: the process's own) and returns its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(
                errors="backslashreplace"
            )  # a terminal need not know every character that a workflow holds
    debug = "--debug" in argv
    args = argparse.Namespace(json="--json" in argv)  # for what is said before there are any
    previous = _unwind_on_termination()
    try:
        args = _parse([a for a in argv if a != "--debug"])
        code = args.run(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # `affect nodes | head`: the reader has enough. What is left in the buffer must not be tried again when Python
        # ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNREAD
    except KeyboardInterrupt:
        return _report(args, "interrupted", STOPPED, "Stopped. What was being written was removed.")
    except UserError as error:
        # A command lets it through only before anything ran; what a node raises arrives as NodeFailed.
        _trace(debug)
        return _report(args, "invalid", WRONG, str(error), error)
    except Exception as error:
        _trace(debug)
        return _report(args, "failed", FAILED, _sentence(error))
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)


def _parse(argv: list[str]) -> argparse.Namespace:
    args = command_dispatch.parse(argv)
    return parser().parse_args(argv) if args is None else args


def _sentence(error: Exception) -> str:
    from .execute import NodeFailed
    from .remote.server import ServerFailed

    if isinstance(error, (NodeFailed, ServerFailed)):
        return str(error)
    if isinstance(error, OSError) and (said := unwritable(error)):
        return said
    return f"{type(error).__name__}: {error}. Run again with --debug for the traceback."


def _trace(debug: bool) -> None:
    if debug:
        say(traceback.format_exc(), sys.stderr)


def _report(args: argparse.Namespace, status: str, code: int, message: str, error: UserError | None = None) -> int:
    say(f"affect: {message}", sys.stderr)
    if getattr(args, "json", None) is True:
        found = error.problems if isinstance(error, WorkflowError) else []
        print(json.dumps({"status": status, "error": message, "problems": [p.as_dict() for p in found]}))
    return code


def _unwind_on_termination() -> object | None:
    """Lets SIGTERM unwind like an error, so that half-written files are removed. The handler that was
    there."""
    if threading.current_thread() is not threading.main_thread():
        return None

    def stop(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    return signal.signal(signal.SIGTERM, stop)


if __name__ == "__main__":
    sys.exit(main())
