"""Every algorithm and network of ComfyUI-Affect, usable from plain Python. Images are [B, 3, H, W] in 0..1."""
