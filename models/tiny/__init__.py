"""The bundled tiny models: their architectures, and loaders that hand them out as any other model.

Weights lie beside this file in half precision; `card.json` says from what data, seed and command they came and
what they reach on held-out scenes. UNet and text tower are SD-shaped, so that the same weights run in diffusers here
and in ComfyUI's own classes there.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError
from ..files import TINY_DIR, checksum, load_into, load_safetensors, save_safetensors, write_atomically
from .autoencoder import LATENT_CHANNELS, TinyAutoencoder

IMAGE_SIZE = 128
CONTEXT_WIDTH = 128
# Stable Diffusion has 32 groups over 320 channels. At 32 groups our 32 channels would be normalised one by one,
# which wipes out each image's mean colour just before the last convolution.
NORM_GROUPS = 8

HEAD_WIDTH = 24
PREDICTION = "v_prediction"
UNET = dict(
    sample_size=16,
    in_channels=LATENT_CHANNELS,
    out_channels=LATENT_CHANNELS,
    block_out_channels=(48, 96, 144),
    layers_per_block=1,
    # At 16 x 16 attention costs more than all else together, so only the way down has it there.
    down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    cross_attention_dim=CONTEXT_WIDTH,
    norm_num_groups=NORM_GROUPS,
    attention_head_dim=(2, 4, 6),  # diffusers' historical name: these are numbers of heads
)
CLIP = dict(
    embed_dim=CONTEXT_WIDTH,
    vision_cfg=dict(image_size=IMAGE_SIZE, patch_size=16, width=128, layers=6, head_width=32),
    # Width equals embed_dim so that ComfyUI's CLIP classes take the text tower.
    text_cfg=dict(context_length=77, vocab_size=49408, width=CONTEXT_WIDTH, heads=2, layers=4),
)


def build_unet() -> Any:
    """UNet2DConditionModel of about 5 million parameters for 16 x 16 latents. As wide as an hour on two cores pays
    for: in five minutes (64, 128, 128) comes to a fifth less of what (32, 64, 128) comes to."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(**UNET)


def build_vae() -> TinyAutoencoder:
    """The autoencoder of factor 8 with eight latent channels."""
    return TinyAutoencoder()


def build_clip() -> Any:
    """open_clip CLIP for 128 x 128 images."""
    from open_clip import CLIP as OpenClip
    from open_clip import CLIPTextCfg, CLIPVisionCfg

    return OpenClip(CLIP["embed_dim"], CLIPVisionCfg(**CLIP["vision_cfg"]), CLIPTextCfg(**CLIP["text_cfg"]))


# A tiny world uses a few hundred of CLIP's 49,408 tokens. Rows that training never saw are one shared row, the
# "unknown word", which training does see (words are dropped to it), so files hold the few hundred and that one.
UNKNOWN_TOKEN = 0
_EMBEDDING = "token_embedding.weight"


def pack_vocabulary(state: dict[str, torch.Tensor], used: torch.Tensor) -> dict[str, torch.Tensor]:
    """Replaces the token embedding by its `used` rows [n] and the unknown row."""
    state = dict(state)
    rows = state.pop(_EMBEDDING)
    state["token_embedding.ids"] = used.to(torch.int32)
    state["token_embedding.rows"] = rows[used]
    state["token_embedding.unknown"] = rows[UNKNOWN_TOKEN]
    return state


def unpack_vocabulary(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inverse of `pack_vocabulary`; a state dict with a whole embedding is returned as it is."""
    if "token_embedding.ids" not in state:
        return state
    state = dict(state)
    ids, rows = state.pop("token_embedding.ids").long(), state.pop("token_embedding.rows")
    whole = state.pop("token_embedding.unknown").repeat(CLIP["text_cfg"]["vocab_size"], 1)
    whole[ids] = rows
    state[_EMBEDDING] = whole
    return state


def path(name: str) -> Path:
    """The weight file of a tiny model: unet, vae, clip, clip-eval, tiny-a, tiny-b, tiny-c."""
    return TINY_DIR / f"{name}.safetensors"


CHECKSUMS = "SHA256SUMS"
"""The file beside the weights that says what each must be, as `sha256sum --check` reads it."""


def checksums() -> dict[str, str]:
    """File name -> SHA-256 of the bundled models; empty where there is no such file (models being trained
    elsewhere)."""
    listed = TINY_DIR / CHECKSUMS
    lines = listed.read_text(encoding="utf-8").splitlines() if listed.is_file() else []
    return {name: sha for sha, name in (line.split(maxsplit=1) for line in lines if line.strip())}


def verify(name: str) -> None:
    """UserError where a tiny model is not the file that belongs to this version: half a download, another version's,
    or changed."""
    wanted = checksums().get(path(name).name)
    if wanted is not None and path(name).is_file() and checksum(path(name)) != wanted:
        raise UserError(
            f"The bundled model '{path(name).name}' is not the one that belongs to this version (its checksum differs from "
            f"{CHECKSUMS}): it was damaged or replaced. Install this package again, or take the file from its repository."
        )


def record(name: str) -> None:
    """Notes the checksum of a tiny model that was trained anew."""
    known = checksums() | {path(name).name: checksum(path(name))}
    text = "".join(f"{sha}  {file}\n" for file, sha in sorted(known.items()))
    write_atomically(TINY_DIR / CHECKSUMS, lambda p: p.write_text(text, encoding="utf-8", newline="\n"))


def save(name: str, state: dict[str, torch.Tensor], **metadata: Any) -> Path:
    """Writes a tiny model in half precision with its metadata (JSON values), and its checksum."""
    half = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    written = save_safetensors(path(name), half, {k: json.dumps(v) for k, v in metadata.items()})
    record(name)
    return written


def read(name: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """(state dict in float32, metadata) of a tiny model. UserError where the file is absent, damaged or another's."""
    verify(name)
    state, metadata = load_safetensors(path(name))
    state = unpack_vocabulary({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    return state, {k: json.loads(v) for k, v in metadata.items()}


def load(name: str, model: torch.nn.Module) -> dict[str, Any]:
    """Loads a tiny model's weights into `model` (float32) and returns its metadata."""
    state, metadata = read(name)
    load_into(model, state, name)
    return metadata


@lru_cache(maxsize=1)
def load_pipeline() -> tuple[Any, Any, Any]:
    """(model, text encoder, vae): the tiny diffusion model as the embedded host's MODEL, CLIP and VAE, on the host's
    device."""
    from .. import host
    from ..diffusion.diffusers import DiffusersModel
    from ..diffusion.text import TextEncoder, open_clip_tower
    from ..tensors.gradients import frozen

    unet, vae, clip = build_unet(), build_vae(), build_clip()
    load("unet", unet), load("vae", vae), load("clip", clip)
    frozen([clip, vae])
    for part in (unet, vae, clip):
        part.to(host.current().device)
    return DiffusersModel(unet, PREDICTION, latent_scale=1.0), TextEncoder([open_clip_tower(clip)]), vae
