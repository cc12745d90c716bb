"""The protocol over ComfyUI's own objects: MODEL (a ModelPatcher), VAE, CONDITIONING, and a GUIDER that ComfyUI samples
with. Imported inside ComfyUI alone.

Nothing is patched that outlives a call: the guider works on a clone of the model, gradients run through aliases of
the weights (`inference`), and tokens enter through a copy of the conditioning.
"""

from __future__ import annotations

import math
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Iterator, Sequence

import comfy.ldm.flux.math
import comfy.ldm.modules.attention
import comfy.model_management
import comfy.model_patcher
import comfy.model_sampling
import comfy.patcher_extension
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch

from ..emotions import EmotionTarget
from ..errors import UserError
from ..moodifier.blend import BlendConfig, attention_blend, cells, token_alignment
from ..moodifier.masks import attention_maps
from ..muse import EmotionTokens, Muse, MuseConfig, TimingGate, TraceStore
from .inference import checkpointed, deterministic, mutation_allowed, ordinary, ordinary_weights
from .protocol import Conditioning, Control, clamp01, repeat_to_batch
from .sampling import ddim_inversion

_CROSS = "c_crossattn"
_BOUND = {"area": "an area", "mask": "a mask", "control": "a ControlNet", "gligen": "a GLIGEN box", "timestep_start": "a range of steps "
          "(ConditioningSetTimestepRange)", "timestep_end": "a range of steps (ConditioningSetTimestepRange)", "hooks": "hooks (a LoRA or a "
          "schedule of its own)", "default": "a default part"}
"""What a cond may carry that holds for itself alone -> in words."""
_LENGTH_BOUND = ("attention_mask", "num_tokens")
"""Conds that describe the text token by token: appending tokens would make them wrong."""

_KEPT_DENOISER, _KEPT_DECODER = 4.0, 2.0
"""Memory of a pass with its backward pass, block by block, in passes without (rules of thumb)."""

_WHOLE_DENOISER = 15.0
"""The same where every activation is kept (counted: SDXL at 1024 x 1024 keeps 12 times what ComfyUI asks for a pass, FLUX
15 times)."""

_WHOLE_DECODER = 3.0
"""The same of the VAE's decoder, in decodings of which ComfyUI counts the peak."""

_KNOWN = {"BaseModel", "SD21UNCLIP", "SD15_instructpix2pix", "SDXL", "SDXLRefiner", "SDXL_instructpix2pix", "SD3", "Flux"}
"""ComfyUI's classes of models whose text enters as plain c_crossattn, so that tokens may stand behind it: SD1.5, SD2, SDXL,
SD3, FLUX and their inpainting kin."""


# -- text ---------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class CondContext:
    """One side of a guider's conditioning after ComfyUI processed it: a list of conds, each with its area, mask,
    ControlNet and so on."""

    conds: list[dict[str, Any]]

    @property
    def embeds(self) -> torch.Tensor:
        return self.conds[0]["model_conds"][_CROSS].cond

    @property
    def width(self) -> int:
        return self.embeds.shape[-1]

    def check(self) -> "CondContext":
        """Itself; UserError where tokens cannot be appended to the text."""
        for cond in self.conds:
            given = cond["model_conds"]
            text = getattr(given.get(_CROSS), "cond", None)
            if not isinstance(text, torch.Tensor) or text.ndim != 3:
                raise UserError("This MODEL does not read its text through cross-attention, so emotional tokens cannot be "
                                "put behind it. Connect an SD1.5, SD2, SDXL, SD3 or FLUX model to the Emotion Token Optimizer.")
            bound = [name for name in _LENGTH_BOUND if name in given]
            if bound:
                raise UserError(f"This MODEL's text comes with '{bound[0]}', which emotional tokens would make wrong. "
                                "Connect an SD1.5, SD2, SDXL, SD3 or FLUX model to the Emotion Token Optimizer.")
        if len({_hooks_of(cond) for cond in self.conds}) > 1:
            # ComfyUI writes each one's LoRA into the same weights in turn: gradients would be those of the last.
            raise UserError("Parts of this conditioning carry different hooks (regional LoRAs), and gradients cannot follow weights that "
                            "change within one step. Give all parts the same hooks, or put the LoRA on the MODEL.")
        return self

    def append(self, tokens: torch.Tensor) -> "CondContext":
        """A new context with tokens [B, n, D] behind the text of each cond, repeated so that every image has its own."""
        controls: dict[int, _TokenlessControl] = {}
        out = []
        for cond in self.conds:
            text = cond["model_conds"][_CROSS]
            embeds = comfy.utils.repeat_to_batch_size(text.cond.to(tokens), len(tokens))
            changed = dict(cond)
            changed["model_conds"] = {**cond["model_conds"], _CROSS: text._copy_with(torch.cat([embeds, tokens], dim=1))}
            control = cond.get("control")
            if control is not None:
                # One wrapper for each: ComfyUI runs conds in one batch where they share the very object.
                changed["control"] = controls.setdefault(id(control), _TokenlessControl(control, tokens.shape[1]))
            out.append(changed)
        return CondContext(out)

    def rows(self, rows: torch.Tensor) -> None:
        """None: areas, masks and ControlNets hold a batch together."""
        return None


