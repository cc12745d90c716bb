"""A host for tests that keeps what it is told."""

from __future__ import annotations

from pathlib import Path

from comfyui_affect.models import host


class Listening(host.Host):
    def __init__(self, root: Path):
        super().__init__(root)
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)
