"""Loops, data and configs that train the learned parts. Imports `models/`, never `nodes/`."""

COMMANDS = {"tiny": ("training.tiny", "the bundled tiny models, stage by stage")}
"""`affect train NAME`: name -> (module with add_arguments and main, what it trains)."""
