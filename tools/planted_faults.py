"""Plant 71 faults in the code, one at a time, and see how many the default test suite finds.

    python tools/planted_faults.py                 every fault against the tests that should find it
    python tools/planted_faults.py --all           and those they miss against the whole default suite
    python tools/planted_faults.py --only NAME,…   some of them
    python tools/planted_faults.py --check         only that the table still fits the code; seconds

Each fault is a small change that a developer could make by mistake and a reviewer could miss. It is applied to a copy of the
tracked files, from which `genin` is imported in place of the installed package, and counts as found if pytest reports a failed
test (exit code 1). A test that hangs is failed by pytest-timeout; a run that hangs as a whole is stopped and counts as missed.
The same tests must pass without any fault first. Exit code 1 if more than 3 faults are missed.

The faults were chosen by what would hurt a user, without looking at the tests. A fault that is missed asks for a test, not for
another fault. Where its code has changed, it is stated anew (`tests/test_planted_faults.py` fails until then).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("benchmarks", "distill", "export", "runtimes")  # importable as genin.PART
OWN_TEST = "tests/test_planted_faults.py"  # fails in every copy that has a fault
MAY_BE_MISSED = 3
RUN_SECONDS = 3600.0


@dataclass(frozen=True)
class Fault:
    """`after` in place of `before`, which occurs once in `file`; `tests` are what pytest is given, relative to tests/."""

    name: str
    file: str
    before: str
    after: str
    tests: str

    @property
    def part(self) -> str:
        return "genin" if self.file.startswith("src/") else self.file.partition("/")[0]

    @property
    def paths(self) -> list[str]:
        return [f"tests/{test}" for test in self.tests.split()]

    def apply(self, root: Path) -> None:
        path = root / self.file
        path.write_text(self.applied_to(path.read_text(encoding="utf-8")), encoding="utf-8")

    def applied_to(self, text: str) -> str:
        """Errors: ValueError if `before` does not occur exactly once, SyntaxError if the result does not compile."""
        if (count := text.count(self.before)) != 1:
            raise ValueError(f"{self.file} holds {self.before!r} {count} times, not once")
        mutated = text.replace(self.before, self.after)
        compile(mutated, self.file, "exec")
        return mutated


def check() -> None:
    """Errors: ClickException for a fault that does not fit the code, or whose tests are not there."""
    for fault in FAULTS:
        try:
            fault.applied_to((ROOT / fault.file).read_text(encoding="utf-8"))
        except (OSError, ValueError, SyntaxError) as error:
            raise click.ClickException(f"{fault.name}: {error}") from error
        if missing := [path for path in fault.paths if not is_there(path)]:
            raise click.ClickException(f"{fault.name}: no such tests: {', '.join(missing)}")


def is_there(test: str) -> bool:
    """Whether a test file (or `file::Class::test`) is there under these names; a class may inherit the test."""
    path, *names = test.split("::")
    text = (ROOT / path).read_text(encoding="utf-8") if (ROOT / path).is_file() else ""
    return bool(text) and all(f"def {name}(" in text or f"class {name}(" in text for name in names)


def chosen(names: str) -> list[Fault]:
    """The faults of these names, separated by commas; all for none. Errors: ClickException for an unknown name."""
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if unknown := set(wanted) - {fault.name for fault in FAULTS}:
        raise click.ClickException(f"no such fault: {', '.join(sorted(unknown))}")
    return [fault for fault in FAULTS if not wanted or fault.name in wanted]


# --- a copy, and what pytest says of it ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """What pytest returned (None: it was stopped), and the tests that failed."""

    code: int | None
    failed: list[str]


@contextmanager
def copied(fault: Fault | None = None) -> Iterator[Path]:
    """A copy of the tracked files, with a fault, and with ../shared beside it; removed afterwards."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    with tempfile.TemporaryDirectory(prefix="genin-fault-") as folder:
        root = Path(folder).resolve() / "genin"
        for name in filter(None, tracked.split("\0")):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name, follow_symlinks=False)
        for part in PARTS:
            (root / "src" / "genin" / part).symlink_to(root / part)
        if (shared := ROOT.parent / "shared").is_dir():
            (root.parent / "shared").symlink_to(shared.resolve())
        if fault is not None:
            fault.apply(root)
        yield root


