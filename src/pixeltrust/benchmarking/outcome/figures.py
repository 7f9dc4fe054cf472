"""The charts of a benchmark: a panel per kind of noise (or per group).

Colour is never all that tells two methods apart: methods of one colour have different marks, and every one is named beside its line or
in a legend.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from pixeltrust.benchmarking.grid import CEILING
from pixeltrust.benchmarking.outcome.words import list_rows, name_group, name_noise, select_group
from pixeltrust.pages.charts import HEIGHT, LETTER, Chart, colour_of, ink, label_ends, marker_of, new_panels, to_svg
from pixeltrust.pages.numbers import format_number, format_range

ROW = 0.235  # inches of a method's row
_OF_PIXELS = "share of pixels"

Draw = Callable[[Axes, pd.DataFrame, Sequence[str]], str]
"""Draws one panel from its rows, in styles that depend on all methods; returns its words."""


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A figure that can be written as a file or put on a page."""

    name: str
    """The name of the file, without its ending."""
    title: str
    text: str
    figure: Figure

    def chart(self, title: str | None = None) -> Chart:
        """Return it for a page, with another title where one is given."""
        return Chart(title=title or self.title, svg=to_svg(self.figure), text=self.text)


def draw_panels(
    name: str, heading: str, tables: Mapping[str, pd.DataFrame], draw: Draw, methods: Sequence[str], *, height: float = HEIGHT
) -> Drawing:
    """Draw a panel per table; several have their titles above the panels, a single one has it in the heading."""
    figure, panels = new_panels(len(tables), height=height)
    words = []
    for axes, (title, table) in zip(panels, tables.items(), strict=True):
        words.append(f"{title}: {draw(axes, table, methods)}")
        if len(tables) > 1:
            axes.set_title(title, loc="left", fontsize=LETTER + 1, fontweight="bold", color=ink("ink"))
    only = f": {next(iter(tables))}" if len(tables) == 1 else ""
    return Drawing(name=name, title=f"{heading}{only}", text=". ".join(words), figure=figure)


# --- figures ------------------------------------------------------------------------------------------------------


def dice_figure(groups: Sequence[pd.DataFrame], seed_means: pd.DataFrame, methods: Sequence[str], *, name: str = "dice") -> Drawing:
    """Draw the Dice of every method with its interval, and the means of its seeds as small rings.

    Args:
        groups: see `words.split_groups`.
        seed_means: the mean Dice of every seed: noise, clean, method, seed, dice.
    """
    tables = {name_group(group): group for group in groups}
    height = 0.75 + ROW * max(map(len, groups))
    return draw_panels(name, "Dice on the test cases", tables, partial(_draw_dice, seed_means), methods, height=height)


def clean_figure(summary: pd.DataFrame, methods: Sequence[str], *, name: str = "clean-counts") -> Drawing:
    """Draw the Dice of every method against the number of clean masks."""
    tables = {name_noise(str(noise)): rows for noise, rows in summary.dropna(subset=["dice"]).groupby("noise", sort=False)}
    height = max(HEIGHT, 0.9 + 0.17 * summary["method"].nunique())
    return draw_panels(name, "Dice against the number of clean masks", tables, _draw_clean_counts, methods, height=height)


def weights_figure(shares: pd.DataFrame, methods: Sequence[str], *, name: str = "wrong-weight") -> Drawing:
    """Draw the weight that wrong pixels have over training, against their share of the pixels."""
    tables = {name_group(rows): rows for _, rows in shares.groupby(["noise", "clean"], sort=False)}
    return draw_panels(name, "Wrong pixels: their share of the weight", tables, _draw_shares, methods)


def cost_figure(groups: Sequence[pd.DataFrame], methods: Sequence[str], *, name: str = "cost") -> Drawing:
    """Draw the Dice of every method against the cost of its update."""
    tables = {name_group(group): group for group in groups}
    height = max(HEIGHT, 0.7 + 0.17 * max(map(len, groups)))
    return draw_panels(name, "Dice against the cost of an update", tables, _draw_costs, methods, height=height)


# --- panels -------------------------------------------------------------------------------------------------------


