"""The scales of the VAE's latents and of the model's."""

import torch


class LatentFormat:
    latent_channels, latent_dimensions, scale_factor = 4, 2, 0.25

    def process_in(self, latent):
        return latent * self.scale_factor

    def process_out(self, latent):
        return latent / self.scale_factor


class Frames(LatentFormat):
    """A video's, which holds a tensor of its own."""

    latent_dimensions = 3

    def __init__(self):
        self.scale_factor = torch.full((1, self.latent_channels, 1, 1, 1), 0.5)
