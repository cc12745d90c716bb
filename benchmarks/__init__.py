"""Benchmarks: one file each. They write figures, a plot or a sheet, and never run in tests."""

COMMANDS = {"muse": ("benchmarks.muse", "64 held-out prompts: plain, with the emotion word, and by MUSE")}
"""`affect bench NAME`: name -> (module with add_arguments and main, what it measures)."""

TABLES: dict[str, tuple[str, str]] = {}
"""`affect evaluate TABLE`: likewise."""
