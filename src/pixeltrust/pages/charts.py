"""Charts as text (SVG) that a page can hold, with real text in them, in colours that follow the reader's light or dark setting.

Every chart is small enough to be legible on a phone, and has words for those who do not see it. Nothing here touches pyplot.
"""

import io
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from scipy.optimize import isotonic_regression

from pixeltrust import method_table
from pixeltrust.metrics import bootstrap_interval, mean_of_defined
from pixeltrust.pages.pictures import HEAT, MOST, heat_places

WIDTH, HEIGHT = 3.9, 2.55  # inches of one chart; at 96 px an inch 374 px, the width of a phone
LETTER = 8.5  # points, of names and numbers inside a chart
PRINTED_DPI = 160  # of the PNG pictures
_POINTS = 72  # in an inch

# Okabe and Ito's palette, told apart by all common kinds of colour vision; the second of each pair is for dark pages.
COLOURS = {
    "plain": ("#c25200", "#f0a030"),
    "pixel": ("#0072b2", "#56b4e9"),
    "clean": ("#00805f", "#22c19a"),
    "joint": ("#a8497c", "#dd92bb"),
    "robust": ("#7a6a00", "#d2c04a"),
    "own": ("#6a4fb3", "#b3a2f2"),
    "ink": ("#1c1b19", "#eceae4"),
    "faint": ("#77736a", "#a29e94"),
    "line": ("#dcd8cf", "#3b3a36"),
}
_OTHERS = {  # what benchmarks and the demo compare beside `METHODS`
    "ceiling": "ink", "pixel+clean": "pixel", "pruned": "robust", "mended": "own", "mended+finetuned": "clean",
    "given masks": "plain", "mended masks": "pixel",
}  # fmt: skip
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p", "<", ">", "h", "d")
_QUANTITIES = {
    "loss": "Loss on the training batches",
    "val_dice": "Dice on the held-out clean cases",
    "zero_share": "Share of pixels with weight 0",
    "effective_pixels": "Effective pixels in a batch: 1 / Σ w²",
}
_FROM_ZERO = ("zero_share", "effective_pixels")
_FONTS = "system-ui, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "pixeltrust",
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
}


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A picture with its words."""

    title: str
    svg: str
    text: str
    """What the picture shows, for those who do not see it."""

    @property
    def source(self) -> str:
        """The picture as the source of an `<img>`."""
        return f"data:image/svg+xml;base64,{b64encode(self.svg.encode()).decode()}"


# --- charts -------------------------------------------------------------------------------------------------------


def draw_training_curves(histories: Mapping[str, pd.DataFrame]) -> list[Chart]:
    """Draw the curves of one or several runs over their updates, a chart per quantity that a run has.

    Args:
        histories: history.csv by the name of the run (its method, where there is one run of it).
    """
    charts = [_draw_curves(column, title, histories) for column, title in _QUANTITIES.items()]
    return [chart for chart in charts if chart is not None]


def _draw_curves(column: str, title: str, histories: Mapping[str, pd.DataFrame]) -> Chart | None:
    tables = {name: table[["update", column]].dropna() for name, table in histories.items() if column in table}
    tables = {name: table for name, table in tables.items() if len(table)}
    if not tables:
        return None
    figure, (axes,) = new_panels(1)
    for name, table in tables.items():
        axes.plot(table["update"], table[column], color=colour_of(name), linewidth=2, marker="o", markersize=3 if len(table) < 40 else 0)
    if column in _FROM_ZERO:
        axes.set_ylim(0, max(table[column].max() for table in tables.values()) * 1.15 or 1)
    if column == "zero_share":
        axes.yaxis.set_major_formatter(lambda y, _: f"{100 * y:.3g} %")
    if column == "effective_pixels":
        axes.yaxis.set_major_formatter(lambda y, _: f"{y:,.0f}")
    axes.set_xlabel("updates")
    axes.set_xlim(left=0)
    label_ends(axes, {name: (table["update"].iloc[-1], table[column].iloc[-1]) for name, table in tables.items()})
    ends = "; ".join(
        f"{name}: {table[column].iloc[0]:.4g} at first, {table[column].iloc[-1]:.4g} at last" for name, table in tables.items()
    )
    return Chart(title=title, svg=to_svg(figure), text=f"{title} over the updates. {ends}")


def draw_dice_strips(scores: Mapping[str, np.ndarray]) -> Chart:
    """Draw the Dice of every case as a dot, one row per method, with the mean and its 95 % interval; NaN are left out."""
    figure, (axes,) = new_panels(1, height=max(HEIGHT, 0.75 + 0.75 * len(scores)))
    spread = np.random.default_rng(0)
    words = []
    for row, (name, values) in enumerate(scores.items()):
        defined, colour = np.asarray(values)[~np.isnan(values)], colour_of(name)
        (low, high), mean = bootstrap_interval(defined), mean_of_defined(defined)
        axes.scatter(defined, row + spread.uniform(-0.17, 0.17, len(defined)), s=9, color=colour, alpha=0.5, linewidths=0)
        axes.plot([low, high], [row, row], color=ink("ink"), linewidth=2.2, solid_capstyle="butt")
        axes.plot(mean, row, marker="D", markersize=5, color=ink("ink"))
        axes.text(0.0, row - 0.3, f"{name}  mean {mean:.3f}", transform=axes.get_yaxis_transform(), color=colour, fontweight="bold")
        words.append(f"{name}: mean {mean:.3f}, 95 % interval {low:.3f} to {high:.3f}, {len(defined)} cases")
    axes.set(ylim=(len(scores) - 0.6, -0.6), yticks=[], xlabel="Dice, a dot per test case")
    axes.spines["left"].set_visible(False)
    return Chart(title="Dice of every test case", svg=to_svg(figure), text="; ".join(words))


def draw_differences(values: np.ndarray, *, better: str, worse: str) -> Chart:
    """Draw the paired differences in Dice, sorted, a bar per case, coloured by the method that did better; NaN are left out."""
    ordered = np.sort(np.asarray(values)[~np.isnan(values)])
    figure, (axes,) = new_panels(1)
    axes.bar(np.arange(len(ordered)), ordered, width=1.0, color=[colour_of(name) for name in np.where(ordered > 0, better, worse)])
    axes.axhline(0, color=ink("ink"), linewidth=0.8)
    won, lost = int((ordered > 0).sum()), int((ordered < 0).sum())
    bold: Any = {"transform": axes.transAxes, "fontweight": "bold"}
    axes.text(0.98, 0.96, f"{better} better: {won}", ha="right", va="top", color=colour_of(better), **bold)
    axes.text(0.02, 0.04, f"{worse} better: {lost}", va="bottom", color=colour_of(worse), **bold)
    axes.set(xticks=[], xlabel="test cases, sorted", xlim=(-0.6, len(ordered) - 0.4))
    axes.margins(y=0.2)
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, -0.2 * high), max(high, -0.2 * low))  # room for both texts
    text = f"{better} is better in {won} and {worse} in {lost} of {len(ordered)} cases"
    return Chart(title=f"Dice of {better} minus {worse}, case by case", svg=to_svg(figure), text=text)


def draw_heat_legend() -> Chart:
    """Draw the scale of the colours of `draw_heat`."""
    figure, (axes,) = new_panels(1, height=0.72)
    axes.imshow(HEAT(np.linspace(0, 1, 256))[None], extent=(0, 1, 0, 1), aspect="auto")
    marks = [0.0, 0.5, 1.0, 2.0, 4.0, MOST]
    axes.set(yticks=[], xticks=heat_places(np.array(marks)), xticklabels=["0", "½", "1 (average)", "2", "4", f"{MOST:g}+"])
    for spine in axes.spines.values():
        spine.set_visible(False)
    text = f"brown: weight 0, left out; pale: the average weight; dark blue: {MOST:g} times the average or more"
    return Chart(title="Weight of a pixel, in multiples of the average", svg=to_svg(figure), text=text)


def draw_histogram(values: np.ndarray, *, title: str, axis: str, text: str, bins: int = 20) -> Chart:
    """Draw how values of 0 … 1 are spread over cases."""
    figure, (axes,) = new_panels(1)
    axes.hist(values, bins=np.linspace(0, 1, bins + 1).tolist(), color=ink("pixel"))
    axes.set(xlabel=axis, ylabel="cases", xlim=(0, 1))
    return Chart(title=title, svg=to_svg(figure), text=text)


# --- what charts are made of --------------------------------------------------------------------------------------


def new_panels(number: int, *, height: float = HEIGHT, columns: int = 3) -> tuple[Figure, list[Axes]]:
    """Return a figure with so many charts side by side, each as wide as a phone."""
    columns = min(columns, number)
    rows = -(-number // columns)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH * columns, height * rows), layout="constrained")
        FigureCanvasSVG(figure)
        panels = [figure.add_subplot(rows, columns, place + 1) for place in range(number)]
    for axes in panels:
        axes.tick_params(colors=ink("faint"), length=0)
        axes.xaxis.label.set_color(ink("faint"))
        axes.yaxis.label.set_color(ink("faint"))
        for spine in axes.spines.values():
            spine.set_color(ink("line"))
        axes.grid(axis="y", color=ink("line"), linewidth=0.7)
    return figure, panels


def label_ends(axes: Axes, ends: Mapping[str, tuple[float, float]], *, colours: Mapping[str, str] | None = None) -> None:
    """Write the name of each line right of the panel at the height of its end; a name that was moved gets a thin line.

    Args:
        ends: (x, y) of the end of each line, by its name.
        colours: of names that are not methods.
    """
    if not ends:
        return
    low, high = axes.get_ylim()
    gap = 1.25 * LETTER / (_POINTS * _panel_height(axes)) * (high - low)
    names = sorted(ends, key=lambda name: ends[name][1])
    heights = push_apart([ends[name][1] for name in names], gap=gap, low=low, high=high)
    for name, height in zip(names, heights, strict=True):
        colour = (colours or {}).get(name) or colour_of(name)
        thread: Any = {"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 2, "relpos": (0, 0.5)}
        style: Any = {"va": "center", "fontsize": LETTER, "fontweight": "bold", "color": colour, "annotation_clip": False}
        style |= {"xytext": (1.06, (height - low) / (high - low)), "textcoords": "axes fraction"}
        axes.annotate(name, ends[name], arrowprops=thread if abs(height - ends[name][1]) > gap / 3 else None, **style)


def push_apart(values: Sequence[float], *, gap: float, low: float, high: float) -> list[float]:
    """Return ascending values, moved as little as possible (in squares) to have a gap between each two, within low … high if they fit."""
    steps = gap * np.arange(len(values))
    places = isotonic_regression(np.asarray(values) - steps).x  # without the gaps they need only ascend
    return list(places.clip(low, max(low, high - gap * (len(values) - 1))) + steps)


def _panel_height(axes: Axes) -> float:
    """Return about how high the panel itself is, in inches; the layout is made when the figure is drawn."""
    figure, spec = axes.figure, axes.get_subplotspec()
    assert isinstance(figure, Figure)
    assert spec is not None
    return 0.76 * figure.get_figheight() / spec.get_gridspec().nrows


def colour_family(method: str) -> str:
    """Return the name of a method's colour."""
    return _OTHERS.get(method) or method_table.family_of(method)


