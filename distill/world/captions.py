"""Captions of the built-in world: natural English in several phrasings, saying exactly what the picture shows.

Most captions name everything, but for a fifth without the hair, a fifth without the headband and a fifth without the emotion.
A share are *short*: anything may be missing, down to "a ninja", for that is how people write, and what a model was never asked
to make up for itself it draws as an average. An effect is always named: silence means there is none. Every value is expressed
by its own words, and no other value's phrase has them all, which is how a reader (`distill.data.labels.labels_of`) can tell what a
caption claims.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import get_args

import numpy as np

from genin.distill.world.scene import CaptionKind, Scene
from genin.runtimes.vocabulary import check_choice

SHORT_SHARE = 0.3  # of the captions
SAID_SHARE = 0.8  # of the others that name their hair, their headband, their emotion
# Raised when the same scene and seed give another caption: what was sampled for the old ones no longer fits.
VERSION = 2

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


def caption(scene: Scene, seed: int, kind: CaptionKind = "mixed") -> str:
    """One caption of the scene in the phrasing of `seed`: a "complete" one leaves nothing out (effect "none" is silence), a
    "short" one may leave out anything, "mixed" ones are what models learn from."""
    check_choice(kind, get_args(CaptionKind), "kind of caption")
    chance = np.random.Generator(np.random.PCG64([seed, scene.variation]))

    def pick(options: Sequence[str]) -> str:
        return options[int(chance.integers(len(options)))]

    said = _said(chance, kind)
    who = f"{scene.emotion} ninja" if said["emotion"] else "ninja"
    hair = pick((f"with {_hair(scene.hair)}", f"who has {_hair(scene.hair)}")) if said["hair"] else ""
    band = f"{_article(scene.headband)} headband" if said["headband"] else ""
    outfit = f"{_article(scene.outfit)} outfit" if said["outfit"] else ""
    act, place, light = pick(ACTIONS[scene.action]), pick(PLACES[scene.environment]), pick(LIGHTS[scene.light])
    act, place, light = (
        words if said[name] else "" for name, words in (("action", act), ("environment", place), ("light", light))
    )
    effect = pick(EFFECTS[scene.effect]) if scene.effect != "none" else ""
    clothes, looks = _list([band, outfit]), _list([_hair(scene.hair) if said["hair"] else "", band, outfit])
    dressed, wearing = (f"{word} {clothes}" if clothes else "" for word in ("in", "wearing"))
    ninja, being = _article(who), "is" if act or place else ""
    return _tidy(
        pick(
            (
                f"{ninja} {hair} {dressed} {act} {place} {light}, {effect}",
                f"{ninja} {dressed}, {hair}, {act} {place} {light}, {effect}",
                f"{place}, {light}: {ninja} {hair} {dressed} {act}, {effect}",
                f"{ninja} {act} {place} {light}, {hair}, {wearing}, {effect}",
                f"{light}, {ninja} {hair} {wearing} {being} {act} {place}, {effect}",
                f"a picture of {ninja} {f'with {looks}' if looks else ''}, {act} {place} {light}, {effect}",
                f"{ninja} {act} {effect} {place} {light}, {wearing}, {hair}",
                f"{ninja} {dressed} {hair} {act} {place} {light} {effect}",
            )
        )
    )


def _said(chance: np.random.Generator, kind: CaptionKind) -> dict[str, bool]:
    """Which attributes a caption names; of a short one any number is as likely as any other."""
    often = dict.fromkeys(("hair", "headband", "emotion"), SAID_SHARE)
    always = dict.fromkeys(("outfit", "action", "environment", "light"), 1.0)
    if kind == "complete":
        return dict.fromkeys(often | always, True)
    shares = often | always
    if kind == "short" or chance.random() < SHORT_SHARE:
        shares = dict.fromkeys(shares, chance.random())
    return {name: chance.random() < share for name, share in shares.items()}


def _hair(value: str) -> str:
    """'spiky blond' => 'spiky blond hair'; a bun or ponytail is a noun of its own."""
    if value.endswith(("bun", "ponytail", "bob")):
        return f"a {value}"
    return value if value.endswith("twintails") else f"{value} hair"


def _article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _list(parts: Sequence[str]) -> str:
    *others, last = [part for part in parts if part] or [""]
    return f"{', '.join(others)} and {last}" if others else last


def _tidy(text: str) -> str:
    """Close the gaps that left-out parts leave."""
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"\s*([,:])[\s,:]*", r"\1 ", text)
    return text.strip(" ,:")
