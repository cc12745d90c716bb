"""ComfyUI's CONDITIONING as `protocol.TextContext`: emotional tokens enter through a copy of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.utils
import torch

from ...errors import UserError
from ...tensors.gradients import ordinary

CROSS = "c_crossattn"
_MASK, _COUNT = "attention_mask", "num_tokens"
"""Conds that describe the text token by token and grow with it."""


@dataclass(frozen=True)
class CondContext:
    """One side of a guider's conditioning after ComfyUI processed it: a list of conds, each with its area, mask,
    ControlNet and so on."""

    conds: list[dict[str, Any]]

    @property
    def embeds(self) -> torch.Tensor:
        return self.conds[0]["model_conds"][CROSS].cond

    @property
    def width(self) -> int:
        return self.embeds.shape[-1]

    def check(self) -> CondContext:
        """Itself; UserError where tokens cannot be appended to the text."""
        for cond in self.conds:
            given = cond["model_conds"]
            text = getattr(given.get(CROSS), "cond", None)
            if not isinstance(text, torch.Tensor) or text.ndim != 3:
                raise UserError(
                    "This MODEL's text does not reach it as a sequence of tokens, so emotional tokens cannot be put "
                    "behind it. Connect the CONDITIONING of the MODEL's own text encoder."
                )
            mask = getattr(given.get(_MASK), "cond", None)
            if mask is not None and (mask.ndim != 2 or mask.shape[-1] != text.shape[1]):
                raise UserError(
                    f"This CONDITIONING carries an attention mask of shape {tuple(mask.shape)}, which does not count "
                    f"its {text.shape[1]} tokens of text one by one, so emotional tokens would make it wrong. Connect "
                    "the text encoder's own CONDITIONING."
                )
        if len({_hooks_of(cond) for cond in self.conds}) > 1:
            # ComfyUI writes each one's LoRA into the same weights in turn: gradients would be those of the last.
            raise UserError(
                "Parts of this conditioning carry different hooks (regional LoRAs), and gradients cannot follow "
                "weights that change within one step. Give all parts the same hooks, or put the LoRA on the MODEL."
            )
        return self

    def append(self, tokens: torch.Tensor) -> CondContext:
        """A new context with tokens [B, n, D] after the text of each cond, repeated so that every image has its
        own."""
        controls: dict[int, _TokenlessControl] = {}
        out = []
        for cond in self.conds:
            text = cond["model_conds"][CROSS]
            embeds = comfy.utils.repeat_to_batch_size(text.cond.to(tokens), len(tokens))
            changed = dict(cond)
            changed["model_conds"] = {
                **cond["model_conds"],
                CROSS: text._copy_with(torch.cat([embeds, tokens], dim=1)),
                **_counted(cond["model_conds"], tokens.shape[1]),
            }
            control = cond.get("control")
            if control is not None:
                # One wrapper for each: ComfyUI runs conds in one batch where they share the very object.
                changed["control"] = controls.setdefault(id(control), _TokenlessControl(control, tokens.shape[1]))
            out.append(changed)
        return CondContext(out)

    def rows(self, rows: torch.Tensor) -> None:
        """None: areas, masks and ControlNets hold a batch together."""
        return


def _counted(model_conds: dict[str, Any], n: int) -> dict[str, Any]:
    """The conds that count the tokens of the text, for n more of them."""
    grown = {}
    if _MASK in model_conds:
        mask = model_conds[_MASK]
        grown[_MASK] = mask._copy_with(torch.cat([mask.cond, mask.cond.new_ones(len(mask.cond), n)], dim=1))
    if _COUNT in model_conds:
        grown[_COUNT] = type(model_conds[_COUNT])(model_conds[_COUNT].cond + n)
    return grown


def _hooks_of(cond: dict[str, Any]) -> frozenset[int]:
    """What distinguishes a cond's hooks from another's."""
    group = cond.get("hooks")
    return frozenset(id(getattr(hook, "hook_ref", hook)) for hook in group.hooks) if group is not None else frozenset()


def active(cond: dict[str, Any], sigma: torch.Tensor) -> bool:
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
        cond = {**cond, CROSS: cond[CROSS][:, : -self._tokens].detach()}
        return self._control.get_control(x, t, cond, *rest)


def ordinary_conds(conds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The conds with inference tensors cloned: autograd may have to save them."""

    def clone(value: Any) -> Any:
        if isinstance(value, list):
            return [clone(v) for v in value]
        return ordinary(value) if isinstance(value, torch.Tensor) else value

    return [
        {k: clone(v) if k == "mask" else v for k, v in cond.items()}
        | {
            "model_conds": {
                k: v._copy_with(clone(v.cond)) if hasattr(v, "cond") else v for k, v in cond["model_conds"].items()
            }
        }
        for cond in conds
    ]
