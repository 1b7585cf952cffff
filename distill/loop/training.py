"""The training loop that every stage shares: updates, averages, checkpoints, logs, previews, a time budget.

A stage hands over its networks and one function that performs an update on a step's random generator; the loop does the
rest under Hugging Face `accelerate`. All randomness of update n comes from a generator keyed by (seed, stage, n), never from
global state, so a resumed run draws what the uninterrupted one would have drawn, and each of several processes takes
its slice of the same global batch. A loss is a mean over rows in which each row's share is its own: then processes and parts of
an update (`accumulate`) only change the order of sums. What compares rows with each other draws them for the whole batch
(`batch_randint`) or gathers them (`gathered`); docs/scaling.md lists what differs in parts.

A checkpoint is written after updates that raised no alarm (`health`), so that there is a good one to go back to; what was
seen and done stands in `STAGE.events.jsonl`. With a budget in minutes the learning rate follows whichever of images and minutes
is further, so a run cut short still ends annealed (such a run is not bit-reproducible; one bounded by images is).

Not here: what a stage computes (autoencoder, text_encoder, teacher, phases), averages and what of a network learns (`averages`),
which rows are alarming (`health`), the files (`checkpoints`), and the machine (`host`).
"""

from __future__ import annotations

import copy
import json
import math
import time
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genin.distill.inputs.update import Update
from genin.distill.loop import sharding
from genin.distill.loop.averages import Average, learnt_state, load_learnt_state, make_optimizer
from genin.distill.loop.checkpoints import (
    check_settings,
    copied,
    forget,
    mismatch_error,
    read_checkpoint,
    read_rows,
    save_average,
    write_checkpoint,
    write_rows,
)
from genin.distill.loop.health import ROLLBACKS, Alarm, Row, not_finite, watch
from genin.distill.loop.host import interruptible, keep_freed_memory
from genin.distill.recipe import Optimisation, Recipe, save_recipe
from genin.processes import broadcast_from_main, is_main_process, main_process_first
from genin.runtimes.errors import GeninError, InputError
from genin.runtimes.progress import progress

Metrics = Mapping[str, Tensor | float]
# A network on held-out data => figures: the lowest `kid` is the best, and within `kid_error` of each other two are as good.
Validate = Callable[[nn.Module], Mapping[str, float]]
WARMUP_SHARE = 0.05
ROW_UPDATES = 50  # that a row of the log is the mean of


class UnhealthyError(Exception):
    """Raised within an update that must not be finished."""

    def __init__(self, alarm: Alarm) -> None:
        super().__init__(alarm.says)
        self.alarm = alarm


def claim_run(
    folder: Path,
    recipe: Recipe,
    begun_with: Mapping[str, str],
    stages: Mapping[str, Optimisation],
    *,
    resume: bool = True,
) -> None:
    """Make `folder` this run's: the recipe beside what the run was begun with (digests of weights and data). Without `resume` an
    earlier run's checkpoints and logs of these stages are removed: a later `resume` must not take them for this run's.

    Errors: InputError if an earlier run there was begun with something else, or one of its `stages` with other settings: its
    checkpoints would not mean the same. Nothing has been written then.
    """
    with main_process_first():
        _claim(folder, recipe, begun_with, stages)
        if not resume and is_main_process():
            for stage in stages:
                forget(folder, stage)


