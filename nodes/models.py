"""Nodes that load models, and the classifier's readout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..models import diffusion, files
from ..models.emotions import GOEMOTIONS, MIKELS
from .layouts import to_bchw
from .widgets import choice, socket

_EXAMPLES = {"scene": "scene.png", "coffee": "example.png", "photograph": "photograph.jpg", "series": "photograph.jpg"}
_PAN, _FRAME = 8, (640, 480)
"""Frames of the series, and the width and height of each: a camera that moves over the photograph."""


class AffectTinyModelLoader:
    CATEGORY = "affect/loaders"
    SEARCH_ALIASES = ["demo checkpoint", "bundled model", "test model", "load checkpoint", "no download"]
    DESCRIPTION = (
        "The bundled tiny diffusion model (128 x 128, trained on MoodScenes): every template runs with it, without a "
        "checkpoint. It was trained on homes, rivers, lakes, mountains, cities and faces."
    )
    RETURN_TYPES = ("MODEL", "CLIP", "VAE")
    OUTPUT_TOOLTIPS = ("The diffusion model.", "Its text encoder.", "Its autoencoder.")
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {}}

    def run(self) -> tuple[Any, Any, Any]:
        return diffusion.current_engine().tiny_pipeline()


class AffectExampleImage:
    CATEGORY = "affect/loaders"
    SEARCH_ALIASES = ["sample picture", "demo image", "test image"]
    DESCRIPTION = (
        "A picture that is bundled with this pack, so that every template runs at once. For your own use Load Image."
    )
    RETURN_TYPES = ("IMAGE",)
    OUTPUT_TOOLTIPS = ("The picture.",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "picture": choice(
                    _EXAMPLES,
                    "scene: a house and a tree, from MoodScenes, 128 x 128. coffee: a photograph, 256 x 256. "
                    "photograph: a raccoon among leaves, 1024 x 768. series: eight frames of a camera that moves over "
                    "it, 640 x 480.",
                )
            }
        }

    def run(self, picture: str) -> tuple[Any]:
        import torch

        from ..models import pictures
        from ..models.tensors.uint8 import from_uint8

        read = pictures.read(Path(__file__).parent.parent / "workflows" / "examples" / _EXAMPLES[picture])
        image = torch.from_numpy(from_uint8(read))[None]
        return (_pan(image) if picture == "series" else image,)


def _pan(image: Any) -> Any:
    """An IMAGE [1, H, W, 3] -> `_PAN` frames of the size `_FRAME`, from its upper left to its lower right."""
    import torch

    width, height = _FRAME
    across, down = image.shape[2] - width, image.shape[1] - height
    corners = [(down * i // (_PAN - 1), across * i // (_PAN - 1)) for i in range(_PAN)]
    return torch.cat([image[:, y : y + height, x : x + width] for y, x in corners])


class AffectEmotionClassifierLoader:
    CATEGORY = "affect/loaders"
    SEARCH_ALIASES = [
        "load sentiment classifier",
        "emotion recognition",
        "emogen",
        "emoedit",
        "emoset",
        "zero-shot emotions",
    ]
    DESCRIPTION = (
        "Loads an emotion classifier. Guide with one and read out with another: a picture can score high with the "
        "classifier that guided it and with no other."
    )
    RETURN_TYPES = ("AFFECT_EMOTION_CLASSIFIER",)
    RETURN_NAMES = ("classifier",)
    OUTPUT_TOOLTIPS = ("Image to eight emotions.",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        from ..models.networks import classifiers, scorers

        return {
            "required": {
                "classifier": choice(
                    classifiers.names(),
                    "tiny-*: bundled, for the tiny model. clip-zero-shot: no training. photo: valence and arousal of "
                    "photographs, taught by people's ratings, which cannot tell anger from fear (photo-lite2: another "
                    "network, other themes, to judge what photo guided). Files: EmoGen's or EmoEdit's published head "
                    "in models/affect.",
                ),
                "clip_model": choice(
                    scorers.names(),
                    "The CLIP whose features zero-shot and published heads read: "
                    "ViT-L-14 for EmoGen's head, ViT-B-32 for EmoEdit's.",
                ),
            }
        }

    @classmethod
    def IS_CHANGED(cls, classifier: str, clip_model: str) -> str:
        return files.state_of("affect", classifier) + files.state_of("open_clip", clip_model)

    def run(self, classifier: str, clip_model: str) -> tuple[Any]:
        from ..models.networks.classifiers import load_classifier

        return (load_classifier(classifier, clip_model),)


class AffectEmotionReadout:
    CATEGORY = "affect/emotion"
    SEARCH_ALIASES = ["classify emotion", "emotion chart", "sentiment score", "mood detector", "interrogate emotion"]
    DESCRIPTION = (
        "The emotions that a classifier recognises in an image: a bar chart, and the probabilities as JSON. The "
        "classifiers photo and photo-lite2 also show valence and arousal."
    )
    RETURN_TYPES = ("IMAGE", "STRING")
    RETURN_NAMES = ("chart", "json")
    OUTPUT_TOOLTIPS = ("A bar chart for each image.", "The probabilities of each image.")
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "image": socket("IMAGE", "The image to classify."),
                "classifier": socket(
                    "AFFECT_EMOTION_CLASSIFIER", "The classifier; preferably one that did not guide the image."
                ),
            }
        }

    def run(self, image: Any, classifier: Any) -> tuple[Any, str]:
        import numpy as np
        import torch

        from ..models.plots import emotion_bars, valence_arousal_plane

        with torch.no_grad():
            diffusion.current_engine().load(classifier)
            device = next(classifier.parameters()).device
            probabilities = classifier(to_bchw(image).to(device)).float().softmax(dim=-1).tolist()
            fine = (
                classifier.fine(to_bchw(image).to(device)).float().softmax(dim=-1).tolist()
                if hasattr(classifier, "fine")
                else []
            )
            points = classifier.points(to_bchw(image).to(device)).tolist() if hasattr(classifier, "points") else []
        charts = [emotion_bars(row) for row in probabilities]
        if points:  # a judge of valence and arousal: where it sees the images among the emotions
            planes = [valence_arousal_plane(points, i, len(chart)) for i, chart in enumerate(charts)]
            charts = [np.concatenate(pair, axis=1) for pair in zip(charts, planes)]
        chart = torch.from_numpy(np.stack(charts))
        rows: list[dict[str, Any]] = [{name: round(p, 4) for name, p in zip(MIKELS, row)} for row in probabilities]
        for row, (valence, arousal) in zip(rows, points):
            row |= {"valence": round(valence, 4), "arousal": round(arousal, 4)}
        for row, more in zip(rows, fine):  # zero-shot classifies GoEmotions' 27 too
            row["goemotions"] = {
                name: round(p, 4) for name, p in sorted(zip(GOEMOTIONS, more), key=lambda pair: -pair[1])
            }
        return chart, json.dumps(rows, indent=1)


class AffectClipScorerLoader:
    CATEGORY = "affect/loaders"
    SEARCH_ALIASES = ["clip score", "open_clip", "load clip", "image text similarity"]
    DESCRIPTION = "Loads a CLIP that scores how well an image fits a text, for example for the timing gate."
    RETURN_TYPES = ("AFFECT_CLIP_SCORER",)
    RETURN_NAMES = ("clip_scorer",)
    OUTPUT_TOOLTIPS = ("Scores on the scale of published CLIP models: 14 unrelated, 30 fitting.",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        from ..models.networks.scorers import names

        return {
            "required": {
                "model": choice(
                    names(),
                    "tiny: for the bundled tiny model. Named models are open_clip's, downloaded at first use. Others: "
                    "files in models/open_clip.",
                )
            }
        }

    @classmethod
    def IS_CHANGED(cls, model: str) -> str:
        return files.state_of("open_clip", model)

    def run(self, model: str) -> tuple[Any]:
        from ..models.networks.scorers import load_scorer

        return (load_scorer(model),)


NODES = {
    "AffectTinyModelLoader": (AffectTinyModelLoader, "Load Tiny Demo Model"),
    "AffectExampleImage": (AffectExampleImage, "Load Example Image"),
    "AffectEmotionClassifierLoader": (AffectEmotionClassifierLoader, "Load Emotion Classifier"),
    "AffectEmotionReadout": (AffectEmotionReadout, "Emotion Readout"),
    "AffectClipScorerLoader": (AffectClipScorerLoader, "Load CLIP Scorer"),
}
