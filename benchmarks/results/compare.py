"""Two results compared, row by row: faster, slower, the same within a margin, or unclear.

    genin bench compare OLD.json NEW.json

The same rows of two files are compared as independent runs; rows of one run that took turns are compared round by round. The ratio
is `new / old`, its interval the hierarchical bootstrap's (`statistics`). With the margin m:

- same: the whole interval is between 1/(1 + m) and 1 + m (two one-sided tests, each at 2.5 %);
- slower, faster: the whole interval is above, below 1;
- unclear: it holds 1 and reaches beyond the margin. More processes or a quieter machine narrow it.

A row whose pictures are not right has no speed that could be compared: the verdict is unclear, and a new one counts as a failure.

Not here: measuring, reading the files (`files`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from genin.benchmarks.results.files import Results
from genin.benchmarks.results.statistics import by_process, paired_runs, ratio_interval
from genin.benchmarks.results.table import is_ranked, markdown_table, number, program_of
from genin.runtimes.errors import InputError
from genin.runtimes.vocabulary import nearest
from genin.runtimes.wording import counted

Row = Mapping[str, Any]
Verdict = Literal["faster", "slower", "same", "unclear"]

MARGIN: Final = 0.02
ALIKE: Final = ("device", "threads", "batch_size", "image_size")
CONFIGURATION: Final = ("bundle", "program", "runtime", "precision", "steps", *ALIKE)
SAID: Final = {  # of two rows that are compared although they differ in it
    "precision": "precision",
    "steps": "number of steps",
    "device": "device",
    "threads": "threads",
    "image_size": "picture size",
}
SHOWN: Final = {"faster": "faster", "slower": "**slower**", "same": "same", "unclear": "unclear"}


@dataclass(frozen=True)
class ComparedRow:
    """`ratio` is the new time ÷ the old, with its 95 % interval, None of a single run; `old_name` is the row that
    `name` is compared with."""

    name: str
    old_name: str
    ratio: float
    low: float | None
    high: float | None
    verdict: Verdict
    paired: bool
    old_p50_ms: float
    new_p50_ms: float
    valid: bool
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """All rows that both results have; `warnings` say why the comparison may mislead."""

    rows: tuple[ComparedRow, ...]
    margin: float
    warnings: tuple[str, ...] = ()
    only_in_old: tuple[str, ...] = ()
    only_in_new: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether a row is slower, or draws wrong pictures."""
        return any(row.verdict == "slower" or not row.valid for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"failed": self.failed}


def compare_results(old: Results, new: Results, margin: float = MARGIN, *, strict: bool = False) -> Comparison:
    """The same configurations of two files, rows of the same name, or the only rows of both.

    Errors: InputError if they have no row in common, for files without runs, and with `strict` for two machines.
    """
    warnings = list(_differences(old, new))
    if strict and (machine := next((said for said in warnings if said.startswith("other machine")), None)):
        raise InputError(machine, remedy="measure both on one machine, or compare without --strict")
    pairs = list(_matched(old["results"], new["results"]))
    if not pairs and len(old["results"]) == len(new["results"]) == 1:
        pairs = [(old["results"][0], new["results"][0])]
    if not pairs:
        shown = [", ".join(row["name"] for row in one["results"]) for one in (old, new)]
        raise InputError(f"the results have no configuration in common: {shown[0]}; and {shown[1]}")
    paired = old.get("run_id") is not None and old.get("run_id") == new.get("run_id")
    same_noise = all(old["protocol"].get(key) == new["protocol"].get(key) for key in ("seed", "prompts_sha256"))
    compared = [id(row) for pair in pairs for row in pair]
    return Comparison(
        tuple(_compare(*pair, margin, paired=paired, same_noise=same_noise) for pair in pairs),
        margin,
        tuple(warnings),
        *(tuple(row["name"] for row in one["results"] if id(row) not in compared) for one in (old, new)),
    )


def _matched(old: Sequence[Row], new: Sequence[Row]) -> Iterator[tuple[Row, Row]]:
    """A name tells threads and number only among several rows, so a configuration is known by what it is; by its name where it was
    measured with other threads, say."""
    left = list(old)
    found: dict[int, Row] = {}
    for is_same in (_is_same_row, _is_same_configuration, _has_same_name):
        for row in new:
            if id(row) not in found and (match := next((one for one in left if is_same(one, row)), None)) is not None:
                found[id(row)] = match
                left = [one for one in left if one is not match]
    yield from ((found[id(row)], row) for row in new if id(row) in found)


def _is_same_configuration(one: Row, other: Row) -> bool:
    return all(one.get(key) == other.get(key) for key in CONFIGURATION)


def _has_same_name(one: Row, other: Row) -> bool:
    return bool(one["name"] == other["name"])


def _is_same_row(one: Row, other: Row) -> bool:
    return _is_same_configuration(one, other) and _has_same_name(one, other)


