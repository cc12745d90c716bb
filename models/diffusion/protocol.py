"""What a sampler, and an algorithm that guides one, asks of a diffusion model.

The convention is k-diffusion's and ComfyUI's: x = x0 + sigma * noise, and a denoiser maps (x, sigma, context) to
its prediction of x0. Latents come in two scales, as in ComfyUI: the LATENT socket and the `Autoencoder` hold the
VAE's own; a `Denoiser` works in its model's (SD: times 0.18215) and converts with `latent_in` and `latent_out`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ContextManager, Protocol, runtime_checkable

import torch

Conditioning = list[list[Any]]
"""ComfyUI's CONDITIONING: [[embeds [B, T, D], {"pooled_output": [B, P] or None, ...}], ...]."""


Control = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, int, tuple[int, int]], torch.Tensor]
"""Cross-attention: (queries [R, h w, C], keys [R, T, C], values [R, T, C], heads, (h, w)) -> [R, h w, C]."""


@runtime_checkable
class TextContext(Protocol):
    """A conditioning as a denoiser takes it."""

    embeds: torch.Tensor
    """[B or 1, T, D] the text's own tokens (of its first part, where it has several)."""

    @property
    def width(self) -> int:
        """D: the width of a token, which an appended token must have."""

    def append(self, tokens: torch.Tensor) -> TextContext:
        """A new context with `tokens` [B, n, D] behind the text's (MUSE's circled plus); differentiable in them."""

    def rows(self, rows: torch.Tensor) -> TextContext | None:
        """The context of some images of the batch; None where the host cannot take a batch apart."""


@runtime_checkable
class Denoiser(Protocol):
    """A network that predicts the clean latent."""

    sigma_table: torch.Tensor
    """[T] the training schedule's sigmas, ascending: what schedules are made from."""

    def context(self, conditioning: Conditioning) -> TextContext:
        """The context of a CONDITIONING."""

    single_precision: bool
    """Whether it computes in single precision throughout, so that small differences of what it gives mean something."""

    plain_guidance: bool
    """Whether `guided` is equation 6 of MUSE and nothing else, so that predictions that are there already may be
    combined."""

    def short_of_memory(self, x: torch.Tensor) -> bool:
        """Whether activations for a backward pass at x [B, C, h, w] would not fit beside what is loaded."""

    def resident(self) -> Any:
        """What is equal as long as the host has moved no weight in or out of the device's memory; None where it
        never does, and gradients need no check (`selfcheck`)."""

    def gradients(self, save_memory: bool = False) -> ContextManager[None]:
        """The block inside which `__call__` is differentiable, whatever mode the host runs in; with
        `save_memory`, activations are computed again in the backward pass in place of being kept."""

    def latent_in(self, latent: torch.Tensor) -> torch.Tensor:
        """VAE scale -> the denoiser's."""

    def latent_out(self, latent: torch.Tensor) -> torch.Tensor:
        """The denoiser's scale -> VAE scale."""

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, context: TextContext) -> torch.Tensor:
        """x [B, C, h, w], sigma [B] -> clean latent [B, C, h, w]. Differentiable in x and context where grad is on;
        no gradient ever reaches the weights."""

    def side_by_side(self, contexts: Sequence[TextContext], n: int) -> TextContext:
        """One context for a batch of n rows of each in turn, padded behind to one length. Its padding is to be cut
        off by a control (`attention`). UserError where a host cannot join them."""

    def attention(self, control: Control) -> ContextManager[None]:
        """The block inside which `control` takes the place of every cross-attention between queries, keys and values.
        UserError where something else has taken it already."""

    def guided(
        self,
        x: torch.Tensor,
        sigma: torch.Tensor,
        positive: TextContext,
        negative: TextContext,
        cfg: float,
        own: list[torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """The clean latent under classifier-free guidance, as the host's own sampling makes it. Without gradients. The
        prediction under the positive text alone, which is made on the way, is put into `own`."""


@runtime_checkable
class Autoencoder(Protocol):
    """Pixels from and to latents in the VAE's own scale."""

    single_precision: bool
    """Whether it computes in single precision throughout, so that small differences of what it gives mean something."""

    factor: int
    """Pixels per latent cell along each side."""

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W] in 0..1 -> [B, C, H/factor, W/factor], the distribution's mode."""

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """[B, C, h, w] -> [B, 3, H, W] in 0..1 (clamped, with gradients passing the clamp). Differentiable."""

    def decode_raw(self, latent: torch.Tensor) -> torch.Tensor:
        """As `decode`, without the clamp."""

    def resident(self) -> Any:
        """As `Denoiser.resident`."""

    def gradients(self, save_memory: bool = False) -> ContextManager[None]:
        """As `Denoiser.gradients`, for `decode`."""