def _draw_dice(seed_means: pd.DataFrame, axes: Axes, group: pd.DataFrame, methods: Sequence[str]) -> str:
    seeds = {str(method): rows["dice"].to_numpy() for method, rows in select_group(seed_means, group).groupby("method")}
    words = []
    for place, row in enumerate(list_rows(group)):
        if np.isnan(row.dice):
            state = "failed" if row.seeds_failed else "not run"
            words.append(f"{row.method} {state}")
            axes.text(0.02, place, state, transform=axes.get_yaxis_transform(), va="center", fontsize=LETTER, color=ink("faint"))
            continue
        mean, colour, of_seeds = format_number(row.dice), colour_of(row.method), seeds.get(row.method, np.empty(0))
        words.append(f"{row.method} {mean}, interval {format_range(row.dice_low, row.dice_high)}")
        axes.axhline(place, color=ink("line"), linewidth=0.7, zorder=0)
        axes.plot([row.dice_low, row.dice_high], [place, place], color=colour, linewidth=2, solid_capstyle="butt")
        # A little below the whisker, so that neither hides the other.
        axes.scatter(of_seeds, np.full(len(of_seeds), place + 0.3), s=10, facecolors="none", edgecolors=ink("faint"))
        axes.plot(row.dice, place, marker=marker_of(row.method, methods), markersize=6, color=colour, zorder=3)
        axes.text(1.02, place, mean, transform=axes.get_yaxis_transform(), va="center", fontsize=LETTER, color=ink("ink"))
    axes.set_yticks(range(len(group)), group["method"], fontsize=LETTER)
    for label, method in zip(axes.get_yticklabels(), group["method"], strict=True):
        label.set(color=colour_of(method), fontweight="bold")
    axes.set(ylim=(len(group) - 0.5, -0.6), xlabel="Dice: mean, 95 % interval; rings: seeds")
    axes.spines["left"].set_visible(False)
    axes.grid(False, axis="y")  # the methods that have a Dice have a line each
    axes.grid(axis="x", color=ink("line"), linewidth=0.7)
    return "; ".join(words)


def _draw_clean_counts(axes: Axes, rows: pd.DataFrame, methods: Sequence[str]) -> str:
    ends, words = {}, []
    for method, line in rows.groupby("method", sort=False):
        line = line.sort_values("clean")
        style: Any = {"marker": marker_of(str(method), methods), "linestyle": "--" if method == CEILING else "-"}
        axes.plot(line["clean"], line["dice"], color=colour_of(str(method)), linewidth=1.5, markersize=5, **style)
        ends[str(method)] = (float(line["clean"].iloc[-1]), float(line["dice"].iloc[-1]))
        points = zip(line["clean"], line["dice"], strict=True)
        words.append(f"{method} " + ", ".join(f"{format_number(dice)} at {clean}" for clean, dice in points))
    counts = sorted(rows["clean"].unique())
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(counts, [f"{clean:,}" for clean in counts])
    axes.set(xlabel="clean masks", ylabel="Dice")
    label_ends(axes, ends)
    return "; ".join(words)


def _draw_shares(axes: Axes, rows: pd.DataFrame, methods: Sequence[str]) -> str:
    pixels = rows.groupby("epoch")["wrong_pixels"].mean()
    axes.plot(pixels.index, pixels, color=ink("ink"), linewidth=1.5, linestyle="--")
    ends, words = {_OF_PIXELS: (float(pixels.index[-1]), float(pixels.iloc[-1]))}, []
    for method, line in rows.groupby("method", sort=False):
        colour, known = colour_of(str(method)), line.dropna(subset=["wrong_weight"])
        axes.fill_between(known["epoch"], known["wrong_weight_min"], known["wrong_weight_max"], color=colour, alpha=0.18, linewidth=0)
        style: Any = {"marker": marker_of(str(method), methods), "markersize": 4 if len(known) < 40 else 0}
        axes.plot(known["epoch"], known["wrong_weight"], color=colour, linewidth=1.8, **style)
        if len(known):
            first, last = known["wrong_weight"].iloc[[0, -1]]
            ends[str(method)] = (float(known["epoch"].iloc[-1]), float(last))
            words.append(f"{method}: {first:.1%} of the weight at first, {last:.1%} at last")
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda y, _: f"{100 * y:.3g} %")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="epoch (band: range of the seeds)" if rows["seeds"].max() > 1 else "epoch", ylabel="weight that wrong pixels have")
    label_ends(axes, ends, colours={_OF_PIXELS: ink("ink")})
    return f"wrong pixels are {pixels.mean():.1%} of the pixels; " + "; ".join(words)


def _draw_costs(axes: Axes, group: pd.DataFrame, methods: Sequence[str]) -> str:
    known = [row for row in list_rows(group) if not np.isnan([row.cost, row.dice]).any()]
    for row in known:
        colour = colour_of(row.method)
        axes.plot([row.cost, row.cost], [row.dice_low, row.dice_high], color=colour, linewidth=1, alpha=0.6)
        axes.plot([row.cost_min, row.cost_max], [row.dice, row.dice], color=colour, linewidth=1, alpha=0.6)
        marker: Any = {"marker": marker_of(row.method, methods), "markersize": 6, "linestyle": "none", "zorder": 3}
        axes.plot(row.cost, row.dice, color=colour, label=row.method, **marker)
    base = known[0].cost_over if known else "plain"
    axes.set(xlabel=f"cost of an update, in those of {base}", ylabel="Dice")
    axes.margins(x=0.1, y=0.08)
    axes.grid(axis="x", color=ink("line"), linewidth=0.7)
    if known:
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=LETTER, labelcolor="linecolor", handletextpad=0.2)
    return "; ".join(f"{row.method}: Dice {format_number(row.dice)} at {row.cost:.2f} times" for row in known)
