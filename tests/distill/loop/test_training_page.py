"""What people look at while a training runs: grids with words, curves, the page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("jinja2")

from genin.distill.loop.page import MOST_GRIDS, PAGE, saying_how_it_ends, write_page
from genin.distill.loop.page_curves import curves, figures, ticks_between
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
    write_page(folder, running="finetune", progress=0.5)
    page = (folder / PAGE).read_text("utf-8")
    assert (
        'http-equiv="refresh"' in page
        and "50 %" in page
        and "1,600 images" in page
        and "<svg" not in page
        and "0.25" in page
    )
    assert "<b>jumped" not in page and "&lt;out&gt;" in page and "images: 100" in page and "http:" not in page
    assert page.count("<img") == MOST_GRIDS and f"samples-{2 * MOST_GRIDS - 1:08d}.png" in page
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
    assert page.count('class="card"') == 6 and page.count('role="img"') == 12 and page.count("<img") == 1
    assert page.count("&lt;two&gt; ninjas") == 2 + 1 + 2 * 2 and "<two>" not in page
    assert page.count("<p>teacher</p>") == page.count("<p>student, 1 step</p>") == 1
    assert "url('steps.samples-00000008.png')" in page


LOG = "steps.log.jsonl"


def words(folder: Path) -> str:
    return " ".join((folder / PAGE).read_text("utf-8").split())


def a_run(tmp_path: Path, *, seen: int = 50) -> Path:
    folder = tmp_path / "out" / "training"
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text("steps:\n  images: 100\n  step_counts: [4, 2]\nteacher:\n  images: 7\n")
    (folder / "run.json").write_text('{"teacher": "a", "data": "b"}')
    (folder / LOG).write_text(json.dumps({"update": 1, "images_seen": seen, "loss": 1, "elapsed_s": 3661}) + "\n")
    return folder


def test_the_page_says_how_the_run_ended(tmp_path: Path) -> None:
    folder = a_run(tmp_path)
    write_page(folder, running="steps", progress=1.0)
    assert "Running: steps is done" in words(folder), "other stages may follow"
    with saying_how_it_ends(folder):
        pass
    assert "the minutes were over before steps had seen all images" in words(folder)
    assert "steps: 50 of 100 images" in words(folder) and "1 h 01 min" in words(folder)
    for error, said in (
        (KeyboardInterrupt("at update 7"), "Interrupted. Written"),
        (ValueError("no <space> left\nline"), "Stopped by an error: no &lt;space&gt; left. Written"),
    ):
        with pytest.raises(type(error)), saying_how_it_ends(folder):
            raise error
        assert said in words(folder) and "<code>--resume</code>" in words(folder) and "Running" not in words(folder)
    (folder / LOG).write_text('{"update": 2, "images_seen": 128}\n')
    with saying_how_it_ends(folder):
        pass
    assert "Finished 2" in words(folder) and "minutes" not in words(folder) and "128 images" in words(folder)


def test_a_run_that_has_logged_nothing_gets_no_page(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="early"), saying_how_it_ends(tmp_path):
        raise ValueError("early")
    assert not (tmp_path / PAGE).exists()


def test_the_page_shows_first_the_settings_that_differ(tmp_path: Path) -> None:
    folder = a_run(tmp_path)
    write_page(folder)
    page = words(folder)
    assert '<td>steps.step_counts</td><td class="text">[4, 2]</td><td class="text">[4, 2, 1]</td>' in page
    assert "<pre>images: 100 step_counts: [4, 2] </pre>" in page
    assert "<h3>steps</h3>" in page and "<h3>teacher</h3>" not in page and "Not used: teacher." in page
    (folder / "recipe.yaml").write_text("steps: [")
    write_page(folder)
    assert "None are known." in words(folder)


def test_curves_have_three_points_or_more() -> None:
    rows = [{"images_seen": 10 * at, "loss": 1 / at, "only": 1 / at, "kid": 0.5, "kid_error": 0.1} for at in (1, 2, 3)]
    drawn = curves([*rows, {"images_seen": 40, "loss": float("nan"), "late": 2, "word": "no"}])
    assert [curve["title"] for curve in drawn] == ["loss", "KID of held-out captions"]
    assert len(drawn[0]["marks"]) == 3 and not drawn[0]["band"] and drawn[1]["band"]
    assert figures([*rows, {"images_seen": 40, "late": 2}]) == [("late", "2")]
    assert figures(rows[:2], ["loss"]) == [("KID of held-out captions", "0.5")]
    (many,) = curves([{"images_seen": at, "loss": at} for at in range(5000)])
    assert len(many["line"].split()) <= 241 and many["last"] == "4,999" and many["end"] == "4,999 images"


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.138, 0.139), (-3.2, 900), (5, 5), (0, 0), (-2, -2), (1e-9, 3e-9)])
def test_ticks_are_few_and_span_the_values(low: float, high: float) -> None:
    ticks = ticks_between(low, high)
    assert 2 <= len(ticks) <= 5 and ticks[0] <= low <= high <= ticks[-1] and sorted(set(ticks)) == ticks
