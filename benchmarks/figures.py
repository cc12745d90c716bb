"""Figures with their units and 95 % intervals, and the file that they are written to."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..models import files, metrics

SHARE, SSIM, DISTANCE, COSINE = "share", "SSIM", "distance", "100 cosine"
MMD, SPEARMAN, INNER_STEPS = "squared MMD", "Spearman", "steps an image"
"""Units that several benchmarks have."""

Interval = tuple[float, float]


class Figures(Mapping[str, float]):
    """Figures of a benchmark: name -> value. `unit` holds each one's unit under the same name; the ends of an
    interval are figures of the same unit, called `NAME.low` and `NAME.high`.

    A figure is put in together with its unit. Put in again, it replaces what was there, in the same unit.
    """

    def __init__(self) -> None:
        self._value: dict[str, float] = {}
        self.unit: dict[str, str] = {}

    def __getitem__(self, name: str) -> float:
        return self._value[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._value)

    def __len__(self) -> int:
        return len(self._value)

    def put(self, name: str, value: float, unit: str, interval: Interval | None = None) -> None:
        """One figure, with its interval where it has one. ValueError where the name has another unit already."""
        ends = {f"{name}.low": interval[0], f"{name}.high": interval[1]} if interval else {}
        for key, number in {name: value, **ends}.items():
            if self.unit.setdefault(key, unit) != unit:
                raise ValueError(f"The figure {key} is in '{self.unit[key]}' and cannot be put in as '{unit}'.")
            self._value[key] = float(number)

    def put_mean(
        self, name: str, values: torch.Tensor, unit: str, counted: bool = False, groups: Sequence[Any] | None = None
    ) -> None:
        """The mean of values [n] with its interval: Wilson's where they are `counted` (each 0 or 1), the normal one
        otherwise, the bootstrap over groups where several values share one (a layout)."""
        mean = float(values.double().mean())
        if groups is not None and len(set(groups)) < len(groups):
            interval = grouped_interval(values, groups)
        else:
            interval = metrics.wilson_interval(mean, len(values)) if counted else metrics.mean_interval(values)
        self.put(name, mean, unit, interval)

    def put_difference(
        self, name: str, a: torch.Tensor, b: torch.Tensor, unit: str, groups: Sequence[Any] | None = None
    ) -> None:
        """The mean of a - b, [n] each and measured on the same tasks, with the bootstrap's interval (over groups,
        where given)."""
        difference = a.double() - b.double()
        interval = grouped_interval(difference, range(len(a)) if groups is None else groups)
        self.put(name, float(difference.mean()), unit, interval)

    def put_all(self, other: Figures, prefix: str = "") -> None:
        """All of another's figures, their names after a prefix."""
        for name, value in other.items():
            self.put(prefix + name, value, other.unit[name])

    def select(self, wanted: Callable[[str], bool]) -> Figures:
        """Those whose names are wanted."""
        out = Figures()
        for name in filter(wanted, self):
            out.put(name, self[name], self.unit[name])
        return out

    def as_json(self) -> dict[str, Any]:
        """{"figures", "unit"}, as `from_json` reads it. JSON knows no infinity: such a figure is null."""
        values = {name: value if math.isfinite(value) else None for name, value in self.items()}
        return {"figures": values, "unit": dict(self.unit)}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Figures:
        """What `as_json` gave; null is not a number."""
        out = cls()
        for name, value in content["figures"].items():
            out.put(name, math.nan if value is None else value, content["unit"][name])
        return out

    def show(self) -> None:
        """Prints each figure with its interval and its unit."""
        for name, value in self.items():
            if name.endswith((".low", ".high")):
                continue
            low, high = (self.get(f"{name}.{end}", math.nan) for end in ("low", "high"))
            interval = f"{low:.3f} .. {high:.3f}" if math.isfinite(low) else ""
            shown = f"{value:>9.4g}" if math.isfinite(value) else "not reached"
            print(f"{name:<44}{shown:<12}{interval:<20}{self.unit[name]}".rstrip())

    def write(self, path: Path | None, name: str, **settings: Any) -> None:
        """Prints the figures, and where a path is given writes them there: {"name", "machine", "figures", "unit",
        "settings"}. The settings say what was run: a file of other settings, code or models is told apart by them.
        Threads and the machine's load are written too, for times."""
        self.show()
        if not path:
            return
        result = {
            "name": name,
            "machine": machine(),
            "threads": torch.get_num_threads(),
            "load": list(os.getloadavg()) if hasattr(os, "getloadavg") else [],
            **self.as_json(),
            "settings": settings,
        }
        files.write_atomically(path, lambda p: p.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8"))


def machine() -> str:
    """What the figures were measured on."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return f"{device}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}"


def numbered(groups: Sequence[Any]) -> torch.Tensor:
    """[n]: each group's number, in the order in which they come."""
    names = {name: i for i, name in enumerate(dict.fromkeys(groups))}
    return torch.tensor([names[g] for g in groups])


def grouped_interval(values: torch.Tensor, groups: Sequence[Any], draws: int = 2000) -> Interval:
    """The bootstrap's 95 % interval of the mean of values [n], drawn by group: values of one group (a layout) go
    together."""
    number = numbered(groups)
    n = int(number.max()) + 1
    sums = torch.zeros(n, dtype=torch.float64).index_add(0, number, values.double())
    counts = torch.zeros(n, dtype=torch.float64).index_add(0, number, torch.ones(len(values), dtype=torch.float64))
    index = torch.randint(n, (draws, n), generator=torch.Generator().manual_seed(0))
    means = sums[index].sum(dim=1) / counts[index].sum(dim=1)
    return float(means.quantile(0.025)), float(means.quantile(0.975))
