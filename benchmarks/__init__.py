"""Benchmarks: one file each. They write figures, a plot or a sheet, and never run in tests."""

COMMANDS = {
    "muse": ("benchmarks.muse", "MUSE against its rivals on held-out prompts"),
    "muse-ablation": ("benchmarks.muse_ablation", "what each part of MUSE does"),
    "muse-speed": ("benchmarks.muse_speed", "what MUSE costs in time and memory"),
    "muse-knobs": ("benchmarks.muse_knobs", "pictures of each knob turned, for the artists' page"),
    "retrieval": ("benchmarks.retrieval", "reference retrieval: exactness, time, memory"),
    "gram": ("benchmarks.gram", "Gram transfer: time, memory, and held-out scenes"),
    "photographs": ("benchmarks.photographs", "photographs in a reference's feeling, by people's ratings"),
    "emolat-train": ("benchmarks.emolat_train", "EmoLat's codebooks: speed, use, and what a probe recognises in them"),
    "emolat": ("benchmarks.emolat", "EmoLat's transfer on held-out scenes"),
    "emolat-ablation": ("benchmarks.emolat_ablation", "what each loss of EmoLat's transfer contributes"),
    "emolat-tokens": ("benchmarks.emolat_tokens", "whether MUSE takes fewer inner steps from EmoLat's codes"),
    "moodifier": ("benchmarks.moodifier", "Moodifier, its ablations and rivals on held-out scenes"),
    "moodifyclip": ("benchmarks.moodifyclip", "MoodifyCLIP's losses, one by one"),
    "comfyui": ("benchmarks.comfyui", "inside a real ComfyUI: start-up, agreement, interrupt, memory, cost"),
}
"""`affect bench NAME`: name -> (module with add_arguments and main, what it measures)."""

TABLES: dict[str, tuple[str, str]] = {}
"""`affect evaluate TABLE`: likewise."""
