"""What came out of a benchmark: worked by hand, checked by other means, and never more than the numbers say."""

import json
import re
import shutil
import xml.etree.ElementTree as ET
from io import BytesIO
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import stats

from pixeltrust.benchmarking.grid import Grid
from pixeltrust.benchmarking.outcome.figures import clean_figure, cost_figure, dice_figure, weights_figure
from pixeltrust.benchmarking.outcome.reading import read_results
from pixeltrust.benchmarking.outcome.statistics import (
    CEILING,
    COLUMNS,
    MASKS,
    BenchmarkResults,
    average_shares,
    correct_by_holm,
    signed_rank_test,
    summarize_cells,
    summarize_classes,
)
from pixeltrust.benchmarking.outcome.words import (
    describe_group,
    describe_weights,
    format_markdown,
    judge_difference,
    list_headings,
    split_groups,
    tabulate_classes,
)
from pixeltrust.benchmarking.outcome.writing import write_results_files
from pixeltrust.benchmarking.page import headline
from pixeltrust.benchmarking.run import benchmark, writing_results
from pixeltrust.data.cases import Case, table_of
from pixeltrust.demonstration.synthetic import write_source
from pixeltrust.pages.charts import colour_family, marker_of, push_apart, to_png
from pixeltrust.plumbing.errors import RunError
from pixeltrust.reports import report
from test_benchmark import TINY, Here
from test_report import MARKUP, assert_alone, needs_chromium, seen_in_chromium, words, write_case, write_run
from tiny import leave_figures_out

pytestmark = pytest.mark.usefixtures("small_pictures")
PLAIN = [0.50, 0.60, 0.40, 0.70, 0.55, 0.45, 0.65, 0.35]  # mean .525
SHIFTS = [0.10, 0.20, 0.15, 0.05, 0.12, 0.18, 0.08, 0.22]  # mean .1375; no two alike
AHEAD = [a + b for a, b in zip(PLAIN, SHIFTS, strict=True)]  # mean .6625
METHODS = ("plain", "joint", "clean", "finetuned", "image", "pixel", "pixel+clean", CEILING)
METHODS += ("dice-ce", "gce", "mae", "nr-dice", "sce", "t-loss", "pruned", "mended", "mean-teacher")


def tables(dice, *, noise="box", clean=10, failed=(), not_run=(), cpu=None, seconds=None):
    """Cells and scores of one group: Dice by method and seed; seconds by method, or by (method, seed)."""
    cells, scores = [], []
    for method, seeds in dice.items():
        for seed, values in seeds.items():
            clock = (seconds or {}).get((method, seed), (seconds or {}).get(method, 20.0))
            of_processor = (cpu or {}).get((method, seed), (cpu or {}).get(method, np.nan))
            names = {"method": method, "noise": noise, "clean": clean, "seed": seed}
            cells.append(names | {"fold": 0, "status": "done", "seconds": clock, "updates": 10.0, "cpu_seconds": of_processor, "error": ""})
            for number, value in enumerate(values):
                scores.append(names | {"id": f"c{number}", "dice": value, "jaccard": value / (2 - value)})
    for status, missing in (("failed", failed), ("not run", not_run)):
        for method, seed in missing:
            names = {"method": method, "noise": noise, "clean": clean, "seed": seed, "fold": 0, "status": status}
            cells.append(
                names | {"seconds": np.nan, "updates": np.nan, "cpu_seconds": np.nan, "error": "boom" if status == "failed" else ""}
            )
    return pd.DataFrame(cells), pd.DataFrame(scores, columns=["method", "noise", "clean", "seed", "id", "dice", "jaccard"])


def summary_of(dice, **options):
    return summarize_cells(*tables(dice, **options)).set_index("method", drop=False)


def words_of(dice, **options):
    (group,) = split_groups(summarize_cells(*tables(dice, **options)))
    return " ".join(describe_group(group))


def moved(values, by):
    return [value + by for value in values]


# The numbers


def test_a_clear_winner_worked_by_hand():
    summary = summary_of({"plain": {0: PLAIN, 1: moved(PLAIN, 0.02)}, "clean": {0: AHEAD, 1: AHEAD}})
    plain, clean = summary.loc["plain"], summary.loc["clean"]
    assert clean["dice"] == pytest.approx(0.6625)
    assert plain["dice"] == pytest.approx(0.535)  # (.525 + .545) / 2
    assert (plain["dice_min"], plain["dice_max"]) == pytest.approx((0.525, 0.545))
    assert plain["dice_sd"] == pytest.approx(0.02 / 2**0.5)
    assert clean["minus_rival"] == pytest.approx(0.1275)  # (.1375 + .1175) / 2
    assert plain["minus_rival"] == pytest.approx(-0.1275)
    assert (clean["minus_rival_min"], clean["minus_rival_max"]) == pytest.approx((0.1175, 0.1375))
    assert (clean["rival"], plain["rival"]) == ("plain", "clean")
    assert clean["minus_rival_p"] == pytest.approx(2 / 2**8)  # all 8 differences have one sign
    assert clean["minus_plain"] == clean["minus_rival"]
    assert np.isnan(plain["minus_plain"])
    assert (clean["seeds"], clean["cases"], clean["undefined"]) == (2, 8, 0)


