"""`genin compare` through the command line, and the sheet's layout."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from genin.benchmarks.grids import Grid, GridRow
from genin.benchmarks.prompts import read_prompts
from genin.benchmarks.report.compare import (
    BLOCK_GAP_PX,
    CELL_PX,
    COLUMNS,
    GAP_PX,
    LABEL_PX,
    MARGIN_PX,
    draw_sheet,
)
from genin.benchmarks.report.fonts import font_for, wrap
from genin.cli import run
from genin.runtimes.errors import InputError


def solid(*greys: int, size: int = 16) -> np.ndarray:
    return np.stack([np.full((size, size, 3), grey, np.uint8) for grey in greys])


def cell(sheet: Image.Image, row: int, column: int) -> tuple[int, ...]:
    """The colour in the middle of a cell of the first band."""
    step = CELL_PX + GAP_PX
    place = (MARGIN_PX + LABEL_PX + column * step + CELL_PX // 2, MARGIN_PX + row * step + CELL_PX // 2)
    return sheet.getpixel(place)


def test_models_are_drawn_from_the_same_seeds(
    tiny_model_folder: Path, tiny_student_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, out = tmp_path / "prompts.txt", tmp_path / "out" / "sheet.png"
    prompts.write_text("ninja on the mountain\nninja meditating under the sunset\n", encoding="utf-8")
    models = [str(tiny_model_folder), str(tiny_student_folder), str(tiny_student_folder)]
    arguments = ["compare", *models, "--prompts", str(prompts), "--steps", "1", "--seed", "5", "--out", str(out)]
    assert run([*arguments, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert facts["out"] == str(out) and facts["seed"] == 5 and len(facts["prompts"]) == 2
    assert facts["models"] == ["teacher", models[1], models[2]]  # labels that would be alike stay whole
    sheet = np.asarray(Image.open(out).convert("RGB")).astype(int)
    step, left = CELL_PX + GAP_PX, MARGIN_PX + LABEL_PX
    rows = [sheet[MARGIN_PX + row * step :][:CELL_PX, left : left + CELL_PX] for row in range(3)]
    assert np.array_equal(rows[1], rows[2])  # the same model, seed and steps: the same pictures
    assert not np.array_equal(rows[0], rows[1])  # the teacher is guided
    assert not list(out.parent.glob(".*"))


def test_captions_of_a_reference_are_drawn_below_its_true_pictures(
    tiny_student_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through the command line, as blocks: the first square holds the folder's own pictures, in its order."""
    folder, out = tmp_path / "true", tmp_path / "blocks.png"
    folder.mkdir()
    rows = []
    for index, grey in enumerate((20, 90, 160, 230, 60)):
        Image.fromarray(solid(grey, size=64)[0]).save(folder / f"{index}.png")
        rows.append({"file_name": f"{index}.png", "text": f"ninja {index}"})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    command = ["compare", str(tiny_student_folder), "--steps", "1", "--layout", "blocks", "--out", str(out)]
    assert run([*command, "--reference", str(folder), "--count", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["prompts"] == [f"ninja {n}" for n in range(4)]
    sheet = np.asarray(Image.open(out))
    step, first = CELL_PX + BLOCK_GAP_PX, (MARGIN_PX + CELL_PX // 2, MARGIN_PX + 44 + CELL_PX // 2)
    found = [int(sheet[first[1] + y * step, first[0] + x * step, 0]) for y in (0, 1) for x in (0, 1)]
    assert found == [20, 90, 160, 230]
    assert sheet.shape[1] == 3 * MARGIN_PX + 2 * (2 * CELL_PX + BLOCK_GAP_PX)
    assert run([*command, "--reference", str(folder), "--prompts", str(folder / "metadata.jsonl")]) == 2
    assert run([*command, "--split", "val"]) == 2
    assert "a split is a part of a reference" in capsys.readouterr().err
    for row, split in zip(rows, ("train", "validation", "test", "train", "validation"), strict=True):
        row["split"] = split
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert run([*command, "--reference", str(folder), "--split", "held-out", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["prompts"] == ["ninja 1", "ninja 2", "ninja 4"]
    (folder / "2.png").write_bytes(b"no picture")
    assert run([*command, "--reference", str(folder), "--count", "4", "--json"]) == 0
    said = capsys.readouterr()
    assert "1 unreadable picture: 2.png" in said.err
    facts = json.loads(said.out.splitlines()[-1])
    assert facts["notes"] == ["1 unreadable picture: 2.png"] and "ninja 2" not in facts["prompts"]


def test_rows_are_models_columns_are_prompts_captions_stand_below() -> None:
    rows = (GridRow("teacher", "100 steps", solid(10, 60)), GridRow("student", "1 step", solid(110, 160)))
    grid = Grid("Seeds", ("a short caption", "a caption that is long enough to need a second line of text"), rows)
    sheet = draw_sheet(grid)
    assert [[cell(sheet, row, column)[0] for column in (0, 1)] for row in (0, 1)] == [[10, 60], [110, 160]]
    assert sheet.width == 2 * MARGIN_PX + LABEL_PX + 2 * CELL_PX + GAP_PX
    pixels = np.asarray(sheet)
    below = pixels[MARGIN_PX + 2 * (CELL_PX + GAP_PX) : -MARGIN_PX]
    assert below.min() < 140  # captions are there
    assert (pixels[:, -MARGIN_PX:] == pixels[0, 0]).all() and (pixels[-MARGIN_PX:] == pixels[0, 0]).all()
    assert pixels[MARGIN_PX:, :LABEL_PX].min() < 60  # and labels


def test_many_prompts_are_set_in_bands() -> None:
    count = COLUMNS + 1
    one = draw_sheet(Grid("", ("x",) * COLUMNS, (GridRow("m", "d", solid(*range(COLUMNS))),)))
    two = draw_sheet(Grid("", ("x",) * count, (GridRow("m", "d", solid(*range(count))),)))
    assert two.width == one.width and two.height > one.height + CELL_PX


def test_a_caption_of_any_length_is_wrapped_at_once() -> None:
    font = font_for("", 14)
    for text in ("1" * 10**6, "ninja " * 10**5, "\u0301" * 10**5):
        start = time.process_time()
        assert 1 <= len(wrap(text, font, 200)) <= 6
        assert time.process_time() - start < 1


def test_captions_wrap_and_end() -> None:
    font = ImageFont.load_default(14)
    lines = wrap("a ninja in an orange outfit meditating on a mountain", font, 120)
    assert len(lines) > 1 and " ".join(lines) == "a ninja in an orange outfit meditating on a mountain"
    assert all(font.getlength(line) <= 120 for line in lines)
    assert "".join(wrap("n" * 60, font, 100, max_lines=99)) == "n" * 60
    cut = wrap("word " * 100, font, 100, max_lines=2)
    assert len(cut) == 2 and cut[1].endswith("…") and font.getlength(cut[1]) <= 100
    assert wrap("", font, 100) == []
    assert wrap("a-rather-long-model-name-v2.genin", font, 130)[0].endswith("-")


def test_other_letters_than_ascii_are_set_too() -> None:
    for text in ("café — Ниндзя", "plain"):
        font = font_for(text, 14)
        missing = bytes(font.getmask("\uffff"))
        assert all(bytes(font.getmask(letter)) != missing for letter in text.replace(" ", ""))


def test_prompts_come_from_text_or_jsonl(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\n two \n", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('{"file_name": "x.png", "text": "three"}\n', encoding="utf-8")
    assert read_prompts(tmp_path / "a.txt") == ["one", "two"] and read_prompts(tmp_path / "b.jsonl") == ["three"]
    (tmp_path / "c.jsonl").write_text("plain\n", encoding="utf-8")
    with pytest.raises(InputError, match='row 1 is not a JSON object with "text"'):
        read_prompts(tmp_path / "c.jsonl")
    with pytest.raises(InputError, match="no such file"):
        read_prompts(tmp_path / "absent.txt")


def test_refusals(tiny_student_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", str(tiny_student_folder), "--out", str(tmp_path / "sheet.jpg")]) == 2
    assert "end in .png" in capsys.readouterr().err
    assert run(["compare", str(tmp_path / "absent"), "--out", str(tmp_path / "sheet.png")]) == 2
    assert "no such" in capsys.readouterr().err


@pytest.mark.parametrize(("side", "cell"), [(64, 192), (128, 256), (200, 200)])
def test_pictures_are_enlarged_by_whole_numbers(side: int, cell: int) -> None:
    stripes = np.zeros((1, side, side, 3), np.uint8)
    stripes[:, :, 1::2] = 255
    sheet = np.asarray(draw_sheet(Grid("", ("x",), (GridRow("m", "d", stripes),))))
    left = MARGIN_PX + LABEL_PX
    found = sheet[MARGIN_PX + 8, left : left + cell, 0].astype(int)
    assert sheet.shape[1] == left + cell + MARGIN_PX
    assert len(set(found[cell // 4 : cell // 2 : 2 * cell // side])) == 1  # every stripe is like every other
