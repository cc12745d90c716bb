"""What the files called LoRA hold for one module, and the weight that comes of it.

Kinds: LoRA and LoCon (also with Tucker's third matrix), LoHa, LoKr, whole differences, and DoRA's magnitudes over any
of them. The arithmetic is ComfyUI's, so that a workflow gives the same image there and here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch

Parts = dict[str, torch.Tensor]
"""The tensors of one module by role: up, down, mid, alpha, dora_scale, ..."""

Value = TypeVar("Value")

_LORA = {  # how kohya's and LyCORIS' files, diffusers' old and new ones, PEFT's and Mochi's name the two matrices
    ".lora_up.weight": "up",
    ".lora_down.weight": "down",
    ".lora_mid.weight": "mid",
    ".lora_B.weight": "up",
    ".lora_A.weight": "down",
    ".lora_B.default.weight": "up",
    ".lora_A.default.weight": "down",
    ".lora.up.weight": "up",
    ".lora.down.weight": "down",
    "_lora.up.weight": "up",
    "_lora.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".lora_B": "up",
    ".lora_A": "down",
}
_OTHERS = (
    "hada_w1_a",
    "hada_w1_b",
    "hada_w2_a",
    "hada_w2_b",
    "hada_t1",
    "hada_t2",
    "lokr_w1",
    "lokr_w2",
    "lokr_w1_a",
    "lokr_w1_b",
    "lokr_w2_a",
    "lokr_w2_b",
    "lokr_t2",
    "alpha",
    "dora_scale",
    "diff",
    "diff_b",
    "w_norm",
    "b_norm",
    "set_weight",
)
_ELSEWHERE = ("oft_blocks", "rescale", "a1.weight", "a2.weight", "b1.weight", "b2.weight")  # OFT, BOFT, GLoRA
SUFFIXES = (
    _LORA
    | {f".{name}": name for name in _OTHERS}
    | {f".{name}": "elsewhere" for name in _ELSEWHERE}
    | {".lora_magnitude_vector": "magnitude", ".lora_magnitude_vector.weight": "magnitude"}
)
"""Ends of tensor names -> their role."""


def split_name(key: str) -> tuple[str, str] | None:
    """(module, role) of a tensor's name, or None where no kind of LoRA has such a name."""
    end = max((s for s in SUFFIXES if key.endswith(s)), key=len, default=None)
    return (key[: -len(end)], SUFFIXES[end]) if end else None


def by_module(state: Mapping[str, Value]) -> tuple[dict[str, dict[str, Value]], list[str]]:
    """({module's name in the file: its parts}, names of tensors that belong to nothing known)."""
    modules: dict[str, dict[str, Value]] = {}
    strangers = []
    for key, value in state.items():
        found = split_name(key)
        if found is None:
            strangers.append(key)
        else:
            modules.setdefault(found[0], {})[found[1]] = value
    return modules, strangers


class DoesNotFit(ValueError):
    """Parts that are incomplete, or of other shapes than the weight's; the text says which."""


def changed(parts: Parts, weight: torch.Tensor, strength: float) -> torch.Tensor:
    """The weight [O, I, ...] with a module's parts applied at a strength, in float32. DoesNotFit where they do not
    belong to it."""
    weight = weight.float()
    parts = {name: part.to(weight.device, torch.float32) for name, part in parts.items()}
    if "set_weight" in parts:
        return _shaped(parts["set_weight"], weight)
    # First without memory: two thin matrices in a small file may make one that no memory holds.
    _shaped(_difference({name: part.to("meta") for name, part in parts.items() if name != "alpha"}), weight)
    difference = _shaped(_difference(parts), weight)
    if "dora_scale" in parts:
        return _decomposed(weight, difference, parts["dora_scale"], strength)
    if "magnitude" in parts:
        return weight + strength * (_rows_of_length(weight + difference, parts["magnitude"]) - weight)
    return weight + strength * difference


def changed_bias(parts: Parts, bias: torch.Tensor, strength: float) -> torch.Tensor:
    """The bias [O] with a module's difference applied; as it is where the parts have none."""
    name = next((n for n in ("diff_b", "b_norm") if n in parts), None)
    return bias if name is None else bias.float() + strength * _shaped(parts[name].to(bias.device, torch.float32), bias)