def test_the_numbers_are_those_of_numpy_and_scipy():
    draws = np.random.default_rng(3)
    dice = {method: {seed: draws.uniform(0.2, 0.9, 40) for seed in (0, 1, 2)} for method in ("plain", "clean", "pixel", "joint")}
    summary = summary_of(dice)
    means = {method: np.mean(list(seeds.values()), axis=0) for method, seeds in dice.items()}
    order = sorted(means, key=lambda method: -means[method].mean())
    resampled = draws.integers(0, 40, (20_000, 40))
    p = {}
    for method in dice:
        row, rival = summary.loc[method], order[1] if method == order[0] else order[0]
        difference = means[method] - means[rival]
        assert row["rival"] == rival
        assert row["dice"] == pytest.approx(means[method].mean())
        assert row["jaccard"] == pytest.approx(np.mean([values / (2 - values) for values in dice[method].values()]))
        assert row["dice_sd"] == pytest.approx(np.std([values.mean() for values in dice[method].values()], ddof=1))
        assert row["minus_rival"] == pytest.approx(difference.mean())
        p[method] = stats.wilcoxon(difference).pvalue
        assert row["minus_rival_p"] == pytest.approx(p[method])
        ends = np.quantile(difference[resampled].mean(axis=1), [0.025, 0.975])
        assert [row["minus_rival_low"], row["minus_rival_high"]] == pytest.approx(ends, abs=0.006)  # two bootstraps of 2,000 and 20,000
    compared = sorted(order[1:], key=p.get)
    corrected = np.maximum.accumulate([min(1, (3 - rank) * p[method]) for rank, method in enumerate(compared)])
    assert summary.loc[compared, "minus_rival_p_holm"].tolist() == pytest.approx(corrected.tolist())
    assert summary.loc[order[0], "minus_rival_p_holm"] == summary.loc[order[1], "minus_rival_p_holm"]


def test_mended_masks_are_told_beside_what_was_expected_of_them():
    cells, scores = tables({"plain": {0: PLAIN, 1: PLAIN}, "mended": {0: AHEAD, 1: AHEAD}})
    mended = cells["method"] == "mended"
    for name, values in zip(MASKS, ((0.6, 0.62), (0.9, 0.94), (0.91, 0.91), (0.89, 0.9), (0.93, 0.92)), strict=True):
        cells.loc[mended, name] = values
    row = summarize_cells(cells, scores).set_index("method").loc["mended"]
    assert row[list(MASKS)].tolist() == pytest.approx([0.61, 0.92, 0.91, 0.895, 0.925])
    assert (row["cells_judged"], row["cells_covered"]) == (2, 1)
    (group,) = split_groups(summarize_cells(cells, scores))
    said = (
        "The masks that `mended` learns from have a Dice of 0.920 with the truth, 0.610 as given; expected were 0.910 (0.895 … 0.925), "
        "and the truth is within the interval in 1 of 2 trainings."
    )
    assert said in describe_group(group)
    cells.loc[mended, ["masks_given", "masks_mended"]] = np.nan  # of a user's own data
    (group,) = split_groups(summarize_cells(cells, scores))
    assert "The masks that `mended` learns from are expected to have a Dice of 0.910 (0.895 … 0.925)." in describe_group(group)
    assert "mended" not in words_of({"plain": {0: PLAIN}, "clean": {0: AHEAD}})


def test_the_order_of_rows_changes_nothing():
    cells, scores = tables({"plain": {0: PLAIN, 1: AHEAD}, "clean": {0: AHEAD, 1: PLAIN[::-1]}, "pixel": {0: PLAIN[::-1], 1: PLAIN}})
    pd.testing.assert_frame_equal(summarize_cells(cells, scores), summarize_cells(cells, scores.sample(frac=1, random_state=1)))


def test_a_difference_is_the_same_wherever_both_stand():
    low, high = ({"plain": {0: moved(PLAIN, by)}, "clean": {0: moved(AHEAD, by)}} for by in (0, 0.1))
    columns = ["minus_plain", "minus_plain_low", "minus_plain_high"]
    assert summary_of(low).loc["clean", columns].tolist() == pytest.approx(summary_of(high).loc["clean", columns].tolist())


def test_methods_of_different_seeds_are_compared_on_those_that_both_have():
    dice = {"plain": {0: PLAIN, 1: moved(PLAIN, 0.3)}, "clean": {0: AHEAD}}
    clean = summary_of(dice, not_run=[("clean", 1)]).loc["clean"]
    assert clean["minus_plain"] == pytest.approx(0.1375)  # of seed 0 alone
    assert (clean["seeds"], clean["seeds_not_run"], clean["minus_plain_seeds"]) == (1, 1, 1)
    text = words_of(dice, not_run=[("clean", 1)])
    assert "`plain` has the highest Dice" in text
    assert "Case by case, on 1 shared seed, the difference is −0.138" in text
    assert "Not all methods have the same seeds; a comparison uses the seeds that both have." in text


