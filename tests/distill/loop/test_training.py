"""The training loop in trouble: every alarm is provoked, and what the run does about it is looked at."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from conftest import press_ctrl_c  # noqa: E402
from genin.distill.inputs.update import Update  # noqa: E402
from genin.distill.loop import health, host, previews, training  # noqa: E402
from genin.distill.loop.health import Alarm, watch  # noqa: E402
from genin.distill.loop.networks import NetworkOptions  # noqa: E402
from genin.distill.loop.run_folder import claim_run  # noqa: E402
from genin.distill.loop.training import Training, UnhealthyError  # noqa: E402
from genin.distill.recipe import Optimisation, Recipe  # noqa: E402
from genin.runtimes.errors import GeninError, InputError  # noqa: E402

ROW = 2  # updates
UPDATES = 40


@pytest.fixture(autouse=True)
def short_rows_without_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "ROW_UPDATES", ROW)
    monkeypatch.setattr(training, "is_early", lambda _: False)
    monkeypatch.setattr(previews, "plot_curves", lambda *_, **__: None)  # matplotlib takes longer than these trainings


def begin(folder: Path, **settings: Any) -> tuple[Training, nn.Module]:
    chosen = {
        "batch_size": 4,
        "images": 4 * UPDATES,
        "mixed_precision": "no",
        "checkpoint_minutes": 0.0,
        "lr": 0.1,
        "lr_warmup_images": 1,
    }
    run = Training(folder, "stage", Optimisation(**{**chosen, **settings}))
    torch.manual_seed(0)
    return run, run.add("network", nn.Linear(3, 1))


def learn(run: Training, network: nn.Module, trouble: Callable[[int, float], float]) -> Callable[[Update], Any]:
    """A step of regression; `trouble` of (update, loss) is the loss that is optimised and logged."""

    def step(update: Update) -> dict[str, Any]:
        x = update.randn(3)
        loss = (network(x) - x.sum(1, keepdim=True)).square().mean()
        factor = trouble(update.index, float(loss)) / float(loss)
        run.optimise("network", loss * factor)
        return {"loss": loss.detach() * factor}

    return step


def once(at: int, value: float) -> Callable[[int, float], float]:
    """Trouble at the first time that update `at` is done."""
    left = [at]

    def trouble(update: int, loss: float) -> float:
        return value if update in left and not left.remove(update) else loss  # type: ignore[func-returns-value]

    return trouble


def events(run: Training) -> list[dict[str, Any]]:
    path = run.folder / "stage.events.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def test_a_healthy_run_has_no_events(tmp_path: Path) -> None:
    run, network = begin(tmp_path)
    run.run(learn(run, network, lambda _, loss: loss))
    assert (
        events(run) == []
        and run.state.update_index == UPDATES
        and run.logbook.rows[-1]["loss"] < run.logbook.rows[0]["loss"]
    )


def test_stages_of_one_process_may_differ_in_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warned: list[int] = []
    monkeypatch.setattr(training, "warn_of_slow_bf16", lambda: warned.append(1))
    runs = [(precision, begin(tmp_path / precision, mixed_precision=precision)[0]) for precision in ("bf16", "no")]
    assert warned == [1]
    for precision, run in runs:
        with run.autocast():
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == (
                torch.bfloat16 if precision == "bf16" else torch.float32
            )


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_sends_the_run_back_at_half_its_rate(tmp_path: Path, value: float) -> None:
    run, network = begin(tmp_path)
    run.run(learn(run, network, once(7, value)))
    (event,) = events(run)
    assert event["alarm"] == "not_finite" and event["update"] == 8 and event["did"] == "back to update 7, lr × 0.5"
    assert run.state.update_index == UPDATES and run.adjustment("lr") == 0.5
    rate = run.networks.optimizers["network"].param_groups[0]["lr"]
    assert rate == pytest.approx(0.5 * run.settings.lr * run.settings.lr_final_fraction, rel=0.3)
    assert all(torch.isfinite(value).all() for value in network.state_dict().values())
    assert [row["update"] for row in run.logbook.rows] == list(
        range(ROW, UPDATES + 1, ROW)
    )  # what was undone is not in the log


def test_a_jump_of_the_loss_sends_the_run_back(tmp_path: Path) -> None:
    run, network = begin(tmp_path)
    run.run(learn(run, network, once(30, 1e4)))
    (event,) = events(run)
    assert event["alarm"] == "loss_jump" and event["did"] == "back to update 30, lr × 0.5"


def test_a_run_that_stays_unstable_ends_and_says_where_to_look(tmp_path: Path) -> None:
    run, network = begin(tmp_path)
    with pytest.raises(GeninError, match=r"unstable: the loss of the network became nan.*after going back 3 times"):
        run.run(learn(run, network, lambda update, loss: math.nan if update == 9 else loss))
    assert [event["alarm"] for event in events(run)] == ["not_finite"] * health.ROLLBACKS
    state = torch.load(run.checkpoints.path, weights_only=True)
    assert state["update_index"] == 9 and torch.isfinite(state["modules"]["network"]["weight"]).all()


def test_minutes_are_spent_even_on_the_way_back(tmp_path: Path) -> None:
    run, network = begin(tmp_path, checkpoint_minutes=60.0)
    late = once(21, math.nan)

    def trouble(update: int, loss: float) -> float:
        run.state.elapsed_s += 100.0 * (update == 20)
        return late(update, loss)

    run.run(learn(run, network, trouble))
    assert events(run)[0]["did"].startswith("back to update 0")
    assert run.logbook.rows[0]["elapsed_s"] >= 100 and run.state.elapsed_s >= 200


def test_an_interrupted_run_answers_alarms_as_an_uninterrupted_one(tmp_path: Path) -> None:
    """Interrupted within a row, after a way back; trouble depends on the update and the adjustments alone."""

    def trouble(run: Training) -> Callable[[int, float], float]:
        return lambda update, loss: math.nan if update == 11 and run.adjustment("lr") == 1 else loss

    whole, network = begin(tmp_path / "whole")
    whole.run(learn(whole, network, trouble(whole)))
    first, started = begin(tmp_path / "parts")
    step = learn(first, started, trouble(first))

    def interrupted(update: Update) -> Any:
        if update.index == 24:
            press_ctrl_c()
        return step(update)

    with pytest.raises(KeyboardInterrupt):
        first.run(interrupted)
    second, again = begin(tmp_path / "parts")
    assert second.resume() and second.adjustment("lr") == 0.5 and second.state.update_index == 25
    second.run(learn(second, again, trouble(second)))
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in network.state_dict().items())
    assert [r["loss"] for r in whole.logbook.rows] == [r["loss"] for r in second.logbook.rows]


def test_the_rate_after_a_resume_counts_this_runs_updates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted after one update of a row of two: the row is closed by the other, which takes a second for its four images."""
    first, network = begin(tmp_path)
    step = learn(first, network, lambda _, loss: loss)

    def interrupted(update: Update) -> Any:
        if update.index == 2:
            press_ctrl_c()
        return step(update)

    with pytest.raises(KeyboardInterrupt):
        first.run(interrupted)
    second, again = begin(tmp_path)
    assert second.resume() and second.state.row
    now = [0.0]
    monkeypatch.setattr(training, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    step = learn(second, again, lambda _, loss: loss)

    def slow(update: Update) -> Any:
        now[0] += 1.0
        return step(update)

    second.run(slow)
    assert {row["images_per_s"] for row in second.logbook.rows[1:]} == {4.0}


def test_a_validation_that_was_due_is_not_lost_with_the_run(tmp_path: Path) -> None:
    """Validation every 12 images, at the end of rows of 8: some are due for an update or two before they come."""

    def validated_at(folder: Path, stop: int | None) -> list[int]:
        seen: list[int] = []
        while True:
            run, network = begin(folder, images=80, preview_images=12)
            run.resume()
            step = learn(run, network, lambda _, loss: loss)

            def stopped(update: Update, step: Any = step, stop: int | None = stop) -> Any:
                if update.index == stop:
                    press_ctrl_c()
                return step(update)

            def validate(_average: nn.Module, run: Training = run) -> dict[str, float]:
                seen.append(run.state.update_index)
                return {"kid": 1.0}

            try:
                run.run(stopped, validate=validate)
            except KeyboardInterrupt:
                stop = None
            else:
                return seen

    whole = validated_at(tmp_path / "whole", None)
    for at in range(1, 9):
        assert validated_at(tmp_path / f"parts-{at}", at) == whole, at


def test_a_run_goes_on_only_with_the_recipe_it_was_begun_with(tmp_path: Path) -> None:
    run, network = begin(tmp_path)
    run.run(learn(run, network, lambda _, loss: loss))
    longer, _ = begin(tmp_path, images=8 * UPDATES)
    assert longer.resume() and longer.progress == 0.5
    other, _ = begin(tmp_path, lr=0.2)
    with pytest.raises(InputError, match=r"started with stage.lr 0.1"):
        other.resume()


def test_a_run_that_is_not_resumed_never_goes_back_to_an_earlier_one(tmp_path: Path) -> None:
    """In a folder that holds an earlier run's checkpoint, log and events; the first alarm comes before any checkpoint is due."""
    earlier, network = begin(tmp_path, images=80)
    earlier.run(learn(earlier, network, once(7, math.nan)))
    run, network = begin(tmp_path, checkpoint_minutes=60.0)
    torch.manual_seed(1)
    nn.init.normal_(network.weight)  # type: ignore[arg-type]
    run.run(learn(run, network, once(3, math.nan)))
    assert [event["did"] for event in events(run)] == ["back to update 0, lr × 0.5"]
    assert [row["update"] for row in run.logbook.rows] == list(range(ROW, UPDATES + 1, ROW))
    assert [json.loads(line)["update"] for line in run.logbook.path.read_text().splitlines()] == list(
        range(ROW, UPDATES + 1, ROW)
    )


def test_a_gradient_that_is_not_finite_changes_no_weights(tmp_path: Path) -> None:
    """The square root of nothing has a finite value and none of a gradient."""
    run, network = begin(tmp_path)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    loss = sum(p.sub(p.detach()).square().sum().sqrt() for p in network.parameters())
    with pytest.raises(UnhealthyError, match="the gradient of the network became nan"):
        run.optimise("network", loss)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_an_alarm_that_nothing_answers_does_not_go_back(tmp_path: Path) -> None:
    """The same updates would raise it again: pure regression has no adversarial weight to halve."""
    run, _ = begin(tmp_path)
    run.state.update_index = 5
    with pytest.warns(UserWarning, match="nothing to adjust"):
        run._answer(Alarm("diversity_collapse", "few differ", True, {"adversarial": 0.5}))
    assert run.state.update_index == 5 and run.state.rollbacks == 0


@pytest.mark.parametrize("resume", [False, True])
def test_checkpoints_of_later_stages_are_those_of_the_same_run(tmp_path: Path, resume: bool) -> None:
    """A run that begins anew and stops in its first stage must not find its second one finished."""
    second, network = begin(tmp_path)
    second.run(learn(second, network, lambda _, loss: loss))
    claim_run(tmp_path, Recipe(), {"data": "1"}, {"first": second.settings, "stage": second.settings}, resume=resume)
    assert begin(tmp_path)[0].resume() == resume
    assert second.logbook.path.is_file() == resume


def test_a_finished_stage_that_is_resumed_writes_nothing(tmp_path: Path) -> None:
    run, network = begin(tmp_path)
    run.run(learn(run, network, lambda _, loss: loss))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path != run.logbook.path}
    again, network = begin(tmp_path)
    assert again.resume()
    again.run(learn(again, network, lambda _, loss: loss))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path != run.logbook.path} == before


