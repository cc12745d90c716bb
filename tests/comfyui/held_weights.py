"""Prints, as JSON, MUSE's losses with weights held in each of the ways that ComfyUI has; run by ComfyUI's own Python in
its folder.

With WRONG in the environment layers hand out what they have: autograd then keeps views of buffers that other layers
reuse.
"""

import contextlib
import json
import logging
import os

import dynamic_vram  # before anything of ComfyUI

# isort: split
import comfy.memory_management
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import guided
import torch
from loaded_pack import random_models

logging.getLogger().setLevel(logging.ERROR)
WAYS = {
    "resident": (True, 2),
    "resident after a plain pass": (True, 2),
    "fetched by two streams": (False, 2),
    "fetched": (False, 0),
    "partly loaded": (False, 2, True),
}


def build(kind, dynamic, partly):
    comfy.memory_management.aimdo_enabled = False
    _, positive, negative, vae, latent = random_models.RandomModel().run(kind, 0, 1, 77)
    config = random_models.CONFIGS[kind]()
    network = random_models.randomise(config.get_model({}, "", device="cpu"), 0)
    patcher = (
        comfy.model_patcher.ModelPatcherDynamic
        if dynamic
        else random_models.LowVram
        if partly
        else comfy.model_patcher.ModelPatcher
    )
    model = patcher(network, dynamic_vram.DEVICE, torch.device("cpu"))
    if dynamic:
        vae.patcher = patcher(vae.first_stage_model, dynamic_vram.DEVICE, torch.device("cpu"))
    return model, positive, negative, vae, latent["samples"]


def run(kind, dynamic, partly=False, after_plain=False):
    with torch.inference_mode():
        model, positive, negative, vae, latent = build(kind, dynamic, partly)
        comfy.memory_management.aimdo_enabled = dynamic
        before = guided.bits(model.model)
        if after_plain:
            guided.plain(model, positive, negative, latent)
        _, trace = guided.guide(model, positive, negative, vae, latent)
        return {
            "losses": guided.losses(trace),
            "patched": guided.patched(model.model) + guided.patched(vae.first_stage_model),
            "same": guided.bits(model.model) == before,
            "fetch": comfy.ops.cast_bias_weight.__name__,
            "in_training": comfy.model_management.in_training,
        }


if "WRONG" in os.environ:
    from affect_pack.models.diffusion.comfy import denoiser, vae

    denoiser.own_weights = vae.own_weights = contextlib.nullcontext

out = {}
for kind in ("sd15", "sdxl", "sd3", "flux"):
    dynamic_vram.hold(True, 0)
    out[kind] = {"legacy": run(kind, False)}
    for way, held in WAYS.items():
        dynamic_vram.hold(*held)
        try:
            out[kind][way] = run(kind, len(held) == 2, len(held) == 3, way == "resident after a plain pass")
        except Exception as error:
            out[kind][way] = {"error": f"{type(error).__name__}: {error}"}
print("RESULT" + json.dumps(out))
