"""A short run of the fuzz script; the full one is `python tests/fuzz/run.py`."""

import sys

import pytest
from fuzz.images import LARGE, NAMES
from fuzz.run import report

SHORT = {"workflows": 200, "images": len(NAMES) - len(LARGE), "models": 22, "servers": 21, "mllm": 12}


@pytest.mark.skipif(sys.platform != "linux", reason="memory and files are supervised by means of Linux")
def test_hostile_input_is_refused_with_a_message(capsys):
    pytest.importorskip("openai")
    faults, kinds = report(0, [(family, 0, n) for family, n in SHORT.items()])
    assert not faults, capsys.readouterr().out
    assert {family: sum(counts.values()) for family, counts in kinds.items()} == SHORT
    # Each family has cases that are refused. Some workflows are still sound, and some answers do not matter.
    assert all(counts["words"] for counts in kinds.values())
    assert kinds["workflows"]["ran"] and kinds["servers"]["ran"]