def test_methods_without_a_common_seed_are_not_compared():
    dice = {"plain": {0: PLAIN}, "clean": {1: AHEAD}}
    assert np.isnan(summary_of(dice).loc["clean", "minus_plain"])
    assert "no seed and case in common" in words_of(dice)


def test_undefined_dice_is_in_no_mean_and_counted():
    dice = {"plain": {0: [0.2, 0.4, np.nan, np.nan]}, "clean": {0: [0.4, 0.8, 0.0, np.nan]}}
    summary = summary_of(dice)
    assert summary.loc["plain", "dice"] == pytest.approx(0.3)
    assert summary.loc["clean", "dice"] == pytest.approx(0.4)  # a mask where there is nothing has Dice 0
    assert summary["undefined"].tolist() == [2, 1]
    assert summary["cases"].tolist() == [2, 3]
    assert summary.loc["clean", "minus_plain"] == pytest.approx(0.3)  # of the two cases that both have
    assert "3 values of Dice are not defined" in words_of(dice)


def test_a_case_that_is_undefined_in_one_seed_counts_by_its_other():
    summary = summary_of({"plain": {0: [0.2, 0.4], 1: [0.6, np.nan]}})
    assert summary.loc["plain", "dice"] == pytest.approx(0.4)  # (.4 + .4) / 2
    assert (summary.loc["plain", "cases"], summary.loc["plain", "undefined"]) == (2, 1)


def test_the_ceiling_is_nobodys_rival_and_never_the_best():
    dice = {"plain": {0: PLAIN}, "clean": {0: AHEAD}, CEILING: {0: moved(AHEAD, 0.1)}}
    summary = summary_of(dice)
    assert summary.loc[CEILING, "minus_rival"] == pytest.approx(0.1)
    assert summary.loc[CEILING, "rival"] == "clean"
    assert summary.loc["clean", "rival"] == "plain"
    text = words_of(dice)
    assert "`clean` has the highest Dice" in text
    assert "With true masks for all cases (`ceiling`) it would be 0.76" in text


def test_a_seed_counts_once_all_its_folds_are_done():
    cells, scores = tables({"plain": {0: PLAIN, 1: PLAIN}})
    more = cells.assign(fold=1, status=["done", "not run"])
    row = summarize_cells(pd.concat([cells, more]), scores).iloc[0]
    assert (row["seeds"], row["seeds_not_run"]) == (1, 1)
    assert np.isnan(row["dice_sd"])


def test_holm_worked_by_hand():
    assert correct_by_holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert correct_by_holm([0.01, np.nan, 0.5]) == pytest.approx([0.02, np.nan, 0.5], nan_ok=True)
    assert correct_by_holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert len(correct_by_holm([])) == 0


def test_every_class_has_its_mean_over_cases_each_averaged_over_the_seeds():
    rows = [
        {"noise": "erode", "clean": 10, "method": method, "seed": seed, "id": case, "dice_1": dice, "dice_2": 0.5,
         "surface_dice_1": 1.0, "surface_dice_2": float("nan")}
        for method, seed, case, dice in [("plain", 0, "a", 0.2), ("plain", 1, "a", 0.4), ("plain", 0, "b", 0.9), ("clean", 0, "a", 0.7)]
    ]  # fmt: skip
    classes = summarize_classes(pd.DataFrame(rows)).set_index(["method", "class"])
    assert classes.loc[("plain", 1), "dice"] == pytest.approx((0.3 + 0.9) / 2)
    assert classes.loc[("plain", 1), ["seeds", "surface_dice"]].tolist() == [2, 1.0]
    assert classes.loc[("clean", 2), "dice"] == 0.5
    assert np.isnan(classes.loc[("clean", 2), "surface_dice"])
    summary = pd.DataFrame({"noise": "erode", "clean": 10, "method": ["clean", "plain"]})
    headings, first, second = tabulate_classes(classes.reset_index(), summary)
    assert [cell.value for cell in headings] == [
        "method",
        "Dice, class 1",
        "Dice, class 2",
        "surface Dice, class 1",
        "surface Dice, class 2",
    ]
    assert [first[0].value, second[0].value, second[1].value] == ["`clean`", "`plain`", "0.600"]
    assert summarize_classes(pd.DataFrame(columns=["noise", "clean", "method", "seed", "id", "dice", "jaccard"])).empty


def test_the_signed_rank_worked_by_hand():
    assert signed_rank_test(np.array([1.0, 2.0, 3.0])) == pytest.approx(0.25)  # 2 of the 8 choices of signs
    assert signed_rank_test(np.array([1.0, 0, 1, -1, 2])) == 0.5  # ranks 2, 2, 2 and 4: 4 of the 16 choices are as far up as 8
    assert signed_rank_test(np.zeros(4)) == 1
    assert np.isnan(signed_rank_test(np.array([])))


