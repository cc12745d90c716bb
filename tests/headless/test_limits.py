"""Small workflows that would take hours or gigabytes, or that contain what no workflow may: each gives a prompt or an
error message at once. None of these tests asserts a time; without the limits, none of them would end."""

import copy
import json
import random

import pytest
from comfyui_affect.models.errors import UserError
from comfyui_affect.workflows.headless.formats.convert import convert
from comfyui_affect.workflows.headless.formats.load import Loaded, load
from comfyui_affect.workflows.headless.formats.text import choose, without_comments
from comfyui_affect.workflows.headless.problems import WorkflowError
from comfyui_affect.workflows.headless.run import prepare
from headless.drawings import link


def tower(node, levels, wide=1, inputs=1):
    """A drawing with `levels` nested subgraphs: `wide` instances at each level, and `inputs` inputs that lead to the
    widths of ImageScales at the bottom."""
    names = [f"w{i}" for i in range(inputs)]
    definitions = []
    for level in range(levels):
        insides = []
        for at in range(wide if level else inputs):
            inner = node(
                at + 1,
                f"s{level - 1}" if level else "ImageScale",
                [("image", "IMAGE", None)],
                ["IMAGE"],
                ["bilinear", 20 + at, 0, "disabled"] if level == 0 else None,
            )
            for i, name in enumerate(names if level else ["width"]):
                link_id = 1 + at * inputs + i
                inner["inputs"].append({"name": name, "type": "INT", "link": link_id, "widget": {"name": name}})
            insides.append(inner)
        links, ids = [], {name: [] for name in names}
        for inner in insides:
            for slot, one in enumerate(inner["inputs"]):
                if one["link"] is not None:
                    name = one["name"] if level else f"w{inner['id'] - 1}"
                    links.append(link(one["link"], -10, names.index(name), inner["id"], slot, "INT"))
                    ids[name].append(one["link"])
        definitions.append(
            {
                "id": f"s{level}",
                "name": f"Level {level}",
                "nodes": insides,
                "links": links,
                "outputs": [],
                "inputs": [{"name": n, "type": "INT", "linkIds": ids[n]} for n in names],
            }
        )
    return {
        "nodes": [node(1, f"s{levels - 1}"), node(2, "SaveImage", [("images", "IMAGE", None)], [], ["x"])],
        "links": [],
        "definitions": {"subgraphs": definitions},
    }


def test_a_widget_that_is_promoted_through_thirty_levels(registry, embedded, node):
    prompt = convert(tower(node, 30, inputs=3), registry).prompt
    bottom = [p for key, p in prompt.items() if key.count(":") == 30]
    assert [p["inputs"]["width"] for p in bottom] == [20, 21, 22]


def test_instances_that_multiply_are_counted_before_they_are_made(registry, embedded, node):
    with pytest.raises(UserError, match="nested instances multiply"):
        convert(tower(node, 30, wide=2), registry)


def test_too_many_levels(registry, embedded, node):
    assert convert(tower(node, 50), registry).prompt
    drawing = tower(node, 51)
    with pytest.raises(UserError, match="nested more than 50 deep"):
        convert(drawing, registry)
    # In any order: here every level has an instance at the top, the deepest first.
    drawing["nodes"][:1] = [node(100 + i, f"s{i}") for i in range(51)]
    with pytest.raises(UserError, match="nested more than 50 deep"):
        convert(drawing, registry)


def test_links_through_a_border_that_multiply(registry, embedded, node):
    drawing = tower(node, 2, wide=30)
    drawing["definitions"]["subgraphs"][0]["inputs"][0]["linkIds"] = [1] * 5000
    with pytest.raises(UserError, match="more than 100,000"):
        convert(drawing, registry)


@pytest.mark.parametrize("count", [600, 5000])
def test_a_long_chain_of_reroutes_with_many_ends(registry, embedded, node, scale_workflow, count):
    scale_workflow["nodes"] += [node(i, "Reroute", [("", "*", i)], ["*"]) for i in range(10, 10 + count)]
    scale_workflow["links"] += [[10, 1, 0, 10, 0, "IMAGE"]] + [[i, i - 1, 0, i, 0, "*"] for i in range(11, 10 + count)]
    for end in range(30):
        id = 100_000 + end
        scale_workflow["nodes"].append(node(id, "SaveImage", [("images", "IMAGE", id)], [], ["x"]))
        scale_workflow["links"].append([id, 9 + count, 0, id, 0, "IMAGE"])
    prompt = convert(scale_workflow, registry).prompt
    assert all(prompt[str(100_000 + end)]["inputs"]["images"] == ["1", 0] for end in range(30))


