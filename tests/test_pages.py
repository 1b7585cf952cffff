"""Every HTML page that genin writes can be used by everybody: names, alternative texts, headings, contrast; and what axe-core says.

NODE_PATH=/tmp/axe/node_modules pytest -n0 -m slow tests/test_pages.py
"""

from __future__ import annotations

import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

import genin.benchmarks.report
import genin.distill.loop
from browser import AXE_MISSING, CHROMIUM, axe_script, violations
from pages import bench_page, merged_page, other_pages

NAMES = ("bench", "merged", "training", "data", "edit")
STYLE = Path(genin.benchmarks.report.__file__).parent / "templates" / "style.css"
VOID = {"meta", "img", "input", "br", "link", "path", "use", "rect", "line", "circle", "stop"}
CONTRAST = 4.5  # WCAG 2, level AA


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    made = {"bench": bench_page(), "merged": merged_page(), **other_pages(tmp_path_factory.mktemp("pages"))}
    assert tuple(made) == NAMES
    return made


class Elements(HTMLParser):
    """(tag, attributes, text within, names of the elements around) of all elements."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], list[str], tuple[str, ...]]] = []
        self.within: list[int] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        around = tuple(self.found[index][0] for index in self.within)
        self.found.append((tag, dict(attrs), [], around))
        if tag not in VOID:
            self.within.append(len(self.found) - 1)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.found[self.within.pop()][0] == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        for index in self.within:
            self.found[index][2].append(data.strip())

    def of(self, *tags: str) -> list[tuple[dict[str, str | None], str, tuple[str, ...]]]:
        return [(values, "".join(text), around) for tag, values, text, around in self.found if tag in tags]


@pytest.mark.parametrize("name", NAMES)
def test_a_page_can_be_read_aloud(name: str, pages: dict[str, str]) -> None:
    page = Elements(pages[name])
    assert not page.within, "an element is not closed"
    [(document, _, _)], [(_, heading, _)], [(_, title, _)] = page.of("html"), page.of("h1"), page.of("title")
    assert document["lang"] == "en" and heading and title and len(page.of("main")) == 1
    assert all(values.get("alt") for values, _, _ in page.of("img"))
    assert all(values.get("scope") in ("row", "col") and text for values, text, _ in page.of("th"))
    assert all(values.get("aria-label") for values, _, _ in page.of("svg", "i") if values.get("role") == "img")
    ids = Counter(
        values["id"] for tag, values, _, around in page.found if "id" in values and "svg" not in (tag, *around)
    )
    assert max(ids.values(), default=1) == 1
    labelled = {values.get("for") for values, _, _ in page.of("label")}
    for values, _, around in page.of("input", "select", "textarea"):
        assert values.get("aria-label") or "label" in around or values.get("id") in labelled, values
    assert all(text or values.get("aria-label") for values, text, _ in page.of("button", "summary", "a", "legend"))
    scrolling = [values for values, _, _ in page.of("div", "figure") if "scroll" in (values.get("class") or "")]
    assert all(values.get("tabindex") == "0" and values.get("aria-label") for values in scrolling)


def palettes() -> dict[str, dict[str, str]]:
    light, dark = STYLE.read_text(encoding="utf-8").split("@media (prefers-color-scheme: dark)")
    return {name: dict(re.findall(r"--(\w+): (#\w{6})", part)) for name, part in (("light", light), ("dark", dark))}


def luminance(colour: str) -> float:
    shares = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio"""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_colour_of_text_and_signs_stands_out(scheme: str) -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    palette = palettes()[scheme]
    inks = [name for name in palette if name not in ("paper", "card", "rule")]
    assert {"ink", "soft", "accent", "s1", "s6"} <= set(inks)
    pairs = {(ink, ground): contrast(palette[ink], palette[ground]) for ink in inks for ground in ("paper", "card")}
    assert {pair: ratio for pair, ratio in pairs.items() if ratio < CONTRAST} == {}
    warning = re.search(r"\.busy \{[^}]*background: (#\w{6}); color: #fff;", STYLE.read_text(encoding="utf-8"))
    assert warning and contrast(warning[1], "#ffffff") >= CONTRAST


def test_backgrounds_that_say_something_are_printed() -> None:
    training = Path(genin.distill.loop.__file__).parent / "templates" / "training.css"
    for file, rule in ((STYLE, r"\.busy, \.stages \.bar i, \.key i"), (training, r"\.sample")):
        assert re.search(rf"{rule} {{[^}}]*[; ]print-color-adjust: exact", file.read_text(encoding="utf-8")), rule


STATES = {
    "differences": "document.querySelector('#show').value = '8', show()",
    "enlarged": "document.querySelector('button.picture').click()",
    "filtered": "document.querySelector('#controls input').click()",
}
VIEWS = [(name, width, dark) for name in NAMES for width in (1300, 390) for dark in (False, True)]
VIEWS += [(name, width, dark) for name in STATES for width, dark in ((1300, False), (390, True))]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
@pytest.mark.skipif(axe_script() is None, reason=AXE_MISSING)
@pytest.mark.parametrize(("name", "width", "dark"), VIEWS)
def test_axe_finds_nothing(name: str, width: int, dark: bool, pages: dict[str, str], tmp_path: Path) -> None:
    page = pages["bench" if name in STATES else name]
    assert violations(page, tmp_path, width=width, dark=dark, before=STATES.get(name, "null")) == []


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None or axe_script() is None, reason=AXE_MISSING)
def test_axe_would_find_a_fault(pages: dict[str, str], tmp_path: Path) -> None:
    page = (
        pages["edit"].replace(' aria-label="Show captions with"', "").replace('placeholder="Show captions with …"', "")
    )
    assert violations(page, tmp_path, width=390, dark=False) == ["label: #find"]
