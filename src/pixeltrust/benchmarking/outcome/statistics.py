"""The numbers of a benchmark: tables in, tables out.

    cells     a row per cell: method, noise, clean, seed, (fold,) status, seconds, updates, cpu_seconds, error, and match: what all methods
              have in common, "updates" or "time" ("updates" where there is no such column); perhaps `MASKS`
    scores    a row per cell and test case: method, noise, clean, seed, id, dice, jaccard; of several classes also `OF_CLASSES`
    table     one method's Dice in one group: ids × seeds; NaN where it is not defined
    group     all methods of one noise and one number of clean masks

A case counts once: its Dice is averaged over the seeds first. Comparisons are made case by case and seed by seed, on what both sides have.
Intervals and tests say what other test cases would have changed, not what another training would; the spread over seeds says that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from pixeltrust.benchmarking.grid import CEILING
from pixeltrust.metrics import bootstrap_interval, mean_of_defined

GROUP = ["noise", "clean"]
BASE = "plain"
SHARES = ("wrong_pixels", "wrong_weight", "wrong_weighed", "right_weighed")
MASKS = ("masks_given", "masks_mended", "expected", "expected_low", "expected_high")
"""The Dice of a cell's noisy masks with the truth as given and mended, and the estimate of the second with its interval."""
OF_CLASSES = ("dice_", "surface_dice_")
"""The measures that are told for every class; the number of the class follows."""
LEVEL = 0.05  # of the tests, after the correction

_MOST_TO_ENUMERATE = 13  # differences, as in scipy
_SEEDS = {"seeds": "done", "seeds_failed": "failed", "seeds_not_run": "not run"}
_DIFFERENCE = ("", "_low", "_high", "_min", "_max", "_seeds", "_cases", "_p", "_p_holm")
COLUMNS = (
    *("noise", "clean", "method", *_SEEDS, "cases", "undefined"),
    *("dice", "dice_low", "dice_high", "dice_min", "dice_max", "dice_sd", "jaccard"),
    *("rival", *(f"minus_{other}{name}" for other in ("rival", "plain") for name in _DIFFERENCE)),
    *("cost", "cost_min", "cost_max", "cost_seeds", "cost_from", "cost_over"),
    *("match", "updates", "seconds", "cpu_seconds"),
    *(*MASKS, "cells_judged", "cells_covered"),
)
"""The columns of the summary; see `summarize_cells`."""

Numbers = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class BenchmarkResults:
    """All results of a benchmark, as tables."""

    cells: pd.DataFrame
    scores: pd.DataFrame
    shares: pd.DataFrame
    """A row per noise, clean, method and epoch: `SHARES`, each the mean over seeds, and wrong_weight's range."""

    @cached_property
    def summary(self) -> pd.DataFrame:
        """See `summarize_cells`."""
        return summarize_cells(self.cells, self.scores)

    @cached_property
    def classes(self) -> pd.DataFrame:
        """See `summarize_classes`."""
        return summarize_classes(self.scores)

    @cached_property
    def seed_means(self) -> pd.DataFrame:
        """The mean Dice of every seed: noise, clean, method, seed, dice."""
        return self.scores.groupby([*GROUP, "method", "seed"], sort=False)["dice"].mean().reset_index()


