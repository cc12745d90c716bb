"""The architecture of the bundled tiny CLIP, whose text tower the tiny diffusion model reads."""

from __future__ import annotations

from typing import Any

from ..bundled import VOCABULARY

IMAGE_SIZE = 128
CONTEXT_WIDTH = 128
CLIP: dict[str, Any] = dict(
    embed_dim=CONTEXT_WIDTH,
    vision_cfg=dict(image_size=IMAGE_SIZE, patch_size=16, width=128, layers=6, head_width=32),
    # Width equals embed_dim so that ComfyUI's CLIP classes take the text tower.
    text_cfg=dict(context_length=77, vocab_size=VOCABULARY, width=CONTEXT_WIDTH, heads=2, layers=4),
)


def build_clip() -> Any:
    """open_clip CLIP for 128 x 128 images."""
    from open_clip import CLIP as OpenClip
    from open_clip import CLIPTextCfg, CLIPVisionCfg

    return OpenClip(CLIP["embed_dim"], CLIPVisionCfg(**CLIP["vision_cfg"]), CLIPTextCfg(**CLIP["text_cfg"]))
