"""An evaluation in several processes: each draws its share of the pictures, and the first measures.

    torchrun --nproc_per_node 2 -m genin evaluate …

Whole batches are distributed, so that each is drawn as one process would draw it, and pictures are PNG files in one folder: the
first process finds them there and continues as if an earlier run had drawn them. The figures are those of one process. Where the
machines share no folder, the first draws the missing ones.

Not here: who is first, and waiting (`processes`), drawing (`sampling`), measuring (`evaluate`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from genin.benchmarks.quality.evaluator import Against, Evaluator, SaveTo
from genin.benchmarks.quality.sampling import Share, claim_folder, draw_share
from genin.benchmarks.quality.statistics_file import is_statistics
from genin.benchmarks.quality.subjects import ModelSubject, Sampling, is_model, open_subject
from genin.processes import broadcast_from_main, is_main_process, main_process_first, number, processes, wait_for_all


def evaluate_in_shares(
    evaluator: Evaluator,
    model: Path,
    sampling: Sampling,
    *,
    against: Against | None = None,
    save: SaveTo | None = None,
    floor: bool = False,
) -> dict[str, Any] | None:
    """`Evaluator.evaluate` by all processes of the run; its result in the first, None in the others. Errors: as there."""
    save = save or SaveTo()
    with _folder(save.images) as folder:
        if not floor:
            _draw(evaluator, model, sampling, folder)
        if against is not None and not is_statistics(against.path):
            _draw(evaluator, against.path, against.sampling, folder / "against")
        wait_for_all()
        if not is_main_process():
            return None
        images = None if floor and against is None else folder
        return evaluator.evaluate(model, sampling, against=against, save=replace(save, images=images), floor=floor)


def _draw(evaluator: Evaluator, model: Path, sampling: Sampling, folder: Path) -> None:
    """Draw this process's share of the pictures for a model's evaluation; nothing for a folder of pictures."""
    if not is_model(model):
        return
    with open_subject(model, sampling) as subject:
        assert isinstance(subject, ModelSubject)
        rows, settings = evaluator.rows(), subject.settings()
        for part, place in ((rows, folder), (evaluator.other_seeds(rows), folder / "other_seeds")):
            if not part:
                continue
            with main_process_first():
                claim_folder(place, settings)
            share = Share(number(), processes(), sampling.batch_size)
            draw_share(subject.pipeline, part, settings, place, share, title=f"sampling {model.name}")


@contextmanager
def _folder(named: Path | None) -> Iterator[Path]:
    """The folder of the pictures: the one that is to keep them, else one that the first process makes and removes."""
    if named is not None:
        yield named
    elif not is_main_process():
        yield Path(broadcast_from_main(""))
    else:
        with tempfile.TemporaryDirectory(prefix="genin-evaluate-") as made:
            yield Path(broadcast_from_main(str(Path(made) / "pictures")))