def marker_of(method: str, among: Sequence[str]) -> str:
    """Return a shape that no other method of its colour has.

    Args:
        among: all methods there are, in an order that stays.
    """
    names = dict.fromkeys([*method_table.METHODS, *_OTHERS, *among])
    alike = [name for name in names if colour_family(name) == colour_family(method)]
    return MARKERS[alike.index(method) % len(MARKERS)]


def colour_of(method: str) -> str:
    """Return the light colour of a method."""
    return ink(colour_family(method))


def ink(name: str) -> str:
    """Return the light colour of a name of `COLOURS`; `to_svg` lets the reader's setting choose between the two."""
    return COLOURS[name][0]


def to_png(figure: Figure) -> bytes:
    """Return a figure as PNG, on white."""
    file = io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(file, format="png", dpi=PRINTED_DPI, facecolor="white", metadata={"Software": None})
    return file.getvalue()


def to_svg(figure: Figure) -> str:
    """Return a figure as SVG text whose colours follow the reader's setting and whose fonts are the reader's."""
    file = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    for name, (light, _) in COLOURS.items():
        text = re.sub(light, f"var(--{name})", text, flags=re.IGNORECASE)
    text = re.sub(r"font-family: [^;\"]*", f"font-family: {_FONTS}", text)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    light, dark = (";".join(f"--{name}:{pair[index]}" for name, pair in COLOURS.items()) for index in (0, 1))
    themes = f"<style>:root{{{light}}}@media (prefers-color-scheme: dark){{:root{{{dark}}}}}</style>"
    start = text.index("<svg")
    end = text.index(">", start) + 1
    return text[start:end] + themes + text[end:]
