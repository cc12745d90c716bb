"""Others' words on their way to a terminal, and waiting for what may never come."""

import threading
import time

import pytest
from comfyui_affect.models import host
from comfyui_affect.models.foreign import one_line, printable
from comfyui_affect.models.waiting import TooLate, within


def test_what_a_terminal_obeys_is_taken_out():
    assert printable("a\x1b[31mb\x9b2Jc\x00\x07\x7f\r\n\td") == "a[31mb2Jc\n\td"
    assert printable("\u202etxt.exe\u2066\u200f\u061c\ufeff") == "txt.exe" and printable("\ud800x") == "\ufffdx"
    assert printable("Grüße 日本 🙂 \u00a0") == "Grüße 日本 🙂 \u00a0"
    assert one_line("a\n b\x1b" + "c" * 400, 10) == "a b" + "c" * 7 + "..."


def test_work_is_waited_for_so_long_and_no_longer():
    over = threading.Event()
    assert within(5, lambda: 7) == 7
    with pytest.raises(KeyError):
        within(5, lambda: {}["x"])
    with pytest.raises(TooLate):
        within(0.1, over.wait)
    given = [0.1]
    threading.Timer(0.2, lambda: given.append(0.3)).start()
    with pytest.raises(TooLate):
        within(lambda: given[-1], over.wait)
    over.set()


def test_who_waits_may_be_interrupted_and_works_in_the_same_host():
    class Stopped(host.Host):
        def check_interrupted(self):
            raise KeyboardInterrupt

    with host.use(Stopped()) as current:
        assert within(5, host.current) is current
        with pytest.raises(KeyboardInterrupt):
            within(5, lambda: time.sleep(1))
