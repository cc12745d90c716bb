"""The protocol over diffusers' networks: what MODEL, VAE and GUIDER sockets carry in the embedded host."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn import functional as F

from .. import host
from ..emotions import EmotionTarget
from ..errors import UserError
from ..moodifier.blend import BlendConfig, attention_blend, cells, token_alignment
from ..moodifier.masks import attention_maps
from ..muse import EmotionTokens, Muse, MuseConfig, TimingGate, TraceStore
from ..tensors.batch import repeat_to_batch
from ..tensors.gradients import checkpointed, deterministic, frozen, ordinary_weights
from ..tensors.ranges import clamp01, finite
from . import sampling
from .protocol import Conditioning, Control
from .sampling import Callback, Sampler, ddim_inversion, prepare_noise, schedule, sd_sigmas, sigma_to_timestep


@dataclass(frozen=True)
class UNetContext:
    """Cross-attention input of a UNet: embeds [B or 1, T, D] and, for SDXL, pooled [B or 1, P]."""

    embeds: torch.Tensor
    pooled: torch.Tensor | None = None

    @property
    def width(self) -> int:
        return self.embeds.shape[-1]

    def append(self, tokens: torch.Tensor) -> UNetContext:
        """A new context with tokens [B, n, D] behind the text's."""
        embeds = repeat_to_batch(self.embeds.to(tokens), len(tokens))
        return replace(self, embeds=torch.cat([embeds, tokens], dim=1))

    def rows(self, rows: torch.Tensor) -> UNetContext:
        """The context of some images of a batch, in which a short context's rows are taken in turn."""
        take = lambda t: t if t is None or len(t) == 1 else t[rows % len(t)]
        return replace(self, embeds=take(self.embeds), pooled=take(self.pooled))


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
                "SDXL reads a pooled text beside the words, and this conditioning has none: encode it with SDXL's own CLIP."
            )
        return UNetContext(embeds.to(self.device), pooled.to(self.device) if pooled is not None else None)

    def side_by_side(self, contexts: Sequence[UNetContext], n: int) -> UNetContext:
        """See `protocol.Denoiser`."""
        length = max(c.embeds.shape[1] for c in contexts)
        embeds = [F.pad(repeat_to_batch(c.embeds, n), (0, 0, 0, length - c.embeds.shape[1])) for c in contexts]
        pooled = [None if c.pooled is None else repeat_to_batch(c.pooled, n) for c in contexts]
        return UNetContext(torch.cat(embeds), None if any(p is None for p in pooled) else torch.cat(pooled))

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
                both = UNetContext(
                    *(
                        None if p is None else torch.cat([repeat_to_batch(p, n), repeat_to_batch(q, n)])
                        for p, q in ((positive.embeds, negative.embeds), (positive.pooled, negative.pooled))
                    )
                )
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
        return {"text_embeds": repeat_to_batch(context.pooled.to(self.dtype), len(x)), "time_ids": ids}


