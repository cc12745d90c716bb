"""Gradients inside a program that runs in inference mode, and with less memory.

ComfyUI runs every prompt under `torch.inference_mode()`. Tensors that are created there are inference tensors, which
autograd refuses to save for a backward pass. Cloning a model's weights would double its memory, and would not last,
because moving or unpatching the model creates inference tensors again. So the weights are aliased for each gradient
section.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from ..errors import UserError

Maybe = TypeVar("Maybe", torch.Tensor, torch.Tensor | None)


def ordinary(t: Maybe) -> Maybe:
    """The tensor, or a clone of it where it is an inference tensor; None stays None."""
    if t is None or not t.is_inference():
        return t
    with torch.inference_mode(False):
        return t.clone()


def _rebuilt(t: torch.Tensor, piece: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """`piece` of t; where t is composed of other tensors (a quantised weight and its scales), a tensor composed of
    `piece` of each."""
    if not is_traceable_wrapper_subclass(t):
        return piece(t)
    names, context = t.__tensor_flatten__()
    inner = {name: _rebuilt(getattr(t, name), piece) for name in names}
    return type(t).__tensor_unflatten__(inner, context, t.size(), t.stride())


def copied(t: torch.Tensor) -> torch.Tensor:
    """An ordinary copy of a tensor, piece by piece where it is composed of others."""
    with torch.inference_mode(False):
        return _rebuilt(t.detach() if t.requires_grad else t, torch.clone)


def alias(t: torch.Tensor) -> torch.Tensor:
    """An ordinary tensor on the same memory, which does not require gradients. UserError for a tensor whose memory is
    not accessible (a GGUF weight)."""
    return _rebuilt(t, _aliased)


def _aliased(t: torch.Tensor) -> torch.Tensor:
    if type(t) not in (torch.Tensor, nn.Parameter):
        raise UserError(
            f"A weight of this model is a {type(t).__name__} (GGUF, for example), through which gradients do not run. "
            "Load the model in fp16, bf16, fp8 or one of ComfyUI's own quantised formats instead."
        )
    return torch.empty(0, dtype=t.dtype, device=t.device).set_(
        t.untyped_storage(), t.storage_offset(), t.size(), t.stride()
    )


@contextmanager
def ordinary_weights(*modules: nn.Module) -> Iterator[None]:
    """A block outside inference mode, with gradients on, in which the parameters and buffers of `modules` are ordinary
    tensors on the same storage that do not require gradients. Afterwards the original objects are restored, also after
    an error.

    Takes milliseconds and no memory. Weights that are ordinary and do not require gradients are left as they are.
    UserError for weights whose memory is not accessible (`alias`).
    """
    put_back: list[tuple[dict[str, Any], str, Any, Any]] = []
    try:
        with torch.inference_mode(False), torch.enable_grad():
            for module in {m for root in modules for m in root.modules()}:
                for table, wrap in (
                    (module._parameters, lambda t: nn.Parameter(t, requires_grad=False)),
                    (module._buffers, lambda t: t),
                ):
                    for name, t in table.items():
                        if t is not None and (t.is_inference() or t.requires_grad):
                            ours = wrap(alias(t))
                            put_back.append((table, name, t, ours))
                            table[name] = ours
            yield
    finally:
        for table, name, t, ours in put_back:
            if table[name] is ours:  # else ComfyUI's hooks have replaced the weight meanwhile
                table[name] = t


def frozen(modules: Iterable[nn.Module]) -> None:
    """Puts networks into evaluation mode without gradients to their weights."""
    for module in modules:
        module.eval().requires_grad_(False)


class ordinary_inputs(TorchFunctionMode):
    """A block in which every operation gets ordinary tensors in place of inference tensors, on the same memory: for
    code that holds tensors where they cannot be replaced by aliases. Costs some microseconds per operation."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map(_ordinary_input, (args, kwargs or {}))
        return func(*args, **kwargs)


def _ordinary_input(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.is_inference():
        with torch.inference_mode(False):
            return alias(value)
    return value


@contextmanager
def deterministic() -> Iterator[None]:
    """A block with deterministic kernels where there is a GPU, whose backward passes otherwise add in any order, so
    that a seed would not give the same image twice."""
    before, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    switches: Any = torch.utils.deterministic  # its attributes are made when it is imported
    fill = switches.fill_uninitialized_memory
    if torch.cuda.is_available():
        torch.use_deterministic_algorithms(True, warn_only=True)
        switches.fill_uninitialized_memory = False  # costs a pass over every new tensor, for nothing
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)
        switches.fill_uninitialized_memory = fill


