"""The page of a benchmark: who wins, by how much, whether chance explains it, what it costs, and what masks and weights look like."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pixeltrust.benchmarking.outcome import words
from pixeltrust.benchmarking.outcome.examples import Example, TestedCase, choose_example, read_tested_cases
from pixeltrust.benchmarking.outcome.figures import clean_figure, cost_figure, dice_figure, weights_figure
from pixeltrust.benchmarking.outcome.reading import read_json_record
from pixeltrust.benchmarking.outcome.statistics import BASE, BenchmarkResults
from pixeltrust.benchmarking.outcome.weight_pictures import WeighedCase, find_cell_with_maps, read_weighed_cases
from pixeltrust.benchmarking.outcome.writing import write_results_files
from pixeltrust.pages.charts import Chart, draw_heat_legend
from pixeltrust.pages.numbers import format_number, format_range
from pixeltrust.pages.pieces import GalleryCase, Number, Panel, draw_outlines, draw_weights, list_settings, render_page, write_page
from pixeltrust.plumbing.errors import RunError
from pixeltrust.plumbing.text import count
from pixeltrust.training.run_folder import Run

OF_ANSWER = (
    "**Differences to `plain`** have the intervals of the answer here: by Student's t, wide enough for all methods together, as few "
    "cases need. Those of `tables.md` are by the bootstrap, and narrower."
)
TEST_CASES = 4
WEIGHED_CASES = 4
NOT_SHARED = ("method", "seed", "clean_weight")  # settings that are a method's or a cell's own


def write_results(folder: Path) -> BenchmarkResults:
    """Write the results of a benchmark so far into its folder: its tables, figures/ and report.html.

    Raises:
        RunError: it is not a benchmark, its records cannot be read, or it cannot be written to.
    """
    outcome = write_results_files(folder)
    write_page(benchmark_page(folder, outcome), folder / "report.html")
    return outcome


def benchmark_page(folder: Path, outcome: BenchmarkResults) -> str:
    """Return the page of a benchmark folder and its results as HTML text.

    Raises:
        RunError: files that the page needs are broken.
    """
    answer = _answer(folder)
    every = words.split_groups(_with_intervals_of(answer, outcome.summary))
    methods = list(outcome.summary["method"].unique())
    example = choose_example(every, outcome.cells)
    maps = find_cell_with_maps(outcome.cells)
    return render_page(
        "benchmark.html",
        name=folder.resolve().name,
        headline=headline(every),
        story=answer.get("words") or _story(outcome),
        numbers=_numbers(every),
        overview=list(_overview(outcome.summary)),
        classes_explained=words.CLASSES_EXPLAINED,
        groups=[_group(group, outcome, methods) for group in every],
        how=[*words.explain_tables(words.read_match(outcome.summary)), *([OF_ANSWER] if answer else [])],
        failures=_failures(outcome.cells),
        scale=draw_heat_legend(),
        example=example,
        tested=[_draw_tested(case, example) for case in read_tested_cases(example, TEST_CASES)] if example else [],
        maps=maps.name if maps else "",
        noisy=[_draw_weighed(case) for case in read_weighed_cases(maps, WEIGHED_CASES)] if maps else [],
        facts=_settings(folder, outcome),
        machine=_machine(folder),
    )


# --- words --------------------------------------------------------------------------------------------------------


def headline(every: Sequence[pd.DataFrame]) -> str:
    """Return the results in one sentence."""
    compared = [rows for group in every if (rows := words.list_competitors(group))]
    if not compared:
        return "Nothing has finished yet"
    if len(compared) == 1:
        return _headline_of_one(compared[0])
    wins = Counter(rows[0].method for rows in compared)
    most = max(wins.values())
    first = " and ".join(f"`{method}`" for method, number_of in wins.items() if number_of == most)
    clear = sum(words.judge_difference(rows[0]) == "apart" for rows in compared if wins[rows[0].method] == most)
    each = " each" if "and" in first else ""
    verb = "have" if each else "has"
    sure = f"; in {clear or 'none'} of them it can be told from the second" if not each else ""
    return f"{first}{each} {verb} the highest Dice in {most} of {len(compared)} comparisons{sure}"


def _answer(folder: Path) -> dict[str, Any]:
    """Return the answer, where a question was asked; else nothing."""
    try:
        record: dict[str, Any] = json.loads((folder / "answer.json").read_text(encoding="utf-8"))
        return {"words": str(record["words"]), "rows": {row["method"]: row for row in record.get("rows", [])}}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{folder / 'answer.json'}: cannot be read as the answer to a question: {error}") from None


def _with_intervals_of(answer: dict[str, Any], summary: pd.DataFrame) -> pd.DataFrame:
    """Return the summary with the answer's intervals of differences to plain training: a number has one interval on a page."""
    summary = summary.copy()
    for place, row in summary.iterrows() if answer else ():
        told = answer["rows"].get(row["method"])
        for other in ("plain", "rival"):
            if told and not np.isnan(row[f"minus_{other}"]) and (other == "plain" or row["rival"] == BASE):
                summary.loc[place, [f"minus_{other}_low", f"minus_{other}_high"]] = told["low"], told["high"]
    return summary


