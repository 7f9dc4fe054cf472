"""The charts of a benchmark: a panel per kind of noise (or per group), every method named where it is drawn.

Colour is never all that tells two methods apart: methods of one colour have different marks, and every one has its name beside it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator
from scipy.optimize import isotonic_regression

from pixeltrust.benchmarking.outcome.statistics import CEILING
from pixeltrust.benchmarking.outcome.words import Row, noise_name, of_group, rows_of, title
from pixeltrust.pages.charts import HEIGHT, WIDTH, Chart, family_of, ink, marker_of, panels, png, svg
from pixeltrust.pages.numbers import format_number, format_range

ROW = 0.235  # inches of a method's row
LETTER = 8.5  # points, of what stands in a chart
_POINTS = 72  # in an inch
_OF_PIXELS = "share of pixels"

Draw = Callable[[Axes, pd.DataFrame, Sequence[str]], str]
"""Draws one panel from its rows, in styles that hang on all methods; returns what it shows, in words."""


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A figure that can be written as a file or put on a page."""

    name: str
    """Of the file, without its ending."""
    title: str
    text: str
    figure: Figure

    def chart(self, title: str | None = None) -> Chart:
        """For a page, under another title where it is given."""
        return Chart(title=title or self.title, svg=svg(self.figure), text=self.text)

    def png(self) -> bytes:
        """For everything else."""
        return png(self.figure)


def drawn(
    name: str, heading: str, tables: Mapping[str, pd.DataFrame], draw: Draw, methods: Sequence[str], *, height: float = HEIGHT
) -> Drawing:
    """A figure with a panel per table, whose titles stand above the panels if there are several, else behind the heading."""
    figure, axes = panels(len(tables), height=height)
    words = []
    for panel, (what, table) in zip(axes, tables.items(), strict=True):
        words.append(f"{what}: {draw(panel, table, methods)}")
        if len(tables) > 1:
            panel.set_title(what, loc="left", fontsize=LETTER + 1, fontweight="bold", color=ink("ink"))
    behind = f": {next(iter(tables))}" if len(tables) == 1 else ""
    return Drawing(name=name, title=f"{heading}{behind}", text=". ".join(words), figure=figure)


# --- what is drawn ------------------------------------------------------------------------------------------------


def dice_figure(groups: Sequence[pd.DataFrame], seed_means: pd.DataFrame, methods: Sequence[str], *, name: str = "dice") -> Drawing:
    """The Dice of every method with its interval, the means of its seeds as small rings.

    Args:
        groups: see `words.groups`.
        seed_means: the mean Dice of every seed: noise, clean, method, seed, dice.
    """
    height = 0.75 + ROW * max(map(len, groups))

    def draw(axes: Axes, group: pd.DataFrame, methods: Sequence[str]) -> str:
        seeds = {str(method): rows["dice"].to_numpy() for method, rows in of_group(seed_means, group).groupby("method")}
        return _dice_rows(axes, rows_of(group), seeds, methods)

    return drawn(name, "Dice on the test cases", {title(group): group for group in groups}, draw, methods, height=height)


def clean_figure(summary: pd.DataFrame, methods: Sequence[str], *, name: str = "clean-counts") -> Drawing:
    """The Dice of every method against the number of clean masks."""
    tables = {noise_name(str(noise)): rows for noise, rows in summary.dropna(subset=["dice"]).groupby("noise", sort=False)}
    height = max(HEIGHT, 0.9 + 0.17 * summary["method"].nunique())
    return drawn(name, "Dice against the number of clean masks", tables, _clean_lines, methods, height=height)


def weights_figure(shares: pd.DataFrame, methods: Sequence[str], *, name: str = "wrong-weight") -> Drawing:
    """The weight that wrong pixels have over training, against their share of the pixels."""
    tables = {title(rows): rows for _, rows in shares.groupby(["noise", "clean"], sort=False)}
    return drawn(name, "Wrong pixels: their share of the weight", tables, _share_lines, methods)


def cost_figure(groups: Sequence[pd.DataFrame], methods: Sequence[str], *, name: str = "cost") -> Drawing:
    """The Dice of every method against what its update costs."""
    height = max(HEIGHT, 1.3 + 0.2 * max(map(len, groups)))
    return drawn(name, "Dice against the cost of an update", {title(group): group for group in groups}, _cost_dots, methods, height=height)


# --- panels -------------------------------------------------------------------------------------------------------


