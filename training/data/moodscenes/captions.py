"""Words for a scene: content captions, MoodArchive's form, and the annotations of EmoSet and EmoSpace."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from .cues import ATTRIBUTES, Mood

if TYPE_CHECKING:
    from .scene import Scene, SceneObject

_COUNTS = ("no", "a", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven")
_PLURAL = {"person": "people", "bench": "benches", "grass": "grass"}
_BACKDROP = {
    "hills": ("hills", "green hills"),
    "peaks": ("mountains", "distant mountains"),
    "forest": ("a forest", "woods"),
    "town": ("a town", "distant buildings"),
    "none": ("the open sky",),
}
_PLACE = {
    "home": {
        "field": "in a field",
        "lake": "by a lake",
        "forest": "in the woods",
        "park": "in a park",
        "street": "on a street",
    },
    "mountain": {"field": "above a field", "lake": "above a lake", "forest": "above a forest"},
    "city": {"street": "along a street", "shore": "by the water", "park": "beside a park"},
    "river": {"river": "through the land"},
    "lake": {"lake": "under the sky"},
}
_FACE_PLACE = {
    "field": "in a field",
    "forest": "in front of trees",
    "street": "in the city",
    "lake": "by a lake",
    "room": "in a room",
}
_NOUN = {
    "home": ("home", "house"),
    "river": ("river", "winding river"),
    "lake": ("lake", "wide lake"),
    "mountain": ("mountain",),
    "city": ("city", "town", "row of buildings"),
}
EMOTION_ADJECTIVE = {
    "amusement": ("amusing", "funny"),
    "awe": ("awesome", "awe-inspiring"),
    "contentment": ("contented", "peaceful"),
    "excitement": ("exciting", "thrilling"),
    "anger": ("angry", "furious"),
    "disgust": ("disgusting", "gross"),
    "fear": ("fearful", "scary"),
    "sadness": ("sad", "sorrowful"),
}
_WEATHER_WORD = {
    "rain": "in the rain",
    "snow": "in the snow",
    "fog": "in the fog",
    "lightning": "in a storm",
    "rainbow": "under a rainbow",
    "stars": "under the stars",
    "fireworks": "with fireworks",
    "confetti": "with confetti",
    "smoke": "in the smoke",
    "petals": "with falling petals",
    "leaves": "with falling leaves",
    "flies": "with flies",
    "smog": "in the smog",
    "bats": "with bats",
    "sunny": "in the sunshine",
    "bubbles": "with bubbles",
    "sparks": "with sparks",
    "aurora": "under northern lights",
}


def article(word: str) -> str:
    return ("an " if word[0] in "aeiou" else "a ") + word


def plural(word: str) -> str:
    return _PLURAL.get(word, word + "s")


def sky_word(mood: Mood) -> str:
    """The sky's attribute, from weather first and light second."""
    weather = {
        "stars": "starry",
        "aurora": "glowing",
        "lightning": "stormy",
        "fog": "foggy",
        "smog": "dirty",
        "rain": "rainy",
        "snow": "snowy",
        "smoke": "smoky",
        "fireworks": "sparkling",
        "rainbow": "colorful",
        "sunny": "sunny",
        "bats": "dark",
    }
    light = {
        "golden": "golden",
        "rays": "bright",
        "burst": "bright",
        "night": "dark",
        "moon": "dark",
        "overcast": "gray",
        "fiery": "red",
        "neon": "purple",
        "dim": "gloomy",
        "sickly": "yellow",
    }
    return weather.get(mood.weather or "") or light.get(mood.light or "") or "clear"


def _pick(rng: np.random.Generator, options: tuple[str, ...] | list[str]) -> str:
    return options[int(rng.integers(len(options)))]


def _side(x: float) -> str:
    return "on the left" if x < 0.4 else "on the right" if x > 0.6 else "in the middle"


def _phrases(scene: Scene, skip: str | None) -> list[tuple[str, list[SceneObject], float]]:
    """(name, its objects, area) of what a caption may mention, most visible first."""
    groups: dict[str, list] = {}
    for o in scene.objects:
        if (
            o.salient
            and o.name not in ("sun", "moon", "water", "face", "eyes", "mouth", "hair", "hat")
            and o.name != skip
        ):
            groups.setdefault(o.name, []).append(o)
    if scene.noun == "face":
        groups.pop("person", None)
    return sorted(((n, os, sum(o.area for o in os)) for n, os in groups.items()), key=lambda t: -t[2])


def _thing(rng: np.random.Generator, name: str, objects: list, attributes: float) -> str:
    word = ""
    if attributes and rng.random() < attributes:
        word = Counter(o.attribute for o in objects).most_common(1)[0][0] + " "
    n = len(objects)
    if n == 1:
        text = article(word + name)
        if rng.random() < 0.45:
            text += " " + _side(objects[0].x)
        return text
    return f"{_COUNTS[min(n, 11)]} {word}{plural(name)}"


