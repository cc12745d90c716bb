import math

import pytest
import torch
from comfyui_affect.models.diffusion.sampling import (
    SAMPLERS,
    SCHEDULES,
    Sampler,
    ddim_inversion,
    prepare_noise,
    sample,
    schedule,
    sd_sigmas,
    sigma_to_timestep,
)
from comfyui_affect.models.errors import UserError

TABLE = sd_sigmas()
MEAN, VARIANCE = 0.3, 0.25


def gaussian(x, sigma):
    """The exact denoiser of data drawn from N(0.3, 0.5^2): the true answer of every sampler is known."""
    s2 = sigma.view(-1, 1, 1, 1) ** 2
    return MEAN + VARIANCE / (VARIANCE + s2) * (x - MEAN)


def test_sd_sigmas_are_stable_diffusions():
    # The published range of SD1.5: 0.0292 .. 14.6146.
    assert TABLE.shape == (1000,) and float(TABLE[0]) == pytest.approx(0.0292, abs=1e-4)
    assert float(TABLE[-1]) == pytest.approx(14.6146, abs=1e-3)
    assert sigma_to_timestep(TABLE[[0, 500, 999]], TABLE).tolist() == [0, 500, 999]


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_fall_from_sigma_max_to_zero(name):
    sigmas = schedule(name, TABLE, 20)
    assert len(sigmas) == 21 and float(sigmas[-1]) == 0 and (sigmas.diff() < 0).all()
    assert float(sigmas[0]) == pytest.approx(float(TABLE[-1]), rel=1e-4)


def test_schedules_by_hand():
    assert schedule("simple", TABLE, 4)[:4].tolist() == TABLE[[999, 749, 499, 249]].tolist()
    assert schedule("normal", TABLE, 2).tolist() == pytest.approx([float(TABLE[999]), float(TABLE[0]), 0])
    middle = math.sqrt(float(TABLE[0]) * float(TABLE[-1]))
    assert float(schedule("exponential", TABLE, 3)[1]) == pytest.approx(middle, rel=1e-4)
    seventh = (0.5 * (float(TABLE[0]) ** (1 / 7) + float(TABLE[-1]) ** (1 / 7))) ** 7
    assert float(schedule("karras", TABLE, 3)[1]) == pytest.approx(seventh, rel=1e-4)


def test_partial_denoise_keeps_the_last_steps():
    assert torch.equal(schedule("karras", TABLE, 10, 0.5), schedule("karras", TABLE, 20)[-11:])
    assert schedule("karras", TABLE, 10, 0.0).numel() == 0


def test_unknown_names_are_errors():
    with pytest.raises(UserError, match="karras"):
        schedule("beta", TABLE, 10)
    with pytest.raises(UserError, match="euler"):
        Sampler("uni_pc")


def consistency(x, sigma):
    """Where the exact flow from (x, sigma) ends: what a consistency model gives."""
    return MEAN + (x - MEAN) * (VARIANCE / (VARIANCE + sigma.view(-1, 1, 1, 1) ** 2)).sqrt()


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_reach_the_data_distribution(name):
    noise = prepare_noise(torch.zeros(4, 4, 32, 32), 0)
    model = consistency if name == "lcm" else gaussian
    out = sample(model, noise, torch.zeros_like(noise), schedule("karras", TABLE, 40), Sampler(name), float(TABLE[-1]))
    assert float(out.mean()) == pytest.approx(MEAN, abs=0.03)
    assert float(out.std()) == pytest.approx(VARIANCE**0.5, abs=0.05)


@pytest.mark.parametrize("name,order", [("euler", 1), ("heun", 2), ("dpmpp_2m", 2)])
def test_convergence_order(name, order):
    """Halving the steps multiplies the error of an ODE solver by 2^order, on the exact solution of the flow."""
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * 14
    exact = MEAN + (x - MEAN) * math.sqrt((VARIANCE + 0.5**2) / (VARIANCE + 14.0**2))
    errors = []
    for steps in (40, 80):
        sigmas = torch.linspace(math.log(14.0), math.log(0.5), steps + 1).exp()
        errors.append(float((Sampler(name)(gaussian, x, sigmas) - exact).norm()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.35)


def test_noise_is_the_cpu_generators_and_images_of_a_batch_can_be_had_alone():
    latent = torch.zeros(3, 4, 2, 2)
    assert torch.equal(prepare_noise(latent, 5), torch.randn(3, 4, 2, 2, generator=torch.manual_seed(5)))
    third = prepare_noise(latent[:1], 5, [2])
    assert torch.equal(third, prepare_noise(latent, 5, [0, 1, 2])[2:])


def test_a_mask_keeps_what_lies_outside_it():
    latent = torch.randn(1, 4, 8, 8)
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    out = sample(
        gaussian,
        prepare_noise(latent, 0),
        latent,
        schedule("normal", TABLE, 10),
        Sampler("euler"),
        float(TABLE[-1]),
        mask=mask,
    )
    assert torch.allclose(out[..., 4:], latent[..., 4:], atol=1e-5)


@pytest.mark.parametrize("name", list(SAMPLERS))
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_that_gives_no_numbers_is_an_error_with_its_step(name, value):
    """From the third step on; heun also asks at the end of a step."""
    sigmas = schedule("normal", TABLE, 6)

    def model(x, sigma):
        out = x / (sigma.view(-1, 1, 1, 1) ** 2 + 1)
        return torch.where(torch.arange(out.numel()).view(out.shape) == 5, value, out) if sigma[0] <= sigmas[2] else out

    noise = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    with pytest.raises(UserError, match="in step 3 of 6, gave values that are not numbers"):
        sample(model, noise, torch.zeros_like(noise), sigmas, Sampler(name), float(sigmas[0]))
    with pytest.raises(UserError, match="inverting step . of 6"):
        ddim_inversion(model, noise, sigmas)
    with pytest.raises(UserError, match="starts from holds"):
        sample(model, noise, torch.full_like(noise, value), sigmas, Sampler(name), float(sigmas[0]))
