"""Attention of ComfyUI's models under a `protocol.Control`: cross-attention of UNets, and the joint attention of
transformers, in which the text's and the image's tokens attend to all of both."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from ...errors import UserError
from ..protocol import Control

_JOINT = {"SD3", "Flux", "Flux2", "Chroma", "QwenImage", "Lumina2"}
"""ComfyUI's classes of models whose blocks attend over [text, image] in one sequence, in this order."""


Shapes = Callable[[], tuple[int, tuple[int, int]]]
"""-> tokens of the text, size (h, w) of the latent, of the model call that is under way."""


def controlled(model: Any, options: dict[str, Any], control: Control, shapes: Shapes) -> None:
    """Puts a control into model options (changed in place) for every attention between image and text. UserError
    where the model has no such attention, or another node has replaced it."""
    transformer = options.setdefault("transformer_options", {})
    if hasattr(model.diffusion_model, "input_blocks"):
        _cross(model.diffusion_model, transformer, control)
    elif type(model).__name__ in _JOINT and hasattr(control, "joint"):
        _joint(model.diffusion_model, transformer, control, shapes)
    else:
        raise UserError(
            f"The attention blend cannot follow this {type(model).__name__}'s attention. Connect an SD1.5, SD2, SDXL, "
            "SD3, FLUX, Chroma, Qwen-Image, Lumina 2 or Z-Image model."
        )


def _cross(network: Any, transformer: dict[str, Any], control: Control) -> None:
    replaced = transformer.setdefault("patches_replace", {})
    if replaced.get("attn2"):
        raise UserError(
            "Another node has replaced this MODEL's cross-attention already (IPAdapter does), and the attention "
            "blend would undo that. Connect the model from before that node."
        )

    def patch(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra: dict[str, Any]) -> torch.Tensor:
        return control(q, k, v, extra["n_heads"], tuple(extra["activations_shape"][-2:]))

    blocks = [
        ("middle", 0),
        *(("input", i) for i in range(len(network.input_blocks))),
        *(("output", i) for i in range(len(network.output_blocks))),
    ]
    transformer["patches_replace"] = {**replaced, "attn2": dict.fromkeys(blocks, patch)}


def _joint(network: Any, transformer: dict[str, Any], control: Any, shapes: Shapes) -> None:
    other = transformer.get("optimized_attention_override")
    multiple = getattr(network, "pad_tokens_multiple", None) or 1  # Z-Image pads its text

    def attend(
        func: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        heads: int,
        mask: Any = None,
        attn_precision: Any = None,
        skip_reshape: bool = False,
        skip_output_reshape: bool = False,
        **more: Any,
    ) -> torch.Tensor:
        tokens, latent = shapes()
        text = math.ceil(tokens / multiple) * multiple
        size = tuple(math.ceil(side / network.patch_size) for side in latent)
        length = q.shape[2 if skip_reshape else 1]
        if length < text + size[0] * size[1]:  # a refiner's block, of the text or the image alone
            run = func if other is None else lambda *a, **kw: other(func, *a, **kw)
            return run(
                q,
                k,
                v,
                heads,
                mask=mask,
                attn_precision=attn_precision,
                skip_reshape=skip_reshape,
                skip_output_reshape=skip_output_reshape,
                **more,
            )
        if not skip_reshape:
            q, k, v = (x.reshape(*x.shape[:2], heads, -1).transpose(1, 2) for x in (q, k, v))
        out = control.joint(q, k, v, text, size)
        return out if skip_output_reshape else out.transpose(1, 2).flatten(2)

    transformer["optimized_attention_override"] = attend
