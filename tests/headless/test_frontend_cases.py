"""Drawings that ComfyUI's frontend saves, compared with what its `app.graphToPrompt()` gave for them (`drawings`):
dynamic inputs, newer widget types, promoted values."""

import copy
import json
import re

import pytest
from comfyui_affect.models.errors import UserError
from comfyui_affect.workflows.headless.check import check, doubts
from comfyui_affect.workflows.headless.formats.convert import convert
from comfyui_affect.workflows.headless.formats.load import Loaded
from comfyui_affect.workflows.headless.problems import WorkflowError
from comfyui_affect.workflows.headless.remote.object_info import registry_of
from comfyui_affect.workflows.headless.run import prepare
from headless.drawings import CASES, DATA, read


@pytest.mark.parametrize("case", CASES)
def test_a_drawing_becomes_the_prompt_that_the_frontend_queues(server, embedded, case):
    prompt = convert(read(f"ui_{case}"), server).prompt
    assert prompt == read(f"expected_{case}")


UNCONNECTED = {"expected_widgets", "expected_proxy_widgets"}
"""Prompts without links, in which required inputs are missing."""

QUEUED = {path.stem for path in DATA.glob("api_*.json")} | {f"expected_{case}" for case in CASES} - UNCONNECTED


@pytest.mark.parametrize("case", sorted(QUEUED))
def test_what_the_frontend_queues_has_no_problems(server, embedded, case):
    prompt = read(case)
    before = copy.deepcopy(prompt)
    assert check(prompt, server) == [] and prompt == before  # values are not converted


@pytest.mark.parametrize(
    "case, id, names",
    [("dup_ids_top", "9", "'SaveImage', 'PreviewImage'"), ("dup_ids_middle", "2", "'ImageInvert', 'ImageScale'")],
)
def test_two_nodes_with_one_id_are_refused(server, embedded, case, id, names):
    with pytest.raises(UserError, match=f"2 nodes have the id {id}: {names}.*all but one of the nodes would be lost"):
        convert(read(f"ui_{case}"), server)


def test_two_nodes_with_one_id_in_a_subgraph_are_refused(server, embedded):
    drawing = read("ui_json_prompt_promoted")
    inside = drawing["definitions"]["subgraphs"][0]["nodes"]
    inside.append(copy.deepcopy(inside[0]))
    with pytest.raises(UserError, match="2 nodes in the subgraph 'prompt' have the id 2"):
        convert(drawing, server)


# -- values ---------------------------------------------------------------------------------------------------------


def alone(server, kind, values, inputs=(), **more):
    """The inputs in the prompt of a drawing with a single node of this type."""
    node = {"id": 1, "type": kind, "mode": 0, "inputs": list(inputs), "outputs": [], "widgets_values": values, **more}
    return convert({"nodes": [node], "links": []}, server).prompt["1"]["inputs"]


@pytest.mark.parametrize(
    "kind, values, expected",
    [
        # buttons come before the view of a node that has a choice of model files
        (
            "Load3D",
            ["a.glb", "upload3dmodel", "uploadExtraResources", "clear", "", 640, 480],
            {"model_file": "a.glb", "width": 640, "height": 480},
        ),
        ("Preview3DAdvanced", ["", 640, 480], {"width": 640, "height": 480}),
        ("LoadAudio", ["a.wav", "upload"], {"audio": "a.wav"}),
        ("LoadImageOutput", ["a.png [output]", False, "refresh", "image"], {"image": "a.png [output]"}),
        ("KSamplerSelect", [None], {"sampler_name": "euler"}),  # an empty choice is the first
        ("CurveEditor", [[[0, 0], [1, 1]]], {"curve": {"__type__": "CURVE", "__value__": [[0, 0], [1, 1]]}}),
        (
            "CustomCombo",
            ["warm", 0, "cold", "warm", ""],
            {"choice": "warm", "index": 1, "option2": "warm", "option3": ""},
        ),
        ("CustomCombo", ["gone", 0, "cold", ""], {"index": -1}),
        (
            "CustomCombo",
            {"choice": "b", "option1": "a", "option2": "b"},
            {"index": 1, "option1": "a", "option2": "b", "option3": ""},
        ),
    ],
)
def test_stored_values_that_are_not_inputs_are_skipped(server, embedded, kind, values, expected):
    inputs = alone(server, kind, values)
    assert {name: inputs.get(name) for name in expected} == expected
    assert not {"refresh", "upload", "upload 3d model", "clear", "audioUI"} & set(inputs)


def test_a_choice_without_stored_values_has_defaults(server, embedded):
    inputs = alone(server, "ResizeImageMaskNode", [])
    assert inputs == {
        "resize_type": "scale dimensions",
        "resize_type.width": 512,
        "resize_type.height": 512,
        "resize_type.crop": "center",
        "scale_method": "area",
    }
    assert alone(server, "ResizeImageMaskNode", ["no such way", "area"]) == {
        "resize_type": "no such way",
        "scale_method": "area",
    }


