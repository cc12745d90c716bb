"""Nodes of reference-guided sentiment transfer: the gallery, SSIM retrieval, DenseNet Gram transfer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..models import diffusion, files, host
from ..models.errors import UserError
from .layouts import to_bchw, to_bhwc
from .widgets import choice, flag, integer, real, seed, socket, surface, text

EXAMPLE = "example_gallery"


def _folder(name: str) -> Path:
    """A gallery's folder inside the input folder; the templates' example gallery is bundled with the package."""
    if not name.strip():
        raise UserError("The gallery's folder is empty: name a folder inside the input folder.")
    path = files.safe_join(host.current().input_dir, name)
    bundled = Path(__file__).parent.parent / "workflows" / "examples" / EXAMPLE
    return bundled if name == EXAMPLE and not path.is_dir() else path


class AffectReferenceGallery:
    CATEGORY = "affect/reference"
    SEARCH_ALIASES = ["reference folder", "image folder", "style references", "vso", "visual sentiment ontology"]
    DESCRIPTION = (
        "A folder of reference pictures: sub-folders named adjective_noun (misty_lake), or a CSV of file, noun, "
        "adjective, emotion, and of people's ratings, valence and arousal, where there are any. Its index is built at "
        "first use and follows the folder."
    )
    RETURN_TYPES = ("AFFECT_REFERENCE_GALLERY",)
    RETURN_NAMES = ("gallery",)
    OUTPUT_TOOLTIPS = ("The gallery, for the SSIM Reference Retriever.",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        from ..models.reference import EDGES

        return {
            "required": {
                "folder": text(
                    "A folder inside ComfyUI's input folder. example_gallery is bundled with this pack.",
                    default=EXAMPLE,
                )
            },
            "optional": {
                "edges": choice(
                    EDGES,
                    "What is compared: the gradient's magnitude, or Canny's lines (needs scikit-image).",
                    default="scharr",
                )
            },
        }

    @classmethod
    def IS_CHANGED(cls, folder: str, edges: str = "scharr") -> str:
        """Follows the names, sizes and times of the folder's pictures, and its tables."""
        from ..models.reference import state

        path = _folder(folder)
        return state(path) if path.is_dir() else ""

    def run(self, folder: str, edges: str = "scharr") -> tuple[Any]:
        from ..models.reference import open_gallery

        gallery = open_gallery(_folder(folder), edges)
        if gallery.skipped:
            named = "; ".join(f"{name}: {why}" for name, why in list(gallery.skipped.items())[:5])
            host.current().note(f"{len(gallery.skipped)} files of the gallery '{folder}' were skipped ({named}).")
        if gallery.absent:
            host.current().note(
                f"{len(gallery.absent)} files that the CSV of the gallery '{folder}' lists are absent (such as "
                f"'{gallery.absent[0]}')."
            )
        if gallery.adjectives_without_emotion:
            host.current().note(
                f"In the gallery '{folder}' these adjectives have no emotion, so that no search by emotion "
                f"finds their pictures: {', '.join(gallery.adjectives_without_emotion[:20])}. Assign emotions in "
                "a file emotions.csv (adjective, emotion)."
            )
        return (gallery,)


class AffectSSIMReferenceRetriever:
    CATEGORY = "affect/reference"
    SEARCH_ALIASES = [
        "find reference image",
        "similar picture",
        "image search",
        "structural similarity",
        "gist retrieval",
    ]
    DESCRIPTION = (
        "Finds the picture of a gallery whose structure (SSIM of edge responses) is nearest to the image, among "
        "those with all that is asked for: noun, and emotion or adjective. In a gallery with ratings of valence and "
        "arousal an emotion means the pictures that people rated nearest to it."
    )
    RETURN_TYPES = ("IMAGE", "STRING")
    RETURN_NAMES = ("reference", "json")
    OUTPUT_TOOLTIPS = (
        "The references, best first, cropped to the image's shape.",
        "Files and scores; of rated pictures valence, arousal and distance.",
    )
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "image": socket("IMAGE", "The image to find references for (the first of a batch)."),
                "gallery": socket("AFFECT_REFERENCE_GALLERY", "Where to look."),
                "noun": text(
                    "What the reference shows; empty: anything. Mountain, hill and landscape count as one, as do "
                    "river, water and lake, and home and room."
                ),
                "k": integer(1, (1, 64), "How many references."),
            },
            "optional": {
                "emotion": socket(
                    "AFFECT_EMOTION",
                    "Only pictures with this emotion; where the gallery has ratings, only those that people rated "
                    "nearest to its valence and arousal.",
                ),
                "adjective": text("Only pictures with this adjective; empty: any."),
            },
        }

    def run(
        self, image: Any, gallery: Any, noun: str, k: int, emotion: Any = None, adjective: str = ""
    ) -> tuple[Any, str]:
        import numpy as np
        import torch
        from PIL import Image

        from ..models.reference import cropped, read_picture, retrieve
        from ..models.tensors.uint8 import from_uint8, to_uint8

        noun, adjective, note = noun.strip(), adjective.strip(), host.current().note
        if not noun:
            note("The noun is empty: the reference may show anything.")
        if emotion is None and not adjective:
            note("Neither an emotion nor an adjective is given: the reference may have any mood.")
        query = Image.fromarray(to_uint8(image[0, ..., :3]))
        references = retrieve(query, gallery, k, noun, adjective, emotion)
        if len(image) > 1:
            note(f"Only the first of {len(image)} images is used: the others have no effect.")
        if len(references) < k:
            note(f"{k} references were requested; the gallery has {len(references)} that fit.")
        pictures = [cropped(read_picture(gallery.folder / r.picture.path), query.size) for r in references]
        batch = torch.from_numpy(np.stack([from_uint8(p) for p in pictures]))
        rows = [_row(reference) for reference in references]
        return batch, json.dumps(rows, indent=1)  # ASCII: a file's name need not be valid Unicode