@pytest.mark.parametrize("last", [False, True])
def test_ctrl_c_in_the_last_update_interrupts_only_where_more_is_to_come(tmp_path: Path, last: bool) -> None:
    run, network = begin(tmp_path)
    step = learn(run, network, lambda _, loss: loss)

    def pressed(update: Update) -> Any:
        if update.index == UPDATES - 1:
            press_ctrl_c()
        return step(update)

    if last:
        run.run(pressed, last=True)
    else:
        with pytest.raises(KeyboardInterrupt, match="interrupted at the end of stage stage; all is saved"):
            run.run(pressed)
    again, _ = begin(tmp_path)
    assert again.resume() and again.progress == 1


def test_checkpoints_are_read_on_the_cpu_and_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside live weights a device has no room for them a second time: at a resume, on the way back, where a run is claimed. What
    is kept of them is copied, as the next checkpoint replaces the file."""
    opened: list[tuple[Any, Any]] = []
    load = torch.load

    def noted(path: Path, *, map_location: Any, mmap: Any, **options: Any) -> Any:
        opened.append((map_location, mmap))
        loaded.append(load(path, map_location=map_location, mmap=mmap, **options))
        return loaded[-1]

    loaded: list[Any] = []
    monkeypatch.setattr(torch, "load", noted)
    run, network = begin(tmp_path, preview_images=40)
    run.run(learn(run, network, once(20, math.nan)), validate=lambda _: {"kid": 1.0})
    claim_run(tmp_path, Recipe(), {}, {"stage": run.settings})
    again, _ = begin(tmp_path, preview_images=40)
    assert again.resume() and opened == [("cpu", True)] * 3
    mapped = {tensor.untyped_storage().data_ptr() for tensor in tensors(loaded[-1])}
    kept = [*tensors(again.networks.optimizers["network"].state_dict()), *tensors(again.state.best)]
    assert len(kept) > 4 and not mapped & {tensor.untyped_storage().data_ptr() for tensor in kept}


def tensors(tree: Any) -> list[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        return [tree]
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else []
    return [tensor for part in parts for tensor in tensors(part)]


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint", b"PK\x03\x04 cut short"])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, damage: bytes) -> None:
    run, _ = begin(tmp_path)
    run.checkpoints.path.write_bytes(damage)
    with pytest.raises(InputError, match=r"stage.checkpoint.pt"):
        run.resume()


def test_settings_that_a_resumed_run_may_change_are_said(tmp_path: Path) -> None:
    run, network = begin(tmp_path)
    claim_run(tmp_path, Recipe(), {}, {"stage": run.settings})
    run.run(learn(run, network, lambda _, loss: loss))
    stages = {"stage": dataclasses.replace(run.settings, images=8 * UPDATES, preview_images=40)}
    said = rf"other settings than before: stage\.images {8 * UPDATES} \(was {4 * UPDATES}\), stage\.preview_images 40 \(was"
    with pytest.warns(UserWarning, match=said):
        claim_run(tmp_path, Recipe(), {}, stages, resume=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        claim_run(tmp_path, Recipe(), {}, {"stage": run.settings}, resume=True)
        claim_run(tmp_path, Recipe(), {}, stages, resume=False)
    with pytest.raises(InputError, match=r"started with stage\.lr 0\.1"):
        run.save()
        claim_run(tmp_path, Recipe(), {}, {"stage": dataclasses.replace(run.settings, lr=1.0)}, resume=True)


def test_a_setting_that_is_newer_than_the_run_had_its_default(tmp_path: Path) -> None:
    run, _ = begin(tmp_path)
    run.state.update_index = 1
    run.save()
    state = torch.load(run.checkpoints.path, weights_only=False)
    del state["settings"]["clip_norm"]
    torch.save(state, run.checkpoints.path)
    claim_run(tmp_path, Recipe(), {}, {"stage": run.settings}, resume=True)
    with pytest.raises(InputError, match=r"started with stage\.clip_norm 1"):
        claim_run(tmp_path, Recipe(), {}, {"stage": dataclasses.replace(run.settings, clip_norm=0.5)}, resume=True)


HOLD = """
import sys
from pathlib import Path
from genin.distill.loop.run_folder import _lock
_lock(Path(sys.argv[1]))
print("locked", flush=True)
sys.stdin.read()
"""


def test_two_trainings_in_one_folder_are_refused(tmp_path: Path) -> None:
    run, _ = begin(tmp_path / "run")
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdin is not None
        assert other.stdout.readline() == "locked\n"
        for resume in (False, True):
            with pytest.raises(InputError, match=r"another process is training here: .*run; wait for it, or name"):
                claim_run(tmp_path / "run", Recipe(), {"data": "1"}, {"stage": run.settings}, resume=resume)
        assert not (tmp_path / "run" / "run.json").exists()
        other.stdin.close()
    claim_run(
        tmp_path / "run", Recipe(), {"data": "1"}, {"stage": run.settings}
    )  # the system frees it with the process


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, network = begin(tmp_path)
    run.run(learn(run, network, lambda _, loss: loss))
    before = run.checkpoints.path.read_bytes()

    def full(state: Any, path: Path) -> None:
        Path(path).write_bytes(b"half of it")
        raise RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos")  # what torch.save says then

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(GeninError, match="free some space"):
        run.save()
    assert run.checkpoints.path.read_bytes() == before and not list(tmp_path.glob("*.partial"))


def test_a_checkpoint_is_on_the_disk_before_it_replaces_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = begin(tmp_path)
    run.save()
    before, seen = run.checkpoints.path.read_bytes(), list[bool]()
    monkeypatch.setattr(os, "fsync", lambda _: seen.append(run.checkpoints.path.read_bytes() == before))
    run.state.update_index = 1
    run.save()
    assert seen == [True] and run.checkpoints.path.read_bytes() != before


def test_a_torn_line_of_the_log_does_not_stop_a_resume(tmp_path: Path) -> None:
    run, network = begin(tmp_path)
    run.run(learn(run, network, lambda _, loss: loss))
    with run.logbook.path.open("a") as log:
        log.write('{"update": 99, "images_')
    again, _ = begin(tmp_path)
    assert again.resume() and again.logbook.rows == run.logbook.rows


def test_no_images_means_no_update(tmp_path: Path) -> None:
    run, network = begin(tmp_path, images=0)
    run.run(learn(run, network, lambda _, loss: loss))
    assert run.state.update_index == 0


def test_the_best_average_is_kept_not_the_last(tmp_path: Path) -> None:
    run, network = begin(tmp_path, preview_images=40, ema_decays=(0.5, 0.9))
    seen: list[tuple[float, Any]] = []

    def validate(average: nn.Module) -> dict[str, float]:
        kid = [5.0, 4.0, 1.5, 1.0, 2.0, 2.0, 3.0, 3.0][len(seen)]
        seen.append((kid, {key: value.clone() for key, value in average.state_dict().items()}))
        return {"kid": kid}

    run.run(learn(run, network, lambda _, loss: loss), validate=validate)
    assert [row["kid"] for row in run.logbook.rows if "kid" in row] == [
        4.0,
        1.0,
        2.0,
        3.0,
    ]  # of two averages the better
    best = {key: value.clone() for key, value in run.final_weights("network").state_dict().items()}
    assert all(torch.equal(best[key], value) for key, value in seen[3][1].items())
    again, _ = begin(tmp_path, preview_images=40, ema_decays=(0.5, 0.9))
    assert again.resume()
    assert all(torch.equal(best[key], value) for key, value in again.final_weights("network").state_dict().items())


@pytest.mark.parametrize(("last", "kept"), [(1.25, 4), (1.35, 3)])
def test_of_averages_that_chance_cannot_tell_apart_the_last_is_kept(tmp_path: Path, last: float, kept: int) -> None:
    """Told by the lowest of all: otherwise many small steps would lead away from it."""
    run, network = begin(tmp_path, preview_images=40)
    kids, updates = iter([2.0, 1.0, 1.2, last]), []

    def validate(_average: nn.Module) -> dict[str, float]:
        updates.append(run.state.update_index)
        return {"kid": next(kids), "kid_error": 0.3}

    run.run(learn(run, network, lambda _, loss: loss), validate=validate)
    assert len(updates) == 4 and run.state.best is not None
    assert run.state.best["update"] == updates[kept - 1] and run.state.best["lowest"] == 1.0


# --- averages and what does not learn ----------------------------------------------------------------------------------


class Frozen(nn.Module):
    """Two layers, of which `trains` says that the second learns; and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 1)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += 1
        return self.second(torch.tanh(self.first(x)))


