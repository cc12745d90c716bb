"""Which of ComfyUI's models emotional tokens can guide, and why the others are refused."""

from __future__ import annotations

from typing import Any

import comfy.model_patcher

from ...errors import UserError

GUIDED = {
    "BaseModel": "SD1.5 and SD2",
    "SD21UNCLIP": "SD2 unCLIP",
    "SD15_instructpix2pix": "InstructPix2Pix",
    "SDXL": "SDXL",
    "SDXLRefiner": "SDXL Refiner",
    "SDXL_instructpix2pix": "InstructPix2Pix XL",
    "SD3": "SD3",
    "Flux": "FLUX.1",
    "Flux2": "FLUX.2",
    "Chroma": "Chroma",
    "Lumina2": "Lumina 2 and Z-Image",
    "QwenImage": "Qwen-Image",
    "HiDream": "HiDream-I1",
    "Krea2": "Krea 2",
    "Omnigen2": "OmniGen2",
    "HunyuanImage21": "HunyuanImage 2.1",
    "ErnieImage": "ERNIE-Image",
    "AuraFlow": "AuraFlow",
    "WAN21": "Wan 2.1 and 2.2 (single images)",
}
"""ComfyUI's classes of models (`comfy.model_base`) whose text enters as a sequence of tokens that may be longer
(`c_crossattn`, with its attention_mask and num_tokens where the model reads them) -> their names."""

_FIXED = "reads its text at a fixed length"
_NO_BACKWARD = "computes its attention with an operator that has no backward pass"
_NO_TOKENS = "does not read its text as a sequence of tokens that could be longer"
_REFUSED = {
    "HunyuanDiT": _FIXED,
    "CosmosPredict2": _NO_BACKWARD,
    "Anima": _NO_BACKWARD,
    "HiDreamO1": _NO_TOKENS,
    "StableCascade_B": _NO_TOKENS,
    "StableCascade_C": _NO_TOKENS,
    "Ideogram4": "runs a second network without text, which guidance would have to be told apart from",
    "ChromaRadiance": "draws pixels without a VAE",
    "ZImagePixelSpace": "draws pixels without a VAE",
}
"""Image models that cannot be guided -> why."""

_REMEDY = "Connect one of " + ", ".join(dict.fromkeys(GUIDED.values())) + " to the Emotion Token Optimizer."


def check_pair(model: Any, vae: Any) -> None:
    """UserError where a MODEL and a VAE cannot be guided together: what the MODEL is, and which can."""
    if not isinstance(model, comfy.model_patcher.ModelPatcher) or not hasattr(model.model, "latent_format"):
        raise UserError(
            "What is connected as MODEL is not a diffusion model of ComfyUI. Connect a checkpoint loader's MODEL."
        )
    kind, latents = type(model.model).__name__, model.model.latent_format
    if kind in _REFUSED:
        raise UserError(
            f"This MODEL is a {kind}, which {_REFUSED[kind]}, so emotional tokens cannot guide it. {_REMEDY}"
        )
    if kind not in GUIDED:
        made = {1: "sound or shapes", 3: "video"}.get(latents.latent_dimensions)
        what = (
            f"makes {made}, which emotion classifiers do not read"
            if made
            else "has not been tried with emotional tokens"
        )
        raise UserError(f"This MODEL is a {kind}, which {what}. {_REMEDY}")
    if vae.first_stage_model is None:
        raise UserError("This VAE is empty: the checkpoint holds none. Connect a Load VAE node.")
    if vae.latent_channels != latents.latent_channels:
        raise UserError(
            f"The VAE's latents have {vae.latent_channels} channels and the MODEL's {latents.latent_channels}: "
            "they belong to different models. Connect the VAE of the same checkpoint."
        )
    if getattr(vae, "latent_dim", 2) != latents.latent_dimensions:
        raise UserError(
            "This VAE is one for video and the MODEL one for images, or the other way round. Connect the VAE that "
            "belongs to the MODEL."
        )


def check_areas(model: Any, conds: dict[str, list[dict[str, Any]]]) -> None:
    """UserError for conds with an area and a MODEL whose latents have frames (Qwen-Image, Wan, Krea 2): ComfyUI's
    areas have two sides and fail there, with or without us. Masks hold."""
    if model.model.latent_format.latent_dimensions == 3 and any(
        "area" in cond or cond.get("set_area_to_bounds") for part in conds.values() for cond in part
    ):
        raise UserError(
            "ComfyUI knows no areas for this MODEL: its latents are those of a video. Use Conditioning (Set Mask) with "
            "set_cond_area 'default' in place of Conditioning (Set Area)."
        )


def check_frames(latent: Any) -> None:
    """UserError for latents of several frames; [B, C, h, w] and [B, C, 1, h, w] pass."""
    if getattr(latent, "is_nested", False) or (latent.ndim == 5 and latent.shape[2] != 1):
        raise UserError(
            "This LATENT holds several frames or parts (a video). Emotional guidance works on single images: set the "
            "empty latent's length to 1."
        )
