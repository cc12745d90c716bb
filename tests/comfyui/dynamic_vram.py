"""ComfyUI's dynamic VRAM and asynchronous offloading on a CPU, for tests: run by ComfyUI's own Python in ComfyUI's
folder.

comfy-aimdo, which keeps weights in a GPU's memory and takes them back, is stood in for by plain memory with the same
rules: a weight is resident or has to be fetched (`RESIDENT`), and what is fetched goes through one buffer for each
stream, which the next layer reuses. Imported before anything of ComfyUI.
"""

import ctypes
import inspect
import sys

sys.argv = ["main.py", "--cpu", "--disable-pinned-memory"]
sys.path.insert(0, ".")

import comfy_aimdo.host_buffer
import comfy_aimdo.model_vbar
import comfy_aimdo.torch
import comfy_aimdo.vram_buffer
import torch

RESIDENT = [True]


class Bar:
    """Stands for `ModelVBAR`: one piece of memory for a model's weights."""

    def __init__(self, size, device):
        self.memory, self.used = (ctypes.c_uint8 * int(size))(), 0

    def alloc(self, n):
        start = -(-self.used // 512) * 512
        self.used = start + n
        return self, ctypes.addressof(self.memory) + start, n

    def loaded_size(self):
        return self.used if RESIDENT[0] else 0

    def prioritize(self, *_):
        pass

    deprioritize = prioritize

    def free_memory(self, _):
        return 0


class Buffer:
    """Stands for `VRAMBuffer`: what a stream fetches weights into."""

    def __init__(self, *_):
        self.memory, self.reach = (ctypes.c_uint8 * (64 << 20))(), 0

    def size(self):
        return self.reach

    def get(self, size, offset=0):
        self.reach = max(self.reach, size + offset)
        return self, ctypes.addressof(self.memory) + offset, size


class NoHostBuffer:
    size = 0

    def __init__(self, *_, **__):
        pass

    def extend(self, *_, **__):
        raise RuntimeError("no pinned memory here")

    def truncate(self, *_, **__):
        pass


class Stream:
    cuda_stream = 0

    def wait_stream(self, _):
        pass

    def synchronize(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False


comfy_aimdo.model_vbar.ModelVBAR = Bar
comfy_aimdo.model_vbar.vbar_fault = lambda piece: (ctypes.c_uint32 * 1)(1) if RESIDENT[0] else None
comfy_aimdo.model_vbar.vbar_unpin = lambda piece: None
comfy_aimdo.model_vbar.vbar_signature_compare = lambda a, b: a is not None and b is not None and bytes(a) == bytes(b)
comfy_aimdo.model_vbar.vbars_analyze = lambda *_: 0
comfy_aimdo.torch.aimdo_to_tensor = lambda piece, device: torch.frombuffer(
    (ctypes.c_uint8 * piece[2]).from_address(piece[1]), dtype=torch.uint8
)
comfy_aimdo.host_buffer.HostBuffer = NoHostBuffer
comfy_aimdo.vram_buffer.VRAMBuffer = Buffer

import comfy.options

comfy.options.enable_args_parsing()
import comfy.memory_management
import comfy.model_management
import comfy.model_patcher
import comfy.ops

DEVICE = torch.device("cpu:0")  # the same memory as "cpu", and another device to ComfyUI
comfy.model_management.get_torch_device = lambda: DEVICE
comfy.model_patcher.ModelPatcherDynamic.__new__ = lambda cls, *_, **__: object.__new__(cls)


def _as_on_a_gpu():
    """`cast_bias_weight` without its tests of devices, which memory of the CPU never passes."""
    source = inspect.getsource(comfy.ops.cast_bias_weight)
    for test, instead in (
        ('if hasattr(s, "_v") and comfy.model_management.is_device_cpu(device):', "if False:"),
        ('elif hasattr(s, "_v") and s.weight.device != device:', 'elif hasattr(s, "_v"):'),
        (
            "if offloadable and (device != s.weight.device or",
            "if offloadable and (OFFLOADED or device != s.weight.device or",
        ),
    ):
        assert test in source, test
        source = source.replace(test, instead)
    comfy.ops.OFFLOADED = False
    exec(compile(source, comfy.ops.__file__, "exec"), comfy.ops.__dict__)


_as_on_a_gpu()
_cast_to = comfy.model_management.cast_to


def _fetched(weight, dtype=None, device=None, non_blocking=False, copy=False, stream=None, r=None):
    """`cast_to`, which on one device would hand out the weight itself."""
    if r is None or not comfy.ops.OFFLOADED:
        return _cast_to(weight, dtype, device, non_blocking=non_blocking, copy=copy, stream=stream, r=r)
    return r.copy_(weight)


comfy.model_management.cast_to = _fetched


def streams(n):
    """As many streams to fetch weights on; 0 for none."""
    comfy.model_management.NUM_STREAMS = n
    for device in (DEVICE, torch.device("cpu")):
        comfy.model_management.STREAMS.pop(device, None)
        if n:
            comfy.model_management.STREAMS[device] = [Stream() for _ in range(n)]


def hold(resident, n_streams, offloaded=False):
    """How weights are held from now on. offloaded: layers of a partly loaded model fetch theirs, as without dynamic
    VRAM."""
    RESIDENT[0], comfy.ops.OFFLOADED = resident, offloaded
    comfy.memory_management.aimdo_enabled = not offloaded
    streams(n_streams)
