"""Runs inside our small ComfyUI (`fake_comfy`), and what tests compare of them."""

from __future__ import annotations

from typing import Any

import torch
from comfyui_affect.models.emotions import EmotionTarget
from comfyui_affect.models.muse import MuseConfig, muse_guider

SETTINGS = dict(cfg=4.0, n_tokens=2, learning_rate=0.05, max_inner_steps=3, views=0, seed=3)


def made(kind: str = "BaseModel", *args: Any, **kwargs: Any) -> Any:
    """A pipeline whose model is of a class of `comfy.model_base`."""
    import comfy.model_base
    import comfy.pipelines

    return comfy.pipelines.pipeline(getattr(comfy.model_base, kind), *args, **kwargs)


def empty(p: Any, batch: int = 1) -> torch.Tensor:
    import comfy.sample

    return comfy.sample.fix_empty_latent_channels(p.model, torch.zeros(batch, 4, 8, 8))


def run(p: Any, guider: Any, latent: torch.Tensor | None = None, steps: int = 2, seed: int = 3, **more: Any) -> Any:
    """The latent that a guider leads to by Euler's method."""
    import comfy.sample
    import comfy.samplers

    latent = empty(p) if latent is None else latent
    sigmas = more.pop("sigmas", None)
    if sigmas is None:
        sigmas = comfy.samplers.calculate_sigmas(p.model.get_model_object("model_sampling"), "normal", steps)
    noise = more.pop("noise", comfy.sample.prepare_noise(latent, seed))
    return guider.sample(noise, latent, comfy.samplers.sampler_object("euler"), sigmas, seed=seed, **more)


def guider(p: Any, emotion: Any = None, gate: Any = None, **settings: Any) -> Any:
    """MUSE's guider for fear."""
    emotion = emotion or EmotionTarget.of("fear")
    config = MuseConfig(**SETTINGS | settings)
    return muse_guider(p.model, p.vae, p.classifier, p.positive, p.negative, emotion, config, gate)


def guide(p: Any, latent: torch.Tensor | None = None, steps: int = 2, emotion: Any = None, **more: Any) -> Any:
    """(latent, trace) of a guided run."""
    settings = {name: more.pop(name) for name in SETTINGS if name in more}
    made = guider(p, emotion, **settings)
    out = run(p, made, latent, steps, **more)
    return out, made.method.traces.get(out)[0]


def plain(p: Any, latent: torch.Tensor | None = None, cfg: float = 4.0, steps: int = 2, **more: Any) -> Any:
    """The latent that ComfyUI's own guider leads to."""
    import comfy.samplers

    made = comfy.samplers.CFGGuider(p.model)
    made.set_conds(p.positive, p.negative)
    made.set_cfg(cfg)
    return run(p, made, latent, steps, **more)


def losses(trace: Any, image: int = 0) -> list[float]:
    """Every loss of an image."""
    return [evaluation[image] for call in trace.calls for evaluation in call.losses]


def falls(trace: Any, image: int = 0) -> bool:
    """Whether the first call lowers an image's loss at each of its three steps, and the last ends below its start."""
    first = [evaluation[image] for evaluation in trace.calls[0].losses]
    return len(first) == 4 and first == sorted(first, reverse=True) and first[3] < 0.99 * first[0]


def recorded(p: Any) -> list[Any]:
    """(shape of the text, whether gradients were on) of every model call from now on."""
    seen = []

    def around(apply_model: Any, args: dict[str, Any]) -> Any:
        seen.append((tuple(args["c"]["c_crossattn"].shape), torch.is_grad_enabled()))
        return apply_model(args["input"], args["timestep"], **args["c"])

    p.model.model_options["model_function_wrapper"] = around
    return seen


def state(p: Any) -> dict[str, Any]:
    """Everything of a pipeline that a run may not change: weights' objects and bits, methods, wrappers, options."""
    import comfy.model_management
    import comfy.ops

    found: dict[str, Any] = {
        "fetch": comfy.ops.cast_bias_weight,
        "training": comfy.model_management.in_training,
        "wrappers": str(p.model.wrappers),
        "options": str(p.model.model_options),
        "additional": str(p.model.additional_models),
    }
    for part in (p.model.model, p.vae.first_stage_model, p.classifier):
        for name, module in part.named_modules():
            found[f"{id(part)} {name}"] = "forward" in vars(module)
            for key, t in {**module._parameters, **module._buffers}.items():
                if t is not None:
                    found[f"{id(part)} {name} {key}"] = (id(t), t.is_inference(), t.requires_grad, t.flatten().tolist())
    return found
