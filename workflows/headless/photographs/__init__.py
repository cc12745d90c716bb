"""Photographs: read with all that their files carry, and written again with other pixels.

The pixels are encoded anew; the colour profile, EXIF, XMP and IPTC are carried over byte for byte, apart from what the
new pixels make wrong: the orientation (they are upright), the size, embedded previews.
"""

from __future__ import annotations

from .source import Photograph, read
from .write import encode

__all__ = ["Photograph", "encode", "read"]
