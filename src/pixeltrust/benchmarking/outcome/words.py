"""The results in words and in tables; names of methods are in `backquotes`, as in Markdown.

group     the rows of the summary of one noise and one number of clean masks
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from pixeltrust.benchmarking.grid import CEILING, GIVEN
from pixeltrust.benchmarking.outcome.statistics import BASE, GROUP, LEVEL
from pixeltrust.pages.numbers import format_number, format_range
from pixeltrust.plumbing.text import count

OURS = "trust"
Verdict = Literal["apart", "one seed", "seeds disagree", "not apart", "not compared"]
TIED: tuple[Verdict, ...] = ("not apart", "seeds disagree")
SummaryRow = Any
"""A row of the summary, as `itertuples` gives it."""

MATCHES = {"updates": "every method makes the same number of updates", "time": "every method has the same time"}
"""What all trainings of a benchmark have in common."""

_HOW_MATCHED = {
    "updates": "**All methods make the same number of updates**, whatever an update costs: an expensive method has had more time.",
    "time": "**All methods have the same time**: as many updates as the time of the most expensive one allows, in whole epochs. A few "
    "updates of each, and a mending for `mended`, were measured beforehand (costs.json). The time of validation and of kept weight maps is "
    "not included.",
}
_HOW_TO_READ = (
    "**Dice**: the mean over test cases, each averaged over the seeds first, with its 95 % interval by the bootstrap over cases.",
    "**Differences** are taken case by case and seed by seed, on the seeds that both methods have, then averaged; their intervals are of "
    "the same kind. The rival is the best other method; `ceiling` is trained on true masks, so it is never a rival.",
    "**p** is of Wilcoxon's signed-rank test over cases, two-sided, with Holm's correction for the comparisons of one table. "
    "It and the intervals say what other test cases would have changed. They do not say what another training would have changed: "
    "look at the spread over seeds for that. The best method was chosen on the same cases, so its numbers are a little too good.",
    f"Two methods **can be told apart** where the interval of their difference does not contain 0, p is below {LEVEL:g}, and the "
    "difference has the same sign in every seed (of two seeds or more).",
    "**Cost** is a training's seconds per update, with validation and kept weight maps, divided by those of another method with the same "
    "seed: the median over seeds, and the range. **Updates** and **seconds** (of the processor, where they are known) are those of one "
    "training, the mean over seeds.",
)


CLASSES_EXPLAINED = "Every class by itself; the tolerance of the surface Dice is 1 mm (of pictures 1 pixel)."


def explain_tables(match: str) -> tuple[str, ...]:
    """Return the lines that explain the tables, one for each notion; see `read_match`."""
    return (_HOW_MATCHED[match], *_HOW_TO_READ)


@dataclass(frozen=True)
class TableCell:
    """A cell of a table: its value, and beside it something in small letters."""

    value: str
    small: str = ""

    def __str__(self) -> str:
        return f"{self.value} ({self.small})" if self.small else self.value


NONE = TableCell("–")


def split_groups(summary: pd.DataFrame) -> list[pd.DataFrame]:
    """Return the groups in the order of the summary, each with the highest Dice first and rows without one last."""
    return [group.sort_values("dice", ascending=False, kind="stable") for _, group in summary.groupby(GROUP, sort=False)]


def list_rows(group: pd.DataFrame) -> list[SummaryRow]:
    """Return the rows of a group."""
    return list(group.itertuples())


def name_group(group: pd.DataFrame) -> str:
    """Return the title of a group: its noise and its number of clean masks."""
    return f"{name_noise(group['noise'].iloc[0])}, {count(group['clean'].iloc[0], 'clean mask')}"


def name_noise(noise: str) -> str:
    """Return a kind of noise as a person says it."""
    return "noisy masks as they came" if noise == GIVEN else noise


def list_competitors(group: pd.DataFrame) -> list[SummaryRow]:
    """Return the rows of the methods that have a Dice and are rivals, the best first."""
    return [row for row in list_rows(group) if row.method != CEILING and not np.isnan(row.dice)]


def read_match(summary: pd.DataFrame) -> str:
    """Return what all methods have in common, updates or time."""
    return str(summary["match"].iloc[0]) if len(summary) else "updates"


def has_several_counts(summary: pd.DataFrame) -> bool:
    """Return whether there are several numbers of clean masks to compare."""
    return summary.dropna(subset=["dice"])["clean"].nunique() > 1


# --- sentences ----------------------------------------------------------------------------------------------------


def describe_group(group: pd.DataFrame) -> list[str]:
    """Return the results of a group in sentences: who wins, by how much, whether chance explains it, what it costs, what is missing."""
    rows = list_competitors(group)
    if not rows:
        return ["No method has finished yet.", *_missing(group)]
    return [*_winner(rows), *_tied(rows), *_over_plain(rows), *_cost(rows), *_ours(rows), *_ceiling(group), *_masks(rows), *_missing(group)]


def judge_difference(row: SummaryRow, other: str = "rival") -> Verdict:
    """Return whether a method and the one it is compared with (`rival` or `plain`) can be told apart."""
    numbers = [getattr(row, f"minus_{other}{name}") for name in ("_low", "_high", "_p_holm", "_seeds", "_min", "_max")]
    low, high, p, seeds, least, most = map(float, numbers)
    if np.isnan([low, p]).any():
        return "not compared"
    if low <= 0 <= high or p >= LEVEL:
        return "not apart"
    if seeds < 2:
        return "one seed"
    return "apart" if least > 0 or most < 0 else "seeds disagree"


def describe_weights(shares: pd.DataFrame) -> list[str]:
    """Return a sentence about the weight of wrong pixels in a group, from its `BenchmarkResults.shares`; none where that is not known."""
    known = shares.dropna(subset=["wrong_weight"])
    parts = []
    for method, rows in known.groupby("method", sort=False):
        first, last = rows.sort_values("epoch")["wrong_weight"].iloc[[0, -1]]
        parts.append(f"{last:.1%} of the weight of `{method}` in the last epoch ({first:.1%} in the first)")
    return [f"Wrong pixels are {known['wrong_pixels'].mean():.1%} of the noisy pixels, and have {', '.join(parts)}."] if parts else []


def select_group(table: pd.DataFrame, group: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of another table that belong to a group."""
    return table[(table["noise"] == group["noise"].iloc[0]) & (table["clean"] == group["clean"].iloc[0])]


