"""Prints, as JSON, MUSE's losses on small models whose layers are quantised in each of ComfyUI's formats; run by
ComfyUI's own Python."""

import json
import logging
import sys

sys.argv = ["main.py", "--cpu"]
sys.path.insert(0, ".")

# isort: split
import comfy.options

comfy.options.enable_args_parsing()
import comfy.model_patcher
import comfy.quant_ops
import guided
import torch
from loaded_pack import random_models

logging.getLogger().setLevel(logging.ERROR)
FORMATS = ("float8_e4m3fn", "float8_e5m2", "nvfp4", "mxfp8", "int8_tensorwise")


def quantised(kind, form):
    """A model of random weights, the Linears of its blocks in a format as files hold them; how many there are."""
    state = random_models.randomise(random_models.CONFIGS[kind]().get_model({}, "", device="cpu").diffusion_model, 0)
    layers = [
        name
        for name, m in state.named_modules()
        if isinstance(m, torch.nn.Linear)
        and ("attn" in name or "block" in name)
        and not (m.in_features % 64 or m.out_features % 64)
    ]
    state = {name: t.clone() for name, t in state.state_dict().items()}
    for name in layers:
        weight = comfy.quant_ops.QuantizedTensor.from_float(
            state.pop(f"{name}.weight"), comfy.quant_ops.QUANT_ALGOS[form]["comfy_tensor_layout"]
        )
        state |= weight.state_dict(f"{name}.weight")
        state[f"{name}.comfy_quant"] = torch.tensor(list(json.dumps({"format": form}).encode()), dtype=torch.uint8)
    config = random_models.CONFIGS[kind]()
    config.quant_config = {"mixed_ops": True}
    model = config.get_model({}, "", device="cpu")
    model.diffusion_model.load_state_dict(state, strict=False)
    return model.eval().requires_grad_(False), len(layers)


out = {}
for kind in ("sd15", "flux"):
    for form in FORMATS:
        with torch.inference_mode():
            _, positive, negative, vae, latent = random_models.RandomModel().run(kind, 0, 1, 77)
            network, layers = quantised(kind, form)
            model = comfy.model_patcher.ModelPatcher(network, torch.device("cpu"), torch.device("cpu"))
            before = [type(p).__name__ for p in network.parameters()]
            try:
                guided.plain(model, positive, negative, latent["samples"])
                _, trace = guided.guide(model, positive, negative, vae, latent["samples"])
                out[f"{kind} {form}"] = {
                    "layers": layers,
                    "losses": guided.losses(trace),
                    "notes": trace["notes"],
                    "same": before == [type(p).__name__ for p in network.parameters()],
                }
            except Exception as error:
                out[f"{kind} {form}"] = {"error": f"{type(error).__name__}: {error}"}
print("RESULT" + json.dumps(out))