def test_a_link_to_an_input_of_another_choice_is_dropped(server, embedded):
    drawing = read("ui_resize_dynamic_combo")
    resize = drawing["nodes"][1]
    resize["widgets_values"] = ["scale by multiplier", 2.0, "area"]
    resize["inputs"][2]["link"] = 77  # of resize_type.width; there is no such link
    inputs = convert(drawing, server).prompt["2"]["inputs"]
    assert "resize_type.width" not in inputs and inputs["resize_type.multiplier"] == 2.0


def test_a_list_that_grows_keeps_every_linked_input(server, embedded):
    drawing = read("ui_batch_autogrow")
    batch = drawing["nodes"][2]
    batch["inputs"] += [{"name": f"images.image{i}", "type": "IMAGE", "link": 10 + i} for i in range(3, 12)]
    drawing["links"] += [[10 + i, 1, 0, 2, i, "IMAGE"] for i in range(3, 12)]
    inputs = convert(drawing, server).prompt["2"]["inputs"]
    assert sorted(inputs) == sorted(f"images.image{i}" for i in (0, 1, *range(3, 12)))


def test_a_widget_of_a_type_that_only_its_pack_knows(embedded):
    info = {
        "Picker": {
            "input": {
                "required": {"lut": ["PACK_LUT", {}], "image": ["IMAGE", {}], "amount": ["FLOAT", {"default": 1.0}]}
            },
            "output": ["IMAGE"],
            "output_name": ["IMAGE"],
            "output_node": True,
        }
    }
    marked = [
        {"name": "lut", "type": "PACK_LUT", "link": None, "widget": {"name": "lut"}},
        {"name": "image", "type": "IMAGE", "link": None},
    ]
    assert alone(registry_of(info), "Picker", ["film.cube", 0.5], marked) == {"lut": "film.cube", "amount": 0.5}
    assert alone(registry_of(info), "Picker", [0.5]) == {"amount": 0.5}


def test_control_values_of_numbers_and_of_several_choices(embedded):
    info = {
        "Dice": {
            "input": {
                "required": {
                    "a": ["FLOAT", {"control_after_generate": True}],
                    "b": [["x", "y"], {"multi_select": True, "control_after_generate": True}],
                    "c": ["INT", {}],
                }
            },
            "output": [],
            "output_node": True,
        }
    }
    assert alone(registry_of(info), "Dice", [0.5, "fixed", ["x", "y"], "fixed", 3]) == {
        "a": 0.5,
        "b": {"__value__": ["x", "y"]},
        "c": 3,
    }


def test_inputs_follow_the_servers_order(embedded):
    info = {
        "N": {
            "input": {"required": {"a": ["INT", {}], "b": ["STRING", {}]}},
            "input_order": {"required": ["b", "a"]},
            "output": [],
        }
    }
    assert alone(registry_of(info), "N", ["text", 5]) == {"b": "text", "a": 5}


# -- promoted values ------------------------------------------------------------------------------------------------


def test_choices_are_drawn_in_widgets_and_not_in_promoted_values(server, embedded):
    drawing = read("ui_json_prompt_promoted")
    text = convert(drawing, server).prompt["5:2"]["inputs"]["text"]
    assert json.loads(text.removesuffix(" // end"))["scene"]["subject"] == "a cat | a kitten"
    del drawing["nodes"][1]["widgets_values"]  # now the value is the inner widget's, which is still promoted
    drawing["definitions"]["subgraphs"][0]["nodes"][0]["widgets_values"] = ["{a|a} // gone"]
    assert convert(drawing, server).prompt["5:2"]["inputs"]["text"] == "{a|a} // gone"
    inner = drawing["definitions"]["subgraphs"][0]["nodes"][0]
    inner["inputs"][1]["link"] = None
    assert convert(drawing, server).prompt["5:2"]["inputs"]["text"] == "a "


def test_promoted_values_are_ordered_by_the_interface(server, embedded):
    # The node inside is of an unknown type; the instance's second value still belongs to its second input.
    drawing = read("ui_json_prompt_promoted")
    definition = drawing["definitions"]["subgraphs"][0]
    definition["nodes"].append(
        {
            "id": 3,
            "type": "NobodyKnows",
            "mode": 0,
            "outputs": [],
            "inputs": [{"name": "tune", "type": "PACK_TUNE", "link": 9, "widget": {"name": "tune"}}],
        }
    )
    definition["links"].append(
        {"id": 9, "origin_id": -10, "origin_slot": 1, "target_id": 3, "target_slot": 0, "type": "PACK_TUNE"}
    )
    definition["links"][1]["origin_slot"] = 2
    definition["inputs"].insert(1, {"name": "tune", "type": "PACK_TUNE", "linkIds": [9]})
    drawing["nodes"][1]["widgets_values"] = ["la la", "a prompt"]
    prompt = convert(drawing, server).prompt
    assert prompt["5:2"]["inputs"]["text"] == "a prompt" and prompt["5:3"]["inputs"]["tune"] == "la la"