def half_frozen(folder: Path, **settings: Any) -> tuple[Training, Any]:
    run = Training(folder, "stage", Optimisation(batch_size=4, images=80, mixed_precision="no", lr=0.01, **settings))
    torch.manual_seed(0)
    return run, run.add("network", Frozen(), NetworkOptions(trains=lambda name: name.startswith("second")))


def regress(run: Training, network: nn.Module) -> Callable[[Update], Any]:
    def step(update: Update) -> dict[str, Any]:
        x = update.randn(64)
        loss = (network(x) - x.sum(1, keepdim=True)).square().mean()
        run.optimise("network", loss)
        return {"loss": loss.detach()}

    return step


def test_averages_of_a_network_that_learns_whole_are_those_of_torch(tmp_path: Path) -> None:
    """Bit for bit: an earlier genin made them with this class."""
    from torch.optim.swa_utils import AveragedModel

    def lerp(averages: list[Any], current: list[Any], n: Any) -> None:
        torch._foreach_lerp_(averages, current, 1.0 - min(0.9, (1 + int(n)) / (10 + int(n))))

    run, network = begin(tmp_path, ema_decays=(0.9,))
    theirs = AveragedModel(network, multi_avg_fn=lerp)
    real = run.optimise

    def both(name: str, loss: Any) -> float:
        norm = real(name, loss)
        theirs.update_parameters(network)
        return norm

    run.optimise = both  # type: ignore[method-assign]
    run.run(learn(run, network, lambda _, loss: loss))
    ours = run.averages["network"].state_dict()
    assert ours.keys() == theirs.state_dict().keys()
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.items())


