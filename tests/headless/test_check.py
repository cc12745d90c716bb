"""The check before anything runs: each kind of mistake, and all of them at once."""

import json

import pytest
from comfyui_affect.workflows.headless.check import check, fits
from comfyui_affect.workflows.headless.prompt import needed


def problems(prompt, registry):
    return [str(p) for p in check(prompt, registry)]


def test_a_correct_prompt_has_no_problems_and_its_constants_are_converted(registry, embedded, scale_prompt):
    scale_prompt["2"]["inputs"] |= {"width": "20", "height": 0.0}
    assert check(scale_prompt, registry) == []
    inputs = scale_prompt["2"]["inputs"]
    assert inputs["width"] == 20 and isinstance(inputs["height"], int)


@pytest.mark.parametrize(
    "change, words",
    [
        (
            lambda p: p["2"].update(class_type="ImageScal"),
            [
                "Node 2 'Shrink'",
                "'ImageScal' is not available",
                "Did you mean 'ImageScale'?",
                "affect run --server URL",
            ],
        ),
        (lambda p: p["2"].pop("class_type"), ["Node 2", "no 'class_type'"]),
        (lambda p: p["2"]["inputs"].update(widht=1), ["Node 2 'Shrink', input 'widht'", "Did you mean 'width'?"]),
        (lambda p: p["2"]["inputs"].pop("crop"), ["input 'crop'", "missing", "disabled, center"]),
        (lambda p: p["2"]["inputs"].pop("image"), ["input 'image'", "missing", "IMAGE"]),
        (lambda p: p["2"]["inputs"].update(image=["9", 0]), ["input 'image'", "node 9, which does not exist"]),
        (lambda p: p["2"]["inputs"].update(image=["1", 2]), ["input 'image'", "output 2", "which has 2"]),
        (lambda p: p["2"]["inputs"].update(image=["1", -1]), ["input 'image'", "output -1"]),
        (lambda p: p["2"]["inputs"].update(image=["1", 1]), ["takes IMAGE", "node 1 'Load Image' gives MASK"]),
        (lambda p: p["2"]["inputs"].update(image=["1", 0, 0]), ["[node id, output number]"]),
        (lambda p: p["2"]["inputs"].update(image="cat.png"), ["must be linked", "IMAGE", "'cat.png'"]),
        (lambda p: p["2"]["inputs"].update(width=16385), ["input 'width'", "from 0 to 16384", "16385"]),
        (lambda p: p["2"]["inputs"].update(width=-1), ["from 0 to 16384"]),
        (lambda p: p["2"]["inputs"].update(width="wide"), ["a whole number", "'wide'"]),
        (lambda p: p["2"]["inputs"].update(width=None), ["a whole number", "None"]),
        (lambda p: p["2"]["inputs"].update(upscale_method="bilinaer"), ["Did you mean 'bilinear'?", "nearest-exact"]),
        (lambda p: p["2"]["inputs"].update(image=["3", 0]), ["which has 0"]),
        (lambda p: p.pop("3"), ["no output node"]),
    ],
)
def test_each_mistake_is_named_with_its_place(registry, embedded, scale_prompt, change, words):
    change(scale_prompt)
    reported = "\n".join(problems(scale_prompt, registry))
    for word in words:
        assert word in reported


def test_all_problems_are_reported_at_once(registry, embedded, scale_prompt):
    scale_prompt["1"]["inputs"]["image"] = "absent.png"
    scale_prompt["2"]["inputs"] |= {"width": -1, "crop": "left"}
    scale_prompt["3"]["inputs"]["images"] = ["1", 1]
    found = problems(scale_prompt | {"4": {"class_type": "Nope", "inputs": {}}}, registry)
    assert len(found) == 3  # node 3 no longer needs node 2
    scale_prompt["3"]["inputs"]["images"] = ["2", 0]
    assert len(problems(scale_prompt, registry)) == 3


