"""What the benchmarks ask for: held-out prompts, emotions and noise seeds, and scenes to edit whose truth is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..models.emotions import MIKELS, EmotionTarget
from ..models.tensors.uint8 import image_of
from ..training.data.moodscenes import layout_seeds, make_scene, sample_emotion


@dataclass(frozen=True)
class Task:
    """One image to make.

    emotion, second  what it should make people feel: one emotion, or half of each
    layout           the held-out layout that the prompt describes; -1 where there is none
    source           the emotion of the scene to edit, or "" where an image is made from noise alone
    """

    prompt: str
    emotion: str
    seed: int
    layout: int = -1
    intensity: float = 1.0
    second: str = ""
    source: str = ""

    @property
    def target(self) -> EmotionTarget:
        first = EmotionTarget.of(self.emotion, self.intensity)
        return first.mix(EmotionTarget.of(self.second, self.intensity)) if self.second else first


def generation(n: int, split: str = "test") -> list[Task]:
    """n captions of held-out layouts without a word of emotion, the eight emotions in turn."""
    out = []
    for i, layout in enumerate(layout_seeds(split, n, seed=64)):
        caption = make_scene(int(layout), None, 0).content_caption(np.random.default_rng([64, i]))
        out.append(Task(caption, MIKELS[i % len(MIKELS)], i, int(layout)))
    return out


def emotion_only(n: int) -> list[Task]:
    """n images without a content in the prompt, the emotions in turn (MUSE section IV-A: the prompt is "an image of"
    and the emotion)."""
    return [Task(f"an image of {MIKELS[i % 8]}", MIKELS[i % 8], 10_000 + i) for i in range(n)]


def editing(n: int, split: str = "test") -> list[Task]:
    """n scenes of held-out layouts under an emotion that the layout inclines to, each to be turned to another one."""
    out = []
    for i, layout in enumerate(layout_seeds(split, n, seed=65)):
        rng = np.random.default_rng([65, i])
        target = MIKELS[i % len(MIKELS)]
        source = target
        while source == target:
            source = sample_emotion(int(layout), rng)
        caption = make_scene(int(layout), None, 0).content_caption(rng)
        out.append(Task(caption, target, 20_000 + i, int(layout), source=source))
    return out


def scene(task: Task, emotion: str) -> torch.Tensor:
    """[3, 128, 128] in 0..1: a task's layout rendered under an emotion, always with the same seed of its details."""
    image = make_scene(task.layout, emotion, task.seed).image
    return image_of(image)
