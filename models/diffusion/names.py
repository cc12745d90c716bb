"""The original (LDM) names of a diffusers UNet's modules."""

from __future__ import annotations

from typing import Any

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_BASIC = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def original_names(unet: Any) -> dict[str, str]:
    """Name of each module with weights in a diffusers UNet2DConditionModel -> its name in the original layout, after
    `model.diffusion_model.` (SD1.5, SD2 and SDXL alike: blocks are numbered through over all levels)."""
    names = [name for name, module in unet.named_modules() if getattr(module, "weight", None) is not None]
    starts = _block_starts(unet)
    found = {}
    for name in names:
        start = next((start for start in starts if name.startswith(f"{start}.")), None)
        if name in _BASIC or name in starts:
            found[name] = _BASIC.get(name) or starts[name]
        elif start is not None:
            rest = name[len(start) + 1 :]
            found[name] = f"{starts[start]}.{_RESNET.get(rest, rest) if '.resnets.' in start else rest}"
    return found


def _block_starts(unet: Any) -> dict[str, str]:
    """Where each resnet, attention and sampler of a UNet begins: diffusers' prefix -> the original one."""
    starts = {
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
    }
    number = 1
    for level, block in enumerate(unet.down_blocks):
        for i in range(len(block.resnets)):
            starts[f"down_blocks.{level}.resnets.{i}"] = f"input_blocks.{number}.0"
            starts[f"down_blocks.{level}.attentions.{i}"] = f"input_blocks.{number}.1"
            number += 1
        if block.downsamplers is not None:
            starts[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{number}.0.op"
            number += 1
    number = 0
    for level, block in enumerate(unet.up_blocks):
        for i in range(len(block.resnets)):
            starts[f"up_blocks.{level}.resnets.{i}"] = f"output_blocks.{number}.0"
            starts[f"up_blocks.{level}.attentions.{i}"] = f"output_blocks.{number}.1"
            number += 1
        if block.upsamplers is not None:
            place = 2 if hasattr(block, "attentions") else 1
            starts[f"up_blocks.{level}.upsamplers.0.conv"] = f"output_blocks.{number - 1}.{place}.conv"
    return starts
