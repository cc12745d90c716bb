"""The weights of ComfyUI's layers while gradients run.

A layer of ComfyUI may not own the weight that it computes with: weights are cast at each use, streamed into buffers
that all layers share, or kept by its dynamic VRAM in memory that other layers may take back. Autograd keeps what a
backward pass needs, so it would read another layer's numbers there, without a word. While gradients run, layers
therefore hand out copies of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy.ldm.flux.math
import comfy.model_management
import comfy.ops
import torch
from torch.utils._python_dispatch import _disable_current_modes

from ...tensors.gradients import copied


@contextmanager
def own_weights() -> Iterator[None]:
    """A block in which every weight that a layer fetches for a differentiable computation is an ordinary tensor of its
    own, unless it is the layer's own parameter.

    `comfy.ops.cast_bias_weight` is the one place through which all of ComfyUI's layers (and other packs, which its
    comments invite) fetch weights that they do not simply own: legacy low memory loading, dynamic VRAM, quantised
    formats, LoRAs applied at use. It still does its work in inference mode, as it was written for; only what it returns
    is copied. Copies live as long as autograd needs them: with block-wise recomputation (`gradients.checkpointed`) one
    block's at a time. Without gradients nothing changes.
    """
    fetch = comfy.ops.cast_bias_weight
    if getattr(fetch, "makes_own", False):  # a block inside such a block
        yield
        return

    def fetch_own(layer: Any, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        if not torch.is_grad_enabled():
            return fetch(layer, *args, **kwargs)
        # Without the modes of autograd's block (`mutation_allowed`), which cannot watch inference tensors.
        with torch.inference_mode(), _disable_current_modes():
            weight, bias, *handles = fetch(layer, *args, **kwargs)
        return (_own(weight, layer.weight), _own(bias, layer.bias), *handles)

    fetch_own.__dict__["makes_own"] = True
    comfy.ops.cast_bias_weight = fetch_own
    try:
        yield
    finally:
        comfy.ops.cast_bias_weight = fetch


def _own(fetched: Any, parameter: Any) -> Any:
    return fetched if fetched is None or fetched is parameter else copied(fetched)


@contextmanager
def training() -> Iterator[None]:
    """A block in which ComfyUI's networks take the operators that have a backward pass, as its own training node has
    them do (`model_management.in_training`). Older versions, which lack it, turn FLUX's queries by our own
    operators."""
    if hasattr(comfy.model_management, "in_training"):
        before, comfy.model_management.in_training = comfy.model_management.in_training, True
        try:
            yield
        finally:
            comfy.model_management.in_training = before
        return
    ours = {"apply_rope": lambda q, k, angles: (_turned(q, angles), _turned(k, angles)), "apply_rope1": _turned}
    replaced = {name: getattr(comfy.ldm.flux.math, name) for name in ours if hasattr(comfy.ldm.flux.math, name)}
    try:
        for name in replaced:
            setattr(comfy.ldm.flux.math, name, ours[name])
        yield
    finally:
        for name, function in replaced.items():
            setattr(comfy.ldm.flux.math, name, function)


def _turned(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Rotary embedding (Su et al. 2021): x [..., d], each pair of numbers times its matrix in angles [..., d / 2, 2,
    2]."""
    return (angles * x.to(angles).unflatten(-1, (-1, 1, 2))).sum(dim=-1).flatten(-2).type_as(x)
