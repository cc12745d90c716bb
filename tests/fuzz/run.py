"""Hostile input at random, from a seed: `python tests/fuzz/run.py [--seed N] [--workflows N] [--models N] ...`

Every case runs in a child process that is watched (`room.py`): no raw error, nothing slower than ten seconds, no more
than three gigabytes, nothing written outside its folders, no program started, no code of a file run. A case is known by
its family, the seed and its number, and runs again alone with `--only FAMILY:NUMBER`.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import random
import select
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

FAMILIES = {
    "workflows": ("fuzz.workflows", ""),
    "models": ("fuzz.models", ""),
    "images": ("fuzz.images", ""),
    "servers": ("fuzz.answers", "Comfy"),
    "mllm": ("fuzz.answers", "Mllm"),
}
WHOLE = {"workflows": 10_000, "models": 400, "images": 80, "servers": 60, "mllm": 40}
"""How many of each the full run tries."""

_SILENT = 120.0
"""Seconds after which a child that says nothing is ended: a case that hangs inside compiled code hears no alarm."""


def child(seed: int, jobs: list[tuple[str, int, int]], root: Path) -> None:
    """Runs cases (family, from, to) and prints one line of JSON for each."""
    from fuzz.room import Room

    told = os.fdopen(os.dup(1), "w", buffering=1)
    sys.stdout = open(os.devnull, "w")
    room = Room(root)
    for family, start, stop in jobs:
        module, name = FAMILIES[family]
        made: Any = importlib.import_module(module)
        made = getattr(made, name) if name else made
        made.furnish(room)
        print("ready", file=told)
        for number in range(start, stop):
            rng = random.Random(f"{seed}/{family}/{number}")
            rng.index = number  # type: ignore[attr-defined]
            work = made.case(room, rng)
            print(json.dumps({"family": family, "number": number, **asdict(room.attempt(work))}), file=told)


def _heard(process: subprocess.Popen[bytes], seconds: float) -> bytes:
    """A line that a child prints, nothing where it dies or falls silent."""
    return process.stdout.readline() if select.select([process.stdout], [], [], seconds)[0] else b""


def tried(seed: int, jobs: list[tuple[str, int, int]]) -> Iterator[dict[str, Any]]:
    """The outcomes of cases, those of children that died or fell silent among them."""
    jobs = [job for job in jobs if job[1] < job[2]]
    while jobs:
        with tempfile.TemporaryDirectory() as root, tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                [sys.executable, __file__, "--child", json.dumps([seed, jobs, root])],
                stdout=subprocess.PIPE,
                stderr=errors,
            )
            ready = False
            while jobs:
                line = _heard(process, _SILENT if ready else 4 * _SILENT)
                if line == b"ready\n":
                    ready = True
                    continue
                if not line:
                    break
                found = json.loads(line)
                family, _, stop = jobs[0]
                jobs[0] = (family, found["number"] + 1, stop)
                if found["number"] + 1 == stop:
                    jobs, ready = jobs[1:], False
                yield found
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(2)
            died = process.poll()
            process.kill()
            process.wait()
            process.stdout.close()
            if jobs:
                errors.seek(0)
                why = errors.read().decode(errors="replace")[-1500:]
                if not ready:
                    raise RuntimeError(f"a child did not start on {jobs[0][0]}: {why}")
                family, number, stop = jobs[0]
                jobs[0] = (family, number + 1, stop)
                jobs = jobs if number + 1 < stop else jobs[1:]
                yield {
                    "family": family,
                    "number": number,
                    "kind": "hang" if died is None else "raw",
                    "seconds": _SILENT,
                    "megabytes": 0,
                    "detail": f"the process {'fell silent' if died is None else f'ended with {died}'}: {why}",
                }


def report(seed: int, jobs: list[tuple[str, int, int]]) -> list[dict[str, Any]]:
    """Tries cases, prints what came of them, and returns the faults."""
    from fuzz.room import Outcome

    kinds: dict[str, Counter[str]] = {}
    most: dict[str, tuple[float, int]] = {}
    faults = []
    for found in tried(seed, jobs):
        family, (seconds, megabytes) = found["family"], most.get(found["family"], (0.0, 0))
        kinds.setdefault(family, Counter())[found["kind"]] += 1
        most[family] = max(seconds, found["seconds"]), max(megabytes, found["megabytes"])
        if Outcome(found["kind"]).fault:
            faults.append(found)
            print(
                f"  {family}:{found['number']} {found['kind']} ({found['seconds']} s, {found['megabytes']} MB)\n    {found['detail']}",
                flush=True,
            )
    for family, counts in kinds.items():
        print(
            f"{family}: {sum(counts.values())} tried ({', '.join(f'{counts[k]} {k}' for k in sorted(counts))}); the slowest took "
            f"{most[family][0]:.1f} s, the most memory {most[family][1]} MB"
        )
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", metavar="FAMILY[:NUMBER]")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    for family, n in WHOLE.items():
        parser.add_argument(f"--{family}", type=int, default=n, metavar="N", help=f"how many (default: {n})")
    args = parser.parse_args()
    if args.child:
        seed, jobs, root = json.loads(args.child)
        child(seed, jobs, Path(root))
        return 0
    only, _, number = (args.only or "").partition(":")
    jobs = [
        (family, int(number or 0), int(number) + 1 if number else getattr(args, family))
        for family in FAMILIES
        if only in ("", family)
    ]
    faults = [fault for job in jobs for fault in report(args.seed, [job])]
    print(f"{len(faults)} faults.")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
