import itertools
import json
import os
import struct
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from comfyui_affect.models import files, host
from comfyui_affect.models.errors import UserError


def test_safe_join_stays_inside(tmp_path):
    assert files.safe_join(tmp_path, "a/b.png") == (tmp_path / "a" / "b.png").resolve()
    outside = tmp_path.parent / "elsewhere"
    outside.mkdir(exist_ok=True)
    (tmp_path / "link").symlink_to(outside)
    for name in ("../x", "a/../../x", "/etc/passwd", "C:/x", "..\\x", "link/x"):
        with pytest.raises(UserError, match="leaves its folder"):
            files.safe_join(tmp_path, name)


@pytest.mark.parametrize("find", [files.safe_join, files.find_inside])
@pytest.mark.parametrize("name", ["a\0.png", "a\nb", "\ud800.png", "x" * 300, "a/" * 3000])
def test_what_is_no_name_of_a_file_is_refused_in_words(tmp_path, name, find):
    with pytest.raises(UserError, match="not a file's name"):
        find(tmp_path, name)


def test_links_in_a_circle_are_refused_in_words(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    if sys.version_info >= (3, 13):  # which sees no file there, and a name that may be written
        assert files.safe_join(tmp_path, "a/x") == tmp_path / "a" / "x"
    else:
        with pytest.raises(UserError, match="cannot be followed"):
            files.safe_join(tmp_path, "a/x")


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    for name in ("pipe", "endless", "."):
        with pytest.raises(UserError, match="not a regular file"):
            files.open_regular(tmp_path / name)
    (tmp_path / "plain").write_bytes(b"12345")
    assert files.read_text(tmp_path / "plain", 5) == b"12345"
    with pytest.raises(UserError, match="larger than"):
        files.read_text(tmp_path / "plain", 4)


def test_a_link_is_replaced_and_not_written_through(tmp_path):
    (tmp_path / "outside").write_text("mine")
    (tmp_path / "x.txt").symlink_to(tmp_path / "outside")
    files.write_atomically(tmp_path / "x.txt", lambda p: p.write_text("new"))
    assert (tmp_path / "outside").read_text() == "mine" and (tmp_path / "x.txt").read_text() == "new"


@pytest.mark.parametrize("links", [True, False])
def test_names_are_claimed_once_however_many_write(tmp_path, monkeypatch, links):
    """With hard links and on a file system that has none."""
    if not links:
        monkeypatch.setattr(os, "link", lambda *_, **__: (_ for _ in ()).throw(OSError(95, "Operation not supported")))
    names = lambda: (tmp_path / f"{n}.txt" for n in itertools.count())

    def work(worker):
        return [files.write_new(names(), lambda p: p.write_text(f"{worker} {i}")) for i in range(20)]

    with ThreadPoolExecutor(8) as pool:
        written = [path for paths in pool.map(work, range(8)) for path in paths]
    assert len(set(written)) == 160 and {p.read_text() for p in written} == {
        f"{w} {i}" for w in range(8) for i in range(20)
    }
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_a_link_is_followed_for_reading_and_a_name_never_leaves(tmp_path):
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    (outside / "m.safetensors").touch()
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "link").symlink_to(outside)
    (root / "sub" / "round").symlink_to(root)  # a circle
    assert files.find_inside(root, "link/m.safetensors").is_file()
    assert list(host.files_below(root)) == ["link/m.safetensors"]
    for name in (
        "../elsewhere/m.safetensors",
        "a/../../x",
        "/etc/passwd",
        "C:/x",
        "..\\x",
        "link/../../elsewhere/m.safetensors",
        "..",
    ):
        with pytest.raises(UserError, match="leaves its folder"):
            files.find_inside(root, name)


