"""How noise and image are mixed, and what a network's output means. Each mixes into `Levels`, as in ComfyUI."""

import torch


def _each(sigma, like):
    return sigma.reshape(-1, *[1] * (like.ndim - 1)) if sigma.ndim else sigma


class EPS:
    """x = image + sigma noise; the network predicts the noise."""

    def calculate_input(self, sigma, x):
        return x / (_each(sigma, x) ** 2 + 1) ** 0.5

    def calculate_denoised(self, sigma, output, x):
        return x - output * _each(sigma, x)

    def noise_scaling(self, sigma, noise, latent, max_denoise=False):
        return latent + noise * ((1 + sigma**2) ** 0.5 if max_denoise else _each(sigma, noise))

    def inverse_noise_scaling(self, sigma, latent):
        return latent


class CONST:
    """A rectified flow: x = (1 - sigma) image + sigma noise; the network predicts noise - image."""

    def calculate_input(self, sigma, x):
        return x

    calculate_denoised = EPS.calculate_denoised

    def noise_scaling(self, sigma, noise, latent, max_denoise=False):
        return _each(sigma, noise) * noise + (1 - _each(sigma, noise)) * latent

    def inverse_noise_scaling(self, sigma, latent):
        return latent / (1 - sigma)


class Levels(torch.nn.Module):
    """The training schedule's sigmas [T], ascending."""

    def __init__(self, sigmas):
        super().__init__()
        self.register_buffer("sigmas", sigmas)


class Diffusion(Levels, EPS):
    def __init__(self):
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        super().__init__((1 / (1 - betas).cumprod(0) - 1).sqrt().float())


class Flow(Levels, CONST):
    def __init__(self):
        super().__init__(torch.arange(1, 1001) / 1000)