def test_a_widget_shown_from_two_levels_down(server, embedded):
    drawing = read("ui_json_prompt_promoted")
    outer = {
        "id": "outer",
        "name": "outer",
        "inputs": [],
        "outputs": [],
        "links": [],
        "nodes": [drawing["nodes"][1] | {"id": 7, "inputs": [], "widgets_values": ["inner"]}],
    }
    drawing["definitions"]["subgraphs"].append(outer)
    for entry in (["7", "text"], ["7", "2: text"], ["7", "text", "2"]):
        drawing["nodes"][1] = {
            "id": 5,
            "type": "outer",
            "mode": 0,
            "inputs": [],
            "outputs": [],
            "properties": {"proxyWidgets": [entry]},
            "widgets_values": ["shown"],
        }
        drawing["nodes"][2]["inputs"][0]["link"] = None
        assert convert(drawing, server).prompt["5:7:2"]["inputs"]["text"] == "shown"


# -- messages -------------------------------------------------------------------------------------------------------


def test_unknown_nodes_are_named_in_one_paragraph_with_one_remedy(server, embedded, scale_prompt):
    scale_prompt |= {
        str(i): {"class_type": f"Pack{'Mixer' if i % 2 else 'Blender'}Node", "inputs": {}} for i in range(10, 50)
    }
    scale_prompt["2"]["class_type"] = "ImageScal"
    problems = check(scale_prompt, server)
    assert len(problems) == 1 and problems[0].node is None
    text = problems[0].message
    assert text.startswith("3 node types are not available on this server: ") and "\n" not in text
    assert text.count("Install the node pack") == 1
    assert "'ImageScal' (node 2, perhaps 'ImageScale')" in text
    assert "'PackBlenderNode' (nodes 10, 12, " in text and "and 8 more)" in text and text.count("perhaps") == 1


@pytest.mark.parametrize(
    "name, near",
    [("KSamplr", "KSampler"), ("Load Image", "LoadImage"), ("WanVideoSampler", None), ("SaveAudioMP3", None)],
)
def test_only_near_names_are_suggested(server, embedded, name, near):
    [problem] = check({"1": {"class_type": name, "inputs": {}}}, server)
    suggested = re.findall(r"Did you mean '(.*?)'", problem.message)
    assert suggested == ([near] if near else [])


def test_a_server_may_accept_more_than_it_declares(server, embedded):
    prompt = read("expected_resize_dynamic_combo")
    prompt["2"]["inputs"]["scale_method"] = "a way that a pack added"
    prompt["9"]["inputs"] |= {"images": ["2", 5], "more": 1}
    assert check(prompt, server) == []
    assert "'a way that a pack added' is not among the choices" in doubts(prompt, server)[0]
    del prompt["2"]["inputs"]["resize_type.width"]
    [problem] = check(prompt, server)
    assert (problem.node, problem.input) == (
        "2",
        "resize_type.width",
    ) and "required input is missing" in problem.message
    prompt["9"]["inputs"]["images"] = ["77", 0]
    assert "node 77, which does not exist" in check(prompt, server)[-1].message


def test_surplus_values_are_noted_only_for_nodes_of_packs(embedded):
    declared = {"input": {"required": {"a": ["INT", {}]}}, "output": [], "output_node": True}
    for module, notes in (("custom_nodes.pack", 1), ("comfy_extras.nodes_x", 0)):
        node = {"id": 1, "type": "N", "mode": 0, "inputs": [], "outputs": [], "widgets_values": [1, "text"]}
        converted = convert({"nodes": [node], "links": []}, registry_of({"N": declared | {"python_module": module}}))
        assert len(converted.notes) == notes


def test_values_shifted_by_another_version_of_the_node_are_noted(server, embedded):
    drawing = read("ui_save_advanced")
    save = drawing["nodes"][1]
    save["widgets_values_named"] = {"filename_prefix": "adv", "format": "png", "format.bit_depth": "8-bit"}
    assert convert(drawing, server).notes == []
    save["widgets_values"].insert(1, "a widget that this version has not")
    converted = convert(drawing, server)
    assert converted.prompt["2"]["inputs"]["format"] == "a widget that this version has not"  # as in the frontend
    assert (
        "two values for 'format': 'a widget that this version has not' by its position and 'png' by its name"
        in converted.notes[0]
    )


def test_a_problem_is_raised_for_the_whole_workflow(server, embedded):
    drawing = read("ui_custom_combo")
    drawing["nodes"][0]["type"] = "Elsewhere"
    with pytest.raises(
        WorkflowError, match="Node 1 'Elsewhere': The node type 'Elsewhere' is not available on this server"
    ):
        prepare(Loaded(None, drawing), registry=server)