def test_what_does_not_learn_is_neither_copied_nor_written(tmp_path: Path) -> None:
    run, network = half_frozen(tmp_path, ema_decays=(0.9, 0.99), keep_averages=True, preview_images=40)
    run.run(regress(run, network), validate=lambda average: {"kid": 1.0})
    for average in run.averages.values():
        assert average.module.first.weight is network.first.weight  # type: ignore[union-attr]
        assert average.module.second.weight is not network.second.weight  # type: ignore[union-attr]
        assert not torch.equal(average.module.second.weight, network.second.weight)  # type: ignore[union-attr,arg-type]
        assert torch.equal(average.module.seen, network.seen)  # type: ignore[arg-type]
    state = torch.load(run.checkpoints.path, weights_only=True)
    assert set(state["modules"]["network"]) == {"second.weight", "second.bias", "seen"} == set(state["best"]["state"])
    assert all("module.first.weight" not in average for average in state["averages"].values())
    again, other = half_frozen(tmp_path, ema_decays=(0.9, 0.99), keep_averages=True, preview_images=40)
    assert again.resume() and torch.equal(other.second.weight, network.second.weight)
    for key, average in run.averages.items():
        found = again.averages[key].state_dict()
        assert all(torch.equal(value, found[name]) for name, value in average.state_dict().items())
    best = again.final_weights("network")
    assert torch.equal(best.second.weight, state["best"]["state"]["second.weight"])  # type: ignore[union-attr,arg-type]


