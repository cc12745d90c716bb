"""What comes before sampling: noise, and an empty latent in the model's form."""

import torch

import comfy.utils


def prepare_noise(latent, seed, noise_inds=None):
    generator = torch.manual_seed(seed)
    if noise_inds is None:
        return torch.randn(latent.shape, generator=generator)
    draws = torch.randn(max(noise_inds) + 1, *latent.shape[1:], generator=generator)
    return draws[list(noise_inds)]


def fix_empty_latent_channels(model, latent):
    form = model.get_model_object("latent_format")
    if not torch.count_nonzero(latent):
        latent = comfy.utils.repeat_to_batch_size(latent, form.latent_channels, dim=1)
    return latent.unsqueeze(2) if form.latent_dimensions == 3 and latent.ndim == 4 else latent