def environment(root: Path) -> dict[str, str]:
    """PYTHONPATH comes before the installed package, whose finder is asked last, here and in child processes."""
    path = f"{root / 'src'}{os.pathsep}{root / 'weights'}"
    own = {"PYTHONPATH": path, "GENIN_CACHE": str(root.parent / "cache"), "OMP_NUM_THREADS": "1"}
    return {**os.environ, **own}


def require_imported_from(root: Path) -> None:
    """Errors: ClickException if `genin` would be imported from elsewhere: no fault could be found."""
    code = f"import genin.{', genin.'.join(PARTS)}; print(*(sys.modules['genin.' + p].__file__ for p in {PARTS}))"
    command = [sys.executable, "-c", f"import sys, genin; {code}"]
    files = subprocess.run(command, cwd=root, env=environment(root), check=True, capture_output=True, text=True).stdout
    if not all(file.startswith(str(root)) for file in files.split()):
        raise click.ClickException(f"the copy is not what is imported: {files}")


def run_tests(root: Path, tests: Iterable[str], *options: str) -> Run:
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", f"--ignore={OWN_TEST}"]
    command += [f"--basetemp={root.parent / 'tmp'}", *options, *tests]
    log = root.parent / "pytest.log"
    with log.open("wb") as file:
        try:
            done = subprocess.run(
                command, cwd=root, env=environment(root), stdout=file, stderr=subprocess.STDOUT, timeout=RUN_SECONDS
            )
        except subprocess.TimeoutExpired:
            return Run(None, [])
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    failed = [line.split()[1].partition("[")[0] for line in lines if line.startswith(("FAILED tests/", "ERROR tests/"))]
    return Run(done.returncode, failed if failed and done.returncode == 1 else lines[-5:])


def found_by(fault: Fault, *, whole_suite: bool) -> str | None:
    """The first test that fails with the fault, None if none does."""
    with copied(fault) as root:
        for tests in (fault.paths, ["tests"]) if whole_suite else (fault.paths,):
            run = run_tests(root, tests, "-x")
            if run.code == 1:
                return run.failed[0].removeprefix("tests/")
            if run.code != 0:
                click.echo(f"{fault.name}: pytest returned {run.code}: {' '.join(run.failed)}", err=True)
    return None


# --- the command -----------------------------------------------------------------------------------------------------


def table(found: Mapping[Fault, str | None]) -> str:
    """Markdown: fault, part, the test that found it."""
    rows = [("fault", "part", "found by"), ("---",) * 3]
    for fault, test in found.items():
        rows.append((fault.name, fault.part, f"`{test}`" if test else "**nothing**"))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