def test_a_cycle_is_named_at_the_link_that_closes_it(registry, embedded, scale_prompt):
    scale_prompt["4"] = json.loads(json.dumps(scale_prompt["2"]))
    scale_prompt["4"]["inputs"]["image"] = ["2", 0]
    scale_prompt["2"]["inputs"]["image"] = ["4", 0]
    found = problems(scale_prompt, registry)
    assert len(found) == 1 and "closes a cycle" in found[0]
    scale_prompt["2"]["inputs"]["image"] = ["2", 0]
    assert "closes a cycle" in "\n".join(problems(scale_prompt, registry))


def test_a_long_chain(registry, embedded, scale_prompt):
    for i in range(10, 3000):
        scale_prompt[str(i)] = {
            "class_type": "ImageScale",
            "inputs": scale_prompt["2"]["inputs"] | {"image": [str(i - 1) if i > 10 else "1", 0]},
        }
    scale_prompt["3"]["inputs"]["images"] = ["2999", 0]
    order = needed(scale_prompt, registry)
    assert order[:2] == ["1", "10"] and order[-2:] == ["2999", "3"]


def test_nodes_that_no_output_needs_are_not_checked(registry, embedded, scale_prompt):
    scale_prompt["5"] = {"class_type": "ImageScale", "inputs": {}}
    assert check(scale_prompt, registry) == []


def test_values_of_upload_buttons_are_ignored_and_wrapped_lists_are_values(registry, embedded, scale_prompt):
    scale_prompt["1"]["inputs"]["upload"] = "image"
    scale_prompt["3"]["inputs"]["filename_prefix"] = {"__value__": ["a", 1]}
    assert check(scale_prompt, registry) == []
    assert scale_prompt["3"]["inputs"]["filename_prefix"] == "['a', 1]"


@pytest.mark.parametrize(
    "name", ["../plain.png", "/etc/passwd", "a/../../x.png", "..\\x.png", "C:\\x.png", "../secret.png [output]"]
)
def test_a_path_that_leaves_the_input_folder(registry, embedded, workspace, scale_prompt, name):
    (workspace / "x.png").write_bytes((workspace / "input" / "plain.png").read_bytes())
    scale_prompt["1"]["inputs"]["image"] = name
    found = problems(scale_prompt, registry)
    assert len(found) == 1 and "leaves its folder" in found[0]
    assert "Node 1 'Load Image', input 'image'" in found[0]


def test_links_of_the_input_folder_are_followed_as_in_comfyui(registry, embedded, workspace, scale_prompt):
    """The user has created them. Files that are written do not follow links."""
    (workspace / "elsewhere").mkdir()
    (workspace / "elsewhere" / "x.png").write_bytes((workspace / "input" / "plain.png").read_bytes())
    (workspace / "input" / "link.png").symlink_to(workspace / "elsewhere" / "x.png")
    (workspace / "input" / "more").symlink_to(workspace / "elsewhere")
    for name in ("link.png", "more/x.png"):
        scale_prompt["1"]["inputs"]["image"] = name
        assert not problems(scale_prompt, registry)
    (workspace / "output").mkdir()
    (workspace / "output" / "away").symlink_to(workspace / "elsewhere")
    scale_prompt["3"]["inputs"]["filename_prefix"] = "away/x"
    assert "leaves its folder" in problems(scale_prompt, registry)[0]


@pytest.mark.parametrize("prefix", ["../x", "/tmp/x", "a/../../x"])
def test_an_output_that_leaves_the_output_folder(registry, embedded, scale_prompt, prefix):
    scale_prompt["3"]["inputs"]["filename_prefix"] = prefix
    assert "leaves its folder" in problems(scale_prompt, registry)[0]


@pytest.mark.parametrize(
    "one, other, fit",
    [
        ("IMAGE", "IMAGE", True),
        ("IMAGE", "MASK", False),
        ("*", "MASK", True),
        ("INT", "*", True),
        ("INT,FLOAT", "FLOAT", True),
        ("A,B", "C, B", True),
    ],
)
def test_types(one, other, fit):
    assert fits(one, other) is fit
