"""The callback of a sampler's steps: the node's progress bar."""

import comfy.utils


def prepare_callback(model, steps):
    bar = comfy.utils.ProgressBar(steps)
    return lambda step, x0, x, total_steps: bar.update_absolute(step + 1, total_steps)