@pytest.mark.parametrize(
    "text, rest",
    [
        ("/* " * 200_000, "/* " * 200_000),
        ("/*x*/" * 100_000, ""),
        ("/" * 200_000, ""),
        ("a /*/ b */ c", "a  c"),
        ("/* open", "/* open"),
        ("a//b\u2028c", "a\u2028c"),
        ("a / b * / c", "a / b * / c"),
    ],
)
def test_comments(text, rest):
    assert without_comments(text) == rest


def test_choices_nested_too_deep():
    with pytest.raises(UserError, match="nested more than 50 deep"):
        choose("{a|" * 5000, None)
    assert choose(r"\{" * 5000, None) == "{" * 5000


def test_a_prompt_too_long_to_choose_from():
    assert choose("{a|a}" * 10_000, random.Random(0)) == "a" * 10_000
    with pytest.raises(UserError, match="at most 200,000"):
        choose("{" * 49 + "a|b" * 500_000 + "}" * 49, None)


def test_a_very_long_unknown_name(registry, embedded, scale_prompt):
    scale_prompt["2"]["class_type"] = "A" * 1_000_000
    with pytest.raises(WorkflowError) as caught:
        prepare(Loaded(scale_prompt, None), registry=registry)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "text, words",
    [
        ('{"1": {"class_type": "Note", "inputs": {"x": 1e999}}}', "the number inf"),
        ('{"1": {"class_type": "Note", "inputs": {"x": [-Infinity]}}}', "the number -inf"),
        ('{"1": {"class_type": "Note", "inputs": {"x": "half \\ud83d"}}}', "half of a character"),
        ('{"1": {"class_type": "Note", "inputs": {"\\udc00": 1}}}', "half of a character"),
        ('{"1": {"class_type": "Note", "inputs": {"x": ' + "[" * 300 + "]" * 300 + "}}}", "nested more than 100 deep"),
        (
            '{"1": {"class_type": "Note", "inputs": {"is_changed": ' + "[" * 300 + "]" * 300 + "}}}",
            "nested more than 100 deep",
        ),
        ("[" * 100_000, "is not JSON"),
        ('{"1": {"class_type": "Note", "inputs": {"x": ' + "9" * 5000 + "}}}", "is not JSON"),
    ],
)
def test_what_no_workflow_file_may_contain(workspace, text, words):
    (workspace / "w.json").write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        load(workspace / "w.json")
    str(caught.value).encode("utf-8")


def test_a_workflow_without_a_file_is_checked_too(registry, embedded, scale_workflow):
    scale_workflow["nodes"][1]["id"] = "\ud800"
    with pytest.raises(UserError, match="half of a character"):
        prepare(Loaded(None, scale_workflow), registry=registry)


def test_a_file_too_large_or_of_too_many_values(workspace, monkeypatch):
    (workspace / "w.json").write_text(
        json.dumps({"nodes": [{"id": 1, "type": "Note", "widgets_values": list(range(500))}]})
    )
    assert load(workspace / "w.json").workflow is not None
    monkeypatch.setattr("comfyui_affect.workflows.headless.formats.shape.MAX_VALUES", 400)
    with pytest.raises(UserError, match="more than 400 values"):
        load(workspace / "w.json")
    monkeypatch.setattr("comfyui_affect.workflows.headless.formats.load.MAX_BYTES", 100)
    with pytest.raises(UserError, match="a workflow may have"):
        load(workspace / "w.json")


def test_is_changed_may_be_nan(workspace):
    (workspace / "w.json").write_text('{"1": {"class_type": "Note", "inputs": {}, "is_changed": [NaN]}}')
    assert load(workspace / "w.json").prompt == {"1": {"class_type": "Note", "inputs": {}}}


