"""ComfyUI's core nodes as the embedded host provides them: same keys, inputs, defaults, ranges and outputs.

Written anew from their interfaces; one family a file. Each module lists its classes in CLASSES by key, with
display names in DISPLAY_NAMES where they differ from the key.
"""

from . import image_io, images, latents, loaders, primitives, sampling

_FAMILIES = (image_io, images, loaders, latents, sampling, primitives)

CORE_CLASSES: dict[str, type] = {key: cls for family in _FAMILIES for key, cls in family.CLASSES.items()}
CORE_DISPLAY_NAMES: dict[str, str] = {key: name for family in _FAMILIES for key, name in family.DISPLAY_NAMES.items()}
