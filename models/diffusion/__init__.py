"""Diffusion models behind one protocol (`protocol.py`): ours and diffusers' (`diffusers.py`), ComfyUI's (`comfy.py`)."""