def _hooks_of(cond: dict[str, Any]) -> frozenset[int]:
    """What distinguishes a cond's hooks from another's."""
    group = cond.get("hooks")
    return frozenset(id(getattr(hook, "hook_ref", hook)) for hook in group.hooks) if group is not None else frozenset()


def _active(cond: dict[str, Any], sigma: torch.Tensor) -> bool:
    """Whether a cond counts at a noise level: ConditioningSetTimestepRange bounds it."""
    if "timestep_start" not in cond and "timestep_end" not in cond:
        return True  # asked at every model call: reading sigma would wait for the GPU
    now = float(sigma.flatten()[0])
    return cond.get("timestep_end", -1.0) <= now <= cond.get("timestep_start", float("inf"))


class _TokenlessControl:
    """A ControlNet that sees the text without the tokens and takes no part in gradients: it steers layout, and its own
    text encoder width and memory are not ours to spend."""

    def __init__(self, control: Any, tokens: int):
        self._control, self._tokens = control, tokens

    def __getattr__(self, name: str) -> Any:
        return getattr(self._control, name)

    @torch.no_grad()
    def get_control(self, x: torch.Tensor, t: torch.Tensor, cond: dict[str, Any], *rest: Any) -> Any:
        cond = {**cond, _CROSS: cond[_CROSS][:, :-self._tokens].detach()}
        return self._control.get_control(x, t, cond, *rest)