# Cost


def test_cost_is_taken_by_the_processor_seed_by_seed():
    dice = {"plain": {0: PLAIN, 1: PLAIN, 2: PLAIN}, "pixel": {0: AHEAD, 1: AHEAD, 2: AHEAD}}
    cpu = {("plain", 0): 10, ("plain", 1): 20, ("plain", 2): 10, ("pixel", 0): 30, ("pixel", 1): 50, ("pixel", 2): 40}
    pixel = summary_of(dice, cpu=cpu).loc["pixel"]
    assert (pixel["cost"], pixel["cost_min"], pixel["cost_max"]) == pytest.approx((3, 2.5, 4))
    assert (pixel["cost_over"], pixel["cost_from"], pixel["cost_seeds"]) == ("plain", "cpu", 3)


def test_cost_is_taken_by_the_clock_where_no_seed_has_both_processor_times():
    dice = {"plain": {0: PLAIN, 1: PLAIN}, "pixel": {0: AHEAD, 1: AHEAD}}
    numbers = {"cpu": {("plain", 0): 10, ("pixel", 1): 10}, "seconds": {"plain": 10, "pixel": 25}}
    pixel = summary_of(dice, **numbers).loc["pixel"]
    assert (pixel["cost"], pixel["cost_from"]) == (2.5, "clock")
    assert "by the clock" in words_of(dice, **numbers)
    one_more = {**numbers, "cpu": {**numbers["cpu"], ("plain", 1): 5}}
    assert summary_of(dice, **one_more).loc["pixel", ["cost", "cost_from", "cost_seeds"]].tolist() == [2, "cpu", 1]


def test_without_plain_the_cheapest_that_has_all_seeds_is_the_measure_of_cost():
    dice = {"clean": {0: PLAIN, 1: PLAIN}, "pixel": {0: AHEAD, 1: AHEAD}, "joint": {0: PLAIN}, CEILING: {0: AHEAD, 1: AHEAD}}
    summary = summary_of(dice, seconds={"clean": 10, "pixel": 30, "joint": 5, CEILING: 2})
    assert set(summary["cost_over"]) == {"clean"}
    assert summary["cost"].tolist() == [1, 3, 0.5, 0.2]


def test_updates_and_seconds_of_a_training_are_told_and_only_in_equal_time_as_such():
    dice = {"plain": {0: PLAIN, 1: PLAIN}, "clean": {0: PLAIN, 1: PLAIN}, "pixel": {0: AHEAD, 1: AHEAD}}
    cells, scores = tables(dice, cpu={"plain": 10, "pixel": 11}, seconds={"clean": 20, "pixel": 13})
    cells.loc[cells["method"] == "plain", "updates"] = 1234.0
    summary = summarize_cells(cells, scores)
    assert summary[["updates", "seconds", "cpu_seconds"]].iloc[2].tolist() == [10, 13, 11]
    assert set(summary["match"]) == {"updates"}
    table = {line.split(" | ")[0][2:]: line for line in format_markdown(summary, no_shares()).splitlines() if line.startswith("| `")}
    assert table["`plain`"].endswith("| 1,234 | 10 |")
    assert table["`clean`"].endswith("| 10 | 20 (by the clock) |")
    assert "**All methods make the same number of updates**" in format_markdown(summary, no_shares())
    assert "same time" not in format_markdown(summary, no_shares())
    timed = summarize_cells(cells.assign(match="time"), scores)
    text = format_markdown(timed, no_shares())
    assert "In the same time `pixel` made 10 updates, `plain` 1,234 and `clean` 10." in text
    assert "**All methods have the same time**" in text
    assert "same number of updates" not in text


# Words


def test_a_clear_winner_is_said_to_win():
    dice = {"plain": {0: PLAIN, 1: PLAIN}, "clean": {0: AHEAD, 1: AHEAD}}
    text = words_of(dice, cpu={"plain": 10, "clean": 12})
    assert "`clean` has the highest Dice, 0.662" in text
    assert "`plain` is second with 0.525" in text
    assert "+0.138" in text
    assert "same sign in each of the 2 seeds: the two can be told apart" in text
    assert "An update of `clean` costs 1.20 times one of `plain` (processor time)" in text


def test_a_tie_is_said_to_be_one():
    other = [value + sign * 0.05 for value, sign in zip(PLAIN, [1, -1] * 4, strict=True)]
    dice = {"plain": {0: PLAIN, 1: PLAIN}, "clean": {0: moved(other, 0.001), 1: other}, "joint": {0: PLAIN, 1: moved(PLAIN, -0.001)}}
    text = words_of(dice)
    assert "The two cannot be told apart." in text
    assert "Nor can `joint` be told from `clean`." in text


def test_a_difference_on_one_seed_may_be_turned_round_by_another():
    dice = {"plain": {0: PLAIN}, "clean": {0: AHEAD}}
    assert judge_difference(next(summary_of(dice).loc[["clean"]].itertuples())) == "one seed"
    assert "one training each: another seed may change the order" in words_of(dice)
    assert np.isnan(summary_of(dice).loc["clean", "dice_sd"])


