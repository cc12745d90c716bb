"""Batches, and the progress bar. `drawn` keeps what bars were told: (value, total, preview)."""

import math

PROGRESS_BAR_ENABLED = False
drawn = []


def repeat_to_batch_size(tensor, batch_size, dim=0):
    times = [1] * tensor.ndim
    times[dim] = math.ceil(batch_size / tensor.shape[dim])
    return tensor.repeat(times).narrow(dim, 0, batch_size)


class ProgressBar:
    def __init__(self, total):
        self.total = total

    def update_absolute(self, value, total=None, preview=None):
        drawn.append((value, total or self.total, preview))
