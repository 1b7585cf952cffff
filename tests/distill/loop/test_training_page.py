"""What people look at while a training runs: grids with words, curves, the page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("jinja2")

from genin.distill.loop.page import MOST_GRIDS, PAGE, write_page
from genin.distill.loop.previews import SHOWN_PX, TEXT_PX, read_cells, save_grid


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
    assert (said[:TEXT_PX] < 60).any(), "nothing is written above the first row"


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


@pytest.mark.parametrize("size", [32, 50, 192, 300])
def test_a_grid_says_where_its_pictures_are(tmp_path: Path, size: int) -> None:
    rows = [grey(40, 3, size), grey(90, 2, size), grey(200, 3, size)]
    save_grid(
        rows, tmp_path / "a.png", labels=["teacher", "4 steps", "1 step"], captions=[(), (), ["é", "b" * 99, "c"]]
    )
    found = read_cells(tmp_path / "a.png")
    assert found is not None
    cells, extent = found
    picture = Image.open(tmp_path / "a.png").convert("L")
    assert picture.size == extent and cells.counts == (3, 2, 3) and cells.captions[2] == ("é", "b" * 99, "c")
    for top, count, value in zip(cells.tops, cells.counts, (40, 90, 200), strict=True):
        for column in range(count):
            left = cells.left + column * cells.step
            assert picture.crop((left, top, left + cells.width, top + cells.height)).getextrema() == (value, value)


def test_captions_are_text_on_the_page(tmp_path: Path) -> None:
    """In the picture they shrink with it: there are ten beside each other."""
    folder = tmp_path / "out" / "training"
    folder.mkdir(parents=True)
    (folder / "steps.log.jsonl").write_text('{"update": 50, "images_seen": 8, "loss": 1}\n')
    rows, captions = [grey(10), grey(120)], ["a ninja", "<two> ninjas", 'it\'s "night"']
    save_grid(
        rows, folder / "steps.samples-00000008.png", labels=["teacher", "student, 1 step"], captions=[(), captions]
    )
    save_grid(rows, folder / "steps.samples-00000004.png", captions=[captions, captions])
    (folder / "steps.samples-00000002.png").write_bytes(b"no picture")
    write_page(folder)
    page = (folder / PAGE).read_text("utf-8")
    assert page.count('class="card"') == 3 + 6 and page.count('role="img"') == 12 and page.count("<img") == 1
    assert page.count("&lt;two&gt; ninjas") == 3 + 2 * 2 and "<two>" not in page
    assert page.count("<span>teacher</span>") == page.count("<span>student, 1 step</span>") == 3
    assert "url('steps.samples-00000008.png')" in page
