import struct

import pytest
import torch

from comfyui_affect.models import files
from comfyui_affect.models.errors import UserError


def test_safe_join_stays_inside(tmp_path):
    assert files.safe_join(tmp_path, "a/b.png") == (tmp_path / "a" / "b.png").resolve()
    outside = tmp_path.parent / "elsewhere"
    outside.mkdir(exist_ok=True)
    (tmp_path / "link").symlink_to(outside)
    for name in ("../x", "a/../../x", "/etc/passwd", "C:/x", "..\\x", "link/x"):
        with pytest.raises(UserError, match="leaves its folder"):
            files.safe_join(tmp_path, name)


def test_a_failed_write_leaves_nothing(tmp_path):
    def fail(path):
        path.write_text("half")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        files.write_atomically(tmp_path / "x.txt", fail)
    assert list(tmp_path.iterdir()) == []


def test_safetensors_round_trip_and_damage(tmp_path):
    path = files.save_safetensors(tmp_path / "m.safetensors", {"w": torch.arange(6.0).reshape(2, 3)}, {"k": "v"})
    state, metadata = files.load_safetensors(path)
    assert torch.equal(state["w"], torch.arange(6.0).reshape(2, 3)) and metadata == {"k": "v"}
    whole = path.read_bytes()
    cases = {"cut": whole[:-4], "short": whole[:5], "other": b"\x80\x02}q\x00." * 40,
             "header": struct.pack("<Q", 20) + b"{" * 20 + b"\0" * 40}
    for name, content in cases.items():
        bad = tmp_path / f"{name}.safetensors"
        bad.write_bytes(content)
        with pytest.raises(UserError, match=name):
            files.load_safetensors(bad)
    with pytest.raises(UserError, match="no model file"):
        files.load_safetensors(tmp_path / "absent.safetensors")


def test_wrong_keys_and_shapes_are_named():
    model = torch.nn.Linear(2, 3)
    good = {k: v.clone() for k, v in model.state_dict().items()}
    files.load_into(model, good, "m")
    for bad, word in (({"weight": good["weight"]}, "lacks"), (good | {"extra": good["bias"]}, "unknown"),
                      (good | {"bias": torch.zeros(4)}, "shape")):
        with pytest.raises(UserError, match=word):
            files.load_into(model, bad, "m")