def _winner(rows: Sequence[SummaryRow]) -> Iterable[str]:
    best = rows[0]
    if len(rows) == 1:
        yield f"Only `{best.method}` has finished: Dice {_dice_words(best)}."
        return
    second = rows[1]
    yield f"`{best.method}` has the highest Dice, {_dice_words(best)}; `{second.method}` is second with {format_number(second.dice)}."
    if np.isnan(best.minus_rival):
        yield "The two have no seed and case in common, so they cannot be compared."
        return
    shared = "" if best.seeds == second.seeds == best.minus_rival_seeds else f", on {count(int(best.minus_rival_seeds), 'shared seed')},"
    least, most = (format_number(value, signed=True) for value in (best.minus_rival_min, best.minus_rival_max))
    verdict_words = _VERDICTS[judge_difference(best)].format(seeds=int(best.minus_rival_seeds), least=least, most=most)
    yield f"Case by case{shared} the difference is {_difference_words(best, 'rival')}. {verdict_words}"


_VERDICTS: dict[Verdict, str] = {
    "apart": "It has the same sign in each of the {seeds} seeds: the two can be told apart.",
    "one seed": "On these cases the two can be told apart, but that is one training each: another seed may change the order.",
    "seeds disagree": "But the seeds disagree ({least} to {most}): another training may change the order, so the two cannot be told apart.",
    "not apart": "The two cannot be told apart.",
    "not compared": "These are too few cases to compare them.",
}


def _tied(rows: Sequence[SummaryRow]) -> Iterable[str]:
    """Yield the methods behind the second that cannot be told from the best either."""
    tied = [row.method for row in rows[2:] if judge_difference(row) in TIED]
    if tied and judge_difference(rows[0]) in TIED:
        yield f"Nor can {_quote(tied, 'or')} be told from `{rows[0].method}`."
    elif tied:
        yield f"{_quote(tied)} cannot be told from `{rows[0].method}`, though."


def _over_plain(rows: Sequence[SummaryRow]) -> Iterable[str]:
    best = rows[0]
    if best.method == BASE and len(rows) > 1:
        yield "No other method does better than plain training here."
    elif rows[1:] and best.rival != BASE and not np.isnan(best.minus_plain):
        clear = {"apart": "", "one seed": ", on one seed", "seeds disagree": ", but not in every seed"}
        word = clear.get(judge_difference(best, "plain"), ", which cannot be told from 0")
        yield f"Against `{BASE}` the difference is {_difference_words(best, 'plain')}{word}."


def _cost(rows: Sequence[SummaryRow]) -> Iterable[str]:
    best = rows[0]
    if not np.isnan(best.cost) and best.cost_over != best.method:
        clock = "processor time" if best.cost_from == "cpu" else "by the clock, so other work on the machine counts too"
        yield f"An update of `{best.method}` costs {best.cost:.2f} times one of `{best.cost_over}` ({clock})."
    if best.match == "time" and len(rows) > 1:
        first, *others, last = [f"`{row.method}` {'made ' if row is best else ''}{row.updates:,.0f}" for row in rows]
        yield f"In the same time {', '.join([f'{first} updates', *others])} and {last}."