def _row(reference: Any) -> dict[str, Any]:
    """What the JSON says of a reference. Valence and arousal are people's ratings in 0..1, and distance is that to the
    emotion's point."""
    picture = reference.picture
    row: dict[str, Any] = {
        "file": picture.path,
        "ssim": round(reference.score, 6),
        "noun": picture.noun,
        "adjective": picture.adjective,
        "emotion": picture.emotion,
    }
    if picture.rating is not None:
        row["valence"], row["arousal"] = (round(value, 4) for value in picture.rating)
    if reference.distance is not None:
        row["distance"] = round(reference.distance, 4)
    return row


class AffectDenseNetGramTransfer:
    CATEGORY = "affect/reference"
    SEARCH_ALIASES = [
        "style transfer",
        "colour transfer",
        "color transfer",
        "sentiment transfer",
        "neural style",
        "gram matrix",
        "gist",
        "color grade from reference",
        "match colors",
    ]
    DESCRIPTION = (
        "Transfers the sentiment of a reference to an image by matching a network's feature statistics (Gram "
        "matrices), and keeps the image's details."
    )
    RETURN_TYPES = ("IMAGE", "IMAGE", "AFFECT_GRADE")
    RETURN_NAMES = ("image", "loss_plot", "grade")
    OUTPUT_TOOLTIPS = (
        "The transferred image.",
        "The loss over the iterations.",
        "The change as a grade, for other pictures; of several changes the first. On pixels: the nearest one.",
    )
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        from ..models.gram import SOLVERS
        from ..models.networks.backbones import LAYERS, WITH_MAPS

        return {
            "required": {
                "image": socket("IMAGE", "The image to change."),
                "reference": socket(
                    "IMAGE",
                    "The picture whose sentiment is transferred; any size. One for all images, one each, or several "
                    "for one image.",
                ),
                "iterations": integer(
                    500,
                    (1, 10000),
                    "Evaluations of the loss at most; coarse-to-fine stops when it no longer falls.",
                ),
                "content_weight": real(
                    1.0, (0.0, 1e6, 0.1), "How strongly the image's own content is kept.", round=False
                ),
                "sentiment_weight": real(
                    1e6, (0.0, 1e12, 1e5), "How strongly the reference's statistics pull.", round=False
                ),
                "seed": seed("Draws the dither of half a grey level, without which flat areas change only as a whole."),
            },
            "optional": {
                "mask": socket("MASK", "Where the image may change."),
                "network": choice(
                    WITH_MAPS,
                    "The feature network. auto: densenet121 (the paper's) where torchvision's weights are on this "
                    "machine, else for photographs efficientnet-lite0, on pixels tiny-densenet. vgg19 needs them too.",
                    default="auto",
                ),
                "solver": choice(
                    SOLVERS,
                    "coarse-to-fine: L-BFGS, from half the size up, several times faster. adam: as the paper.",
                    default="coarse-to-fine",
                ),
                "layers": choice(
                    LAYERS,
                    "first: from the first ReLU on, as in the paper. last: without the first, with the last one.",
                    default="first",
                ),
                "colour_only": flag(False, "Keep the image's luminance and transfer only the colours."),
                "smoothness": real(
                    60.0,
                    (0.0, 1e6, 10.0),
                    "How smooth the change is: every edge of the image stays. 0: as in the paper, with speckles and "
                    "coloured rims.",
                    round=False,
                ),
                "surface": surface(),
            },
        }

    def run(
        self,
        image: Any,
        reference: Any,
        iterations: int,
        content_weight: float,
        sentiment_weight: float,
        seed: int,
        mask: Any = None,
        network: str = "auto",
        solver: str = "coarse-to-fine",
        layers: str = "first",
        colour_only: bool = False,
        smoothness: float = 60.0,
        surface: str = "pixels",
    ) -> tuple[Any, Any, Any]:
        from ..models.grade.surface import is_photograph
        from ..models.gram import GramConfig
        from ..models.networks.backbones import load_backbone, papers_backbone
        from ..models.tensors.masks import sized_mask

        photograph = is_photograph(surface, image.movedim(-1, 1))
        if network == "auto" and not photograph:
            network = papers_backbone()
        net = load_backbone(network)
        diffusion.current_engine().load(net)
        n = max(len(image), len(reference))  # one image and several references, or vice versa
        config = GramConfig(
            iterations, content_weight, sentiment_weight, smoothness, layers, solver, colour_only=colour_only, seed=seed
        )
        masks = None if mask is None else sized_mask(mask, image.movedim(-1, 1))
        return (_on_grades if photograph else _on_pixels)(net, config, n, image, reference, masks)