@pytest.mark.parametrize(
    "way, value, place",
    [
        (("nodes", 0, "id"), [1], r"nodes\[0\].id is a list"),
        (("nodes", 0, "type"), {"a": 1}, r"nodes\[0\].type is an object"),
        (("nodes", 0, "mode"), "off", r"nodes\[0\].mode is 'off'"),
        (("nodes", 0, "id"), True, r"nodes\[0\].id is True"),
        (("nodes", 1, "inputs", 0, "name"), ["x"], r"nodes\[1\].inputs\[0\].name is a list"),
        (("nodes", 1, "inputs", 0, "link"), {}, r"nodes\[1\].inputs\[0\].link is an object"),
        (("nodes", 1, "inputs", 0, "type"), "I," * 2000, r"nodes\[1\].inputs\[0\].type has 4,000 characters"),
        (("links", 0, 2), float("inf"), r"links\[0\]\[2\] is inf"),
        (("links", 0), "x", r"links\[0\] is 'x'"),
        (
            ("definitions", "subgraphs", 0, "inputs", 0, "name"),
            {},
            r"in the subgraph 'Level 0': inputs\[0\].name is an object",
        ),
        (("definitions", "subgraphs", 0, "inputs", 0, "linkIds"), 5, r"inputs\[0\].linkIds is 5"),
        (("definitions", "subgraphs", 0, "inputs", 0, "type"), "I," * 2000, "type has 4,000 characters"),
        (("definitions", "subgraphs", 0, "links", 0, "origin_slot"), "0", r"links\[0\].origin_slot is '0'"),
        (("definitions", "subgraphs", 0, "id"), {}, "the definition of a subgraph cannot be read"),
    ],
)
def test_a_wrong_type_is_named_with_its_place(registry, embedded, node, scale_workflow, way, value, place):
    drawing = copy.deepcopy(scale_workflow) | {"definitions": tower(node, 1)["definitions"]}
    container = drawing
    for key in way[:-1]:
        container = container[key]
    container[way[-1]] = value
    with pytest.raises(UserError, match=place):
        convert(drawing, registry)


def test_duplicate_ids_are_refused(registry, embedded, node, scale_workflow):
    drawing = copy.deepcopy(scale_workflow) | {"definitions": tower(node, 1)["definitions"]}
    drawing["links"].append([1, 3, 0, 2, 0, "IMAGE"])
    with pytest.raises(UserError, match="Two links have the id 1, from node 1 and from node 3"):
        convert(drawing, registry)
    drawing["links"][-1] = drawing["links"][0]  # an identical copy is harmless
    assert convert(drawing, registry).prompt["2"]["inputs"]["image"] == ["1", 0]
    drawing["nodes"] += [node(9, "s0"), node("9:1", "PrimitiveInt", [], ["INT"], [5])]
    with pytest.raises(UserError, match="Two nodes have the id 9:1"):
        convert(drawing, registry)
    drawing["nodes"].pop()
    subgraphs = drawing["definitions"]["subgraphs"]
    subgraphs.append(copy.deepcopy(subgraphs[0]))
    assert "9:1" in convert(drawing, registry).prompt
    subgraphs[1]["nodes"][0]["widgets_values"][1] = 99
    with pytest.raises(UserError, match="Two different subgraphs have the id s0"):
        convert(drawing, registry)


def test_many_unknown_inputs_are_counted(registry, embedded, scale_prompt):
    scale_prompt["2"]["inputs"] |= {f"more{i}": 1 for i in range(20_000)}
    with pytest.raises(WorkflowError, match="19988 more of its inputs are unknown to ImageScale"):
        prepare(Loaded(scale_prompt, None), registry=registry)


def test_a_node_of_ten_thousand_inputs(registry, embedded, node, scale_workflow):
    scale_workflow["nodes"].append(node(9, "Other", [(f"i{n}", "*", None) for n in range(10_000)]))
    with pytest.raises(UserError, match=r"nodes\[3\].inputs holds 10,000 entries"):
        convert(scale_workflow, registry)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_encodings_with_a_byte_order_mark(workspace, encoding):
    text = json.dumps({"1": {"class_type": "Note", "inputs": {"x": "é"}}}, ensure_ascii=False)
    (workspace / "w.json").write_bytes(text.encode(encoding))
    assert load(workspace / "w.json").prompt["1"]["inputs"] == {"x": "é"}
