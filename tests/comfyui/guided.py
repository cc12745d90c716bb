"""MUSE's guider on small random models inside ComfyUI's own Python: what tests compare."""

import hashlib

import comfy.sample
import comfy.samplers
import torch
from loaded_pack import random_models  # it gives affect_pack its name

# isort: split
from affect_pack.models.emotions import EmotionTarget
from affect_pack.models.muse import MuseConfig, muse_guider

SETTINGS = dict(cfg=4.0, n_tokens=2, learning_rate=0.05, max_inner_steps=3, views=0, seed=3)


def guide(model, positive, negative, vae, latent, steps=2, **settings):
    """(latent, trace as JSON) of a guided run."""
    latent = comfy.sample.fix_empty_latent_channels(model, latent)
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", steps)
    guider = muse_guider(
        model,
        vae,
        random_models.RandomClassifier().run()[0],
        positive,
        negative,
        EmotionTarget.of("fear"),
        MuseConfig(**SETTINGS | settings),
    )
    out = guider.sample(
        comfy.sample.prepare_noise(latent, 3),
        latent,
        comfy.samplers.sampler_object("euler"),
        sigmas,
        seed=3,
        disable_pbar=True,
    )
    return out, guider.method.traces.get(out)[0].to_json()


def plain(model, positive, negative, latent, steps=2, cfg=4.0):
    """A latent that ComfyUI samples by itself."""
    latent = comfy.sample.fix_empty_latent_channels(model, latent)
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", steps)
    return guider.sample(
        comfy.sample.prepare_noise(latent, 3),
        latent,
        comfy.samplers.sampler_object("euler"),
        sigmas,
        seed=3,
        disable_pbar=True,
    )


def losses(trace):
    """Every loss of the first image."""
    return [evaluation[0] for call in trace["calls"] for evaluation in call["losses"]]


def bits(module):
    """A hash of a network's weights."""
    digest = hashlib.sha256()
    for name, t in sorted(module.state_dict().items()):
        digest.update(name.encode() + t.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def patched(module):
    """Names of modules whose forward somebody has replaced."""
    return [name for name, m in module.named_modules() if "forward" in m.__dict__]
