"""Properties that hold for any input, tried on random ones. The examples are the same in every run."""

import json
import os
from pathlib import Path

import pytest
from comfyui_affect.models.diffusion.text import parse_weights
from comfyui_affect.models.errors import UserError
from comfyui_affect.models.files import find_inside, safe_join
from comfyui_affect.workflows.headless.formats.convert import convert
from comfyui_affect.workflows.headless.formats.load import load
from comfyui_affect.workflows.headless.formats.text import choose
from comfyui_affect.workflows.headless.run import prepare
from headless.random_graphs import graphs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


def examples(count):
    """Settings: `count` examples, the same ones each time and however long they take."""
    return settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


# -- paths -----------------------------------------------------------------------------------------------------------

PARTS = st.one_of(
    st.sampled_from(["..", ".", "", "/", "\\", "C:", "~", "a", "inside", "out", "out/b", "loop", "\0", "\ud800", " "]),
    st.text(max_size=4),
)
NAMES = st.lists(PARTS, max_size=6).flatmap(lambda parts: st.sampled_from(["/", "\\", ""]).map(lambda s: s.join(parts)))


@pytest.fixture
def root(tmp_path):
    """A folder with a folder inside, a link that leaves it, and a link to itself."""
    (tmp_path / "elsewhere").mkdir()
    folder = tmp_path / "root"
    (folder / "inside").mkdir(parents=True)
    (folder / "out").symlink_to(tmp_path / "elsewhere")
    (folder / "loop").symlink_to(folder / "loop")
    return folder


@examples(200)
@given(name=NAMES)
def test_safe_join_never_leaves_its_folder(root, name):
    try:
        path = safe_join(root, name)
    except UserError:
        return
    assert os.path.commonpath([os.path.realpath(path), os.path.realpath(root)]) == os.path.realpath(root)


@examples(200)
@given(name=NAMES)
def test_find_inside_leaves_its_folder_only_by_a_link(root, name):
    try:
        path = find_inside(root, name)
    except UserError:
        return
    assert Path(os.path.abspath(path)).is_relative_to(root)


@examples(200)
@given(name=st.text("abc é.-_", min_size=1, max_size=20).filter(lambda name: name.strip(". ")))
def test_ordinary_names_are_accepted(root, name):
    assert safe_join(root, f"inside/{name}") == root / "inside" / name


# -- prompts ---------------------------------------------------------------------------------------------------------

WORDS = st.text("ab c,.é1", min_size=1, max_size=8)
WEIGHTS = st.none() | st.floats(-4, 4, allow_nan=False).map(lambda w: round(w, 3))
WEIGHTED = st.lists(
    st.recursive(WORDS, lambda inner: st.tuples(st.lists(inner, min_size=1, max_size=3), WEIGHTS), max_leaves=6),
    max_size=4,
)
"""Texts and groups; a group is (contents, weight), with 1.1 times the weight outside where it has none."""


def prompt_of(parts):
    text = ""
    for part in parts:
        if isinstance(part, str):
            text += part
        else:
            text += f"({prompt_of(part[0])}" + (")" if part[1] is None else f":{part[1]})")
    return text


def weights_of(parts, weight=1.0):
    """[(text, weight)], in which texts that follow each other in one group are one."""
    out, joins = [], False
    for part in parts:
        if isinstance(part, str):
            out[-1:] = [(out[-1][0] + part, weight)] if joins else [*out[-1:], (part, weight)]
        else:
            out += weights_of(part[0], weight * 1.1 if part[1] is None else part[1])
        joins = isinstance(part, str)
    return out


@examples(200)
@given(parts=WEIGHTED)
def test_weights_survive_a_round_trip(parts):
    assert parse_weights(prompt_of(parts)) == weights_of(parts)


@examples(200)
@given(text=st.text("ab(){}|\\ :1.3"))
def test_escaped_parentheses_are_plain_text(text):
    plain = text.replace("\\", "")
    escaped = plain.replace("(", "\\(").replace(")", "\\)")
    assert "".join(words for words, _ in parse_weights(escaped)) == plain
    assert all(weight == 1.0 for _, weight in parse_weights(escaped))


class Nth:
    """Stands in for a random generator: chooses option `n` of as many as there are."""

    def __init__(self, n):
        self.n = n

    def choice(self, options):
        return options[self.n % len(options)]


CHOICES = st.recursive(
    st.text("ab ,(:1.3)é", max_size=5),
    lambda inner: st.lists(inner, min_size=1, max_size=3) | st.lists(inner, min_size=1, max_size=3).map(tuple),
    max_leaves=12,
)


def written(choice):
    """A tree of texts, sequences (tuples) and choices (lists) as a prompt."""
    if isinstance(choice, str):
        return choice
    parts = [written(part) for part in choice]
    return "".join(parts) if isinstance(choice, tuple) else "{" + "|".join(parts) + "}"


def chosen(choice, n):
    if isinstance(choice, str):
        return choice
    return "".join(chosen(p, n) for p in choice) if isinstance(choice, tuple) else chosen(choice[n % len(choice)], n)


@examples(150)
@given(choice=CHOICES, n=st.integers(0, 5))
def test_choices_give_the_chosen_parts(choice, n):
    assert choose(written(choice), Nth(n)) == chosen(choice, n)


# -- workflows -------------------------------------------------------------------------------------------------------


@examples(80)
@given(graph=graphs())
def test_a_drawing_converts_to_the_prompt_that_it_was_drawn_from(registry, embedded, graph):
    prompt = convert(graph.drawing, registry).prompt
    assert {id: {key: node[key] for key in ("class_type", "inputs")} for id, node in prompt.items()} == graph.prompt


KEYS = st.sampled_from(["1", "2", "class_type", "inputs", "prompt", "extra_data", "_meta", "title", "image", "images"])
DRAWN_KEYS = st.sampled_from(
    ["id", "type", "inputs", "outputs", "nodes", "links", "mode", "name", "link", "widget", "widgets_values"]
) | st.sampled_from(
    ["properties", "proxyWidgets", "definitions", "subgraphs", "linkIds", "origin_id", "origin_slot", "target_id"]
)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 12) | st.sampled_from([-10, -20, 2**70]),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(
        ["SaveImage", "LoadImage", "ImageScale", "Reroute", "PrimitiveNode", "plain.png", "IMAGE", "*", "sub"]
    ),
)
JSON = st.recursive(
    VALUES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS | DRAWN_KEYS, inner, max_size=5),
    max_leaves=25,
)
FIELDS = st.dictionaries(KEYS | DRAWN_KEYS, JSON, max_size=2)
API = st.dictionaries(
    st.sampled_from(["1", "2", "3"]), FIELDS.map(lambda n: {"class_type": "SaveImage"} | n), max_size=3
)
UI = st.builds(
    lambda nodes, more: {"nodes": [{"id": i, "type": "SaveImage"} | node for i, node in enumerate(nodes)]} | more,
    st.lists(FIELDS, max_size=3),
    st.dictionaries(DRAWN_KEYS.filter(lambda key: key != "nodes"), JSON, max_size=1),
)


@examples(100)
@given(content=JSON | API | UI)
def test_any_json_gives_a_prompt_or_an_error_message(registry, embedded, workspace, content):
    (workspace / "w.json").write_text(json.dumps(content))
    prompt, message = None, ""
    try:
        prompt = prepare(load(workspace / "w.json"), registry=registry).prompt
    except UserError as error:  # or WorkflowError
        message = str(error)
    assert prompt if not message else message.strip()
    assert all(node["class_type"] in registry for node in (prompt or {}).values())
