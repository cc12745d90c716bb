"""Wrappers: functions that other nodes put around steps of ComfyUI's, as wrapper(the step, *its arguments)."""

from functools import partial


class WrappersMP:
    OUTER_SAMPLE = "outer_sample"
    PREPARE_SAMPLING = "prepare_sampling"
    SAMPLER_SAMPLE = "sampler_sample"
    PREDICT_NOISE = "predict_noise"
    APPLY_MODEL = "apply_model"


def wrapped(step, kind, options):
    """A step inside the wrappers of its kind that model options hold."""
    by_key = options.get("transformer_options", {}).get("wrappers", {}).get(kind, {})
    for wrapper in reversed([wrapper for wrappers in by_key.values() for wrapper in wrappers]):
        step = partial(wrapper, step)
    return step
