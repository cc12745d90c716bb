"""MoodScenes: a procedural world of emotional scenes, deterministic from its seeds.

A scene is a layout (what is where) rendered under an emotion, which shows in palette, light, weather,
texture and in what the objects do, never in one of them alone.
"""

from .cues import ADJECTIVES, EMOTIONS
from .dataset import add_arguments, change_mask, main, write_dataset
from .layout import NOUNS, emotion_prior, layout_seeds, sample_emotion, sample_layout, split_of
from .scene import Scene, SceneObject, make_scene
from .sheet import contact_sheet

__all__ = [
    "ADJECTIVES",
    "EMOTIONS",
    "NOUNS",
    "Scene",
    "SceneObject",
    "add_arguments",
    "change_mask",
    "contact_sheet",
    "emotion_prior",
    "layout_seeds",
    "main",
    "make_scene",
    "sample_emotion",
    "sample_layout",
    "split_of",
    "write_dataset",
]
