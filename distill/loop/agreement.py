"""What the processes of a training agree on: values that differ between them would lead one into a collective that others skip.

Not here: when they ask each other (`training`), who writes files (`genin.processes`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from accelerate import Accelerator


def gathered(accelerator: Accelerator, rows: Tensor) -> Tensor:
    """The rows of all processes, (N, …) => (processes·N, …), with gradients to every process's own: for a loss that is not a mean
    over rows. All processes compute the same loss of them, whose averaged gradients are those of the whole batch."""
    if accelerator.num_processes == 1:
        return rows
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(rows))  # type: ignore[no-untyped-call]


def mean_and_any(accelerator: Accelerator, value: float, *flags: bool) -> tuple[float, list[bool]]:
    """The mean of `value` over the processes; and for each flag, whether any process has it."""
    if accelerator.num_processes == 1:
        return value, list(flags)
    votes = torch.tensor([value, *map(float, flags)], device=accelerator.device)
    mean, *shares = accelerator.reduce(votes, "mean").tolist()
    return mean, [share > 0 for share in shares]


def true_everywhere(accelerator: Accelerator, fine: bool) -> bool:
    """Whether `fine` is True in every process."""
    return not mean_and_any(accelerator, 0.0, not fine)[1][0]


def means(accelerator: Accelerator, values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The mean of each list, over all processes."""
    names = sorted(values)
    own = torch.tensor([sum(values[name]) / len(values[name]) for name in names], device=accelerator.device)
    return dict(zip(names, accelerator.reduce(own, "mean").tolist(), strict=True))
