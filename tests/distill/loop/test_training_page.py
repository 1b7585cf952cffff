"""What people look at while a training runs: grids with words, curves, the page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("jinja2")

from genin.distill.loop.page import MOST_GRIDS, PAGE, write_page
from genin.distill.loop.previews import SHOWN_PX, save_grid


def grey(value: int, count: int = 3, size: int = 32) -> np.ndarray:
    return np.full((count, size, size, 3), value, np.uint8)


def test_a_grid_has_its_pictures_between_labels_and_captions(tmp_path: Path) -> None:
    rows = [grey(10), grey(120)]
    save_grid(rows, tmp_path / "plain.png")
    save_grid(
        rows, tmp_path / "said.png", labels=["teacher", "student"], captions=[["a ninja"] * 3, ["é 忍 " * 30] * 3]
    )
    plain, said = (
        np.asarray(Image.open(tmp_path / name).convert("RGB")).astype(int) for name in ("plain.png", "said.png")
    )
    assert plain.shape[1] == said.shape[1] >= 3 * SHOWN_PX and said.shape[0] > plain.shape[0] + 60
    for value in (10, 120):
        assert (said == value).all(2).sum() == pytest.approx((plain == value).all(2).sum(), rel=0.01)
    assert (said[:12] < 60).any(), "nothing is written above the first row"


def test_the_page_of_a_running_training_loads_itself_anew(tmp_path: Path) -> None:
    folder = tmp_path / "<out>" / "training"
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text("finetune:\n  images: 100\n")
    (folder / "finetune.log.jsonl").write_text(
        '{"update": 50, "images_seen": 1600, "loss": 0.25, "images_per_s": 9.5}\n{"upd'
    )
    event = {"update": 7, "says": "the loss <b>jumped</b>", "did": "back to update 0"}
    (folder / "finetune.events.jsonl").write_text(json.dumps(event) + "\n")
    for number in range(2 * MOST_GRIDS):
        (folder / f"finetune.samples-{number:08d}.png").touch()
    (folder / "finetune.curves.png").touch()
    write_page(folder, running="finetune", progress=0.5)
    page = (folder / PAGE).read_text("utf-8")
    assert 'http-equiv="refresh"' in page and "50 %" in page and "1,600 images" in page and "0.25" in page
    assert "<b>jumped" not in page and "&lt;out&gt;" in page and "images: 100" in page and "http:" not in page
    assert page.count("<img") == 1 + MOST_GRIDS and f"samples-{2 * MOST_GRIDS - 1:08d}.png" in page
    write_page(folder)
    assert 'http-equiv="refresh"' not in (folder / PAGE).read_text("utf-8")
