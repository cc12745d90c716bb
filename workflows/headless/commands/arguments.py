"""The command line's parser, and the options that several commands share.

The parser refuses a mistake as everything else here does: in one sentence, with the nearest known name.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from ....models.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from ..host import EmbeddedHost

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""What `add_subparsers` returns."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises UserError where argparse would print its usage and exit. Its sub-parsers are of
    the same class."""

    _words: Sequence[str] = ()

    # Both overrides accept what argparse's own accept; its stubs overload them by the namespace's class.
    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self._words = args or ()
        return super().parse_known_args(args, namespace)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            parser = self._chosen(parsed)
            parser._refuse_options(unknown)
            raise UserError(
                f"`{parser.prog}` takes no more arguments, and '{unknown[0]}' is one too many. "
                f"`{parser.prog} --help` lists what it takes."
            )
        return parsed

    def error(self, message: str) -> Any:
        """Called by argparse for everything else that is wrong."""
        choice = re.search(r"invalid choice: (?:'(.*?)'|(\S+)) \(choose from (.*)\)", message, flags=re.DOTALL)
        if choice:
            given, known = choice.group(1) or choice.group(2) or "", re.findall(r"[\w.:-]+", choice.group(3))
            raise UserError(
                f"`{self.prog}` does not know '{given}'.{did_you_mean(given, known)} "
                f"It takes one of: {', '.join(known)}."
            )
        self._refuse_options(self._words)  # a misspelt option may be why an argument is missing
        raise UserError(
            f"`{self.prog}`: {message.replace('the following arguments are required', 'these arguments are missing')}. "
            f"`{self.prog} --help` lists what it takes."
        )

    def _refuse_options(self, words: Sequence[str]) -> None:
        """UserError for the first word that looks like an option and is not one. argparse accepts abbreviated
        options."""
        options = [option for action in self._actions for option in action.option_strings]
        for word in (w.split("=")[0] for w in words):
            looks_like_option = word.startswith("-") and len(word) > 1 and not word[1].isdigit()
            if looks_like_option and not any(option.startswith(word) for option in options):
                raise UserError(
                    f"`{self.prog}` has no option '{word}'.{did_you_mean(word, options)} "
                    f"`{self.prog} --help` lists them."
                )

    def _chosen(self, parsed: argparse.Namespace) -> Parser:
        """The parser of the chosen command, at any depth."""
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                child = action.choices.get(getattr(parsed, action.dest, None) or "")
                return child._chosen(parsed) if isinstance(child, Parser) else self
        return self


def add_json(parser: argparse.ArgumentParser) -> None:
    """--json, which every command has."""
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")


def add_models_dir(parser: argparse.ArgumentParser) -> None:
    """--models-dir, of every command that looks at model files."""
    parser.add_argument(
        "--models-dir",
        metavar="D",
        help="where model files are, in ComfyUI's layout, such as its `models` folder "
        "(default: $AFFECT_MODELS_DIR, else models)",
    )


def add_input_dir(parser: argparse.ArgumentParser) -> None:
    """--input-dir, of every command that looks at images."""
    parser.add_argument("--input-dir", default="input", metavar="D", help="where images are (default: %(default)s)")


def add_workflow(parser: argparse.ArgumentParser) -> None:
    """The workflow and what may be changed in it: what `run` and `check` have in common."""
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
    add_input_dir(parser)
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="HOST",
        help="a machine to which a workflow's MLLM may send the picture, such as gpu.lan or gpu.lan:8000; this machine "
        "is always allowed. May be given several times. To allow hosts permanently: AFFECT_MLLM_HOSTS, separated by "
        "commas",
    )
    add_models_dir(parser)
    add_json(parser)


def host_of(args: argparse.Namespace) -> EmbeddedHost:
    """The embedded host on the folders that `run` or `check` was given."""
    from ..host import EmbeddedHost

    return EmbeddedHost(args.input_dir, args.output_dir, args.models_dir, args.allow_host)