def test_an_absent_model_is_answered_with_the_nearest_name(tmp_path):
    (tmp_path / "models" / "loras" / "people").mkdir(parents=True)
    (tmp_path / "models" / "loras" / "people" / "portrait_v2.safetensors").touch()
    with host.use(host.Host(tmp_path)), pytest.raises(UserError, match="Did you mean 'people/portrait_v2.safetensors'"):
        files.find_model("loras", "people/portrait_v1.safetensors")


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
    cases = {
        "cut": whole[:-4],
        "short": whole[:5],
        "other": b"\x80\x02}q\x00." * 40,
        "header": struct.pack("<Q", 20) + b"{" * 20 + b"\0" * 40,
    }
    for name, content in cases.items():
        bad = tmp_path / f"{name}.safetensors"
        bad.write_bytes(content)
        with pytest.raises(UserError, match=name):
            files.load_safetensors(bad)
    with pytest.raises(UserError, match="no model file"):
        files.load_safetensors(tmp_path / "absent.safetensors")


def header_only(path, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


BAD_HEADERS = {
    "a list": ([], "not an object"),
    "too deep": (b"[" * 200_000, "cannot be read"),
    "no text": (b"\xff\xfe{}", "cannot be read"),
    "metadata": ({"__metadata__": {"a": 1}}, "metadata"),
    "no entry": ({"w": 3}, "entry of 'w' is invalid"),
    "no offsets": ({"w": {"dtype": "F32", "shape": [2]}}, "entry of 'w' is invalid"),
    "negative shape": ({"w": entry(shape=(-2,))}, "entry of 'w' is invalid"),
    "shape of truth": ({"w": entry(shape=(True, 2))}, "entry of 'w' is invalid"),
    "fraction": ({"w": entry(offsets=(0, 8.0))}, "entry of 'w' is invalid"),
    "backwards": ({"w": entry(offsets=(8, 0))}, "entry of 'w' is invalid"),
    "type": ({"w": entry(dtype="X9")}, "type 'X9'"),
    "list as type": ({"w": entry(dtype=["F32"])}, "numbers of the unknown type"),
    "too small": ({"w": entry(shape=(2000,))}, "is not where its header"),
    "overlap": ({"w": entry(), "v": entry()}, "is not where its header"),
    "gap": ({"w": entry(offsets=(4, 12))}, "is not where its header"),
    "surplus": ({"w": entry(shape=(1,), offsets=(0, 4))}, "4 bytes follow"),
    "cut": ({"w": entry(shape=(4,), offsets=(0, 16))}, "cut off"),
    "many": ({f"w{i}": entry(shape=(0,), offsets=(0, 0)) for i in range(files.MAX_TENSORS + 1)}, "no model has more"),
}


@pytest.mark.parametrize("case", BAD_HEADERS)
def test_a_header_is_checked_before_anything_trusts_it(tmp_path, case):
    header, words = BAD_HEADERS[case]
    path = header_only(tmp_path / "m.safetensors", header, bytes(8) if case not in ("many", "metadata") else b"")
    with pytest.raises(UserError, match=words):
        files.check_safetensors(path)


def test_a_giant_header_is_refused_unread(tmp_path):
    path = tmp_path / "m.safetensors"
    with path.open("wb") as f:
        f.write(struct.pack("<Q", 50_000_000))
        f.truncate(50_000_100)
    with pytest.raises(UserError, match="header of 50 MB"):
        files.check_safetensors(path)


def test_every_type_of_number_can_be_read_or_is_named(tmp_path):
    """What safetensors writes from torch passes the check with the sizes of its own header."""
    kinds = [
        torch.bool,
        torch.uint8,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
        torch.float8_e4m3fn,
        torch.float8_e5m2,
    ]
    path = files.save_safetensors(tmp_path / "m.safetensors", {str(k): torch.zeros(3, 5).to(k) for k in kinds}, {})
    assert (
        set(files.check_safetensors(path)) - {"__metadata__"}
        == set(files.load_safetensors(path)[0])
        == {str(k) for k in kinds}
    )


def test_wrong_keys_and_shapes_are_named():
    model = torch.nn.Linear(2, 3)
    good = {k: v.clone() for k, v in model.state_dict().items()}
    files.load_into(model, good, "m")
    for bad, word in (
        ({"weight": good["weight"]}, "lacks"),
        (good | {"extra": good["bias"]}, "unknown"),
        (good | {"bias": torch.zeros(4)}, "shape"),
    ):
        with pytest.raises(UserError, match=word):
            files.load_into(model, bad, "m")
