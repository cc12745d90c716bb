"""A device that is not there: its tensors hold their numbers on the CPU and refuse what Apple's GPUs refuse: float64,
and meeting tensors of another device. It is no CUDA either.

Inside `stand_in()` a model can be moved to "standin" on any machine and run, with gradients. The device stays for the
whole process.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

NAME, DEVICE = "standin", "standin:0"
_WIDE = (torch.float64, torch.complex128)
_aten = torch.ops.aten
_BETWEEN = {_aten._to_copy.default, _aten.copy_.default, _aten.copy.default, _aten._copy_from.default}
_INDICES = {_aten.index.Tensor, _aten.index_put_.default, _aten.index_put.default, _aten._index_put_impl_.default}
_TO_NUMBERS = {_aten._local_scalar_dense.default, _aten.item.default, _aten.is_nonzero.default, _aten.equal.default}


class OnDevice(torch.Tensor):
    """A tensor of the stand-in. `inside` holds its numbers."""

    inside: torch.Tensor

    @staticmethod
    def __new__(cls, inside: torch.Tensor, requires_grad: bool = False) -> OnDevice:
        if inside.dtype in _WIDE:
            raise TypeError(f"{inside.dtype} on the device {NAME}, which has none")
        found = torch.Tensor._make_wrapper_subclass(
            cls,
            inside.shape,
            strides=inside.stride(),
            storage_offset=inside.storage_offset(),
            dtype=inside.dtype,
            layout=inside.layout,
            device=DEVICE,
            requires_grad=requires_grad,
        )
        found.inside = inside
        return found

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"OnDevice({self.inside})"

    def tolist(self) -> Any:
        return self.inside.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    __torch_function__ = torch._C._disabled_torch_function_impl


class StandIn(TorchDispatchMode):
    """While it is entered, "standin" is a device; what makes a tensor there is heard too."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Made(TorchFunctionMode):
    """`torch.tensor(data, device=...)` and an index that is a list make tensors where no mode can hear it: here they
    are made on the CPU and moved."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        device = kwargs.get("device")
        if (
            func in (torch.tensor, torch.as_tensor, torch.asarray)
            and device is not None
            and torch.device(device).type == NAME
        ):
            del kwargs["device"]
            return func(*args, **kwargs).to(device)
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__) and isinstance(args[0], OnDevice):
            whole = args[1] if isinstance(args[1], tuple) else (args[1],)
            index = tuple(torch.tensor(i, dtype=None if i else torch.long) if isinstance(i, list) else i for i in whole)
            args = (args[0], index, *args[2:])
        return func(*args, **kwargs)


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    flat, spec = tree_flatten((args, kwargs))
    tensors = [x for x in flat if isinstance(x, torch.Tensor)]
    there = [x for x in tensors if isinstance(x, OnDevice)]
    wanted = kwargs.get("device")
    to = torch.device(wanted).type if wanted is not None else None
    if there and func not in _BETWEEN:
        _meet(func, args, tensors)
    for x in flat:
        if isinstance(x, torch.dtype) and x in _WIDE and (to == NAME or (there and to is None)):
            raise TypeError(f"{func} asks for {x} on the device {NAME}, which has none")
    inner_args, inner_kwargs = tree_unflatten(
        [
            x.inside
            if isinstance(x, OnDevice)
            else torch.device("cpu")
            if isinstance(x, torch.device) and x.type == NAME
            else x
            for x in flat
        ],
        spec,
    )
    out = func(*inner_args, **inner_kwargs)
    if func in _TO_NUMBERS or (to is not None and to != NAME) or not (there or to == NAME):
        return out
    if func is _aten.copy_.default:
        return args[0]
    if func in _BETWEEN and to is None and not isinstance(args[0], OnDevice):
        return out
    out = tree_map_only(torch.Tensor, OnDevice, out)
    return return_and_correct_aliasing(func, args, kwargs, out) if there else out


def _meet(func: Any, args: Any, tensors: list[torch.Tensor]) -> None:
    """RuntimeError where tensors of two devices meet. A single number may come from the CPU, and so may indices."""
    for x in tensors:
        if (
            not isinstance(x, OnDevice)
            and x.ndim > 0
            and not (func in _INDICES and x is not args[0] and not x.is_floating_point())
        ):
            raise RuntimeError(f"{func}: tensors on {NAME} and on {x.device} meet (a tensor of {tuple(x.shape)})")


@contextlib.contextmanager
def stand_in() -> Iterator[None]:
    """The device, and modules that can be moved to it."""
    if not hasattr(torch, NAME):
        torch.utils.backend_registration._setup_privateuseone_for_python_backend(NAME)
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with StandIn(), _Made():
            yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)
