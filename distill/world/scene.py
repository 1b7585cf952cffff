"""The built-in universe: an original ninja world in which every picture's content is known exactly.

A scene is eight attributes and one integer that seeds all free variation (position, layout, clouds). Scenes are drawn
by counter: scene i of a split never depends on scene i − 1, so any part of an endless data set can be made anywhere.
The split of a scene follows from a hash of its attribute combination, so no combination stands in two splits.

Not here: how a scene looks (`render`) and how it is described (`captions`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from genin.dataset.splits import SPLITS, Split
from genin.runtimes.errors import InputError

ATTEMPTS = 10_000  # at a scene of the split that is asked for

CaptionKind = Literal["mixed", "complete", "short"]

ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "hair": ("spiky blond", "long black", "silver ponytail", "red bun", "short brown", "teal bob", "pink twintails"),
    "headband": ("red", "blue", "green", "white", "yellow", "purple"),
    "outfit": ("orange", "blue", "green", "red", "purple", "black", "white"),
    "action": ("meditating", "running", "throwing", "jumping", "guarding", "casting", "waving"),
    "environment": ("mountain", "forest", "village", "waterfall", "rooftop", "bridge", "desert", "shrine"),
    "light": ("noon", "sunset", "dawn", "night", "storm", "mist"),
    "emotion": ("happy", "angry", "sad", "surprised", "calm", "determined"),
    "effect": ("none", "leaves", "petals", "fire", "lightning", "water", "smoke"),
}


@dataclass(frozen=True)
class Scene:
    hair: str
    headband: str
    outfit: str
    action: str
    environment: str
    light: str
    emotion: str
    effect: str
    variation: int = 0

    def __post_init__(self) -> None:
        for name, values in ATTRIBUTES.items():
            if getattr(self, name) not in values:
                raise InputError(f"unknown {name} '{getattr(self, name)}'", remedy=f"choose from: {', '.join(values)}")

    def attributes(self) -> dict[str, str]:
        return {name: getattr(self, name) for name in ATTRIBUTES}


def _words(*key: str | int) -> NDArray[np.uint32]:
    """64 hash bytes of a key as sixteen 32-bit words: the world's only source of chance, alike on every platform."""
    # Plain ones: NumPy's text and numbers have another repr.
    plain = tuple(str(part) if isinstance(part, str) else int(part) for part in key)
    digest = hashlib.blake2b(repr(plain).encode(), digest_size=64).digest()
    return np.frombuffer(digest, dtype="<u4")


def split_of(scene: Scene) -> Split:
    """The split that owns the scene's attribute combination: 90 % train, 5 % val, 5 % test."""
    share = int(_words("split", *scene.attributes().values())[0]) % 100
    return "train" if share < 90 else "val" if share < 95 else "test"


def scene_at(split: Split, seed: int, index: int) -> Scene:
    """Scene `index` of an endless split: uniform over the attribute combinations that the split owns."""
    if split not in SPLITS:
        raise InputError(f"unknown split '{split}'", remedy=f"choose from: {', '.join(SPLITS)}")
    for attempt in range(ATTEMPTS):
        words = [int(word) for word in _words(split, seed, index, attempt)]
        values = [options[word % len(options)] for options, word in zip(ATTRIBUTES.values(), words, strict=False)]
        scene = Scene(**dict(zip(ATTRIBUTES, values, strict=True)), variation=words[8] & 0x7FFFFFFF)
        if split_of(scene) == split:
            return scene
    raise AssertionError("unreachable: every split owns a twentieth of the combinations")


def scenes_like(scene: Scene, kept: Collection[str], split: Split, seed: int, count: int) -> list[Scene]:
    """`count` scenes of a split that have the scene's values of the attributes `kept`; all else is drawn anew.

    Errors: InputError where the split has no such scene.
    """
    found: list[Scene] = []
    for attempt in range(ATTEMPTS):
        words = [int(word) for word in _words("like", *scene.attributes().values(), scene.variation, seed, attempt)]
        drawn = {
            name: values[word % len(values)] for (name, values), word in zip(ATTRIBUTES.items(), words, strict=False)
        }
        drawn |= {name: getattr(scene, name) for name in kept}
        one = Scene(**drawn, variation=words[8] & 0x7FFFFFFF)
        if split_of(one) == split:
            found.append(one)
        if len(found) == count:
            return found
    raise InputError(f"split {split} has no scenes with {', '.join(kept)} as these", remedy="keep fewer attributes")