def _dice_rows(axes: Axes, rows: Sequence[Row], seeds: Mapping[str, np.ndarray], methods: Sequence[str]) -> str:
    for place, row in enumerate(rows):
        colour = ink(family_of(row.method))
        if np.isnan(row.dice):
            state = "failed" if row.seeds_failed else "not run"
            axes.text(0.02, place, state, transform=axes.get_yaxis_transform(), va="center", fontsize=LETTER, color=ink("faint"))
            continue
        axes.axhline(place, color=ink("line"), linewidth=0.7, zorder=0)
        axes.plot([row.dice_low, row.dice_high], [place, place], color=colour, linewidth=2, solid_capstyle="butt")
        axes.scatter(seeds.get(row.method, []), _beside(place, seeds.get(row.method, [])), s=10, facecolors="none", edgecolors=ink("faint"))
        axes.plot(row.dice, place, marker=marker_of(row.method, methods), markersize=6, color=colour, zorder=3)
        axes.text(
            1.02, place, format_number(row.dice), transform=axes.get_yaxis_transform(), va="center", fontsize=LETTER, color=ink("ink")
        )
    axes.set_yticks(range(len(rows)), [row.method for row in rows], fontsize=LETTER)
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        label.set(color=ink(family_of(row.method)), fontweight="bold")
    axes.set(ylim=(len(rows) - 0.5, -0.6), xlabel="Dice: mean, 95 % interval; rings: seeds")
    axes.spines["left"].set_visible(False)
    axes.grid(False, axis="y")  # the methods that have a Dice have a line each
    axes.grid(axis="x", color=ink("line"), linewidth=0.7)
    return "; ".join(map(_row_words, rows))


def _row_words(row: Row) -> str:
    if np.isnan(row.dice):
        return f"{row.method} {'failed' if row.seeds_failed else 'not run'}"
    return f"{row.method} {format_number(row.dice)}, interval {format_range(row.dice_low, row.dice_high)}"


