"""Draw models side by side by name, as `genin compare` does: options checked, names resolved, the sheet written.

    from genin.benchmarks import CompareOptions, compare

    compare(["builtin:teacher", "student.genin"], "sheet.png", CompareOptions(seed=7))

Not here: the sheet (`report.compare`), the command (`commands`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from genin.benchmarks.contenders import contenders, device_of, reference_folder, refuse_device_without_folders
from genin.benchmarks.grids import Grid
from genin.benchmarks.prompts import prompts_of
from genin.benchmarks.quality.sampling import MAX_SEED
from genin.benchmarks.quality.subjects import Sampling
from genin.benchmarks.report.compare import SheetModel, draw_grid, save_sheet, true_row
from genin.dataset.splits import check_split
from genin.files import claim_output
from genin.runtimes.arguments import local_path, refuse_none, settle, whole
from genin.runtimes.errors import InputError
from genin.runtimes.names import installed_names
from genin.runtimes.vocabulary import AUTO, RUNTIMES, check_choice, check_device, check_text

LAYOUTS = ("rows", "blocks")


@dataclass(frozen=True)
class CompareOptions:
    """What `compare` draws; the defaults are those of `genin compare`.

    Attributes:
        prompts: a text file with one prompt per line, or the prompts; None is a few built in.
        reference: dataset folder, or `builtin:world`, whose captions are drawn below its true pictures.
        split: only this split of the reference.
        count: captions of the reference.
        layout: `rows`: a row with captions for each model; `blocks`: a square of pictures for each.
        seed: column i is drawn from seed `seed + i`.
        steps: of every model; None is its own number.
        runtime, precision: as of `genin.load`.
        device: where PyTorch runs model folders: `cpu`, `cuda`, `cuda:1`, `mps`.
    """

    prompts: str | Path | Sequence[str] | None = None
    reference: str | Path | None = None
    split: str | None = None
    count: int = 8
    layout: Literal["rows", "blocks"] = "rows"
    seed: int = 0
    steps: int | None = None
    runtime: str = AUTO
    precision: str = AUTO
    device: str = "cpu"

    def __post_init__(self) -> None:
        refuse_none(self)
        settle(self, **{name: whole(getattr(self, name), name) for name in ("count", "steps")})
        settle(self, seed=whole(self.seed, "seed", 0, MAX_SEED))
        check_choice(self.layout, LAYOUTS, "layout")
        check_choice(self.runtime, (AUTO, *RUNTIMES), "runtime")
        check_text(self.precision, "precision")
        check_split(self.split)
        settle(self, device=check_device(self.device))
        if self.reference is None and self.split is not None:
            raise InputError("a split is a part of a reference", remedy="name the reference, or leave the split out")
        if self.prompts is not None and self.reference is not None:
            raise InputError("prompts and a reference both say what to draw", remedy="leave one of them out")


def compare(models: str | Path | Sequence[str | Path], out: str | Path, options: CompareOptions | None = None) -> Grid:
    """Draw the same prompts from the same seeds with every model, and write one sheet.

    Args:
        models: built-in names, model folders, bundles, hub names, one or several; one row each.
        out: the PNG file to write.
        options: what to draw, and how.

    Returns: the pictures, N×H×W×3 uint8 per row, with the captions.
    Errors: InputError for names, paths and options that are wrong.
    """
    options, names, out = options or CompareOptions(), installed_names(), local_path(out, "out")
    texts: Sequence[str] = prompts_of(options.prompts)
    claim_output(out, ".png")
    chosen, true, notes = contenders(names, models, options.runtime, options.precision), None, list[str]()
    refuse_device_without_folders(options.device, chosen)
    if options.reference is not None:
        reference = str(options.reference)
        folder = reference_folder(names, reference, options.count, chosen[0].path, options.split)
        texts, true, notes = true_row(folder, reference, options.count, options.split)
    sheet_models = [
        SheetModel(model.label, model.path, Sampling(
            steps=options.steps, runtime=options.runtime, precision=options.precision,
            device=device_of(model.path, options.device),
        ))
        for model in chosen
    ]  # fmt: skip
    grid = replace(draw_grid(sheet_models, texts, options.seed, true), notes=tuple(notes))
    save_sheet(grid, out, options.layout)
    return grid
