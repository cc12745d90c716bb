"""MoodScenes: a procedural world of emotional scenes, deterministic from its seeds."""
from .cues import ADJECTIVES, EMOTIONS
from .layout import NOUNS, emotion_prior, layout_seeds, sample_emotion, sample_layout, split_of
from .scene import Scene, SceneObject, make_scene

__all__ = ["ADJECTIVES", "EMOTIONS", "NOUNS", "Scene", "SceneObject", "emotion_prior", "layout_seeds", "make_scene",
           "sample_emotion", "sample_layout", "split_of"]