def _ours(rows: Sequence[SummaryRow]) -> Iterable[str]:
    """Yield the place of this package's method, where it is neither first nor second."""
    for place, row in enumerate(rows):
        if row.method == OURS and place > 1:
            yield f"`{OURS}` comes {_ordinal(place + 1)} of {len(rows)} with {format_number(row.dice)}."


def _ceiling(group: pd.DataFrame) -> Iterable[str]:
    for row in list_rows(group):
        if row.method == CEILING and not np.isnan(row.dice):
            yield f"With true masks for all cases (`{CEILING}`) it would be {format_number(row.dice)}."


def _masks(rows: Sequence[SummaryRow]) -> Iterable[str]:
    """Yield how good the masks are that methods have mended, where they have, beside what was expected of them."""
    for row in rows:
        if np.isnan(row.expected):
            continue
        expected = f"{format_number(row.expected)} ({format_range(row.expected_low, row.expected_high)})"
        if row.cells_judged:
            yield (
                f"The masks that `{row.method}` learns from have a Dice of {format_number(row.masks_mended)} with the truth, "
                f"{format_number(row.masks_given)} as given; expected were {expected}, and the truth is within the interval in "
                f"{int(row.cells_covered)} of {count(int(row.cells_judged), 'training')}."
            )
        else:
            yield f"The masks that `{row.method}` learns from are expected to have a Dice of {expected}."


def _missing(group: pd.DataFrame) -> Iterable[str]:
    for state, column in (("Failed", "seeds_failed"), ("Not run", "seeds_not_run")):
        names: dict[str, list[str]] = {}
        for row in list_rows(group):
            if getattr(row, column):
                names.setdefault(_of_seeds(getattr(row, column), row), []).append(row.method)
        if names:
            yield f"{state}: {'; '.join(f'{_quote(methods)} ({seeds})' for seeds, methods in names.items())}."
    done = group[group["seeds"] > 0]
    if done["seeds"].nunique() > 1 or (done["minus_rival_seeds"] < done["seeds"]).any():
        yield "Not all methods have the same seeds; a comparison uses the seeds that both have."
    undefined = int(group["undefined"].sum())
    if undefined:
        values = count(undefined, "value of Dice is", "values of Dice are")
        yield f"{values} not defined (no foreground, neither true nor predicted) and not in the means."


def _of_seeds(number_of_seeds: int, row: SummaryRow) -> str:
    return f"{number_of_seeds} of {count(row.seeds + row.seeds_failed + row.seeds_not_run, 'seed')}"


def _dice_words(row: SummaryRow) -> str:
    interval = "" if np.isnan(row.dice_low) else f" ({format_range(row.dice_low, row.dice_high)})"
    return f"{format_number(row.dice)}{interval}"


def _difference_words(row: SummaryRow, other: str) -> str:
    mean, low, high, p = (getattr(row, f"minus_{other}{name}") for name in ("", "_low", "_high", "_p_holm"))
    return f"{format_number(mean, signed=True)} ({format_range(low, high, signed=True)}; p {format_p(p, equals=True)})"


def _quote(names: Sequence[str], last: str = "and") -> str:
    quoted = [f"`{name}`" for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} {last} {quoted[-1]}"


def _ordinal(place: int) -> str:
    ending = "th" if 10 <= place % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(place % 10, "th")
    return f"{place}{ending}"


# --- tables -------------------------------------------------------------------------------------------------------


def list_headings(group: pd.DataFrame) -> list[str]:
    """Return the headings of the columns of `format_row`."""
    bases = group.loc[group["cost"].notna(), "cost_over"]
    over = f" / {bases.iloc[0]}" if len(bases) else ""
    compared = ["minus best rival", "p", f"minus {BASE}", "p"]
    return ["method", "Dice", "by seed", "Jaccard", "seeds", *compared, f"cost{over}", "updates", "seconds"]