def _on_pixels(net: Any, config: Any, n: int, image: Any, reference: Any, masks: Any) -> tuple[Any, Any, Any]:
    import torch

    from ..models.grade.surface import grade_of_change
    from ..models.gram import transfer
    from ..models.plots import loss_plot
    from ..models.tensors.batch import repeat_to_batch

    device = net.mean.device
    sources, references = (repeat_to_batch(to_bchw(t), n).to(device) for t in (image, reference))
    masks = None if masks is None else repeat_to_batch(masks, n)
    each = lambda t: [None] * n if t is None else t.split(1)
    done = [transfer(net, s, r, config, m) for s, r, m in zip(each(sources), each(references), each(masks))]
    plots = torch.stack([torch.from_numpy(loss_plot(d.losses, d.pixels)) for d in done])
    grade = grade_of_change(sources[:1], done[0].image, each(masks)[0], "Gram transfer, from pixels")
    return to_bhwc(torch.cat([d.image for d in done])), plots, grade


def _on_grades(net: Any, config: Any, n: int, image: Any, reference: Any, masks: Any) -> tuple[Any, Any, Any]:
    """One reference gives one grade for all images, so that a series keeps one; several references one each."""
    import torch

    from ..models.grade.apply import apply_grade
    from ..models.grade.transfer import PAPERS_WEIGHT, SurfaceConfig, transfer_grade
    from ..models.gram import GramConfig
    from ..models.networks.valence_arousal import photo_judge
    from ..models.plots import loss_plot
    from ..models.tensors.batch import repeat_to_batch

    usual = GramConfig()
    unused = [name for name in ("solver", "layers", "smoothness") if getattr(config, name) != getattr(usual, name)]
    if unused:
        host.current().note(f"Without effect on a photograph's surface: {', '.join(unused)}.")
    judge = photo_judge()
    if judge is not None:
        diffusion.current_engine().load(judge)
    surface = SurfaceConfig(colour_only=config.colour_only).within(config.iterations)
    shared = len(reference) == 1
    sources = to_bchw(image) if shared else repeat_to_batch(to_bchw(image), n)
    groups = [sources] if shared else sources.split(1)
    masks = None if masks is None else repeat_to_batch(masks, len(sources))
    found, graded = [], []
    for i, (group, goal) in enumerate(zip(groups, to_bchw(reference).split(1) * (1 if shared else n))):
        where = masks if masks is None or shared else masks[i : i + 1]
        weights = config.content_weight, config.sentiment_weight / PAPERS_WEIGHT
        found.append(transfer_grade(net, group, goal, surface, where, *weights, judge=judge))
        pixels = group.movedim(1, -1)
        graded.append(apply_grade(pixels, found[-1].grade, 1.0, None if where is None else where[:, 0]))
    if any(f.strength < 1 for f in found):
        host.current().note(
            "Part of the change is felt more like the reference than the whole, as the classifier photo sees it: "
            f"strength {', '.join(f'{f.strength:g}' for f in found)}. Apply Grade can give it more."
        )
    plots = [torch.from_numpy(loss_plot(f.losses, [1] * len(f.losses))) for f in found]
    return torch.cat(graded), torch.stack(plots), found[0].grade


NODES = {
    "AffectReferenceGallery": (AffectReferenceGallery, "Load Reference Gallery"),
    "AffectSSIMReferenceRetriever": (AffectSSIMReferenceRetriever, "SSIM Reference Retriever"),
    "AffectDenseNetGramTransfer": (AffectDenseNetGramTransfer, "DenseNet Gram Transfer"),
}