def _claim(folder: Path, recipe: Recipe, begun_with: Mapping[str, str], stages: Mapping[str, Optimisation]) -> None:
    for stage, settings in stages.items():
        if (checkpoint := folder / f"{stage}.checkpoint.pt").is_file():
            check_settings(checkpoint, read_checkpoint(checkpoint), stage, settings)
    path = folder / "run.json"
    if path.is_file():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            found = {}
        known = found if isinstance(found, dict) and found else begun_with  # damaged: what it says has been lost
        if changed := [key for key in {**known, **begun_with} if known.get(key) != begun_with.get(key)]:
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
        # An Accelerator's precision is its whole process's; a stage's is its own (`autocast`).
        self.accelerator = Accelerator(
            mixed_precision="no",
            cpu=not torch.cuda.is_available(),
            step_scheduler_with_optimizer=False,
            fsdp_plugin=sharding.plugin(),
        )
        self.device: torch.device = self.accelerator.device
        processes, parts = self.accelerator.num_processes, settings.accumulate
        if settings.batch_size % (processes * parts):
            among = f"{processes} process{'es' if processes > 1 else ''}{f' in {parts} parts' if parts > 1 else ''}"
            remedy = f"give it a multiple of {processes * parts}"
            raise InputError(f"{stage}.batch_size {settings.batch_size} does not divide among {among}", remedy=remedy)
        if self.device.type == "cpu":
            keep_freed_memory()
        self.modules: dict[str, nn.Module] = {}
        self.optimizers: dict[str, Any] = {}
        self.base_lrs: dict[str, float] = {}
        self.averages: dict[str, Average] = {}
        self.frozen: dict[str, frozenset[str]] = {}  # network => its parameters that do not learn
        self.unsharded: dict[
            str, nn.Module
        ] = {}  # of networks that are shared out: what takes the whole weights in the end
        self.best: dict[str, Any] | None = None  # the one to keep so far: kid, update, average, state; lowest, error
        self.update_index = 0
        self.resumed = self.has_updated = False  # in this run
        self.images_seen = 0
        self.elapsed_s = 0.0
        self.history: list[dict[str, float]] = []
        self.next_preview = settings.preview_images  # in images; due with the first row after that
        self.row: dict[str, list[float]] = {}  # what the next row of the log is the mean of
        self.dials: dict[str, float] = {}
        self.asked: set[str] = set()  # the dials that this stage reads: others are not turned
        self.rollbacks = 0
        self.part = 0  # of an update's parts, that being worked on
        self.watched_from = 0  # rows before this update have been answered
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
        large: bool = False,
        trains: Callable[[str], bool] = lambda _name: True,
    ) -> nn.Module:
        """Register a trained network; returns it prepared by accelerate. Its averages start as copies of it.

        `trains` says by name which of its weights learn; the others stay as they are. Where the recipe compiles, `compiled`
        False leaves this one out: a compiled network has no second derivatives, which R1 takes. A `large` one that learns whole is
        shared out over the processes where the launcher asks for that (`sharding`); what is left at the end is `final_weights` it.
        """
        module = module.to(self.device).train()
        for key, parameter in module.named_parameters():
            parameter.requires_grad_(trains(key))
        lr = self.settings.lr if lr is None else lr
        optimizer = make_optimizer(self.settings, [p for p in module.parameters() if p.requires_grad], lr, betas)
        self.frozen[name] = frozenset(key for key, p in module.named_parameters() if not p.requires_grad)
        for i, decay in enumerate(self.settings.ema_decays if average else ()):
            self.averages[name if i == 0 else f"{name}/{decay}"] = Average(module, decay)
        prepared, optimizer = self._prepared(name, module, optimizer, large and not self.frozen[name])
        self.modules[name], self.optimizers[name], self.base_lrs[name] = prepared, optimizer, lr
        return torch.compile(prepared) if self.settings.compile and compiled else prepared  # type: ignore[return-value]

    def _prepared(self, name: str, module: nn.Module, optimizer: Any, shared_out: bool) -> tuple[nn.Module, Any]:
        if not sharding.asked_for() or self.accelerator.num_processes == 1:
            prepared: tuple[nn.Module, Any] = self.accelerator.prepare(module, optimizer)
            return prepared
        if not shared_out:
            cards = [self.device] if self.device.type == "cuda" else None
            return nn.parallel.DistributedDataParallel(module, device_ids=cards), optimizer
        if self.settings.optimizer != "adamw":
            what = f"{self.settings.optimizer}'s moments cannot be shared out over processes"
            raise InputError(what, remedy="set optimizer to adamw, or launch without FSDP")
        self.unsharded[name] = copy.deepcopy(module.cpu())
        module.to(self.device)
        for key, average in self.averages.items():
            if key.partition("/")[0] == name:
                sharding.share_out(self.accelerator, average.module)
        return sharding.share_out(self.accelerator, module, optimizer)

    def ema_weights(self, name: str) -> nn.Module:
        """The exponential moving average of a registered network (the network itself, averaged, not a wrapper): the first, where
        the recipe keeps several. What does not learn in it is the registered network's own (`Average`)."""
        return self.averages[name].module

    def final_weights(self, name: str) -> nn.Module:
        """The last average that no earlier one was better than on held-out data by more than chance; where none was looked at, the
        first at the end."""
        if self.best is None:
            return self.current_weights(name)
        network = self.unsharded.get(name, self.ema_weights(name))
        load_learnt_state(network, self.best["state"], self.frozen[name])
        return network

    def current_weights(self, name: str) -> nn.Module:
        """The first average as it is now, whole in every process."""
        if name not in self.unsharded:
            return self.ema_weights(name)
        load_learnt_state(self.unsharded[name], self._state_of_average(name), self.frozen[name])
        return self.unsharded[name]

    def release_memory(self) -> None:
        """Of networks, optimisers and averages, when the stage is over: another one needs their memory. What was asked for by
        `final_weights` or `ema_weights` stays with whoever has it."""
        for held in (self.modules, self.optimizers, self.averages, self.unsharded):
            held.clear()
        self.best = None
        self.accelerator.free_memory()

    def optimise(self, name: str, loss: Tensor) -> float:
        """Backward, clip, step; returns the gradient norm. Of an update in parts the last one clips and steps, the others return 0.

        Errors: UnhealthyError for a loss that is not finite.
        """
        if not self._everywhere(bool(torch.isfinite(loss))):
            raise UnhealthyError(not_finite(name, float(loss)))
        optimizer = self.optimizers[name]
        if self.part == 0:
            optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(loss / self.settings.accumulate)
        if self.part + 1 < self.settings.accumulate:
            return 0.0
        norm = sharding.whole(torch.nn.utils.clip_grad_norm_(self.modules[name].parameters(), self.settings.clip_norm))
        for group in optimizer.param_groups:
            group["lr"] = self.base_lrs[name] * self.lr_factor() * self.dial("lr") * self.dial(f"lr/{name}")
        optimizer.step()
        for key, average in self.averages.items():
            if key.partition("/")[0] == name:
                average.update(self.accelerator.unwrap_model(self.modules[name]))
        return float(norm)

    def autocast(self) -> Any:
        """The stage's precision, around every forward pass; what comes out of it is bf16, where the stage is."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.mixed_precision == "bf16")

    def dial(self, name: str) -> float:
        """The factor that alarms so far have put on a setting."""
        self.asked.add(name)
        return self.dials.get(name, 1.0)

    def gathered(self, rows: Tensor) -> Tensor:
        """The rows of all processes, (N, …) => (processes·N, …), with gradients to every process's own: for a loss that is not a
        mean over rows. All processes compute the same loss of them, whose averaged gradients are those of the whole batch."""
        if self.accelerator.num_processes == 1:
            return rows
        from torch.distributed.nn.functional import all_gather

        return torch.cat(all_gather(rows))  # type: ignore[no-untyped-call]

    def _everywhere(self, fine: bool) -> bool:
        """Whether it is so in every process: all must go back, or none."""
        if self.accelerator.num_processes == 1:
            return fine
        wrong = torch.tensor([0.0 if fine else 1.0], device=self.device)
        return float(self.accelerator.reduce(wrong, "sum")) == 0

    # --- the loop --------------------------------------------------------------------------------------------------

    @property
    def progress(self) -> float:
        """Share of the stage that is done, in [0, 1]: by images, or by minutes where those run out sooner."""
        done = self.images_seen / self.settings.images if self.settings.images else 1.0
        if self.minutes is not None:
            done = max(done, self.elapsed_s / max(1e-9, 60 * self.minutes))
        return min(1.0, done)

    def lr_factor(self) -> float:
        # A run of few minutes must not end before it is warm: a twentieth of the run is enough at most.
        warmup = max((self.images_seen + 1) / max(1, self.settings.lr_warmup_images), self.progress / WARMUP_SHARE)
        warmup = min(1.0, warmup)
        floor = self.settings.lr_final_fraction
        return warmup * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * self.progress)))

    def run(
        self,
        step: Callable[[Update], Metrics],
        preview: Callable[[Path], None] | None = None,
        look: Validate | None = None,
        *,
        last: bool = False,
    ) -> None:
        """Update until the images or minutes are spent. Ctrl-C finishes the update, saves, and raises KeyboardInterrupt; not where
        the `last` stage of a run is finished by then.

        A stage that was not resumed begins anew: what an earlier run left of it in the folder is removed.

        `preview` writes a picture of how far it is; `look` judges an average on held-out data. Both come with the first row of the
        log after every `preview_images`, and with the last.
        """
        last_log = last_save = time.perf_counter()
        if not self.resumed:
            self._begin()
        silent, stop = not self.accelerator.is_main_process, False
        with interruptible() as interrupted, progress(self.stage, silent=silent) as shown:
            while self.progress < 1.0 and not stop:
                started, alarm = time.perf_counter(), None
                try:
                    metrics = self._updated(step)
                except UnhealthyError as error:
                    metrics, alarm = {}, error.alarm
                now = time.perf_counter()
                self.update_index += 1
                self.has_updated = True
                self.images_seen += self.settings.batch_size
                save_due = now - last_save > 60 * self.settings.checkpoint_minutes
                seconds, save_due, stop = self._agreed(now - started, save_due, interrupted())
                self.elapsed_s += seconds
                for key, value in metrics.items():
                    self.row.setdefault(key, []).append(float(value))
                if alarm is None and (self.update_index % ROW_UPDATES == 0 or self.progress >= 1.0):
                    due = self.images_seen >= self.next_preview or self.progress >= 1.0
                    self._log(now - last_log, self._look(look) if due else {})
                    if due:
                        self.next_preview += self.settings.preview_images
                        self._preview(preview)
                    last_log = time.perf_counter()
                    alarm = self._watch(self.history)
                if alarm is not None:
                    self._answer(alarm)
                    last_log = time.perf_counter()
                elif save_due and self._healthy():
                    self.save()
                    last_save = time.perf_counter()
                shown.reach(self.progress, self._note())
            if self.has_updated:
                self.save()
            finished = self.progress >= 1.0
            if (stop or interrupted()) and not (finished and last):
                when = f"at the end of stage {self.stage}"
                if not finished:
                    when = f"after {self.images_seen:,} images of stage {self.stage}"
                    self._preview(preview)
                raise KeyboardInterrupt(
                    f"interrupted {when}; all is saved in {self.folder}, the same command with --resume goes on"
                )

    def _begin(self) -> None:
        """Write this run's first checkpoint in place of whatever an earlier one left: an alarm goes back to this."""
        if self.accelerator.is_main_process:
            forget(self.folder, self.stage)
        self.save()
        self.resumed = True

    def _updated(self, step: Callable[[Update], Metrics]) -> Metrics:
        """One update, in the recipe's number of parts: the means of what they report."""
        parts = []
        for part in range(self.settings.accumulate):
            self.part = part
            parts.append(step(self._next_update()))
        if len(parts) == 1:
            return parts[0]
        total = {name: sum(float(part[name]) for part in parts) for name in parts[-1]}
        return {name: value if name == "grad_norm" else value / len(parts) for name, value in total.items()}

    def _agreed(self, seconds: float, save_due: bool, stop: bool) -> tuple[float, bool, bool]:
        """The same answers in every process, whose clocks and signals differ: an update's mean seconds; yes if one says so."""
        if self.accelerator.num_processes == 1:
            return seconds, save_due, stop
        said = torch.tensor([seconds, float(save_due), float(stop)], device=self.device)
        mean = self.accelerator.reduce(said, "mean").tolist()
        return mean[0], mean[1] > 0, mean[2] > 0

    def _watch(self, rows: Sequence[Row]) -> Alarm | None:
        return watch([row for row in rows if row["update"] > self.watched_from])

    def _healthy(self) -> bool:
        """Whether the row in the making would raise no alarm either: a slow run's checkpoints cannot wait for its end."""
        if not self.row:
            return True
        return self._watch([*self.history, {"update": self.update_index, **self._means()}]) is None

    def _means(self) -> dict[str, float]:
        """Of the row so far, over all processes, so that all see the same."""
        names = sorted(self.row)
        means = torch.tensor([sum(self.row[name]) / len(self.row[name]) for name in names], device=self.device)
        return dict(zip(names, self.accelerator.reduce(means, "mean").tolist(), strict=True))

    def _look(self, look: Validate | None) -> Mapping[str, float]:
        """The better average's figures. It is the one to keep, unless an earlier one was better by more than chance: of two that
        cannot be told apart the later has learnt more, at a lower rate."""
        if look is None:
            return {}
        # As the first process sees it: last bits must not lead one process into a collective that another does not enter.
        found = broadcast_from_main({key: dict(look(average.module)) for key, average in self.averages.items()})
        key = min(found, key=lambda key: found[key]["kid"])
        value = found[key]["kid"]
        bar = {"lowest": value, "error": found[key].get("kid_error", 0.0)}
        if self.best is not None and self.best["lowest"] < value:
            bar = {name: self.best[name] for name in bar}
        if value <= bar["lowest"] + bar["error"]:
            state = {name: tensor.clone() for name, tensor in self._state_of_average(key).items()}
            self.best = {"kid": value, "update": self.update_index, "average": key, "state": state, **bar}
        return found[key]

    def _answer(self, alarm: Alarm) -> None:
        """Turn the alarm's dials, go back where it says so, and record it. Errors: GeninError after too many ways back."""
        seen_at, seen_images, elapsed_s = self.update_index, self.images_seen, self.elapsed_s
        turning = {name: factor for name, factor in alarm.dials.items() if name in self.asked}
        dials = {**self.dials, **{name: self.dial(name) * factor for name, factor in turning.items()}}
        rollbacks = self.rollbacks + alarm.rollback
        if rollbacks > ROLLBACKS:
            raise GeninError(
                f"stage '{self.stage}' is unstable: {alarm.says} at update {seen_at}, after going back {ROLLBACKS} times",
                where=self.folder / f"{self.stage}.events.jsonl",
                remedy="lower this stage's lr (or adversarial_weight) in the recipe, and name another --out",
            )
        if alarm.rollback:
            self.resume()
            self.elapsed_s = elapsed_s  # the minutes are spent all the same
        self.dials, self.rollbacks, self.watched_from = dials, rollbacks, self.update_index
        self.save()
        turned = ", ".join(f"{name} × {dials[name]:.3g}" for name in turning) or "nothing to turn"
        did = f"back to update {self.update_index}, {turned}" if alarm.rollback else turned
        warnings.warn(f"{self.stage}, update {seen_at}: {alarm.says}; {did}", stacklevel=1)
        if self.accelerator.is_main_process:
            event = {"update": seen_at, "images_seen": seen_images, "alarm": alarm.name, "says": alarm.says, "did": did}
            with (self.folder / f"{self.stage}.events.jsonl").open("a", encoding="utf-8") as events:
                events.write(json.dumps(event) + "\n")

    def _note(self) -> str:
        row = self.history[-1] if self.history else {}
        return f"loss {row['loss']:.4f} · {row['images_per_s']:.0f} images/s" if "loss" in row else ""

    def _next_update(self) -> Update:
        """The update's part, with this process's share of it; every part draws for the whole batch anew."""
        processes, rank = self.accelerator.num_processes, self.accelerator.process_index
        total, parts = self.settings.batch_size, self.settings.accumulate
        share = total // (processes * parts)
        key = zlib.crc32(self.stage.encode()) ^ (self.settings.seed * 0x9E3779B1 + self.update_index * 0x85EBCA77)
        generator = torch.Generator().manual_seed(key & 0x7FFFFFFFFFFFFFFF)
        offset = share * (rank * parts + self.part)
        return Update(self.update_index, self.images_seen, share, offset, total, generator, self.device)

    # --- what is written -------------------------------------------------------------------------------------------

    @property
    def checkpoint_path(self) -> Path:
        return self.folder / f"{self.stage}.checkpoint.pt"

    @property
    def log_path(self) -> Path:
        return self.folder / f"{self.stage}.log.jsonl"

    def _log(self, seconds: float, figures: Mapping[str, float]) -> None:
        """Close the row: means over its updates, and the look's figures."""
        means, count = self._means(), max(map(len, self.row.values()), default=0)
        self.row = {}
        row = {
            "update": self.update_index,
            "images_seen": self.images_seen,
            "elapsed_s": round(self.elapsed_s, 1),
            "images_per_s": round(count * self.settings.batch_size / max(seconds, 1e-9), 2),
            "lr_factor": round(self.lr_factor(), 5),
            **{name: round(mean, 6) for name, mean in means.items()},
            **{name: round(figure, 6) for name, figure in figures.items()},
        }
        self.history.append(row)
        if self.accelerator.is_main_process:
            with self.log_path.open("a", encoding="utf-8") as rows:
                rows.write(json.dumps(row) + "\n")

    def _preview(self, preview: Callable[[Path], None] | None) -> None:
        main = self.accelerator.is_main_process
        if not main and not self.unsharded:  # a network that is shared out draws with all processes' parts
            return
        from genin.distill.loop.previews import plot_curves

        if main:
            plot_curves(self.history, self.folder / f"{self.stage}.curves.png", title=self.stage)
        if self.settings.keep_averages and self.averages:
            first = self._state_of_average(next(iter(self.averages)))
            if main:
                save_average(self.folder / f"{self.stage}.average-{self.images_seen:08d}.safetensors", first)
        if preview is not None:
            preview(self.folder / f"{self.stage}.samples-{self.images_seen:08d}.png")

    def _state_of_average(self, key: str) -> dict[str, Tensor]:
        return learnt_state(self.averages[key].module, self.frozen[key.partition("/")[0]])

    def _frozen_in_average(self, key: str) -> frozenset[str]:
        return frozenset(f"module.{name}" for name in self.frozen[key.partition("/")[0]])

    def save(self) -> None:
        """Write the whole state to one file, atomically: all but the weights that do not learn, which whoever goes on has."""
        self.accelerator.wait_for_everyone()  # who goes back to the last one has read it
        if not self.accelerator.is_main_process and not self.unsharded:
            return
        state = {
            "stage": self.stage,
            "update_index": self.update_index,
            "images_seen": self.images_seen,
            "elapsed_s": self.elapsed_s,
            "modules": {
                k: learnt_state(self.accelerator.unwrap_model(m), self.frozen[k]) for k, m in self.modules.items()
            },
            "optimizers": {k: sharding.whole(o.state_dict()) for k, o in self.optimizers.items()},
            "averages": {k: learnt_state(a, self._frozen_in_average(k)) for k, a in self.averages.items()},
            "best": self.best,
            "row": self.row,
            "next_preview": self.next_preview,
            "health": {"dials": self.dials, "rollbacks": self.rollbacks, "watched_from": self.watched_from},
        }
        if self.accelerator.is_main_process:
            write_checkpoint(self.checkpoint_path, state, self.settings)

    def resume(self) -> bool:
        """Take up the state of an earlier run in the same folder; False when there is none.

        Errors: InputError for a checkpoint that is damaged, of other networks, or made with another recipe.
        """
        if not self.checkpoint_path.is_file():
            return False
        # Mapped, and read on the CPU: beside the live weights a device need not have room for them a second time.
        state = read_checkpoint(self.checkpoint_path)
        if not state["update_index"] and not self.has_updated:
            return False  # it begins as it had begun, under other settings perhaps
        check_settings(self.checkpoint_path, state, self.stage, self.settings)
        try:
            for name, module in self.modules.items():
                load_learnt_state(self.accelerator.unwrap_model(module), state["modules"][name], self.frozen[name])
                moments = sharding.part_moments(state["optimizers"][name], self.optimizers[name])
                self.optimizers[name].state.clear()  # the present moments go before the earlier ones come
                self.optimizers[name].load_state_dict(copied(moments) if self.device.type == "cpu" else moments)
            for name, average in self.averages.items():
                load_learnt_state(average, state["averages"][name], self._frozen_in_average(name))
        except (KeyError, RuntimeError, ValueError) as error:
            raise mismatch_error(self.checkpoint_path, error) from error
        self.update_index, self.images_seen = int(state["update_index"]), int(state["images_seen"])
        self.elapsed_s = float(state["elapsed_s"])
        self.row, self.best = state.get("row", {}), copied(state.get("best"))
        every = self.settings.preview_images
        as_before = state.get("settings", {}).get("preview_images") == every and "next_preview" in state
        self.next_preview = state["next_preview"] if as_before else (self.images_seen // every + 1) * every
        health = state.get("health", {"dials": {}, "rollbacks": 0, "watched_from": 0})
        self.dials, self.rollbacks, self.watched_from = health["dials"], health["rollbacks"], health["watched_from"]
        if self.log_path.is_file():
            self.history = [row for row in read_rows(self.log_path) if row["images_seen"] <= self.images_seen]
            if self.accelerator.is_main_process:
                write_rows(self.log_path, self.history)
        self.resumed = True
        return True
