"""Captions of the built-in world: natural English in several phrasings, saying exactly what the picture shows.

A caption always names the outfit, the action, the place, the light, and an effect if there is one; hair, headband and
emotion are each left out now and then, so that a model also learns shorter prompts. Every value is expressed by its own
words and never by another value's, which is how a reader (or `says`) can tell what a caption claims.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from genin.distill.world import Scene

SAID_SHARE = 0.9

ACTIONS: dict[str, tuple[str, ...]] = {
    "meditating": ("meditating", "sitting and meditating"),
    "running": ("running", "running fast"),
    "throwing": ("throwing a star", "throwing a steel star"),
    "jumping": ("jumping", "jumping high", "jumping into the air"),
    "guarding": ("guarding with a sword", "guarding, sword in hand"),
    "casting": ("casting a spell", "casting a glowing spell"),
    "waving": ("waving", "waving hello"),
}
PLACES: dict[str, tuple[str, ...]] = {
    "mountain": ("on a mountain", "high on a mountain"),
    "forest": ("in a forest", "deep in a forest"),
    "village": ("in a village", "in a quiet village"),
    "waterfall": ("by a waterfall", "in front of a waterfall"),
    "rooftop": ("on a rooftop", "on a tiled rooftop"),
    "bridge": ("on a bridge", "on a wooden bridge"),
    "desert": ("in a desert", "in the desert"),
    "shrine": ("at a shrine", "before a shrine"),
}
LIGHTS: dict[str, tuple[str, ...]] = {
    "noon": ("at noon", "under the noon sun"),
    "sunset": ("at sunset", "under the sunset"),
    "dawn": ("at dawn", "in the light of dawn"),
    "night": ("at night", "under the night sky"),
    "storm": ("in a storm", "in a rain storm"),
    "mist": ("in the mist", "in pale mist"),
}
EFFECTS: dict[str, tuple[str, ...]] = {
    "leaves": ("with swirling leaves", "with leaves all around"),
    "petals": ("with drifting petals", "with petals all around"),
    "fire": ("with fire all around", "surrounded by fire"),
    "lightning": ("with lightning on both sides", "between bolts of lightning"),
    "water": ("with a ring of water", "inside a ring of water"),
    "smoke": ("with smoke at the feet", "with clouds of smoke"),
}


def caption(scene: Scene, seed: int, *, complete: bool = False) -> str:
    """One caption of the scene in the phrasing of `seed`; `complete` leaves nothing out (effect "none" is silence)."""
    chance = np.random.Generator(np.random.PCG64([seed, scene.variation]))

    def pick(options: Sequence[str]) -> str:
        return options[int(chance.integers(len(options)))]

    said = {name: complete or chance.random() < SAID_SHARE for name in ("hair", "headband", "emotion")}
    who = f"{scene.emotion} ninja" if said["emotion"] else "ninja"
    hair = pick((f"with {_hair(scene.hair)}", f"who has {_hair(scene.hair)}")) if said["hair"] else ""
    band = f"{_article(scene.headband)} headband" if said["headband"] else ""
    outfit = f"{_article(scene.outfit)} outfit"
    act, place, light = pick(ACTIONS[scene.action]), pick(PLACES[scene.environment]), pick(LIGHTS[scene.light])
    effect = pick(EFFECTS[scene.effect]) if scene.effect != "none" else ""
    wearing = _list([band, outfit])
    looks = _list([_hair(scene.hair) if said["hair"] else "", band, outfit])
    return _tidy(
        pick(
            (
                f"{_article(who)} {hair} in {wearing} {act} {place} {light}, {effect}",
                f"{_article(who)} in {wearing}, {hair}, {act} {place} {light}, {effect}",
                f"{place}, {light}: {_article(who)} {hair} in {wearing} {act}, {effect}",
                f"{_article(who)} {act} {place} {light}, {hair}, wearing {wearing}, {effect}",
                f"{light}, {_article(who)} {hair} wearing {wearing} is {act} {place}, {effect}",
                f"a picture of {_article(who)} with {looks}, {act} {place} {light}, {effect}",
                f"{_article(who)} {act} {effect} {place} {light}, wearing {wearing}, {hair}",
                f"{_article(who)} in {wearing} {hair} {act} {place} {light} {effect}",
            )
        )
    )


def _hair(value: str) -> str:
    """'spiky blond' => 'spiky blond hair'; a bun or ponytail is a noun of its own."""
    if value.endswith(("bun", "ponytail", "bob")):
        return f"a {value}"
    return value if value.endswith("twintails") else f"{value} hair"


def _article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _list(parts: Sequence[str]) -> str:
    kept = [part for part in parts if part]
    return kept[0] if len(kept) == 1 else f"{', '.join(kept[:-1])} and {kept[-1]}"


def _tidy(text: str) -> str:
    """Close the gaps that left-out parts leave."""
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"\s*,(\s*,)*\s*", ", ", text)
    return text.strip(" ,")