def test_seeds_that_disagree_tell_nothing_apart_however_small_p_is():
    dice = {"plain": {0: PLAIN, 1: PLAIN}, "clean": {0: moved(AHEAD, 0.2), 1: moved(PLAIN, -0.01)}}
    clean = summary_of(dice).loc["clean"]
    assert clean["minus_plain_p_holm"] < 0.01
    assert clean["minus_plain_low"] > 0
    assert "But the seeds disagree (−0.010 to +0.338)" in words_of(dice)
    assert "can be told apart." not in words_of(dice).replace("cannot be told apart.", "")


def test_plain_training_that_wins_is_said_to_win():
    dice = {"plain": {0: AHEAD}, "trust": {0: PLAIN}, "clean": {0: moved(PLAIN, 0.01)}}
    text = words_of(dice)
    assert "`plain` has the highest Dice" in text
    assert "No other method does better than plain training here." in text
    assert "`trust` comes 3rd of 3 with 0.525" in text


def test_a_single_method_is_compared_with_nothing():
    text = words_of({"pixel": {0: PLAIN}}, not_run=[("plain", 0)])
    assert "Only `pixel` has finished: Dice 0.525" in text
    assert "Not run: `plain` (1 of 1 seed)" in text
    row = summary_of({"pixel": {0: PLAIN}}, not_run=[("plain", 0)]).loc["pixel"]
    assert np.isnan([row["minus_rival"], row["minus_plain"]]).all()


def test_nothing_done_has_words_and_tables_too():
    summary = summarize_cells(*tables({}, not_run=[("plain", 0), ("clean", 0)], failed=[("pixel", 0)]))
    assert tuple(summary.columns) == COLUMNS
    text = format_markdown(summary, no_shares())
    assert "No method has finished yet. Failed: `pixel` (1 of 1 seed). Not run: `plain` and `clean` (1 of 1 seed)." in text
    assert headline(split_groups(summary)) == "Nothing has finished yet"


def test_what_failed_or_was_not_run_has_its_row():
    missing = {"failed": [("joint", 0), ("joint", 1), ("clean", 1)], "not_run": [("pixel", 0), ("pixel", 1)]}
    summary = summarize_cells(*tables({"plain": {0: PLAIN, 1: PLAIN}, "clean": {0: AHEAD}}, **missing))
    lines = {
        line.split(" | ")[0][2:]: line.split(" | ") for line in format_markdown(summary, no_shares()).splitlines() if line.startswith("| `")
    }
    assert lines["`joint`"][1] == "failed"
    assert lines["`pixel`"][1] == "not run"
    assert lines["`clean`"][4] == "1 of 2 seeds (1 failed)"
    assert lines["`plain`"][4] == "2"
    assert len({len(line) for line in lines.values()}) == 1
    assert "Failed: `clean` (1 of 2 seeds); `joint` (2 of 2 seeds)." in format_markdown(summary, no_shares())


def test_tables_are_sorted_by_dice_and_their_headings_fit():
    (group,) = split_groups(summarize_cells(*tables({"plain": {0: PLAIN}, "clean": {0: AHEAD}}, not_run=[("joint", 0)])))
    assert group["method"].tolist() == ["clean", "plain", "joint"]
    lines = format_markdown(group, no_shares()).splitlines()
    assert lines[-5].count("|") == lines[-1].count("|") == len(list_headings(group)) + 1


def test_wrong_pixels_are_weighed_against_their_share():
    shares = average_shares(histories(pixel=[[0.02, 0.04], [0.04, 0.30]]))
    assert shares["wrong_weight"].tolist() == pytest.approx([0.03, 0.17])
    assert (shares["wrong_weight_min"].iloc[1], shares["wrong_weight_max"].iloc[1]) == (0.04, 0.30)
    assert shares["seeds"].tolist() == [2, 2]
    (text,) = describe_weights(shares)
    assert (
        text == "Wrong pixels are 10.0% of the noisy pixels, and have 17.0% of the weight of `pixel` in the last epoch (3.0% in the first)."
    )
    assert describe_weights(no_shares()) == []


def histories(**weights):
    """A row per method, seed and epoch; the wrong pixels' weight by method, seed and epoch."""
    rows = [
        {"method": method, "noise": "box", "clean": 10, "seed": seed, "epoch": epoch + 1, "wrong_pixels": 0.1, "wrong_weight": value}
        for method, seeds in weights.items()
        for seed, values in enumerate(seeds)
        for epoch, value in enumerate(values)
    ]
    columns = ["method", "noise", "clean", "seed", "epoch", "wrong_pixels", "wrong_weight", "wrong_weighed", "right_weighed"]
    return pd.DataFrame(rows, columns=columns).astype({name: float for name in columns[5:]})


def no_shares():
    return average_shares(histories())


