"""Patches of other nodes (FreeU, hypernetworks, attention replacements) while gradients run through them.

A patch was written for inference: it may write into what it is given, and may hold tensors or networks that were made in inference
mode, which autograd refuses to save.
"""

from __future__ import annotations

from typing import Any, Callable

import comfy.ldm.modules.attention
import comfy.model_patcher
import torch
from torch.utils._pytree import tree_map

from ..inference import ordinary_inputs


class _Differentiable:
    """A patch that gets copies of its tensors, where `copies`, and whose own tensors may be saved for a backward pass."""

    def __init__(self, patch: Callable[..., Any], copies: bool):
        self._patch, self._copies = patch, copies

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self._patch(*args, **kwargs)
        if self._copies:
            args, kwargs = tree_map(lambda t: t.clone() if isinstance(t, torch.Tensor) else t, (args, kwargs))
        with ordinary_inputs():
            return self._patch(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._patch, name)


def _wrapped(value: Any, copies: bool) -> Any:
    """A tree of dicts and lists of patches, each made differentiable."""
    if isinstance(value, dict):
        return {key: _wrapped(inner, copies) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_wrapped(inner, copies) for inner in value]
    return _Differentiable(value, copies) if callable(value) else value


def _pytorch_attention(func: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
    # Other kernels (xformers, sage, flash) have no backward, or one of lower precision.
    return comfy.ldm.modules.attention.attention_pytorch(*args, **kwargs)


def differentiable(options: dict[str, Any]) -> dict[str, Any]:
    """Model options with which gradients run through a model and everything that other nodes have patched into it: PyTorch's own
    attention, and patches (`transformer_options`' patches, replacements and wrappers; the model function's wrapper) that write into
    nothing that a backward pass needs. The options given are left as they are."""
    options = comfy.model_patcher.create_model_options_clone(options)
    transformer = options["transformer_options"] = dict(options.get("transformer_options", {}))
    transformer["optimized_attention_override"] = _pytorch_attention
    for name, copies in (("patches", True), ("patches_replace", False), ("wrappers", False)):
        if transformer.get(name):
            transformer[name] = _wrapped(transformer[name], copies)
    if options.get("model_function_wrapper"):
        options["model_function_wrapper"] = _Differentiable(options["model_function_wrapper"], False)
    # A ControlNet is added to the skips in place, which autograd would notice where the next block has saved them.
    patches = transformer["patches"] = dict(transformer.get("patches", {}))
    patches["input_block_patch_after_skip"] = [*patches.get("input_block_patch_after_skip", []), lambda h, options: h.clone()]
    return options
