"""The ComfyUI nodes: sockets, widgets and layouts. The algorithms are in `models/`."""

NODE_CLASS_MAPPINGS: dict[str, type] = {}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {}
