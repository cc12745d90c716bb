"""Run by ComfyUI's own Python in ComfyUI's folder: what its functions make of LoRA files and prompts, for the tests to
compare with.

Reads one JSON object from standard input, {"task": ..., ...}, and answers with one, or writes safetensors.
"""

import json
import sys
from types import SimpleNamespace

import torch

try:
    import torchaudio  # noqa: F401
except (
    ImportError,
    OSError,
    RuntimeError,
):  # a build of another CUDA than torch's: ComfyUI needs it for audio models alone
    from unittest.mock import MagicMock

    for name in ("torchaudio", "torchaudio.functional", "torchaudio.transforms"):
        sys.modules[name] = MagicMock()

import comfy.cli_args

comfy.cli_args.args.cpu = True

import comfy.lora
import comfy.lora_convert
import comfy.model_detection
import comfy.sd1_clip
import comfy.utils
from safetensors.torch import load_file, save_file

UNET = "model.diffusion_model."


def lora(checkpoint, file, strength, out):
    """Every weight of a checkpoint's UNet (`diffusion_model.`) and text towers (`clip_l.`, `clip_g.`) after a LoRA
    file."""
    state = load_file(checkpoint)
    network = {k.replace(UNET, "diffusion_model."): v for k, v in state.items() if k.startswith(UNET)}
    config = comfy.model_detection.detect_unet_config(state, UNET)
    keys = comfy.lora.model_lora_keys_unet(
        SimpleNamespace(state_dict=lambda: network, model_config=SimpleNamespace(unet_config=config)), {}
    )
    towers = comfy.utils.state_dict_prefix_replace(
        dict(state),
        {
            "cond_stage_model.transformer.": "clip_l.transformer.",
            "conditioner.embedders.0.transformer.": "clip_l.transformer.",
        },
        filter_keys=True,
    )
    if any(k.startswith("conditioner.embedders.1.") for k in state):
        large = comfy.utils.state_dict_prefix_replace(
            dict(state), {"conditioner.embedders.1.model.": "clip_g."}, filter_keys=True
        )
        towers |= comfy.utils.clip_text_transformers_convert(large, "clip_g.", "clip_g.transformer.")
    keys = comfy.lora.model_lora_keys_clip(SimpleNamespace(state_dict=lambda: towers), keys)
    weights = network | towers
    loaded = comfy.lora.load_lora(comfy.lora_convert.convert_lora(load_file(file)), keys)
    for key, patch in loaded.items():
        weights[key] = comfy.lora.calculate_weight(
            [(strength, patch, 1.0, None, None)], weights[key].float().clone(), key
        )
    save_file({k: v.float().contiguous().clone() for k, v in weights.items()}, out)
    return {"patched": len(loaded)}


def prompts(texts, embeddings):
    """Token ids, weights and the lengths of embeddings' vectors, chunk by chunk, of every prompt; its weights alone,
    too."""
    tokenizer = comfy.sd1_clip.SDTokenizer(embedding_directory=embeddings, embedding_size=8)
    found = []
    for text in texts:
        chunks = tokenizer.tokenize_with_weights(text)
        found.append([[[t.tolist() if torch.is_tensor(t) else t, w] for t, w in chunk] for chunk in chunks])
    parsed = [comfy.sd1_clip.token_weights(comfy.sd1_clip.escape_important(text), 1.0) for text in texts]
    return {
        "chunks": found,
        "weights": [[(comfy.sd1_clip.unescape_important(t), w) for t, w in parts] for parts in parsed],
    }


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    print(json.dumps({"lora": lora, "prompts": prompts}[asked.pop("task")](**asked)))
