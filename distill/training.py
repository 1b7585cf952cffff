"""The training loop that every stage shares: updates, averages, checkpoints, logs, previews, a time budget.

A stage hands over its networks and one function that performs an update on a step's random generator; the loop does the
rest under Hugging Face `accelerate`. All randomness of update n comes from a generator keyed by (seed, stage, n), never from
global state, so a resumed run draws what the uninterrupted one would have drawn, and each of several processes takes
its slice of the same global batch.

A checkpoint is one file, written beside the old one and renamed over it: a crash or a full disk leaves the previous one
whole. With a budget in minutes the learning rate follows whichever of images and minutes is further, so a run cut short
still ends annealed (such a run is not bit-reproducible; one bounded by images is).

Not here: what a stage computes (autoencoder, text_encoder, teacher, phases) and alarms on a run's health.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import signal
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from genin.distill.recipe import Optimisation, Recipe, save_recipe
from genin.runtimes.errors import GeninError, InputError

Metrics = Mapping[str, Tensor | float]
WARMUP_SHARE = 0.05


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

    def randn(self, *shape: int) -> Tensor:
        """This process's rows of a standard normal drawn for the whole global batch: (batch, *shape)."""
        return self._rows(torch.randn(self.total, *shape, generator=self.generator))

    def randint(self, high: int) -> Tensor:
        return self._rows(torch.randint(high, (self.total,), generator=self.generator))

    def rand(self) -> Tensor:
        return self._rows(torch.rand(self.total, generator=self.generator))

    def _rows(self, drawn: Tensor) -> Tensor:
        return drawn[self.offset : self.offset + self.batch].to(self.device)