def test_a_run_that_begins_anew_has_no_averages_of_the_one_before(tmp_path: Path) -> None:
    def averages() -> list[str]:
        return sorted(path.name for path in tmp_path.glob("stage.average-*"))

    settings = {"ema_decays": (0.9,), "keep_averages": True, "preview_images": 40}
    run, network = begin(tmp_path, **settings)
    run.run(learn(run, network, lambda _, loss: loss))
    (tmp_path / "steps.average-00000004.safetensors").touch()
    assert len(averages()) > 2
    run, network = begin(tmp_path, **settings, images=4)
    run.run(learn(run, network, lambda _, loss: loss))
    assert len(averages()) == 1 and (tmp_path / "steps.average-00000004.safetensors").exists()


def test_a_checkpoint_without_a_weight_that_learns_is_refused(tmp_path: Path) -> None:
    run, network = half_frozen(tmp_path)
    run.run(regress(run, network))
    state = torch.load(run.checkpoints.path, weights_only=True)
    for part in (state["modules"]["network"], state["averages"]["network"]):
        lacking = next(name for name in part if name.endswith("second.bias"))
        value = part.pop(lacking)
        torch.save(state, run.checkpoints.path)
        with pytest.raises(InputError, match=r"second\.bias"):
            half_frozen(tmp_path)[0].resume()
        part[lacking] = value


