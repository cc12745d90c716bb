"""Sampling: conds in batches, guidance, samplers, and the guider that holds them together, in ComfyUI's order of calls:
sample, outer_sample, inner_sample, the sampler's own, and predict_noise once a model call."""

import math
from itertools import pairwise

import torch
from torch.nn import functional as F

import comfy.model_management
import comfy.model_patcher
import comfy.utils
from comfy.patcher_extension import WrappersMP, wrapped

# -- conds --------------------------------------------------------------------------------------------------------


def _processed(model, conds, noise):
    """CONDITIONING's options as the model takes them: masks of the latent's size, steps as sigmas, `model_conds`."""
    out = []
    for cond in conds:
        cond = dict(cond)
        if "mask" in cond:
            mask = cond["mask"].reshape(-1, 1, *cond["mask"].shape[-2:])
            mask = F.interpolate(mask, noise.shape[-2:], mode="bilinear")
            cond["mask"] = comfy.utils.repeat_to_batch_size(mask, len(noise))
        for part, name in (("start_percent", "timestep_start"), ("end_percent", "timestep_end")):
            if part in cond:
                sigmas = model.model_sampling.sigmas
                cond[name] = float(sigmas[round((1 - cond[part]) * (len(sigmas) - 1))])
        cond["model_conds"] = model.extra_conds(**cond)
        out.append(cond)
    return out


def _weight(cond, x, sigma):
    """How much a cond counts at each place of x; None where it does not at this noise level."""
    now = float(sigma[0])
    if not cond.get("timestep_end", -math.inf) <= now <= cond.get("timestep_start", math.inf):
        return None
    mask = cond.get("mask", x.new_ones(len(x), 1, *x.shape[-2:]))
    mask = mask * cond["strength"] if "strength" in cond else mask
    return mask.view(len(x), *[1] * (x.ndim - 3), *x.shape[-2:]).expand_as(x)


def calc_cond_batch(model, conds, x_in, timestep, model_options):
    """The prediction under each list of conds, each the mean of its own by their masks. Conds of one shape of text and
    one ControlNet run in one batch."""
    total, weights = [[torch.zeros_like(x_in) for _ in conds] for _ in range(2)]
    batches = {}
    for i, part in enumerate(conds):
        for cond in part or []:
            weight = _weight(cond, x_in, timestep)
            if weight is not None:
                tokens = cond["model_conds"]["c_crossattn"].cond.shape[1]
                batches.setdefault((id(cond.get("control")), tokens), []).append((i, cond, weight))
    for rows in batches.values():
        given = [cond["model_conds"] for _, cond, _ in rows]
        c = {key: value.joined([g[key].of_batch(len(x_in)) for g in given]) for key, value in given[0].items()}
        x, sigma = torch.cat([x_in] * len(rows)), torch.cat([timestep] * len(rows))
        options = {**model_options.get("transformer_options", {}), "cond_or_uncond": [i for i, _, _ in rows]}
        c["transformer_options"] = options
        control = rows[0][1].get("control")
        if control is not None:
            c["control"] = control.get_control(x, sigma, c, len(rows), options)
        around = model_options.get("model_function_wrapper")
        if around:
            out = around(model.apply_model, {"input": x, "timestep": sigma, "c": c, "cond_or_uncond": [0]})
        else:
            out = model.apply_model(x, sigma, **c)
        for (i, _, weight), one in zip(rows, out.chunk(len(rows))):
            total[i] = total[i] + one * weight
            weights[i] = weights[i] + weight
    return [t / w.clamp(min=1e-37) for t, w in zip(total, weights)]


def sampling_function(model, x, timestep, uncond, cond, cond_scale, model_options, seed=None):
    """Classifier-free guidance, and what other nodes do to it."""
    uncond = None if math.isclose(cond_scale, 1.0) else uncond
    of_cond, of_uncond = calc_cond_batch(model, [cond, uncond], x, timestep, model_options)
    out = of_uncond + (of_cond - of_uncond) * cond_scale
    for after in model_options.get("sampler_post_cfg_function", []):
        out = after(
            {"denoised": out, "cond_denoised": of_cond, "uncond_denoised": of_uncond, "input": x, "model": model}
        )
    return out


