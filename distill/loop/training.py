"""The training loop that every stage shares: updates, averages, checkpoints, logs, previews, a time budget.

A stage registers its networks and hands over one function that performs an update; the loop does the rest under Hugging Face
`accelerate`. All randomness of update n comes from a generator keyed by (seed, stage, n), never from global state, so a resumed
run draws the same numbers as an uninterrupted one, and each of several processes takes its slice of the same global batch. A
loss is a mean over rows in which each row's share is its own: then processes and parts of an update (`accumulate`) only change
the order of sums. Losses that compare rows with each other draw them for the whole batch (`batch_randint`) or gathers them
(`agreement.gathered`); docs/scaling.md lists what differs in parts.

A checkpoint is written after updates that raised no alarm (`health`), so that there is a good one to go back to; alarms and answers
are recorded in `STAGE.events.jsonl`. With a budget in minutes the learning rate follows whichever of images and minutes is further,
so a run cut short still ends annealed (such a run is not bit-reproducible; one bounded by images is).

Not here: what a stage computes (`teacher`, `student`), its networks (`networks`), the checkpoint (`checkpoint_keeper`), the files
of the log (`logbook`), which rows raise an alarm (`health`), whose folder it is (`run_folder`), and the machine (`host`).
"""

from __future__ import annotations

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
from genin.distill.loop.agreement import mean_and_any, means, true_everywhere
from genin.distill.loop.averages import Average, bar_to_keep, better_average
from genin.distill.loop.checkpoint_keeper import CheckpointKeeper, StageState
from genin.distill.loop.checkpoints import remove_stage
from genin.distill.loop.health import ROLLBACKS, Alarm, LogRow, not_finite, watch
from genin.distill.loop.host import interruptible, keep_freed_memory, warn_of_slow_bf16
from genin.distill.loop.logbook import Logbook
from genin.distill.loop.networks import NetworkOptions, Networks
from genin.distill.recipe import Optimisation
from genin.processes import broadcast_from_main
from genin.runtimes.errors import GeninError, InputError
from genin.runtimes.progress import progress

Metrics = Mapping[str, Tensor | float]
Step = Callable[[Update], Metrics]  # performs an update, and returns what is logged
Preview = Callable[[Path], None]  # writes a grid of samples to a file
# A network on held-out data => figures: the lowest `kid` is the best, and within `kid_error` of each other two are as good. Figures
# without it choose no average.
Validate = Callable[[nn.Module], Mapping[str, float]]
GRAD_NORM = "grad_norm"  # the key of a step's metrics that holds what `optimise` returned
WARMUP_SHARE = 0.05
ROW_UPDATES = 50  # averaged in one row of the log, but for the first ones (`is_early`)
PAGE_SECONDS = 20


class UnhealthyError(Exception):
    """Raised in an update that must not be completed."""

    def __init__(self, alarm: Alarm) -> None:
        super().__init__(alarm.message)
        self.alarm = alarm


