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

    UserError where the images' sizes differ.
    """
    image = repeat_to_batch(image, len(edited))
    if image.shape != edited.shape:
        raise UserError(
            f"The two images differ in size: {image.shape[-1]} x {image.shape[-2]} before, {edited.shape[-1]} x "
            f"{edited.shape[-2]} after. Scale one of them first."
        )
    on_device_of = lambda network, x: x.to(next(network.parameters()).device)
    distance = PerceptualDistance().to(image.device)
    last = taps(load_backbone("tiny-vgg").to(image.device), ("relu4_4",))
    before = last(image)[0]
    structure = lambda x: metrics.structure_distance(before, last(x)[0])
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
        k = MIKELS.index(emotion.dominant)
        if scorer is not None:
            text = scorer.text_features([f"an image of {emotion.label or emotion.dominant}"])
            columns["clip"] = 100 * (metrics.clip_features(scorer, on_device_of(scorer, edited)) * text).sum(dim=1)
        if classifier is not None:
            columns["p_target"] = classifier(on_device_of(classifier, edited)).softmax(dim=-1)[:, k]
            columns["p_target_before"] = classifier(on_device_of(classifier, image)).softmax(dim=-1)[:, k]
    return [{name: round(float(values[i]), 5) for name, values in columns.items()} for i in range(len(edited))]
