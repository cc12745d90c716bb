"""The `affect` command: parses the command line, runs the chosen command, reports errors. The commands themselves are
in `commands/`.

Exit codes: 0 done; 1 it failed while running; 2 the request was wrong, nothing ran and nothing was written;
130 stopped with Ctrl-C; 141 the reader of the output closed it. Nothing heavy is imported before a command is chosen.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import traceback
from typing import Any

from ...models.errors import UserError, unwritable
from ...models.foreign import say
from .commands import apply, check, dispatch, gallery, models, nodes, run
from .commands.arguments import Parser
from .problems import WorkflowError

DONE, FAILED, WRONG, STOPPED, UNREAD = 0, 1, 2, 130, 141


def parser() -> argparse.ArgumentParser:
    """The command line, without the options that a trainer or benchmark declares itself."""
    top = Parser(
        prog="affect",
        description="Run ComfyUI workflows without ComfyUI; train and measure what they are made of.",
        epilog="--debug, anywhere, shows the traceback of an error.",
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (run, apply, check, nodes, models, gallery, dispatch):
        module.add_commands(commands)
    return top


def main(argv: list[str] | None = None) -> int:
    """Runs a command line (default: the process's own) and returns its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    _print_any_character()
    debug = "--debug" in argv
    args = argparse.Namespace(json="--json" in argv)  # for errors that come before the arguments are parsed
    previous = _unwind_on_termination()
    try:
        args = _parse([a for a in argv if a != "--debug"])
        args.debug = debug
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # `affect nodes | head`: the reader has enough. Python must not try to flush the rest of the buffer at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNREAD
    except KeyboardInterrupt:
        return _report(args, "interrupted", STOPPED, "Stopped. Files that were being written were removed.")
    except UserError as error:
        # A command raises it only before anything ran; a node's own UserError arrives as NodeFailed.
        _trace(debug)
        return _report(args, "invalid", WRONG, str(error), error)
    except Exception as error:
        _trace(debug)
        return _report(args, "failed", FAILED, _sentence(error))
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)


def _print_any_character() -> None:
    """Escapes characters that the terminal's encoding lacks: a workflow may hold any."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _parse(argv: list[str]) -> argparse.Namespace:
    args = dispatch.parse(argv)
    return parser().parse_args(argv) if args is None else args


def _sentence(error: Exception) -> str:
    from .execute import NodeFailed
    from .remote.wire import ServerFailed

    if isinstance(error, (NodeFailed, ServerFailed)):
        return str(error)
    if isinstance(error, OSError) and (message := unwritable(error)):
        return message
    return f"{type(error).__name__}: {error}. Run again with --debug for the traceback."


def _trace(debug: bool) -> None:
    if debug:
        say(traceback.format_exc(), sys.stderr)


def _report(args: argparse.Namespace, status: str, code: int, message: str, error: UserError | None = None) -> int:
    say(f"affect: {message}", sys.stderr)
    if getattr(args, "json", None) is True:
        problems = [p.as_dict() for p in error.problems] if isinstance(error, WorkflowError) else []
        print(json.dumps({"status": status, "error": message, "problems": problems}))
    return code


def _unwind_on_termination() -> Any:
    """Makes SIGTERM raise SystemExit, so that half-written files are removed. Returns the previous handler, None
    outside the main thread, where signals cannot be handled."""
    if threading.current_thread() is not threading.main_thread():
        return None

    def stop(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    return signal.signal(signal.SIGTERM, stop)


if __name__ == "__main__":
    sys.exit(main())
