"""Benchmarks: one file each. They write figures, a plot or a sheet, and never run in tests."""

COMMANDS = {"muse": ("benchmarks.muse", "64 held-out prompts: plain, with the emotion word, and by MUSE"),
            "comfyui": ("benchmarks.comfyui", "inside a real ComfyUI: start-up, agreement, interrupt, memory, cost")}
"""`affect bench NAME`: name -> (module with add_arguments and main, what it measures)."""

TABLES: dict[str, tuple[str, str]] = {}
"""`affect evaluate TABLE`: likewise."""
