"""The page of a benchmark: what it shows of a row, and, in a real browser, that it fits a desk and a phone."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from browser import CHROMIUM, COMMAND, evaluate
from genin.benchmarks.grids import Grid, GridRow
from genin.benchmarks.report.filters import facets_of, filters_of
from genin.benchmarks.report.pictures import data_uri, difference_text, page_grids
from genin.benchmarks.report.plots import quality_latency_svg, quality_legend, sustained_legend, sustained_svg
from genin.benchmarks.report.report import Report, render
from genin.benchmarks.results.files import seal
from pages import bench_page, bench_rows, merged_page
from result_files import results, row


@pytest.fixture
def page() -> str:
    frames = {"frames": 1200, "p50_ms": 16.7, "p99_ms": 19.4, "worst_ms": 33.2, "late_percent": 1.9}
    layers = [{"layer": "down.0/conv", "kind": "Conv", "ms": 1.2, "share": 0.12}]
    operators = {"calls": 4.0, "ms": 10.2, "kinds": [{"kind": "Conv", "operators": 40, "ms": 7.1, "share": 0.7}]}
    more: dict[str, Any] = {"speedup": 61.4, "fd_ratio": 1.02, "lpips_squeeze_to_teacher": 0.12, "matmul_share": 0.61}
    more |= {"joules_per_picture": 0.51}
    first = row("student-with-a-long-name", 14.7) | more
    first |= {"frames": {"off": frames, "thread": frames}, "operators": {"unet": operators | {"layers": layers}}}
    peer = row("student", 31.0) | more | {"program": "optimum-onnx", "name": "student · optimum-onnx", "fd_ratio": 1.1}
    peer["notes"] = {"stages_ms": "optimum-onnx does not tell them"}
    slow = row("teacher", 918.0) | {"runtime": "pytorch", "precision": "fp32", "steps": 100, "fd_ratio": 1.0}
    return render(Report(seal(results(first, peer, slow))))


def test_a_row_is_a_model_and_what_tells_it_apart_then_its_latency(page: str) -> None:
    rows = re.findall(r'<th scope="row">(.*?)<span>(.*?)</span></th>\s*<td>(.*?)</td>', page)
    assert rows == [
        ("student-with-a-long-name", "onnxruntime fp16, 4 steps", "14.7"),
        ("student", "optimum-onnx onnxruntime fp16, 4 steps", "31.0"),
        ("teacher", "pytorch fp32, 100 steps", "918"),
    ]
    assert '<th scope="col">p50 ms</th>' in page and '<th scope="col">runtime</th>' not in page
    assert "Each bar is the whole of its own time." in page
    assert len(re.findall('class="bar"', page)) == 2  # a peer does not tell its stages
    assert "Painter, thread" in page and "33.2" in page  # frames, without Markdown's marks
    assert (
        "<summary>student-with-a-long-name · onnxruntime fp16 · 4 steps: unet, 10.2 ms" in page
        and "down.0/conv" in page
    )


def test_a_peer_is_named_beside_its_point() -> None:
    rows = [
        row("a", 8.0) | {"fd_ratio": 1.0},
        row("a", 20.0) | {"fd_ratio": 1.0, "program": "diffusers", "runtime": "ggml"},
    ]
    svg = quality_latency_svg(rows)
    assert svg is not None and ">diffusers<" in svg
    assert quality_legend(rows) == [
        ("●", "--s1", "a, 4 steps", (0, 1)),
        ("■", "--soft", "onnxruntime", (0,)),
        ("✖", "--soft", "ggml", (1,)),
        ("◐", "--soft", "fp16", (0, 1)),
    ]


@pytest.mark.parametrize("count", [6, 8])
def test_more_series_than_colours_have_numbers(count: int) -> None:
    windows = [{"at_s": 60.0 * at, "seconds": 60.0, "p50_ms": 8.0 + at} for at in range(3)]
    rows = [row(f"m{i}", 8.0 + i) | {"fd_ratio": 1.0 + i, "sustained": {"windows": windows}} for i in range(count)]
    for legend, svg in ((quality_legend, quality_latency_svg), (sustained_legend, sustained_svg)):
        series = [line for line in legend(rows) if line.colour != "--soft"]
        numbers = [re.match(r"(\d+)\. m\d", line.text) for line in series]
        assert [number and number[1] for number in numbers] == (
            [None] * 6 if count == 6 else [str(i + 1) for i in range(8)]
        )
        numbered = re.findall(r'data-rows="(\d)">\s*<text[^>]*>(\d)</text>', svg(rows) or "")
        assert numbered == ([] if count == 6 else [(str(i), str(i + 1)) for i in range(8)])


def test_a_page_says_which_of_its_parts_are_about_which_row() -> None:
    page = bench_page()
    assert len(re.findall(r'<tr[^>]* data-rows="\d">', page)) == 5 + 2 + 5  # the table, and both grids
    assert re.findall(r'<tr data-rows="([\d ]+)"><th scope="row">student<span>onnxruntime fp32', page) == ["0 1 2 3"]
    svgs = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert [sorted(set(re.findall(r'<g data-rows="(\d)"', svg))) for svg in svgs] == [["0", "1", "3", "4"], ["0"]]
    assert re.search(
        r'<li data-rows="1"><span[^>]*>◆</span>openvino</li>', page
    )  # its int8 is not valid, so not plotted
    assert page.count('<div class="bar" role="img" aria-label="text encoder: 1.47 ms, UNet: 10.3 ms') == 1
    assert '<option value="8">× 8</option>' in page and "largest 1 of 255, mean 0.250" in page and ">identical<" in page


def test_filters_are_there_only_where_there_is_a_choice() -> None:
    rows = bench_rows()
    assert filters_of(facets_of(rows[:1])) == [] and filters_of([]) == []
    named = dict(filters_of(facets_of(rows)))
    assert list(named) == ["model", "program", "runtime", "precision", "valid"]
    assert [value for value, _ in named["runtime"]] == ["onnxruntime", "openvino", "pytorch"]
    devices = re.findall(r'name="device" value="(.*?)"', merged_page())
    assert devices == ["Some Processor, 2 cores", "A phone, 8 cores"]


def test_a_row_of_the_page_costs_little_beyond_its_pictures() -> None:
    """Pictures are there once: their difference is made by the page."""
    pictures = np.random.default_rng(0).integers(0, 255, (6, 64, 64, 3), np.uint8)
    rows = [
        GridRow("student", f"row {index}", pictures, f"row {index}", "row 0" if index else "") for index in range(9)
    ]
    sizes = [len(render(Report(grids=[Grid("Same", ("a ninja",) * 6, tuple(rows[:count]))]))) for count in (3, 9)]
    own = sum(len(data_uri(picture)) for picture in pictures)
    assert (sizes[1] - sizes[0]) / 6 < own + 2_500


def test_reference_pictures_of_another_size_are_not_compared() -> None:
    small, large = np.zeros((1, 8, 8, 3), np.uint8), np.zeros((1, 16, 16, 3), np.uint8)
    rows = (GridRow("a", "fp32", large, "ref"), GridRow("a", "other", small, "own", "ref"))
    (grid,) = page_grids([Grid("Same", ("x",), rows)], {"own": 0})
    assert [(row["against"], row["differences"], row["places"]) for row in grid["rows"]] == [
        (None, [], ""),
        (None, [], "0"),
    ]
    assert difference_text(small[0], small[0] + 3) == "largest 3 of 255, mean 3.000"
    assert difference_text(small[0] + 3, small[0]) == "largest 3 of 255, mean 3.000"


# --- in a browser ----------------------------------------------------------------------------------------------------

USE = """(() => {
  const all = (selector) => [...document.querySelectorAll(selector)], box = (value) => all(`input[value="${value}"]`)[0];
  const shown = () => all("table.measured tbody tr").filter((row) => row.checkVisibility()).map((row) => row.rowIndex);
  const said = () => document.querySelector("[role=status]").textContent, found = {form: all("#controls:not([hidden])").length};
  found.read = [shown(), box("fp16").checked, document.querySelector("#show").value, said(), all(".compared").length];
  box("fp16").click();
  box("only").click();
  found.valid = [shown(), said(), location.hash];
  found.points = all("svg g[data-rows]:not([hidden])").map((one) => one.dataset.rows).join("");
  box("pytorch").click();
  box("openvino").click();
  found.two = [shown(), said(), all("section:not([hidden]) h2").map((one) => one.textContent)];
  document.querySelector("#controls button").click();
  found.all = [shown(), said(), location.hash];
  const pictures = all("table.pictures button"), dialog = document.querySelector("dialog");
  pictures[0].focus();
  pictures[0].click();
  const press = (key) => document.activeElement.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true, cancelable: true}));
  const texts = () => all("dialog b, dialog p").map((one) => one.textContent);
  const scales = all("dialog img").map((one) => one.width / one.naturalWidth);
  found.enlarged = [dialog.open, texts(), scales, getComputedStyle(all("dialog img")[0]).imageRendering];
  press("ArrowRight");
  press("ArrowDown");
  found.moved = texts();
  dialog.close();
  return found;
})()"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
@pytest.mark.processes
def test_what_is_chosen_is_shown_and_in_the_address_and_pictures_are_enlarged(tmp_path: Path) -> None:
    found = evaluate(bench_page(), USE, tmp_path, fragment="#precision=fp16&show=8&nonsense=1")
    assert found["form"] == 1 and found["read"] == [[1, 2, 4], True, "8", "3 of 5 configurations are shown.", 10]
    assert found["valid"] == [[1, 2, 4, 5], "4 of 5 configurations are shown.", "#valid=only&show=8"]
    assert found["points"] == "013430"  # of quality (a peer has its name, too), and over time
    assert found["two"] == [[2, 5], "2 of 5 configurations are shown.", found["two"][2]]
    assert "Measured" in found["two"][2] and "Latency over time" not in found["two"][2]
    assert found["all"] == [[1, 2, 3, 4, 5], "All 5 configurations are shown.", "#show=8"]
    opened, texts, scales, rendering = found["enlarged"]
    assert (
        opened and rendering == "pixelated" and texts == ["student", "Reference: student", "Difference × 8", "a ninja"]
    )
    assert len(scales) == 4 and len(set(scales)) == 1 and scales[0] > 10 and scales[0] == int(scales[0])
    assert found["moved"] == ["teacher", "a calm ninja with a sword"]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
