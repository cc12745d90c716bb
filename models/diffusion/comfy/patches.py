"""Patches of other nodes (FreeU, hypernetworks, attention replacements) while gradients run through them.

A patch was written for inference: it may hold tensors or networks that were made in inference mode, which autograd
refuses to save, and it may write into what it is given and has computed with (`gradients.mutation_allowed` bears that).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.ldm.modules.attention
import comfy.model_patcher
import comfy.patcher_extension
import torch

from ...tensors.gradients import ordinary_inputs


class _Differentiable:
    """A patch whose own tensors may be saved for a backward pass."""

    def __init__(self, patch: Callable[..., Any]):
        self._patch = patch

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self._patch(*args, **kwargs)
        with ordinary_inputs():
            return self._patch(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._patch, name)


def _wrapped(value: Any) -> Any:
    """A tree of dicts and lists of patches, each made differentiable."""
    if isinstance(value, dict):
        return {key: _wrapped(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_wrapped(inner) for inner in value]
    return _Differentiable(value) if callable(value) else value


def _any(value: Any) -> bool:
    """Whether a tree of dicts and lists holds a patch."""
    if isinstance(value, dict):
        value = list(value.values())
    return any(map(_any, value)) if isinstance(value, (list, tuple)) else value is not None


def _pytorch_attention(func: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
    # Other kernels (xformers, sage, flash) have no backward, or one of lower precision.
    return comfy.ldm.modules.attention.attention_pytorch(*args, **kwargs)


_PLACES = ("patches", "patches_replace", "wrappers")
"""Where transformer_options keep what other nodes put into a model."""


_AROUND = {
    getattr(comfy.patcher_extension.WrappersMP, name)
    for name in ("OUTER_SAMPLE", "PREPARE_SAMPLING", "SAMPLER_SAMPLE", "PREDICT_NOISE")
}
"""Wrappers that run around the model's calls and not inside one. Our own guider brings one."""


def patched(options: dict[str, Any]) -> bool:
    """Whether model options carry anything that other nodes put into the model's forward pass."""
    inside = {place: options.get("transformer_options", {}).get(place) or {} for place in _PLACES}
    inside["wrappers"] = {kind: put for kind, put in inside["wrappers"].items() if kind not in _AROUND}
    return _any(inside) or options.get("model_function_wrapper") is not None


def differentiable(options: dict[str, Any]) -> dict[str, Any]:
    """Model options with which gradients run through a model and everything that other nodes have put into it:
    PyTorch's own attention, and patches whose tensors may be saved for a backward pass. The options given are left
    as they are."""
    options = comfy.model_patcher.create_model_options_clone(options)
    transformer = options["transformer_options"] = dict(options.get("transformer_options", {}))
    transformer["optimized_attention_override"] = _pytorch_attention
    for place in _PLACES:
        if place in transformer:
            transformer[place] = _wrapped(transformer[place])
    if options.get("model_function_wrapper"):
        options["model_function_wrapper"] = _Differentiable(options["model_function_wrapper"])
    # A ControlNet is added to the skips in place, which autograd would notice where the next block has saved them.
    patches = transformer["patches"] = dict(transformer.get("patches", {}))
    patches["input_block_patch_after_skip"] = [
        *patches.get("input_block_patch_after_skip", []),
        lambda h, options: h.clone(),
    ]
    return options
