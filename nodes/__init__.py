"""The ComfyUI nodes: sockets, widgets and layouts. The algorithms are in `models/`."""

from . import emolat, emotions, grade, inversion, models, moodifier, moodifyclip, muse, reference, tokens

_FAMILIES = (emotions, models, muse, inversion, tokens, reference, grade, emolat, moodifier, moodifyclip)

NODE_CLASS_MAPPINGS = {key: node for family in _FAMILIES for key, (node, _) in family.NODES.items()}
NODE_DISPLAY_NAME_MAPPINGS = {key: name for family in _FAMILIES for key, (_, name) in family.NODES.items()}