# -- samplers -----------------------------------------------------------------------------------------------------


def sample_euler(model, x, sigmas, extra_args, callback, disable):
    for i, (now, then) in enumerate(pairwise(sigmas)):
        denoised = model(x, now * x.new_ones(len(x)), **extra_args)
        callback({"i": i, "denoised": denoised, "x": x})
        x = denoised + (x - denoised) * (then / now)
    return x


def sample_dpm_2(model, x, sigmas, extra_args, callback, disable):
    """Two model calls a step: the second halfway in log sigma."""
    for i, (now, then) in enumerate(pairwise(sigmas)):
        denoised = model(x, now * x.new_ones(len(x)), **extra_args)
        callback({"i": i, "denoised": denoised, "x": x})
        if then > 0:
            half = (now * then).sqrt()
            between = denoised + (x - denoised) * (half / now)
            slope = (between - model(between, half * x.new_ones(len(x)), **extra_args)) / half
            x = x + slope * (then - now)
        else:
            x = denoised
    return x


class _Inpainted:
    """A model whose latent outside a mask is known."""

    def __init__(self, model, sigmas, latent, noise):
        self.inner_model, self.sigmas, self.latent, self.noise = model, sigmas, latent, noise

    def __call__(self, x, sigma, denoise_mask, model_options, seed=None):
        if denoise_mask is None:
            return self.inner_model(x, sigma, model_options=model_options, seed=seed)
        if "denoise_mask_function" in model_options:
            extra = {"model": self.inner_model, "sigmas": self.sigmas}
            denoise_mask = model_options["denoise_mask_function"](sigma, denoise_mask, extra_options=extra)
        known = self.inner_model.inner_model.model_sampling.noise_scaling(sigma, self.noise, self.latent)
        x = x * denoise_mask + known * (1 - denoise_mask)
        out = self.inner_model(x, sigma, model_options=model_options, seed=seed)
        return out * denoise_mask + self.latent * (1 - denoise_mask)


class KSAMPLER:
    def __init__(self, sampler_function):
        self.sampler_function = sampler_function

    def sample(self, model_wrap, sigmas, extra_args, callback, noise, latent_image, denoise_mask, disable_pbar):
        sampling = model_wrap.inner_model.model_sampling
        extra_args["denoise_mask"] = denoise_mask
        full = math.isclose(float(sampling.sigmas[-1]), float(sigmas[0]), rel_tol=1e-5)
        model = _Inpainted(model_wrap, sigmas, latent_image, noise)
        step = lambda now: callback and callback(now["i"], now["denoised"], now["x"], len(sigmas) - 1)
        x = sampling.noise_scaling(sigmas[0], noise, latent_image, full)
        x = self.sampler_function(model, x, sigmas, extra_args=extra_args, callback=step, disable=disable_pbar)
        return sampling.inverse_noise_scaling(sigmas[-1], x)


def sampler_object(name):
    return KSAMPLER({"euler": sample_euler, "dpm_2": sample_dpm_2}[name])


def calculate_sigmas(model_sampling, scheduler_name, steps):
    sigmas = model_sampling.sigmas
    return torch.cat([sigmas[torch.linspace(len(sigmas) - 1, 0, steps).long()], sigmas.new_zeros(1)])


class KSampler:
    SAMPLERS, SCHEDULERS = ("euler", "dpm_2"), ("normal",)

    def __init__(self, model, steps, device, sampler, scheduler, denoise):
        total = int(steps / denoise) + (sampler == "dpm_2")  # whose schedule loses its last step but one
        self.sigmas = calculate_sigmas(model.get_model_object("model_sampling"), scheduler, total)[-steps - 2 :]
        self.sigmas = (
            torch.cat([self.sigmas[:-2], self.sigmas[-1:]]) if sampler == "dpm_2" else self.sigmas[-steps - 1 :]
        )


