"""Problems of a workflow, and their places."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from ...models.errors import UserError
from ...models.errors import did_you_mean as did_you_mean
from ...models.errors import nearest as nearest
from ...models.foreign import one_line


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
            # Names in a workflow come from strangers: kept in one line, they cannot pose as a line of this program.
            where = f"Node {one_line(self.node)}" + (f" '{one_line(self.title)}'" if self.title else "")
            where += f", input '{one_line(self.input)}': " if self.input else ": "
        return where + one_line(self.message, 5000)

    def as_dict(self) -> dict[str, str | None]:
        return asdict(self)


class WorkflowError(UserError):
    """A workflow that cannot run, with all its problems."""

    def __init__(self, problems: Iterable[Problem]):
        self.problems = list(problems)
        super().__init__("\n".join(str(p) for p in self.problems))


def cut(text: object, length: int = 100) -> str:
    """A text from a workflow, short enough for a message."""
    text = str(text)
    return text if len(text) <= length else f"{text[:length]}..."
