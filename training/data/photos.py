"""The real photographs that scikit-image and scikit-learn ship, as random square crops.

They keep VAE and feature networks honest on photographs. Two are held out whole: they are what the card's figures
for real photographs, and the demo's edit, are made on.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image

from ...models import pictures

TRAIN = {
    "chelsea": "a cat",
    "rocket": "a rocket at night",
    "motorcycle_left": "a motorcycle in a garage",
    "china": "a temple with trees",
    "flower": "a pink flower",
    "hubble_deep_field": "stars and galaxies",
    "camera": "a man with a camera",
    "grass": "grass",
    "gravel": "gravel",
    "brick": "a brick wall",
    "coins": "old coins",
    "moon": "the moon",
}
HELD_OUT = {"astronaut": "a smiling woman", "coffee": "a cup of coffee on a table"}


@cache
def photograph(name: str) -> Image.Image:
    """A photograph by its name in `TRAIN` or `HELD_OUT`, as RGB."""
    from pathlib import Path

    import skimage
    import sklearn.datasets

    folders = (Path(skimage.__file__).parent / "data", Path(sklearn.datasets.__file__).parent / "images")
    for folder in folders:
        for suffix in (".png", ".jpg"):
            if (folder / (name + suffix)).is_file():
                return pictures.read(folder / (name + suffix))
    raise FileNotFoundError(f"Neither scikit-image nor scikit-learn ships the photograph '{name}' here.")


def square(image: Image.Image, size: int) -> np.ndarray:
    """The centre square, resized: uint8 [size, size, 3]."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return np.asarray(image.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.LANCZOS))


def random_crop(rng: np.random.Generator, size: int) -> tuple[np.ndarray, str]:
    """A random square crop (40 to 100 % of the shorter side), mirrored half of the time, and its caption."""
    name = list(TRAIN)[rng.integers(len(TRAIN))]
    image = photograph(name)
    side = int(min(image.size) * rng.uniform(0.4, 1.0))
    left, top = int(rng.integers(image.width - side + 1)), int(rng.integers(image.height - side + 1))
    crop = image.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.LANCZOS)
    if rng.random() < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(crop), f"a photo of {TRAIN[name]}"