class DiffusersVAE:
    """The VAE socket: a diffusers AutoencoderKL as a `protocol.Autoencoder`."""

    def __init__(self, vae: Any):
        frozen([vae])
        self.vae = vae
        self.factor = 2 ** (len(vae.config.block_out_channels) - 1)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.vae.parameters()).dtype

    @torch.no_grad()
    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W] in 0..1 -> [B, C, H/8, W/8]: the distribution's mode. UserError where a side is smaller
        than one latent cell or not divisible by the factor (crop first, as VAEEncode does)."""
        h, w = image.shape[-2:]
        if h < self.factor or w < self.factor or h % self.factor or w % self.factor:
            raise UserError(
                f"An image of {w} x {h} pixels cannot be encoded: both sides must be multiples of "
                f"{self.factor}. Scale or crop it first."
            )
        device = next(self.vae.parameters()).device
        return self.vae.encode(image.to(device, self.dtype) * 2 - 1).latent_dist.mode().float()

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """[B, C, h, w] -> [B, 3, H, W] in 0..1. Differentiable in the latent; gradients pass the clamp."""
        return clamp01(self.decode_raw(latent))

    def decode_raw(self, latent: torch.Tensor) -> torch.Tensor:
        """As `decode`, without the clamp."""
        channels = self.vae.config.latent_channels
        if latent.shape[1] != channels:
            raise UserError(
                f"This VAE decodes latents of {channels} channels and this one has {latent.shape[1]}: VAE and model belong to "
                "different families. Take the VAE of the model's own checkpoint."
            )
        device = next(self.vae.parameters()).device
        image = self.vae.decode(latent.to(device, self.dtype)).sample
        return (image.float() + 1) / 2

    @property
    def single_precision(self) -> bool:
        """See `protocol.Autoencoder`."""
        return self.dtype == torch.float32

    def resident(self) -> None:
        """See `protocol.Autoencoder`: these weights stay where they are."""

    @contextmanager
    def gradients(self, save_memory: bool = False) -> Iterator[None]:
        with ordinary_weights(self.vae), checkpointed(*[self.vae] * save_memory):
            yield


class CFGGuider:
    """The GUIDER socket: a denoiser steered by classifier-free guidance, with ComfyUI's `sample` interface."""

    def __init__(self, model: DiffusersModel, positive: Conditioning, negative: Conditioning, cfg: float):
        self.model = model
        self.cfg = cfg
        self.positive, self.negative = model.context(positive), model.context(negative)

    def predict(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """x [B, C, h, w], sigma [B] -> guided clean latent."""
        return self.model.guided(x, sigma, self.positive, self.negative, self.cfg)

    def sample(
        self,
        noise: torch.Tensor,
        latent_image: torch.Tensor,
        sampler: Sampler,
        sigmas: torch.Tensor,
        denoise_mask: torch.Tensor | None = None,
        callback: Callback | None = None,
        seed: int = 0,
    ) -> torch.Tensor:
        """noise and latent_image [B, C, h, w] in VAE scale -> samples in VAE scale. denoise_mask [B, h', w'] or
        [B, 1, h', w'] in 0..1 is resized to the latent. An empty `sigmas` returns the latent."""
        model = self.model
        latent = model.latent_in(latent_image)
        mask = None if denoise_mask is None else resize_mask(denoise_mask, latent)
        out = sampling.sample(
            self.predict,
            noise.to(latent),
            latent,
            sigmas,
            sampler,
            float(model.sigma_table[-1]),
            seed=seed or 0,
            mask=mask,
            callback=callback,
        )
        return model.latent_out(out).cpu()


class MuseGuider(CFGGuider):
    """A GUIDER whose predictions carry emotional tokens (`muse.Muse`); traces are found by the latent it returned."""

    def __init__(
        self,
        model: DiffusersModel,
        vae: DiffusersVAE,
        classifier: Any,
        positive: Conditioning,
        negative: Conditioning,
        emotion: EmotionTarget | Sequence[EmotionTarget],
        config: MuseConfig,
        gate: TimingGate | None = None,
        init_tokens: EmotionTokens | None = None,
    ):
        super().__init__(model, positive, negative, config.cfg)
        self.muse = Muse(model, vae, classifier, self.positive, self.negative, emotion, config, gate, init_tokens)
        self.traces = TraceStore()

    def sample(
        self,
        noise: torch.Tensor,
        latent_image: torch.Tensor,
        sampler: Sampler,
        sigmas: torch.Tensor,
        denoise_mask: torch.Tensor | None = None,
        callback: Callback | None = None,
        seed: int = 0,
    ) -> torch.Tensor:
        """As `CFGGuider.sample`. UserError where there is no step to optimise in."""
        if sigmas.numel() < 2:
            raise UserError("There are no steps to sample: raise denoise above 0 or the number of steps.")
        latent = self.model.latent_in(latent_image)
        mask = None if denoise_mask is None else resize_mask(denoise_mask, latent)
        self.muse.start(latent, sigmas, latent, mask)
        out = super().sample(noise, latent_image, sampler, sigmas, denoise_mask, callback, seed)
        self.muse.finish()
        self.traces.put(out, self.muse.trace, self.muse.result())
        return out

    def predict(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return self.muse.predict(x, sigma)


def sample(
    guider: CFGGuider,
    latent_image: dict[str, Any],
    seed: int,
    sampler_name: str,
    scheduler: str,
    steps: int,
    denoise: float,
    add_noise: bool,
) -> dict[str, Any]:
    """Samples a LATENT with a guider, with a progress bar."""
    latent = guider.model.fit_empty(latent_image["samples"])
    noise = prepare_noise(latent, seed, latent_image.get("batch_index")) if add_noise else torch.zeros_like(latent)
    sigmas = schedule(scheduler, guider.model.sigma_table, steps, denoise)
    bar = host.current().progress(steps, "sampling")
    try:
        samples = guider.sample(
            noise,
            latent,
            Sampler(sampler_name),
            sigmas,
            latent_image.get("noise_mask"),
            callback=lambda *_: bar.update(),
            seed=seed,
        )
    finally:
        bar.close()
    return {**latent_image, "samples": samples}


def invert(
    model: DiffusersModel, positive: Conditioning, latent: torch.Tensor, steps: int, scheduler: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """DDIM inversion of latents [B, C, h, w] (VAE scale) under their description at cfg 1, with a progress bar.
    Returns what to sample from: the noised latent, and no noise."""
    context = model.context(positive)
    bar = host.current().progress(steps, "inverting")
    try:
        noise = ddim_inversion(
            lambda x, s: model(x, s, context),
            model.latent_in(latent),
            schedule(scheduler, model.sigma_table, steps),
            callback=lambda *_: bar.update(),
        )
    finally:
        bar.close()
    noised = model.latent_out(noise).cpu()
    return noised, torch.zeros_like(noised)


def blend(
    model: DiffusersModel,
    source: Conditioning,
    target: Conditioning,
    negative: Conditioning | None,
    latent_image: dict[str, Any],
    mask: torch.Tensor,
    steps: int,
    scheduler: str,
    config: BlendConfig,
    seed: int,
    texts: tuple[str, str] = ("", ""),
) -> dict[str, Any]:
    """The LATENT edited from a source to a target text inside a mask (`moodifier.blend.attention_blend`), with a
    progress bar. `texts` are those of source and target where they are known: their words are then told from one
    another by their tokens."""
    latent = model.latent_in(latent_image["samples"])
    generator = torch.Generator().manual_seed(seed)
    bar = host.current().progress(steps, "editing")

    def stepped(step: int, edited: torch.Tensor) -> None:
        host.current().check_interrupted()
        finite(edited, f"The model, in step {step + 1} of {steps}, gave")
        bar.update()

    try:
        edited = attention_blend(
            model,
            model.context(source),
            model.context(target),
            None if negative is None else model.context(negative),
            latent,
            cells(mask, latent),
            schedule(scheduler, model.sigma_table, steps).to(latent),
            config,
            lambda: torch.randn(latent.shape, generator=generator).to(latent),
            token_alignment(source, target, texts),
            stepped,
        )
    finally:
        bar.close()
    return {**latent_image, "samples": model.latent_out(edited).cpu()}


def encode_text(clip: Any, text: str) -> Conditioning:
    """A prompt as CONDITIONING, by the CLIP socket's encoder."""
    return clip.encode(text)


def encode_image(vae: Any, image: torch.Tensor) -> torch.Tensor:
    """IMAGE [B, H, W, C] -> latents [B, C, h, w] in the VAE's scale, centre-cropped to its factor."""
    h, w = (side // vae.factor * vae.factor for side in image.shape[1:3])
    top, left = (image.shape[1] - h) // 2, (image.shape[2] - w) // 2
    return vae.encode(image[:, top : top + h, left : left + w, :3].movedim(-1, 1).float())


def cross_attention_maps(
    model: DiffusersModel, positive: Conditioning, latent: torch.Tensor, columns: Sequence[Sequence[int]], seed: int
) -> torch.Tensor:
    """[B, G, h, w]: where a model looks for groups of the text's tokens in latents [B, C, h, w] of the VAE's scale."""
    return attention_maps(model, model.context(positive), model.latent_in(latent), columns, seed).cpu()


def resize_mask(mask: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
    """[B or 1, H, W] or [B or 1, 1, H, W] -> [B, 1, h, w] of `latent`, bilinear, as ComfyUI's prepare_mask."""
    mask = mask.reshape(-1, 1, *mask.shape[-2:]).to(latent)
    mask = torch.nn.functional.interpolate(mask, size=latent.shape[-2:], mode="bilinear")
    return repeat_to_batch(mask, len(latent))