def format_row(row: SummaryRow) -> list[TableCell]:
    """Return a row of a group's table."""
    done = _of_seeds(row.seeds, row) if row.seeds_failed + row.seeds_not_run else str(row.seeds)
    seeds = TableCell(done, _why(row) if row.seeds else "")
    if np.isnan(row.dice):
        return [TableCell(f"`{row.method}`"), TableCell(_why(row) or "undefined"), NONE, NONE, seeds, *[NONE] * 7]
    by_seed = TableCell(format_range(row.dice_min, row.dice_max), f"sd {row.dice_sd:.3f}") if row.seeds > 1 else NONE
    rival, plain = (_difference_cells(row, other) for other in ("rival", "plain"))
    name = TableCell(f"`{row.method}`", "true masks" if row.method == CEILING else "")
    dice, jaccard = TableCell(format_number(row.dice), format_range(row.dice_low, row.dice_high)), TableCell(format_number(row.jaccard))
    return [name, dice, by_seed, jaccard, seeds, *rival, *plain, _cost_cell(row), *_spent_cells(row)]


def _why(row: SummaryRow) -> str:
    """Return why seeds are missing."""
    states = (("failed", row.seeds_failed), ("not run", row.seeds_not_run))
    return ", ".join((f"{number_of} {state}" if row.seeds else state) for state, number_of in states if number_of)


def _difference_cells(row: SummaryRow, other: str) -> list[TableCell]:
    mean, low, high, p = (getattr(row, f"minus_{other}{name}") for name in ("", "_low", "_high", "_p_holm"))
    if np.isnan(mean):
        return [NONE, NONE]
    return [TableCell(format_number(mean, signed=True), format_range(low, high, signed=True)), TableCell(format_p(p))]


def _cost_cell(row: SummaryRow) -> TableCell:
    if np.isnan(row.cost) or row.cost_over == row.method:
        return TableCell("1") if row.cost_over == row.method else NONE
    clock = "" if row.cost_from == "cpu" else "by the clock"
    spread = f"{row.cost_min:.2f} … {row.cost_max:.2f}" if row.cost_seeds > 1 else ""
    return TableCell(f"{row.cost:.2f}", ", ".join(filter(None, [spread, clock])))


def _spent_cells(row: SummaryRow) -> list[TableCell]:
    """Return the cells of updates and seconds of one training."""
    by_processor = not np.isnan(row.cpu_seconds)
    seconds = row.cpu_seconds if by_processor else row.seconds
    spent = TableCell(f"{seconds:,.0f}", "" if by_processor else "by the clock")
    return [TableCell(f"{row.updates:,.0f}") if not np.isnan(row.updates) else NONE, spent if not np.isnan(seconds) else NONE]


def tabulate_classes(classes: pd.DataFrame, group: pd.DataFrame) -> list[list[TableCell]]:
    """Return the table of the measures of every class of a group, its headings first; empty where there is one class."""
    table = select_group(classes, group)
    numbers = list(table["class"].unique())
    if not numbers:
        return []
    columns = [(title, name, number) for title, name in (("Dice", "dice"), ("surface Dice", "surface_dice")) for number in numbers]
    rows = [[TableCell("method"), *(TableCell(f"{title}, class {number}") for title, _, number in columns)]]
    for method in group.loc[group["method"].isin(table["method"]), "method"]:
        of_class = table[table["method"] == method].set_index("class").to_dict("index")
        rows.append([TableCell(f"`{method}`"), *(_measure_cell(of_class[number], name) for _, name, number in columns)])
    return rows


def _measure_cell(row: dict[Any, Any], name: str) -> TableCell:
    if np.isnan(row[name]):
        return NONE
    return TableCell(format_number(row[name]), format_range(row[f"{name}_low"], row[f"{name}_high"]))


def format_markdown(summary: pd.DataFrame, shares: pd.DataFrame, classes: pd.DataFrame | None = None) -> str:
    """Return all groups as Markdown: the results in words, a table sorted by Dice, and one of every class where there are several."""
    parts = ["# Results", "\n".join(f"- {line}" for line in explain_tables(read_match(summary)))]
    for group in split_groups(summary):
        names = list_headings(group)
        table = _join_table([names, *([str(cell) for cell in format_row(row)] for row in list_rows(group))])
        parts += [f"## {name_group(group)}", " ".join([*describe_group(group), *describe_weights(select_group(shares, group))]), table]
        if classes is not None and (rows := tabulate_classes(classes, group)):
            parts += [CLASSES_EXPLAINED, _join_table([[str(cell) for cell in row] for row in rows])]
    return "\n\n".join(parts) + "\n"


def _join_table(rows: Sequence[Sequence[str]]) -> str:
    """Return a table as Markdown; the first row has its headings."""
    first, *others = rows
    return "\n".join(f"| {' | '.join(line)} |" for line in (first, ["---"] * len(first), *others))


# --- numbers ------------------------------------------------------------------------------------------------------


def format_p(p: float, *, equals: bool = False) -> str:
    """Return `0.012` or `< 0.001`; with `equals`, as it follows p in a sentence."""
    if np.isnan(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{'= ' if equals else ''}{p:.3f}"
