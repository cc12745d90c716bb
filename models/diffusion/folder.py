"""Folders in diffusers' layout: unet, vae, text_encoder (and text_encoder_2), each with its config.json and
safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..configurations import read_config
from ..errors import UserError
from ..files import check_safetensors
from ..host import current
from .diffusers import DiffusersModel, DiffusersVAE
from .text import TextEncoder, Tower
from .towers import TransformersTower

_STEMS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
}
_VARIANTS = (None, "fp16", "non_ema", "bf16")
"""Which of several sets of weights is taken where a part has more than one: the plain one first."""


def load_folder(path: Path) -> tuple[DiffusersModel, TextEncoder, DiffusersVAE]:
    """(MODEL, CLIP, VAE) of a folder in diffusers' layout, in float32. UserError as `check_folder`, and where a part
    cannot be built."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    found = check_folder(path)

    def part(cls: Any, name: str) -> Any:
        try:
            loaded, said = cls.from_pretrained(
                path / name, local_files_only=True, use_safetensors=True, variant=found[name], output_loading_info=True
            )
        except Exception as error:  # whatever a wrong config or wrong weights make the libraries raise
            raise UserError(
                f"'{name}' of the diffusers folder '{path.name}' could not be loaded: "
                f"{' '.join(str(error).split())[:300]}"
            ) from error
        if said["missing_keys"]:  # they were initialised at random
            raise UserError(
                f"'{name}' of the diffusers folder '{path.name}' lacks weights: '{sorted(said['missing_keys'])[0]}' "
                f"and {len(said['missing_keys']) - 1} more. Download it again."
            )
        return loaded.float().to(current().device)

    unet, vae = part(UNet2DConditionModel, "unet"), part(AutoencoderKL, "vae")
    large = "text_encoder_2" in found
    towers: list[Tower] = [TransformersTower(part(CLIPTextModel, "text_encoder"), large)]
    pads: tuple[int, ...] = (49407,)
    if large:
        towers.append(TransformersTower(part(CLIPTextModelWithProjection, "text_encoder_2"), True))
        pads = (49407, 0)
    scheduler = path / "scheduler" / "scheduler_config.json"
    prediction = read_config(scheduler).get("prediction_type", "epsilon") if scheduler.is_file() else "epsilon"
    if prediction not in ("epsilon", "v_prediction"):
        raise UserError(
            f"The model in '{path.name}' predicts '{prediction}', which is not sampled here (epsilon and v_prediction "
            "are). Run it in ComfyUI."
        )
    return DiffusersModel(unet, prediction, vae.config.scaling_factor), TextEncoder(towers, pads), DiffusersVAE(vae)


def check_folder(path: Path) -> dict[str, str | None]:
    """{part: variant of its weights} of a folder, from names and configurations alone. UserError where a part is
    missing, has only pickled weights, or belongs to a model that is not run here."""
    if not (path / "unet").is_dir() or not (path / "vae").is_dir() or not (path / "text_encoder").is_dir():
        raise UserError(
            f"The folder '{path.name}' is not a diffusers model with a UNet: it needs unet, vae and "
            "text_encoder inside. Run other models in ComfyUI."
        )
    parts = [name for name in _STEMS if (path / name).is_dir()]
    found = {name: _variant(path / name, _STEMS[name], path.name) for name in parts}
    configs = {name: read_config(path / name / "config.json") for name in parts}
    unet, vae = configs["unet"], configs["vae"]
    channels, wanted = unet.get("in_channels", 4), vae.get("latent_channels", 4)
    if channels != wanted:
        raise UserError(takes_more(path.name, channels, wanted))
    return found


def takes_more(name: str, channels: Any, wanted: Any) -> str:
    """The error for a UNet that takes more than a latent."""
    kind = (
        "an in-painting model (it reads the mask and the masked image beside the latent)"
        if channels == 9
        else ("a model that reads another image beside the latent")
    )
    return (
        f"'{name}' is {kind}: its UNet takes {channels} channels and a latent has {wanted}. It is not run here; choose "
        "the plain checkpoint of the same family, or run the workflow in ComfyUI."
    )


def _variant(folder: Path, stem: str, model: str) -> str | None:
    for variant in _VARIANTS:
        plain = folder / f"{stem}{f'.{variant}' if variant else ''}.safetensors"
        index = folder / f"{stem}.safetensors.index{f'.{variant}' if variant else ''}.json"
        if plain.is_file():
            check_safetensors(plain)
            return variant
        if index.is_file():
            return variant
    pickled = next((p.name for p in folder.iterdir() if p.suffix in (".bin", ".ckpt", ".pt", ".pth")), None)
    if pickled:
        raise UserError(
            f"'{folder.name}' of the diffusers folder '{model}' has only pickled weights ({pickled}), which can run "
            "code and are not opened here. Download its safetensors files, or convert it."
        )
    others = next((p.name for p in folder.glob("*.safetensors")), None)
    raise UserError(
        f"'{folder.name}' of the diffusers folder '{model}' has no weights: there is no {stem}.safetensors"
        + (f", only {others}" if others else "")
        + ". Download the folder again."
    )
