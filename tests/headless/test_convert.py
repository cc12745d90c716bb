"""The particularities of the UI format, one by one."""

import copy

import pytest
from comfyui_affect.models.errors import UserError
from comfyui_affect.workflows.headless.formats.convert import convert
from comfyui_affect.workflows.headless.problems import WorkflowError


def graph(nodes, links=(), **more):
    return {"nodes": nodes, "links": [list(link) for link in links], "version": 0.4, **more}


def test_a_whole_workflow_becomes_the_prompt_that_comfyui_would_queue(registry, embedded, scale_workflow, scale_prompt):
    prompt = convert(scale_workflow, registry).prompt
    for key, title in {"1": "Load Image", "2": "Shrink", "3": "Save Image"}.items():
        assert prompt[key]["class_type"] == scale_prompt[key]["class_type"]
        assert prompt[key]["inputs"] == scale_prompt[key]["inputs"]
        assert prompt[key]["_meta"] == {"title": title}


def test_values_follow_required_then_optional_and_control_values_are_not_inputs(registry, embedded, node):
    # mode is a list of choices, followed by a control value and a filter.
    drawn = graph([node(5, "OldestFirst", [("mask", "MASK", None)], ["STRING"], ["n", "b", "fixed", "", 0.25, 3])])
    inputs = convert(drawn, registry).prompt["5"]["inputs"]
    assert inputs == {"name": "n", "mode": "b", "strength": 0.25, "extra": 3}


def test_an_unlinked_optional_input_is_left_out_and_a_linked_one_kept(registry, embedded, node):
    drawn = graph(
        [
            node(1, "LoadImageMask", outputs=["MASK"], widgets=["plain.png", "red", "image"]),
            node(5, "OldestFirst", [("mask", "MASK", 7)], ["STRING"], ["n", "a", "fixed", "", 1.0, 3]),
        ],
        [(7, 1, 0, 5, 0, "MASK")],
    )
    prompt = convert(drawn, registry).prompt
    assert prompt["5"]["inputs"]["mask"] == ["1", 0]
    assert prompt["1"]["inputs"] == {"image": "plain.png", "channel": "red"}
    drawn["nodes"][1]["inputs"][0]["link"] = None
    assert "mask" not in convert(drawn, registry).prompt["5"]["inputs"]


@pytest.mark.parametrize("name", ["seed", "noise_seed"])
def test_a_seed_owns_a_control_value(registry, embedded, node, name):
    key, widgets, more = {
        "seed": ("KSampler", [11, "randomize", 20, 8.0, "euler", "normal", 1.0], {"steps": 20, "denoise": 1.0}),
        "noise_seed": ("RandomNoise", [11, "fixed"], {}),
    }[name]
    inputs = convert(graph([node(1, key, widgets=widgets)]), registry).prompt["1"]["inputs"]
    assert inputs[name] == 11 and inputs | more == inputs
    assert "randomize" not in inputs.values() and "fixed" not in inputs.values()


def test_a_forced_input_has_no_value_except_the_placeholder_of_old_frontends(registry, embedded, node):
    sockets = [("text", "STRING", None), ("image", "IMAGE", None)]
    new = node(1, "Forced", sockets, ["STRING", "IMAGE"], [5, "randomize", 0.75, "x"])
    old = node(1, "Forced", sockets, ["STRING", "IMAGE"], [5, "randomize", "dummy", 0.75, "x"])
    for drawn in (new, old):
        inputs = convert(graph([drawn]), registry).prompt["1"]["inputs"]
        assert inputs == {"seed": 5, "late": 0.75, "tags": "x"}


def test_a_widget_turned_into_an_input_takes_the_link(registry, embedded, node, scale_workflow):
    shrink = scale_workflow["nodes"][1]
    shrink["inputs"].append({"name": "width", "type": "INT", "link": 9, "widget": {"name": "width"}})
    scale_workflow["nodes"].append(node(8, "PrimitiveInt", outputs=["INT"], widgets=[33, "fixed"]))
    scale_workflow["links"].append([9, 8, 0, 2, 1, "INT"])
    prompt = convert(scale_workflow, registry).prompt
    assert prompt["2"]["inputs"]["width"] == ["8", 0]
    assert prompt["2"]["inputs"]["height"] == 0
    assert prompt["8"]["inputs"] == {"value": 33}


