"""`python -m genin` with networks shared out on processors: `torchrun --nproc_per_node 2 tests/sharded_on_cpu.py distill …`

accelerate shares out on graphics cards only; everything below that runs on processors just as well, so its state is told here that
it may. Nothing of genin is changed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "ACCELERATE_USE_CPU": "true"}
os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "true"  # as `accelerate launch --use_fsdp` has it

from accelerate import state as accelerate_state
from accelerate.utils import DistributedType

made = accelerate_state.AcceleratorState.__init__


def make(self: Any, *arguments: Any, fsdp_plugin: Any = None, **keywords: Any) -> None:
    made(self, *arguments, fsdp_plugin=fsdp_plugin, **keywords)
    if self.distributed_type == DistributedType.MULTI_CPU and fsdp_plugin is not None:
        self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
        accelerate_state.PartialState._shared_state["distributed_type"] = DistributedType.FSDP


accelerate_state.AcceleratorState.__init__ = make


def count_parts(file: Path) -> None:
    """Note how many of a network's numbers this process keeps once it is shared out."""
    from genin.distill import sharding

    share_out = sharding.share_out

    def counted(accelerator: Any, network: Any, optimizer: Any = None) -> Any:
        before = sum(weight.numel() for weight in network.parameters())
        shared = share_out(accelerator, network, optimizer)
        kept = sum(sharding.local(weight).numel() for weight in shared[0].parameters())
        with file.open("a", encoding="utf-8") as rows:
            rows.write(f"{before} {kept}\n")
        return shared

    sharding.share_out = counted


if __name__ == "__main__":
    from genin.cli import main

    count_parts(Path(os.environ["PARTS"]))
    sys.exit(main())
