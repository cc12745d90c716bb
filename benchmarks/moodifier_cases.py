"""What Moodifier's benchmark edits: held-out MoodScenes with their truth, and the masks that Moodifier makes of them.
The part of the MLLM is played by the scene's own annotation, so that what is measured is the edit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..models.emotions import OPPOSITE
from ..models.moodifier import grounding, masks
from ..models.moodifier.instruction import plain
from ..models.moodifier.words import described, token_positions
from ..models.tensors.uint8 import image_of
from ..training.data.moodscenes import layout_seeds, make_scene, sample_emotion
from ..training.data.moodscenes.captions import _WEATHER_WORD
from .edit_methods import pipeline

FEATHER = 4


@dataclass(frozen=True)
class Case:
    """One edit with its truth: images [3, H, W], texts, masks [1, H, W] of the objects that change, as they are in
    the source, and the region [1, H, W] that they take before or after."""

    source: torch.Tensor
    truth: torch.Tensor
    emotion: str
    target: str
    source_prompt: str
    plain_prompt: str
    target_prompt: str
    names: tuple[str, ...]
    objects: dict[str, torch.Tensor]
    region: torch.Tensor


def cases(n: int, split: str) -> list[Case]:
    """n held-out scenes under an emotion that their layout inclines to, to be turned to the opposite one; only
    scenes in which an object that changes can be seen."""
    out: list[Case] = []
    for i, layout in enumerate(layout_seeds(split, 4 * n, 21)):
        emotion = sample_emotion(int(layout), np.random.default_rng([21, i]))
        target = OPPOSITE[emotion]
        before, after = (make_scene(int(layout), e, i) for e in (emotion, target))
        words = {o.name: o.attribute for o in after.objects}
        changed = [
            o for o in before.objects if o.salient and o.area > 0.01 and words.get(o.name, o.attribute) != o.attribute
        ]
        rng = np.random.default_rng([22, i])
        source_prompt = before.content_caption(rng)
        names = tuple(dict.fromkeys(o.name for o in changed if token_positions(source_prompt, o.name)))
        if not names:
            continue
        target_prompt = source_prompt
        for name in names:
            target_prompt = described(target_prompt, name, words[name])
        weather = f", {_WEATHER_WORD[after.mood.weather]}" if after.mood.weather in _WEATHER_WORD else ""
        mask = lambda scene, name: torch.from_numpy(
            np.isin(scene.owners, [o.number for o in scene.objects if o.name == name])
        )[None].float()
        where = {name: mask(before, name) for name in names}
        region = torch.stack([mask(scene, name) for scene in (before, after) for name in names]).amax(dim=0)
        picture = lambda s: image_of(s.image)
        # The emotion's word is in both prompts: they differ in detail.
        out.append(
            Case(
                picture(before),
                picture(after),
                emotion,
                target,
                source_prompt,
                f"{source_prompt}, {target}",
                plain(f"{target_prompt}{weather}, {target}", 600),
                names,
                where,
                region,
            )
        )
        if len(out) == n:
            break
    return out


def attended(case: Case) -> torch.Tensor:
    """[1, G + 1, h, w] on the CPU: the diffusion model's attention to each object that changes, and to any word."""
    model, clip, vae = pipeline()
    return grounding.attended(model, clip, vae, case.source[None], case.source_prompt, list(case.names))


def grounded(case: Case) -> torch.Tensor:
    """[1, 1, H, W]: the mask that Moodifier makes of a case."""
    return masks.feathered(masks.attention_mask(attended(case), case.source[None]), FEATHER)