def test_a_primitive_node_overwrites_the_widgets_value(registry, embedded, node, scale_workflow):
    scale_workflow["nodes"][1]["inputs"].append(
        {"name": "width", "type": "INT", "link": 9, "widget": {"name": "width"}}
    )
    scale_workflow["nodes"].append(node(8, "PrimitiveNode", outputs=["INT"], widgets=[77, "fixed"]))
    scale_workflow["links"].append([9, 8, 0, 2, 1, "INT"])
    prompt = convert(scale_workflow, registry).prompt
    assert prompt["2"]["inputs"]["width"] == 77
    assert "8" not in prompt


def test_notes_are_dropped_and_reroutes_are_followed(registry, embedded, node, scale_workflow):
    scale_workflow["nodes"] += [
        node(8, "Reroute", [("", "*", 1)], ["IMAGE"]),
        node(9, "Reroute", [("", "*", 8)], ["IMAGE"]),
        node(10, "Note", widgets=["hello"]),
        node(11, "MarkdownNote", widgets=["# hello"]),
    ]
    scale_workflow["links"] = [
        [1, 1, 0, 8, 0, "IMAGE"],
        [8, 8, 0, 9, 0, "*"],
        [9, 9, 0, 2, 0, "IMAGE"],
        [2, 2, 0, 3, 0, "IMAGE"],
    ]
    scale_workflow["nodes"][1]["inputs"][0]["link"] = 9
    prompt = convert(scale_workflow, registry).prompt
    assert sorted(prompt) == ["1", "2", "3"]
    assert prompt["2"]["inputs"]["image"] == ["1", 0]


def test_widget_values_may_be_a_dictionary(registry, embedded, scale_workflow):
    scale_workflow["nodes"][1]["widgets_values"] = {"width": 5, "crop": "center", "videopreview": {}}
    inputs = convert(scale_workflow, registry).prompt["2"]["inputs"]
    assert (inputs["width"], inputs["crop"], inputs["height"]) == (5, "center", 512)


def test_a_list_as_a_value_is_wrapped_so_that_it_is_not_a_link(registry, embedded, scale_workflow):
    scale_workflow["nodes"][2]["widgets_values"] = [["a", 0]]
    inputs = convert(scale_workflow, registry).prompt["3"]["inputs"]
    assert inputs["filename_prefix"] == {"__value__": ["a", 0]}


def test_a_muted_node_drops_its_links(registry, embedded, scale_workflow):
    scale_workflow["nodes"][1]["mode"] = 2
    prompt = convert(scale_workflow, registry).prompt
    assert sorted(prompt) == ["1", "3"]
    assert "images" not in prompt["3"]["inputs"]


def test_a_bypassed_node_passes_its_input_through(registry, embedded, scale_workflow):
    scale_workflow["nodes"][1]["mode"] = 4
    assert convert(scale_workflow, registry).prompt["3"]["inputs"]["images"] == ["1", 0]


def test_a_bypass_prefers_the_same_slot_then_the_same_type(registry, embedded, node):
    # LoraLoader: inputs model, clip, outputs MODEL, CLIP: slot by slot.
    lora = node(
        2, "LoraLoader", [("model", "MODEL", 1), ("clip", "CLIP", 2)], ["MODEL", "CLIP"], ["l", 1.0, 1.0], mode=4
    )
    drawn = graph(
        [
            node(1, "CheckpointLoaderSimple", outputs=["MODEL", "CLIP", "VAE"], widgets=["m"]),
            lora,
            node(3, "CLIPTextEncode", [("clip", "CLIP", 3)], ["CONDITIONING"], ["x"]),
        ],
        [(1, 1, 0, 2, 0, "MODEL"), (2, 1, 1, 2, 1, "CLIP"), (3, 2, 1, 3, 0, "CLIP")],
    )
    assert convert(drawn, registry).prompt["3"]["inputs"]["clip"] == ["1", 1]
    # An unknown node: its output 0 fits only its second input.
    other = graph(
        [
            node(1, "LoadImage", outputs=["IMAGE", "MASK"], widgets=["plain.png", "image"]),
            node(2, "PackOfOthers", [("first", "LATENT", None), ("second", "IMAGE", 1)], ["IMAGE"], mode=4),
            node(3, "SaveImage", [("images", "IMAGE", 2)], widgets=["x"]),
        ],
        [(1, 1, 0, 2, 1, "IMAGE"), (2, 2, 0, 3, 0, "IMAGE")],
    )
    assert convert(other, registry).prompt["3"]["inputs"]["images"] == ["1", 0]