def _headline_of_one(rows: Sequence[words.SummaryRow]) -> str:
    best = rows[0]
    if len(rows) == 1:
        return f"Only `{best.method}` has finished: Dice {format_number(best.dice)}"
    means = f"Dice {format_number(best.dice)} against {format_number(rows[1].dice)}"
    if words.judge_difference(best) == "apart":
        return f"`{best.method}` wins over `{rows[1].method}`, the second: {means}"
    if words.judge_difference(best) == "one seed":
        return f"`{best.method}` is ahead of `{rows[1].method}` on a single seed: {means}"
    return f"`{best.method}` and `{rows[1].method}` cannot be told apart: {means}"


def _story(outcome: BenchmarkResults) -> str:
    cells, done = outcome.cells, int((outcome.cells["status"] == "done").sum())
    nouns = {"method": "method", "noise": "kind", "clean": "number", "seed": "seed"}
    methods, kinds, numbers, seeds = (count(cells[column].nunique(), noun) for column, noun in nouns.items())
    grid = f"{methods}, {kinds} of noise, {numbers} of clean masks, {seeds}; {words.MATCHES[words.read_match(outcome.summary)]}"
    text = f"{grid}: {done:,} of {count(len(cells), 'training')} done."
    cases = outcome.summary["cases"].max()
    measured = "by cross-validation on the clean cases" if cells["fold"].any() else "on test cases that no training has seen"
    return text if np.isnan(cases) else f"{text} Measured {measured}, {int(cases):,} of them, at their own size, with the last weights."


def _numbers(every: Sequence[pd.DataFrame]) -> list[Number]:
    """Return the numbers of the only group; with several groups there are none, as one number cannot summarise them."""
    rows = words.list_competitors(every[0])
    if len(every) > 1 or len(rows) < 2:
        return []
    best = rows[0]
    numbers = [_dice_number(best), _difference_number(best, "rival", best.rival)]
    if best.method != BASE and best.rival != BASE and not np.isnan(best.minus_plain):
        numbers.append(_difference_number(best, "plain", BASE))
    numbers += [_dice_number(row) for row in rows[1:] if row.method == words.OURS]
    if not np.isnan(best.cost) and best.cost_over != best.method:
        seeds = f"{best.cost_min:.2f} … {best.cost_max:.2f} over seeds" if best.cost_seeds > 1 else "one seed"
        what = f"an update of {best.cost_over}; {seeds}"
        numbers.append(Number(what=f"Cost of {best.method}", value=f"× {best.cost:.1f}", interval=what))
    return numbers


def _dice_number(row: words.SummaryRow) -> Number:
    tint = row.method if row.method in (BASE, words.OURS) else ""
    return Number(
        what=f"Dice of {row.method}", value=format_number(row.dice), interval=format_range(row.dice_low, row.dice_high), method=tint
    )


def _difference_number(best: words.SummaryRow, other: str, name: str) -> Number:
    mean, low, high = (getattr(best, f"minus_{other}{part}") for part in ("", "_low", "_high"))
    return Number(what=f"Minus {name}, case by case", value=format_number(mean, signed=True), interval=format_range(low, high, signed=True))


def _failures(cells: pd.DataFrame) -> list[str]:
    """Return a sentence for each cell that failed, and one for those that have not been run."""
    failed = [
        f"`{row.method}`, {row.noise}, {row.clean} clean, seed {row.seed}: {row.error or 'failed without a message'}"
        for row in words.list_rows(cells[cells["status"] == "failed"])
    ]
    waiting = int((cells["status"] == "not run").sum())
    return [*failed, *([f"{count(waiting, 'training')} not run, or not finished."] if waiting else [])]


