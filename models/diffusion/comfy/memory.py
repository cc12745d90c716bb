"""What lies in ComfyUI's memory: our networks loaded as its own, and the memory that a backward pass needs beside
them."""

from __future__ import annotations

import math
from typing import Any

import comfy.model_management
import comfy.model_patcher
import torch

_KEPT_DENOISER, _KEPT_DECODER = 4.0, 2.0
"""Memory of a pass with its backward pass, block by block, in passes without (rules of thumb)."""


def casts(module: torch.nn.Module) -> bool:
    """Whether weights are cast or moved at each use (lowvram, or a compute type of its own): autograd would keep every
    cast copy, 3.4 GB for SD1.5."""
    return any(getattr(m, "comfy_cast_weights", False) for m in module.modules())


class _WholePatcher(comfy.model_patcher.ModelPatcher):
    """Loads a network whole or not at all. ComfyUI loads its own in part, by layers that fetch their weights; ours
    have no such layers and would be left on two devices."""

    def partially_load(self, device_to: Any, extra_memory: Any = 0, *args: Any, **kwargs: Any) -> Any:
        return super().partially_load(device_to, 1e32, *args, **kwargs)

    def partially_unload(self, device_to: Any, memory_to_free: Any = 0, *args: Any, **kwargs: Any) -> Any:
        return 0


class _Held(torch.nn.Module):
    """What ComfyUI loads in place of a network: it writes `device` and more onto what it loads, which a network need
    not allow (transformers' models have a `device` that cannot be set)."""

    def __init__(self, network: torch.nn.Module):
        super().__init__()
        self.network = network


def patcher(module: torch.nn.Module) -> Any:
    """The ModelPatcher of one of our networks, with which ComfyUI loads and unloads it as its own. One for as long
    as the network lives: ComfyUI remembers patchers weakly, and takes a network without its patcher for a leak."""
    if "_affect_patcher" not in module.__dict__:
        module.__dict__["_affect_patcher"] = _WholePatcher(
            _Held(module), load_device=comfy.model_management.get_torch_device(), offload_device=torch.device("cpu")
        )
    return module.__dict__["_affect_patcher"]


def load(*modules: torch.nn.Module) -> None:
    """Puts networks of ours on ComfyUI's device, making room there."""
    comfy.model_management.load_models_gpu([patcher(m) for m in modules])


def asks_for_memory(vae: Any) -> Any:
    """A wrapper of ComfyUI's preparation that asks for the backward pass too, as that many more images in the batch:
    what the diffusion model and the VAE's decoder keep for it. ComfyUI makes room, or moves weights in and out, and
    then blocks are computed again. (No method of the guider: that would tie a knot that only the garbage collector
    undoes.)"""

    def prepare(executor: Any, model: Any, noise_shape: Any, conds: Any, *args: Any, **kwargs: Any) -> Any:
        batch, *shape = noise_shape
        forward = model.model.memory_required([2 * batch, *shape])
        here = vae.device == model.load_device
        decode = batch * vae.memory_used_decode([1, *shape], vae.vae_dtype) if here else 0
        larger = [math.ceil(batch * (_KEPT_DENOISER + _KEPT_DECODER * decode / max(forward, 1))), *shape]
        return executor(model, larger, conds, *args, **kwargs)

    return prepare


def asks_for_rows(n: int) -> Any:
    """A wrapper of ComfyUI's preparation that asks for n rows an image where it reckons with two."""

    def prepare(executor: Any, model: Any, noise_shape: Any, *args: Any, **kwargs: Any) -> Any:
        batch, *shape = noise_shape
        return executor(model, [math.ceil(batch * max(n, 2) / 2), *shape], *args, **kwargs)

    return prepare
