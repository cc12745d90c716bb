"""The figures of an edit, one row an image."""

from __future__ import annotations

from typing import Any

import torch

from .. import metrics
from ..emotions import MIKELS, EmotionTarget
from ..errors import UserError
from ..networks.backbones import load_backbone, taps
from ..networks.perceptual import PerceptualDistance
from ..tensors.batch import repeat_to_batch
from ..tensors.masks import sized_mask


def edit_figures(
    image: torch.Tensor,
    edited: torch.Tensor,
    mask: torch.Tensor | None = None,
    emotion: EmotionTarget | None = None,
    classifier: Any = None,
    scorer: Any = None,
) -> list[dict[str, float]]:
    """Images [B, 3, H, W] in 0..1 before and after (one before may serve all after), mask [B or 1, H, W] -> a row an
    image.

    psnr, mse, ssim, perceptual, structure
        over the whole image, and with `_outside` where a mask is given: psnr and mse over the pixels outside, the
        others on the edit with the source inside the mask. structure is the distance of self-similarities of the tiny
        VGG's last features
    clip
        100 cosine of the edited image with "an image of" the emotion, by the scorer
    p_target, p_target_before
        the classifier's probability of the emotion (of a mixture, of its dominant emotion)
    valence, arousal, each also `_before` and `_change`
        in 0..1, by a classifier that gives them (`valence_arousal`)

    UserError where the images' sizes differ.
    """
    image = repeat_to_batch(image, len(edited))
    if image.shape != edited.shape:
        raise UserError(
            f"The two images differ in size: {image.shape[-1]} x {image.shape[-2]} before, {edited.shape[-1]} x "
            f"{edited.shape[-2]} after. Scale one of them first."
        )
    distance = PerceptualDistance().to(image.device)
    last = taps(load_backbone("tiny-vgg").to(image.device), ("relu4_4",))
    own = last(image)[0]
    structure = lambda x: metrics.structure_distance(own, last(x)[0])
    columns: dict[str, torch.Tensor] = {
        "psnr": metrics.psnr(image, edited),
        "mse": metrics.mean_square(image, edited),
        "ssim": metrics.ssim(image, edited),
        "perceptual": distance(image, edited),
        "structure": structure(edited),
    }
    if mask is not None:
        where = repeat_to_batch(sized_mask(mask, image), len(image)) > 0
        outside = torch.where(where, image, edited)
        columns |= {
            "psnr_outside": metrics.psnr(image, edited, ~where),
            "mse_outside": metrics.mean_square(image, edited, ~where),
            "ssim_outside": metrics.ssim(image, outside),
            "perceptual_outside": distance(image, outside),
            "structure_outside": structure(outside),
        }
    if emotion is not None:
        columns |= _judged(image, edited, emotion, classifier, scorer)
    if hasattr(classifier, "points"):
        columns |= _felt(*(classifier.points(_there(classifier, x)) for x in (image, edited)))
    return [{name: round(float(values[i]), 5) for name, values in columns.items()} for i in range(len(edited))]


def _judged(
    image: torch.Tensor, edited: torch.Tensor, emotion: EmotionTarget, classifier: Any, scorer: Any
) -> dict[str, torch.Tensor]:
    k = MIKELS.index(emotion.dominant)
    columns: dict[str, torch.Tensor] = {}
    if scorer is not None:
        text = scorer.text_features([f"an image of {emotion.label or emotion.dominant}"])
        columns["clip"] = 100 * (metrics.clip_features(scorer, _there(scorer, edited)) * text).sum(dim=1)
    if classifier is not None:
        columns["p_target"] = classifier(_there(classifier, edited)).softmax(dim=-1)[:, k]
        columns["p_target_before"] = classifier(_there(classifier, image)).softmax(dim=-1)[:, k]
    return columns


def _there(network: Any, x: torch.Tensor) -> torch.Tensor:
    """On the network's device."""
    return x.to(next(network.parameters()).device)


def _felt(before: torch.Tensor, after: torch.Tensor) -> dict[str, torch.Tensor]:
    """The columns of a judge of valence and arousal, from its points [B, 2] in 0..1."""
    columns: dict[str, torch.Tensor] = {}
    for axis, name in enumerate(("valence", "arousal")):
        columns |= {
            f"{name}_before": before[:, axis],
            name: after[:, axis],
            f"{name}_change": (after - before)[:, axis],
        }
    return columns
