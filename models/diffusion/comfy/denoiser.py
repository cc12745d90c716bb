"""A loaded diffusion model of ComfyUI as `protocol.Denoiser`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.samplers
import comfy.utils
import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ...errors import UserError
from ...tensors.gradients import checkpointed, deterministic, mutation_allowed, ordinary_inputs, ordinary_weights
from ..protocol import Control
from .attention import controlled
from .conds import CROSS, CondContext, ordinary_conds
from .memory import casts
from .patches import differentiable, patched
from .weights import own_weights, training

_STEPS = "a range of steps (ConditioningSetTimestepRange)"
_BOUND = {
    "area": "an area",
    "mask": "a mask",
    "control": "a ControlNet",
    "gligen": "a GLIGEN box",
    "timestep_start": _STEPS,
    "timestep_end": _STEPS,
    "hooks": "hooks (a LoRA or a schedule of its own)",
    "default": "a default part",
}
"""What a cond may carry that holds for itself alone -> in words."""

_WHOLE_DENOISER = 15.0
"""Memory of a pass with its backward pass where every activation is kept, in passes without (counted: SDXL at 1024 x
1024 keeps 12 times what ComfyUI asks for a pass, FLUX 15 times)."""

_WHOLE_DECODER = 3.0
"""The same of the VAE's decoder, in decodings of which ComfyUI counts the peak."""


def flat(latent: Any) -> Any:
    """[B, C, 1, h, w], an image as a video's one frame, -> [B, C, h, w]; what has no frames stays as it is, and None
    stays None."""
    return latent if latent is None or latent.ndim != 5 else latent.squeeze(2)


