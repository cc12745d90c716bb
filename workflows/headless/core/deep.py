"""16 bits a colour: Pillow has no such mode and keeps the higher byte of each value.

Its decoders can be told another order of the two bytes, and then keep the lower one. So a file is decoded twice, by
the same code that reads every other picture, and the two halves are put together.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ....models.pictures import Unreadable, opened, upright

_OTHER_BYTE = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
"""The last letter of Pillow's raw modes ('RGB;16B'), the order of the bytes -> the one that gives the lower byte."""

_WHOLE = tuple(f"{colours};16{order}" for colours in ("RGB", "RGBX", "RGBA") for order in _OTHER_BYTE)
"""Raw modes that are read whole. Not those with alpha multiplied into the colours, nor CMYK."""

_GREY_ALPHA = "LA;16B"
"""A PNG's grey with alpha, 4 bytes a pixel: read as they are, as if they were 4 colours of 8 bits."""


def raw_mode(image: Any) -> str:
    """How the file holds a pixel, by Pillow's name of it ('RGB;16B'); '' where the decoder does not say. Of an image
    that is not decoded yet."""
    arguments = image.tile[0][3] if getattr(image, "tile", None) else ""
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def is_deep(image: Any) -> bool:
    """Whether an image that is not decoded yet has more than 8 bits a value."""
    return image.mode.startswith("I") or ";16" in raw_mode(image) or _in_planes(image)


def kept_whole(image: Any) -> bool:
    """Whether `deep_colour` reads all 16 bits of it."""
    return raw_mode(image) in (*_WHOLE, _GREY_ALPHA)


def deep_colour(path: Path) -> np.ndarray[Any, Any] | None:
    """[H, W, 3 or 4] uint16, upright, of a picture file of 16 bits a colour; None for every other file (16 bits of grey
    without alpha are a mode of Pillow's). The single colour that a PNG makes transparent becomes alpha.

    Unreadable where `pictures.opened` refuses the file, and for planes of 16 bits, which Pillow mixes up.
    """
    with opened(path, every_frame=True) as image:
        if _in_planes(image):
            raise Unreadable(
                path, "its 16 bits are stored in one plane for each colour", "Save it again, with interleaved colours."
            )
        if not kept_whole(image):
            return None
        key = image.info.get("transparency")
        if raw_mode(image) == _GREY_ALPHA:
            return _grey_alpha(path)
    high = _decoded(path, lambda raw: raw)
    values = high.astype(np.uint16) << 8
    del high
    values |= _decoded(path, lambda raw: raw[:-1] + _OTHER_BYTE[raw[-1]])
    if isinstance(key, tuple) and values.shape[2] == 3:
        shown = (values != np.array(key, np.uint16)).any(axis=2, keepdims=True)
        return np.concatenate([values, shown.astype(np.uint16) * 65535], axis=2)
    return values


def _grey_alpha(path: Path) -> np.ndarray[Any, Any]:
    four = _decoded(path, lambda raw: "RGBA").astype(np.uint16)
    grey, alpha = four[..., 0] << 8 | four[..., 1], four[..., 2] << 8 | four[..., 3]
    return np.stack([grey, grey, grey, alpha], axis=2)


def _decoded(path: Path, renamed: Callable[[str], str]) -> np.ndarray[Any, Any]:
    """The picture as uint8 [H, W, C], its raw mode replaced."""
    image: Any
    with opened(path, every_frame=True) as image:
        mode = renamed(raw_mode(image))
        image.tile = [(*tile[:3], _with_mode(tile[3], mode)) for tile in image.tile]
        try:  # the decoders of newer versions of Pillow take named tuples
            from PIL.ImageFile import _Tile

            image.tile = [_Tile(*tile) for tile in image.tile]
        except ImportError:
            pass
        return np.asarray(upright(image))


def _with_mode(arguments: Any, mode: str) -> Any:
    return (mode, *arguments[1:]) if isinstance(arguments, tuple) else mode


def _in_planes(image: Any) -> bool:
    """Whether a TIFF has each colour by itself, with 16 bits."""
    tags = getattr(image, "tag_v2", {})
    return tags.get(284) == 2 and tags.get(277, 1) > 1 and max(tags.get(258, (1,))) == 16
