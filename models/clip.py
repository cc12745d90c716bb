"""CLIP as a scorer: how well does an image fit a text? The CLIP_SCORER socket."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from . import files, host, tiny
from .errors import UserError

# Published CLIP models reach about 30 on their own 100 * cosine scale for a fitting image and about 14 for one that shows
# nothing of the text; a model whose cosines live elsewhere is mapped onto that scale by two figures of its card.
UNRELATED, FITTING = 14.0, 30.0

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


class ClipScorer(nn.Module):
    """An open_clip model and its tokenizer.

    lo, hi  cosines with their own prompt of what is predicted from pure noise and of plain samples (on the model's card), or
            None for published models, whose score is 100 * cosine
    """

    def __init__(self, clip: Any, tokenizer: Any, name: str, lo: float | None = None, hi: float | None = None):
        super().__init__()
        clip.eval().requires_grad_(False)
        self.clip, self.tokenizer, self.name, self.lo, self.hi = clip, tokenizer, name, lo, hi
        visual = clip.visual
        size = getattr(visual, "image_size", 224)
        self.size = size[0] if isinstance(size, (tuple, list)) else size
        config = getattr(visual, "preprocess_cfg", None) or {}
        self.register_buffer("mean", torch.tensor(config.get("mean", MEAN)).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.get("std", STD)).view(1, 3, 1, 1), persistent=False)

    @property
    def feature_width(self) -> int:
        """D, the width of the joint space."""
        return self.clip.text_projection.shape[-1] if hasattr(self.clip, "text_projection") else self.clip.visual.output_dim

    @property
    def logit_scale(self) -> torch.Tensor:
        """The learned inverse temperature."""
        return self.clip.logit_scale.exp()

    def preprocess(self, image: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W] in 0..1 -> [B, 3, S, S] as the image tower takes it: the whole image is resized (bicubic)."""
        x = F.interpolate(image, size=(self.size, self.size), mode="bicubic", antialias=True, align_corners=False)
        return (x - self.mean) / self.std

    def image_features(self, image: torch.Tensor, normalize: bool = True) -> torch.Tensor:
        """[B, 3, H, W] in 0..1 -> [B, D]. Differentiable."""
        return self.clip.encode_image(self.preprocess(image), normalize=normalize)

    def text_features(self, texts: list[str]) -> torch.Tensor:
        """n texts -> [n, D], normalised."""
        ids = self.tokenizer(texts).to(self.mean.device)
        return self.clip.encode_text(ids, normalize=True)

    @torch.no_grad()
    def score(self, image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """image [B, 3, H, W], text features [B or 1, D] -> [B] scores on the scale where published CLIP models
        give about 14 for unrelated and 30 for fitting pairs: 100 * cosine, or by lo and hi (MUSE equation 9; its
        division by 0.07 cannot exceed 14.3 and so cannot be the scale of its thresholds)."""
        cosine = (self.image_features(image) * text).sum(dim=-1)
        if self.lo is None or self.hi is None:
            return 100.0 * cosine
        return UNRELATED + (FITTING - UNRELATED) * (cosine - self.lo) / (self.hi - self.lo)


def architecture_of(state: dict[str, torch.Tensor], name: str) -> str:
    """The open_clip name whose CLIP has a state dict's shapes: for example "ViT-B-32" (vision transformers alone).

    Guarantee: weights load into what is named. Not guaranteed: that the activation is right, because a state dict does
    not tell QuickGELU from GELU. OpenAI's weights use the former: a file name with "openai" or "quickgelu" chooses it.
    UserError where no architecture fits.
    """
    import open_clip

    def layers(prefix: str) -> int:
        return len({k[len(prefix):].split(".")[0] for k in state if k.startswith(prefix)})

    try:
        visual, text = state["visual.conv1.weight"], state["token_embedding.weight"]
        found = (state["text_projection"].shape[1], visual.shape[0], visual.shape[-1],
                 layers("visual.transformer.resblocks."), len(state["visual.positional_embedding"]), *text.shape,
                 layers("transformer.resblocks."), len(state["positional_embedding"]))
    except KeyError as error:
        raise UserError(f"'{name}' is no open_clip model with a vision transformer: it has no {error}. transformers' "
                        "own format has other keys; take the file that open_clip publishes.") from error
    fitting = []
    for architecture in open_clip.list_models():
        config = open_clip.get_model_config(architecture)
        v, t = config["vision_cfg"], config["text_cfg"]
        if isinstance(v.get("layers"), int) and {"layers", "width"} <= set(t) and not config.get("custom_text"):
            cells = (v["image_size"] // v["patch_size"]) ** 2 + 1
            if found == (config["embed_dim"], v["width"], v["patch_size"], v["layers"], cells, t["vocab_size"],
                         t["width"], t["layers"], t["context_length"]):
                fitting.append(architecture)
    if not fitting:
        raise UserError(f"'{name}' has the shapes of no CLIP that this open_clip knows: {found}.")
    quick = any(mark in name.lower() for mark in ("openai", "quickgelu"))
    return min(fitting, key=lambda a: (a.endswith("quickgelu") != quick, len(a), a))


TINY = {"tiny": "clip", "tiny-eval": "clip-eval"}


def load_scorer(name: str) -> ClipScorer:
    """The scorer of a name: tiny, tiny-eval, moodifyclip (the bundled MoodifyCLIP; moodifyclip/NAME: a folder of
    models/moodify_clip), a file of models/open_clip (OpenAI's own weights have "openai" in their name), or an
    open_clip name "MODEL:PRETRAINED" whose PRETRAINED is one of open_clip's tags (downloaded where it is not cached). It runs
    on the host's device."""
    import open_clip

    if name in TINY:
        clip = tiny.build_clip()
        metadata = tiny.load(TINY[name], clip)
        scorer = ClipScorer(clip, open_clip.get_tokenizer("ViT-B-32"), name, metadata.get("lo"), metadata.get("hi"))
        return scorer.to(host.current().device)
    if name.split("/")[0] == "moodifyclip":
        from .moodifier.clip import load_moodify_clip

        return load_moodify_clip(name.partition("/")[2] or "tiny")
    if name.endswith(".safetensors"):
        state, _ = files.load_safetensors(files.find_model("open_clip", name))
        architecture = architecture_of(state, name)
        # A file does not say which activation it was trained with: OpenAI's were with QuickGELU, nearly all others were not.
        clip = open_clip.create_model(architecture, pretrained=None, force_quick_gelu="openai" in name.lower())
        files.load_into(clip, state, name)
        return ClipScorer(clip, open_clip.get_tokenizer(architecture), name).to(host.current().device)
    clip, _ = published(name)
    return ClipScorer(clip, open_clip.get_tokenizer(name.partition(":")[0]), name).to(host.current().device)


def published(name: str) -> tuple[Any, dict[str, Any]]:
    """(an open_clip CLIP, its model_cfg) of a name "MODEL:PRETRAINED" (openai where none is given), with the activation that those
    weights were trained with. UserError where it is unknown, or cannot be had."""
    import open_clip

    architecture, _, tag = name.partition(":")
    tag = tag or "openai"
    if architecture not in open_clip.list_models():
        raise UserError(f"'{name}' is no CLIP known here. Use tiny, tiny-eval or an open_clip name such as "
                        "ViT-B-32:openai, or a file in models/open_clip.")
    quick = bool((open_clip.get_pretrained_cfg(architecture, tag) or {}).get("quick_gelu"))
    try:
        clip = open_clip.create_model(architecture, pretrained=tag, force_quick_gelu=quick)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"The weights of '{name}' could not be loaded: {error}. They are downloaded at first use; "
                        "without a network, put its safetensors file into models/open_clip.") from error
    return clip, (open_clip.get_model_config(architecture) or {}) | ({"quick_gelu": True} if quick else {})
