"""The MODEL socket of the embedded host: a diffusers UNet as `protocol.Denoiser`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional as F

from ...errors import UserError
from ...tensors.batch import repeat_to_batch
from ...tensors.gradients import checkpointed, deterministic, frozen, ordinary_weights
from ..protocol import Conditioning, Control
from ..sampling import sd_sigmas, sigma_to_timestep
from .conds import UNetContext


class _Controlled:
    """A diffusers attention processor that hands cross-attention's queries, keys and values to a control."""

    def __init__(self, control: Control, latent: list[int]):
        self.control, self.latent = control, latent  # [h, w] of the call that runs

    def __call__(
        self, attn: Any, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor, *_: Any, **__: Any
    ) -> torch.Tensor:
        h, w = self.latent
        while h * w > hidden_states.shape[1]:  # each level's convolution of stride 2 rounds up
            h, w = (h + 1) // 2, (w + 1) // 2
        q, k, v = attn.to_q(hidden_states), attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states)
        return attn.to_out[0](self.control(q, k, v, attn.heads, (h, w)))


class DiffusersModel:
    """The MODEL socket: a diffusers UNet as a `protocol.Denoiser`.

    unet         UNet2DConditionModel; put into evaluation mode without gradients to its weights
    prediction   "epsilon" or "v_prediction": what the UNet was trained to give
    latent_scale the factor between the VAE's latents and the UNet's (SD1.5: 0.18215, SDXL: 0.13025)
    """

    plain_guidance = True

    def __init__(
        self,
        unet: Any,
        prediction: str = "epsilon",
        latent_scale: float = 0.18215,
        sigma_table: torch.Tensor | None = None,
    ):
        frozen([unet])
        self.unet = unet
        self.prediction = prediction
        self.latent_scale = latent_scale
        self.sigma_table = sd_sigmas() if sigma_table is None else sigma_table
        self._latent = [0, 0]

    @property
    def device(self) -> torch.device:
        return next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.unet.parameters()).dtype

    @property
    def single_precision(self) -> bool:
        """See `protocol.Denoiser`."""
        return self.dtype == torch.float32

    def resident(self) -> None:
        """See `protocol.Denoiser`: these weights stay where they are."""

    @contextmanager
    def gradients(self, save_memory: bool = False) -> Iterator[None]:
        with deterministic(), ordinary_weights(self.unet), checkpointed(*[self.unet] * save_memory):
            yield

    def short_of_memory(self, x: torch.Tensor) -> bool:
        return False  # found out by trying

    def latent_in(self, latent: torch.Tensor) -> torch.Tensor:
        return latent.to(self.device, torch.float32) * self.latent_scale

    def latent_out(self, latent: torch.Tensor) -> torch.Tensor:
        return latent / self.latent_scale

    def fit_empty(self, latent: torch.Tensor) -> torch.Tensor:
        """An empty latent (all zeros) with as many channels as this model has: EmptyLatentImage makes four. Any other
        latent as it is; UserError where its channels do not fit."""
        channels = self.unet.config.in_channels
        if latent.shape[1] == channels:
            return latent
        if torch.count_nonzero(latent) == 0:
            return latent.new_zeros(latent.shape[0], channels, *latent.shape[2:])
        raise UserError(
            f"This latent has {latent.shape[1]} channels and the model takes {channels}: it was encoded "
            "with another model's VAE."
        )

    def context(self, conditioning: Conditioning) -> UNetContext:
        """UserError where the conditioning is combined of several, or of another width than the UNet's."""
        if len(conditioning) != 1:
            raise UserError(
                f"A conditioning combined of {len(conditioning)} parts needs ComfyUI itself: run this "
                "workflow there, or encode the whole prompt in one CLIPTextEncode."
            )
        embeds, options = conditioning[0]
        width = self.unet.config.cross_attention_dim
        width = width if isinstance(width, int) else width[-1]
        if embeds.shape[-1] != width:
            raise UserError(
                f"The conditioning is {embeds.shape[-1]} wide and this model takes {width}: the CLIP and "
                "the MODEL belong to different checkpoints. Load both from one."
            )
        pooled = options.get("pooled_output")
        if pooled is None and self.unet.config.addition_embed_type == "text_time":
            raise UserError(
                "SDXL reads a pooled text beside the words, and this conditioning has none: encode it with SDXL's own "
                "CLIP."
            )
        return UNetContext(embeds.to(self.device), pooled.to(self.device) if pooled is not None else None)

    def side_by_side(self, contexts: Sequence[UNetContext], n: int) -> UNetContext:
        """See `protocol.Denoiser`."""
        length = max(c.embeds.shape[1] for c in contexts)
        embeds = [F.pad(repeat_to_batch(c.embeds, n), (0, 0, 0, length - c.embeds.shape[1])) for c in contexts]
        pooled = [repeat_to_batch(c.pooled, n) for c in contexts if c.pooled is not None]
        return UNetContext(torch.cat(embeds), torch.cat(pooled) if len(pooled) == len(contexts) else None)

    @contextmanager
    def attention(self, control: Control) -> Iterator[None]:
        """See `protocol.Denoiser`."""
        before = self.unet.attn_processors
        taken = _Controlled(control, self._latent)
        self.unet.set_attn_processor({k: taken if ".attn2." in k else v for k, v in before.items()})
        try:
            yield
        finally:
            self.unet.set_attn_processor(before)

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, context: UNetContext) -> torch.Tensor:
        """See `protocol.Denoiser`: x [B, C, h, w] (denoiser scale), sigma [B] -> clean latent [B, C, h, w]."""
        self._latent[:] = x.shape[-2:]
        s = sigma.view(-1, 1, 1, 1).to(x)
        scaled = (x / (s**2 + 1) ** 0.5).to(self.dtype)
        t = sigma_to_timestep(sigma, self.sigma_table)
        embeds = repeat_to_batch(context.embeds.to(self.dtype), len(x))
        out = self.unet(scaled, t.to(x.device), embeds, added_cond_kwargs=self._added(context, x)).sample.to(x.dtype)
        if self.prediction == "v_prediction":
            return x / (s**2 + 1) - out * s / (s**2 + 1) ** 0.5
        return x - out * s

    def guided(
        self,
        x: torch.Tensor,
        sigma: torch.Tensor,
        positive: UNetContext,
        negative: UNetContext,
        cfg: float,
        own: list[torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """See `protocol.Denoiser`. Both predictions run in one batch where their texts' lengths agree; at cfg 1 the
        negative does not run at all."""
        with torch.no_grad():
            if cfg == 1.0:
                cond = uncond = self(x, sigma, positive)
            elif positive.embeds.shape[1] == negative.embeds.shape[1]:
                n = x.shape[0]
                both = self.side_by_side([positive, negative], n)
                cond, uncond = self(torch.cat([x, x]), torch.cat([sigma, sigma]), both).chunk(2)
            else:
                cond, uncond = self(x, sigma, positive), self(x, sigma, negative)
            if own is not None:
                own.append(cond)
            return uncond + cfg * (cond - uncond)

    def _added(self, context: UNetContext, x: torch.Tensor) -> dict[str, torch.Tensor] | None:
        if self.unet.config.addition_embed_type != "text_time":
            return None
        # SDXL's size conditioning, as ComfyUI fills it: original size, no crop, target size, in pixels.
        h, w = x.shape[-2] * 8, x.shape[-1] * 8
        ids = torch.tensor([[h, w, 0, 0, h, w]], device=x.device, dtype=self.dtype).expand(x.shape[0], -1)
        assert context.pooled is not None  # `context` refuses such a text
        return {"text_embeds": repeat_to_batch(context.pooled.to(self.dtype), len(x)), "time_ids": ids}
