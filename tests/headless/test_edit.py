"""`--set` on the inputs of ComfyUI's newer node types: dynamic lists of choices, newer widgets."""

import pytest
from comfyui_affect.models.errors import UserError
from comfyui_affect.workflows.headless.edit import apply
from comfyui_affect.workflows.headless.formats.convert import convert
from comfyui_affect.workflows.headless.formats.load import Loaded
from comfyui_affect.workflows.headless.run import prepare
from headless.drawings import read


def test_inputs_with_dots_can_be_set(server, embedded):
    prepared = prepare(
        Loaded(None, read("ui_resize_dynamic_combo")),
        ["2.resize_type.width=33", "Resize Image/Mask.resize_type.height=9"],
        registry=server,
    )
    assert (
        prepared.prompt["2"]["inputs"]["resize_type.width"] == 33
        and prepared.prompt["2"]["inputs"]["resize_type.height"] == 9
    )
    assert prepared.workflow["nodes"][1]["widgets_values"] == ["scale dimensions", 33, 9, "center", "bicubic"]
    # Another choice shifts the values after it, so the drawing cannot be changed accordingly.
    changed = Loaded(None, read("ui_resize_dynamic_combo"))
    converted = convert(changed.workflow, server)
    assert apply(converted.prompt, ["2.resize_type=scale by multiplier"], server, converted.homes) is False
    inputs = converted.prompt["2"]["inputs"]
    assert inputs == {
        "input": ["1", 0],
        "resize_type": "scale by multiplier",
        "resize_type.multiplier": 1.0,
        "scale_method": "bicubic",
    }
    with pytest.raises(UserError, match="'resize_type' takes one of: scale dimensions, scale by multiplier"):
        prepare(changed, ["2.resize_type=by hand"], registry=server)
    with pytest.raises(UserError, match="no input 'resize_type.widht'. Did you mean 'resize_type.width'"):
        prepare(changed, ["2.resize_type.widht=33"], registry=server)


@pytest.mark.parametrize(
    "assignment, value",
    [("4.color=#123456", "#123456"), ("6.frame_rate=30", 30.0), ('2.crop_region={"x": 1}', {"x": 1})],
)
def test_widgets_of_newer_types_can_be_set(server, embedded, assignment, value):
    converted = convert(read("ui_widgets"), server)
    apply(converted.prompt, [assignment], server, converted.homes)
    node, _, name = assignment.partition("=")[0].partition(".")
    assert converted.prompt[node]["inputs"][name] == value


def test_setting_a_choice_updates_its_index(server, embedded):
    prepared = prepare(Loaded(None, read("ui_custom_combo")), ["1.choice=cold"], registry=server)
    inputs = prepared.prompt["1"]["inputs"]
    assert (inputs["choice"], inputs["index"]) == ("cold", 0)
