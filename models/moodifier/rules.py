"""What an emotion looks like, without a model: words for Mikels' eight and GoEmotions' 27 in the paper's four contexts
(section 3.1: faces, nature, city, objects), and how an emotion changes a named object."""

from __future__ import annotations

from ..emotions import LABELS
from ..errors import UserError

CONTEXTS = ("faces", "nature", "city", "objects")

_NOUNS = {
    "faces": [
        "face",
        "person",
        "man",
        "woman",
        "child",
        "boy",
        "girl",
        "eyes",
        "mouth",
        "portrait",
        "hair",
        "people",
        "smile",
        "baby",
    ],
    "nature": [
        "tree",
        "mountain",
        "hill",
        "river",
        "lake",
        "water",
        "sea",
        "ocean",
        "sky",
        "cloud",
        "flower",
        "grass",
        "rock",
        "forest",
        "field",
        "beach",
        "sun",
        "moon",
        "bird",
        "dog",
        "cat",
        "animal",
        "garden",
        "landscape",
        "snow",
        "desert",
        "bush",
        "leaf",
    ],
    "city": [
        "house",
        "home",
        "building",
        "street",
        "city",
        "car",
        "road",
        "bridge",
        "lamp",
        "fence",
        "window",
        "door",
        "tower",
        "shop",
        "train",
        "bus",
        "bench",
        "wall",
        "room",
    ],
}

# emotion -> (words before a thing: faces, nature, city, objects), and what the whole looks like
_LOOKS: dict[str, tuple[tuple[str, str, str, str], str]] = {
    "amusement": (("laughing", "playful", "festive", "funny"), "confetti and bright playful colours"),
    "awe": (("amazed", "majestic", "majestic", "glowing"), "beams of light from above, stars and a grand sky"),
    "contentment": (("calm", "lush", "cozy", "neat"), "warm golden light and soft colours"),
    "excitement": (("thrilled", "dazzling", "dazzling", "vivid"), "fireworks, bold bright rays and vivid colours"),
    "anger": (("furious", "burning", "burning", "spiked"), "a burning red sky, sparks and harsh lines"),
    "disgust": (("sick", "rotting", "moldy", "slimy"), "sickly yellow light, flies and dirty air"),
    "fear": (("scared", "twisted", "haunted", "dark"), "the deep night, fog and bats"),
    "sadness": (("crying", "bare", "abandoned", "broken"), "the heavy gray sky and rain"),
    "admiration": (
        ("radiant", "magnificent", "grand", "elegant"),
        "bright clear light that makes everything stand out",
    ),
    "approval": (("nodding", "flourishing", "tidy", "polished"), "clear daylight and fresh colours"),
    "caring": (("gentle", "sheltered", "homely", "soft"), "warm soft light and tender colours"),
    "desire": (("longing", "lush", "glowing", "luxurious"), "deep red and golden light"),
    "gratitude": (("grateful", "sunlit", "welcoming", "wrapped"), "warm morning light"),
    "joy": (("smiling", "blooming", "colorful", "cheerful"), "friendly sunshine and a rainbow"),
    "love": (("tender", "blossoming", "rose-covered", "heart-shaped"), "petals drifting by in rosy light"),
    "optimism": (("hopeful", "green", "sunlit", "bright"), "the sun that rises in a clear sky"),
    "pride": (("proud", "towering", "stately", "shining"), "golden light and strong contrasts"),
    "relief": (("relaxed", "calm", "quiet", "clean"), "the sky that clears after rain"),
    "annoyance": (("frowning", "thorny", "crowded", "scratched"), "hard light and restless lines"),
    "disappointment": (("downcast", "wilted", "faded", "worn"), "dull gray light and washed-out colours"),
    "disapproval": (("stern", "jagged", "cold", "rigid"), "cold flat light"),
    "embarrassment": (("blushing", "drooping", "crooked", "crumpled"), "pale pink light"),
    "nervousness": (("tense", "trembling", "flickering", "fragile"), "dim unsteady light and long shadows"),
    "grief": (("weeping", "dead", "deserted", "black"), "dark gray rain and withered leaves"),
    "remorse": (("ashamed", "withered", "desolate", "cracked"), "dusk and cold blue shadows"),
    "confusion": (("puzzled", "tangled", "labyrinthine", "warped"), "swirling fog"),
    "curiosity": (("wide-eyed", "winding", "half-open", "intricate"), "a beam of light into the shadow"),
    "realization": (("enlightened", "unveiled", "lit", "transparent"), "light that breaks through the clouds"),
    "surprise": (("astonished", "bursting", "gleaming", "popping"), "a sudden bright flash and sparkles"),
}


def context_of(name: str) -> str:
    """The context of an object's name; "objects" for what is in no list."""
    words = {w.rstrip("s") for w in name.lower().split()} | set(name.lower().split())
    return next((context for context, nouns in _NOUNS.items() if words & set(nouns)), "objects")


def attribute(emotion: str, name: str) -> str:
    """The word that an object of that name bears under an emotion. UserError for an emotion that is none of
    `LABELS`."""
    return _looks(emotion)[0][CONTEXTS.index(context_of(name))]


def atmosphere(emotion: str) -> str:
    """What the whole picture looks like under an emotion."""
    return _looks(emotion)[1]


def descriptors(emotion: str) -> list[str]:
    """Phrases that describe pictures of an emotion, one a context and one of the whole: what zero-shot
    classification and the filter of `affect data annotate` compare with."""
    words, whole = _looks(emotion)
    things = ("face", "landscape", "street", "object")
    return [f"a {word} {thing}" for word, thing in zip(words, things)] + [whole]


def _looks(emotion: str) -> tuple[tuple[str, str, str, str], str]:
    if emotion not in _LOOKS:
        raise UserError(f"'{emotion}' is none of the emotions known here: {', '.join(LABELS)}.")
    return _LOOKS[emotion]
