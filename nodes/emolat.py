"""EmoLat's nodes: the loader, codes for an emotion, the transfer, the map."""

from __future__ import annotations

from typing import Any

from ..models import diffusion, files, host
from .layouts import to_bchw, to_bhwc
from .widgets import choice, integer, real, seed, socket, surface, text


class AffectEmoLatLoader:
    CATEGORY = "affect/emolat"
    SEARCH_ALIASES = ["emotion latent space", "load codebooks", "emospace"]
    DESCRIPTION = (
        "Loads an emotion latent space: eight codebooks, and the network that repaints an image from their codes."
    )
    RETURN_TYPES = ("AFFECT_EMOLAT",)
    RETURN_NAMES = ("emolat",)
    OUTPUT_TOOLTIPS = ("The emotion latent space.",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        from ..models.emolat.space import names

        return {
            "required": {
                "model": choice(
                    names(),
                    "tiny: bundled with this pack, trained on MoodScenes. Others: files in models/emolat, which "
                    "`affect train emolat` and `affect train transfer` write.",
                )
            }
        }

    @classmethod
    def IS_CHANGED(cls, model: str) -> str:
        return files.state_of("emolat", model)

    def run(self, model: str) -> tuple[Any]:
        from ..models.emolat.space import load_emolat

        return (load_emolat(model),)


class AffectEmoLatCodebookSampler:
    CATEGORY = "affect/emolat"
    SEARCH_ALIASES = ["emotion code", "sample codebook", "vq code", "emolat code"]
    DESCRIPTION = (
        "Draws codes for an emotion from its codebook: one of many looks of the emotion. Another seed gives another "
        "look."
    )
    RETURN_TYPES = ("AFFECT_EMOLAT_CODE",)
    RETURN_NAMES = ("code",)
    OUTPUT_TOOLTIPS = ("For EmoLat Transfer, or as init_tokens of the Emotion Token Optimizer.",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "emolat": socket("AFFECT_EMOLAT", "The EmoLat with the codebooks."),
                "emotion": socket("AFFECT_EMOTION", "Which emotion; a mix draws from several codebooks."),
                "n_codes": integer(
                    1,
                    (1, 64),
                    "Number of codes; more are nearer to the emotion's average look. The tiny EmoLat was trained on "
                    "up to four.",
                ),
                "temperature": real(
                    1.0,
                    (0.01, 100.0, 0.1),
                    "1: codes are drawn as often as training used them. Lower: the frequent ones. Higher: all equally.",
                    round=False,
                ),
                "seed": seed("Draws the codes."),
            }
        }

    def run(self, emolat: Any, emotion: Any, n_codes: int, temperature: float, seed: int) -> tuple[Any]:
        return (emolat.sample(emotion, n_codes, temperature, seed),)


class AffectEmoLatTransfer:
    CATEGORY = "affect/emolat"
    SEARCH_ALIASES = [
        "repaint emotion",
        "sentiment transfer",
        "style transfer",
        "change mood of image",
        "recolour",
        "recolor",
    ]
    DESCRIPTION = "Repaints an image in the code's emotion, in one pass of a network. Any size, any number of images."
    RETURN_TYPES = ("IMAGE", "AFFECT_GRADE")
    RETURN_NAMES = ("image", "grade")
    OUTPUT_TOOLTIPS = (
        "The repainted image.",
        "The change as a grade, one for all images, for other pictures. On pixels: the nearest one.",
    )
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "emolat": socket("AFFECT_EMOLAT", "The network."),
                "image": socket("IMAGE", "The image to repaint."),
                "code": socket("AFFECT_EMOLAT_CODE", "From the EmoLat Codebook Sampler."),
                "text": text(
                    "The text that goes with the code. Empty: the emotion's own name. The network was trained on the "
                    "names of the eight."
                ),
                "strength": real(
                    1.0, (0.0, 3.0, 0.05), "0 leaves the image, 1 is the network's answer, more exaggerates."
                ),
            },
            "optional": {"mask": socket("MASK", "Where the image may change."), "surface": surface()},
        }

    def run(
        self,
        emolat: Any,
        image: Any,
        code: Any,
        text: str,
        strength: float,
        mask: Any = None,
        surface: str = "pixels",
    ) -> tuple[Any, Any]:
        from ..models.emolat.repaint import grade, repaint
        from ..models.grade.apply import apply_grade
        from ..models.grade.surface import grade_of_change, is_photograph
        from ..models.tensors.masks import sized_mask

        diffusion.current_engine().load(*emolat.parts)
        source = to_bchw(image)
        if mask is not None:
            mask = sized_mask(mask, source)
            if not float(mask.max()) > 0:
                host.current().note("The mask covers nothing: the image stays as it is.")
        if is_photograph(surface, source):
            found = grade(emolat, source, code, text, strength)
            return apply_grade(image, found, 1.0, None if mask is None else mask[:, 0]), found
        after = repaint(emolat, source, code, text, strength, mask)
        return to_bhwc(after), grade_of_change(source, after, mask, f"EmoLat, {code.emotion.label}, from pixels")


class AffectEmoLatMap:
    CATEGORY = "affect/emolat"
    SEARCH_ALIASES = ["tsne", "t-sne", "pca", "codebook plot", "visualise latent space", "visualize latent space"]
    DESCRIPTION = "A map of the eight codebooks: codes that are near one another look alike."
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("map",)
    OUTPUT_TOOLTIPS = ("The map.",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        from ..models.emolat.repaint import METHODS

        return {
            "required": {
                "emolat": socket("AFFECT_EMOLAT", "The EmoLat with the codebooks."),
                "method": choice(
                    METHODS,
                    "t-SNE shows clusters (needs scikit-learn; without it PCA is used, with a note). PCA shows true "
                    "distances.",
                ),
            }
        }

    def run(self, emolat: Any, method: str) -> tuple[Any]:
        import torch

        from ..models.emolat.repaint import codebook_map

        return (torch.from_numpy(codebook_map(emolat, method))[None],)


NODES = {
    "AffectEmoLatLoader": (AffectEmoLatLoader, "Load EmoLat"),
    "AffectEmoLatCodebookSampler": (AffectEmoLatCodebookSampler, "EmoLat Codebook Sampler"),
    "AffectEmoLatTransfer": (AffectEmoLatTransfer, "EmoLat Transfer"),
    "AffectEmoLatMap": (AffectEmoLatMap, "EmoLat Map"),
}