_allowed = threading.local()


@contextmanager
def mutation_allowed() -> Iterator[None]:
    """`torch.autograd.graph.allow_mutation_on_saved_tensors`, which cannot be nested, entered once."""
    if getattr(_allowed, "inside", False):
        yield
        return
    _allowed.inside = True
    try:
        with torch.autograd.graph.allow_mutation_on_saved_tensors() as context:
            if hasattr(context, "original"):
                context.original = _Kept()
            yield
    finally:
        _allowed.inside = False


class _Kept(WeakKeyDictionary[Any, torch.Tensor]):
    """The tensors that autograd has saved, by torch's handle of each.

    Torch knows a saved tensor by its address in Python and in memory (2.15 too), and lets go of it once it
    has a copy, which is when somebody writes into it. The next tensor at the same two addresses, saved in turn, is then
    taken for it, and gradients flow through another tensor's values: silently, where their shapes agree. Here a tensor
    stays as long as its handle, so that no other comes to lie there.
    """

    def __init__(self) -> None:
        super().__init__()
        self.written: WeakKeyDictionary[Any, torch.Tensor] = WeakKeyDictionary()

    def __delitem__(self, handle: Any) -> None:
        self.written[handle] = self[handle]
        super().__delitem__(handle)


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The blocks of a network: the outermost modules inside a ModuleList or Sequential that have submodules."""
    for child in module.children():
        chain = isinstance(module, (nn.ModuleList, nn.Sequential))
        runs = type(child).forward is not nn.Module.forward and not isinstance(child, nn.Sequential)
        if chain and runs and any(True for _ in child.children()):
            yield child
        else:
            yield from _blocks(child)


@contextmanager
def checkpointed(*modules: nn.Module) -> Iterator[None]:
    """A block in which the residual and attention blocks of `modules` do not keep their activations but compute them
    again in the backward pass: about a third more time for a fraction of the memory. The copies of weights that ComfyUI
    casts on the fly, which autograd would keep, are not kept either.

    Not torch's own checkpointing: FLUX's blocks write into their inputs and into what autograd has saved, and that
    would silently recompute from the changed values. Here each computation starts from a copy, and from the same dicts
    (in which ComfyUI counts its blocks) as the first.
    """
    changed: list[tuple[nn.Module, Any]] = []
    try:
        for block in dict.fromkeys(block for module in modules for block in _blocks(module)):
            changed.append((block, block.__dict__.get("forward")))  # another pack may have set one on the instance
            block.forward = _recomputed(block.forward)
        yield
    finally:
        for block, own in changed:
            if own is None:
                block.__dict__.pop("forward", None)
            else:
                block.forward = own


def _recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        leaves, form = tree_flatten((args, kwargs))
        moving = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor) and leaf.requires_grad]
        if not moving or not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        given = [leaves[i] for i in moving]
        fixed = [None if i in moving else _copy(leaf) for i, leaf in enumerate(leaves)]
        out_form: list[Any] = []

        def compute(*tensors: torch.Tensor) -> tuple[Any, ...]:
            now = [_copy(leaf) for leaf in fixed]
            for i, t in zip(moving, tensors):
                now[i] = t.clone()
            args, kwargs = tree_unflatten(now, form)
            out, out_form[:] = _flat(forward(*args, **kwargs))
            return out

        out = _Again.apply(compute, *given)
        return tree_unflatten(out, out_form[0])

    return run


def _copy(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, torch.Tensor) else leaf


def _flat(value: Any) -> tuple[tuple[Any, ...], list[Any]]:
    leaves, form = tree_flatten(value)
    return tuple(leaves), [form]


class _Again(torch.autograd.Function):
    """compute(*tensors) -> tensors, without a graph; the graph is made in the backward pass, and used at once."""

    @staticmethod
    def forward(ctx: Any, compute: Callable[..., tuple[Any, ...]], *tensors: torch.Tensor) -> tuple[Any, ...]:
        ctx.compute = compute
        ctx.save_for_backward(*tensors)
        return compute(*tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        tensors = [t.detach().requires_grad_(True) for t in ctx.saved_tensors]
        with torch.enable_grad(), mutation_allowed():
            pairs = [
                (o, g)
                for o, g in zip(ctx.compute(*tensors), gradients)
                if isinstance(o, torch.Tensor) and o.requires_grad and g is not None
            ]
            got = torch.autograd.grad([o for o, _ in pairs], tensors, [g for _, g in pairs], allow_unused=True)
        return None, *got
