"""Gradients inside a program that runs in inference mode, and with less memory.

ComfyUI runs every prompt under `torch.inference_mode()`. What is made there are inference tensors, and autograd refuses
to save them for a backward pass. Cloning a model's weights would double its memory, and would not last, because moving
or unpatching the model brings inference tensors back. So for each gradient section the weights are aliased.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Iterator, TypeVar

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..errors import UserError

Maybe = TypeVar("Maybe", torch.Tensor, None)


def ordinary(t: Maybe) -> Maybe:
    """The tensor, or a clone of it where it is an inference tensor; None stays None."""
    if t is None or not t.is_inference():
        return t
    with torch.inference_mode(False):
        return t.clone()


def _alias(t: torch.Tensor) -> torch.Tensor:
    if type(t) not in (torch.Tensor, nn.Parameter):
        raise UserError(f"A weight of this model is a {type(t).__name__} (a quantised model, GGUF for example), through "
                        "which gradients do not run. Load the model in fp16, bf16 or fp8 instead.")
    return torch.empty(0, dtype=t.dtype, device=t.device).set_(t.untyped_storage(), t.storage_offset(), t.size(), t.stride())


@contextmanager
def ordinary_weights(*modules: nn.Module) -> Iterator[None]:
    """A block outside inference mode, with gradients on, in which the parameters and buffers of `modules` are ordinary
    tensors on the same storage that ask for no gradient. Afterwards the original objects are back, whatever happened.

    Takes milliseconds and no memory. Weights that are ordinary and ask for no gradient already are left alone.
    UserError for weights that are tensor subclasses.
    """
    put_back: list[tuple[dict[str, Any], str, Any]] = []
    try:
        with torch.inference_mode(False), torch.enable_grad():
            for module in {m for root in modules for m in root.modules()}:
                for table, wrap in ((module._parameters, lambda t: nn.Parameter(t, requires_grad=False)),
                                    (module._buffers, lambda t: t)):
                    for name, t in table.items():
                        if t is not None and (t.is_inference() or t.requires_grad):
                            put_back.append((table, name, t))
                            table[name] = wrap(_alias(t.detach()))
            yield
    finally:
        for table, name, t in put_back:
            table[name] = t


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The links of a network's chains: the outermost modules inside a ModuleList or Sequential that have parts."""
    for child in module.children():
        chain = isinstance(module, (nn.ModuleList, nn.Sequential))
        runs = type(child).forward is not getattr(nn.Module, "forward") and not isinstance(child, nn.Sequential)
        if chain and runs and any(True for _ in child.children()):
            yield child
        else:
            yield from _blocks(child)


@contextmanager
def checkpointed(*modules: nn.Module) -> Iterator[None]:
    """A block in which the links of `modules` (residual and attention blocks) forget their activations and compute
    them again in the backward pass: about a third more time for a fraction of the memory. It also drops the copies of
    weights that ComfyUI casts on the fly, which autograd would keep.

    A dict among the arguments is handed on as a copy of the moment: ComfyUI counts its blocks in one, and the second
    computation must see what the first saw.
    """
    changed = [block for module in modules for block in _blocks(module)]
    try:
        for block in changed:
            block.forward = _recomputed(block.forward)
        yield
    finally:
        for block in changed:
            block.__dict__.pop("forward", None)


def _recomputed(forward: Any) -> Any:
    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        args = tuple(dict(a) if isinstance(a, dict) else a for a in args)
        kwargs = {k: dict(v) if isinstance(v, dict) else v for k, v in kwargs.items()}
        again = lambda: forward(*(dict(a) if isinstance(a, dict) else a for a in args),
                                **{k: dict(v) if isinstance(v, dict) else v for k, v in kwargs.items()})
        return checkpoint(again, use_reentrant=False, preserve_rng_state=False)
    return run
