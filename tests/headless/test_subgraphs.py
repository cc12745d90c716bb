"""Subgraphs: unfolding, promoted widgets, nesting."""

import copy

import pytest
from comfyui_affect.models.errors import UserError
from comfyui_affect.workflows.headless.formats.convert import convert
from headless.drawings import link

SHRINK, OUTER = "0b5c3f0e-1111-4a55-9d5c-000000000001", "0b5c3f0e-1111-4a55-9d5c-000000000002"


@pytest.fixture
def shrink(node):
    """A subgraph with an ImageScale inside: inputs picture, width (promoted); output small."""
    inner = node(34, "ImageScale", [("image", "IMAGE", 1)], ["IMAGE"], ["bilinear", 20, 0, "disabled"])
    inner["inputs"].append({"name": "width", "type": "INT", "link": 2, "widget": {"name": "width"}})
    return {
        "id": SHRINK,
        "name": "Shrinker",
        "version": 1,
        "inputNode": {"id": -10},
        "outputNode": {"id": -20},
        "inputs": [
            {"id": "p", "name": "picture", "type": "IMAGE", "linkIds": [1]},
            {"id": "w", "name": "broad", "type": "INT", "linkIds": [2]},
        ],
        "outputs": [{"id": "s", "name": "small", "type": "IMAGE", "linkIds": [3]}],
        "nodes": [inner],
        "links": [link(1, -10, 0, 34, 0, "IMAGE"), link(2, -10, 1, 34, 1, "INT"), link(3, 34, 0, -20, 0, "IMAGE")],
    }


@pytest.fixture
def workflow(node, scale_workflow, shrink):
    """LoadImage -> Shrinker (node 12) -> SaveImage."""
    instance = node(12, SHRINK, [("picture", "IMAGE", 1)], ["IMAGE"], [77])
    instance["inputs"].append({"name": "broad", "type": "INT", "link": None, "widget": {"name": "broad"}})
    scale_workflow["nodes"][1] = instance
    scale_workflow["links"] = [[1, 1, 0, 12, 0, "IMAGE"], [2, 12, 0, 3, 0, "IMAGE"]]
    scale_workflow["definitions"] = {"subgraphs": [shrink]}
    return scale_workflow


def test_inner_nodes_get_ids_with_a_colon_and_links_cross_the_border(registry, embedded, workflow):
    prompt = convert(workflow, registry).prompt
    assert sorted(prompt) == ["1", "12:34", "3"]
    assert prompt["12:34"]["inputs"]["image"] == ["1", 0]
    assert prompt["3"]["inputs"]["images"] == ["12:34", 0]


def test_a_promoted_widget_gives_the_instances_value(registry, embedded, workflow):
    assert convert(workflow, registry).prompt["12:34"]["inputs"]["width"] == 77


def test_without_a_stored_value_the_widget_inside_counts(registry, embedded, workflow):
    del workflow["nodes"][1]["widgets_values"]
    assert convert(workflow, registry).prompt["12:34"]["inputs"]["width"] == 20


def test_a_link_to_a_promoted_widget_wins(registry, embedded, node, workflow):
    workflow["nodes"].append(node(8, "PrimitiveInt", outputs=["INT"], widgets=[33, "fixed"]))
    workflow["links"].append([9, 8, 0, 12, 1, "INT"])
    workflow["nodes"][1]["inputs"][1]["link"] = 9
    assert convert(workflow, registry).prompt["12:34"]["inputs"]["width"] == ["8", 0]


def test_a_primitive_node_reaches_a_promoted_widget(registry, embedded, node, workflow):
    workflow["nodes"].append(node(8, "PrimitiveNode", outputs=["INT"], widgets=[44, "fixed"]))
    workflow["links"].append([9, 8, 0, 12, 1, "INT"])
    workflow["nodes"][1]["inputs"][1]["link"] = 9
    assert convert(workflow, registry).prompt["12:34"]["inputs"]["width"] == 44


def test_inputs_compressed_by_the_frontend_are_found_by_name(registry, embedded, workflow):
    # graphToPrompt drops unlinked widget inputs from what it embeds in PNGs.
    workflow["nodes"][1]["inputs"] = workflow["nodes"][1]["inputs"][:1]
    prompt = convert(workflow, registry).prompt
    assert (prompt["12:34"]["inputs"]["image"], prompt["12:34"]["inputs"]["width"]) == (["1", 0], 77)


def test_proxy_widgets_name_the_order_of_stored_values(registry, embedded, workflow):
    instance = workflow["nodes"][1]
    instance["properties"] = {"proxyWidgets": [["34", "height"], ["-1", "broad"]]}
    instance["widgets_values"] = [5, 66]
    workflow["definitions"]["subgraphs"][0]["nodes"][0]["widgets_values"][2] = 5
    inputs = convert(workflow, registry).prompt["12:34"]["inputs"]
    assert (inputs["width"], inputs["height"]) == (66, 5)