@click.command()
@click.option("--check", "only_check", is_flag=True, help="Only check that every fault fits the code.")
@click.option("--only", default="", metavar="NAME,…", help="Some of the faults.")
@click.option("--jobs", type=click.IntRange(1, 64), default=2, show_default=True, help="Test runs at once.")
@click.option("--all", "whole_suite", is_flag=True, help="Run the whole suite for those that the listed tests miss.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="The figures as JSON.")
def main(only_check: bool, only: str, jobs: int, whole_suite: bool, out: Path | None) -> None:
    """Plant faults in copies of the code and count those that the test suite finds."""
    check()
    faults = chosen(only)
    if only_check:
        click.echo(f"{len(faults)} faults fit the code")
        return
    listed = dict.fromkeys(path for fault in faults for path in fault.paths)
    with copied() as root:
        require_imported_from(root)
        plain = run_tests(root, ["tests"] if whole_suite else listed, f"-n{jobs}")
    if plain.code != 0:
        raise click.ClickException(f"without any fault pytest returned {plain.code}: {' '.join(plain.failed)}")
    found: dict[Fault, str | None] = {}
    with ThreadPoolExecutor(jobs) as pool:
        for fault, test in zip(faults, pool.map(partial(found_by, whole_suite=whole_suite), faults), strict=True):
            found[fault] = test
            click.echo(f"{fault.name}: {test or 'not found'}", err=True)
    count = sum(test is not None for test in found.values())
    spent = os.times()
    cpu_s = round(spent.children_user + spent.children_system)
    click.echo(f"{table(found)}\n\n{count} of {len(found)} found, {cpu_s:,} s of processor time")
    if out is not None:
        rows = [{"fault": fault.name, "file": fault.file, "found_by": test} for fault, test in found.items()]
        figures = {"found": count, "planted": len(found), "cpu_s": cpu_s, "faults": rows}
        out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    sys.exit(len(found) - count > MAY_BE_MISSED)


# --- the faults ------------------------------------------------------------------------------------------------------

FAULTS = (
    # --- runtimes ----------------------------------------------------------------------------------------------------
    Fault(
        "final-alpha-default",
        "runtimes/samplers.py",
        'config.get("set_alpha_to_one", True)',
        'config.get("set_alpha_to_one", False)',
        "runtimes/test_samplers.py",
    ),
    Fault(
        "guidance-halves-swapped",
        "runtimes/pipeline.py",
        "guide(prediction[: len(x)], prediction[len(x) :], request.guidance_scale)",
        "guide(prediction[len(x) :], prediction[: len(x)], request.guidance_scale)",
        "runtimes/test_pipeline.py::test_equals_diffusers",
    ),
    Fault(
        "one-seed-for-all-prompts",
        "runtimes/requests.py",
        "check_seed(first + index) for index",
        "check_seed(first) for index",
        "runtimes/test_pipeline.py::test_one_seed_for_several_prompts_is_the_first_of_as_many",
    ),
    Fault(
        "cancelling-ends-loading",
        "runtimes/painting/tickets.py",
        "running.ticket == ticket or (ticket is None and running is not self.loading)",
        "ticket in (None, running.ticket)",
        "painting/test_painter.py::test_case",
    ),
    Fault(
        "an-interruption-stays",
        "runtimes/cancellation.py",
        "                    what.proceed()\n",
        "                    pass\n",
        "runtimes/test_engines.py::TestOnnxRuntime::test_a_cancellation_reaches_a_network_that_runs",
    ),
    Fault(
        "later-characters-are-kept",
        "runtimes/tokenizer.py",
        " or not is_assigned(sign):",
        ":",
        "golden/test_golden_vectors.py::test_later_versions_of_unicode_change_no_token",
    ),
    Fault(
        "slow-engines-are-taken",
        "runtimes/measured.py",
        "best = min(map(cost_ms, timings))",
        "best = max(map(cost_ms, timings))",
        "runtimes/test_measured.py::test_the_fastest_way_is_taken_and_remembered",
    ),
    Fault(
        "an-engine-s-import-is-not-counted",
        "runtimes/measured.py",
        "load_s = max(other.load_s for other in timings if other.runtime == timing.runtime)",
        "load_s = timing.load_s",
        "runtimes/test_measured.py::test_loading_counts_where_few_pictures_follow",
    ),
    Fault(
        "scaling-factor-left-out",
        "runtimes/pipeline.py",
        "self._engine.decode(scaled)",
        "self._engine.decode(latents)",
        "runtimes/test_pipeline.py::test_equals_diffusers",
    ),
    Fault(
        "high-half-of-seed-dropped",
        "runtimes/noise.py",
        "(seed & 0xFFFFFFFF, seed >> 32)",
        "(seed & 0xFFFFFFFF, 0)",
        "runtimes/test_noise.py",
    ),
    Fault(
        "padded-with-end-token",
        "runtimes/tokenizer.py",
        "caption + [self.text.pad_token_id] *",
        "caption + [self.text.eos_token_id] *",
        "runtimes/test_tokenizer.py",
    ),
    Fault(
        "digits-run-together",
        "runtimes/tokenizer.py",
        'if not whole and kind != "N":',
        "if not whole:",
        "runtimes/test_tokenizer.py",
    ),
    Fault(
        "hash-never-checked",
        "runtimes/bundle.py",
        "if self._checked.get(path) != state:",
        "if self._checked.get(path) == state:",
        "runtimes/test_bundle.py",
    ),
    Fault(
        "bundle-path-may-be-absolute",
        "runtimes/manifest.py",
        'parts = path.split("/")',
        'parts = path.strip("/").split("/")',
        "runtimes/test_bundle.py",
    ),
    Fault(
        "filled-up-batch-kept",
        "runtimes/engine.py",
        "np.concatenate([part[name] for part in parts])[:count]",
        "np.concatenate([part[name] for part in parts])",
        "export/test_shapes.py::test_batches_are_cut_and_joined",
    ),
    Fault(
        "threads-not-passed-on",
        "runtimes/onnxruntime_engine.py",
        "if (count := settings.own_threads or thread_limit()) is not None:",
        "if (count := thread_limit()) is not None:",
        "runtimes/test_threads.py::test_the_threads_of_a_pipeline_reach_its_engine",
    ),
    Fault(
        "own-process-counted-as-other",
        "runtimes/threads.py",
        "_recent_load() >= 0.5 if count is None else count > 1",
        "_recent_load() >= 0.5 if count is None else count >= 1",
        "runtimes/test_threads.py",
    ),
    Fault(
        "first-seed-noted-in-every-png",
        "runtimes/pipeline.py",
        '{"prompt": prompt, "seed": seed, **common}',
        '{"prompt": prompt, "seed": generation.seeds[0], **common}',
        "runtimes/test_pipeline.py::test_generate_command",
    ),
    Fault(
        "image-latents-not-scaled",
        "runtimes/pipeline.py",
        "return latents * np.float32(self.latents.scaling_factor)",
        "return latents",
        "runtimes/test_starts.py",
    ),
    Fault(
        "known-latents-at-the-old-timestep",
        "runtimes/pipeline.py",
        "known.keep(x, t_next)",
        "known.keep(x, t)",
        "runtimes/test_starts.py",
    ),
    Fault(
        "pixels-outside-a-mask-decoded",
        "runtimes/pipeline.py",
        "pictures = request.start.composite(pictures)",
        "request.start.composite(pictures)",
        "runtimes/test_starts.py",
    ),
    Fault(
        "encoder-gives-a-sample",
        "runtimes/pytorch_engine.py",
        "encoded.latent_dist.mean",
        "encoded.latent_dist.sample()",
        "runtimes/test_starts.py",
    ),
    # --- export ------------------------------------------------------------------------------------------------------
    Fault(
        "guidance-must-be-declared",
        "export/components.py",
        'guided = model.info.get("guidance") != "baked"',
        'guided = model.info.get("guidance") == "free"',
        "export/test_export.py::test_a_model_that_does_not_say_is_exported_for_free_guidance",
    ),
    Fault(
        "matmul-scales-along-inputs",
        "export/converters/to_onnx.py",
        'if node.op_type == "MatMul":\n        return rank - 1',
        'if node.op_type == "MatMul":\n        return 0',
        "export/test_export.py::test_int8_has_one_scale_an_output_channel",
    ),
    Fault(
        "frequencies-rounded-to-fp16",
        "export/converters/to_openvino.py",
        "if is_large(weights.shape) and float(np.abs(weights).max()) <= FP16_MAX:",
        "if float(np.abs(weights).max()) <= FP16_MAX:",
        "export/test_formats.py::TestOpenVino::test_only_large_tensors_lose_bits",
    ),
    Fault(
        "timestep-angles-in-fp16",
        "export/converters/to_coreml.py",
        'return any(child.op_type in ("sin", "cos") for output in op.outputs for child in output.child_ops)',
        "return False",
        "export/test_formats.py::TestCoreML::test_angles_are_computed_in_fp32",
    ),
    Fault(
        "layer-norm-variance-unbiased",
        "export/checks/coreml_interpreter.py",
        "torch.var_mean(x, dim=over, correction=0, keepdim=True)",
        "torch.var_mean(x, dim=over, keepdim=True)",
        "export/test_coreml_interpreter.py",
    ),
    Fault(
        "best-case-counts-as-parity",
        "export/checks/parity.py",
        "psnr_db=round(min(psnr_db(*pair) for pair in pairs), 2),",
        "psnr_db=round(max(psnr_db(*pair) for pair in pairs), 2),",
        "export/test_verify.py::test_the_worst_case_is_what_counts",
    ),
    Fault(
        "widest-instead-of-next-wider",
        "export/precision_plan.py",
        "for wider in reversed(WEIGHTS[: WEIGHTS.index(kind) + 1])",
        "for wider in WEIGHTS[: WEIGHTS.index(kind) + 1]",
        "export/test_plan.py::test_a_format_without_palettes_takes_the_next_wider_storage",
    ),
    Fault(
        "bisection-keeps-the-wrong-half",
        "export/plan/sensitivity.py",
        "            best, low = plan, price\n        else:\n            high = price",
        "            best, high = plan, price\n        else:\n            low = price",
        "export/test_plan.py::test_the_command_writes_a_plan_and_says_what_it_is",
    ),
    Fault(
        "int8-scale-by-128",
        "export/converters/quantise.py",
        ".max(axis=others, keepdims=True) / 127",
        ".max(axis=others, keepdims=True) / 128",
        "export/test_export.py::test_int8_rounds_within_half_a_step_a_channel",
    ),
    Fault(
        "text-of-the-first-prompt-kept",
        "export/converters/single_graph.py",
        "        for layer in self._once:\n            layer.forget()\n",
        "",
        "export/test_single_graph.py::test_one_network_draws_what_three_draw",
    ),
    Fault(
        "verify-always-exits-0",
        "export/commands.py",
        "return 1 if report.failed else 0",
        "return 0",
        "export/test_verify.py::test_a_damaged_file_is_named",
    ),
    Fault(
        "failed-export-leaves-its-folder",
        "export/exporter.py",
        "    finally:\n        shutil.rmtree(partial, ignore_errors=True)\n",
        "    finally:\n        pass\n",
        "export/test_export.py::test_a_graph_below_its_floor_leaves_nothing",
    ),
    # --- benchmarks --------------------------------------------------------------------------------------------------
    Fault(
        "last-warm-up-is-timed",
        "benchmarks/speed/rounds.py",
        "self._draw(asked[index], None, took_ms",
        "self._draw(asked[index], None if turn + 1 < self.protocol.warmup else 0, took_ms",
        "benchmarks/test_bench.py::test_processes_are_asked_in_turn",
    ),
    Fault(
        "speed-up-upside-down",
        "benchmarks/speed/rows.py",
        'base["latency_ms"]["p50"] / row["latency_ms"]["p50"] if base',
        'row["latency_ms"]["p50"] / base["latency_ms"]["p50"] if base',
        "benchmarks/test_bench.py::test_speed_up_and_quality_are_relative_to_the_teacher",
    ),
    Fault(
        "edited-results-taken-for-measured",
        "benchmarks/results/files.py",
        "if results[HASH] != digest(results):",
        "if results[HASH] == digest({}):",
        "benchmarks/test_results.py::test_a_damaged_file_is_one_line_that_names_it",
    ),
    Fault(
        "processes-taken-for-runs-of-one",
        "benchmarks/results/statistics.py",
        "    if count == 1:  # how processes differ is not known",
        "    if count >= 1:  # how processes differ is not known",
        "benchmarks/test_statistics.py::test_processes_that_differ_raise_no_false_alarm",
    ),
    Fault(
        "fd-of-unequal-numbers-compared",
        "benchmarks/quality/evaluator.py",
        'if one["samples"] != other["samples"]:',
        'if one["samples"] > other["samples"]:',
        "benchmarks/test_evaluate.py::test_fd_ratio_needs_equal_numbers_and_one_reference",
    ),
    Fault(
        "unlabelled-rows-count-as-wrong",
        "benchmarks/quality/measures.py",
        "self.asked[name] = self.asked.get(name, 0) + len(answered)",
        "self.asked[name] = self.asked.get(name, 0) + len(pairs)",
        "benchmarks/test_evaluate.py::test_pictures_without_an_attribute_do_not_count_against_it",
    ),
    Fault(
        "jackknife-without-its-factor",
        "benchmarks/quality/frechet.py",
        "np.sqrt((JACKKNIFE_GROUPS - 1) * np.var(left))",
        "np.sqrt(np.var(left))",
        "benchmarks/test_metrics.py::test_fd_interval_covers_the_truth_and_shrinks_with_more_pictures",
    ),
    Fault(
        "imagenet-deviation-left-out",
        "benchmarks/quality/features.py",
        "self.trunk((_at_imagenet_size(images) - self.mean) / self.std)",
        "self.trunk(_at_imagenet_size(images) - self.mean)",
        "benchmarks/test_metrics.py::test_squeezenet_features_are_those_of_torchvisions_own_preprocessing",
    ),
    Fault(
        "sampling-seeds-overlap",
        "benchmarks/quality/sampling.py",
        "seed * SEED_STRIDE + index",
        "seed + index",
        "benchmarks/test_evaluate.py::test_a_model_gets_every_promised_key_and_a_reason_for_every_null",
    ),
    Fault(
        "captions-in-capitals-are-others",
        "src/genin/dataset/splits.py",
        '" ".join(caption.casefold().split())',
        '" ".join(caption.split())',
        "distill/data/test_datasets.py",
    ),
    Fault(
        "metadata-may-name-files-outside",
        "src/genin/dataset/folders.py",
        'return plain.is_absolute() or ".." in plain.parts or',
        "return plain.is_absolute() or",
        "distill/data/test_datasets.py",
    ),
    Fault(
        "shard-key-up-to-the-last-dot",
        "src/genin/dataset/shards.py",
        'path.name.split(".", 1)[0]',
        'path.name.rsplit(".", 1)[0]',
        "distill/data/test_data_shards.py::test_a_key_ends_at_the_first_dot",
    ),
    Fault(
        "captions-unescaped-in-the-page",
        "benchmarks/report/page.py",
        "autoescape=True,",
        "autoescape=False,",
        "benchmarks/test_bench.py::test_a_page_of_evaluations_and_pictures_alone",
    ),
    # --- distill -----------------------------------------------------------------------------------------------------
    Fault(
        "r1-averaged-over-features",
        "distill/student/losses.py",
        "g.float().square().flatten(1).sum(1).mean()",
        "g.float().square().flatten(1).mean(1).mean()",
        "distill/student/test_losses.py",
    ),
    Fault(
        "true-picture-under-another-caption",
        "distill/student/terms/adversarial.py",
        "return true, torch.where(use[..., 0], data.texts[own].float().to(device), text)",
        "return true, text",
        "distill/student/test_distillation.py::test_true_pictures_are_those_of_the_rollouts_captions",
    ),
    Fault(
        "gradients-through-the-sampler",
        "distill/student/rollout.py",
        "self.process.ddim_step(x0.detach(), eps.detach(), t_next)",
        "self.process.ddim_step(x0, eps, t_next)",
        "distill/student/test_terms.py::test_the_losses_of_an_update_are_what_they_were",
    ),
    Fault(
        "pool-seed-not-passed-on",
        "distill/student/pool.py",
        "generator=row_generator(recipe.seed, row)",
        "generator=row_generator(0, row)",
        "distill/student/test_pool.py::test_a_pool_of_another_seed_begins_in_other_noise",
    ),
    Fault(
        "resume-skips-an-update",
        "distill/loop/checkpoint_keeper.py",
        'update_index=int(stored["update_index"]),',
        'update_index=int(stored["update_index"]) + 1,',
        "distill/loop/test_training.py::test_an_interrupted_run_answers_alarms_as_an_uninterrupted_one",
    ),
    Fault(
        "checkpoint-not-flushed-to-disk",
        "distill/loop/checkpoints.py",
        'with atomic_path(path, partial=path.with_suffix(".partial")) as partial:\n            torch.save(',
        'with atomic_path(path, sync=False, partial=path.with_suffix(".partial")) as partial:\n            torch.save(',
        "distill/loop/test_training.py",
    ),
    Fault(
        "early-averages-hold-on",
        "distill/loop/averages.py",
        "1.0 - min(self.decay, (1 + n) / (10 + n))",
        "1.0 - max(self.decay, (1 + n) / (10 + n))",
        "distill/loop/test_training.py::test_averages_of_a_network_that_learns_whole_are_those_of_torch",
    ),
    Fault(
        "second-order-term-doubled",
        "distill/models/diffusion.py",
        "mixed = x0 + (x0 - previous[0]) / (2 * ratio)",
        "mixed = x0 + (x0 - previous[0]) / ratio",
        "distill/models/test_diffusion.py",
    ),
    Fault(
        "discriminator-reads-first-token",
        "distill/student/terms/discriminator.py",
        "self.text(text[:, -1].float())",
        "self.text(text[:, 0].float())",
        "distill/student/test_losses.py",
    ),
    Fault(
        "lora-scale-not-passed-on",
        "distill/models/lora.py",
        "pipeline.fuse_lora(lora_scale=lora.scale)",
        "pipeline.fuse_lora()",
        "distill/models/test_lora.py::test_other_peoples_files_merge_as_they_say",
    ),
    Fault(
        "captions-dropped-the-other-way",
        "distill/teacher/finetune.py",
        "update.rand() < settings.caption_dropout",
        "update.rand() > settings.caption_dropout",
        "distill/teacher/test_finetune.py::test_the_loss_of_an_update_is_that_of_its_formula",
    ),
    Fault(
        "latents-of-an-earlier-encoder",
        "distill/inputs/latents.py",
        "{image_size}-{weights:.6f}-{vae",
        "{image_size}-{vae",
        "distill/inputs/test_latents.py::test_another_count_or_encoder_is_another_cache",
    ),
    Fault(
        "first-value-read-as-unsaid",
        "distill/data/labels.py",
        "index = {value: i + 1 for i, value in enumerate(values)}",
        "index = {value: i for i, value in enumerate(values)}",
        "distill/world/test_world.py::test_labels_are_what_short_captions_say",
    ),
    Fault(
        "skip-channels-cut-in-wrong-order",
        "distill/models/narrowing.py",
        "entrance = [below if index == 0 else own, above if index == layers else own]",
        "entrance = [above if index == layers else own, below if index == 0 else own]",
        "distill/models/test_pruning.py::test_a_narrower_student_is_the_wide_one_where_the_rest_carries_nothing",
    ),
    Fault(
        "noise-on-the-wrong-half",
        "distill/student/decoder.py",
        "noise = torch.zeros_like(latents)\n"
        "        noise[true] = recipe.latent_noise * update.randn(*latents.shape[1:])[true]",
        "noise = recipe.latent_noise * update.randn(*latents.shape[1:])\n        noise[true] = 0",
        "distill/student/test_decoder.py::test_noise_is_added_to_the_latents_of_true_pictures_only",
    ),
    Fault(
        "one-good-row-is-a-win",
        "distill/loop/health.py",
        "if seen and min(seen) > WINS:",
        "if seen and max(seen) > WINS:",
        "distill/loop/test_training.py::test_one_good_row_is_no_win_of_the_discriminator",
    ),
    Fault(
        "shots-of-a-minute-in-two-splits",
        "distill/data/prepare.py",
        "[picture.piece.group for picture in kept]",
        '["" for picture in kept]',
        "distill/data/test_data_films.py::test_a_prepared_film_has_no_minute_in_two_splits",
    ),
    Fault(
        "frames-with-subtitles-preferred",
        "distill/data/video.py",
        "key=lambda look: (look.subtitles_at is None, look.sharpness)",
        "key=lambda look: (look.subtitles_at is not None, look.sharpness)",
        "distill/data/test_data_films.py::test_subtitles_are_avoided_or_cut_off",
    ),
    Fault(
        "edited-table-changes-the-split",
        "distill/data/edit.py",
        "        if name in FIXED:\n            continue\n",
        "",
        "distill/data/test_data_commands.py::test_a_table_changes_neither_names_nor_splits",
    ),
    Fault(
        "a-combination-in-two-splits",
        "distill/world/scene.py",
        '_words("split", *scene.attributes().values())',
        '_words("split", scene.variation, *scene.attributes().values())',
        "distill/world/test_world.py::test_a_split_owns_combinations_not_pictures",
    ),
    # --- src/genin ---------------------------------------------------------------------------------------------------
    Fault(
        "bad-input-exits-1",
        "src/genin/cli.py",
        "except GeninError as error:\n        return _fail(str(error), error.exit_code)",
        "except GeninError as error:\n        return _fail(str(error), 1)",
        "test_cli.py",
    ),
    Fault(
        "reference-of-another-seed-reused",
        "src/genin/names.py",
        "{size}px-seed{seed}-{_renderer_version()}",
        "{size}px-{_renderer_version()}",
        "distill/world/test_world.py::test_references_that_differ_in_anything_have_folders_of_their_own",
    ),
    Fault(
        "other-families-fetched-whole",
        "src/genin/hub/model.py",
        "    else:\n        read_model_index(small)\n    return snapshot(name, wanted)",
        "    return snapshot(name, wanted)",
        "test_hub_models.py::test_a_family_that_is_not_run_is_refused_before_its_weights",
    ),
    Fault(
        "resume-ignores-other-settings",
        "src/genin/quickstart/commands.py",
        'if changed := [key for key, value in asked.items() if value != record["settings"][key]]:',
        'if changed := [key for key in asked if key not in record["settings"]]:',
        "test_quickstart.py::test_a_run_is_resumed_with_its_own_settings_only",
    ),
)


if __name__ == "__main__":
    main()
