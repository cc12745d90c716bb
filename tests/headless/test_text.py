"""Choices and file names, compared with the results of the frontend's own functions."""

import random
from datetime import datetime

import pytest
from comfyui_affect.workflows.headless.formats.text import as_text, choose, fill_in, format_date

NOW = datetime(2031, 2, 3, 4, 5, 6)


class First(random.Random):
    def choice(self, options):
        return options[0]


class Last(random.Random):
    def choice(self, options):
        return options[-1]


@pytest.mark.parametrize(
    "text, first, last",
    [
        ("a {red|blue} cat", "a red cat", "a blue cat"),
        ("{a|{b|c}}", "a", "c"),
        ("{one}", "one", "one"),
        ("{|x}", "", "x"),
        (r"\{a|b\} {c\|d|e}", "{a|b} c|d", "{a|b} e"),
        ("{a|b", "a", "b"),
        ("x // gone\ny /* gone\ntoo */ z", "x \ny  z", "x \ny  z"),
        ("(word:1.3) }", "(word:1.3) }", "(word:1.3) }"),
    ],
)
def test_choose(text, first, last):
    assert choose(text, First()) == first
    assert choose(text, Last()) == last


def test_every_option_is_reached():
    assert {choose("{a|b|c}", random.Random(i)) for i in range(40)} == {"a", "b", "c"}


@pytest.mark.parametrize(
    "pattern, text",
    [
        ("yyyy-MM-dd", "2031-02-03"),
        ("yy-M-d", "31-2-3"),
        ("hh:mm:ss", "04:05:06"),
        ("h_m_s", "4_5_6"),
    ],
)
def test_dates(pattern, text):
    assert format_date(pattern, NOW) == text


def test_fill_in():
    def find(node, widget):
        values = {"seed": 7.0, "on": True, "path": 'a/b:c"d', "none": None}
        return (True, values[widget]) if node == "N" else (False, None)

    assert fill_in("%N.seed%-%N.on%-%N.path%-%N.none%-%M.seed%-%width%-%date:yyyy%", find, NOW) == (
        "7-true-a_b_c_d--%M.seed%-%width%-2031"
    )


def test_values_are_printed_as_in_a_browser():
    assert [as_text(v) for v in (7.0, 7.5, 3, False, "s", None)] == ["7", "7.5", "3", "false", "s", ""]