def _ordinary_conds(conds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The conds with inference tensors cloned: autograd may have to save them."""
    def clone(value: Any) -> Any:
        if isinstance(value, list):
            return [clone(v) for v in value]
        return ordinary(value) if isinstance(value, torch.Tensor) else value

    return [{k: clone(v) if k == "mask" else v for k, v in cond.items()} | {"model_conds": {
        k: v._copy_with(clone(v.cond)) if hasattr(v, "cond") else v for k, v in cond["model_conds"].items()}}
        for cond in conds]


# -- networks -----------------------------------------------------------------------------------------------------

def _casts(module: torch.nn.Module) -> bool:
    """Whether weights are cast or moved at each use (lowvram, or a compute type of its own): autograd would keep every
    cast copy, 3.4 GB for SD1.5."""
    return any(getattr(m, "comfy_cast_weights", False) for m in module.modules())


def _patch_modules(options: dict[str, Any]) -> list[torch.nn.Module]:
    """The networks that patches of attention and blocks bring with them (hypernetworks, GLIGEN): gradients run through them
    too. A patch is a function, or an object that holds networks, or lists of them."""
    found: list[torch.nn.Module] = []

    def look(value: Any, depth: int) -> None:
        if isinstance(value, torch.nn.Module):
            found.append(value)
        elif depth and isinstance(value, dict):
            for inner in value.values():
                look(inner, depth - 1)
        elif depth and isinstance(value, (list, tuple)):
            for inner in value:
                look(inner, depth - 1)
        elif depth and callable(value):
            look(list(getattr(value, "__dict__", {}).values()), depth - 1)
            look(getattr(value, "__self__", None), depth - 1)
            look([cell.cell_contents for cell in getattr(value, "__closure__", None) or ()], depth - 1)

    transformer = options.get("transformer_options", {})
    look(transformer.get("patches", {}), 8)
    look(transformer.get("patches_replace", {}), 8)
    look(transformer.get("wrappers", {}), 8)
    return found


def _pytorch_attention(func: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
    # Other kernels (xformers, sage, flash) have no backward, or one of lower precision.
    return comfy.ldm.modules.attention.attention_pytorch(*args, **kwargs)


def _turned(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Rotary embedding (Su et al. 2021): x [..., d], each pair of numbers times its matrix in angles [..., d / 2, 2, 2]."""
    return (angles * x.to(angles).unflatten(-1, (-1, 1, 2))).sum(dim=-1).flatten(-2).type_as(x)


@contextmanager
def _differentiable_rope() -> Iterator[None]:
    """A block in which FLUX turns its queries and keys by PyTorch's own operators: newer versions of ComfyUI do it by one of
    comfy_kitchen, which has no backward pass."""
    ours = {"apply_rope": lambda q, k, angles: (_turned(q, angles), _turned(k, angles)), "apply_rope1": _turned}
    before = {name: getattr(comfy.ldm.flux.math, name) for name in ours if hasattr(comfy.ldm.flux.math, name)}
    try:
        for name in before:
            setattr(comfy.ldm.flux.math, name, ours[name])
        yield
    finally:
        for name, function in before.items():
            setattr(comfy.ldm.flux.math, name, function)


class ComfyDenoiser:
    """A loaded BaseModel under the model options of a run, as `protocol.Denoiser`. Lives as long as the run."""

    def __init__(self, model: Any, options: dict[str, Any], seed: int | None = None, vae: Any = None):
        self.model, self.options, self.vae = model, None, vae  # the VAE that decodes beside it, where one does
        self._brought: list[torch.nn.Module] = []
        self.use(options, seed)
        self.sigma_table = model.model_sampling.sigmas
        self.plain_guidance = False  # the user's patches belong to it

    def use(self, options: dict[str, Any], seed: int | None) -> None:
        """Takes the options of this model call: a sampler may hand on others than at the last."""
        self.seed = seed
        if options is not self.options:
            self.options, self._gradient_options = options, self._with_gradients(options)

    @staticmethod
    def _with_gradients(options: dict[str, Any]) -> dict[str, Any]:
        options = comfy.model_patcher.create_model_options_clone(options)
        transformer = options.setdefault("transformer_options", {})
        transformer["optimized_attention_override"] = _pytorch_attention
        patches = transformer["patches"] = dict(transformer.get("patches", {}))
        # A ControlNet is added to the skips in place, which autograd would notice where the next block has saved them.
        after = patches.get("input_block_patch_after_skip", [])
        patches["input_block_patch_after_skip"] = [*after, lambda h, options: h.clone()]
        return options

    def context(self, conds: list[dict[str, Any]]) -> CondContext:
        """The context of conds that ComfyUI has processed. UserError where tokens cannot be appended."""
        self._brought = [cond["gligen"][1].model for cond in conds if cond.get("gligen")]
        return CondContext(conds).check()

    @contextmanager
    def gradients(self, save_memory: bool = False) -> Iterator[None]:
        network = self.model.diffusion_model
        save_memory = save_memory or _casts(network)
        with (deterministic(), ordinary_weights(self.model, *_patch_modules(self.options), *self._brought), _differentiable_rope(),
              checkpointed(*[network] * save_memory), ExitStack() as stack):
            if not save_memory and not hasattr(network, "input_blocks"):
                # Transformers add to their streams in place. (Checkpointing sees to that by itself, and the UNet has
                # its one case in `_with_gradients`, because this takes time for every operation.)
                stack.enter_context(mutation_allowed())
            yield

    def short_of_memory(self, x: torch.Tensor) -> bool:
        """On a GPU that cannot hold every activation block-wise recomputation is on from the start: some systems page to the
        machine's memory in place of saying that there is no more, and a step then takes minutes."""
        if x.device.type == "cpu":
            return False
        need = _WHOLE_DENOISER * self.model.memory_required([len(x), *x.shape[1:]])
        if self.vae is not None:
            need += _WHOLE_DECODER * len(x) * self.vae.memory_used_decode([1, *x.shape[1:]], self.vae.vae_dtype)
        return need > comfy.model_management.get_free_memory(x.device)

    def latent_in(self, latent: torch.Tensor) -> torch.Tensor:
        return self.model.process_latent_in(latent)

    def latent_out(self, latent: torch.Tensor) -> torch.Tensor:
        return self.model.process_latent_out(latent)

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, context: CondContext) -> torch.Tensor:
        """See `protocol.Denoiser`."""
        if not torch.is_grad_enabled():
            return comfy.samplers.calc_cond_batch(self.model, [context.conds], x, sigma, self.options)[0]
        try:
            return comfy.samplers.calc_cond_batch(self.model, [_ordinary_conds(context.conds)], x, sigma, self._gradient_options)[0]
        except RuntimeError as error:
            if "_scaled_mm" in str(error) or "out=..." in str(error):
                raise UserError("This MODEL multiplies in fp8 (fp8 fast), which has no backward pass. Load it with another weight type "
                                "(fp8 without fast, fp16 or bf16).") from error
            raise

    def side_by_side(self, contexts: Sequence[CondContext], n: int) -> CondContext:
        """See `protocol.Denoiser`. UserError for conditionings combined of several, or with areas, masks, ControlNets, a range of
        steps or hooks: all rows of the one batch would get the source's."""
        given = []
        for context in contexts:
            bound = [what for name, what in _BOUND.items() if any(cond.get(name) is not None for cond in context.conds)]
            if len(context.conds) != 1 or bound:
                raise UserError("The attention blend takes one plain text for the source and one for the target; a conditioning "
                                f"here {'has ' + bound[0] if bound else 'is combined of several'}. Connect the text encoder's own.")
            given.append(context.conds[0]["model_conds"])
        length = max(c.embeds.shape[1] for c in contexts)
        joined = {}
        for name, first in given[0].items():
            values = [conds[name].cond for conds in given]
            if isinstance(first.cond, torch.Tensor) and first.cond.ndim:
                rows = [comfy.utils.repeat_to_batch_size(t, n) for t in values]
                if name == _CROSS:
                    rows = [torch.nn.functional.pad(t, (0, 0, 0, length - t.shape[1])) for t in rows]
                joined[name] = first._copy_with(torch.cat(rows))
            else:
                joined[name] = first
        return CondContext([{**contexts[0].conds[0], "model_conds": joined}])

    @contextmanager
    def attention(self, control: Control) -> Iterator[None]:
        """See `protocol.Denoiser`."""
        network = self.model.diffusion_model
        if not hasattr(network, "input_blocks"):
            raise UserError("The attention blend needs a MODEL whose text enters by cross-attention: SD1.5, SD2 or SDXL. In SD3 "
                            "and FLUX text and image attend together.")
        options = comfy.model_patcher.create_model_options_clone(self.options)
        replaced = options.setdefault("transformer_options", {}).setdefault("patches_replace", {})
        if replaced.get("attn2"):
            raise UserError("Another node has replaced this MODEL's cross-attention already (IPAdapter does), and the attention "
                            "blend would undo that. Connect the model from before that node.")

        def patch(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra: dict[str, Any]) -> torch.Tensor:
            return control(q, k, v, extra["n_heads"], tuple(extra["activations_shape"][-2:]))

        blocks = [("middle", 0), *(("input", i) for i in range(len(network.input_blocks))),
                  *(("output", i) for i in range(len(network.output_blocks)))]
        options["transformer_options"]["patches_replace"] = {**replaced, "attn2": {block: patch for block in blocks}}
        before, self.options = self.options, options
        try:
            yield
        finally:
            self.options = before

    def guided(self, x: torch.Tensor, sigma: torch.Tensor, positive: CondContext, negative: CondContext,
               cfg: float, own: list[torch.Tensor] | None = None) -> torch.Tensor:
        """See `protocol.Denoiser`: ComfyUI's own, with every patch to guidance that the model carries."""
        options = self.options
        if own is not None:
            def keep(args: dict[str, Any]) -> torch.Tensor:
                own.append(args["cond_denoised"])
                return args["denoised"]

            options = {**options, "sampler_post_cfg_function": [keep, *options.get("sampler_post_cfg_function", [])]}
        return comfy.samplers.sampling_function(self.model, x, sigma, negative.conds, positive.conds, cfg,
                                                model_options=options, seed=self.seed)