class Training:
    """One stage's run in `folder`: register networks with `add`, `resume` where that is wanted, then `run`."""

    def __init__(self, folder: Path, stage: str, settings: Optimisation, *, minutes: float | None = None) -> None:
        from accelerate import Accelerator

        if settings.mixed_precision not in ("no", "bf16"):
            raise InputError(
                f"mixed_precision '{settings.mixed_precision}' is not supported",
                remedy="choose 'no' or 'bf16' (fp16 diverges in adversarial training)",
            )
        self.folder, self.stage, self.settings, self.minutes = folder, stage, settings, minutes
        # An Accelerator's precision applies to its whole process; each stage has its own (`autocast`).
        self.accelerator = Accelerator(
            mixed_precision="no",
            cpu=not torch.cuda.is_available(),
            step_scheduler_with_optimizer=False,
            fsdp_plugin=sharding.plugin(),
        )
        self.device: torch.device = self.accelerator.device
        _check_batch(stage, settings, self.accelerator.num_processes)
        if self.device.type == "cpu":
            keep_freed_memory()
            if settings.mixed_precision == "bf16" and self.accelerator.is_main_process:
                warn_of_slow_bf16()
        folder.mkdir(parents=True, exist_ok=True)
        self.networks = Networks(self.accelerator, settings)
        self.checkpoints = CheckpointKeeper(folder, stage, settings)
        self.logbook = Logbook(folder, stage, is_main=self.accelerator.is_main_process)
        self.state = StageState(next_preview=settings.preview_images)
        self.resumed = self.has_updated = False  # in this run
        self.adjustable = {"lr"}  # settings that this stage reads by `adjustment`; alarms leave others alone
        self.part = 0  # the part of the update in progress
        self.timed_from = (0.0, 0)  # clock and images seen where measuring their rate began

    # --- the networks ----------------------------------------------------------------------------------------------

    def add(self, name: str, module: nn.Module, options: NetworkOptions | None = None) -> nn.Module:
        """Register a network that is trained; returns it prepared by accelerate. Its averages start as copies of it."""
        self.allow_adjustment(f"lr/{name}")
        return self.networks.add(name, module, options or NetworkOptions())

    @property
    def averages(self) -> dict[str, Average]:
        return self.networks.averages

    def ema_weights(self, name: str) -> nn.Module:
        """The exponential moving average of a registered network (the network itself, averaged, not a wrapper): the first, where
        the recipe keeps several. Its frozen weights are the registered network's own (`Average`)."""
        return self.averages[name].module

    def final_weights(self, name: str) -> nn.Module:
        """The last average that no earlier one surpassed on held-out data by more than chance; without held-out data, the first
        average at the end."""
        if self.state.best is None:
            return self.current_weights(name)
        return self.networks.with_average_state(name, self.state.best["state"])

    def current_weights(self, name: str) -> nn.Module:
        """The first average as it is now, whole in every process."""
        if name not in self.networks.unsharded:
            return self.ema_weights(name)
        return self.networks.with_average_state(name, self.networks.average_state(name))

    def release_memory(self) -> None:
        """Free networks, optimisers and averages when the stage is over: the next one needs their memory. What `final_weights` or
        `ema_weights` has returned remains valid."""
        self.state.best = None
        self.networks.release()

    def optimise(self, name: str, loss: Tensor) -> float:
        """Backward, clip, step; returns the gradient norm. Of an update in parts, only the last one clips and steps; the others
        return 0.

        Errors: UnhealthyError for a loss or a gradient that is not finite.
        """
        # All must go back, or none.
        if not true_everywhere(self.accelerator, bool(torch.isfinite(loss))):
            raise UnhealthyError(not_finite(name, float(loss)))
        optimizer = self.networks.optimizers[name]
        if self.part == 0:
            optimizer.zero_grad(set_to_none=True)
        self.accelerator.backward(loss / self.settings.accumulate)
        if self.part + 1 < self.settings.accumulate:
            return 0.0
        weights = self.networks.modules[name].parameters()
        norm = float(sharding.whole(torch.nn.utils.clip_grad_norm_(weights, self.settings.clip_norm)))
        if not math.isfinite(norm):  # the same in every process
            raise UnhealthyError(not_finite(name, norm, "gradient"))
        base_lr = self.networks.base_lrs[name]
        for group in optimizer.param_groups:
            group["lr"] = base_lr * self.lr_factor() * self.adjustment("lr") * self.adjustment(f"lr/{name}")
        optimizer.step()
        for average in self.networks.averages_of(name):
            average.update(self.networks.unwrapped(name))
        return norm

    # --- what steps use --------------------------------------------------------------------------------------------

    def autocast(self) -> Any:
        """The stage's precision, for every forward pass; outputs are bf16 where the stage is."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.mixed_precision == "bf16")

    def allow_adjustment(self, name: str) -> None:
        """Let alarms adjust a setting; required before reading it by `adjustment`."""
        self.adjustable.add(name)

    def adjustment(self, name: str) -> float:
        """The factor on a setting, 1 until an alarm changes it."""
        assert name in self.adjustable, f"call allow_adjustment('{name}') first"
        return self.state.adjustments.get(name, 1.0)

    @property
    def images_seen(self) -> int:
        return self.state.images_seen

    @property
    def progress(self) -> float:
        """Share of the stage that is done, in [0, 1]: by images, or by minutes where those run out sooner. One that has ended for
        good is done, whatever the minutes of a resumed run, unless the recipe asks for more images now."""
        if self.state.finished_of is not None and self.settings.images <= self.state.finished_of:
            return 1.0
        done = self.state.images_seen / self.settings.images if self.settings.images else 1.0
        if self.minutes is not None:
            done = max(done, self.state.elapsed_s / max(1e-9, 60 * self.minutes))
        return min(1.0, done)

    def lr_factor(self) -> float:
        """Linear warm-up, then a cosine from 1 to the recipe's final fraction."""
        # A short run must not end before it is warm: warm-up is at most a twentieth of the run.
        by_images = (self.state.images_seen + 1) / max(1, self.settings.lr_warmup_images)
        warmup = min(1.0, max(by_images, self.progress / WARMUP_SHARE))
        floor = self.settings.lr_final_fraction
        return warmup * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * self.progress)))

    # --- the loop --------------------------------------------------------------------------------------------------

    def run(
        self,
        step: Step,
        preview: Preview | None = None,
        validate: Validate | None = None,
        *,
        last: bool = False,
        once: bool = False,
    ) -> None:
        """Update until the images or minutes are spent. Ctrl-C finishes the update, saves, and raises KeyboardInterrupt; not where
        the `last` stage of a run is finished by then. A stage that runs `once` has ended for good then: later ones build on it, and
        a resumed run has other minutes.

        A stage that was not resumed starts over: what an earlier run left of it in the folder is removed.

        `preview` writes a grid of samples; `validate` judges an average on held-out data. Both come with the first row of the log
        after every `preview_images`, and with the last.
        """
        last_save = before = page_written = time.perf_counter()
        if not self.resumed:
            self._begin()
        if self.progress < 1.0:
            self.logbook.write_page(self.progress)
        silent, stop = not self.accelerator.is_main_process, False
        self._start_clock()
        with interruptible() as interrupted, progress(self.stage, silent=silent) as shown:
            while self.progress < 1.0 and not stop:
                # Update.
                alarm = self._update(step)
                now = time.perf_counter()
                save_due = now - last_save > 60 * self.settings.checkpoint_minutes
                # Clocks and signals differ between processes.
                seconds, (save_due, stop) = mean_and_any(self.accelerator, now - before, save_due, interrupted())
                before = now  # grids, validations and checkpoints count, too
                self.state.elapsed_s += seconds

                # Log a row; from time to time validate the averages and draw samples.
                ended = self.state.update_index % ROW_UPDATES == 0 or self.progress >= 1.0
                if alarm is None and (ended or is_early(self.state.update_index)):
                    due = ended and (self.state.images_seen >= self.state.next_preview or self.progress >= 1.0)
                    self._log(now, self._validate(validate) if due else {})
                    if due:
                        self.state.next_preview += self.settings.preview_images
                        self._draw(preview)
                    self._start_clock()
                    alarm = self._watch(self.logbook.rows) if ended else None

                # Answer an alarm, or save a checkpoint.
                if alarm is not None:
                    self._answer(alarm)
                    self._start_clock()
                elif save_due and self._is_healthy():
                    self.save()
                    last_save = time.perf_counter()
                shown.reach(self.progress, self.logbook.note())
                if now - page_written > PAGE_SECONDS:
                    page_written = now
                    self.logbook.write_page(self.progress)
            if once and self.progress >= 1.0 and (self.state.finished_of or -1) < self.settings.images:
                self.state.finished_of, self.has_updated = self.settings.images, True
            if self.has_updated:
                self.save()
            if (stop or interrupted()) and not (self.progress >= 1.0 and last):
                self._interrupt()

    def _begin(self) -> None:
        """Write this run's first checkpoint in place of whatever an earlier one left: an alarm goes back to this."""
        if self.accelerator.is_main_process:
            remove_stage(self.folder, self.stage)
        self.save()
        self.resumed = True

    def _update(self, step: Step) -> Alarm | None:
        """Perform one update, and add its metrics to the row; returns the alarm that stopped it, if any."""
        metrics: Metrics = {}
        alarm = None
        try:
            metrics = self.perform_update(step)
        except UnhealthyError as error:
            alarm = error.alarm
        self.state.update_index += 1
        self.state.images_seen += self.settings.batch_size
        self.has_updated = True
        for name, value in metrics.items():
            self.state.row.setdefault(name, []).append(float(value))
        return alarm

    def perform_update(self, step: Step) -> Metrics:
        """Run `step` in the recipe's number of parts; returns the means of their metrics."""
        parts = []
        for part in range(self.settings.accumulate):
            self.part = part
            with self.networks.gradients_kept(part + 1 < self.settings.accumulate):
                parts.append(step(self._next_update()))
        if len(parts) == 1:
            return parts[0]
        total = {name: sum(float(part[name]) for part in parts) for name in parts[-1]}
        return {name: value if name == GRAD_NORM else value / len(parts) for name, value in total.items()}

    def _next_update(self) -> Update:
        """The update's part, with this process's share of it; every part draws for the whole batch anew."""
        processes, rank = self.accelerator.num_processes, self.accelerator.process_index
        total, parts = self.settings.batch_size, self.settings.accumulate
        index, share = self.state.update_index, total // (processes * parts)
        key = zlib.crc32(self.stage.encode()) ^ (self.settings.seed * 0x9E3779B1 + index * 0x85EBCA77)
        generator = torch.Generator().manual_seed(key & 0x7FFFFFFFFFFFFFFF)
        offset = share * (rank * parts + self.part)
        return Update(index, self.state.images_seen, share, offset, total, generator, self.device)

    def _start_clock(self) -> None:
        """Begin to measure images per second: not from the row's first update, which may have been in an earlier run."""
        self.timed_from = (time.perf_counter(), self.state.images_seen)

    def _log(self, now: float, figures: Mapping[str, float]) -> None:
        """Close the row: means over its updates, and the held-out figures."""
        row_means, (since, seen) = means(self.accelerator, self.state.row), self.timed_from
        self.state.row = {}
        row = {
            "update": self.state.update_index,
            "images_seen": self.state.images_seen,
            "elapsed_s": round(self.state.elapsed_s, 1),
            "images_per_s": round((self.state.images_seen - seen) / max(now - since, 1e-9), 2),
            "lr_factor": round(self.lr_factor(), 5),
            **{name: round(mean, 6) for name, mean in row_means.items()},
            **{name: round(figure, 6) for name, figure in figures.items()},
        }
        self.logbook.add_row(row)

    def _validate(self, validate: Validate | None) -> Mapping[str, float]:
        """The better average's figures. It is kept where `bar_to_keep` says so."""
        if validate is None:
            return {}
        # The first process's figures, in all: a difference in the last bits must not lead one process into a collective that
        # another does not enter.
        figures = broadcast_from_main({key: dict(validate(one.module)) for key, one in self.averages.items()})
        better = better_average(figures)
        if better is None:
            return next(iter(figures.values()))
        key, criterion = better
        figure = figures[key][criterion]
        bar = bar_to_keep(figure, figures[key].get(f"{criterion}_error", 0.0), self.state.best)
        if bar is not None:
            weights = {name: tensor.clone() for name, tensor in self.networks.average_state(key).items()}
            which = {criterion: figure, "update": self.state.update_index, "average": key}
            self.state.best = {**which, "state": weights, **bar}
        return figures[key]

    def _draw(self, preview: Preview | None) -> None:
        """Curves and samples; and the average's weights, where the recipe keeps them."""
        # A sharded network needs all processes to draw.
        if not self.accelerator.is_main_process and not self.networks.unsharded:
            return
        self.logbook.draw_curves()
        if self.settings.keep_averages and self.averages:
            weights = self.networks.average_state(next(iter(self.averages)))
            self.logbook.keep_average(self.state.images_seen, weights)
        if preview is not None:
            self.logbook.draw_samples(self.state.images_seen, preview)
        self.logbook.write_page(self.progress)

    def _watch(self, rows: Sequence[LogRow]) -> Alarm | None:
        """Alarms are about rows of equally many updates: early ones are left out, and what they began is short."""
        past = [row for row in rows if row["update"] > self.state.watched_from]
        return watch([row for row in past if row is past[-1] or not is_early(int(row["update"]))])

    def _is_healthy(self) -> bool:
        """Whether the unfinished row raises no alarm either: a slow run's checkpoints cannot wait for its end."""
        if not self.state.row:
            return True
        row_so_far = {"update": self.state.update_index, **means(self.accelerator, self.state.row)}
        return self._watch([*self.logbook.rows, row_so_far]) is None

    def _answer(self, alarm: Alarm) -> None:
        """Make the alarm's adjustments, go back if it says so, and record it. Errors: GeninError after too many rollbacks."""
        seen_at, images_seen, elapsed_s = self.state.update_index, self.state.images_seen, self.state.elapsed_s
        adjusted = {name: self.adjustment(name) * f for name, f in alarm.adjustments.items() if name in self.adjustable}
        # To go back with nothing to adjust would be to do the same again.
        goes_back = alarm.rollback and bool(adjusted)
        adjustments, rollbacks = {**self.state.adjustments, **adjusted}, self.state.rollbacks + goes_back
        if rollbacks > ROLLBACKS:
            raise GeninError(
                f"stage '{self.stage}' is unstable: {alarm.message} at update {seen_at}, after going back {ROLLBACKS} times",
                where=self.logbook.events_path,
                remedy="lower this stage's lr (or adversarial_weight) in the recipe, and name another output folder",
            )
        if goes_back:
            self.resume()
            self.state.elapsed_s = elapsed_s  # the minutes are spent nonetheless
        self.state.adjustments, self.state.rollbacks = adjustments, rollbacks
        self.state.watched_from = self.state.update_index
        self.save()
        action = ", ".join(f"{name} × {factor:.3g}" for name, factor in adjusted.items()) or "nothing to adjust"
        if goes_back:
            action = f"back to update {self.state.update_index}, {action}"
        warnings.warn(f"{self.stage}, update {seen_at}: {alarm.message}; {action}", stacklevel=1)
        event = {"update": seen_at, "images_seen": images_seen, "alarm": alarm.name}
        self.logbook.add_event({**event, "says": alarm.message, "did": action})

    def _interrupt(self) -> None:
        """Errors: KeyboardInterrupt, which says where the run stopped."""
        when = f"at the end of stage {self.stage}"
        if self.progress < 1.0:
            when = f"after {self.state.images_seen:,} images of stage {self.stage}"
            self._draw(None)  # samples take long, and somebody waits
        raise KeyboardInterrupt(
            f"interrupted {when}; all is saved in {self.folder}; the same again with resume continues"
        )

    # --- checkpoints -----------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write a checkpoint (`CheckpointKeeper.save`)."""
        self.checkpoints.save(self.state, self.networks)

    def resume(self) -> bool:
        """Go on from the checkpoint in the folder; False where there is none. Errors: as `CheckpointKeeper.load`."""
        state = self.checkpoints.load(self.networks, has_updated=self.has_updated)
        if state is None:
            return False
        self.state = state
        self.logbook.go_back_to(state.images_seen)
        self.resumed = True
        return True


def is_early(update: int) -> bool:
    """Whether a row ends after 1, 2, 4, … updates: so a short run has curves, too, and a long one a beginning."""
    return update < ROW_UPDATES and update.bit_count() == 1


def _check_batch(stage: str, settings: Optimisation, processes: int) -> None:
    """Errors: InputError for a batch that does not divide evenly among processes and parts."""
    parts = settings.accumulate
    if settings.batch_size % (processes * parts):
        among = f"{processes} process{'es' if processes > 1 else ''}{f' in {parts} parts' if parts > 1 else ''}"
        remedy = f"give it a multiple of {processes * parts}"
        raise InputError(f"{stage}.batch_size {settings.batch_size} does not divide among {among}", remedy=remedy)
