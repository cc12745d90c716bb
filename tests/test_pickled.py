"""Files of torch's own from anybody: nothing runs, and nothing is larger than the file."""

import zipfile

import pytest
import torch
from comfyui_affect.models.errors import UserError
from comfyui_affect.models.files import load_into
from comfyui_affect.models.pickled import load_pickled


def compressed(path):
    torch.save({"x": torch.zeros(1000, 1000)}, path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


def endless(path):
    content = [torch.zeros(2)]
    content.append(content)
    content.append([torch.zeros(1).expand(10**6)])
    torch.save(content, path)


@pytest.mark.parametrize(
    "make",
    [
        compressed,
        endless,
        lambda path: torch.save({"x": torch.zeros(1).expand(1000, 10**9)}, path),
        lambda path: torch.save({"x": [{"y": torch.zeros(1).half().expand(1000, 10**6)}]}, path),
        lambda path: torch.save({"x": torch.zeros(3, 4).to_sparse()}, path),
        lambda path: torch.save({"x": torch.zeros(3, 4, device="meta")}, path),
    ],
    ids=["compressed", "a list in itself", "repeated", "repeated inside", "sparse", "meta"],
)
def test_what_is_larger_than_its_file_is_not_loaded(tmp_path, make):
    make(tmp_path / "x.pt")
    with pytest.raises(UserError, match="'x.pt' holds more than weights, or is damaged"):
        load_pickled(tmp_path / "x.pt")


@pytest.mark.parametrize("zipped", [True, False])
def test_weights_are_loaded_tied_ones_too(tmp_path, zipped):
    weight = torch.randn(300, 400)
    torch.save(
        {"a": weight, "b": weight, "c": weight.T, "step": 5}, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped
    )
    assert torch.equal(load_pickled(tmp_path / "x.pt")["c"], weight.T)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_with_their_name(value):
    layer = torch.nn.Linear(2, 2)
    state = {"weight": torch.tensor([[1.0, 2.0], [value, 3.0]]), "bias": torch.zeros(2)}
    with pytest.raises(UserError, match="'a.pth' holds values that are not numbers .* in 'weight'"):
        load_into(layer, state, "a.pth")