def _portrait(scene: Scene, rng: np.random.Generator, attributes: float) -> str:
    looks = scene.layout.looks
    hair = looks["hair"]
    wears = [w for w, on in (("glasses", looks["glasses"]), ("a hat", looks["hat"])) if on]
    color = scene.looks_words["hair"]
    hair_text = {"bald": "no hair", "bun": f"{color} hair in a bun"}.get(hair, f"{hair} {color} hair")
    attribute = next((o.attribute for o in scene.objects if o.name == "face"), "neutral")
    who = _pick(rng, ("face", "portrait of a person", "close portrait", "person's face"))
    if attributes and rng.random() < attributes and attribute != "neutral":
        who = f"{attribute} {who}"
    text = article(who) + " with " + " and ".join([hair_text] + wears)
    text += f", {scene.looks_words['cloth']} clothes" if rng.random() < 0.7 else ""
    return text + " " + _FACE_PLACE[scene.layout.place]


def _landscape(scene: Scene, rng: np.random.Generator, attributes: float) -> str:
    """Noun, place, then what else is there; counts what makes the noun where it is more than one."""
    main = {"home": "house", "mountain": "mountain", "city": "building"}.get(scene.noun)
    mains = [o for o in scene.objects if o.name == main]
    noun, n = _pick(rng, _NOUN[scene.noun]), len(mains)
    word = mains[0].attribute + " " if mains and attributes and rng.random() < attributes else ""
    if scene.noun in ("home", "mountain") and n > 1:
        head = f"{_COUNTS[n]} {word}{plural(main or noun)}"
    else:
        head = article(word + noun)
    if scene.noun == "city" and n > 1 and noun != "row of buildings" and rng.random() < 0.6:
        head += f" of {_COUNTS[n]} buildings"
    head += " " + _PLACE[scene.noun][scene.layout.place]
    if scene.noun in ("home", "mountain") and n == 1 and rng.random() < 0.5:
        head += " " + _side(mains[0].x)
    things = _phrases(scene, main)[:4]
    if len(things) > 2 and rng.random() < 0.3:
        things.pop(int(rng.integers(len(things))))
    if rng.random() < 0.4:
        things = [things[i] for i in rng.permutation(len(things))]
    items = [_thing(rng, name, objects, attributes) for name, objects, _ in things]
    if items:
        listed = ", ".join(items[:-1]) + " and " + items[-1] if len(items) > 1 else items[0]
        head += _pick(rng, (" with ", " with ", ", ")) + listed
    if scene.noun != "city" and rng.random() < 0.55:
        head += _pick(rng, (" and ", ", ")) + _pick(rng, _BACKDROP[scene.layout.backdrop]) + " behind"
    return head


def content_caption(scene: Scene, rng: np.random.Generator, attributes: float = 0.0, emotion: bool = False) -> str:
    """What the scene shows: noun, place, two to four salient things with counts, sides and background.

    With probability `attributes` each thing (and the weather) gets its attribute word; otherwise nothing that
    depends on the emotion is in the text. `emotion` names the emotion too (ignored for a neutral scene).
    """
    if scene.noun == "face":
        text = _portrait(scene, rng, attributes)
        things = _phrases(scene, None)[:2]
        if things and rng.random() < 0.5:
            text += " with " + " and ".join(_thing(rng, n, o, attributes) for n, o, _ in things) + " behind"
    else:
        text = _landscape(scene, rng, attributes)
    weather = _WEATHER_WORD.get(scene.mood.weather or "")
    if weather and attributes and rng.random() < attributes:
        text += ", " + weather
    if emotion and scene.emotion:
        word = _pick(rng, EMOTION_ADJECTIVE[scene.emotion])
        text = _pick(
            rng,
            (
                f"{article(word)} scene: {text}",
                f"{text}, feeling of {scene.emotion}",
                f"{text}, {word}",
                f"{scene.emotion}, {text}",
                f"{text} that evokes {scene.emotion}",
            ),
        )
    return text


