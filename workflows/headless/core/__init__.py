"""ComfyUI's core nodes as the embedded host provides them: same keys, inputs, defaults, ranges and outputs.

Written from their interfaces, without ComfyUI's code; one family per file. Each module lists its classes in CLASSES by
key, and the display names that differ from the key in DISPLAY_NAMES.
"""

from . import image_io, images, latents, loaders, primitives, sampling

_FAMILIES = (image_io, images, loaders, latents, sampling, primitives)

CORE_CLASSES: dict[str, type] = {key: cls for family in _FAMILIES for key, cls in family.CLASSES.items()}
CORE_DISPLAY_NAMES: dict[str, str] = {key: name for family in _FAMILIES for key, name in family.DISPLAY_NAMES.items()}
