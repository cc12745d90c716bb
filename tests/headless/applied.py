"""Shared by the tests of `affect apply`: what a run left and said."""

import json
import os

from comfyui_affect.workflows.headless.series import journal


def below(folder):
    """Names of the files in a folder, the journal apart."""
    names = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return sorted(name for name in names if name != journal.NAME)


def times(folder):
    return {name: (folder / name).stat().st_mtime_ns for name in below(folder)}


def statuses(answer):
    return {os.path.basename(p["output"]): p["status"] for p in json.loads(answer.out)["pictures"]}
