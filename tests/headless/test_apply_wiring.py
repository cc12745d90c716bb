"""`affect apply`: where in a workflow the photograph goes, and which image is written."""

import pytest
from comfyui_affect.workflows.headless.core.images import ImageScale
from headless.applied import below
from PIL import Image

SECOND = {"class_type": "LoadImage", "inputs": {"image": "plain.png"}, "_meta": {"title": "Reference"}}


def fit(keep):
    """Two Load Images: 1 is graded after 5."""
    keep["2"] = {
        "class_type": "AffectGradeFit",
        "inputs": {"image": ["1", 0], "edited": ["5", 0], "detail": 0.0, "align": False},
    }
    return {**keep, "5": SECOND}


def test_one_of_several_load_images_is_chosen(apply, photos, workspace, keep):
    photos("a.png")
    answer = apply(workflow=fit(keep))
    assert answer.code == 2 and "--into NODE.image" in answer.err and "1 'Load Image', 5 'Reference'" in answer.err
    for option, size in (("1.image", (24, 16)), ("Reference.image", (40, 30))):
        answer = apply("--into", option, "--set", "1.image=plain.png", "--set", "5.image=plain.png", workflow=fit(keep))
        assert answer.code == 0, answer.err
        with Image.open(workspace / "out" / "a.png") as image:
            assert image.size == size


@pytest.mark.parametrize(
    "option, words",
    [
        ("2.image", "takes NODE.image of a Load Image"),
        ("1.upload", "takes NODE.image"),
        ("Refrence.image", "--into: no"),
    ],
)
def test_a_wrong_place_for_the_photograph(apply, photos, workspace, keep, option, words):
    photos("a.png")
    answer = apply("--into", option, workflow=fit(keep))
    assert answer.code == 2 and words in answer.err and not (workspace / "out").exists()


def test_one_of_several_outputs_is_chosen(apply, photos, workspace, keep, monkeypatch):
    keep["4"] = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}, "_meta": {"title": "Before"}}
    keep["6"] = {"class_type": "PreviewAny", "inputs": {"source": "text"}}
    photos("a.png")
    answer = apply(workflow=keep)
    assert answer.code == 2 and "--from NODE" in answer.err and "3 'Save Image', 4 'Before'" in answer.err
    assert "not a Save Image" in apply("--from", "2", workflow=keep).err
    monkeypatch.setattr(ImageScale, "upscale", lambda self, **inputs: pytest.fail("not needed for this output"))
    assert apply("--from", "Before", workflow=keep).code == 0 and below(workspace / "out") == ["a.png"]
    assert not (workspace / "output").exists()


def test_workflows_that_cannot_be_applied(apply, photos, workspace, keep):
    photos("a.png")
    one = {"1": SECOND, "3": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}}
    assert "has no Save Image" in apply(workflow=one).err
    unconnected = {**keep, "5": SECOND, "3": {"class_type": "SaveImage", "inputs": {"images": ["5", 0]}}}
    assert "does not depend on node 1" in apply("--into", "1.image", workflow=unconnected).err
    keep["1"] = {"class_type": "AffectExampleImage", "inputs": {}}
    assert "does not depend on a Load Image" in apply(workflow=keep).err
    keep["1"] = SECOND
    keep["2"]["inputs"]["width"] = -1
    answer = apply(workflow=keep)
    assert answer.code == 2 and "from 0 to 16384" in answer.err and not (workspace / "out").exists()


@pytest.mark.parametrize("count", [0, 2])
def test_another_number_of_images_fails(apply, photos, workspace, monkeypatch, count):
    photos("a.png")
    monkeypatch.setattr(ImageScale, "upscale", lambda self, image, **_: (image.repeat(count, 1, 1, 1),))
    answer = apply()
    assert answer.code == 1 and f"makes {count} images of it" in answer.err and below(workspace / "out") == []


def test_a_drawing_is_applied_too(apply, photos, workspace, scale_workflow):
    photos("a.png")
    assert apply(workflow=scale_workflow).code == 0
    with Image.open(workspace / "out" / "a.png") as image:
        assert image.size == (20, 13)
