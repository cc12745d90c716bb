"""TOML configs with `KEY=VALUE` overrides: `[section] key = value`, overridden as `section.key=value`."""

from __future__ import annotations

import copy
import json
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..models.errors import UserError

CONFIGS = Path(__file__).parent / "configs"
T = TypeVar("T")


class Config(dict[str, Any]):
    """The sections of a config. UserError for one that it does not have."""

    def __init__(self, sections: dict[str, Any], name: str):
        super().__init__(sections)
        self.name = name

    def __missing__(self, section: str) -> Any:
        raise UserError(
            f"{self.name} has no section [{section}]; it has {', '.join(f'[{key}]' for key in self) or 'none'}. Choose "
            "a config made for this training."
        )


def load_config(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Config:
    """The config of a TOML file, by path or by the name of a shipped one, with overrides applied.

    A value of an override is read as TOML/JSON where it can be, else as a string. UserError where the file is
    absent or malformed, or an override names no section of the file (unknown keys are found by `read`).
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    path = Path(path)
    if not path.is_file():
        path = CONFIGS / f"{path.stem}.toml"
    if not path.is_file():
        names = ", ".join(sorted(p.stem for p in CONFIGS.glob("*.toml")))
        raise UserError(f"There is no config '{path.stem}'. Give a TOML file, or one of: {names}.")
    try:
        config = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"The config '{path.name}' is not valid TOML: {error}.") from error
    return overridden(Config(config, f"The config '{path.name}'"), overrides)


def overridden(config: dict[str, Any], overrides: list[str] | tuple[str, ...]) -> Config:
    """A config with overrides SECTION.KEY=VALUE applied. UserError for one that names no section."""
    name = getattr(config, "name", "The config")
    config = Config(copy.deepcopy(dict(config)), name)
    for override in overrides:
        key, equals, value = override.partition("=")
        *parents, leaf = key.split(".")
        table: Any = config
        for parent in parents:
            table = table.get(parent) if isinstance(table, dict) else None
        if not equals or not isinstance(table, dict):
            raise UserError(
                f"'{override}' overrides nothing: write SECTION.KEY=VALUE with a section that there is "
                f"({', '.join(config)}), for example vae.steps=100."
            )
        table[leaf] = _value(value)
    return config


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def read(cls: type[T], table: dict[str, Any], where: str = "the config") -> T:
    """A dataclass from a config table; unknown keys are a UserError."""
    assert is_dataclass(cls)
    known = {f.name for f in fields(cls)}
    unknown = sorted(set(table) - known)
    if unknown:
        raise UserError(f"{where} has the unknown key '{unknown[0]}'. Known: {', '.join(sorted(known))}.")
    return cls(**table)
