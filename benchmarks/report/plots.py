"""Quality against latency, and latency over time, as inline SVG that takes its colours and type from the page around it.

matplotlib draws with stand-in colours, which become CSS variables afterwards, so one drawing serves light and dark
pages. Namespaces, metadata and prologue are cut: HTML does not need them, and without them the page contains no addresses.

Legends are lists that the page sets in type of its own, so that they wrap on a phone. What is drawn of a row has its place among
the rows as `data-rows`, by which the page hides it. Not here: the page (`report`).
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from genin.benchmarks.results.files import GENIN
from genin.benchmarks.results.table import is_elsewhere, number, picture_ms, program_of
from genin.runtimes.wording import counted

INK, SOFT, RULE = "#010203", "#040506", "#070809"  # stand-ins, replaced by CSS variables
SERIES: Final = ("#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04", "#0a0b05", "#0a0b06")
VARIABLES: Final = {INK: "--ink", SOFT: "--soft", RULE: "--rule"} | {c: f"--s{i + 1}" for i, c in enumerate(SERIES)}
MARKERS: Final = {"pytorch": "o", "onnxruntime": "s", "openvino": "D", "coreml": "^", "native": "v"} | {
    "onnxruntime-web": "P",
    "ggml": "X",
}
SIGNS: Final = {"o": "●", "s": "■", "D": "◆", "^": "▲", "v": "▼", "P": "✚", "X": "✖"}  # the same in text
FILLS: Final = {"fp32": "full", "fp16": "left"}  # others, 8 bits and less, are hollow
FILL_SIGNS: Final = {"full": "●", "left": "◐"}


class LegendLine(NamedTuple):
    """A line of a legend: its sign, the CSS variable of its colour, its text, and the places of the rows that it is about."""

    sign: str
    colour: str
    text: str
    places: tuple[int, ...] = ()


Legend = list[LegendLine]
Rows = Sequence[Mapping[str, Any]]
QUALITIES: Final = (
    ("fd_ratio", "FD relative to the teacher"),
    ("fd_squeezenet", "FD (SqueezeNet features)"),
    ("fd_efficientnet", "FD (EfficientNet features)"),
    ("fd_world", "FD (world features)"),
    ("lpips_squeeze_to_teacher", "LPIPS to the teacher"),
    ("lpips_squeeze_to_fp32", "LPIPS to fp32"),
)


def quality_axis(rows: Rows) -> tuple[str, str] | None:
    """The first quality that at least two valid rows have, and its title."""
    ranked = [row for row in rows if _is_ranked(row)]
    return next((axis for axis in QUALITIES if sum(row.get(axis[0]) is not None for row in ranked) >= 2), None)


def quality_latency_svg(rows: Rows) -> str | None:
    """One point per valid configuration, lower left is better; None where no quality was measured."""
    axis = quality_axis(rows)
    if axis is None:
        return None
    key, title = axis

    def draw(axes: Any) -> None:
        shown = _of_quality(rows, key)
        names = list(dict.fromkeys(series_of(row) for row in shown.values()))
        for place, row in shown.items():
            index = names.index(series_of(row))
            _point(axes, row, row[key], SERIES[index % len(SERIES)], _mark(place))
            _number(axes, index, len(names), (picture_ms(row), row[key]), _mark(place))
        _style(axes, title)

    return _svg(draw, f"{title} against latency")


def quality_legend(rows: Rows) -> Legend:
    """Colour (and a number, if there are many) shows model and steps, shape the runtime, fill the precision."""
    axis = quality_axis(rows)
    shown = _of_quality(rows, axis[0]) if axis else {}
    names, runtimes, precisions = (
        _places(shown, of) for of in (series_of, lambda row: str(row["runtime"]), lambda row: str(row["precision"]))
    )
    legend = [
        LegendLine("●", f"--s{i % len(SERIES) + 1}", _numbered(i, len(names), name), places)
        for i, (name, places) in enumerate(names.items())
    ]
    legend += [LegendLine(SIGNS[MARKERS.get(one[0], "o")], "--soft", *one) for one in runtimes.items()]
    fills = {name: FILL_SIGNS.get(FILLS.get(name, "none"), "○") for name in precisions}
    return legend + [LegendLine(fills[one[0]], "--soft", *one) for one in precisions.items()]


def _places(
    rows: Mapping[int, Mapping[str, Any]], of: Callable[[Mapping[str, Any]], str]
) -> dict[str, tuple[int, ...]]:
    """What `of` says of the rows => the places of those that it says so of."""
    places: dict[str, tuple[int, ...]] = {}
    for place, row in rows.items():
        places[of(row)] = (*places.get(of(row), ()), place)
    return places


def _of_quality(rows: Rows, key: str) -> dict[int, Mapping[str, Any]]:
    """Place => row, of those that have this quality and may be ranked."""
    return {place: row for place, row in enumerate(rows) if row.get(key) is not None and _is_ranked(row)}


def _is_ranked(row: Mapping[str, Any]) -> bool:
    return row.get("valid") is not False


def _mark(place: int) -> str:
    """An id that becomes `data-rows` (`embed_svg`)."""
    return f"of-row-{place}"


def _svg(draw: Callable[[Any], None], label: str) -> str:
    """What `draw` does to empty axes, as an element for the page."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    settings = {"svg.fonttype": "none", "svg.hashsalt": "genin", "font.size": 12.5, "text.color": INK}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(7.2, 4.2), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.add_subplot())
        buffer = io.StringIO()
        figure.savefig(
            buffer, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
        )
    return embed_svg(buffer.getvalue(), label)


