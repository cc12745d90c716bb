"""XMP, the texts of Adobe's that any format may carry."""

from __future__ import annotations

import re

_ORIENTATION = re.compile(rb'(tiff:Orientation(?:\s*=\s*["\']|>)\s*)[2-8]')


def corrected(packet: bytes) -> bytes:
    """A packet of a picture that is now upright, of the same length."""
    return _ORIENTATION.sub(rb"\g<1>1", packet)
