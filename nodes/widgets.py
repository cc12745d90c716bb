"""Inputs of nodes as ComfyUI declares them: a type, and its options. Every input has a tooltip."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Input = tuple[Any, dict[str, Any]]


def socket(kind: str, tooltip: str) -> Input:
    """A value of another node's output."""
    return kind, {"tooltip": tooltip}


def choice(values: Iterable[str], tooltip: str, **options: Any) -> Input:
    """One of several names; the first unless `default` says otherwise. The names are the model's own.

    absent  the value of workflows that were saved before the node had this input: it is not the default's, so that they
            run as they did. The frontend extension and the headless converter set it, and `run` has it as its default
    """
    return list(values), {**options, "tooltip": tooltip}


def integer(default: int, between: tuple[int, int], tooltip: str, **options: Any) -> Input:
    """A whole number between a lowest and a highest."""
    low, high = between
    return "INT", {"default": default, "min": low, "max": high, **options, "tooltip": tooltip}


def real(default: float, between: tuple[float, float, float], tooltip: str, **options: Any) -> Input:
    """A number between a lowest and a highest, in steps of the third; `round=False` keeps what is typed between
    steps."""
    low, high, step = between
    return "FLOAT", {"default": default, "min": low, "max": high, "step": step, **options, "tooltip": tooltip}


def share(default: float, tooltip: str) -> Input:
    """A number from 0 to 1 in hundredths."""
    return real(default, (0.0, 1.0, 0.01), tooltip)


def seed(tooltip: str) -> Input:
    """A seed with ComfyUI's control of what follows it."""
    return integer(0, (0, 0xFFFFFFFFFFFFFFFF), tooltip, control_after_generate=True)


def text(tooltip: str, default: str = "", **options: Any) -> Input:
    return "STRING", {"default": default, **options, "tooltip": tooltip}


def flag(default: bool, tooltip: str) -> Input:
    return "BOOLEAN", {"default": default, "tooltip": tooltip}


def surface() -> Input:
    """Where a change is made; files that were saved before there was a choice have it on pixels."""
    from ..models.grade.surface import LARGEST_DRAWING, SURFACES

    return choice(
        SURFACES,
        "photograph: the change is one of colour and light (a grade), clean at any size. pixels: the paper's, which "
        f"can draw, up to 1536 pixels. auto: photograph above {LARGEST_DRAWING} pixels.",
        default="auto",
        absent="pixels",
    )
