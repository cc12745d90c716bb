"""Runs a benchmark as `affect bench` does, for tests that replace what is slow in it."""

import argparse
import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"


def run(bench: ModuleType, folder: Path, *options: str) -> dict[str, Any]:
    """The JSON file that a benchmark writes: {"name", "figures", "unit", "settings", ..}."""
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    path = folder / "figures.json"
    assert bench.main(parser.parse_args(["--out", str(folder), "--json", str(path), *options])) == 0
    return json.loads(path.read_text(encoding="utf-8"))


def assert_as_published(found: dict[str, Any]) -> None:
    """The figures are called as in docs/results, each in the unit that it has there."""
    published = json.loads((RESULTS / f"{found['name']}.json").read_text(encoding="utf-8"))
    assert found["unit"] == published["unit"]
    assert set(found["figures"]) == set(published["figures"])


def assert_within(found: dict[str, Any]) -> None:
    """Every figure lies within its own interval."""
    figures = found["figures"]
    ends = [name.removesuffix(".low") for name in figures if name.endswith(".low")]
    assert ends
    for name in ends:
        low, value, high = (figures[key] for key in (f"{name}.low", name, f"{name}.high"))
        if None not in (low, value, high) and math.isfinite(value):
            assert low - 1e-6 <= value <= high + 1e-6, name
