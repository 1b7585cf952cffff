"""Alarms: what can go wrong in a training, how it is detected from the rows of the log, and what is done about it.

| alarm | seen when | done |
|---|---|---|
| `not_finite` | a loss or a gradient is NaN or infinite | back to the last checkpoint, half the rate |
| `loss_jump` | the loss is over three times the median of the rows before | the same |
| `latent_drift` | mean or deviation of the student's latents has left the teacher's | the same |
| `diversity_collapse` | noises under one caption differ by half of what the teacher's do | back, half the adversarial weight |
| `discriminator_wins` | over 95 % sorted right for a thousand updates | half its rate, more noise before it |
| `picture_discriminator_wins` | the same of that on decoded pictures | half its rate |
| `discriminator_blind` | under 55 % sorted right for a thousand updates | less noise before it |

`watch` is a pure function of rows, and rows are saved: a resumed run sees what the uninterrupted one would have seen. An
adjustment is a factor on one of the run's settings, 1 until an alarm changes it.

Not here: going back, and the record of what was done (`training`); what reads the adjustments (`training`,
`student.terms.adversarial`, `student.features`).
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

LogRow = Mapping[str, float]

JUMP = 3.0  # times the median of the rows before
JUMP_ROWS = 10  # rows needed for a meaningful median
# Deviation of the student's latents over the teacher's, and distance of their means in the teacher's deviations: the bounds within
# which they count as in place, and those outside which they count as adrift. A student that has just begun is in between.
IN_PLACE, ADRIFT = (0.85, 1.2, 0.1), (0.7, 1.4, 0.3)
DIVERSITY = 0.5  # of the teacher's
WINS, BLIND, PATIENCE = 0.95, 0.55, 1_000  # accuracy, accuracy, updates
NOISE_STEP = 1.5
ROLLBACKS = 3  # in one stage; after that, something is wrong that a lower rate does not fix


@dataclass(frozen=True)
class Alarm:
    """What was seen, whether to go back to the last checkpoint, and the factors to put on which settings."""

    name: str
    message: str
    rollback: bool
    adjustments: Mapping[str, float] = field(default_factory=dict)


def not_finite(network: str, value: float, what: str = "loss") -> Alarm:
    return Alarm("not_finite", f"the {what} of the {network} became {value}", True, {"lr": 0.5})


def watch(rows: Sequence[LogRow]) -> Alarm | None:
    """The alarm that the last of `rows` raises, the gravest first; rows are those since the last alarm."""
    return next((alarm for check in CHECKS if (alarm := check(rows)) is not None), None)


def _loss_jump(rows: Sequence[LogRow]) -> Alarm | None:
    # Adversarial losses change sign and scale by nature; the distance to the teacher's picture does not.
    losses = [row.get("last", row["loss"]) for row in rows if "loss" in row]
    if len(losses) <= JUMP_ROWS:
        return None
    before = statistics.median(losses[-2 * JUMP_ROWS - 1 : -1])
    if not 0 < JUMP * before < losses[-1]:
        return None
    return Alarm("loss_jump", f"the loss jumped from {before:.4g} to {losses[-1]:.4g}", True, {"lr": 0.5})


def _latent_drift(rows: Sequence[LogRow]) -> Alarm | None:
    measured = [row for row in rows if "spread" in row]
    if not any(_within(row, IN_PLACE) for row in measured) or "spread" not in rows[-1] or _within(rows[-1], ADRIFT):
        return None
    spread, shift = rows[-1]["spread"], rows[-1]["shift"]
    message = f"the latents' deviation is {spread:.2f} of the teacher's, their mean {shift:.2f} deviations off"
    return Alarm("latent_drift", message, True, {"lr": 0.5})


def _within(row: LogRow, band: tuple[float, float, float]) -> bool:
    low, high, off = band
    return low <= row["spread"] <= high and row["shift"] <= off


def _diversity_collapse(rows: Sequence[LogRow]) -> Alarm | None:
    if not rows or (share := rows[-1].get("diversity", 1.0)) >= DIVERSITY:
        return None
    message = f"two noises under one caption differ by {share:.2f} of what the teacher's pictures do"
    return Alarm("diversity_collapse", message, True, {"adversarial": 0.5})


def _discriminator(rows: Sequence[LogRow]) -> Alarm | None:
    if not rows or rows[-1]["update"] - rows[0]["update"] < PATIENCE:
        return None
    since = rows[-1]["update"] - PATIENCE
    for name, noise in (("discriminator", NOISE_STEP), ("picture_discriminator", None)):
        key, title = f"{name}_accuracy", name.replace("_", " ")
        seen = [row[key] for row in rows if row["update"] > since and key in row]
        if seen and min(seen) > WINS:
            message = f"the {title} has classified over {WINS:.0%} correctly for {PATIENCE:,} updates"
            return Alarm(f"{name}_wins", message, False, {f"lr/{name}": 0.5} | ({"noise": noise} if noise else {}))
        if seen and max(seen) < BLIND and noise:
            message = f"the {title} has classified under {BLIND:.0%} correctly for {PATIENCE:,} updates"
            return Alarm(f"{name}_blind", message, False, {"noise": 1 / noise})
    return None


CHECKS = (_diversity_collapse, _latent_drift, _loss_jump, _discriminator)