# --- optimisers --------------------------------------------------------------------------------------------------------


def test_eight_bit_moments_are_bitsandbytes_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []

    class Recorded(torch.optim.AdamW):
        def __init__(self, parameters: Any, **settings: Any) -> None:
            made.append(settings)
            super().__init__(parameters, **settings)

    fake = ModuleType("bitsandbytes")
    fake.optim = SimpleNamespace(AdamW8bit=Recorded)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bitsandbytes", fake)
    run, network = begin(tmp_path, optimizer="adamw8bit", weight_decay=0.25)
    assert made == [{"lr": 0.1, "betas": (0.9, 0.99), "weight_decay": 0.25}]
    run.run(learn(run, network, lambda _, loss: loss))
    assert run.logbook.rows[-1]["loss"] < run.logbook.rows[0]["loss"]
    begin(tmp_path / "plain")
    assert len(made) == 1


def test_without_bitsandbytes_no_other_optimiser_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(InputError, match=r"adamw8bit.*pip install bitsandbytes"):
        begin(tmp_path, optimizer="adamw8bit")


def rows(count: int, **values: float) -> list[dict[str, float]]:
    return [{"update": 50 * (i + 1), "loss": 1.0, **values} for i in range(count)]


LAST = {"update": 2_000}


@pytest.mark.parametrize(
    ("log", "alarm", "adjustments"),
    [
        ([*rows(20), {"loss": 3.1, **LAST}], "loss_jump", {"lr": 0.5}),
        ([*rows(20, last=0.1), {"loss": 9.0, "last": 0.31, **LAST}], "loss_jump", {"lr": 0.5}),
        (
            [*rows(3, spread=0.97, shift=0.0), {"loss": 1.0, "spread": 0.6, "shift": 0.0, **LAST}],
            "latent_drift",
            {"lr": 0.5},
        ),
        (
            [*rows(3, spread=0.97, shift=0.0), {"loss": 1.0, "spread": 1.0, "shift": 0.4, **LAST}],
            "latent_drift",
            {"lr": 0.5},
        ),
        ([{"loss": 1.0, "diversity": 0.4, **LAST}], "diversity_collapse", {"adversarial": 0.5}),
        (rows(22, discriminator_accuracy=0.96), "discriminator_wins", {"lr/discriminator": 0.5, "noise": 1.5}),
        (rows(22, discriminator_accuracy=0.52), "discriminator_blind", {"noise": 1 / 1.5}),
        (
            rows(22, discriminator_accuracy=0.7, picture_discriminator_accuracy=0.96),
            "picture_discriminator_wins",
            {"lr/picture_discriminator": 0.5},
        ),
    ],
)
def test_what_is_alarming(log: list[dict[str, float]], alarm: str, adjustments: dict[str, float]) -> None:
    found = watch(log)
    assert found is not None and found.name == alarm and found.adjustments == adjustments
    assert found.rollback == ("discriminator" not in alarm)