def _beside(place: int, values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Rows for the rings of seeds: a little below the whisker, so that neither hides the other."""
    return np.full(len(values), place + 0.3)


def _clean_lines(axes: Axes, rows: pd.DataFrame, methods: Sequence[str]) -> str:
    ends, words = {}, []
    for method, line in rows.groupby("method", sort=False):
        line = line.sort_values("clean")
        style: Any = {"marker": marker_of(str(method), methods), "linestyle": "--" if method == CEILING else "-"}
        axes.plot(line["clean"], line["dice"], color=ink(family_of(str(method))), linewidth=1.5, markersize=5, **style)
        ends[str(method)] = (float(line["clean"].iloc[-1]), float(line["dice"].iloc[-1]))
        words.append(
            f"{method} " + ", ".join(f"{format_number(dice)} at {clean}" for clean, dice in zip(line["clean"], line["dice"], strict=True))
        )
    counts = sorted(rows["clean"].unique())
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(counts, [f"{clean:,}" for clean in counts])
    axes.set(xlabel="clean masks", ylabel="Dice")
    label_ends(axes, ends)
    return "; ".join(words)


def _share_lines(axes: Axes, rows: pd.DataFrame, methods: Sequence[str]) -> str:
    ends, words = {}, []
    pixels = rows.groupby("epoch")["wrong_pixels"].mean()
    axes.plot(pixels.index, pixels, color=ink("ink"), linewidth=1.5, linestyle="--")
    ends[_OF_PIXELS] = (float(pixels.index[-1]), float(pixels.iloc[-1]))
    for method, line in rows.groupby("method", sort=False):
        colour, known = ink(family_of(str(method))), line.dropna(subset=["wrong_weight"])
        axes.fill_between(known["epoch"], known["wrong_weight_min"], known["wrong_weight_max"], color=colour, alpha=0.18, linewidth=0)
        style: Any = {"marker": marker_of(str(method), methods), "markersize": 4 if len(known) < 40 else 0}
        axes.plot(known["epoch"], known["wrong_weight"], color=colour, linewidth=1.8, **style)
        if len(known):
            ends[str(method)] = (float(known["epoch"].iloc[-1]), float(known["wrong_weight"].iloc[-1]))
            words.append(
                f"{method}: {known['wrong_weight'].iloc[0]:.1%} of the weight at first, {known['wrong_weight'].iloc[-1]:.1%} at last"
            )
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda y, _: f"{100 * y:.3g} %")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="epoch (band: range of the seeds)" if rows["seeds"].max() > 1 else "epoch")
    label_ends(axes, ends)
    return f"wrong pixels are {pixels.mean():.1%} of the pixels; " + "; ".join(words)


def _cost_dots(axes: Axes, group: pd.DataFrame, methods: Sequence[str]) -> str:
    known = [row for row in rows_of(group) if not np.isnan([row.cost, row.dice]).any()]
    for row in known:
        colour = ink(family_of(row.method))
        axes.plot([row.cost, row.cost], [row.dice_low, row.dice_high], color=colour, linewidth=1, alpha=0.6)
        axes.plot([row.cost_min, row.cost_max], [row.dice, row.dice], color=colour, linewidth=1, alpha=0.6)
        axes.plot(row.cost, row.dice, marker=marker_of(row.method, methods), markersize=6, color=colour, zorder=3)
    base = known[0].cost_over if known else "plain"
    axes.set(xlabel=f"cost of an update, in those of {base}", ylabel="Dice")
    axes.margins(x=0.3, y=0.08)
    axes.grid(axis="x", color=ink("line"), linewidth=0.7)
    label_points(axes, {row.method: (row.cost, row.dice) for row in known})
    return "; ".join(f"{row.method}: Dice {format_number(row.dice)} at {row.cost:.2f} times" for row in known)


# --- names beside what they name ----------------------------------------------------------------------------------


def label_ends(axes: Axes, ends: Mapping[str, tuple[float, float]]) -> None:
    """The name of each line right of the panel at the height of its end; pushed apart where they would touch."""
    if not ends:
        return
    low, high = axes.get_ylim()
    gap = 1.25 * LETTER / (_POINTS * _height(axes)) * (high - low)
    names = sorted(ends, key=lambda name: ends[name][1])
    heights = pushed_apart([ends[name][1] for name in names], gap=gap, low=low, high=high)
    for name, height in zip(names, heights, strict=True):
        colour = ink("ink" if name == _OF_PIXELS else family_of(name))
        line: Any = {"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 2, "relpos": (0, 0.5)}
        moved = abs(height - ends[name][1]) > gap / 3
        axes.annotate(
            name,
            ends[name],
            xytext=(1.06, (height - low) / (high - low)),
            textcoords="axes fraction",
            va="center",
            fontsize=LETTER,
            fontweight="bold",
            color=colour,
            annotation_clip=False,
            arrowprops=line if moved else None,
        )


def pushed_apart(values: Sequence[float], *, gap: float, low: float, high: float) -> list[float]:
    """Ascending values moved as little as need be (in squares) for a gap between each two, within low … high if they fit there."""
    steps = gap * np.arange(len(values))
    places = isotonic_regression(np.asarray(values) - steps).x  # without the gaps they need only ascend
    return list(places.clip(low, max(low, high - gap * (len(values) - 1))) + steps)


def _height(axes: Axes) -> float:
    """Of the panel itself, in inches, about: the layout is made when the figure is drawn."""
    figure, spec = axes.figure, axes.get_subplotspec()
    assert isinstance(figure, Figure)
    assert spec is not None
    return 0.76 * figure.get_figheight() / spec.get_gridspec().nrows


Box = tuple[float, float, float, float]
"""Left, bottom, right, top, in points."""


def label_points(axes: Axes, points: Mapping[str, tuple[float, float]]) -> None:
    """The name of each point beside it, where no other name and no other point is."""
    size = np.array([0.78 * WIDTH * _POINTS, _height(axes) * _POINTS])
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    places = {name: (np.array(point) - (left, low)) / (right - left, high - low) * size for name, point in points.items()}
    taken: list[Box] = [_around(place, 8, 8) for place in places.values()]
    for name in sorted(places, key=lambda name: -places[name][1]):
        shift, box = _free(places[name], name, taken, size)
        taken.append(box)
        far, colour = np.hypot(abs(shift[0]) - 6, shift[1]) > LETTER / 2, ink(family_of(name))
        line: Any = {"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 3, "relpos": (float(shift[0] < 0), 0.5)}
        axes.annotate(
            name,
            points[name],
            xytext=(float(shift[0]), float(shift[1])),
            textcoords="offset points",
            ha="left" if shift[0] > 0 else "right",
            va="center",
            fontsize=LETTER,
            fontweight="bold",
            color=colour,
            arrowprops=line if far else None,
        )


def _free(place: np.ndarray, name: str, taken: Sequence[Box], size: np.ndarray) -> tuple[np.ndarray, Box]:
    """The nearest shift of a name, right or left of its point, at which its box meets no other; the first one where there is none."""
    width = 0.62 * LETTER * len(name)
    shifts = [np.array([side * along, up]) for up, along, side in product(_SHIFTS, (6.0, 16.0, 34.0), (1, -1))]
    shifts.sort(key=lambda shift: (abs(shift[1]) * 1.5 + abs(shift[0]), shift[0] < 0))
    boxes = [_around(place + shift + np.array([np.sign(shift[0]) * width / 2, 0]), width, 1.2 * LETTER) for shift in shifts]
    for shift, box in zip(shifts, boxes, strict=True):
        inside = box[0] >= 0 and box[1] >= 0 and box[2] <= size[0] and box[3] <= size[1]
        if inside and not any(_meet(box, other) for other in taken):
            return shift, box
    return shifts[0], boxes[0]


_SHIFTS = tuple(float(up) for up in range(-66, 67, 6))


def _around(middle: np.ndarray, width: float, height: float) -> Box:
    return middle[0] - width / 2, middle[1] - height / 2, middle[0] + width / 2, middle[1] + height / 2


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
