"""Noise schedules and samplers in sigma space under ComfyUI's names, and DDIM inversion.

Written for this package because diffusers' schedulers differ from ComfyUI's in rounding, noise scale and `simple`.
A `model` here is any function (x [B, C, h, w], sigma [B]) -> clean latent.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from ..errors import UserError
from ..tensors.ranges import finite

Model = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Callback = Callable[[int, torch.Tensor, torch.Tensor, int], None]
"""callback(step, denoised, x, total_steps), as ComfyUI's."""


def sd_sigmas(timesteps: int = 1000, start: float = 0.00085, end: float = 0.012) -> torch.Tensor:
    """[timesteps] ascending sigmas of Stable Diffusion's schedule (betas linear in their square root)."""
    betas = torch.linspace(start**0.5, end**0.5, timesteps, dtype=torch.float64) ** 2
    alphas = torch.cumprod(1.0 - betas, dim=0)
    return ((1 - alphas) / alphas).sqrt().float()


def sigma_to_timestep(sigma: torch.Tensor, sigma_table: torch.Tensor) -> torch.Tensor:
    """[B] sigmas -> [B] nearest integer timesteps in log sigma, as ComfyUI rounds them."""
    distance = sigma.float().log() - sigma_table.to(sigma.device).log()[:, None]
    return distance.abs().argmin(dim=0).view(sigma.shape)


def _timestep_to_sigma(t: torch.Tensor, sigma_table: torch.Tensor) -> torch.Tensor:
    low, high, w = t.floor().long(), t.ceil().long(), t.frac()
    log = sigma_table.log()
    return ((1 - w) * log[low] + w * log[high]).exp()


# -- schedules: (sigma_table, steps) -> descending sigmas [steps + 1], the last one zero ------------------------


def _normal(table: torch.Tensor, steps: int) -> torch.Tensor:
    return _timestep_to_sigma(torch.linspace(len(table) - 1, 0, steps), table)


def _sgm_uniform(table: torch.Tensor, steps: int) -> torch.Tensor:
    return _timestep_to_sigma(torch.linspace(len(table) - 1, 0, steps + 1)[:-1], table)


def _simple(table: torch.Tensor, steps: int) -> torch.Tensor:
    stride = len(table) / steps
    return torch.stack([table[-(1 + int(i * stride))] for i in range(steps)])


def _karras(table: torch.Tensor, steps: int, rho: float = 7.0) -> torch.Tensor:
    low, high = float(table[0]) ** (1 / rho), float(table[-1]) ** (1 / rho)
    return (high + torch.linspace(0, 1, steps) * (low - high)) ** rho


def _exponential(table: torch.Tensor, steps: int) -> torch.Tensor:
    return torch.linspace(math.log(float(table[-1])), math.log(float(table[0])), steps).exp()


SCHEDULES: dict[str, Callable[[torch.Tensor, int], torch.Tensor]] = {
    "normal": _normal,
    "karras": _karras,
    "simple": _simple,
    "sgm_uniform": _sgm_uniform,
    "exponential": _exponential,
}


def schedule(name: str, sigma_table: torch.Tensor, steps: int, denoise: float = 1.0) -> torch.Tensor:
    """[steps + 1] sigmas from noise to zero, as ComfyUI's BasicScheduler gives them.

    `denoise` below 1 keeps the last `steps` of int(steps / denoise); 0 gives an empty tensor. A name that is not
    supported is an error, never a substitute.
    """
    if name not in SCHEDULES:
        raise UserError(f"The scheduler '{name}' is not supported here. Choose one of: {', '.join(SCHEDULES)}.")
    if steps < 1:
        raise UserError(f"A schedule needs at least one step, got {steps}.")
    if denoise <= 0.0:
        return torch.empty(0)
    total = steps if denoise > 0.9999 else int(steps / denoise)
    sigmas = torch.cat([SCHEDULES[name](sigma_table.cpu(), total), torch.zeros(1)])
    return sigmas[-(steps + 1) :]


# -- samplers ---------------------------------------------------------------------------------------------------


def _slope(x: torch.Tensor, sigma: torch.Tensor, denoised: torch.Tensor) -> torch.Tensor:
    return (x - denoised) / sigma


def _each(sigma: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return sigma * x.new_ones([x.shape[0]])


def _noise_like(x: torch.Tensor, seed: int) -> Callable[[], torch.Tensor]:
    # The CPU's generator whatever the device, offset by one so that it does not repeat the initial noise.
    generator = torch.Generator("cpu").manual_seed((seed + 1) % 2**64)
    return lambda: torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)


