"""A prompt, ComfyUI's API format: what reading, checking and running know of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .registry import Registry

Prompt = dict[str, dict[str, Any]]
"""Node id -> {"class_type", "inputs": {name: value or link}, "_meta": {"title"}}; a link is [node id, output
number]."""


def is_link(value: Any) -> bool:
    """Whether an input's value is a link. The API format reserves lists for them: a list as a value is written
    {"__value__": [...]}. The list may still be malformed; `source_of` tells."""
    return isinstance(value, list)


def source_of(value: Any) -> str | None:
    """The id of the node that a well-formed link [node id, output number] comes from; None for any other value."""
    return value[0] if is_link(value) and len(value) == 2 and isinstance(value[0], str) else None


def title_of(prompt: Prompt, node_id: str, registry: Registry) -> str:
    """The title that the user gave, else the node type's display name."""
    node = prompt[node_id]
    given = (node.get("_meta") or {}).get("title")
    kind = registry.get(str(node.get("class_type")))
    return str(given or (kind.display_name if kind else node.get("class_type")))


def needed(prompt: Prompt, registry: Registry, ends: Iterable[str] | None = None) -> list[str]:
    """Ids of the nodes that `ends` need (default: the output nodes), each after its sources (cycles are cut where they
    close)."""
    order: list[str] = []
    seen: set[str] = set()

    def visit(start: str) -> None:
        stack = [(start, _sources(prompt, start))]
        seen.add(start)
        while stack:  # no recursion: a long chain would exceed Python's limit
            node_id, sources = stack[-1]
            following = next((s for s in sources if s in prompt and s not in seen), None)
            if following is None:
                order.append(node_id)
                stack.pop()
            else:
                seen.add(following)
                stack.append((following, _sources(prompt, following)))

    for node_id in output_nodes(prompt, registry) if ends is None else ends:
        if node_id not in seen:
            visit(node_id)
    return order


def output_nodes(prompt: Prompt, registry: Registry) -> list[str]:
    """Ids of the nodes for whose sake others run."""
    kinds = {node_id: registry.get(str(node.get("class_type"))) for node_id, node in prompt.items()}
    return [node_id for node_id, kind in kinds.items() if kind is not None and kind.is_output]


def _sources(prompt: Prompt, node_id: str) -> Iterator[str]:
    return (s for s in map(source_of, prompt[node_id]["inputs"].values()) if s is not None)
