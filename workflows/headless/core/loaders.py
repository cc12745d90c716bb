"""CheckpointLoaderSimple, VAELoader, LoraLoader. A file's header is checked before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ....models.errors import UserError
from ....models.files import check_safetensors, find_model
from ....models.host import current


def _path_of(kind: str, name: str, folders: bool = False) -> Path:
    """The path of a model file. UserError if it is pickled, missing, or a folder although `folders` is False."""
    if Path(name).suffix.lower() in (".ckpt", ".pt", ".pth", ".bin"):
        raise UserError(
            f"'{name}' is a pickled file, which can run code and is not opened here. Convert it to safetensors, and "
            "choose that."
        )
    path = find_model(kind, name)
    if path.is_dir() and not folders:
        raise UserError(f"'{name}' is a folder. Choose a file inside it.")
    return path


class CheckpointLoaderSimple:
    """A diffusion model with its text encoder and VAE, from one file or a folder in diffusers' layout."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "ckpt_name": (
                    current().list_files("checkpoints"),
                    {"tooltip": "A safetensors file, or a folder in diffusers' layout."},
                )
            }
        }

    RETURN_TYPES = ("MODEL", "CLIP", "VAE")
    FUNCTION = "load_checkpoint"
    CATEGORY = "loaders"
    DESCRIPTION = "Loads a diffusion model with its text encoder and VAE."

    def load_checkpoint(self, ckpt_name: str) -> tuple[Any, Any, Any]:
        from ....models.diffusion.checkpoints import load_checkpoint

        return load_checkpoint(find_model("checkpoints", ckpt_name))

    @classmethod
    def VALIDATE_INPUTS(cls, ckpt_name: str | None) -> bool:
        if ckpt_name is not None:  # linked: known only while running
            _has_vae(_path_of("checkpoints", ckpt_name, folders=True))
        return True

    @classmethod
    def VALIDATE_LINKS(cls, prompt: dict[str, Any], inputs: dict[str, Any]) -> tuple[str, str] | None:
        """(input, what is wrong) if a node takes the VAE of a checkpoint that has none."""
        from ....models.diffusion.checkpoints import no_vae
        from ..prompt import needed
        from ..registry import default_registry

        name = inputs.get("ckpt_name")
        if not isinstance(name, str) or _has_vae(find_model("checkpoints", name)):
            return None
        used = {i: prompt[i] for i in needed(prompt, default_registry())}
        own = [i for i, node in used.items() if node["inputs"].get("ckpt_name") == name]
        taker = next(
            (
                i
                for i, node in used.items()
                for value in node["inputs"].values()
                if isinstance(value, list) and value[:1] != [] and value[0] in own and value[1:] == [2]
            ),
            None,
        )
        return ("ckpt_name", f"{no_vae(Path(name).name)} (Node {taker} takes it.)") if taker else None


class VAELoader:
    """A VAE from a file of its own."""

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
        if vae_name is not None:
            path = _path_of("vae", vae_name)
            if not any(key.endswith("decoder.conv_in.weight") for key in check_safetensors(path)):
                raise UserError(
                    f"'{path.name}' is not a VAE that can be loaded here: it has the wrong keys (none with "
                    "'decoder.conv_in.'). It is a file of another kind or of another model family; choose another."
                )
        return True


class LoraLoader:
    """A LoRA on top of a model and its text encoder."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        strength = {"default": 1.0, "min": -100.0, "max": 100.0, "step": 0.01}
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The diffusion model the LoRA is applied to."}),
                "clip": ("CLIP", {"tooltip": "The text encoder the LoRA is applied to."}),
                "lora_name": (current().list_files("loras"), {"tooltip": "The LoRA."}),
                "strength_model": ("FLOAT", {**strength, "tooltip": "How strongly it changes the model."}),
                "strength_clip": ("FLOAT", {**strength, "tooltip": "How strongly it changes the text encoder."}),
            }
        }

    RETURN_TYPES = ("MODEL", "CLIP")
    FUNCTION = "load_lora"
    CATEGORY = "loaders"
    DESCRIPTION = "Applies a LoRA. The given model is not changed."

    def load_lora(
        self, model: Any, clip: Any, lora_name: str, strength_model: float, strength_clip: float
    ) -> tuple[Any, Any]:
        from ....models.diffusion.lora import apply_lora

        if strength_model == 0 and strength_clip == 0:
            return model, clip
        return apply_lora(model, clip, find_model("loras", lora_name), strength_model, strength_clip)

    @classmethod
    def VALIDATE_INPUTS(cls, lora_name: str | None) -> bool:
        from ....models.diffusion.adapters import split_name

        if lora_name is not None:
            path = _path_of("loras", lora_name)
            if not any(map(split_name, check_safetensors(path))):
                raise UserError(
                    f"'{path.name}' is not a LoRA that can be loaded here: it has the wrong keys (none with "
                    "'lora_down', 'lora_A' or another of their kind). It is a file of another kind; choose another."
                )
        return True


def _has_vae(path: Path) -> bool:
    """Whether a checkpoint has a VAE, from its header only. UserError if it cannot be loaded here."""
    from ....models.diffusion.checkpoints import check_checkpoint
    from ....models.diffusion.folder import check_folder

    return bool(check_folder(path)) if path.is_dir() else check_checkpoint(path)


CLASSES = {"CheckpointLoaderSimple": CheckpointLoaderSimple, "VAELoader": VAELoader, "LoraLoader": LoraLoader}
DISPLAY_NAMES = {"CheckpointLoaderSimple": "Load Checkpoint", "VAELoader": "Load VAE", "LoraLoader": "Load LoRA"}
