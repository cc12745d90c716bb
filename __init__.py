"""ComfyUI-Affect: software that changes what an image makes people feel.

This folder is a ComfyUI custom node pack and the Python package `comfyui_affect` at once. ComfyUI imports it
at start, so nothing heavy is imported here: nodes import their libraries when they run.
"""

from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

WEB_DIRECTORY = "./web"

__version__ = "0.1.0"

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "WEB_DIRECTORY", "__version__"]
