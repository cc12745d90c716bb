"""Loops, data and configs that train the learned parts. Imports `models/`, never `nodes/`."""

COMMANDS = {
    "tiny": ("training.tiny", "the bundled tiny models, stage by stage"),
    "emolat": ("training.emolat", "EmoLat's codebooks, from annotated images"),
    "transfer": ("training.transfer", "EmoLat's transfer network, on its codebooks"),
    "emolat-tokens": ("training.tokens", "how EmoLat's codes start MUSE's tokens"),
    "va-head": ("training.va_head", "valence and arousal of photographs, from people's ratings"),
    "moodifyclip": ("training.moodifyclip", "a CLIP that reads 248 tokens of what moves people"),
}
"""`affect train NAME`: name -> (module with add_arguments and main, what it trains)."""