@pytest.mark.parametrize(
    ("clean", "said"),
    [
        ({0: AHEAD, 1: AHEAD}, "`clean` wins over `plain`, the second: Dice 0.662 against 0.525"),
        ({0: AHEAD}, "`clean` is ahead of `plain` on a single seed"),
        ({0: PLAIN, 1: moved(PLAIN, 0.001)}, "`clean` and `plain` cannot be told apart"),
        ({0: moved(PLAIN, -0.1), 1: moved(PLAIN, -0.2)}, "`plain` wins over `clean`"),
    ],
)
def test_the_headline_of_a_group_says_what_came_out(clean, said):
    assert headline(split_groups(summarize_cells(*tables({"plain": {0: PLAIN, 1: PLAIN}, "clean": clean})))).startswith(said)


def test_the_headline_of_several_groups_counts_them():
    parts = [tables({"plain": {0: PLAIN, 1: PLAIN}, "clean": {0: AHEAD, 1: AHEAD}}, clean=count) for count in (10, 20)]
    parts.append(tables({"plain": {0: AHEAD, 1: AHEAD}, "clean": {0: PLAIN, 1: PLAIN}}, clean=30))
    summary = summarize_cells(*(pd.concat(some, ignore_index=True) for some in zip(*parts, strict=True)))
    said = "`clean` has the highest Dice in 2 of 3 comparisons; in 2 of them it can be told from the second"
    assert headline(split_groups(summary)) == said


# Figures


@pytest.fixture(scope="module")
def many():
    """The summary and the shares of sixteen methods, three numbers of clean masks and two kinds of noise; one of them failed."""
    draws, parts = np.random.default_rng(0), []
    for noise in ("box", "triangle"):
        for clean in (10, 20, 50):
            levels = zip(METHODS, draws.uniform(0.4, 0.8, len(METHODS)), strict=True)
            dice = {method: {seed: draws.normal(level, 0.05, 12) for seed in (0, 1)} for method, level in levels}
            failed = [("t-loss", seed) for seed in dice.pop("t-loss")]
            seconds = {method: 1 + 0.1 * place for place, method in enumerate(METHODS)}
            parts.append(tables(dice, noise=noise, clean=clean, failed=failed, seconds=seconds))
    cells, scores = (pd.concat(some, ignore_index=True) for some in zip(*parts, strict=True))
    shares = average_shares(histories(pixel=[[0.05, 0.1, 0.2]], image=[[0.1, np.nan, 0.1]]))
    return BenchmarkResults(cells=cells, scores=scores, shares=shares)


@pytest.fixture(scope="module")
def drawn(many):
    """Figures, each with texts that it must have."""
    methods, some = list(METHODS), [group for group in split_groups(many.summary) if group["clean"].iloc[0] == 50]
    return [
        (dice_figure(some, many.seed_means, methods), set(METHODS) | {"failed", "box, 50 clean masks", "triangle, 50 clean masks"}),
        (cost_figure(some[:1], methods), set(METHODS) - {"t-loss"} | {"cost of an update, in those of plain"}),
        (clean_figure(many.summary, methods), set(METHODS) - {"t-loss"} | {"10", "20", "50", "box", "triangle"}),
        (weights_figure(many.shares, methods), {"pixel", "image", "share of pixels"}),
    ]


@pytest.mark.slow
def test_figures_name_every_method_where_it_is_and_load_nothing(drawn):
    for drawing, texts in drawn:
        chart = drawing.chart()
        assert texts <= {"".join(node.itertext()) for node in ET.fromstring(chart.svg).iter() if node.tag.endswith("}text")}, drawing.name
        assert "prefers-color-scheme: dark" in chart.svg
        assert not re.search(r"(href|src)=.(?!#|data:)", chart.svg)
        assert chart.text


@pytest.mark.slow
@pytest.mark.slow
def test_figures_are_pictures_on_white_too(drawn, monkeypatch):
    monkeypatch.setattr("pixeltrust.pages.charts.PRINTED_DPI", 40)
    for drawing, _ in drawn:
        picture = Image.open(BytesIO(to_png(drawing.figure)))
        picture.load()
        assert picture.format == "PNG"
        assert picture.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


def test_methods_of_one_colour_have_different_marks():
    methods = [*METHODS, "mine", "yours"]
    assert len({(colour_family(method), marker_of(method, methods)) for method in methods}) == len(methods)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.01, 0.1))
def test_labels_pushed_apart_keep_their_order_and_their_distance(values, gap):
    places = push_apart(sorted(values), gap=gap, low=0, high=1)
    assert all(above - below > gap - 1e-9 for below, above in pairwise(places))
    assert min(places) > -1e-9
    assert max(places) < 1 + 1e-9


def test_a_label_that_is_alone_stays_where_it_is():
    assert push_apart([0.2, 0.8], gap=0.1, low=0, high=1) == pytest.approx([0.2, 0.8])