def sample_euler(
    model: Model, x: torch.Tensor, sigmas: torch.Tensor, seed: int = 0, callback: Callback | None = None
) -> torch.Tensor:
    """Euler's method (Karras et al. 2022, algorithm 2 without churn); with CFG, DDIM at eta 0."""
    for i in range(len(sigmas) - 1):
        denoised = model(x, _each(sigmas[i], x))
        if callback:
            callback(i, denoised, x, len(sigmas) - 1)
        x = x + _slope(x, sigmas[i], denoised) * (sigmas[i + 1] - sigmas[i])
    return x


def sample_euler_ancestral(
    model: Model, x: torch.Tensor, sigmas: torch.Tensor, seed: int = 0, callback: Callback | None = None
) -> torch.Tensor:
    """Euler steps to a lower sigma, then fresh noise up to the next (DDPM's ancestral sampling)."""
    noise = _noise_like(x, seed)
    for i in range(len(sigmas) - 1):
        now, then = float(sigmas[i]), float(sigmas[i + 1])
        denoised = model(x, _each(sigmas[i], x))
        if callback:
            callback(i, denoised, x, len(sigmas) - 1)
        up = min(then, (then**2 * (now**2 - then**2) / now**2) ** 0.5)
        down = (then**2 - up**2) ** 0.5
        x = x + _slope(x, sigmas[i], denoised) * (down - now) if down else denoised
        if then > 0:
            x = x + noise() * up
    return x


def sample_heun(
    model: Model, x: torch.Tensor, sigmas: torch.Tensor, seed: int = 0, callback: Callback | None = None
) -> torch.Tensor:
    """Heun's second-order method (Karras et al. 2022, algorithm 1): two model calls a step, one for the last."""
    for i in range(len(sigmas) - 1):
        denoised = model(x, _each(sigmas[i], x))
        if callback:
            callback(i, denoised, x, len(sigmas) - 1)
        slope, dt = _slope(x, sigmas[i], denoised), sigmas[i + 1] - sigmas[i]
        ahead = x + slope * dt
        if sigmas[i + 1] > 0:
            slope = (slope + _slope(ahead, sigmas[i + 1], model(ahead, _each(sigmas[i + 1], x)))) / 2
        x = x + slope * dt
    return x


def sample_dpmpp_2m(
    model: Model, x: torch.Tensor, sigmas: torch.Tensor, seed: int = 0, callback: Callback | None = None
) -> torch.Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): second order from the previous step's prediction."""
    previous: torch.Tensor | None = None
    previous_h = torch.ones(())
    for i in range(len(sigmas) - 1):
        denoised = model(x, _each(sigmas[i], x))
        if callback:
            callback(i, denoised, x, len(sigmas) - 1)
        if sigmas[i + 1] == 0:
            x = denoised
            continue
        h = torch.log(sigmas[i] / sigmas[i + 1])
        target = denoised
        if previous is not None:
            r = 1 / (2 * previous_h / h)
            target = (1 + r) * denoised - r * previous
        x = (sigmas[i + 1] / sigmas[i]) * x - torch.expm1(-h) * target
        previous, previous_h = denoised, h
    return x


def sample_lcm(
    model: Model, x: torch.Tensor, sigmas: torch.Tensor, seed: int = 0, callback: Callback | None = None
) -> torch.Tensor:
    """Latent consistency sampling (Luo et al. 2023): jump to the clean prediction, renoise to the next sigma."""
    noise = _noise_like(x, seed)
    for i in range(len(sigmas) - 1):
        denoised = model(x, _each(sigmas[i], x))
        if callback:
            callback(i, denoised, x, len(sigmas) - 1)
        x = denoised + sigmas[i + 1] * noise() if sigmas[i + 1] > 0 else denoised
    return x


SAMPLERS: dict[str, Callable[..., torch.Tensor]] = {
    "euler": sample_euler,
    "euler_ancestral": sample_euler_ancestral,
    "heun": sample_heun,
    "dpmpp_2m": sample_dpmpp_2m,
    "lcm": sample_lcm,
}


class Sampler:
    """The SAMPLER socket of the embedded host: a name of `SAMPLERS`."""

    def __init__(self, name: str):
        if name not in SAMPLERS:
            raise UserError(f"The sampler '{name}' is not supported here. Choose one of: {', '.join(SAMPLERS)}.")
        self.name = name

    def __call__(
        self, model: Model, x: torch.Tensor, sigmas: torch.Tensor, seed: int = 0, callback: Callback | None = None
    ) -> torch.Tensor:
        return SAMPLERS[self.name](model, x, sigmas, seed=seed, callback=callback)


