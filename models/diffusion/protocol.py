"""What a sampler, and an algorithm that guides one, asks of a diffusion model.

The convention is k-diffusion's and ComfyUI's: x = x0 + sigma * noise, and a denoiser maps (x, sigma, context) to
its prediction of x0. Latents come in two scales, as in ComfyUI: the LATENT socket and the `Autoencoder` hold the
VAE's own; a `Denoiser` works in its model's (SD: times 0.18215) and converts with `latent_in` and `latent_out`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

import torch

Conditioning = list[list[Any]]
"""ComfyUI's CONDITIONING: [[embeds [B, T, D], {"pooled_output": [B, P] or None, ...}], ...]."""


INVERTED_NOISE = "inverted_noise"
"""Key of a LATENT under which DDIM Inversion of a rectified-flow model leaves the noise [B, C, h, w] that leads back
to `samples`."""

Control = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, int, tuple[int, int]], torch.Tensor]
"""Cross-attention: (queries [R, h w, C], keys [R, T, C], values [R, T, C], heads, (h, w)) -> [R, h w, C]."""


class TextContext(Protocol):
    """A conditioning as a denoiser takes it."""

    @property
    def embeds(self) -> torch.Tensor:
        """[B or 1, T, D] the text's own tokens (of its first part, where it has several)."""

    @property
    def width(self) -> int:
        """D: the width of a token, which an appended token must have."""

    def append(self: Context, tokens: torch.Tensor) -> Context:
        """A new context with `tokens` [B, n, D] after the text's (MUSE's circled plus); differentiable in them."""

    def rows(self: Context, rows: torch.Tensor) -> Context | None:
        """The context of some images of the batch; None where the host cannot take a batch apart."""


Context = TypeVar("Context", bound=TextContext)
"""An engine's own kind of `TextContext`."""


