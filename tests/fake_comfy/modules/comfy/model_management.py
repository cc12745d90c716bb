"""Memory and interruption. The one device is the CPU; a test says how much of it is free, and when a run is stopped.

`loads` keeps what was loaded together: (patchers, memory asked for beside them).
"""

import torch

OOM_EXCEPTION = torch.cuda.OutOfMemoryError
in_training = False
free_memory = 1e12
interrupted = False
loads = []


class InterruptProcessingException(Exception):
    pass


def throw_exception_if_processing_interrupted():
    global interrupted
    if interrupted:
        interrupted = False
        raise InterruptProcessingException


def get_torch_device():
    return torch.device("cpu")


intermediate_device = get_torch_device


def get_free_memory(device=None):
    return free_memory


def load_models_gpu(models, memory_required=0.0):
    loads.append((models, memory_required))
    for patcher in models:
        patcher.partially_load(patcher.load_device, max(0.0, free_memory - memory_required))
