"""Random hostile input, from a seed: `python tests/fuzz/run.py [--seed N] [--workflows N] [--models N] ...`

Every case runs in a child process that is supervised (`sandbox.py`): no unexpected error, nothing slower than ten
seconds, no more than three gigabytes, nothing written outside its folders, no program started, no code from a file run.
A case is identified by its family, the seed and its number; `--only FAMILY:NUMBER` runs it alone.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
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
"""The number of cases in the full run."""

_SILENT = 120.0
"""Seconds after which a child that prints nothing is ended: a case that hangs in compiled code gets no alarm."""


def child(seed: int, jobs: list[tuple[str, int, int]], root: Path) -> None:
    """Runs cases (family, from, to) and prints one line of JSON for each."""
    from fuzz.junk import Numbered
    from fuzz.sandbox import Sandbox

    results = os.fdopen(os.dup(1), "w", buffering=1)
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # for the rest of the process
    sandbox = Sandbox(root)
    for family, start, stop in jobs:
        module, name = FAMILIES[family]
        cases: Any = importlib.import_module(module)
        cases = getattr(cases, name) if name else cases
        cases.set_up(sandbox)
        print("ready", file=results)
        for number in range(start, stop):
            rng = Numbered(f"{seed}/{family}/{number}", number)
            work = cases.case(sandbox, rng)
            print(json.dumps({"family": family, "number": number, **asdict(sandbox.attempt(work))}), file=results)


def _line(process: subprocess.Popen[bytes], seconds: float) -> bytes:
    """The next line that a child prints; empty if it dies or prints nothing in time."""
    assert process.stdout is not None
    return process.stdout.readline() if select.select([process.stdout], [], [], seconds)[0] else b""


def tried(seed: int, jobs: list[tuple[str, int, int]]) -> Iterator[dict[str, Any]]:
    """The outcomes of cases, including those in which the child died or hung."""
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
                line = _line(process, _SILENT if ready else 4 * _SILENT)
                if line == b"ready\n":
                    ready = True
                    continue
                if not line:
                    break
                outcome = json.loads(line)
                family, _, stop = jobs[0]
                jobs[0] = (family, outcome["number"] + 1, stop)
                if outcome["number"] + 1 == stop:
                    jobs, ready = jobs[1:], False
                yield outcome
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(2)
            died = process.poll()
            process.kill()
            process.wait()
            if process.stdout is not None:
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
                    "detail": f"the process {'printed nothing' if died is None else f'ended with {died}'}: {why}",
                }


def report(seed: int, jobs: list[tuple[str, int, int]]) -> tuple[list[dict[str, Any]], dict[str, Counter[str]]]:
    """Tries cases and prints their outcomes. Returns the faults, and for each family how many cases ended in which
    way."""
    from fuzz.sandbox import Outcome

    kinds: dict[str, Counter[str]] = {}
    most: dict[str, tuple[float, int]] = {}
    faults = []
    for outcome in tried(seed, jobs):
        family, kind, seconds, megabytes = (outcome[key] for key in ("family", "kind", "seconds", "megabytes"))
        kinds.setdefault(family, Counter())[kind] += 1
        slowest, largest = most.get(family, (0.0, 0))
        most[family] = max(seconds, slowest), max(megabytes, largest)
        if Outcome(kind).fault:
            faults.append(outcome)
            print(f"  {family}:{outcome['number']} {kind} ({seconds} s, {megabytes} MB)", flush=True)
            print(f"    {outcome['detail']}", flush=True)
    for family, counts in kinds.items():
        print(
            f"{family}: {sum(counts.values())} tried ({', '.join(f'{counts[k]} {k}' for k in sorted(counts))}); "
            f"the slowest took {most[family][0]:.1f} s, the most memory {most[family][1]} MB"
        )
    return faults, kinds


def main() -> int:
    """The command line; 1 if there were faults."""
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
    faults = [fault for job in jobs for fault in report(args.seed, [job])[0]]
    print(f"{len(faults)} faults.")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