class Denoiser(Protocol[Context]):
    """A network that predicts the clean latent."""

    sigma_table: torch.Tensor
    """[T] the training schedule's sigmas, ascending: what schedules are made from."""

    def context(self, conditioning: Any, /) -> Context:
        """The context of a CONDITIONING, as the engine hands it over."""

    @property
    def single_precision(self) -> bool:
        """Whether it computes in single precision throughout, so that small differences of what it gives mean
        something."""

    plain_guidance: bool
    """Whether `guided` is equation 6 of MUSE and nothing else, so that predictions that are there already may be
    combined."""

    def short_of_memory(self, x: torch.Tensor) -> bool:
        """Whether activations for a backward pass at x [B, C, h, w] would not fit beside what is loaded."""

    def resident(self) -> Any:
        """What is equal as long as the host has moved no weight in or out of the device's memory; None where it
        never does, and gradients need no check (`selfcheck`)."""

    def gradients(self, save_memory: bool = False) -> AbstractContextManager[None]:
        """The block inside which `__call__` is differentiable, whatever mode the host runs in; with
        `save_memory`, activations are computed again in the backward pass in place of being kept."""

    def latent_in(self, latent: torch.Tensor) -> torch.Tensor:
        """VAE scale -> the denoiser's."""

    def latent_out(self, latent: torch.Tensor) -> torch.Tensor:
        """The denoiser's scale -> VAE scale."""

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, context: Context) -> torch.Tensor:
        """x [B, C, h, w], sigma [B] -> clean latent [B, C, h, w]. Differentiable in x and context where grad is on;
        no gradient ever reaches the weights."""

    def side_by_side(self, contexts: Sequence[Context], n: int) -> Context:
        """One context for a batch of n rows of each in turn, padded at the end to one length. Its padding is to be cut
        off by a control (`attention`). UserError where a host cannot join them."""

    def attention(self, control: Control) -> AbstractContextManager[None]:
        """The block inside which `control` takes the place of every cross-attention between queries, keys and values.
        UserError where something else has taken it already."""

    def guided(
        self,
        x: torch.Tensor,
        sigma: torch.Tensor,
        positive: Context,
        negative: Context,
        cfg: float,
        own: list[torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """The clean latent under classifier-free guidance, as the host's own sampling makes it. Without gradients. The
        prediction under the positive text alone, which is made on the way, is put into `own`."""


class Autoencoder(Protocol):
    """Pixels from and to latents in the VAE's own scale."""

    @property
    def single_precision(self) -> bool:
        """Whether it computes in single precision throughout, so that small differences of what it gives mean
        something."""

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

    def gradients(self, save_memory: bool = False) -> AbstractContextManager[None]:
        """As `Denoiser.gradients`, for `decode`."""


Step = Callable[[int, torch.Tensor], None]
"""What an algorithm calls after each of its steps: (step, prediction [B, C, h, w])."""


Algorithm = Callable[[Denoiser[Any], dict[str, Any], torch.Tensor, torch.Tensor, Step], torch.Tensor]
"""An algorithm in a sampler's place (`Engine.run`):

    (denoiser, contexts, latent [B, C, h, w] in the denoiser's scale, sigmas [n + 1] descending, callback) -> a latent

The convention is x = x0 + sigma noise on every engine and model: rectified flows are handed over as `flow.AddedNoise`.
`contexts` are those of the texts that were given to `run`, by name; `callback` is to be called after each step: it
shows progress and previews, and stops the run where the user asked for it."""


class Run(Protocol):
    """The state of a `Method` in one run of a sampler."""

    mask: torch.Tensor | None
    """[B, 1, h, w], where a latent mask is set; an engine whose mask changes with the noise level replaces it."""

    def predict(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """x [B, C, h, w], sigma [B] -> the guided clean latent that the sampler goes on with."""


class Method(Protocol):
    """A method that steers a sampler from its first step to its last (`Engine.guider`). It knows no engine."""

    @property
    def cfg(self) -> float:
        """The scale of classifier-free guidance."""

    @property
    def networks(self) -> Sequence[Any]:
        """The networks that it runs beside the diffusion model and the VAE; the engine has them where they are
        needed."""

    @property
    def differentiates(self) -> bool:
        """Whether it runs backward through denoiser and decoder, for which the engine finds memory."""

    def start(
        self,
        denoiser: Denoiser[Context],
        autoencoder: Autoencoder,
        positive: Context,
        negative: Context,
        x: torch.Tensor,
        sigmas: torch.Tensor,
        latent: torch.Tensor | None,
        mask: torch.Tensor | None,
    ) -> Any:
        """A `Run`. x [B, C, h, w] is where sampling starts, or anything of that shape, device and type; sigmas [n +
        1] the schedule; latent and mask ([B, C, h, w] and [B, 1, h, w], denoiser's scale) what lies under a latent
        mask."""

    def finish(self, run: Any, samples: torch.Tensor) -> None:
        """Called once the run has led to `samples` (VAE scale)."""


class Guider(Protocol):
    """The GUIDER socket with a method inside."""

    method: Any
    """The `Method`."""

    def sample(
        self,
        noise: torch.Tensor,
        latent_image: torch.Tensor,
        sampler: Any,
        sigmas: torch.Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> torch.Tensor:
        """As ComfyUI's CFGGuider: noise and latent_image [B, C, h, w] in the VAE's scale -> samples in the same."""


class Engine(Protocol):
    """A program that holds diffusion models and samples from them. `diffusion.engine(model)` gives a model's own.
    Sockets (MODEL, VAE, CLIP, GUIDER, LATENT, SAMPLER) are the engine's objects, which only it looks into."""

    def guider(self, model: Any, vae: Any, positive: Conditioning, negative: Conditioning, method: Method) -> Guider:
        """A GUIDER whose every prediction is the method's. UserError where model, VAE and texts do not fit together, or
        the model cannot be guided."""

    def sample(
        self,
        guider: Any,
        latent_image: dict[str, Any],
        seed: int,
        sampler_name: str,
        scheduler: str,
        steps: int,
        denoise: float,
        add_noise: bool,
    ) -> dict[str, Any]:
        """Samples a LATENT with a GUIDER, with a progress bar: what SamplerCustomAdvanced does."""

    def run(
        self,
        model: Any,
        texts: dict[str, Conditioning],
        algorithm: Algorithm,
        latent: torch.Tensor,
        sigmas: torch.Tensor,
        seed: int = 0,
        rows: int = 2,
        label: str = "sampling",
    ) -> torch.Tensor:
        """Runs an algorithm in a sampler's place, with everything that the engine does around sampling: loading, hooks,
        progress, interruption.

        texts   by name, as the algorithm gets their contexts
        latent  [B, C, h, w] in the VAE's scale, as is what comes back (on the CPU, or where the engine keeps latents)
        sigmas  [n + 1] descending, of `sigmas` or others
        rows    how many rows of a batch an image takes
        label   what the progress bar says
        """

    def sigmas(self, model: Any, scheduler: str, steps: int) -> torch.Tensor:
        """[steps + 1] descending to 0: a scheduler's noise levels for a model."""

    def is_flow(self, model: Any) -> bool:
        """Whether a model is a rectified flow (SD3, FLUX, Qwen-Image): its first step holds nothing of a latent."""

    def encode_text(self, clip: Any, text: str) -> Conditioning:
        """A prompt as CONDITIONING, by the CLIP socket's encoder."""

    def encode_image(self, vae: Any, image: torch.Tensor) -> torch.Tensor:
        """IMAGE [B, H, W, C] in 0..1 -> latents [B, C, h, w] in the VAE's scale, centre-cropped to its factor."""

    def load(self, *networks: torch.nn.Module) -> None:
        """Puts networks of ours on the device they run on, where the engine moves them about."""

    def sampling_choices(self) -> tuple[list[str], list[str]]:
        """The names of the samplers and of the schedulers that it has."""

    def tiny_pipeline(self) -> tuple[Any, Any, Any]:
        """(MODEL, CLIP, VAE) of the bundled tiny model."""