class ComfyDenoiser:
    """A loaded BaseModel under the model options of a run, as `protocol.Denoiser`. Lives as long as the run."""

    def __init__(self, model: Any, options: dict[str, Any], seed: int | None = None, vae: Any = None):
        self.model, self.vae = model, vae  # the VAE that decodes beside it, where one does
        self._brought: list[torch.nn.Module] = []
        self._shapes = 0, (0, 0)  # tokens of text and size of the latent of the call that is under way
        self.seed, self.options, self._gradient_options = seed, options, differentiable(options)
        self.sigma_table = model.model_sampling.sigmas
        quantised = any(is_traceable_wrapper_subclass(p) for p in model.diffusion_model.parameters())
        self.single_precision = (model.manual_cast_dtype or model.get_dtype()) == torch.float32 and not quantised
        self._frames = model.latent_format.latent_dimensions == 3
        self.plain_guidance = False  # the user's patches belong to it

    def use(self, options: dict[str, Any], seed: int | None) -> None:
        """Takes the options of this model call: a sampler may hand on others than at the last."""
        self.seed = seed
        if options is not self.options:
            self.options, self._gradient_options = options, differentiable(options)

    def context(self, conds: list[dict[str, Any]]) -> CondContext:
        """The context of conds that ComfyUI has processed. UserError where tokens cannot be appended."""
        self._brought = [cond["gligen"][1].model for cond in conds if cond.get("gligen")]
        return CondContext(conds).check()

    def resident(self) -> Any:
        """See `protocol.Denoiser`."""
        return self.model.current_patcher.loaded_size()

    @contextmanager
    def gradients(self, save_memory: bool = False) -> Iterator[None]:
        network = self.model.diffusion_model
        save_memory = save_memory or casts(network)
        with (
            deterministic(),
            ordinary_weights(self.model, *self._brought),
            own_weights(),
            training(),
            checkpointed(*[network] * save_memory),
            ExitStack() as stack,
        ):
            if patched(self.options) or (not save_memory and not hasattr(network, "input_blocks")):
                # Patches and transformers write into what autograd has saved. (Block-wise recomputation sees to a
                # transformer's own by itself, and the UNet has its one case in `patches.differentiable`, because this
                # takes time for every operation.)
                stack.enter_context(mutation_allowed())
            yield

    def short_of_memory(self, x: torch.Tensor) -> bool:
        """On a GPU that cannot hold every activation block-wise recomputation is on from the start: some systems
        page to the machine's memory in place of saying that there is no more, and a step then takes minutes."""
        if x.device.type == "cpu":
            return False
        shape = self._framed(x).shape
        need = _WHOLE_DENOISER * self.model.memory_required(list(shape))
        if self.vae is not None:
            need += _WHOLE_DECODER * len(x) * self.vae.memory_used_decode([1, *shape[1:]], self.vae.vae_dtype)
        return need > comfy.model_management.get_free_memory(x.device)

    def _framed(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, h, w] as the model has it: models for video (Qwen-Image, Wan) take an image as one frame, [B, C, 1,
        h, w]."""
        return x.unsqueeze(2) if self._frames else x

    def latent_in(self, latent: torch.Tensor) -> torch.Tensor:
        with ordinary_inputs():  # a latent format holds tensors of its own
            return flat(self.model.process_latent_in(self._framed(latent)))

    def latent_out(self, latent: torch.Tensor) -> torch.Tensor:
        with ordinary_inputs():
            return flat(self.model.process_latent_out(self._framed(latent)))

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, context: CondContext) -> torch.Tensor:
        """See `protocol.Denoiser`."""
        self._shapes = context.embeds.shape[1], (x.shape[-2], x.shape[-1])
        x = self._framed(x)
        if not torch.is_grad_enabled():
            return flat(comfy.samplers.calc_cond_batch(self.model, [context.conds], x, sigma, self.options)[0])
        try:
            return flat(
                comfy.samplers.calc_cond_batch(
                    self.model, [ordinary_conds(context.conds)], x, sigma, self._gradient_options
                )[0]
            )
        except RuntimeError as error:
            if "_scaled_mm" in str(error) or "out=..." in str(error):
                raise UserError(
                    "This MODEL multiplies in fp8 (fp8 fast), which has no backward pass. Load it with another weight "
                    "type (fp8 without fast, fp16 or bf16)."
                ) from error
            raise

    def side_by_side(self, contexts: Sequence[CondContext], n: int) -> CondContext:
        """See `protocol.Denoiser`. UserError for conditionings combined of several, or with areas, masks,
        ControlNets, a range of steps or hooks: all rows of the one batch would get the source's."""
        given = []
        for context in contexts:
            bound = [what for name, what in _BOUND.items() if any(cond.get(name) is not None for cond in context.conds)]
            if len(context.conds) != 1 or bound:
                raise UserError(
                    "The attention blend takes one plain text for the source and one for the target; a conditioning "
                    f"here {'has ' + bound[0] if bound else 'is combined of several'}. Connect the text encoder's own."
                )
            given.append(context.conds[0]["model_conds"])
        length = max(c.embeds.shape[1] for c in contexts)
        joined = {}
        for name, first in given[0].items():
            values = [conds[name].cond for conds in given]
            if isinstance(first.cond, torch.Tensor) and first.cond.ndim:
                rows = [comfy.utils.repeat_to_batch_size(t, n) for t in values]
                if name == CROSS:
                    rows = [torch.nn.functional.pad(t, (0, 0, 0, length - t.shape[1])) for t in rows]
                joined[name] = first._copy_with(torch.cat(rows))
            else:
                joined[name] = first
        return CondContext([{**contexts[0].conds[0], "model_conds": joined}])

    @contextmanager
    def attention(self, control: Control) -> Iterator[None]:
        """See `protocol.Denoiser`."""
        options = comfy.model_patcher.create_model_options_clone(self.options)
        controlled(self.model, options, control, lambda: self._shapes)
        before, self.options = self.options, options
        try:
            yield
        finally:
            self.options = before

    def guided(
        self,
        x: torch.Tensor,
        sigma: torch.Tensor,
        positive: CondContext,
        negative: CondContext,
        cfg: float,
        own: list[torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """See `protocol.Denoiser`: ComfyUI's own, with every patch to guidance that the model carries."""
        options = self.options
        if own is not None:

            def keep(args: dict[str, Any]) -> torch.Tensor:
                own.append(flat(args["cond_denoised"]))
                return args["denoised"]

            options = {**options, "sampler_post_cfg_function": [keep, *options.get("sampler_post_cfg_function", [])]}
        return flat(
            comfy.samplers.sampling_function(
                self.model,
                self._framed(x),
                sigma,
                negative.conds,
                positive.conds,
                cfg,
                model_options=options,
                seed=self.seed,
            )
        )