_STIMULUS_SKY = {
    "stars": "the sky full of stars",
    "aurora": "northern lights over the sky",
    "lightning": "lightning that splits the sky",
    "rain": "rain that falls without end",
    "snow": "quiet falling snow",
    "fog": "thick fog that hides the distance",
    "smog": "dirty yellow air",
    "smoke": "black smoke overhead",
    "confetti": "confetti in the air",
    "bubbles": "floating soap bubbles",
    "rainbow": "a wide rainbow",
    "petals": "petals drifting by",
    "sunny": "the friendly sunshine",
    "fireworks": "fireworks above",
    "sparks": "flying sparks",
    "flies": "buzzing flies",
    "bats": "bats in the air",
    "leaves": "dead leaves falling",
}
_STIMULUS_LIGHT = {
    "golden": "warm golden light",
    "rays": "beams of light from above",
    "burst": "bold bright rays of colour",
    "night": "the deep night",
    "moon": "the pale full moon",
    "overcast": "the heavy gray sky",
    "fiery": "a burning red sky",
    "neon": "vivid neon light",
    "dim": "gloomy darkness at the edges",
    "sickly": "sickly yellow light",
}
_STIMULUS_TEXTURE = {
    "dots": "a playful pattern of dots",
    "sparkle": "sparkles everywhere",
    "watercolor": "soft washes of colour",
    "strokes": "harsh scratched strokes",
    "cracks": "cracks across everything",
    "blotches": "stains and blotches",
    "drips": "slime that drips from above",
    "swirl": "great swirls in the sky",
    "speed": "lines of speed",
}
_ASSESSMENT = {
    "amusement": "The scene feels playful and funny and evokes amusement.",
    "awe": "The scene feels grand and makes one feel small: it evokes awe.",
    "contentment": "The scene feels calm and safe and evokes contentment.",
    "excitement": "The scene is full of energy and evokes excitement.",
    "anger": "The scene feels violent and hostile and evokes anger.",
    "disgust": "The scene feels foul and unclean and evokes disgust.",
    "fear": "The scene feels threatening and evokes fear.",
    "sadness": "The scene feels lonely and hopeless and evokes sadness.",
}


def stimuli(scene: Scene) -> list[str]:
    """Three visual triggers, those that the emotion changed first, then the plain content."""
    mood, out = scene.mood, []
    for o in sorted(scene.objects, key=lambda o: -o.area):
        if o.salient and o.name not in ("sun", "moon", "water", "eyes", "mouth") and _is_cue(o):
            out.append(f"{article(o.attribute + ' ' + o.name)} {_side(o.x)}")
    air = [
        t.get(k or "")
        for t, k in ((_STIMULUS_SKY, mood.weather), (_STIMULUS_LIGHT, mood.light), (_STIMULUS_TEXTURE, mood.texture))
    ]
    found = list(dict.fromkeys(out[:2] + [a for a in air if a] + out[2:]))
    plain = [f"the {o.attribute} {o.name}" for o in scene.objects if not _is_cue(o)]
    return (found + plain + ["the plain background", "the quiet composition", "the simple shapes"])[:3]


def _is_cue(o: SceneObject) -> bool:
    """Whether the object does what an emotion made it do."""
    return o.attribute in ATTRIBUTES.get(o.name, {})


def mood_caption(scene: Scene) -> dict:
    """MoodArchive's structured caption: {"summary": str, "stimuli": [str, str, str], "assessment": str}."""
    rng = np.random.default_rng([scene.mood.seed, scene.layout.seed, 71])
    summary = content_caption(scene, rng, attributes=0.6)
    summary = summary[0].upper() + summary[1:] + "."
    assessment = _ASSESSMENT.get(scene.emotion or "", "The scene feels neutral and evokes no strong emotion.")
    return {"summary": summary, "stimuli": stimuli(scene), "assessment": assessment}


_ACTION = {
    "juggling": "juggling",
    "dancing": "dancing",
    "jumping": "jumping",
    "amazed": "standing",
    "resting": "sitting",
    "hugging": "hugging",
    "shouting": "shouting",
    "sick": "bending",
    "fleeing": "running",
    "cowering": "crouching",
    "crying": "crying",
    "standing": "standing",
}


def emoset(scene: Scene) -> dict:
    """EmoSet's keys: emotion, brightness and colorfulness (0..1, one decimal), scene, object, and
    facial_expression and human_action where they apply."""
    x = scene.image.astype(np.float32) / 255
    rg, yb = x[..., 0] - x[..., 1], (x[..., 0] + x[..., 1]) / 2 - x[..., 2]
    # Hasler and Suesstrunk's measure; about 0.6 for the most colourful scenes, hence the factor.
    colourful = float(np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean()))
    out = {
        "emotion": scene.emotion or "neutral",
        "brightness": round(float(x.mean()), 1),
        "colorfulness": round(min(1.0, colourful * 1.6), 1),
        "scene": scene.noun if scene.noun != "face" else scene.layout.place,
        "object": sorted({o.name for o in scene.objects if o.salient}),
    }
    face = next((o for o in scene.objects if o.name == "face"), None)
    if face:
        out["facial_expression"] = face.attribute
    person = next((o for o in scene.objects if o.name == "person" and o.attribute in _ACTION), None)
    if person:
        out["human_action"] = _ACTION[person.attribute]
    return out


def emospace(scene: Scene) -> dict:
    """EmoSpace's keys: emotion, global_adjective, and ontology_adjective: [[object, attribute], ...], at
    most 14."""
    pairs = list(dict.fromkeys((o.name, o.attribute) for o in scene.objects))
    return {
        "emotion": scene.emotion or "neutral",
        "global_adjective": scene.adjective,
        "ontology_adjective": [list(p) for p in pairs[:14]],
    }