class ComfyVAE:
    """A loaded VAE as `protocol.Autoencoder`. Never `VAE.decode` with gradients: where memory runs out that goes tiled
    under inference mode, silently."""

    def __init__(self, vae: Any):
        self.vae, self.network = vae, vae.first_stage_model
        self.factor = vae.downscale_ratio
        # process_output is a line and a clamp; the line is read off two inner points, the clamp is ours.
        low, high = vae.process_output(torch.tensor([0.4, 0.6])).tolist()
        self.slope = (high - low) / 0.2
        self.offset = low - 0.4 * self.slope

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W] in 0..1 -> [B, C, h, w]."""
        return self.vae.encode(image.movedim(1, -1))

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """[B, C, h, w] -> [B, 3, H, W] in 0..1. Differentiable; gradients pass the clamp. Without gradients (the gate's) it is done in
        tiles where memory runs out."""
        try:
            image = self.network.decode(latent.to(self.vae.device, self.vae.vae_dtype))
        except comfy.model_management.OOM_EXCEPTION:
            if torch.is_grad_enabled():
                raise
            return self.vae.decode_tiled(latent).movedim(-1, 1).to(latent.device, torch.float32)
        return clamp01(image.float() * self.slope + self.offset).to(latent.device)

    @contextmanager
    def gradients(self, save_memory: bool = False) -> Iterator[None]:
        with ordinary_weights(self.network), checkpointed(*[self.network] * (save_memory or _casts(self.network))):
            yield


class _WholePatcher(comfy.model_patcher.ModelPatcher):
    """Loads a network whole or not at all. ComfyUI loads its own in part, by layers that fetch their weights; ours have no
    such layers and would be left on two devices."""

    def partially_load(self, device_to: Any, extra_memory: Any = 0, *args: Any, **kwargs: Any) -> Any:
        return super().partially_load(device_to, 1e32, *args, **kwargs)

    def partially_unload(self, device_to: Any, memory_to_free: Any = 0, *args: Any, **kwargs: Any) -> Any:
        return 0


class _Held(torch.nn.Module):
    """What ComfyUI loads in place of a network: it writes `device` and more onto what it loads, which a network need not allow
    (transformers' models have a `device` that cannot be set)."""

    def __init__(self, network: torch.nn.Module):
        super().__init__()
        self.network = network


def _patcher(module: torch.nn.Module) -> Any:
    """The ModelPatcher of one of our networks, with which ComfyUI loads and unloads it as its own. One for as long as the
    network lives: ComfyUI remembers patchers weakly, and takes a network without its patcher for a leak."""
    if "_affect_patcher" not in module.__dict__:
        module.__dict__["_affect_patcher"] = _WholePatcher(
            _Held(module), load_device=comfy.model_management.get_torch_device(), offload_device=torch.device("cpu"))
    return module.__dict__["_affect_patcher"]


def load(*modules: torch.nn.Module) -> None:
    """Puts networks of ours on ComfyUI's device, making room there."""
    comfy.model_management.load_models_gpu([_patcher(m) for m in modules])


# -- guider -------------------------------------------------------------------------------------------------------

class MuseGuider(comfy.samplers.CFGGuider):
    """A GUIDER whose predictions carry emotional tokens (`muse.Muse`); traces are found by the latent it returned."""

    def __init__(self, model: Any, vae: Any, classifier: Any, positive: Conditioning, negative: Conditioning,
                 emotion: EmotionTarget, config: MuseConfig, gate: TimingGate | None = None,
                 init_tokens: EmotionTokens | None = None):
        check_pair(model, vae)
        super().__init__(model.clone())
        self.set_conds(positive, negative)
        self.set_cfg(config.cfg)
        self.vae, self.classifier, self.emotion, self.config = ComfyVAE(vae), classifier, emotion, config
        self.gate, self.init_tokens = gate, init_tokens
        self.traces = TraceStore()
        self._muse: Muse | None = None
        self._run: dict[str, Any] = {}
        # All load together: loading one in the middle of sampling could push the diffusion model out.
        self.model_patcher.set_additional_models("affect", [
            vae.patcher, _patcher(classifier), *([_patcher(gate.scorer)] if gate else [])])
        if emotion.intensity > 0:
            self.model_patcher.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.PREPARE_SAMPLING, "affect",
                                                    _asks_for_memory(vae))
        self.model_options = self.model_patcher.model_options

    def sample(self, noise: torch.Tensor, latent_image: torch.Tensor, sampler: Any, sigmas: torch.Tensor,
               *args: Any, **kwargs: Any) -> torch.Tensor:
        """As `CFGGuider.sample`. UserError where there is no step to optimise in."""
        if sigmas.numel() < 2:
            raise UserError("There are no steps to sample: raise denoise above 0 or the number of steps.")
        self._muse = None  # a cached guider outlives a prompt: every run begins anew
        try:
            out = super().sample(noise, latent_image, sampler, sigmas, *args, **kwargs)
            if self._muse is not None:
                self._muse.finish()
                self.traces.put(out, self._muse.trace, self._muse.result())
            return out
        finally:
            self._muse, self._run = None, {}

    def inner_sample(self, noise: torch.Tensor, latent_image: torch.Tensor, device: Any, sampler: Any,
                     sigmas: torch.Tensor, denoise_mask: torch.Tensor | None, *args: Any, **kwargs: Any) -> torch.Tensor:
        latent = latent_image
        if latent is not None and torch.count_nonzero(latent) > 0:  # as CFGGuider does
            latent = self.inner_model.process_latent_in(latent)
        self._run = {"sigmas": sigmas, "latent": latent, "mask": denoise_mask}
        return super().inner_sample(noise, latent_image, device, sampler, sigmas, denoise_mask, *args, **kwargs)

    def predict_noise(self, x: torch.Tensor, timestep: torch.Tensor, model_options: dict[str, Any] = {},
                      seed: int | None = None) -> torch.Tensor:
        if not any(_active(cond, timestep) for cond in self.conds["positive"]):
            return super().predict_noise(x, timestep, model_options, seed)  # no text, so nothing to put tokens behind
        if self._muse is None:
            denoiser = ComfyDenoiser(self.inner_model, model_options, seed, self.vae.vae)
            self._muse = Muse(denoiser, self.vae, self.classifier, denoiser.context(self.conds["positive"]),
                              CondContext(self.conds.get("negative", [])), self.emotion, self.config, self.gate,
                              self.init_tokens)
            self._muse.start(x, self._run["sigmas"], self._run["latent"], self._run["mask"])
        self._muse.denoiser.use(model_options, seed)
        soft = model_options.get("denoise_mask_function")
        if soft is not None and self._run["mask"] is not None:  # Differential Diffusion: another mask at each noise level
            mask = soft(timestep, self._run["mask"], extra_options={"model": self.inner_model, "sigmas": self._run["sigmas"]})
            self._muse.mask = ordinary(repeat_to_batch(mask, len(x)))
        return self._muse.predict(x, timestep)


def _asks_for_memory(vae: Any) -> Any:
    """A wrapper of ComfyUI's preparation that asks for the backward pass too, as that many more images in the batch: what
    the diffusion model and the VAE's decoder keep for it. ComfyUI makes room, or moves weights in and out, and then blocks
    are computed again. (No method of the guider: that would tie a knot that only the garbage collector undoes.)"""
    def prepare(executor: Any, model: Any, noise_shape: Any, conds: Any, *args: Any, **kwargs: Any) -> Any:
        batch, *shape = noise_shape
        forward = model.model.memory_required([2 * batch, *shape])
        here = vae.device == model.load_device
        decode = batch * vae.memory_used_decode([1, *shape], vae.vae_dtype) if here else 0
        larger = [math.ceil(batch * (_KEPT_DENOISER + _KEPT_DECODER * decode / max(forward, 1))), *shape]
        return executor(model, larger, conds, *args, **kwargs)
    return prepare


def _asks_for_rows(n: int) -> Any:
    """A wrapper of ComfyUI's preparation that asks for n rows an image where it reckons with two."""
    def prepare(executor: Any, model: Any, noise_shape: Any, *args: Any, **kwargs: Any) -> Any:
        batch, *shape = noise_shape
        return executor(model, [math.ceil(batch * max(n, 2) / 2), *shape], *args, **kwargs)
    return prepare


def check_pair(model: Any, vae: Any) -> None:
    """UserError where the two cannot be guided together."""
    if not isinstance(model, comfy.model_patcher.ModelPatcher) or not hasattr(model.model, "latent_format"):
        raise UserError("What is connected as MODEL is no diffusion model of ComfyUI. Connect a checkpoint loader's MODEL.")
    latents = model.model.latent_format
    if latents.latent_dimensions != 2:
        raise UserError("This MODEL makes video or audio, which emotion classifiers do not read. Connect an image model.")
    kind = type(model.model).__name__
    if kind not in _KNOWN:
        raise UserError(f"This MODEL is a {kind}; emotional tokens are known to work with SD1.5, SD2, SDXL, SD3 and FLUX. "
                        "Connect one of those to the Emotion Token Optimizer.")
    if vae.first_stage_model is None:
        raise UserError("This VAE is empty: the checkpoint holds none. Connect a Load VAE node.")
    if getattr(vae, "latent_dim", 2) != 2:
        raise UserError("This VAE is one for video. Connect the VAE of the MODEL's own checkpoint.")
    if vae.latent_channels != latents.latent_channels:
        raise UserError(f"The VAE's latents have {vae.latent_channels} channels and the MODEL's {latents.latent_channels}: "
                        "they belong to different models. Connect the VAE of the same checkpoint.")


# -- what the nodes ask for ---------------------------------------------------------------------------------------

def sample(guider: Any, latent_image: dict[str, Any], seed: int, sampler_name: str, scheduler: str, steps: int,
           denoise: float, add_noise: bool) -> dict[str, Any]:
    """Samples a LATENT with a guider as SamplerCustomAdvanced does: preview, progress bar, latent mask."""
    model = guider.model_patcher
    latent = comfy.sample.fix_empty_latent_channels(model, latent_image["samples"])
    noise = comfy.sample.prepare_noise(latent, seed, latent_image.get("batch_index")) if add_noise \
        else torch.zeros_like(latent, device="cpu")
    # KSampler knows what each sampler's schedule loses at its end.
    sigmas = comfy.samplers.KSampler(model, steps, model.load_device, sampler_name, scheduler, denoise).sigmas
    samples = guider.sample(noise, latent, comfy.samplers.sampler_object(sampler_name), sigmas,
                            denoise_mask=latent_image.get("noise_mask"), seed=seed,
                            callback=latent_preview.prepare_callback(model, max(0, len(sigmas) - 1)),
                            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED)
    return {**latent_image, "samples": samples.to(comfy.model_management.intermediate_device())}


def invert(model: Any, positive: Conditioning, latent: torch.Tensor, steps: int, scheduler: str) -> torch.Tensor:
    """DDIM inversion of latents [B, C, h, w] under their description at cfg 1, as a sampler that walks upwards."""
    if isinstance(model.get_model_object("model_sampling"), comfy.model_sampling.CONST):
        raise UserError("DDIM inversion does not fit rectified-flow models (SD3, FLUX). Use an SD1.5, SD2 or SDXL "
                        "model, or start from the encoded image with denoise below 1.")
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), scheduler, steps)

    def walk(denoiser: Any, x: torch.Tensor, sigmas: torch.Tensor, extra_args: dict[str, Any], callback: Any,
             disable: bool) -> torch.Tensor:
        seen = lambda i, denoised, x, total: callback({"i": i, "denoised": denoised, "x": x})
        return ddim_inversion(lambda x, s: denoiser(x, s, **extra_args), x, sigmas, callback=seen)

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, positive)
    guider.set_cfg(1.0)
    out = guider.sample(torch.zeros_like(latent), latent, comfy.samplers.KSAMPLER(walk), sigmas,
                        callback=latent_preview.prepare_callback(model, steps),
                        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED)
    return out.to(comfy.model_management.intermediate_device())