@pytest.mark.parametrize(
    "log",
    [
        [],
        rows(1),
        [*rows(5), {"loss": 100.0, **LAST}],  # too few rows before it
        [*rows(20, last=0.1), {"loss": 100.0, "last": 0.1, **LAST}],  # the adversarial part may do as it likes
        rows(5, spread=0.3, shift=0.0),  # never was in place: a network that has only begun
        rows(22, discriminator_accuracy=0.7),
        rows(20, discriminator_accuracy=0.99),  # not for a thousand updates yet
        [{"loss": 1.0, "diversity": 0.6, **LAST}],
    ],
)
def test_what_is_not(log: list[dict[str, float]]) -> None:
    assert watch(log) is None


def test_one_good_row_is_no_win_of_the_discriminator() -> None:
    updates = range(0, 2 * health.PATIENCE, health.PATIENCE // 10)
    good = [{"update": float(update), "discriminator_accuracy": 0.999} for update in updates]
    mixed = [row | {"discriminator_accuracy": 0.6} if index % 2 else row for index, row in enumerate(good)]
    alarm = health._discriminator(good)
    assert alarm is not None and alarm.name == "discriminator_wins"
    assert health._discriminator(mixed) is None


def test_the_first_rows_are_short_and_raise_no_alarm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(training, "ROW_UPDATES", 20)
    monkeypatch.setattr(previews, "plot_curves", lambda *_, **__: None)
    watched: list[list[int]] = []
    monkeypatch.setattr(training, "watch", lambda rows: watched.append([row["update"] for row in rows]))
    run, network = begin(tmp_path)
    run.run(learn(run, network, lambda _, loss: loss))
    assert [row["update"] for row in run.logbook.rows] == [1, 2, 4, 8, 16, 20, 40]
    assert watched[-1] == [20, 40] and all(len(rows) <= 3 for rows in watched)


@pytest.mark.parametrize(("ratio", "said"), [(1.9, 1), (1.1, 0)])
def test_where_bf16_is_slower_than_fp32_it_is_said_once(
    monkeypatch: pytest.MonkeyPatch, ratio: float, said: int
) -> None:
    monkeypatch.setattr(host, "_bf16_time", lambda: ratio)
    host.warn_of_slow_bf16.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        host.warn_of_slow_bf16()
        host.warn_of_slow_bf16()
    host.warn_of_slow_bf16.cache_clear()
    expected = (
        "a matrix product in bf16 takes 1.9 times as long as in fp32 on this processor; "
        'the recipe\'s mixed_precision: "no" may be faster here'
    )
    assert [str(one.message) for one in caught] == [expected] * said


def test_a_stage_that_others_build_on_ends_once(tmp_path: Path) -> None:
    """A resumed run has other minutes, of which its share is longer than before: nothing is trained on."""
    run, network = begin(tmp_path, images=4000)
    run.minutes = 1e-5
    run.run(learn(run, network, lambda _, loss: loss), once=True)
    seen, weights = run.images_seen, run.ema_weights("network").weight.clone()
    assert 0 < seen < 4000
    for images, goes_on in ((4000, False), (3000, False), (5000, True)):
        again, network = begin(tmp_path, images=images)
        again.minutes = 10
        again.resume()
        assert (again.progress < 1) == goes_on
        if not goes_on:
            again.run(learn(again, network, lambda _, loss: loss), once=True)
            assert again.images_seen == seen and torch.equal(again.ema_weights("network").weight, weights)
    again.minutes = again.state.elapsed_s / 60 + 1e-5  # it ends by minutes once more, for the images asked for now
    again.run(learn(again, network, lambda _, loss: loss), once=True)
    last, _ = begin(tmp_path, images=5000)
    last.minutes = 10
    last.resume()
    assert last.progress == 1


def test_a_last_stage_goes_on_with_more_minutes(tmp_path: Path) -> None:
    run, network = begin(tmp_path, images=4000)
    run.minutes = 1e-5
    run.run(learn(run, network, lambda _, loss: loss), last=True)
    again, _ = begin(tmp_path, images=4000)
    again.minutes = 10
    again.resume()
    assert again.progress < 1
