"""A transformer in which the tokens of the text and of the image, patches of two by two, attend to all of both. It
writes into what autograd has saved, as FLUX does."""

import torch
from torch.nn import functional as F

import comfy.ldm.flux.math
import comfy.ops
from comfy.ldm.modules.attention import optimized_attention


class Block(torch.nn.Module):
    def __init__(self, width, heads=2):
        super().__init__()
        self.heads = heads
        self.qkv = comfy.ops.Linear(width, 3 * width)
        self.out = comfy.ops.Linear(width, width)

    def forward(self, x, level, angles, options):
        normed = F.layer_norm(x, x.shape[-1:]) * (1 + level)
        q, k, v = self.qkv(normed).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = comfy.ldm.flux.math.apply_rope(q, k, angles)
        x += self.out(optimized_attention(q, k, v, self.heads, skip_reshape=True, transformer_options=options))
        x += F.gelu(x)
        return x


class Transformer(torch.nn.Module):
    patch_size = 2

    def __init__(self, channels=4, width=32, context_width=16, depth=2):
        super().__init__()
        self.width = width
        self.img_in = comfy.ops.Linear(4 * channels, width)
        self.txt_in = comfy.ops.Linear(context_width, width)
        self.level = comfy.ops.Linear(width, width)
        self.blocks = torch.nn.ModuleList([Block(width) for _ in range(depth)])
        self.out = comfy.ops.Linear(width, 4 * channels)

    def forward(self, x, sigma, context, control, options):
        h, w = x.shape[2:]
        image = self.img_in(F.pixel_unshuffle(x, 2).flatten(2).transpose(1, 2))
        tokens = torch.cat([self.txt_in(context), image], dim=1)
        angles = sigma[:, None] * torch.arange(1, self.width // 2 + 1).to(sigma)
        level = self.level(torch.cat([angles.sin(), angles.cos()], dim=1).to(x))[:, None]
        place = torch.arange(tokens.shape[1]).to(sigma)[:, None] / torch.arange(1, self.width // 4 + 1).to(sigma)
        turns = torch.stack([place.cos(), -place.sin(), place.sin(), place.cos()], -1).unflatten(-1, (2, 2))
        for block in self.blocks:
            tokens = block(tokens, level, turns, options)
        out = self.out(F.silu(tokens[:, context.shape[1] :])).transpose(1, 2).unflatten(2, (h // 2, w // 2))
        return F.pixel_shuffle(out, 2)
