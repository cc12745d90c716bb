"""Running out of a device's memory."""

from __future__ import annotations

import torch


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that a device's memory ran out: CUDA's, ROCm's and XPU's errors have a type of their own,
    MPS's do not."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or "out of memory" in str(error).lower()


def give_back_memory(device: torch.device) -> None:
    """Frees the memory that torch caches for a device, of any kind that has a cache."""
    module = getattr(torch, device.type, None)
    if module is not None and hasattr(module, "empty_cache"):
        module.empty_cache()
