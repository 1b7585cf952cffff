"""A model folder => a bundle: every format and precision converted, measured against PyTorch, described, renamed into place.

    from genin.export import ExportOptions, export

    result = export("runs/student", "student.genin", ExportOptions(formats="onnx", precisions="fp16"))
    print(result.manifest.graphs[0].parity)

The bundle is assembled in a hidden folder beside `out` and appears by one rename when all of it is good: no graph below its
parity floor, no half-written bundle.

Not here: assembling (`assembly`), the converters (`converters`), what is good enough (`checks.acceptance`).
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from genin.export.conversion import not_written
from genin.export.converters.formats import formats_of_single, missing_package
from genin.export.precision_plan import Plan, check_name, read_plan, uniform
from genin.export.shapes import MAX_BATCH, Shapes
from genin.files import move_into_place, refuse_existing
from genin.runtimes.arguments import local_path, settle, several, whole
from genin.runtimes.bundle import SUFFIX, is_packed_name, pack
from genin.runtimes.errors import InputError
from genin.runtimes.files import hidden_prefix, refused_write
from genin.runtimes.manifest import Manifest
from genin.runtimes.names import installed_names
from genin.runtimes.progress import progress
from genin.runtimes.vocabulary import ALL_COMPONENTS, COMPONENTS, FORMATS, MORE_PRECISIONS, PRECISIONS, check_choice

if TYPE_CHECKING:
    from genin.export.assembly import Job

NO_BUNDLES = (".onnx", ".xml", ".mlpackage", ".zip", ".tar", ".gz")  # suffixes that suggest another kind of file


@dataclass(frozen=True)
class ExportOptions:
    """What `export` writes; the defaults are those of `genin export`. One value may stand where several are taken.

    Attributes:
        formats: `onnx`, `openvino`, `coreml`. One whose packages are not installed is left out and named in the result.
        precisions: how weights are stored: `fp32`, `fp16`, `int8`, `w8a8`, `palette6`, `palette4`. None is the first three, or none
            beside plans.
        plans: precision plans beside them, or their files (`genin plan`).
        single_graphs: numbers of steps to write as one graph as well, from token ids and noise to the picture.
        batch: of ONNX graphs, 1 to 64; None leaves it free.
        any_size: leave the size of pictures free, in ONNX and OpenVINO.
        vae_encoder: also write the graph that drawing from an image needs.
    """

    formats: str | Sequence[str] = FORMATS
    precisions: str | Sequence[str] | None = None
    plans: Plan | str | Path | Sequence[Plan | str | Path] = ()
    single_graphs: int | Sequence[int] = ()
    batch: int | None = None
    any_size: bool = False
    vae_encoder: bool = True

    def __post_init__(self) -> None:
        every = (*PRECISIONS, *MORE_PRECISIONS)
        wanted = None if self.precisions is None else several(self.precisions)
        settle(
            self,
            formats=tuple(dict.fromkeys(check_choice(format, FORMATS, "format") for format in several(self.formats))),
            precisions=None if wanted is None else tuple(check_choice(one, every, "precision") for one in wanted),
            plans=tuple(plan if isinstance(plan, Plan) else local_path(plan, "a plan") for plan in several(self.plans)),
            single_graphs=tuple(whole(steps, "a single graph's steps") for steps in several(self.single_graphs)),
            batch=whole(self.batch, "batch", 1, MAX_BATCH),
        )

    def shapes(self) -> Shapes:
        """Batch and size of the graphs."""
        return Shapes(self.batch, self.any_size)

    def all_plans(self) -> list[Plan]:
        """The precisions as plans, and the plans beside them. Errors: InputError for a file that is not a plan, or two precisions
        of one name."""
        plans = [plan if isinstance(plan, Plan) else read_plan(Path(plan)) for plan in several(self.plans)]
        for plan in plans:
            check_name(plan.name)
        wanted = (() if plans else PRECISIONS) if self.precisions is None else several(self.precisions)
        ordered = [*(uniform(name) for name in (*PRECISIONS, *MORE_PRECISIONS) if name in wanted), *plans]
        names = [plan.name for plan in ordered]
        if twice := {name for name in names if names.count(name) > 1}:
            raise InputError(f"two precisions are called '{min(twice)}'", remedy="give the plan another 'name'")
        return ordered


@dataclass(frozen=True)
class ExportResult:
    """The bundle at `path`, its manifest, and the formats left out: format => the line that installs what it lacks."""

    path: Path
    manifest: Manifest
    skipped: Mapping[str, str]


def export(model: str | Path, out: str | Path, options: ExportOptions | None = None) -> ExportResult:
    """Export a model folder to a bundle folder, or to one file if `out` ends in `.genin`.

    Args:
        model: a model folder, a built-in name of one, or a hub name.
        out: the bundle to write; it must not exist.
        options: formats, precisions, shapes.

    Returns: the bundle's path and manifest, and what was left out.
    Errors: InputError for an unusable model or an `out` that exists, MissingExtraError if no format can be made here, GeninError if
        a graph is below its parity floor, or pictures differ by more than 8-bit activations and palettes may.
    """
    options, out = options or ExportOptions(), local_path(out, "out")
    plans = options.all_plans()
    usable, skipped = usable_formats(several(options.formats))
    _check_use(options, usable)
    _check_out(out)
    if not (options.formats and plans):
        raise InputError("nothing to export", remedy="name a format and a precision")
    source = installed_names().folder(str(model))
    from genin.export.assembly import Job

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=out.parent, prefix=hidden_prefix(out)))
    except OSError as error:
        raise InputError(f"cannot write here ({error.strerror})", where=out, remedy="name another place") from error
    try:
        steps = tuple(dict.fromkeys(several(options.single_graphs)))
        parts = ALL_COMPONENTS if options.vae_encoder else COMPONENTS
        job = Job(source, partial, out.name, usable, plans, steps, options.shapes(), parts)
        return ExportResult(out, _write(job, out), skipped)
    except OSError as error:
        if (refused := refused_write(error)) is None:
            raise
        raise not_written(out.parent, refused) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(job: Job, out: Path) -> Manifest:
    """Assemble the bundle, and rename it to `out` or pack it there."""
    from genin.distill.models.folder import apply_umask
    from genin.export.assembly import assemble

    with progress("exporting", job.parts, unit="parts", even=False) as shown:
        manifest = assemble(replace(job, progress=shown.begin))
    for path in (job.root, *job.root.rglob("*")):
        apply_umask(path)
    if is_packed_name(out):
        refuse_existing(out)
        pack(job.root, out)
    else:
        move_into_place(job.root, out)
    return manifest


def _check_use(options: ExportOptions, usable: Sequence[str]) -> None:
    """Errors: InputError for an option that none of the formats supports."""
    free = formats_of_single(usable)  # these also have free shapes
    for wanted, what in ((options.single_graphs, "a single graph"), (options.any_size, "a free size")):
        if wanted and not free:
            raise InputError(f"{what} is not available in {', '.join(usable)}", remedy="export onnx or openvino, too")
    if options.batch and "onnx" not in usable:
        raise InputError(
            f"a fixed batch has no effect on {', '.join(usable)}", remedy="leave it out, or export onnx, too"
        )


def _check_out(out: Path) -> None:
    refuse_existing(out)
    if out.suffix.lower() in NO_BUNDLES:
        raise InputError("a bundle is a folder or one .genin file", where=out, remedy=f"name it {out.stem}{SUFFIX}")


def usable_formats(formats: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Those of `formats` that can be made here, and for the others how to install what they lack.

    Errors: MissingExtraError if none is left.
    """
    missing = {name: error for name in formats if (error := missing_package(name))}
    usable = [name for name in formats if name not in missing]
    if formats and not usable:
        raise next(iter(missing.values()))
    return usable, {name: str(error) for name, error in missing.items()}
