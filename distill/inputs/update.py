"""One update's rows of the global batch and its randomness, the same whatever the number of processes."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Update:
    """One update's place in the run, and its own randomness."""

    index: int
    images_seen: int
    batch: int  # this process's share of the global batch
    offset: int  # where that share begins in the global batch
    total: int  # the global batch
    generator: torch.Generator
    device: torch.device

    def own_generator(self, name: str) -> torch.Generator:
        """One of its own for this update of this stage: what draws from it changes nothing else that the update draws."""
        key = zlib.crc32(name.encode()) ^ self.generator.initial_seed()
        return torch.Generator().manual_seed(key & 0x7FFFFFFFFFFFFFFF)

    def randn(self, *shape: int) -> Tensor:
        """This process's rows of a standard normal drawn for the whole global batch: (batch, *shape)."""
        return self._rows(torch.randn(self.total, *shape, generator=self.generator))

    def randint(self, high: int) -> Tensor:
        return self._rows(self.batch_randint(high))

    def batch_randint(self, high: int) -> Tensor:
        """The numbers of the whole global batch, (total,), on the CPU; this process's are those from `offset`."""
        return torch.randint(high, (self.total,), generator=self.generator)

    def rand(self) -> Tensor:
        return self._rows(torch.rand(self.total, generator=self.generator))

    def shared_randint(self, high: int) -> int:
        """One number below `high` for the whole global batch."""
        return int(torch.randint(high, (1,), generator=self.generator))

    def rows_every(self, period: int) -> tuple[Tensor, float]:
        """This process's rows at multiples of `period` in the global batch (perhaps none), and the factor on a mean over them
        with which the mean over all shares is the mean over all such rows."""
        places = torch.arange(self.offset, self.offset + self.batch, device=self.device)
        rows = torch.nonzero(places % period == 0).flatten()
        shares, count = self.total / self.batch, -(-self.total // period)
        return rows, len(rows) * shares / count

    def _rows(self, drawn: Tensor) -> Tensor:
        return drawn[self.offset : self.offset + self.batch].to(self.device)
