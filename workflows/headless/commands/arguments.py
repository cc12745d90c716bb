"""The command line's parser: what it refuses it refuses as everything else here does, in a sentence with the nearest
known name."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any

from ....models.errors import UserError, did_you_mean


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises UserError in place of printing its usage and leaving; sub-parsers are of the
    same kind."""

    _given: Sequence[str] = ()

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        self._given = args or ()
        return super().parse_known_args(args, namespace)

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            leaf = self._chosen(found)
            leaf._refuse_options(unknown)
            word = unknown[0]
            raise UserError(
                f"`{leaf.prog}` takes no more arguments, and '{word}' is one too many. `{leaf.prog} --help` says what it "
                "takes."
            )
        return found

    def error(self, message: str) -> Any:
        """Called by argparse for everything else that is wrong."""
        choice = re.search(r"invalid choice: (?:'(.*?)'|(\S+)) \(choose from (.*)\)", message, flags=re.DOTALL)
        if choice:
            given, known = choice.group(1) or choice.group(2) or "", re.findall(r"[\w.:-]+", choice.group(3))
            raise UserError(
                f"`{self.prog}` knows no '{given}'.{did_you_mean(given, known)} It takes one of: {', '.join(known)}."
            )
        self._refuse_options(self._given)  # a slip may be why something is missing
        raise UserError(
            f"`{self.prog}`: {message.replace('the following arguments are required', 'these arguments are missing')}. "
            f"`{self.prog} --help` says what it takes."
        )

    def _refuse_options(self, words: Sequence[str]) -> None:
        """UserError for the first of some words that is written as an option and is none (argparse takes options cut
        short)."""
        options = [option for action in self._actions for option in action.option_strings]
        for word in (w.split("=")[0] for w in words):
            if (
                word.startswith("-")
                and len(word) > 1
                and not word[1].isdigit()
                and not any(o.startswith(word) for o in options)
            ):
                raise UserError(
                    f"`{self.prog}` has no option '{word}'.{did_you_mean(word, options)} `{self.prog} --help` lists them."
                )

    def _chosen(self, found: argparse.Namespace) -> Parser:
        """The parser of the command that was chosen, however deep."""
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                below = action.choices.get(getattr(found, action.dest, None) or "")
                return below._chosen(found) if isinstance(below, Parser) else self
        return self