@pytest.mark.processes
def test_a_difference_is_that_of_the_pixels_so_many_times(tmp_path: Path) -> None:
    one, other = (np.full((1, 64, 64, 3), colour, np.uint8) for colour in ((103, 50, 195), (100, 50, 200)))
    rows = (GridRow("a", "fp32", other, "reference"), GridRow("a", "int8", one, "own", "reference"))
    file = tmp_path / "page.html"
    file.write_text(render(Report(grids=[Grid("Same", ("x",), rows)])), encoding="utf-8")
    command = [str(CHROMIUM), *COMMAND, f"--screenshot={tmp_path / 'shot.png'}", f"{file.as_uri()}#show=8"]
    subprocess.run(command, capture_output=True, check=True, timeout=100)
    shown = np.asarray(Image.open(tmp_path / "shot.png").convert("RGB"))
    assert (shown == (24, 0, 40)).all(2).sum() > 10_000 and (shown == (100, 50, 200)).all(2).sum() > 10_000
    assert not (shown == (103, 50, 195)).all(2).any()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
@pytest.mark.processes
@pytest.mark.parametrize(("width", "whole"), [(1300, True), (390, False)])
def test_it_fits_a_desk_and_shows_latency_on_a_phone(page: str, width: int, whole: bool, tmp_path: Path) -> None:
    measure = """(() => {
    const right = (name) => document.querySelector(name).getBoundingClientRect().right;
    return {page: document.documentElement.scrollWidth, table: right("table.measured"), form: right("#controls"),
      latency: right("table.measured tbody td"), interval: right("table.measured tbody td:nth-child(3)"),
      plot: right("figure.plot svg"), width: innerWidth};
    })()"""
    found = evaluate(page, measure, tmp_path, width=width)
    assert found["width"] == width and found["page"] <= width  # only tables scroll, inside the page
    assert found["latency"] < found["interval"] < width and found["plot"] <= width and found["form"] <= width
    assert (found["table"] <= width) == whole