def test_two_instances_keep_their_values_apart(registry, embedded, node, workflow):
    other = copy.deepcopy(workflow["nodes"][1]) | {"id": 13, "widgets_values": [55]}
    other["inputs"][0]["link"] = 5
    workflow["nodes"].append(other)
    workflow["links"] += [[5, 12, 0, 13, 0, "IMAGE"], [6, 13, 0, 3, 0, "IMAGE"]]
    workflow["nodes"][2]["inputs"][0]["link"] = 6
    prompt = convert(workflow, registry).prompt
    assert (prompt["12:34"]["inputs"]["width"], prompt["13:34"]["inputs"]["width"]) == (77, 55)
    assert prompt["13:34"]["inputs"]["image"] == ["12:34", 0]
    assert prompt["3"]["inputs"]["images"] == ["13:34", 0]


@pytest.fixture
def nested(node, workflow):
    """The Shrinker (node 5) inside another subgraph (node 12), its width promoted twice."""
    inner = node(5, SHRINK, [("picture", "IMAGE", 1)], ["IMAGE"], [50])
    inner["inputs"].append({"name": "broad", "type": "INT", "link": 2, "widget": {"name": "broad"}})
    workflow["definitions"]["subgraphs"].append(
        {
            "id": OUTER,
            "name": "Outer",
            "inputNode": {"id": -10},
            "outputNode": {"id": -20},
            "inputs": [
                {"id": "p", "name": "picture", "type": "IMAGE", "linkIds": [1]},
                {"id": "w", "name": "broader", "type": "INT", "linkIds": [2]},
            ],
            "outputs": [{"id": "s", "name": "small", "type": "IMAGE", "linkIds": [3]}],
            "nodes": [inner],
            "links": [link(1, -10, 0, 5, 0, "IMAGE"), link(2, -10, 1, 5, 1, "INT"), link(3, 5, 0, -20, 0, "IMAGE")],
        }
    )
    instance = workflow["nodes"][1]
    instance["type"] = OUTER
    instance["inputs"][1] = {"name": "broader", "type": "INT", "link": None, "widget": {"name": "broader"}}
    return workflow


def test_nesting(registry, embedded, nested):
    prompt = convert(nested, registry).prompt
    assert sorted(prompt) == ["1", "12:5:34", "3"]
    assert prompt["12:5:34"]["inputs"]["image"] == ["1", 0]
    assert prompt["12:5:34"]["inputs"]["width"] == 77
    assert prompt["3"]["inputs"]["images"] == ["12:5:34", 0]
    del nested["nodes"][1]["widgets_values"]
    assert convert(nested, registry).prompt["12:5:34"]["inputs"]["width"] == 50


def test_definitions_inside_definitions_are_found(registry, embedded, nested):
    inner, outer = nested["definitions"]["subgraphs"]
    nested["definitions"] = {"subgraphs": [outer | {"definitions": {"subgraphs": [inner]}}]}
    assert "12:5:34" in convert(nested, registry).prompt


def test_a_subgraph_that_contains_itself_is_refused(registry, embedded, nested):
    nested["definitions"]["subgraphs"][0]["nodes"][0]["type"] = OUTER
    with pytest.raises(UserError, match="contains itself"):
        convert(nested, registry)


def test_a_muted_instance_is_gone_and_a_bypassed_one_passes_through(registry, embedded, workflow):
    workflow["nodes"][1]["mode"] = 2
    prompt = convert(workflow, registry).prompt
    assert sorted(prompt) == ["1", "3"] and "images" not in prompt["3"]["inputs"]
    workflow["nodes"][1]["mode"] = 4
    prompt = convert(workflow, registry).prompt
    assert sorted(prompt) == ["1", "3"] and prompt["3"]["inputs"]["images"] == ["1", 0]


def test_nodes_muted_and_bypassed_inside(registry, embedded, workflow):
    inner = workflow["definitions"]["subgraphs"][0]["nodes"][0]
    inner["mode"] = 4
    assert convert(workflow, registry).prompt["3"]["inputs"]["images"] == ["1", 0]
    inner["mode"] = 2
    assert "images" not in convert(workflow, registry).prompt["3"]["inputs"]


def test_an_output_that_is_linked_directly_to_an_input(registry, embedded, workflow):
    definition = workflow["definitions"]["subgraphs"][0]
    definition["links"][2] = link(3, -10, 0, -20, 0, "IMAGE")
    assert convert(workflow, registry).prompt["3"]["inputs"]["images"] == ["1", 0]
