"""Configurations from anybody: none makes a library build a tower or fetch code."""

import json

import pytest
from comfyui_affect.models.configurations import read_config
from comfyui_affect.models.errors import UserError
from comfyui_affect.models.moodifier.mllm import Local
from PIL import Image

USUAL = {
    "block_out_channels": [320, 1280],
    "down_block_types": ["DownBlock2D"] * 4,
    "layers_per_block": 2,
    "transformer_layers_per_block": [1, [2, 10]],
    "text_config": {"num_hidden_layers": 80, "attn_implementation": "sdpa"},
    "vision_config": {"depth": 32},
}


@pytest.mark.parametrize(
    "change, words",
    [
        ({"layers_per_block": 20_000}, "asks for 20000 of 'layers_per_block'"),
        ({"layers_per_block": [2, 20_000]}, "asks for 20000"),
        ({"text_config": {"num_hidden_layers": 10**9}}, "'num_hidden_layers'"),
        ({"parts": [{"depth": 1000}]}, "asks for 1000 of 'depth'"),
        ({"down_block_types": ["DownBlock2D"] * 1000}, "asks for 1000 of 'down_block_types'"),
        ({"attn_implementation": "somebody/kernel"}, "code on a hub that would be fetched and run"),
        ({"text_config": {"_attn_implementation": "somebody/kernel@main:f"}}, "somebody/kernel"),
        ({"experts_implementation": {"": "somebody/kernel"}}, "somebody/kernel"),
    ],
)
def test_what_a_configuration_may_not_ask_for(tmp_path, change, words):
    (tmp_path / "config.json").write_text(json.dumps(USUAL))
    assert read_config(tmp_path / "config.json") == USUAL
    (tmp_path / "config.json").write_text(json.dumps(USUAL | change))
    with pytest.raises(UserError, match=words):
        read_config(tmp_path / "config.json")


@pytest.mark.parametrize(
    "text, words", [("[" * 10**5, "cannot be read"), ("[]", "is not an object"), ("\xff", "cannot be")]
)
def test_what_is_no_configuration(tmp_path, text, words):
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=words):
        read_config(tmp_path / "config.json")


@pytest.mark.parametrize(
    "content, words",
    [
        ({"model_type": ["llava"]}, "not hold a vision-language model"),
        (
            {"model_type": "llava", "text_config": {"hidden_size": "x"}, "vision_config": 5},
            "not hold a vision-language",
        ),
        ({"model_type": "llava", "attn_implementation": "somebody/kernel"}, "code on a hub"),
    ],
)
def test_a_local_models_folder_that_is_none_is_refused_in_words(tmp_path, monkeypatch, content, words):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("it asked the network"))
    (tmp_path / "config.json").write_text(json.dumps(content))
    (tmp_path / "preprocessor_config.json").write_text('{"image_processor_type": "CLIPImageProcessor"}')
    (tmp_path / "processor_config.json").write_text('{"processor_class": "LlavaProcessor"}')
    with pytest.raises(UserError, match=words):
        Local(tmp_path)(Image.new("RGB", (8, 8)), "?")
