"""Data: MoodScenes, packs of it, and the real photographs that ship with libraries."""

COMMANDS = {
    "moodscenes": ("training.data.moodscenes", "procedural scenes with emotions, masks and captions"),
    "annotate": ("training.data.annotate", "a folder of images, described by an MLLM"),
}
"""`affect data NAME`: name -> (module with add_arguments and main, what it makes)."""
