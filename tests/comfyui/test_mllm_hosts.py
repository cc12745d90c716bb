"""A workflow that names another machine's MLLM, in a running ComfyUI: refused until the settings allow it."""

import json

import pytest
from comfyui_affect.models.errors import UserError
from comfyui_affect.models.host import HOSTS_SETTING


def test_the_settings_allow_a_host(comfy, tmp_path):
    import requests

    node = lambda key, **inputs: {"class_type": key, "inputs": inputs}
    prompt = {
        "1": node("AffectMLLMLoader", provider="openai-compatible", model="m", base_url="http://192.0.2.1:8000/v1"),
        "2": node("PreviewAny", source=["1", 0]),
    }
    with pytest.raises(UserError, match="would send the picture to 192.0.2.1:8000.*ComfyUI's settings"):
        comfy.run(prompt, tmp_path)
    told = requests.post(f"{comfy.url}/settings", data=json.dumps({HOSTS_SETTING: "192.0.2.1:8000"}), timeout=30)
    assert told.ok
    try:
        assert comfy.server.queue(
            prompt, None
        )  # what the loader does then needs the openai library, which need not be there
    finally:
        requests.post(f"{comfy.url}/settings", data=json.dumps({HOSTS_SETTING: ""}), timeout=30)
