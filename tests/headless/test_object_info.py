"""A server's list of node types in forms that ComfyUI does not use."""

import pytest
from comfyui_affect.models.errors import UserError
from comfyui_affect.workflows.headless.formats.convert import convert
from comfyui_affect.workflows.headless.remote.object_info import registry_of


@pytest.mark.parametrize("info", [[], "x", {"N": 5}, {"N": []}])
def test_a_server_that_is_not_a_comfyui(info):
    with pytest.raises(UserError, match="does not seem to be a ComfyUI"):
        registry_of(info)


@pytest.mark.parametrize(
    "declared",
    [
        {"input": []},
        {"input": {"required": []}},
        {"input": {"required": {"a": None}}},
        {"input": {"required": {"a": []}}},
        {"input": {"required": {"a": [{}, 1]}}},
        {"output": 3, "output_name": {}},
        {"input": {"required": {"a": ["COMFY_DYNAMICCOMBO_V3", {"options": ["x", {"inputs": {"required": 4}}]}]}}},
        {
            "input": {
                "required": {
                    "a": ["COMFY_AUTOGROW_V3", {"template": {"min": "x", "max": 10**9, "names": 3, "input": 5}}]
                }
            }
        },
        {"input": {"required": {"a": ["COMBO", {"options": 5}]}}},
    ],
)
def test_unknown_forms_of_declarations_are_sockets(embedded, declared):
    drawing = {
        "nodes": [
            {
                "id": 1,
                "type": "N",
                "mode": 0,
                "inputs": [{"name": "a", "type": "*", "link": None}],
                "widgets_values": [1],
            }
        ]
    }
    assert set(convert(drawing, registry_of({"N": declared})).prompt) == {"1"}