class _SideGuider(comfy.samplers.CFGGuider):
    """Runs one of our algorithms in a sampler's place, with everything that ComfyUI does around sampling: loading, hooks,
    previews, interruption.

    run   (denoiser, contexts by name, latent [B, C, h, w] in the denoiser's scale, callback(step, prediction)) -> latent
    rows  how many rows an image has in a batch of that
    """

    def __init__(self, model: Any, conds: dict[str, Conditioning], run: Any, rows: int):
        super().__init__(model.clone())
        self.inner_set_conds(conds)
        self.run = run
        # They are one batch, which ComfyUI, who reckons with two, can neither foresee nor split.
        self.model_patcher.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.PREPARE_SAMPLING, "affect", _asks_for_rows(rows))
        self.model_options = self.model_patcher.model_options

    def __call__(self, latent: torch.Tensor, sigmas: torch.Tensor, seed: int) -> torch.Tensor:
        """latent [B, C, h, w] in the VAE's scale -> what `run` made of it, in the same."""
        def walk(_: Any, x: torch.Tensor, sigmas: torch.Tensor, extra_args: dict[str, Any], callback: Any, disable: bool) -> torch.Tensor:
            denoiser = ComfyDenoiser(self.inner_model, extra_args["model_options"], seed)
            contexts = {name: CondContext(conds) for name, conds in self.conds.items()}

            def stepped(i: int, prediction: torch.Tensor) -> None:
                comfy.model_management.throw_exception_if_processing_interrupted()
                callback({"i": i, "denoised": prediction, "x": prediction})

            return self.run(denoiser, contexts, x, sigmas, stepped)

        # Without noise the sampler is handed the latent itself.
        out = self.sample(torch.zeros_like(latent), latent, comfy.samplers.KSAMPLER(walk), sigmas, seed=seed,
                          callback=latent_preview.prepare_callback(self.model_patcher, max(1, len(sigmas) - 1)),
                          disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED)
        return out.to(comfy.model_management.intermediate_device())