def prepare_noise(latent: torch.Tensor, seed: int, batch_index: list[int] | None = None) -> torch.Tensor:
    """Standard normal noise of the latent's shape from the CPU's generator, as ComfyUI draws it: one draw for the
    batch, or, with `batch_index`, one image after another so that image k of a batch can be had alone."""
    generator = torch.Generator("cpu").manual_seed(seed)
    if batch_index is None:
        return torch.randn(latent.shape, generator=generator, dtype=latent.dtype)
    shape = (1, *latent.shape[1:])
    draws = [torch.randn(shape, generator=generator, dtype=latent.dtype) for _ in range(max(batch_index) + 1)]
    return torch.cat([draws[i] for i in batch_index])


def sample(
    model: Model,
    noise: torch.Tensor,
    latent: torch.Tensor,
    sigmas: torch.Tensor,
    sampler: Sampler,
    sigma_max: float,
    seed: int = 0,
    mask: torch.Tensor | None = None,
    callback: Callback | None = None,
) -> torch.Tensor:
    """Samples from `latent` plus noise at sigmas[0], as ComfyUI's KSampler does.

    latent    [B, C, h, w] in the denoiser's scale; zeros for pure generation
    noise     [B, C, h, w] standard normal; zeros where the latent is already noised (inversion, DisableNoise)
    sigma_max the schedule's largest sigma: at full denoise the noise is scaled by sqrt(1 + sigma^2)
    mask      [B, 1, h, w], 1 where to repaint; elsewhere every step's prediction is the latent itself

    UserError, with the step, where the model gives values that are not numbers.
    """
    if sigmas.numel() == 0:
        return latent
    first = float(sigmas[0])
    full = math.isclose(sigma_max, first, rel_tol=1e-5) or first > sigma_max
    x = latent + noise * ((1.0 + first**2) ** 0.5 if full else first)
    finite(x, "The latent that sampling starts from holds")
    model = _checked(model, sigmas, "in")
    run = model if mask is None else _masked(model, noise, latent, mask)
    return sampler(run, x, sigmas.to(x), seed=seed, callback=callback)


def _checked(model: Model, sigmas: torch.Tensor, verb: str) -> Model:
    """A model whose predictions are finite, or UserError names the step."""
    steps = len(sigmas) - 1

    def run(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        out = model(x, sigma)
        step = int((sigmas.to(sigma) >= sigma[0]).sum())  # of a descending schedule; heun looks ahead by one
        return finite(out, f"The model, {verb} step {min(step, steps)} of {steps}, gave")

    return run


def _masked(model: Model, noise: torch.Tensor, latent: torch.Tensor, mask: torch.Tensor) -> Model:
    def run(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        known = latent + noise * sigma.view(-1, 1, 1, 1)
        return model(x * mask + known * (1 - mask), sigma) * mask + latent * (1 - mask)

    return run


@torch.no_grad()
def ddim_inversion(
    model: Model, latent: torch.Tensor, sigmas: torch.Tensor, refine: int = 4, callback: Callback | None = None
) -> torch.Tensor:
    """The noised latent that Euler's method (DDIM at eta 0) leads back to `latent` [B, C, h, w].

    Walks the schedule `sigmas` (descending, ending in zero) upwards. A step down from `high` lands on
    r x + (1 - r) D(x), r = low / high, so the way up solves that for x. Plain inversion (Song et al. 2021) takes D from
    the lower end and drifts; here the residual is corrected `refine` times, divided by the slope r + (1 - r) c that it
    would have were the data of unit variance, c = 1 / (1 + high^2). Dividing by r alone diverges where a schedule makes
    long steps. Each image keeps its guess of least residual, so refining never makes it worse.
    """
    x = latent
    model = _checked(model, sigmas, "inverting")
    up = sigmas.to(x).flip(0)
    for i in range(len(up) - 1):
        low, high = up[i], up[i + 1]
        r = low / high
        slope = r + (1 - r) / (1 + high**2)
        guess, best, least = x, x, x.new_full([len(x)], float("inf"))
        for _ in range(refine + 1):
            denoised = model(guess, _each(high, x))
            residual = r * guess + (1 - r) * denoised - x
            size = residual.flatten(1).norm(dim=1)
            better = size < least
            best = torch.where(better.view(-1, 1, 1, 1), guess, best)
            least = torch.where(better, size, least)
            guess = guess - residual / slope
        x = best
        if callback:
            callback(i, denoised, x, len(up) - 1)
    return x