# -- the guider ---------------------------------------------------------------------------------------------------


def _prepared(model, noise_shape, conds, model_options):
    extra = [patcher for models in model.additional_models.values() for patcher in models]
    needed = model.model.memory_required([2 * noise_shape[0], *noise_shape[1:]])
    comfy.model_management.load_models_gpu([model, *extra], memory_required=needed)
    return model.model


class CFGGuider:
    def __init__(self, model_patcher):
        self.model_patcher, self.model_options = model_patcher, model_patcher.model_options
        self.original_conds, self.cfg = {}, 1.0

    def set_conds(self, positive, negative):
        self.inner_set_conds({"positive": positive, "negative": negative})

    def set_cfg(self, cfg):
        self.cfg = cfg

    def inner_set_conds(self, conds):
        for name, conditioning in conds.items():
            self.original_conds[name] = [{**options, "cross_attn": embeds} for embeds, options in conditioning]

    def __call__(self, x, timestep, model_options, seed=None):
        return wrapped(self.predict_noise, WrappersMP.PREDICT_NOISE, model_options)(x, timestep, model_options, seed)

    def predict_noise(self, x, timestep, model_options, seed=None):
        negative, positive = self.conds.get("negative"), self.conds.get("positive")
        return sampling_function(self.inner_model, x, timestep, negative, positive, self.cfg, model_options, seed)

    def inner_sample(self, noise, latent_image, device, sampler, sigmas, denoise_mask, callback, disable_pbar, seed):
        if torch.count_nonzero(latent_image) > 0:  # an empty latent image is not shifted
            latent_image = self.inner_model.process_latent_in(latent_image)
        self.conds = {name: _processed(self.inner_model, conds, noise) for name, conds in self.conds.items()}
        options = comfy.model_patcher.create_model_options_clone(self.model_options)
        run = wrapped(sampler.sample, WrappersMP.SAMPLER_SAMPLE, options)
        extra_args = {"model_options": options, "seed": seed}
        out = run(self, sigmas, extra_args, callback, noise, latent_image, denoise_mask, disable_pbar)
        return self.inner_model.process_latent_out(out.float())

    def outer_sample(self, noise, latent_image, sampler, sigmas, denoise_mask, callback, disable_pbar, seed):
        prepare = wrapped(_prepared, WrappersMP.PREPARE_SAMPLING, self.model_options)
        self.inner_model = prepare(self.model_patcher, noise.shape, self.conds, self.model_options)
        device = self.model_patcher.load_device
        self.model_patcher.pre_run()
        try:
            return self.inner_sample(
                noise.float(), latent_image.float(), device, sampler, sigmas, denoise_mask, callback, disable_pbar, seed
            )
        finally:
            self.model_patcher.cleanup()
            del self.inner_model

    def sample(
        self, noise, latent_image, sampler, sigmas, denoise_mask=None, callback=None, disable_pbar=False, seed=None
    ):
        if denoise_mask is not None:
            mask = denoise_mask.reshape(-1, 1, *denoise_mask.shape[-2:])
            mask = comfy.utils.repeat_to_batch_size(F.interpolate(mask, noise.shape[-2:], mode="bilinear"), len(noise))
            denoise_mask = mask.view(len(noise), *[1] * (noise.ndim - 3), *noise.shape[-2:])
        self.conds, given = {name: list(conds) for name, conds in self.original_conds.items()}, self.model_options
        self.model_options = comfy.model_patcher.create_model_options_clone(given)
        here = self.model_options["transformer_options"].setdefault("wrappers", {})
        for kind, by_key in self.model_patcher.wrappers.items():
            here[kind] = {**here.get(kind, {}), **by_key}
        try:
            run = wrapped(self.outer_sample, WrappersMP.OUTER_SAMPLE, self.model_options)
            return run(noise, latent_image, sampler, sigmas, denoise_mask, callback, disable_pbar, seed)
        finally:
            self.model_options = given
            del self.conds
