"""A short run of the fuzz script; the whole one is `python tests/fuzz/run.py`."""

import sys

import pytest
from fuzz.images import LARGE, NAMES
from fuzz.run import report

SHORT = {"workflows": 200, "images": len(NAMES) - len(LARGE), "models": 22, "servers": 21, "mllm": 12}


@pytest.mark.skipif(sys.platform != "linux", reason="the watch over memory and files is Linux's")
def test_hostile_input_is_answered_in_words(capsys):
    pytest.importorskip("openai")
    faults = report(0, [(family, 0, n) for family, n in SHORT.items()])
    assert not faults, capsys.readouterr().out