def compare_with(results: Results, baseline: str, margin: float = MARGIN) -> Comparison:
    """All other models of one run against `baseline`, a model of it, on the same runtime and device, in the same precision,
    with the same threads, batch and size, at the same steps if it was measured at them. Where they took turns, rounds are compared.
    `baseline` may be a program, too: then all other programs are compared with it on the same weights.

    Errors: InputError for a model or program that was not measured, or is the only one.
    """
    rows = results["results"]
    models, programs = (list(dict.fromkeys(of(row) for row in rows)) for of in (lambda row: row["bundle"], program_of))
    if baseline not in (*models, *programs):
        raise InputError(f"no model '{baseline}' in these results", remedy=nearest(baseline, [*models, *programs]))
    of, find = (lambda row: row["bundle"], _base_of) if baseline in models else (program_of, _same_weights)
    bases = [row for row in rows if of(row) == baseline]
    others = [row for row in rows if of(row) != baseline]
    pairs = [(base, row) for row in others if (base := find(row, bases)) is not None]
    if not pairs:
        what = f"nothing was measured beside '{baseline}' that it could be compared with"
        raise InputError(what, remedy="measure the same runtime, precision, threads, batch, size and device of both")
    busy = [f"busy machine: {said}" for said in [results["notes"].get("busy")] if said]
    compared = {id(row) for _, row in pairs}
    return Comparison(
        tuple(_compare(*pair, margin, paired=True, same_noise=True) for pair in pairs),
        margin,
        tuple(busy),
        only_in_new=tuple(row["name"] for row in others if id(row) not in compared),
    )


def verdict_of(low: float, high: float, margin: float) -> Verdict:
    """What the interval of a ratio says."""
    if 1 / (1 + margin) <= low and high <= 1 + margin:
        return "same"
    return "slower" if low > 1 else "faster" if high < 1 else "unclear"


def markdown(comparison: Comparison) -> str:
    """For a pull request."""
    rows = comparison.rows
    counts = [f"{count} {word}" for word in SHOWN if (count := sum(row.verdict == word for row in rows))]
    lines = [f"**{', '.join(counts)}**, of {len(rows)}; same: within {100 * comparison.margin:g} %", ""]
    lines += [f"> {warning}" for warning in comparison.warnings]
    lines += [""] if comparison.warnings else []
    others = any(row.name != row.old_name for row in rows)
    names = ["configuration", *(["compared with"] if others else [])]
    names += ["old p50 ms", "new p50 ms", "ratio", "95 % interval", "verdict"]
    cells = [
        [
            row.name,
            *([row.old_name] if others else []),
            number(row.old_p50_ms),
            number(row.new_p50_ms),
            f"{row.ratio:.3f}",
            "–" if row.low is None or row.high is None else f"{row.low:.3f} to {row.high:.3f}",
            SHOWN[row.verdict] if row.valid else "**not valid**",
        ]
        for row in rows
    ]
    lines.append(markdown_table(names, cells, ("configuration", "compared with", "verdict")))
    notes = [f"- {row.name}: {note}" for row in rows for note in row.notes]
    notes += [f"- only in the old results: {name}" for name in comparison.only_in_old]
    notes += [f"- only in the new results: {name}" for name in comparison.only_in_new]
    return "\n".join([*lines, *([""] if notes else []), *notes])


def _compare(old: Row, new: Row, margin: float, *, paired: bool, same_noise: bool) -> ComparedRow:
    groups, as_pairs = runs_of_both(old, new, paired=paired)
    found = ratio_interval(*groups, paired=as_pairs)
    verdict = verdict_of(found.low, found.high, margin) if is_ranked(old) and is_ranked(new) else "unclear"
    notes = list(_notes(old, new, same_noise=same_noise))
    if paired and not as_pairs:
        notes.append("they did not take turns (not all fitted into memory): what changed in between is in the ratio")
    low, high = found.bounds(5) or (None, None)
    if low is None:
        notes.append("a single run does not say how runs differ: measure more of them")
    elif min(len(group) for group in groups) == 1:
        notes.append("one process: how processes differ is not in the interval")
    return ComparedRow(
        name=new["name"],
        old_name=old["name"],
        ratio=round(found.estimate, 5),
        low=low,
        high=high,
        verdict=verdict,
        paired=as_pairs,
        old_p50_ms=old["latency_ms"]["p50"],
        new_p50_ms=new["latency_ms"]["p50"],
        valid=is_ranked(new),
        notes=tuple(notes),
    )


def runs_of_both(old: Row, new: Row, *, paired: bool = True) -> tuple[Any, bool]:
    """Arrays of both, one for each process, and whether they are pairs: of rounds of rows that took turns.

    Errors: InputError for a row without runs."""
    for row in (old, new):
        if not row["samples_ms"]:
            reason = row["notes"].get("samples_ms", "it has no runs")
            raise InputError(f"'{row['name']}' cannot be compared: {reason}", remedy="measure it again")
    if paired and old.get("group") == new.get("group"):
        pairs = paired_runs(*(runs_by_round(row) for row in (old, new)))
        if pairs[0]:
            return pairs, True
    return tuple(by_process(row["samples_ms"], row["samples_process"]) for row in (old, new)), False


