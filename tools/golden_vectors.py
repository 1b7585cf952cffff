"""Write `runtimes/golden/`: what every implementation of the runtime must give, in any language.

    python tools/golden_vectors.py

Prompts are made here from a fixed seed; tokens, noise, schedules and pictures are Python's, which is the reference. docs/noise.md
and docs/bundle.md say how to use them. Run it again when a shipped bundle changes; the version in golden.json grows when the format
does.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import unicodedata
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

import genin
from genin.runtimes.assigned import VERSION, is_assigned
from genin.runtimes.noise import philox_normal, philox_words
from genin.runtimes.samplers import Schedule

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "runtimes" / "golden"
FORMAT = 1
PROMPTS, BLOCK = 100_000, 1_000
NEIGHBOURS = 4  # code points of one prompt that walks through Unicode
NOISE = [
    (0, 0),
    (7, 0),
    (42, 0),
    (2**32 - 1, 0),
    (2**32, 1),
    (0x0123456789ABCDEF, 0),
    (2**63, 7),
    (2**64 - 1, 2**32 - 1),
]
NOISE_COUNT = 1 << 18
STATE = 64  # numbers of a state that a schedule walks
SD15 = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "prediction_type": "epsilon",
}
SD21 = SD15 | {"prediction_type": "v_prediction"}
ZERO_SNR = SD21 | {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "set_alpha_to_one": True}
SCHEDULES: tuple[dict[str, Any], ...] = (
    SD15,
    SD15 | {"timestep_spacing": "linspace"},
    SD15 | {"timestep_spacing": "trailing"},
    SD15 | {"_class_name": "PNDMScheduler", "skip_prk_steps": True},
    SD21,
    ZERO_SNR,
    ZERO_SNR | {"prediction_type": "sample"},
    ZERO_SNR | {"num_train_timesteps": 250},
    {"_class_name": "DDIMScheduler"},
    {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "sample", "clip_sample_range": 0.75},
    {"trained_betas": [0.01, 0.02, 0.05, 0.1, 0.3], "num_train_timesteps": 5, "clip_sample": False},
)
WALKS: tuple[dict[str, Any], ...] = (
    {"steps": 1},
    {"steps": 4},
    {"steps": 7},
    {"steps": 50},
    {"timesteps": [999, 749, 499, 249]},
    {"timesteps": [3, 1]},
)
PICTURES = (
    ("student", "a happy ninja with a blue headband, running through a forest at night", 7, 4),
    ("student", "A NINJA, 忍者, ΣΊΣΥΦΟΣ İ ß é 👩‍👧 it's", 2**64 - 1, 2),
    ("student-1step", "", 0, 1),
    ("student-1step", "a ninja in the rain", 42, 1),
)
# fmt: off
SPECIAL = (
    "<|endoftext|>", "<|startoftext|>", "<|", "|>", "'s", "'S", "'ſ", "'t", "'RE", "'ve", "'M", "'ll",
    "'d", "''", "ΑΣ", "ΑΣΑ", "Σ", "ΣΣ", "Α\u0301Σ", "Σ\u00ad", "İ", "I\u0307", "ß", "ẞ", "ﬁ", "e\u0301",
    "각", "\u1100\u1161\u11a8", "忍者", "カ\u3099", "\u200d", "👩\u200d👧", "🏴\U000e0067", "\u2028", "\u2029",
    "\u00a0", "\u3000", "\x00", "\x1c", "\x7f", "\x85", "\t", "\n", "\r", "…", "½", "²", "Ⅷ", "١٢",
    "\u0345", "\u0f73", "\u0344", "שלום", "مرحبا", "\u202e", "ninja", "a ninja", "running", "1234567890",
    " ", "  ", "-", "_", "@#%", "\ufffd", "\ufeff", "\ue000", "\U0010fffd",
)
# fmt: on


def prompts() -> Iterator[str]:
    """First every character between neighbours, then lengths, then mixtures."""
    signs = [
        chr(code) for code in range(0x110000) if is_assigned(chr(code)) and unicodedata.category(chr(code)) != "Co"
    ]
    yield from ("", " ", "a" * 5_000, " ".join(["ninja"] * 300), "\u0301" * 200, "忍" * 100, "a\u0300" * 3_000)
    yield from SPECIAL
    for start in range(0, len(signs), NEIGHBOURS):
        one, *rest = signs[start : start + NEIGHBOURS]
        yield f"a{one}" + "B".join(rest)
    chance = random.Random(0)
    while True:
        yield "".join(_part(chance, signs) for _ in range(chance.randint(1, 12)))


def _part(chance: random.Random, signs: list[str]) -> str:
    kind = chance.random()
    if kind < 0.2:
        return chance.choice(signs)
    if kind < 0.7:
        return chance.choice(SPECIAL)
    return "".join(chr(chance.randint(32, 126)) for _ in range(chance.randint(1, 5)))


def token_blocks(tokenizer: Any, texts: list[str]) -> Iterator[NDArray[np.int64]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # prompts that are cut
        for start in range(0, len(texts), BLOCK):
            yield tokenizer(texts[start : start + BLOCK])


def tokens_of(tokenizer: Any) -> dict[str, Any]:
    source = prompts()
    texts = [next(source) for _ in range(PROMPTS)]
    lines = "".join(json.dumps(text) + "\n" for text in texts)
    (GOLDEN / "prompts.jsonl.gz").write_bytes(gzip.compress(lines.encode(), 9, mtime=0))
    blocks = list(token_blocks(tokenizer, texts))
    first = blocks[0][:100]
    return {
        "bundle": "student",
        "prompts": "prompts.jsonl.gz",
        "count": PROMPTS,
        "block": BLOCK,
        "sha256_of_blocks": [hashlib.sha256(block.astype("<i8").tobytes()).hexdigest() for block in blocks],
        "first": first.tolist(),
    }


def noise_of(seed: int, step: int) -> dict[str, Any]:
    words, normals = philox_words(seed, step, NOISE_COUNT), philox_normal(seed, step, NOISE_COUNT)
    return {
        "seed": seed,
        "step": step,
        "count": NOISE_COUNT,
        "words_sha256": hashlib.sha256(words.astype("<u4").tobytes()).hexdigest(),
        "normals_sha256": hashlib.sha256(normals.astype("<f4").tobytes()).hexdigest(),
        "words": words[:8].tolist(),
        "normals": [float(value) for value in normals[:8]],
    }


def schedule_of(config: dict[str, Any], walk: dict[str, Any]) -> dict[str, Any] | None:
    """A state of normals (seed 0) through predictions of normals (seed 1, step i); None where there is no such walk."""
    schedule = Schedule.from_config(config)
    last = walk.get("steps", max(walk.get("timesteps", [0])) + 1)
    if last > schedule.training_steps:
        return None
    pairs = schedule.steps(walk["steps"]) if "steps" in walk else schedule.explicit_steps(walk["timesteps"])
    x = philox_normal(0, 0, STATE)
    for index, (t, t_next) in enumerate(pairs):
        x, _ = schedule.step(philox_normal(1, index, STATE), x, t, t_next)
    return {"scheduler": config, **walk, "pairs": [list(pair) for pair in pairs], "x": [float(value) for value in x]}


def picture_of(number: int, bundle: str, prompt: str, seed: int, steps: int) -> dict[str, Any]:
    name = f"picture-{number}.png"
    with genin.load(f"builtin:{bundle}", runtime="onnxruntime", threads=1) as pipe:
        pipe(prompt, seed=seed, steps=steps).save(GOLDEN / name)
    return {"file": name, "bundle": bundle, "prompt": prompt, "seed": seed, "steps": steps}


@click.command()
def main() -> None:
    """Write runtimes/golden/."""
    GOLDEN.mkdir(exist_ok=True)
    with genin.load("builtin:student", runtime="onnxruntime", threads=1) as pipe:
        tokens = tokens_of(pipe._tokenizer)
    walks = [schedule_of(config, walk) for config in SCHEDULES for walk in WALKS]
    golden = {
        "genin_golden": FORMAT,
        "unicode": VERSION,
        "tokens": tokens,
        "noise": [noise_of(seed, step) for seed, step in NOISE],
        "schedules": [walk for walk in walks if walk is not None],
        "pictures": [picture_of(number, *picture) for number, picture in enumerate(PICTURES)],
    }
    text = json.dumps(golden, indent=1, ensure_ascii=False) + "\n"
    (GOLDEN / "golden.json").write_text(text, encoding="utf-8")
    size = sum(path.stat().st_size for path in GOLDEN.iterdir())
    click.echo(f"{GOLDEN}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
