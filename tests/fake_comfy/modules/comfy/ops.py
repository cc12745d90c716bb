"""Layers that fetch their weights at each use, in one of three ways (`hold`):

own     the layer's parameter itself
cast    a copy in the type of the layer's input
buffer  a view of ONE buffer that all layers share, filled anew at each fetch, as ComfyUI streams weights to a GPU. It
        is raw memory: no version counter tells autograd that it was overwritten.
"""

import torch
from torch.nn import functional as F

_BUFFER = {}
_LARGEST = 1 << 16


def _in_buffer(weight, dtype, offset):
    """A weight in the shared buffer, `offset` numbers from its start."""
    if dtype not in _BUFFER:
        with torch.inference_mode(False):
            _BUFFER[dtype] = torch.empty(_LARGEST, dtype=dtype).untyped_storage()
    assert offset + weight.numel() <= _LARGEST
    view = torch.empty(0, dtype=dtype).set_(_BUFFER[dtype], offset, weight.shape, weight.stride())
    with torch.no_grad():
        return view.copy_(weight)


def cast_bias_weight(layer, x):
    """(weight, bias, handle) of a layer, in x's type."""
    dtype, bias = x.dtype, layer.bias
    if layer.held == "buffer":
        weight = _in_buffer(layer.weight, dtype, 0)
        return weight, None if bias is None else _in_buffer(bias, dtype, weight.numel()), None
    return layer.weight.to(dtype), None if bias is None else bias.to(dtype), None


class _Fetches:
    held, comfy_cast_weights = "own", False

    def forward(self, x):
        if self.comfy_cast_weights:
            weight, bias, _ = cast_bias_weight(self, x)
        else:
            weight, bias = self.weight, self.bias
        return self.computed(x, weight, bias)


class Linear(_Fetches, torch.nn.Linear):
    computed = staticmethod(F.linear)


class Conv2d(_Fetches, torch.nn.Conv2d):
    def computed(self, x, weight, bias):
        return F.conv2d(x, weight, bias, self.stride, self.padding)


def hold(network, way):
    """Has every layer of a network hold its weights in one of the three ways."""
    for layer in network.modules():
        if isinstance(layer, _Fetches):
            layer.held, layer.comfy_cast_weights = way, way != "own"
