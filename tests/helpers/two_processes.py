"""All that two processes are tried at, in one launch: `python tests/helpers/two_processes.py CASES RESULTS` becomes two.

CASES is a JSON list of `{name, arguments, sharded}`, each a genin command; process N writes RESULTS.N.json: of each
command the exit code, what was printed, and where networks are sharded how many of a network's numbers it kept.

accelerate shares networks out on graphics cards only; everything below that runs on processors just as well, so its state is
told here that it may. Nothing of genin is changed, but that it draws no curves, which takes longer than these trainings.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

from genin.cli import run
from genin.distill.loop import previews, sharding
from genin.distill.student import distillation  # noqa: F401  imported before there are two
from genin.distill.teacher import finetune  # noqa: F401
from tunable import become_two

# As `accelerate launch --use_fsdp` has them, which would let all processes but the first load no text encoder.
LAUNCHER = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}
initialise, shard = AcceleratorState.__init__, sharding.shard
kept: list[tuple[int, int]] = []


def sharded_on_cpu(self: Any, *arguments: Any, fsdp_plugin: Any = None, **keywords: Any) -> None:
    initialise(self, *arguments, fsdp_plugin=fsdp_plugin, **keywords)
    if self.distributed_type == DistributedType.MULTI_CPU and fsdp_plugin is not None:
        self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP


def counted(accelerator: Any, network: Any, optimizer: Any = None) -> Any:
    """`shard`, which notes a network's numbers and how many of them this process keeps."""
    whole = sum(weight.numel() for weight in network.parameters())
    shared = shard(accelerator, network, optimizer)
    kept.append((whole, sum(sharding.local(weight).numel() for weight in shared[0].parameters())))
    return shared


def result_of(arguments: list[str], sharded: bool) -> dict[str, Any]:
    for name, value in LAUNCHER.items():
        os.environ.pop(name, None)
        if sharded:
            os.environ[name] = value
    AcceleratorState._reset_state(reset_partial_state=True)
    kept.clear()
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(arguments)
    return {"code": code, "out": out.getvalue(), "err": err.getvalue()[-8000:], "kept": list(kept)}


def main(cases: Path, results: Path) -> None:
    AcceleratorState.__init__ = sharded_on_cpu  # type: ignore[method-assign]
    sharding.shard = counted
    previews.plot_curves = lambda *_, **__: None
    os.environ["ACCELERATE_USE_CPU"] = "true"
    every = {
        case["name"]: result_of(case["arguments"], case["sharded"])
        for case in json.loads(cases.read_text(encoding="utf-8"))
    }
    Path(f"{results}.{os.environ['RANK']}.json").write_text(json.dumps(every), encoding="utf-8")


if __name__ == "__main__":
    become_two()
    main(Path(sys.argv[1]), Path(sys.argv[2]))
