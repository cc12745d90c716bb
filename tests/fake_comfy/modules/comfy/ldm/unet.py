"""A UNet of three levels of blocks, each a convolution and cross-attention, with skips that a ControlNet adds to in
place."""

import torch
from torch.nn import functional as F

import comfy.ops
from comfy.ldm.modules.attention import CrossAttention


class Block(torch.nn.Module):
    def __init__(self, inside, width, context_width, stride=1):
        super().__init__()
        self.conv = comfy.ops.Conv2d(inside, width, 3, stride, 1)
        self.level = comfy.ops.Linear(width, width)
        self.attn = CrossAttention(width, context_width, heads=2)

    def forward(self, h, level, context, options):
        h = self.conv(F.silu(h)) + self.level(level)[:, :, None, None]
        options = {**options, "activations_shape": list(h.shape)}
        x = h.flatten(2).transpose(1, 2)
        return h + self.attn(F.layer_norm(x, x.shape[-1:]), context, options).transpose(1, 2).unflatten(2, h.shape[2:])


class UNet(torch.nn.Module):
    def __init__(self, channels=4, width=16, context_width=16):
        super().__init__()
        block = lambda inside, stride=1: Block(inside, width, context_width, stride)
        self.width = width
        self.first = comfy.ops.Conv2d(channels, width, 3, padding=1)
        self.input_blocks = torch.nn.ModuleList([block(width), block(width, 2)])
        self.middle_block = torch.nn.ModuleList([block(width)])
        self.output_blocks = torch.nn.ModuleList([block(2 * width), block(2 * width)])
        self.last = comfy.ops.Conv2d(width, channels, 3, padding=1)

    def forward(self, x, sigma, context, control, options):
        control = list((control or {}).get("output", []))
        angles = sigma.log()[:, None] * torch.arange(1, self.width // 2 + 1).to(sigma)
        level = torch.cat([angles.sin(), angles.cos()], dim=1).to(x)
        h, skips = self.first(x), []
        for i, module in enumerate(self.input_blocks):
            h = module(h, level, context, {**options, "block": ("input", i)})
            skips.append(h)
            for patch in options.get("patches", {}).get("input_block_patch_after_skip", []):
                h = patch(h, options)
        h = self.middle_block[0](h, level, context, {**options, "block": ("middle", 0)})
        for i, module in enumerate(self.output_blocks):
            skip = skips.pop()
            if control:
                skip += control.pop()
            h = module(
                torch.cat([F.interpolate(h, skip.shape[2:]), skip], 1),
                level,
                context,
                {**options, "block": ("output", i)},
            )
        return self.last(F.silu(h))