def test_points_in_one_place_have_a_name_each(many):
    group = split_groups(many.summary)[0].assign(dice=0.6, cost=1.2)
    (axes,) = cost_figure([group], list(METHODS)).figure.axes
    assert {text.get_text() for text in axes.get_legend().get_texts()} == set(METHODS)


# The folder


def write_benchmark(folder, *, methods=("plain", "clean", "pixel"), seeds=(0, 1), failed=(), ids=("t0", "t1", "t2", MARKUP)):
    """The folder of a finished benchmark; `clean` is ahead of `plain` by .1, in the later cases by more."""
    source = folder.parent / "source"
    known = [Case(one, *write_case(source, one), role) for one, role in [("n0", "noisy"), ("n1", "noisy"), ("c0", "clean")]]
    known += [Case(one, *write_case(source, one), "test") for one in ids]
    ahead = {"plain": 0.0, "clean": 0.1, "pixel": 0.05}
    for method in methods:
        for seed in seeds:
            cell = folder / "cells" / f"{method}-box-1-{seed}"
            spec = {"method": method, "noise": "box", "clean": 1, "seed": seed, "fold": None}
            cell.mkdir(parents=True)
            (cell / "spec.json").write_text(json.dumps({"cell": spec, "config": {"device": "cpu"}}))
            if (method, seed) in failed:
                (cell / "failed.json").write_text(json.dumps({"error": "out of <memory>"}))
                continue
            write_run(cell / "run", known, method=method)
            for name in ("cases.csv", "truth.csv"):
                table_of(known).drop(columns="held_out").to_csv(cell / name, index=False)
            if method == "pixel":
                history = pd.read_csv(cell / "run" / "history.csv")
                history.assign(wrong_pixels=0.1, wrong_weight=0.05, wrong_weighed=0.4, right_weighed=0.9).to_csv(
                    cell / "run" / "history.csv", index=False
                )
            dice = 0.5 + ahead[method] * np.linspace(0.5, 1.5, len(ids)) + 0.01 * seed
            pd.DataFrame({"id": ids, "dice": dice, "jaccard": dice / 2}).to_csv(cell / "test.csv", index=False)
            shutil.copytree(source / "masks", cell / "predicted")
            done = {**spec, "dice": dice.mean(), "jaccard": dice.mean() / 2, "seconds": 20.0, "updates": 10, "cpu_seconds": 10.0}
            (cell / "cell.json").write_text(json.dumps(done))
    grid = {"methods": [*methods, "joint"], "noise": ["box"], "clean": [1], "seeds": list(seeds)}
    (folder / "benchmark.json").write_text(json.dumps({"variants": {"mine": {"method": "pixel"}}, "grid": grid}))
    return folder


@pytest.fixture(scope="module")
def told_folder(tmp_path_factory):
    """A benchmark with everything written: one cell failed, one method was never begun."""
    folder = write_benchmark(tmp_path_factory.mktemp("told") / "out", failed=[("pixel", 1)])
    with writing_results(folder):
        pass
    return folder


@pytest.mark.usefixtures("blank_charts")
@pytest.mark.parametrize(("match", "said"), [("updates", "the same number of updates"), ("time", "the same time")])
def test_the_page_says_what_all_methods_have_the_same_of_and_changes_nothing_in_the_folder(tmp_path, match, said):
    folder = write_benchmark(tmp_path / "out")
    record = json.loads((folder / "benchmark.json").read_text())
    (folder / "benchmark.json").write_text(json.dumps({**record, "match": match}))
    before = sorted(folder.rglob("*"))
    assert report(folder, out=tmp_path / "page.html") == tmp_path / "page.html"
    assert sorted(folder.rglob("*")) == before
    text = words((tmp_path / "page.html").read_text())
    assert f"every method {'makes' if match == 'updates' else 'has'} {said}" in text
    assert ("epochs" in text.partition("Settings")[2]) == (match == "updates")  # else each has its own


def test_everything_is_written(told_folder):
    names = {path.relative_to(told_folder).as_posix() for path in [*told_folder.iterdir(), *(told_folder / "figures").iterdir()]}
    figures = [f"figures/{name}" for name in ("dice-1", "cost-1", "wrong-weight-1", "weight-maps")]
    wanted = {"summary.csv", "shares.csv", "tables.md", "report.html", *(name + end for name in figures for end in (".svg", ".png"))}
    assert wanted <= names
    assert {name for name in names if name.startswith("figures/")} <= wanted
    summary = pd.read_csv(told_folder / "summary.csv").set_index("method")
    assert list(summary.index) == ["plain", "clean", "pixel", "joint"]
    assert summary["seeds_failed"].tolist() == [0, 0, 1, 0]
    assert summary["seeds_not_run"].tolist() == [0, 0, 0, 2]
    assert summary.loc["clean", "minus_plain"] == pytest.approx(0.1)
    assert pd.read_csv(told_folder / "shares.csv")["wrong_weight"].tolist() == [0.05] * 3
    for figure in (told_folder / "figures").glob("*.svg"):
        assert ET.fromstring(figure.read_text()).tag.endswith("svg")


