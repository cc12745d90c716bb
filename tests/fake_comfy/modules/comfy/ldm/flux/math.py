"""Rotary embedding, by a fast operator that has no backward pass unless ComfyUI trains."""

import torch

import comfy.model_management


class _Fast(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, angles):
        return _turned(x, angles)

    @staticmethod
    def backward(ctx, gradient):
        raise NotImplementedError("the fast rotary embedding has no backward pass")


def _turned(x, angles):
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([(m[..., 0] * a + m[..., 1] * b) for m in angles.unbind(-2)], dim=-1).flatten(-2).to(x)


def apply_rope1(x, angles):
    return (_turned if getattr(comfy.model_management, "in_training", False) else _Fast.apply)(x, angles)


def apply_rope(q, k, angles):
    return apply_rope1(q, angles), apply_rope1(k, angles)