def test_a_bypassed_node_without_a_fitting_input_gives_nothing(registry, embedded, node):
    drawn = graph(
        [
            node(1, "EmptyLatentImage", outputs=["LATENT"], widgets=[64, 64, 1], mode=4),
            node(2, "VAEDecode", [("samples", "LATENT", 1), ("vae", "VAE", None)], ["IMAGE"]),
        ],
        [(1, 1, 0, 2, 0, "LATENT")],
    )
    assert convert(drawn, registry).prompt["2"]["inputs"] == {}


def test_links_belong_to_the_input_that_names_them_not_to_their_own_slot_number(registry, embedded, scale_workflow):
    scale_workflow["links"][0][4] = 3
    assert convert(scale_workflow, registry).prompt["2"]["inputs"]["image"] == ["1", 0]


def test_choices_are_reproducible_by_their_seed(registry, embedded, node):
    drawn = graph(
        [
            node(
                1,
                "CLIPTextEncode",
                [("clip", "CLIP", None)],
                ["CONDITIONING"],
                ["{a|b|c|d} {a|b|c|d} {a|b|c|d} // why\n{x{1|2}|y}"],
            )
        ]
    )

    def text(seed):
        return convert(copy.deepcopy(drawn), registry, seed).prompt["1"]["inputs"]["text"]

    texts = {seed: text(seed) for seed in range(6)}
    assert texts[3] == text(3)
    assert len(set(texts.values())) > 1
    assert all("{" not in t and "why" not in t for t in texts.values())
    assert drawn["nodes"][0]["widgets_values"][0].startswith("{a|b")  # the drawing is not changed


def test_file_names_are_filled_in_from_widgets_and_dates(registry, embedded, scale_workflow):
    scale_workflow["nodes"][1]["properties"] = {"Node name for S&R": "Resizer"}
    scale_workflow["nodes"][2]["widgets_values"] = ["%Resizer.width%_%Load Image.image%_%Resizer.nothing%_%width%"]
    prefix = convert(scale_workflow, registry).prompt["3"]["inputs"]["filename_prefix"]
    assert prefix == "20_plain.png_%Resizer.nothing%_%width%"
    scale_workflow["nodes"][2]["widgets_values"] = ["%date:yyyy%"]
    year = convert(scale_workflow, registry).prompt["3"]["inputs"]["filename_prefix"]
    assert year.isdigit() and len(year) == 4


@pytest.mark.parametrize(
    "kind, word",
    [
        ("workflow>my group", "Convert to nodes"),
        ("SetNode", "Draw the links"),
        ("GetNode", "Draw the links"),
        ("easy getNode", "Draw the links"),
    ],
)
def test_group_and_get_set_nodes_are_refused_by_name(registry, embedded, node, scale_workflow, kind, word):
    scale_workflow["nodes"].append(node(12, kind, title="Mine"))
    with pytest.raises(WorkflowError) as caught:
        convert(scale_workflow, registry)
    problem = caught.value.problems[0]
    assert (problem.node, problem.title) == ("12", "Mine")
    assert kind in problem.message and word in problem.message


def test_a_missing_link_and_a_missing_node_are_named(registry, embedded, scale_workflow):
    scale_workflow["nodes"][2]["inputs"][0]["link"] = 99
    with pytest.raises(WorkflowError, match="Node 3 'Save Image', input 'images': Its link 99 is missing"):
        convert(scale_workflow, registry)
    scale_workflow["nodes"][2]["inputs"][0]["link"] = 2
    scale_workflow["links"][1][1] = 50
    with pytest.raises(WorkflowError, match="node 50, which is missing"):
        convert(scale_workflow, registry)


def test_reroutes_in_a_ring_are_a_cycle(registry, embedded, node, scale_workflow):
    scale_workflow["nodes"] += [node(8, "Reroute", [("", "*", 9)], ["*"]), node(9, "Reroute", [("", "*", 8)], ["*"])]
    scale_workflow["links"] += [[8, 8, 0, 9, 0, "*"], [9, 9, 0, 8, 0, "*"], [10, 8, 0, 3, 0, "IMAGE"]]
    scale_workflow["nodes"][2]["inputs"][0]["link"] = 10
    with pytest.raises(WorkflowError, match="cycle"):
        convert(scale_workflow, registry)


def test_a_damaged_drawing_is_refused(registry, embedded, scale_workflow):
    scale_workflow["links"] = [[1, 1]]
    with pytest.raises(UserError, match="damaged"):
        convert(scale_workflow, registry)
    with pytest.raises(UserError, match="no node that runs"):
        convert(graph([{"id": 1, "type": "Note", "mode": 0}]), registry)