def _shaped(difference: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    if difference.shape[:1] != weight.shape[:1] or difference.numel() != weight.numel():
        raise DoesNotFit(f"{list(difference.shape)} for {list(weight.shape)}")
    return difference.reshape(weight.shape)


def _difference(parts: Parts) -> torch.Tensor:
    """[O, ...] of any of the kinds, times alpha / rank."""
    try:
        if "up" in parts or "down" in parts:
            return _lora(parts)
        if "hada_w1_a" in parts:
            return _loha(parts)
        if any(name.startswith("lokr") for name in parts):
            return _lokr(parts)
        for name in ("diff", "w_norm"):
            if name in parts:
                return parts[name]
    except KeyError as error:
        raise DoesNotFit(f"its {error.args[0]} is missing") from error
    except (RuntimeError, IndexError, TypeError) as error:  # matrices that cannot be multiplied, or are none
        raise DoesNotFit("its matrices do not fit one another") from error
    raise DoesNotFit(
        "of a kind that needs ComfyUI (OFT, BOFT or GLoRA)" if "elsewhere" in parts else "without matrices"
    )


def _scale(parts: Parts, rank: int) -> float:
    if "alpha" not in parts:
        return 1.0
    if parts["alpha"].numel() != 1 or rank == 0:
        raise DoesNotFit(f"its alpha {list(parts['alpha'].shape)} for a rank of {rank}")
    return float(parts["alpha"]) / rank


def _lora(parts: Parts) -> torch.Tensor:
    """up [O, r] @ down [r, I]; LoCon's up is [O, r, 1, 1] and its down [r, I, k, k], or with Tucker's mid [r, r, k,
    k] [r, I, 1, 1]."""
    up, down = parts["up"], parts["down"]
    rank = len(down)
    if "mid" in parts:
        down = torch.einsum("ij...,jc->ic...", parts["mid"], down.flatten(1))
    found = up.flatten(1) @ down.flatten(1)
    return found.reshape(len(up), *down.shape[1:]) * _scale(parts, rank)


def _tucker(core: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """core [i, j, k, k], a [i, O], b [j, I] -> [O, I, k, k]."""
    return torch.einsum("ij...,jc,io->oc...", core, b, a)


def _loha(parts: Parts) -> torch.Tensor:
    """The product, element by element, of two low-rank matrices."""
    a1, b1, a2, b2 = (parts[f"hada_{name}"] for name in ("w1_a", "w1_b", "w2_a", "w2_b"))
    if "hada_t1" in parts:
        found = _tucker(parts["hada_t1"], a1, b1) * _tucker(parts["hada_t2"], a2, b2)
    else:
        found = (a1 @ b1) * (a2 @ b2)
    return found * _scale(parts, len(b1))


def _lokr(parts: Parts) -> torch.Tensor:
    """The Kronecker product of two matrices, each whole or of low rank. Only a low rank is scaled by alpha."""
    rank = None
    if "lokr_w1" in parts:
        first = parts["lokr_w1"]
    else:
        first, rank = parts["lokr_w1_a"] @ parts["lokr_w1_b"], len(parts["lokr_w1_b"])
    if "lokr_w2" in parts:
        second = parts["lokr_w2"]
    else:
        a, b, rank = parts["lokr_w2_a"], parts["lokr_w2_b"], len(parts["lokr_w2_b"])
        second = _tucker(parts["lokr_t2"], a, b) if "lokr_t2" in parts else a @ b
    first = first.reshape(*first.shape, *[1] * (second.ndim - first.ndim))
    return torch.kron(first, second.contiguous()) * (1.0 if rank is None else _scale(parts, rank))


def _decomposed(weight: torch.Tensor, difference: torch.Tensor, scale: torch.Tensor, strength: float) -> torch.Tensor:
    """DoRA: the changed weight with lengths of its own, [O, 1] for its rows or [1, I] for its columns.

    Columns are divided by the changed weight's lengths, as DoRA's paper (Liu et al. 2024) has it. Rows are divided by
    those of the weight as it was: that is ComfyUI's arithmetic, whose images are the ones that people know of these
    files.
    """
    merged, rest = weight + difference, [1] * (weight.ndim - 2)
    if scale.numel() == len(weight) and (scale.ndim == 1 or len(scale) == len(weight)):
        length = weight.flatten(1).norm(dim=1).reshape(-1, 1, *rest)
        scale = scale.reshape(-1, 1, *rest)
    elif weight.ndim > 1 and scale.numel() == weight.shape[1]:
        length = merged.transpose(0, 1).flatten(1).norm(dim=1).reshape(1, -1, *rest)
        scale = scale.reshape(1, -1, *rest)
    else:
        raise DoesNotFit(f"its magnitudes {list(scale.shape)} for {list(weight.shape)}")
    merged = merged * (scale / (length + torch.finfo(torch.float32).eps))
    return weight + strength * (merged - weight)


def _rows_of_length(weight: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
    """PEFT's DoRA: every row of the changed weight has a length of its own."""
    if length.numel() != len(weight):
        raise DoesNotFit(f"its magnitudes {list(length.shape)} for {list(weight.shape)}")
    shape = (-1, *[1] * (weight.ndim - 1))
    return weight * (length.reshape(shape) / weight.flatten(1).norm(dim=1).reshape(shape))
