"""What is wrong with a workflow, and where."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import Iterable

from ...models.errors import UserError


@dataclass(frozen=True)
class Problem:
    """One thing that keeps a workflow from running; `message` says what and what to do."""

    message: str
    node: str | None = None
    """The node's id; None where the problem belongs to no node."""
    title: str | None = None
    input: str | None = None

    def __str__(self) -> str:
        where = ""
        if self.node is not None:
            where = f"Node {self.node}" + (f" '{self.title}'" if self.title else "")
            where += f", input '{self.input}': " if self.input else ": "
        return where + self.message

    def as_dict(self) -> dict[str, str | None]:
        return asdict(self)


class WorkflowError(UserError):
    """A workflow that cannot run, with every problem that was found."""

    def __init__(self, problems: Iterable[Problem]):
        self.problems = list(problems)
        super().__init__("\n".join(str(p) for p in self.problems))


def nearest(name: object, known: Iterable[object], cutoff: float = 0.6) -> str | None:
    """The known name that is most like `name`, None where none is close.

    cutoff  how alike the two must be, 0..1; with many names of one family to choose from, a high one
    """
    names = {str(k).lower(): str(k) for k in known}
    given = str(name).lower()
    # Comparing takes time with the square of the length, and no name is as long as this.
    close = get_close_matches(given, list(names), n=1, cutoff=cutoff) if len(given) <= 200 else []
    return names[close[0]] if close else None


def did_you_mean(name: object, known: Iterable[object], cutoff: float = 0.6) -> str:
    """' Did you mean 'x'?' where a known name is close, else the empty string."""
    close = nearest(name, known, cutoff)
    return f" Did you mean '{close}'?" if close is not None else ""


def cut(text: object, length: int = 100) -> str:
    """A text out of a workflow, short enough for a message."""
    text = str(text)
    return text if len(text) <= length else f"{text[:length]}..."