def sustained_svg(rows: Rows) -> str | None:
    """Latency over time, one line per row that drew for minutes, in percent of its first window: rows that take a hundred times as
    long have a place beside others. None where none did."""
    shown = _sustained(rows)
    if not shown:
        return None

    def draw(axes: Any) -> None:
        for index, (place, row) in enumerate(shown.items()):
            windows, first = row["sustained"]["windows"], row["sustained"]["windows"][0]["p50_ms"]
            minutes = [(window["at_s"] + window["seconds"] / 2) / 60 for window in windows]
            colour, dots = SERIES[index % len(SERIES)], MARKERS.get(row["runtime"], "o")
            shares = [100 * window["p50_ms"] / first for window in windows]
            axes.plot(minutes, shares, color=colour, marker=dots, markersize=4, gid=_mark(place))
            _number(axes, index, len(shown), (minutes[-1], shares[-1]), _mark(place))
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, 90), max(high, 110))  # noise of a per cent is not to look like throttling
        _style_axes(axes, "minutes without a pause", "median latency, percent of the first")

    return _svg(draw, "Latency over time")


def sustained_legend(rows: Rows) -> Legend:
    """Every row that drew for minutes, with its first and last median."""
    legend, shown = [], _sustained(rows)
    for index, (place, row) in enumerate(shown.items()):
        first, last = (row["sustained"]["windows"][place]["p50_ms"] for place in (0, -1))
        sign, said = (
            SIGNS[MARKERS.get(row["runtime"], "o")],
            f"{row['name']}: {number(first)} ms, at last {number(last)} ms",
        )
        said = _numbered(index, len(shown), said)
        legend.append(LegendLine(sign, f"--s{index % len(SERIES) + 1}", said, (place,)))
    return legend


def _sustained(rows: Rows) -> dict[int, Mapping[str, Any]]:
    return {place: row for place, row in enumerate(rows) if row.get("sustained")}


def _point(axes: Any, row: Mapping[str, Any], quality: float, colour: str, mark: str) -> None:
    fill = FILLS.get(row["precision"], "none")
    marker = MARKERS.get(row["runtime"], "o")
    look = {"color": colour, "markerfacecoloralt": "none", "markersize": 10, "markeredgewidth": 1.6, "linestyle": ""}
    place = picture_ms(row), quality
    axes.plot(place[:1], place[1:], marker=marker, fillstyle=fill, gid=mark, **look)
    if (program := program_of(row)) != GENIN:  # a peer is named beside its point
        said = axes.annotate(program, place, (0, 9), textcoords="offset points", ha="center", fontsize=9, color=SOFT)
        said.set_gid(mark)


def _number(axes: Any, index: int, count: int, place: tuple[float, float], mark: str) -> None:
    """Beside a point, the number of its series in the legend, where there are more series than colours."""
    if count > len(SERIES):
        look = {"va": "center", "fontsize": 9, "color": SOFT}
        axes.annotate(str(index + 1), place, (8, 0), textcoords="offset points", **look).set_gid(mark)


def _numbered(index: int, count: int, text: str) -> str:
    return f"{index + 1}. {text}" if count > len(SERIES) else text


def series_of(row: Mapping[str, Any]) -> str:
    """What one colour stands for: a model at a number of steps, on the CPU or elsewhere."""
    device = f", {row['device']}" if is_elsewhere(row) else ""
    return f"{row['bundle']}, {counted(row['steps'], 'step')}{device}"


def _style(axes: Any, title: str) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"))
    low, high = axes.get_xlim()
    if high / low < 10:  # less than a decade: a single labelled tick would say nothing
        axes.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    else:
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.12, y=0.16)
    _style_axes(axes, "milliseconds per picture, p50", title)


def _style_axes(axes: Any, x_title: str, y_title: str) -> None:
    axes.set_xlabel(x_title, color=SOFT)
    axes.set_ylabel(y_title, color=SOFT)
    axes.grid(color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", colors=SOFT, length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def embed_svg(svg: str, label: str) -> str:
    """A whole matplotlib SVG file => an element for an HTML page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--sans)", svg)
    svg = re.sub(r'id="of-row-(\d+)"', r'data-rows="\1"', svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return re.sub(
        r'<svg ([^>]*?)width="[^"]*"', rf'<svg role="img" aria-label="{label}" \1', svg.replace("\n", " "), count=1
    ).replace('height="', 'data-height="', 1)
