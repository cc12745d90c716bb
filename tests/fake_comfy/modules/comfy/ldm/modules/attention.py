"""Attention, by a fast kernel without a backward pass (as xformers' and Sage's) unless an override takes its place."""

import torch
from torch.nn import functional as F

import comfy.ops


def _heads(x, heads):
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def attention_pytorch(
    q, k, v, heads, mask=None, attn_precision=None, skip_reshape=False, skip_output_reshape=False, **kwargs
):
    """q [B, n, C], k and v [B, m, C] -> [B, n, C]; where reshaping is skipped [B, heads, n, d] in its place."""
    q, k, v = (q, k, v) if skip_reshape else (_heads(x, heads) for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out if skip_output_reshape else out.transpose(1, 2).flatten(2)


class _Fast(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, heads, options):
        return attention_pytorch(q, k, v, heads, **options)

    @staticmethod
    def backward(ctx, gradient):
        raise NotImplementedError("the fast attention has no backward pass")


def optimized_attention(q, k, v, heads, transformer_options=None, **options):
    def fast(q, k, v, heads, **options):
        return _Fast.apply(q, k, v, heads, options)

    override = (transformer_options or {}).get("optimized_attention_override")
    return override(fast, q, k, v, heads, **options) if override else fast(q, k, v, heads, **options)


class CrossAttention(torch.nn.Module):
    def __init__(self, width, context_width, heads):
        super().__init__()
        self.heads = heads
        self.to_q = comfy.ops.Linear(width, width, bias=False)
        self.to_k, self.to_v = (comfy.ops.Linear(context_width, width, bias=False) for _ in range(2))
        self.to_out = comfy.ops.Linear(width, width)

    def forward(self, x, context, options):
        """x [B, n, C], context [B, T, D] -> [B, n, C]; a patch of the block it stands in takes its place."""
        q, k, v = self.to_q(x), self.to_k(context), self.to_v(context)
        patch = options.get("patches_replace", {}).get("attn2", {}).get(options["block"])
        if patch is None:
            return self.to_out(optimized_attention(q, k, v, self.heads, transformer_options=options))
        return self.to_out(patch(q, k, v, {**options, "n_heads": self.heads}))
