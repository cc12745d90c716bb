"""Diffusion models by the names of ComfyUI's classes, by which our engine knows them."""

from types import SimpleNamespace

import torch

import comfy.conds
import comfy.latent_formats
import comfy.model_sampling
from comfy.ldm.flux.model import Transformer
from comfy.ldm.unet import UNet
from comfy.patcher_extension import WrappersMP, wrapped


class BaseModel(torch.nn.Module):
    """SD1.5. manual_cast_dtype: what it computes in where that is not the type of its weights."""

    network, sampling, latents = UNet, comfy.model_sampling.Diffusion, comfy.latent_formats.LatentFormat

    def __init__(self, manual_cast_dtype=None):
        super().__init__()
        self.diffusion_model, self.model_sampling, self.latent_format = self.network(), self.sampling(), self.latents()
        self.model_config = SimpleNamespace(unet_config={"context_dim": 16})
        self.manual_cast_dtype, self.current_patcher = manual_cast_dtype, None

    def get_dtype(self):
        return next(self.diffusion_model.parameters()).dtype

    def memory_required(self, shape):
        return 1e3 * torch.Size(shape).numel()

    def process_latent_in(self, latent):
        return self.latent_format.process_in(latent)

    def process_latent_out(self, latent):
        return self.latent_format.process_out(latent)

    def extra_conds(self, cross_attn=None, **cond):
        return {"c_crossattn": comfy.conds.CONDCrossAttn(cross_attn)}

    def apply_model(self, x, sigma, transformer_options, **conds):
        step = wrapped(self._apply_model, WrappersMP.APPLY_MODEL, {"transformer_options": transformer_options})
        return step(x, sigma, transformer_options=transformer_options, **conds)

    def _apply_model(self, x, sigma, c_crossattn, transformer_options, control=None, **conds):
        dtype = self.manual_cast_dtype or self.get_dtype()
        inside = self.model_sampling.calculate_input(sigma, x).to(dtype)
        inside = inside.squeeze(2) if x.ndim == 5 else inside
        out = self.diffusion_model(inside, sigma, c_crossattn.to(dtype), control, transformer_options)
        return self.model_sampling.calculate_denoised(sigma, out.float().view_as(x), x)


class Flux(BaseModel):
    """A rectified flow."""

    network, sampling = Transformer, comfy.model_sampling.Flow


class QwenImage(Flux):
    """A video model, to which an image is one frame."""

    latents = comfy.latent_formats.Frames