def summarize_cells(cells: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """Return a row per noise, clean and method, in the order of the cells; missing numbers are NaN.

    Returns:
        seeds, seeds_failed, seeds_not_run: how many are done, or not and why.
        cases, undefined: test cases in the mean; Dice of cases and seeds that are not defined, so not in the mean.
        dice, dice_low, dice_high: the mean over cases and its 95 % bootstrap interval.
        dice_min, dice_max, dice_sd: of the seeds' means; the standard deviation (n − 1) from two seeds on.
        jaccard: the mean over cases.
        rival, minus_rival, minus_rival_…: the best other method of the group, and the difference to it: see `compare`.
        minus_plain, minus_plain_…: the difference to plain training.
        cost, cost_…: see `compare_costs`.
        match: what all methods have in common.
        updates, seconds, cpu_seconds: of one training; the mean over those that are done, NaN where one of them does not know it.
        masks_given, …: see `MASKS`; the means over the cells that have mended masks.
        cells_judged, cells_covered: in how many of them the truth is known, and in how many it lies in the interval.
    """
    rows = []
    for (noise, clean), group in cells.groupby(GROUP, sort=False):
        of_group = scores[(scores["noise"] == noise) & (scores["clean"] == clean)].merge(_done(group), on=["method", "seed"])
        rows += [{"noise": noise, "clean": clean, **row} for row in _group_rows(group, of_group)]
    match = cells["match"].iloc[0] if "match" in cells and len(cells) else "updates"
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(dict.fromkeys(("rival", "cost_from", "cost_over"), object)).assign(match=match)


def summarize_classes(scores: pd.DataFrame) -> pd.DataFrame:
    """Return a row per noise, clean, method and class, where the scores have several: the mean over cases of each measure.

    Returns:
        noise, clean, method, class, seeds, and dice, dice_low, dice_high, surface_dice, surface_dice_low, surface_dice_high: the mean over
        cases, each averaged over the seeds first, and its 95 % bootstrap interval. Surface Dice is at a tolerance of 1 mm (of pictures:
        1 pixel).
    """
    numbers = sorted(int(name.removeprefix("dice_")) for name in map(str, scores) if name.startswith("dice_"))
    names = [prefix.removesuffix("_") for prefix in OF_CLASSES]
    rows = []
    for (noise, clean, method), table in scores.groupby([*GROUP, "method"], sort=False) if numbers else ():
        for number in numbers:
            row: Numbers = {"noise": noise, "clean": clean, "method": method, "class": number, "seeds": table["seed"].nunique()}
            for name in names:
                means = table.groupby("id", sort=False)[f"{name}_{number}"].mean().to_numpy()
                low, high = bootstrap_interval(means)
                row |= {name: mean_of_defined(means), f"{name}_low": low, f"{name}_high": high}
            rows.append(row)
    ends = ("", "_low", "_high")
    return pd.DataFrame(rows, columns=[*GROUP, "method", "class", "seeds", *(f"{name}{end}" for name in names for end in ends)])


def _group_rows(cells: pd.DataFrame, scores: pd.DataFrame) -> list[Numbers]:
    states = {str(method): _seed_states(rows) for method, rows in cells.groupby("method", sort=False)}
    done = {method: [seed for seed, state in seeds.items() if state == "done"] for method, seeds in states.items()}
    dice, jaccard = (_split_tables(scores, value, done) for value in ("dice", "jaccard"))
    undefined = scores["dice"].isna().groupby(scores["method"]).sum()
    own = {method: _own(table, jaccard[method]) | {"undefined": undefined[method]} for method, table in dice.items()}
    competing = [method for method, numbers in own.items() if method != CEILING and not np.isnan(numbers["dice"])]
    order = sorted(competing, key=lambda method: -own[method]["dice"])
    rivals = {method: other for method in dice if (other := next((one for one in order if one != method), None))}
    plain = {method: BASE for method in dice if BASE in dice and method != BASE}
    parts = [
        {method: {name: list(seeds.values()).count(state) for name, state in _SEEDS.items()} for method, seeds in states.items()},
        own,
        {method: {"rival": rival} for method, rival in rivals.items()},
        _compare_all("minus_rival", dice, rivals, best=order[0] if order else None),
        _compare_all("minus_plain", dice, plain),
        _cost_rows(cells, done),
        _spent(cells),
        _masks(cells),
    ]
    return [{"method": method} | {name: value for part in parts for name, value in part.get(method, {}).items()} for method in states]


def _done(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the methods and seeds whose cells (folds) are all done."""
    done = (cells["status"] == "done").groupby([cells["method"], cells["seed"]]).all()
    return done[done].index.to_frame(index=False)


# --- seeds and cases ----------------------------------------------------------------------------------------------


def _seed_states(cells: pd.DataFrame) -> dict[int, str]:
    """Return the state of every seed of a method: done (with all its folds), failed, or not run."""
    states = {}
    for seed in cells["seed"].unique():
        statuses = set(cells.loc[cells["seed"] == seed, "status"])
        states[int(seed)] = "failed" if "failed" in statuses else "done" if statuses == {"done"} else "not run"
    return states


def _split_tables(scores: pd.DataFrame, value: str, done: Mapping[str, Sequence[int]]) -> dict[str, pd.DataFrame]:
    """Return the table of every method that has seeds which are done."""
    table = scores.pivot(index="id", columns=["method", "seed"], values=value)
    columns = {method: [(method, seed) for seed in seeds if (method, seed) in table] for method, seeds in done.items()}
    return {method: table[chosen].droplevel("method", axis="columns") for method, chosen in columns.items() if chosen}


def _own(dice: pd.DataFrame, jaccard: pd.DataFrame) -> Numbers:
    means = dice.mean(axis=1).to_numpy()
    by_seed = dice.mean(axis=0)
    low, high = bootstrap_interval(means)
    return {
        "cases": int((~np.isnan(means)).sum()),
        "dice": mean_of_defined(means),
        "dice_low": low,
        "dice_high": high,
        "dice_min": by_seed.min(),
        "dice_max": by_seed.max(),
        "dice_sd": by_seed.std(ddof=1),
        "jaccard": mean_of_defined(jaccard.mean(axis=1).to_numpy()),
    }


# --- differences --------------------------------------------------------------------------------------------------


def compare(ours: pd.DataFrame, theirs: pd.DataFrame) -> Numbers:
    """Return our Dice minus theirs in every case and seed that both have, averaged over the seeds, then over the cases.

    Returns:
        "": the mean difference.  _low, _high: its 95 % bootstrap interval over cases.  _cases, _seeds: how many both have.
        _min, _max: the mean difference of the seed in which it is least and most.
        _p: of Wilcoxon's signed-rank test over the cases, two-sided.
    """
    seeds, ids = ours.columns.intersection(theirs.columns), ours.index.intersection(theirs.index)
    differences = ours.loc[ids, seeds] - theirs.loc[ids, seeds]
    by_seed = differences.mean(axis=0)
    by_case = differences.mean(axis=1).dropna().to_numpy(dtype=np.float64)
    low, high = bootstrap_interval(by_case)
    return {
        "": mean_of_defined(by_case),
        "_low": low,
        "_high": high,
        "_min": by_seed.min(),
        "_max": by_seed.max(),
        "_seeds": len(seeds),
        "_cases": len(by_case),
        "_p": signed_rank_test(by_case),
    }


def signed_rank_test(differences: np.ndarray) -> float:
    """Return p of Wilcoxon's signed-rank test (two-sided) that paired differences have the median 0; 1 where all are 0, NaN for none.

    Source: F. Wilcoxon, Individual comparisons by ranking methods, Biometrics Bulletin 1 (1945).
    """
    from scipy import stats

    if not len(differences):
        return float("nan")
    if not np.any(differences):
        return 1.0
    if len(differences) > _MOST_TO_ENUMERATE or np.isnan(differences).any():
        return float(stats.wilcoxon(differences).pvalue)
    # What scipy does where some are alike or 0, without a call for each of the choices of signs.
    apart = differences[differences != 0]
    ranks = stats.rankdata(np.abs(apart))
    sums = (np.arange(2 ** len(apart))[:, None] >> np.arange(len(apart)) & 1) @ ranks
    found = ranks[apart > 0].sum()
    return min(1.0, 2 * min(float(np.mean(sums <= found)), float(np.mean(sums >= found))))


def correct_by_holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return p values, corrected for their number; NaN stays and does not count.

    Source: S. Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6 (1979).
    """
    values = np.asarray(p, dtype=np.float64)
    corrected = np.full(len(values), np.nan)
    order = [place for place in np.argsort(values, kind="stable") if not np.isnan(values[place])]
    steps = [(len(order) - rank) * values[place] for rank, place in enumerate(order)]
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(steps)) if steps else []
    return corrected


def _compare_all(what: str, dice: Mapping[str, pd.DataFrame], others: Mapping[str, str], *, best: str | None = None) -> dict[str, Numbers]:
    """Compare every method with its other one, in columns named `what`…; _p_holm is p, corrected for the number of comparisons.

    Args:
        best: this method and its rival make one comparison, which counts once.
    """
    rows = {method: compare(dice[method], dice[other]) for method, other in others.items()}
    family = [method for method in rows if method != best]
    corrected = dict(zip(family, correct_by_holm([rows[method]["_p"] for method in family]), strict=True))
    if best in rows:
        corrected[best] = corrected[others[best]]
    for method, row in rows.items():
        row["_p_holm"] = corrected[method]
    return {method: {f"{what}{name}": value for name, value in row.items()} for method, row in rows.items()}


# --- cost ---------------------------------------------------------------------------------------------------------


def _list_costs(cells: pd.DataFrame, done: Mapping[str, Sequence[int]]) -> dict[str, pd.DataFrame]:
    """Return the seconds per update of every method, by seed: columns `cpu` (NaN where it is not known) and `clock`; folds together."""
    by_seed = cells.groupby(["method", "seed"], sort=False)[["updates", "seconds", "cpu_seconds"]]
    sums, known = by_seed.sum(), by_seed.count().eq(by_seed.size(), axis=0).all(axis=1)
    both = pd.DataFrame({"cpu": (sums["cpu_seconds"] / sums["updates"]).where(known), "clock": sums["seconds"] / sums["updates"]})
    return {method: both.loc[[(method, seed) for seed in seeds]].droplevel("method") for method, seeds in done.items() if seeds}


def compare_costs(ours: pd.DataFrame, theirs: pd.DataFrame) -> Numbers:
    """Divide our seconds per update by theirs, seed by seed: of the processor in the seeds where both are known, else by the clock in all.

    Returns:
        cost, cost_min, cost_max: the median over seeds, and the range; cost_seeds: how many; cost_from: `cpu` or `clock`.
    """
    ratios = (ours / theirs).dropna(how="all")
    kind = "cpu" if ratios["cpu"].notna().any() else "clock"
    known = ratios[kind].dropna()
    if known.empty:
        return {}
    middle, low, high = known.median(), known.min(), known.max()
    return {"cost": middle, "cost_min": low, "cost_max": high, "cost_seeds": len(known), "cost_from": kind}


def _cost_rows(cells: pd.DataFrame, done: Mapping[str, Sequence[int]]) -> dict[str, Numbers]:
    """Return costs as multiples of those of `plain`, or else of the cheapest of the methods with the most seeds."""
    tables = _list_costs(cells, done)
    rivals = [BASE] if BASE in tables else [method for method in tables if method != CEILING]
    base = min(rivals, key=lambda method: (-len(tables[method]), tables[method]["clock"].median()), default=None)
    return {method: {**compare_costs(table, tables[base]), "cost_over": base} for method, table in tables.items() if base is not None}


def _masks(cells: pd.DataFrame) -> dict[str, Numbers]:
    """Return how good the mended masks of every method are, and are expected to be."""
    table = cells.reindex(columns=["method", *MASKS]).dropna(subset="expected").astype(dict.fromkeys(MASKS, float))
    table["cells_judged"] = table["masks_mended"].notna()
    table["cells_covered"] = table["masks_mended"].between(table["expected_low"], table["expected_high"])
    grouped = table.groupby("method", sort=False)
    found = grouped[list(MASKS)].mean().join(grouped[["cells_judged", "cells_covered"]].sum())
    return {str(method): {str(name): value for name, value in row.items()} for method, row in found.iterrows()}


def _spent(cells: pd.DataFrame) -> dict[str, Numbers]:
    """Return the updates and seconds of one training of every method."""
    by_method = cells[cells["status"] == "done"].groupby("method", sort=False)[["updates", "seconds", "cpu_seconds"]]
    means = by_method.mean().where(by_method.count().eq(by_method.size(), axis=0))
    return {str(method): {str(name): value for name, value in row.items()} for method, row in means.iterrows()}


# --- weights ------------------------------------------------------------------------------------------------------


def average_shares(histories: pd.DataFrame) -> pd.DataFrame:
    """Return `BenchmarkResults.shares` of a table with a row per noise, clean, method, seed and epoch."""
    by_epoch = histories.groupby([*GROUP, "method", "epoch"], sort=False)
    ranges = {"wrong_weight_min": ("wrong_weight", "min"), "wrong_weight_max": ("wrong_weight", "max")}
    means = {name: (name, "mean") for name in SHARES}
    return by_epoch.agg(seeds=("seed", "nunique"), **means, **ranges).reset_index()
