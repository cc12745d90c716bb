"""The extension inside a running ComfyUI: it loads clean and quick, and its nodes explain themselves."""

import re

from comfyui_affect.nodes import NODE_CLASS_MAPPINGS


def test_it_loads_without_a_warning_and_fast(comfy):
    seconds = re.search(r"([\d.]+) seconds.*ComfyUI-Affect", comfy.log)
    assert seconds and float(seconds.group(1)) <= 0.2, comfy.log[-2000:]
    assert "IMPORT FAILED" not in "".join(line for line in comfy.log.splitlines() if "Affect" in line)


def test_every_node_is_there_and_explains_itself(comfy):
    info = comfy.server._json("GET", "/object_info")
    assert set(NODE_CLASS_MAPPINGS) <= set(info)
    for key in NODE_CLASS_MAPPINGS:
        assert len(info[key]["description"]) > 20 and info[key]["category"].startswith("affect/")
        for group in info[key]["input"].values():
            assert all(spec[1].get("tooltip") for spec in group.values())
