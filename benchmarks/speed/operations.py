"""What a picture takes: multiply-adds of all its networks, bytes of weights, and their shares of the machine's measured peaks.

A picture is one call of the text encoder and of the decoder, and one of the UNet at every step; guidance encodes the empty prompt,
too, and doubles what the UNet computes. Weights are counted as they lie on disk, once a call: an engine that widens fp16 to fp32
reads twice as much, one whose caches hold the weights less.

Not here: measuring the peaks (`peak`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from genin.benchmarks.model_facts import ModelFacts
from genin.runtimes.vocabulary import COMPONENTS

OTHER_SIZE: Final = "multiply-adds are known at the model's own size"
NOT_THE_CPU: Final = "the machine's peak is its CPU's, and this may compute elsewhere"
UNKNOWN: Final = "the multiply-adds of all networks are not stated, as they are in bundles that genin exports"
KEYS: Final = ("macs_per_picture", "weight_bytes_per_picture", "gflops", "matmul_share", "copy_share")


def macs_per_picture(facts: ModelFacts, steps: int) -> int | None:
    """Multiply-adds of a picture at the model's own size; None where a network's are unknown."""
    branches = 1 if facts.guidance_scale == 1.0 else 2
    of = [facts.component_macs.get(component) for component in COMPONENTS]
    if any(macs is None for macs in of):
        return None
    calls = {"text_encoder": branches, "unet": branches * steps, "vae_decoder": 1}
    return sum(int(macs or 0) * calls[component] for component, macs in zip(COMPONENTS, of, strict=True))


def weight_bytes_per_picture(component_bytes: Mapping[str, int | None], steps: int, batch: int = 1) -> int | None:
    """Bytes of weights that its calls read, its part of those of a batch; None where a network's are unknown."""
    if any(component_bytes.get(component) is None for component in COMPONENTS):
        return None
    return sum(int(component_bytes[c] or 0) * (steps if c == "unet" else 1) for c in COMPONENTS) // batch


def add_shares(row: dict[str, Any], facts: ModelFacts, peaks: Sequence[Mapping[str, Any]]) -> None:
    """Fill in `KEYS`: what a picture takes, and the shares of the peaks that were measured with as many threads."""
    seconds, notes = row["latency_ms"]["p50"] / 1000 / row["batch_size"], row["notes"]
    peak = next((one for one in peaks if one["threads"] == row["threads"]), None)
    row |= dict.fromkeys(KEYS)
    resized = row["asked_size"] is not None
    macs = row["macs_per_picture"] = None if resized else macs_per_picture(facts, row["steps"])
    if macs is None:
        notes |= dict.fromkeys(("macs_per_picture", "gflops", "matmul_share"), OTHER_SIZE if resized else UNKNOWN)
    else:
        row["gflops"] = round(2 * macs / seconds / 1e9, 3)
    read = row["weight_bytes_per_picture"] = weight_bytes_per_picture(
        row["component_bytes"], row["steps"], row["batch_size"]
    )
    if read is None:
        reason = notes.get("component_bytes", "the size of a network is unknown")
        notes |= dict.fromkeys(("weight_bytes_per_picture", "copy_share"), reason)
    elsewhere = row["runtime"] == "coreml" or row["device"] != "cpu"
    if peak is None or elsewhere:
        reason = NOT_THE_CPU if elsewhere else "the machine's peak could not be measured"
        notes |= dict.fromkeys(("matmul_share", "copy_share"), reason)
        return
    if macs is not None:
        row["matmul_share"] = round(row["gflops"] / peak["matmul_gflops"], 4)
    if read is not None:
        row["copy_share"] = round(read / seconds / 1e9 / peak["copy_gb_per_s"], 4)
