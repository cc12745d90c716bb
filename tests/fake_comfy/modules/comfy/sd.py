"""A VAE of factor 8, whose decoder is a chain of blocks."""

import torch
from torch.nn import functional as F

import comfy.model_management
import comfy.model_patcher
import comfy.ops


class Block(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = comfy.ops.Conv2d(width, width, 3, padding=1)

    def forward(self, h):
        return h + self.conv(F.silu(h))


class Network(torch.nn.Module):
    def __init__(self, channels=4, width=16):
        super().__init__()
        self.encoder = comfy.ops.Conv2d(3, channels, 8, 8)
        self.decoder = torch.nn.Sequential(
            comfy.ops.Conv2d(channels, width, 3, padding=1), Block(width), comfy.ops.Conv2d(width, 192, 1)
        )

    def encode(self, image):
        frames = image.ndim == 5
        latent = self.encoder(image.squeeze(2) if frames else image)
        return latent.unsqueeze(2) if frames else latent

    def decode(self, latent):
        frames = latent.ndim == 5
        image = F.pixel_shuffle(self.decoder(latent.squeeze(2) if frames else latent), 8)
        return image.unsqueeze(2) if frames else image


class VAE:
    """latent_dim: 3 for a video's, to which an image is one frame."""

    latent_channels, vae_dtype = 4, torch.float32

    def __init__(self, latent_dim=2):
        self.device, self.latent_dim = comfy.model_management.get_torch_device(), latent_dim
        self.downscale_ratio = (4, 8, 8) if latent_dim == 3 else 8
        self.first_stage_model = Network()
        self.patcher = comfy.model_patcher.ModelPatcher(self.first_stage_model, self.device, self.device)

    def process_output(self, image):
        return image.add_(1).div_(2).clamp_(0, 1)

    def memory_used_decode(self, shape, dtype):
        return 1e3 * torch.Size(shape).numel()

    def encode(self, image):
        """[B, H, W, 3] in 0..1 -> latents."""
        image = image.movedim(-1, 1) * 2 - 1
        return self.first_stage_model.encode(image.unsqueeze(2) if self.latent_dim == 3 else image)

    def decode_tiled(self, latent):
        """-> [B, H, W, 3], with frames [B, 1, H, W, 3], in two halves."""
        halves = [self.first_stage_model.decode(half) for half in latent.chunk(2, dim=-1)]
        return self.process_output(torch.cat(halves, dim=-1)).movedim(1, -1)
