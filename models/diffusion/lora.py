"""LoRA files on the embedded host's MODEL and CLIP: which module a name means, and a copy of the model with all of
them applied."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import UserError
from ..files import load_safetensors
from ..host import current
from .adapters import DoesNotFit, Parts, by_module, changed, changed_bias
from .diffusers import DiffusersModel
from .names import original_names
from .text import TextEncoder
from .towers import Place


def apply_lora(
    model: DiffusersModel, clip: TextEncoder, path: Path, strength_model: float, strength_clip: float
) -> tuple[DiffusersModel, TextEncoder]:
    """MODEL and CLIP with a LoRA applied at the given strengths; the originals stay as they are and share what is not
    changed.

    Names in every form in use are known: kohya's with diffusers' or the original block names, diffusers' and PEFT's
    dotted ones. A note says how many of the file's modules were applied, and why others were not. UserError where none
    was.
    """
    state, _ = load_safetensors(path)
    places = dict(_unet_places(model.unet)), dict(_text_places(clip))
    merging = _Merging(path.name)
    modules, strangers = by_module(state)
    for name, parts in modules.items():
        for known, strength in zip(places, (strength_model, strength_clip)):
            if name in known:
                merging.add(name, parts, known[name], strength)
                break
        else:
            merging.unknown.append(name)
    merging.tell(len(modules), strangers)
    unet, *towers = merging.copies([model.unet, *clip.towers])
    return (
        DiffusersModel(unet, model.prediction, model.latent_scale, model.sigma_table),
        TextEncoder(towers, clip.pads, clip.names),
    )


@dataclass
class _Merging:
    """What a file changes, and what of it fits nowhere."""

    file: str
    weights: dict[tuple[int, str], torch.Tensor] = field(default_factory=dict)
    """(id of the module, name of its parameter) -> the new value."""
    applied: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    unfit: dict[str, str] = field(default_factory=dict)
    """Modules that are there, and why what the file has for them cannot be applied."""

    def add(self, name: str, parts: Parts, place: Place, strength: float) -> None:
        """Applies the parts of a module to its place."""
        changes = (
            [(place.weight, lambda old: changed(parts, old, strength))] if parts.keys() - {"diff_b", "b_norm"} else []
        )
        if parts.keys() & {"diff_b", "b_norm"}:
            changes.append((place.bias, lambda old: changed_bias(parts, old, strength)))
        try:
            found = {
                (id(place.module), attribute): self._changed(place, attribute, change) for attribute, change in changes
            }
        except DoesNotFit as error:
            self.unfit[name] = str(error)
        else:
            self.weights |= found
            self.applied.append(name)

    def _changed(self, place: Place, attribute: str, change: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """The whole parameter of which the place is a part, with the change."""
        old = self.weights.get((id(place.module), attribute), getattr(place.module, attribute, None))
        if old is None:
            raise DoesNotFit(f"there is no {attribute}")
        new = change(old.detach()[place.rows])
        if not torch.isfinite(new).all():
            raise UserError(
                f"The LoRA '{self.file}' makes weights that are not numbers (NaN or infinity): its file is damaged, or "
                "the strength too high."
            )
        whole = old.detach().clone()
        whole[place.rows] = new.to(whole)
        return whole

    def tell(self, total: int, strangers: list[str]) -> None:
        """A note with how many were applied; UserError where none was."""
        why = []
        if self.unknown:
            why.append(f"{len(self.unknown)} name modules that this model does not have (such as '{self.unknown[0]}')")
        if self.unfit:
            name, reason = next(iter(self.unfit.items()))
            why.append(f"{len(self.unfit)} do not fit theirs (such as '{name}': {reason})")
        if strangers:
            why.append(f"{len(strangers)} tensors are of no known kind (such as '{strangers[0]}')")
        because = f": {'; '.join(why)}" if why else ""
        if not self.applied:
            raise UserError(
                f"The LoRA '{self.file}' fits nothing in this model, 0 of its {total} modules{because}. It was made "
                "for another model family, or is of a kind that needs ComfyUI."
            )
        current().note(f"LoRA '{self.file}': {len(self.applied)} of its {total} modules were applied{because}.")

    def copies(self, originals: list[Any]) -> list[Any]:
        """Copies that share every tensor that stays as it was."""
        memo: dict[Any, Any] = {}
        for module in _networks(originals):
            memo |= {id(t): t for t in (*module.parameters(), *module.buffers())}
        copied = copy.deepcopy(originals, memo)
        for (owner, attribute), value in self.weights.items():
            setattr(memo[owner], attribute, nn.Parameter(value, requires_grad=False))
        return copied


def _networks(originals: list[Any]) -> Iterator[nn.Module]:
    for part in originals:
        part = getattr(part, "model", part)
        if isinstance(part, nn.Module):
            yield part


# -- names ----------------------------------------------------------------------------------------------------------


def _unet_places(unet: nn.Module) -> Iterator[tuple[str, Place]]:
    """(name in a file, place) of every module of a UNet, in every form in use. Where two forms clash, the later one
    counts."""
    original = original_names(unet)
    modules = [
        (name, Place(module))
        for name, module in unet.named_modules()
        if isinstance(getattr(module, "weight", None), nn.Parameter)
    ]
    for name, place in modules:
        if name in original:
            yield f"lora_unet_{_flat(original[name])}", place
            yield f"diffusion_model.{original[name]}", place
    for name, place in modules:
        old = (name.removesuffix(".0") if name.endswith(".to_out.0") else name).replace(".to_", ".processor.to_")
        for prefix in ("", "unet.", "base_model.model.", "unet.base_model.model."):
            yield prefix + name, place
            yield prefix + old, place
        yield f"lora_unet_{_flat(name)}", place
        yield f"lycoris_{_flat(name)}", place


def _text_places(clip: TextEncoder) -> Iterator[tuple[str, Place]]:
    """(name in a file, place) of every module of the text towers. The first has two names: with one encoder, and as
    one of two."""
    for i, (tower, label) in enumerate(zip(clip.towers, clip.names)):
        for name, place in tower.places() if hasattr(tower, "places") else ():
            for prefix in ("lora_te_", "lora_te1_") if i == 0 else (f"lora_te{i + 1}_",):
                yield f"{prefix}text_model_{_flat(name)}", place
            for encoder in ("text_encoder",) if i == 0 else (f"text_encoder_{i + 1}",):
                yield f"{encoder}.text_model.{name}", place
                yield f"{encoder}.base_model.model.text_model.{name}", place
            yield f"text_encoders.{label}.transformer.text_model.{name}", place


def _flat(name: str) -> str:
    return name.replace(".", "_")
