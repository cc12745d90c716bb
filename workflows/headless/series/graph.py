"""A workflow for a series: each photograph takes the place of a Load Image, and one output's image is written."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from ....models.errors import UserError
from ..edit import find_input, find_node
from ..execute import Executor, signature
from ..photographs import Photograph
from ..prompt import Prompt, is_link, needed, source_of, title_of
from ..registry import Registry

KEY = "Photograph"
"""The node type that replaces Load Image."""

_LOADER, _SAVERS = "LoadImage", ("SaveImage", "PreviewImage")


@dataclass
class Series:
    """A checked workflow that runs once for each photograph. Models, and every node that does not depend on the
    photograph, are run once."""

    prompt: Prompt
    registry: Registry
    into: str
    """The node in whose place the photograph is."""
    end: tuple[str, int]
    """The node and output whose image is written."""
    slot: Slot

    def __post_init__(self) -> None:
        self._executor = Executor(self.registry)
        self._passing = _depending(self.prompt, self.into, needed(self.prompt, self.registry))

    @property
    def digest(self) -> str:
        """Changes with the workflow, and with the files that it reads beside the photograph."""
        return signature(self.prompt, self.end[0], self.registry)

    @property
    def ran(self) -> list[str]:
        """The nodes that the last photograph made run."""
        return self._executor.ran

    def run(self, photograph: Photograph) -> torch.Tensor:
        """The one image [H, W, C] that the workflow makes of a photograph, whose pixels are handed over. NodeFailed if
        a node fails, UserError for another number of images."""
        node, output = self.end
        self.slot.photograph = photograph
        try:
            results = self._executor.run(self.prompt, ends=[node], passing=self._passing)
        finally:
            self.slot.photograph = None
        images = [one for batch in results[node].outputs[output] for one in batch]
        if len(images) != 1:
            raise UserError(
                f"The workflow makes {len(images)} images of it, and one is written for each photograph. Choose an "
                "output with one image (--from), or pick one in the workflow."
            )
        return images[0]


@dataclass
class Slot:
    """Where the node of `node_type` finds the photograph that is worked on."""

    photograph: Photograph | None = None

    def node_type(self) -> type:
        """A node with Load Image's outputs, of the photograph in this slot. It is run once for each."""
        slot = self

        class Loader:
            RETURN_TYPES = ("IMAGE", "MASK")
            FUNCTION = "load"

            @classmethod
            def INPUT_TYPES(cls) -> dict[str, Any]:
                return {"required": {}}

            @classmethod
            def IS_CHANGED(cls) -> float:
                return math.nan  # another one each time

            def load(self) -> tuple[torch.Tensor, torch.Tensor]:
                assert slot.photograph is not None
                return slot.photograph.hand_over()

        return Loader


class Wiring:
    """The change of a prompt that `prepare` carries out: only what the written output needs stays, with the photograph
    in its place. Then `into` and `end` are known.

    into_option    NODE.image of a Load Image; None if there is one
    output_option  the id or title of a Save or Preview Image; None if there is one
    """

    def __init__(self, registry: Registry, into_option: str | None = None, output_option: str | None = None):
        self.slot = Slot()
        self.registry = registry.with_type(KEY, self.slot.node_type(), "Photograph")
        self.into, self.end = "", ("", 0)
        self._into_option, self._output_option = into_option, output_option

    def __call__(self, prompt: Prompt) -> Prompt:
        saver = self._saver(prompt)
        kept = needed(prompt, self.registry, [saver])
        self.into = self._loader(prompt, kept, saver)
        changed = {node_id: dict(prompt[node_id]) for node_id in prompt if node_id in kept}
        changed[self.into] = {
            "class_type": KEY,
            "inputs": {},
            "_meta": {"title": title_of(prompt, self.into, self.registry)},
        }
        link = prompt[saver]["inputs"].get("images")
        if is_link(link) and source_of(link) is not None:  # `check` reports everything else
            self.end = (link[0], link[1])
        return changed

    def series(self, prompt: Prompt) -> Series:
        """The series of a prompt that this has changed and `check` has accepted."""
        return Series(prompt, self.registry, self.into, self.end, self.slot)

    def _saver(self, prompt: Prompt) -> str:
        found = [n for n in prompt if prompt[n].get("class_type") in _SAVERS]
        if self._output_option is not None:
            chosen = find_node(prompt, self._output_option, self.registry, "--from")
            if chosen not in found:
                raise UserError(
                    f"--from: node {chosen} is not a Save Image or Preview Image. {self._listed(prompt, found)}"
                )
            return chosen
        if not found:
            raise UserError("The workflow has no Save Image or Preview Image, so there is no image to write. Add one.")
        if len(found) > 1:
            raise UserError(
                f"The workflow has {len(found)} image outputs, and one is written for each photograph. Choose it with "
                f"--from NODE. {self._listed(prompt, found)}"
            )
        return found[0]

    def _loader(self, prompt: Prompt, kept: list[str], saver: str) -> str:
        found = [n for n in prompt if n in kept and prompt[n].get("class_type") == _LOADER]
        if self._into_option is not None:
            chosen, name = find_input(prompt, self._into_option, self.registry, "--into")
            if prompt[chosen].get("class_type") != _LOADER or name != "image":
                raise UserError(
                    f"--into takes NODE.image of a Load Image, and got '{self._into_option}'. "
                    f"{self._listed(prompt, found)}"
                )
            if chosen not in kept:
                raise UserError(
                    f"--into: the output of node {saver} '{title_of(prompt, saver, self.registry)}' does not depend on "
                    f"node {chosen}, so all results would be the same. {self._listed(prompt, found)}"
                )
            return chosen
        if not found:
            raise UserError(
                "The image that is written does not depend on a Load Image, so there is no place for the photographs. "
                "Load the photograph with Load Image in the workflow."
            )
        if len(found) > 1:
            raise UserError(
                f"The workflow has {len(found)} Load Images. Say which takes the photographs with --into NODE.image. "
                f"{self._listed(prompt, found)}"
            )
        return found[0]

    def _listed(self, prompt: Prompt, nodes: list[str]) -> str:
        names = ", ".join(f"{n} '{title_of(prompt, n, self.registry)}'" for n in nodes)
        return f"There are: {names}." if names else "There is none."


def _depending(prompt: Prompt, start: str, order: list[str]) -> set[str]:
    """A node and those whose results depend on it. `order` has each node after its sources."""
    depending = {start}
    for node_id in order:
        if any(source_of(value) in depending for value in prompt[node_id]["inputs"].values()):
            depending.add(node_id)
    return depending