def _with_cross_attention(model: Any) -> None:
    if isinstance(model.get_model_object("model_sampling"), comfy.model_sampling.CONST):
        raise UserError("Attention control needs a MODEL whose text enters by cross-attention: SD1.5, SD2 or SDXL. In SD3 and FLUX "
                        "text and image attend together.")


def blend(model: Any, source: Conditioning, target: Conditioning, negative: Conditioning | None, latent_image: dict[str, Any],
          mask: torch.Tensor, steps: int, scheduler: str, config: BlendConfig, seed: int,
          texts: tuple[str, str] = ("", "")) -> dict[str, Any]:
    """As `diffusers.blend`."""
    _with_cross_attention(model)
    latent = latent_image["samples"]
    generator = torch.Generator().manual_seed(seed)

    def run(denoiser: ComfyDenoiser, contexts: dict[str, CondContext], z: torch.Tensor, sigmas: torch.Tensor,
            callback: Any) -> torch.Tensor:
        return attention_blend(denoiser, contexts["source"], contexts["target"], contexts.get("negative"), z, cells(mask, z),
                               sigmas, config, lambda: torch.randn(z.shape, generator=generator).to(z),
                               token_alignment(source, target, texts), callback)

    width = model.model.model_config.unet_config.get("context_dim")
    for text in (source, target, *([] if negative is None else [negative])):
        if width and text[0][0].shape[-1] != width:
            raise UserError(f"This text is {text[0][0].shape[-1]} wide and the MODEL reads texts {width} wide: it was encoded for another "
                            "model. Connect the CLIP of the MODEL's own checkpoint, or a MoodifyCLIP trained from it.")
    conds = {"source": source, "target": target} | ({} if negative is None else {"negative": negative})
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), scheduler, steps)
    return {**latent_image, "samples": _SideGuider(model, conds, run, 2 if config.cfg == 1.0 else 3)(latent, sigmas, seed)}


def encode_text(clip: Any, text: str) -> Conditioning:
    """As `diffusers.encode_text`."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def encode_image(vae: Any, image: torch.Tensor) -> torch.Tensor:
    """As `diffusers.encode_image`."""
    return vae.encode(image[..., :3])


def cross_attention_maps(model: Any, positive: Conditioning, latent: torch.Tensor, columns: Sequence[Sequence[int]], seed: int) -> torch.Tensor:
    """As `diffusers.cross_attention_maps`."""
    _with_cross_attention(model)
    found: list[torch.Tensor] = []

    def run(denoiser: ComfyDenoiser, contexts: dict[str, CondContext], z: torch.Tensor, sigmas: torch.Tensor,
            callback: Any) -> torch.Tensor:
        found.append(attention_maps(denoiser, contexts["positive"], z, columns, seed))
        return z

    _SideGuider(model, {"positive": positive}, run, 1)(latent, torch.tensor([1.0, 0.0]), seed)
    return found[0].float().cpu()
