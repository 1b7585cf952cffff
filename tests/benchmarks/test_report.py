"""The page of a benchmark: what it shows of a row, and, in a real browser, that it fits a desk and a phone."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from genin.benchmarks.report.plots import quality_latency_svg, quality_legend
from genin.benchmarks.report.report import Report, render
from genin.benchmarks.results.files import seal
from result_files import results, row

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


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
        ("●", "--s1", "a, 4 steps"),
        ("■", "--soft", "onnxruntime"),
        ("✖", "--soft", "ggml"),
        ("◐", "--soft", "fp16"),
    ]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
@pytest.mark.processes
@pytest.mark.parametrize(("width", "whole"), [(1300, True), (390, False)])
def test_it_fits_a_desk_and_shows_latency_on_a_phone(page: str, width: int, whole: bool, tmp_path: Path) -> None:
    measure = """<script>
    const right = (name) => document.querySelector(name).getBoundingClientRect().right;
    parent.document.title = JSON.stringify({page: document.documentElement.scrollWidth, table: right("table.measured"),
      latency: right("table.measured tbody td"), interval: right("table.measured tbody td:nth-child(3)"),
      plot: right("figure.plot svg"), width: innerWidth});
    </script>"""
    inner = html.escape(page.replace("</body>", f"{measure}</body>"))
    frame = f'<iframe style="border: 0" width="{width}" height="900" srcdoc="{inner}"></iframe>'  # windows are at least 500 px
    (tmp_path / "page.html").write_text(f"<!doctype html><title></title>{frame}", encoding="utf-8")
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000", "--dump-dom"]
    done = subprocess.run(
        [*command, (tmp_path / "page.html").as_uri()], capture_output=True, text=True, check=True, timeout=100
    )
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title
    found = json.loads(html.unescape(title[1]))
    assert found["width"] == width and found["page"] <= width  # only tables scroll, inside the page
    assert found["latency"] < found["interval"] < width and found["plot"] <= width
    assert (found["table"] <= width) == whole