def claim_run(folder: Path, recipe: Recipe, begun_with: Mapping[str, str]) -> None:
    """Make `folder` this run's: the recipe beside what the run was begun with (digests of weights and data).

    Errors: InputError if an earlier run there was begun with something else: its checkpoints would not mean the same.
    """
    path = folder / "run.json"
    if path.is_file():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            found = {}
        if changed := [key for key in begun_with if not isinstance(found, dict) or found.get(key) != begun_with[key]]:
            what = f"this run was begun with another {' and '.join(changed)}"
            raise InputError(what, where=folder, remedy="give what it was begun with, or name another --out")
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / ".run.json.partial"
    partial.write_text(json.dumps(dict(begun_with), indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
    save_recipe(recipe, folder / "recipe.yaml")


class Training:
    """One stage's run in `folder`: register networks with `add`, then call `run`."""

    def __init__(self, folder: Path, stage: str, settings: Optimisation, *, minutes: float | None = None) -> None:
        from accelerate import Accelerator

        if settings.mixed_precision not in ("no", "bf16"):
            raise InputError(
                f"mixed_precision '{settings.mixed_precision}' is not supported",
                remedy="choose 'no' or 'bf16' (fp16 diverges in adversarial training)",
            )
        self.folder, self.stage, self.settings, self.minutes = folder, stage, settings, minutes
        self.accelerator = Accelerator(
            mixed_precision=settings.mixed_precision,
            cpu=not torch.cuda.is_available(),
            step_scheduler_with_optimizer=False,
        )
        self.device: torch.device = self.accelerator.device
        if self.device.type == "cpu":
            keep_freed_memory()
        self.modules: dict[str, nn.Module] = {}
        self.optimizers: dict[str, Any] = {}
        self.base_lrs: dict[str, float] = {}
        self.averages: dict[str, AveragedModel] = {}
        self.update_index = 0
        self.images_seen = 0
        self.elapsed_s = 0.0
        self.history: list[dict[str, float]] = []
        folder.mkdir(parents=True, exist_ok=True)

    # --- what is trained -------------------------------------------------------------------------------------------

    def add(
        self,
        name: str,
        module: nn.Module,
        *,
        lr: float | None = None,
        betas: tuple[float, float] = (0.9, 0.99),
        average: bool = True,
        compiled: bool = True,
        trains: Callable[[str], bool] = lambda _name: True,
    ) -> nn.Module:
        """Register a trained network; returns it prepared by accelerate. Its average starts as a copy of it.

        `trains` says by name which of its weights learn; the others stay as they are. Where the recipe compiles, `compiled`
        False leaves this one out: a compiled network has no second derivatives, which R1 takes.
        """
        module = module.to(self.device).train()
        for key, parameter in module.named_parameters():
            parameter.requires_grad_(trains(key))
        lr = self.settings.lr if lr is None else lr
        optimizer = torch.optim.AdamW(
            [p for p in module.parameters() if p.requires_grad],
            lr=lr,
            betas=betas,
            weight_decay=self.settings.weight_decay,
            fused=True,
        )
        if average:
            decay = self.settings.ema_decay
            self.averages[name] = AveragedModel(module, multi_avg_fn=_warmed_up_average(decay))
            self.averages[name].requires_grad_(False).eval()
        prepared, optimizer = self.accelerator.prepare(module, optimizer)
        self.modules[name], self.optimizers[name], self.base_lrs[name] = prepared, optimizer, lr
        return torch.compile(prepared) if self.settings.compile and compiled else prepared  # type: ignore[return-value]

    def average_of(self, name: str) -> nn.Module:
        """The exponential moving average of a registered network (the network itself, averaged, not a wrapper)."""
        return self.averages[name].module

    def optimise(self, name: str, loss: Tensor) -> float:
        """Backward, clip, step; returns the gradient norm. A loss that is not finite ends the run with its place."""
        if not torch.isfinite(loss):
            raise GeninError(
                f"the loss of '{name}' became {loss.item()} at update {self.update_index} of stage '{self.stage}'",
                where=self.folder,
                remedy="resume from the last checkpoint with a lower lr",
            )
        optimizer = self.optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(loss)
        norm = self.accelerator.clip_grad_norm_(self.modules[name].parameters(), self.settings.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = self.base_lrs[name] * self.lr_factor()
        optimizer.step()
        if name in self.averages:
            self.averages[name].update_parameters(self.accelerator.unwrap_model(self.modules[name]))
        return float(norm) if norm is not None else 0.0

    def autocast(self) -> Any:
        return self.accelerator.autocast()

    # --- the loop --------------------------------------------------------------------------------------------------

    @property
    def progress(self) -> float:
        """Share of the stage that is done, in [0, 1]: by images, or by minutes where those run out sooner."""
        done = self.images_seen / max(1, self.settings.images)
        if self.minutes is not None:
            done = max(done, self.elapsed_s / max(1e-9, 60 * self.minutes))
        return min(1.0, done)

    def lr_factor(self) -> float:
        # A run of few minutes must not end before it is warm: a twentieth of the run is enough at most.
        warmup = max((self.images_seen + 1) / max(1, self.settings.lr_warmup_images), self.progress / WARMUP_SHARE)
        warmup = min(1.0, warmup)
        floor = self.settings.lr_final_fraction
        return warmup * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * self.progress)))

    def run(self, step: Callable[[Update], Metrics], preview: Callable[[Path], None] | None = None) -> None:
        """Update until the images or minutes are spent. Ctrl-C finishes the update, saves, and raises KeyboardInterrupt."""
        sums: dict[str, list[float]] = {}
        count, last_log, last_save = 0, time.perf_counter(), time.perf_counter()
        next_preview = (self.images_seen // self.settings.preview_images + 1) * self.settings.preview_images
        with _interruptible() as interrupted, progress_bar(self.stage, self.accelerator.is_main_process) as report:
            while self.progress < 1.0 and not interrupted():
                started = time.perf_counter()
                metrics = step(self._next_update())
                self.update_index += 1
                self.images_seen += self.settings.batch_size
                now = time.perf_counter()
                self.elapsed_s += now - started
                count += 1
                for key, value in metrics.items():
                    sums.setdefault(key, []).append(float(value))
                if count == 50 or self.progress >= 1.0:
                    rate = count * self.settings.batch_size / (now - last_log)
                    self._log({key: sum(values) / len(values) for key, values in sums.items()}, rate)
                    sums, count, last_log = {}, 0, now
                report(self.progress, self._note())
                if now - last_save > 60 * self.settings.checkpoint_minutes:
                    self.save()
                    last_save = time.perf_counter()
                if self.images_seen >= next_preview:
                    next_preview += self.settings.preview_images
                    self._preview(preview)
            self.save()
            self._preview(preview)
            if interrupted():
                raise KeyboardInterrupt(
                    f"interrupted after {self.images_seen:,} images of stage {self.stage}; all is saved in {self.folder}, "
                    "the same command with --resume goes on"
                )

    def _note(self) -> str:
        row = self.history[-1] if self.history else {}
        return f"loss {row['loss']:.4f} · {row['images_per_s']:.0f} images/s" if "loss" in row else ""

    def _next_update(self) -> Update:
        processes, rank = self.accelerator.num_processes, self.accelerator.process_index
        total = self.settings.batch_size
        if total % processes:
            raise InputError(f"batch_size {total} does not divide among {processes} processes")
        share = total // processes
        key = zlib.crc32(self.stage.encode()) ^ (self.settings.seed * 0x9E3779B1 + self.update_index * 0x85EBCA77)
        generator = torch.Generator().manual_seed(key & 0x7FFFFFFFFFFFFFFF)
        return Update(self.update_index, self.images_seen, share, share * rank, total, generator, self.device)

    # --- what is written -------------------------------------------------------------------------------------------

    @property
    def checkpoint_path(self) -> Path:
        return self.folder / f"{self.stage}.checkpoint.pt"

    @property
    def log_path(self) -> Path:
        return self.folder / f"{self.stage}.log.jsonl"

    def _log(self, metrics: dict[str, float], images_per_s: float) -> None:
        row = {
            "update": self.update_index,
            "images_seen": self.images_seen,
            "elapsed_s": round(self.elapsed_s, 1),
            "images_per_s": round(images_per_s, 2),
            "lr_factor": round(self.lr_factor(), 5),
            **{key: round(value, 6) for key, value in metrics.items()},
        }
        self.history.append(row)
        if self.accelerator.is_main_process:
            with self.log_path.open("a", encoding="utf-8") as log:
                log.write(json.dumps(row) + "\n")

    def _preview(self, preview: Callable[[Path], None] | None) -> None:
        if not self.accelerator.is_main_process:
            return
        from genin.distill.previews import plot_curves

        plot_curves(self.history, self.folder / f"{self.stage}.curves.png", title=self.stage)
        if preview is not None:
            preview(self.folder / f"{self.stage}.samples-{self.images_seen:08d}.png")

    def save(self) -> None:
        """Write the whole state to one file, atomically."""
        if not self.accelerator.is_main_process:
            return
        state = {
            "stage": self.stage,
            "update_index": self.update_index,
            "images_seen": self.images_seen,
            "elapsed_s": self.elapsed_s,
            "modules": {k: self.accelerator.unwrap_model(m).state_dict() for k, m in self.modules.items()},
            "optimizers": {k: o.state_dict() for k, o in self.optimizers.items()},
            "averages": {k: a.state_dict() for k, a in self.averages.items()},
        }
        partial = self.checkpoint_path.with_suffix(".partial")
        try:
            torch.save(state, partial)
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            partial.replace(self.checkpoint_path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise GeninError(
                f"could not save the checkpoint: {error.strerror}",
                where=self.checkpoint_path,
                remedy="free some space and run again with --resume; the previous checkpoint is whole",
            ) from error

    def resume(self) -> bool:
        """Take up the state of an earlier run in the same folder; False when there is none."""
        if not self.checkpoint_path.is_file():
            return False
        try:
            state = torch.load(self.checkpoint_path, map_location=self.device, weights_only=True)
            for name, module in self.modules.items():
                self.accelerator.unwrap_model(module).load_state_dict(state["modules"][name])
                self.optimizers[name].load_state_dict(state["optimizers"][name])
            for name, average in self.averages.items():
                average.load_state_dict(state["averages"][name])
        except (KeyError, RuntimeError, ValueError, EOFError, OSError) as error:
            reason = " ".join(str(error).split())[:160]
            raise InputError(
                f"this checkpoint does not fit the recipe ({reason})",
                where=self.checkpoint_path,
                remedy="use the recipe it was made with, or another --out",
            ) from error
        self.update_index, self.images_seen = int(state["update_index"]), int(state["images_seen"])
        self.elapsed_s = float(state["elapsed_s"])
        if self.log_path.is_file():
            rows = [json.loads(line) for line in self.log_path.read_text(encoding="utf-8").splitlines()]
            self.history = [row for row in rows if row["images_seen"] <= self.images_seen]
            if self.accelerator.is_main_process:
                self.log_path.write_text("".join(json.dumps(row) + "\n" for row in self.history), encoding="utf-8")
        return True


@contextmanager
def progress_bar(title: str, main_process: bool) -> Iterator[Callable[[float, str], None]]:
    """A bar on stderr with elapsed and remaining time, silent when that is not a terminal: call with (share, note)."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"),
        TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    with Progress(*columns, console=console, disable=not (console.is_terminal and main_process)) as bar:
        task = bar.add_task(title, total=1.0, note="")
        yield lambda share, note: bar.update(task, completed=min(1.0, share), note=note)


def keep_freed_memory() -> None:
    """Tell glibc to keep freed blocks: by default every large tensor is mapped and unmapped anew, and on a CPU the kernel's
    zeroing of those pages can take half of an update (docs/log.md). No effect elsewhere than on Linux with glibc."""
    if not sys.platform.startswith("linux"):
        return
    mmap_max, trim_threshold = -4, -1  # M_MMAP_MAX, M_TRIM_THRESHOLD of malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)


def _warmed_up_average(decay: float) -> Callable[..., None]:
    """EMA whose decay grows as (1 + n)/(10 + n), so that early averages do not hold on to the initial weights."""

    @torch.no_grad()
    def update(averages: list[Tensor], current: list[Tensor], n_averaged: Tensor | int) -> None:
        n = int(n_averaged)
        rate = 1.0 - min(decay, (1 + n) / (10 + n))
        torch._foreach_lerp_(averages, current, rate)

    return update


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a request to stop after the current update; a second one interrupts at once."""
    seen = False

    def handle(_signal: int, _frame: FrameType | None) -> None:
        nonlocal seen
        if seen:
            raise KeyboardInterrupt
        seen = True

    try:
        previous = signal.signal(signal.SIGINT, handle)
    except ValueError:  # not in the main thread: leave signals alone
        yield lambda: False
        return
    try:
        yield lambda: seen
    finally:
        signal.signal(signal.SIGINT, previous)