# --- groups -------------------------------------------------------------------------------------------------------


def _group(group: pd.DataFrame, outcome: BenchmarkResults, methods: Sequence[str]) -> dict[str, Any]:
    return {
        "title": words.name_group(group),
        "sentences": " ".join([*words.describe_group(group), *words.describe_weights(words.select_group(outcome.shares, group))]),
        "headings": words.list_headings(group),
        "rows": [words.format_row(row) for row in words.list_rows(group)],
        "classes": words.tabulate_classes(outcome.classes, group),
        "charts": list(_group_charts(group, outcome, methods)),
    }


def _group_charts(group: pd.DataFrame, outcome: BenchmarkResults, methods: Sequence[str]) -> Iterator[Chart]:
    if group["dice"].notna().any():
        yield dice_figure([group], outcome.seed_means, methods).chart("Dice on the test cases")
    if group["cost"].nunique() > 1:
        yield cost_figure([group], methods).chart("Dice against the cost of an update")
    shares = words.select_group(outcome.shares, group)
    if len(shares):
        yield weights_figure(shares, methods).chart("Wrong pixels: their share of the weight")


def _overview(summary: pd.DataFrame) -> Iterator[Chart]:
    methods = list(summary["method"].unique())
    for noise, rows in summary.groupby("noise", sort=False):
        if words.has_several_counts(rows):
            yield clean_figure(rows, methods).chart(words.name_noise(str(noise)).capitalize())


# --- galleries ----------------------------------------------------------------------------------------------------


def _draw_tested(case: TestedCase, example: Example) -> GalleryCase:
    panels = [
        draw_outlines("image", f"the image of {case.id}", case.image),
        draw_outlines("true mask", f"the true mask of {case.id}", case.image, true=case.true),
    ]
    for method, mask in case.masks.items():
        text = f"the mask that {method} predicts for {case.id}, over the true one in white"
        panels.append(
            draw_outlines(method, text, case.image, note=f"Dice {format_number(case.dice[method])}", true=case.true, predicted=mask)
        )
    difference = case.dice[example.better] - case.dice[example.worse]
    return GalleryCase(
        title=case.id, panels=panels, note=f"{example.better} minus {example.worse} {format_number(difference, signed=True)}"
    )


def _draw_weighed(case: WeighedCase) -> GalleryCase:
    panels = [
        draw_outlines("image", f"the image of {case.id}", case.image),
        draw_outlines("noisy mask", f"the noisy mask of {case.id}", case.image, noisy=case.noisy),
        Panel(title="true mask", text="the true mask is not known")
        if case.true is None
        else draw_outlines("true mask", f"the true mask of {case.id}", case.image, true=case.true),
    ]
    more: Any = {"true": case.true, "shape": case.image.shape[:2]}
    panels += [
        draw_weights(f"epoch {epoch}", case.id, maps, case.noisy, **more) for epoch, maps in zip(case.epochs, case.maps, strict=True)
    ]
    return GalleryCase(title=case.id, panels=panels)


# --- settings -----------------------------------------------------------------------------------------------------


def _settings(folder: Path, outcome: BenchmarkResults) -> list[tuple[str, str]]:
    """Return the settings that all trainings share, and the user's own methods."""
    runs = [Path(cell) / "run" for cell in outcome.cells["folder"].dropna() if (Path(cell) / "run" / "config.toml").is_file()]
    at_equal_time = words.read_match(outcome.summary) == "time"
    shared = list_settings(Run(runs[0]).config(), leave_out=(*NOT_SHARED, *(["epochs"] if at_equal_time else []))) if runs else []
    variants = read_json_record(folder / "benchmark.json").get("variants", {})
    own = [(f"{name} is", ", ".join(f"{key} = {value}" for key, value in settings.items())) for name, settings in variants.items()]
    return [*shared, *own]


def _machine(folder: Path) -> str:
    """Return a sentence about the machine it ran on; nothing where there is no record of it."""
    if not (folder / "environment.json").is_file():
        return ""
    values = read_json_record(folder / "environment.json")
    where = values.get("accelerator") or f"{values.get('processor')}, {count(int(values.get('cores') or 0), 'core')}"
    packages = values.get("packages", {})
    versions = ", ".join(f"{name} {packages[name]}" for name in ("pixeltrust", "torch", "monai") if packages.get(name))
    return f"Last run on {where}; Python {values.get('python')}, {versions}."