def test_the_page_stands_alone_and_tells_what_came_out(told_folder):
    html = (told_folder / "report.html").read_text(encoding="utf-8")
    assert_alone(html)
    text = words(html)
    assert "clean is ahead" not in text
    assert "clean has the highest Dice, 0.605" in text
    assert "pixel , box, 1 clean, seed 1: out of <memory>" in text
    assert "2 trainings not run, or not finished." in text
    assert "joint not run" in text
    assert "mine is method = pixel" in text
    assert "Wilcoxon" in text
    assert "have 5.0% of the weight of pixel in the last epoch" in text
    assert "<img src=x" not in html


def test_test_cases_are_shown_from_the_least_to_the_most_that_was_won(told_folder):
    html = (told_folder / "report.html").read_text(encoding="utf-8")
    notes = re.findall(r"clean minus plain ([+−][\d.]+)", html)
    assert notes == ["+0.050", "+0.083", "+0.117", "+0.150"]
    assert words(html).count("epoch 1") == 2  # two noisy cases have kept weights


def test_a_figure_that_nothing_stands_for_any_more_goes(tmp_path, monkeypatch):
    leave_figures_out(monkeypatch)
    folder = write_benchmark(tmp_path / "out")
    (folder / "figures").mkdir()
    (folder / "figures" / "dice-7.svg").touch()
    write_results_files(folder)
    assert not (folder / "figures" / "dice-7.svg").exists()


def test_cells_of_an_earlier_grid_still_count(tmp_path):
    folder = write_benchmark(tmp_path / "out")
    pd.DataFrame([{"method": "joint", "noise": "box", "clean": 1, "seed": 0, "status": "not run"}]).to_csv(
        folder / "cells.csv", index=False
    )
    cells = read_results(folder).cells
    assert cells["method"].tolist() == ["joint", "clean", "clean", "pixel", "pixel", "plain", "plain"]
    assert cells["status"].tolist() == ["not run"] + ["done"] * 6


def test_the_processors_seconds_of_a_gpu_run_are_no_cost(tmp_path):
    folder = write_benchmark(tmp_path / "out")
    for cell in (folder / "cells").iterdir():
        (cell / "run" / "environment.json").write_text('{"accelerator": "a GPU"}')
        (cell / "spec.json").write_text((cell / "spec.json").read_text().replace('"cpu"', '"auto"'))
    assert set(read_results(folder).summary["cost_from"].dropna()) == {"clock"}


@pytest.mark.usefixtures("blank_charts")
def test_pages_and_tables_do_without_images_that_are_gone(tmp_path):
    folder = write_benchmark(tmp_path / "out")
    shutil.rmtree(tmp_path / "source")
    with writing_results(folder):
        pass
    assert not (folder / "figures" / "weight-maps.png").exists()
    assert_alone((folder / "report.html").read_text(encoding="utf-8"))


def test_a_stopped_benchmark_tells_what_is_there(tmp_path, monkeypatch):
    leave_figures_out(monkeypatch)
    folder = write_benchmark(tmp_path / "out")
    with pytest.raises(KeyboardInterrupt), writing_results(folder):
        raise KeyboardInterrupt
    assert (folder / "report.html").exists()
    assert (folder / "tables.md").exists()


def test_ctrl_c_before_the_first_cell_is_nothing_but_that(tmp_path):
    with pytest.raises(KeyboardInterrupt), writing_results(tmp_path):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "text"), [("benchmark.json", "{"), ("cells/clean-box-1-0/cell.json", "[]"), ("cells/clean-box-1-0/test.csv", "")]
)
def test_broken_records_are_named(tmp_path, name, text):
    folder = write_benchmark(tmp_path / "out")
    (folder / name).write_text(text)
    with pytest.raises(RunError, match=name.split("/")[-1]):
        read_results(folder)


def test_another_folder_is_no_benchmark(tmp_path):
    with pytest.raises(RunError, match="not the folder of a benchmark"):
        read_results(tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("blank_charts")
def test_a_benchmark_ends_with_its_page(tmp_path):
    write_source(tmp_path / "source", cases=20, size=32, test_share=0.3, seed=0, show_progress=False)
    grid = Grid(methods=("plain", "pixel"), noise=("triangle",), clean=(4,), seeds=(0,), settings={**TINY, "model": "tiny:network"})
    benchmark(tmp_path / "source", out=tmp_path / "out", grid=grid, launcher=Here(), show_progress=False)
    text = words((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    assert "2 of 2 trainings done" in text
    assert "Measured on test cases that no training has seen, 6 of them" in text
    assert len(pd.read_csv(tmp_path / "out" / "shares.csv")) == 2


@pytest.mark.slow
@needs_chromium
def test_the_page_fits_a_phone_and_a_desktop(told_folder, tmp_path):
    pages = {"report": told_folder / "report.html"}
    for name, width, needed, broken in seen_in_chromium(pages, tmp_path, widths=(360, 1200)):
        assert needed <= width, f"{name} needs {needed} px of {width}"
        assert broken == 0
