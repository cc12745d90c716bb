"""CheckpointLoaderSimple, VAELoader, LoraLoader. What a file's header can tell is checked before anything
runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ....models.errors import UserError
from ....models.files import check_safetensors, find_model
from ....models.host import current


def _validate(kind: str, name: str | None, what: str, *needs: tuple[str, ...]) -> bool:
    """True, or UserError where the file is pickled, absent, cut off, or lacks what it needs.

    needs  groups of fragments of tensor names: of each group one must occur
    """
    if name is None:  # linked: known only while running
        return True
    if Path(name).suffix.lower() in (".ckpt", ".pt", ".pth", ".bin"):
        raise UserError(f"'{name}' is a pickled file, which can run code and is not opened here. Convert it "
                        "to safetensors, and choose that.")
    path = find_model(kind, name)
    if path.is_dir():
        return True
    keys = check_safetensors(path)
    for group in needs:
        if not any(fragment in key for key in keys for fragment in group):
            raise UserError(f"'{path.name}' is no {what} that can be loaded here: it has the wrong keys "
                            f"(none with '{group[0]}'). It is a file of another kind or of another model "
                            "family; choose another.")
    return True


class CheckpointLoaderSimple:
    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"ckpt_name": (current().list_files("checkpoints"), {
            "tooltip": "A safetensors file, or a folder in diffusers' layout."})}}

    RETURN_TYPES = ("MODEL", "CLIP", "VAE")
    FUNCTION = "load_checkpoint"
    CATEGORY = "loaders"
    DESCRIPTION = "Loads a diffusion model with its text encoder and VAE."

    def load_checkpoint(self, ckpt_name: str) -> tuple[Any, Any, Any]:
        from ....models.diffusion.checkpoints import load_checkpoint

        return load_checkpoint(find_model("checkpoints", ckpt_name))

    @classmethod
    def VALIDATE_INPUTS(cls, ckpt_name: str | None) -> bool:
        return _validate("checkpoints", ckpt_name, "checkpoint", ("model.diffusion_model.input_blocks.",),
                         ("first_stage_model.",), ("cond_stage_model.", "conditioner."))


class VAELoader:
    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"vae_name": (current().list_files("vae"),)}}

    RETURN_TYPES = ("VAE",)
    FUNCTION = "load_vae"
    CATEGORY = "loaders"
    DESCRIPTION = "Loads a VAE."

    def load_vae(self, vae_name: str) -> tuple[Any]:
        from ....models.diffusion.checkpoints import load_vae

        return (load_vae(find_model("vae", vae_name)),)

    @classmethod
    def VALIDATE_INPUTS(cls, vae_name: str | None) -> bool:
        return _validate("vae", vae_name, "VAE", ("decoder.conv_in.",))


class LoraLoader:
    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        strength = {"default": 1.0, "min": -100.0, "max": 100.0, "step": 0.01}
        return {"required": {
            "model": ("MODEL", {"tooltip": "The diffusion model the LoRA is applied to."}),
            "clip": ("CLIP", {"tooltip": "The text encoder the LoRA is applied to."}),
            "lora_name": (current().list_files("loras"), {"tooltip": "The LoRA."}),
            "strength_model": ("FLOAT", {**strength, "tooltip": "How strongly it changes the model."}),
            "strength_clip": ("FLOAT", {**strength, "tooltip": "How strongly it changes the text encoder."}),
        }}

    RETURN_TYPES = ("MODEL", "CLIP")
    FUNCTION = "load_lora"
    CATEGORY = "loaders"
    DESCRIPTION = "Applies a LoRA. The model that comes in stays as it is."

    def load_lora(self, model: Any, clip: Any, lora_name: str, strength_model: float,
                  strength_clip: float) -> tuple[Any, Any]:
        from ....models.diffusion.lora import apply_lora

        if strength_model == 0 and strength_clip == 0:
            return model, clip
        return apply_lora(model, clip, find_model("loras", lora_name), strength_model, strength_clip)

    @classmethod
    def VALIDATE_INPUTS(cls, lora_name: str | None) -> bool:
        return _validate("loras", lora_name, "LoRA", ("lora_down", "lora_up", "lora_A", "lora.down"))


CLASSES = {"CheckpointLoaderSimple": CheckpointLoaderSimple, "VAELoader": VAELoader, "LoraLoader": LoraLoader}
DISPLAY_NAMES = {"CheckpointLoaderSimple": "Load Checkpoint", "VAELoader": "Load VAE",
                 "LoraLoader": "Load LoRA"}
