"""CLIP scorers by name: bundled ones, files, and those that open_clip downloads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from .. import bundled, files, host
from ..errors import UserError
from .clip import ClipScorer
from .moodifyclip import folders, load_moodify_clip
from .tiny_clip import build_clip


def architecture_of(state: dict[str, torch.Tensor], name: str) -> str:
    """The open_clip name whose CLIP has a state dict's shapes: for example "ViT-B-32" (vision transformers alone).

    Guarantee: the weights load into what is named. Not guaranteed: the right activation, because a state dict does not
    tell QuickGELU from GELU. OpenAI's weights use QuickGELU: a file name with "openai" or "quickgelu" selects it.
    UserError where no architecture fits.
    """
    import open_clip

    def layers(prefix: str) -> int:
        return len({k[len(prefix) :].split(".")[0] for k in state if k.startswith(prefix)})

    try:
        visual, text = state["visual.conv1.weight"], state["token_embedding.weight"]
        shape = (
            state["text_projection"].shape[1],
            visual.shape[0],
            visual.shape[-1],
            layers("visual.transformer.resblocks."),
            len(state["visual.positional_embedding"]),
            *text.shape,
            layers("transformer.resblocks."),
            len(state["positional_embedding"]),
        )
    except KeyError as error:
        raise UserError(
            f"'{name}' is not an open_clip model with a vision transformer: it has no {error}. transformers' "
            "own format has other keys; use the file that open_clip publishes."
        ) from error
    fitting = []
    for architecture in open_clip.list_models():
        config = open_clip.get_model_config(architecture)
        v, t = config["vision_cfg"], config["text_cfg"]
        plain = {"layers", "width"} <= set(t) and "hf_tokenizer_name" not in t and not config.get("custom_text")
        if plain and isinstance(v.get("layers"), int):
            cells = (v["image_size"] // v["patch_size"]) ** 2 + 1
            if shape == (
                config["embed_dim"],
                v["width"],
                v["patch_size"],
                v["layers"],
                cells,
                t["vocab_size"],
                t["width"],
                t["layers"],
                t["context_length"],
            ):
                fitting.append(architecture)
    if not fitting:
        raise UserError(f"'{name}' does not have the shapes of a CLIP that this open_clip knows: {shape}.")
    quick = any(mark in name.lower() for mark in ("openai", "quickgelu"))
    return min(fitting, key=lambda a: (a.endswith("quickgelu") != quick, len(a), a))


TINY = {"tiny": "clip", "tiny-eval": "clip-eval"}
SUGGESTED = ("ViT-B-32:openai", "ViT-L-14:openai", "ViT-H-14:laion2b_s32b_b79k")
"""Published models that menus name; `load_scorer` takes every other of open_clip's too."""


def names() -> list[str]:
    """The names of `load_scorer` that a menu offers: bundled, published, and the files and folders of this machine."""
    own = [*host.current().list_files("open_clip"), *(f"moodifyclip/{name}" for name in folders())]
    return [*TINY, "moodifyclip", *SUGGESTED, *own]


def load_scorer(name: str) -> ClipScorer:
    """The scorer of a name: tiny, tiny-eval, moodifyclip (the bundled MoodifyCLIP; moodifyclip/NAME: a folder of
    models/moodify_clip), a file of models/open_clip (OpenAI's own weights have "openai" in their name), or an
    open_clip name "MODEL:PRETRAINED" whose PRETRAINED is one of open_clip's tags (downloaded where it is not
    cached). It runs on the host's device."""
    import open_clip

    if name in TINY:
        clip = build_clip()
        metadata = bundled.load(TINY[name], clip)
        scorer = ClipScorer(clip, open_clip.get_tokenizer("ViT-B-32"), name, metadata.get("lo"), metadata.get("hi"))
        return scorer.to(host.current().device)
    if name.split("/")[0] == "moodifyclip":
        return load_moodify_clip(name.partition("/")[2] or "tiny")
    if name.endswith(".safetensors"):
        state, _ = files.load_safetensors(files.find_model("open_clip", name))
        architecture = architecture_of(state, name)
        # A file does not say which activation it was trained with: OpenAI's with QuickGELU, nearly all others with
        # GELU.
        clip = open_clip.create_model(architecture, pretrained=None, force_quick_gelu="openai" in name.lower())
        files.load_into(clip, state, name)
        return ClipScorer(clip, open_clip.get_tokenizer(architecture), name).to(host.current().device)
    clip, _ = published(name)
    return ClipScorer(clip, open_clip.get_tokenizer(name.partition(":")[0]), name).to(host.current().device)


def published(name: str) -> tuple[Any, dict[str, Any]]:
    """(an open_clip CLIP, its model_cfg) of a name "MODEL:PRETRAINED" ("openai" by default), with the activation that
    its weights were trained with. UserError where the name is unknown, or the weights cannot be downloaded."""
    import open_clip

    architecture, _, tag = name.partition(":")
    tag = tag or "openai"
    if architecture not in open_clip.list_models():
        raise UserError(
            f"The CLIP '{name}' is unknown. Use tiny, tiny-eval or an open_clip name such as "
            "ViT-B-32:openai, or a file in models/open_clip."
        )
    _no_namesake(open_clip.get_model_config(architecture) or {})
    quick = bool((open_clip.get_pretrained_cfg(architecture, tag) or {}).get("quick_gelu"))
    try:
        clip = open_clip.create_model(architecture, pretrained=tag, force_quick_gelu=quick)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"The weights of '{name}' could not be loaded: {error}. They are downloaded at first use; "
            "without a network, put its safetensors file into models/open_clip."
        ) from error
    return clip, (open_clip.get_model_config(architecture) or {}) | ({"quick_gelu": True} if quick else {})


def _no_namesake(config: dict[str, Any]) -> None:
    """UserError where a CLIP's text model or tokenizer has a hub name that is also a folder of the working directory:
    transformers would load that folder instead, with the code inside it."""
    text = config.get("text_cfg", {})
    for name in (text.get("hf_model_name"), text.get("hf_tokenizer_name")):
        if name and Path(name).exists():
            raise UserError(
                f"The working directory has a folder '{name}', which would be loaded in place of the hub's model of "
                "that name. Run from another directory, or rename the folder."
            )
