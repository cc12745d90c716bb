"""Workflows damaged at random places: each is refused with an error message or still has a prompt; none crashes."""

import copy
import random

import pytest
from comfyui_affect.models.errors import UserError
from comfyui_affect.workflows.headless.formats.load import Loaded
from comfyui_affect.workflows.headless.run import prepare

JUNK = [
    None,
    0,
    -1,
    1.5,
    "",
    "x",
    [],
    {},
    [1],
    ["1", 0],
    ["1", "0"],
    True,
    {"a": 1},
    10**30,
    "12:34",
    [None],
    float("nan"),
    float("inf"),
    "\ud800",
    [[[1]]],
    {"a": {"b": []}},
    2**70,
]


def places(value, path=()):
    if path:
        yield path
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*path, key))


def damaged(value, rng):
    value = copy.deepcopy(value)
    *way, last = rng.choice(list(places(value)))
    container = value
    for key in way:
        container = container[key]
    if rng.random() < 0.25:
        del container[last]
    else:
        container[last] = copy.deepcopy(rng.choice(JUNK))
    return value


@pytest.mark.parametrize("seed", range(4))
def test_damage_gives_a_prompt_or_an_error_message(registry, embedded, scale_prompt, scale_workflow, node, seed):
    inner = scale_workflow["nodes"][1]
    definition = {
        "id": "sub",
        "name": "Sub",
        "nodes": [inner | {"title": "Inner"}],
        "inputs": [{"name": "picture", "type": "IMAGE", "linkIds": [1]}],
        "outputs": [{"name": "small", "type": "IMAGE", "linkIds": [2]}],
        "links": [
            {"id": 1, "origin_id": -10, "origin_slot": 0, "target_id": 2, "target_slot": 0},
            {"id": 2, "origin_id": 2, "origin_slot": 0, "target_id": -20, "target_slot": 0},
        ],
    }
    with_subgraph = copy.deepcopy(scale_workflow) | {"definitions": {"subgraphs": [definition]}}
    with_subgraph["nodes"][1] = node(2, "sub", [("picture", "IMAGE", 1)], ["IMAGE"])
    rng, prompts, messages = random.Random(seed), [], []
    for i in range(150):
        if i % 3 == 0:
            # A file's entries that are not nodes are refused when it is read, so only a node's inputs are damaged.
            key = rng.choice(list(scale_prompt))
            inputs = damaged({"inputs": scale_prompt[key]["inputs"]}, rng).get("inputs")
            if not isinstance(inputs, dict):
                continue
            loaded = Loaded(scale_prompt | {key: scale_prompt[key] | {"inputs": inputs}}, None)
        else:
            loaded = Loaded(None, damaged(with_subgraph if i % 3 == 1 else scale_workflow, rng))
            if not isinstance(loaded.workflow.get("nodes"), list):
                continue
        try:
            prompts.append(prepare(loaded, registry=registry).prompt)
        except UserError as error:
            messages.append(str(error))
    assert len(prompts) > 5 and all(prompts)
    assert len(messages) > 5 and all(messages) and not any("Traceback" in message for message in messages)
