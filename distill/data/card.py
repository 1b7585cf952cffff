"""A dataset's card, as the Hugging Face hub has them: `README.md` with front matter, then sizes, sources, rights and licences.

It tells whoever gets the folder whose pictures they are. Nothing here contacts the hub.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCardData

from genin.distill.data.dataset import origins_table
from genin.distill.data.licences import licence_fields
from genin.distill.data.report import PAGE
from genin.runtimes.wording import counted


def dataset_card(report: Mapping[str, Any], origins: Sequence[Mapping[str, Any]], *, page: bool) -> str:
    """The dataset's README.md: front matter of the hub, sizes, whose pictures they are. `page`: whether there is one."""
    dropped = f"{counted(len(report['dropped']), 'was', 'were')} dropped ({PAGE if page else 'dataset.json'} says which and why)"
    metadata = DatasetCardData(
        **licence_fields([str(origin["licence"]) for origin in origins]),
        task_categories=["text-to-image"],
        tags=["genin", "text-to-image", "imagefolder"],
    )
    lines = [
        f"---\n{metadata.to_yaml()}\n---",
        "",
        f"# {Path(report['out']).name}",
        "",
        f"{counted(report['kept'], 'captioned picture')}, prepared by genin; {dropped}.",
        '`datasets.load_dataset("imagefolder", data_dir=…)` opens the folder.',
        "",
        "| split | pictures |",
        "|---|---|",
        *(f"| {split} | {count} |" for split, count in report["splits"].items()),
        "",
        "## Whose pictures they are",
        "",
        *origins_table(origins),
        "",
        "Every row of `metadata.jsonl` names the file that its picture comes from (`source_file`).",
        "",
    ]
    return "\n".join(lines)