def runs_by_round(row: Row) -> dict[tuple[int, int], float]:
    """(process, round) => milliseconds."""
    keys = zip(row["samples_process"], row["samples_round"], strict=True)
    return dict(zip(keys, row["samples_ms"], strict=True))


def _same_weights(row: Row, programs: Sequence[Row]) -> Row | None:
    """The row of another program on the same weights, as measured: on the same engine if possible, otherwise the fastest; of those
    whose pictures are not wrong, if there are any."""
    alike = [
        one
        for one in programs
        if all(one.get(key) == row.get(key) for key in ("steps", *ALIKE)) and _same_model(one, row)
    ]
    exact = [one for one in alike if one["precision"] == row["precision"]]
    same = [one for one in exact if one["runtime"] == row["runtime"]]
    ranked = [one for one in same or exact if is_ranked(one)] or [one for one in exact if is_ranked(one)]
    return min(ranked or same or exact, key=lambda one: one["latency_ms"]["p50"], default=None)


def _same_model(one: Row, other: Row) -> bool:
    """The same bundle or folder, or a bundle and the folder that it was exported from."""
    source = one.get("source_sha256")
    return one["bundle"] == other["bundle"] or (source is not None and source == other.get("source_sha256"))


def _base_of(row: Row, bases: Sequence[Row]) -> Row | None:
    """At the same steps; else the only one, or, of a teacher, which is measured at steps of its own, the first."""
    same = [
        one
        for one in bases
        if all(one.get(key) == row.get(key) for key in ("runtime", "precision", *ALIKE))
        and program_of(one) == program_of(row)
    ]
    at_steps = [one for one in same if one["steps"] == row["steps"]]
    others = same if len(same) == 1 or all(one["role"] == "teacher" for one in same) else []
    return next(iter([*at_steps, *others]), None)


def _differences(old: Results, new: Results) -> Iterator[str]:
    """What the files do not have in common, and what makes either unreliable."""
    machines = [one["machine"] for one in (old, new)]
    shown = [f"{one['processor']}, {counted(one['usable_cores'], 'core')}, {one['system']}" for one in machines]
    if machines[0].get("sha256", shown[0]) != machines[1].get("sha256", shown[1]):
        yield f"other machine: {shown[0]}; and {shown[1]}"
    graphics = [_other_processors(one) for one in (old, new)]
    if all(graphics) and graphics[0] != graphics[1]:
        yield f"other machine: {', '.join(graphics[0])}; and {', '.join(graphics[1])}"
    for name in sorted(machines[0]["packages"].keys() & machines[1]["packages"].keys()):
        releases = [one["packages"][name] for one in machines]
        if releases[0] != releases[1]:
            yield f"{name} {releases[0]} and {releases[1]}"
    for keys in (("warmup", "warmup_s"), ("prompts_sha256",), ("seed",), ("batch_size",)):
        values = [[one["protocol"].get(key) for key in keys] for one in (old, new)]
        if values[0] != values[1] and all(one[0] is not None for one in values):
            yield f"measured with another {keys[0].removesuffix('_sha256')}"
    for name, one in (("old", old), ("new", new)):
        if busy := one["notes"].get("busy"):
            yield f"busy machine ({name}): {busy}"


def _other_processors(results: Results) -> list[str]:
    """What rows ran on beside the CPU, as their runtimes call it: the hash of a machine does not know its graphics cards."""
    return sorted({row["provider"] for row in results["results"] if row.get("device", "cpu") != "cpu"})


def _notes(old: Row, new: Row, *, same_noise: bool) -> Iterator[str]:
    """What rows have not in common; pictures are compared where both drew them of one noise and prompt."""
    yield from new.get("differs", ())
    if new["valid"] is False:
        yield f"its pictures are not right: {'; '.join(new['validity']['reasons'])}"
    if old["valid"] is False:
        yield "the old row's pictures are not right"
    same_program = program_of(old) == program_of(new)
    # Another runtime has another provider, too, and another program usually both.
    engine = [key for key in ("runtime", "provider") if same_program and old[key] != new[key]][:1]
    for key, what in {**{key: key for key in engine}, **SAID}.items():
        if old.get(key) != new.get(key) and None not in (old.get(key), new.get(key)):
            yield f"another {what}: {old[key]}, now {new[key]}"
    weights, pictures = ([one.get(key) for one in (old, new)] for key in ("weights_sha256", "pictures_sha256"))
    alike = same_noise and old.get("pairs") == new.get("pairs")  # of another number of pictures the hash differs anyway
    if same_program and weights[0] == weights[1] and alike and pictures[0] != pictures[1]:
        yield "the same weights draw other pictures"
