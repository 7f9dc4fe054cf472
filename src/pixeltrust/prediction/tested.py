"""A run on the test cases of its data: predicted and measured once, kept in RUN/test, and shown on its page.

RUN/test/predicted/<id>.png …   the predicted masks
RUN/test/dice.csv               a row per test case, as `evaluate` writes it
RUN/test/of.json                the weights and the masks that these are of
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pixeltrust.data.images import mask_name, read_shown
from pixeltrust.data.masks import foreground
from pixeltrust.metrics import bootstrap_interval, mean_of_defined
from pixeltrust.pages.charts import draw_dice_strips, draw_differences
from pixeltrust.pages.numbers import format_number
from pixeltrust.pages.pieces import GalleryCase, Number, draw_outlines, format_interval, typical_and_worst
from pixeltrust.plumbing.errors import PixeltrustError, RunError
from pixeltrust.plumbing.files import naming_write_errors, write_file
from pixeltrust.plumbing.text import count
from pixeltrust.prediction.measure import measure_cases
from pixeltrust.training.model_card import say_measured
from pixeltrust.training.page import Tested
from pixeltrust.training.run_folder import Run

FOLDER = "test"
TYPICAL, WORST = 3, 3  # cases in pictures


def measure_on_tests(run: Run, *, show_progress: bool = True) -> pd.DataFrame | None:
    """Return the measures of the last weights on the test cases, a row each; None where there are none, or no weights yet.

    They are predicted and measured where that has not been done for these weights and masks.

    Raises:
        DataError: test images or masks cannot be read, or are gone.
        RunError: the folder cannot be written.
    """
    rows = run.read_table("cases.csv").query("role == 'test'").to_dict("records")
    if not rows or not run.finished():
        return None
    folder = run.folder / FOLDER
    record = json.dumps({"weights": run.fingerprint(), "masks": [row["mask"] for row in rows]})
    if not ((folder / "of.json").is_file() and (folder / "of.json").read_text(encoding="utf-8") == record):
        with naming_write_errors(folder):
            shutil.rmtree(folder, ignore_errors=True)
            measure_cases(run, rows, folder, out=folder / "dice.csv", show_progress=show_progress)
        write_file(folder / "of.json", record)
    scores = pd.read_csv(folder / "dice.csv", dtype={"id": str})
    say_measured(run, _sentence(scores))
    return scores


def show_tests(run: Run, scores: pd.DataFrame, beside: Run | None, others: pd.DataFrame | None) -> Tested:
    """Return what the page of a run shows of its test cases.

    Args:
        scores: what `measure_on_tests` gives.
        beside: a second run to compare with, and its scores.

    Raises:
        RunError: the two runs share no test case.
    """
    dice = {run.config().method: scores.set_index("id")["dice"]}
    runs = {run.config().method: run}
    if beside is not None and others is not None:
        names = [(one.config().method, one.folder.resolve().name) for one in (run, beside)]
        name, other = names[0][0], names[1][0]
        if name == other:
            name, other = names[0][1], names[1][1]
        both = sorted(set(scores["id"]) & set(others["id"]))
        if not both:
            raise RunError(f"{run.folder} and {beside.folder} share no test case")
        dice = {name: scores.set_index("id")["dice"][both], other: others.set_index("id")["dice"][both]}
        runs = {name: run, other: beside}
    gallery = _Gallery(runs, dice)
    typical, worst = typical_and_worst(next(iter(dice.values())), TYPICAL, WORST)
    return Tested(
        headline=_headline(dice),
        numbers=_numbers(dice),
        charts=_charts(dice),
        typical=gallery.draw(typical),
        worst=gallery.draw(worst),
    )


def _sentence(scores: pd.DataFrame) -> str:
    values = scores["dice"].to_numpy(float)
    return (
        f"On {count(len(scores), 'test case')}, which training has not looked at: a mean Dice of {mean_of_defined(values):.3f} "
        f"(95 % interval {format_interval(values)})."
    )


def _headline(dice: dict[str, pd.Series]) -> str:
    (name, own), *others = dice.items()
    mean = f"Dice {mean_of_defined(own.to_numpy(float)):.3f} on {count(len(own), 'test case')}"
    if not others:
        return mean
    other, values = others[0]
    difference = (own - values).to_numpy(float)
    low, high = bootstrap_interval(difference)
    gain = mean_of_defined(difference)
    if np.isnan(low) or low <= 0 <= high:
        return f"{mean}: {name} and {other} cannot be told apart"
    return f"{mean}: {name} is {'ahead of' if gain > 0 else 'behind'} {other} by {format_number(abs(gain))}"


def _numbers(dice: dict[str, pd.Series]) -> list[Number]:
    numbers = []
    for place, (name, values) in enumerate(dice.items()):
        what = "Dice on the test cases" if len(dice) == 1 else f"Dice, {name}"
        mean, kind = f"{mean_of_defined(values.to_numpy(float)):.3f}", ("trust", "plain")[place] if len(dice) > 1 else ""
        numbers.append(Number(what=what, value=mean, interval=f"{format_interval(values.to_numpy(float))}, 95 % interval", method=kind))
    if len(dice) > 1:
        own, other = dice.values()
        difference = (own - other).to_numpy(float)
        mean = format_number(mean_of_defined(difference), signed=True)
        numbers.append(Number(what="Difference, case by case", value=mean, interval=format_interval(difference, signed=True)))
    return numbers


def _charts(dice: dict[str, pd.Series]) -> list[Any]:
    strips = draw_dice_strips({name: values.to_numpy(float) for name, values in dice.items()})
    if len(dice) == 1:
        return [strips]
    (name, own), (other, values) = dice.items()
    return [strips, draw_differences((own - values).to_numpy(float), better=name, worse=other)]


class _Gallery:
    """Test cases in pictures: the image, the true mask, and what each run predicts."""

    def __init__(self, runs: dict[str, Run], dice: dict[str, pd.Series]) -> None:
        self.runs, self.dice = runs, dice
        first = next(iter(runs.values()))
        self.config = first.config()
        self.rows = {row["id"]: row for row in first.read_table("cases.csv").query("role == 'test'").to_dict("records")}

    def draw(self, ids: list[str]) -> list[GalleryCase]:
        drawn = []
        for identity in ids:
            try:
                drawn.append(self._case(identity))
            except PixeltrustError:  # its files are gone
                continue
        return drawn

    def _case(self, identity: str) -> GalleryCase:
        row = self.rows[identity]
        true, name = foreground(Path(row["mask"]), self.config), mask_name(identity, Path(row["image"]))
        masks = [foreground(run.folder / FOLDER / "predicted" / name, self.config) for run in self.runs.values()]
        note = "the slice where the true mask is largest" if true.ndim == 3 else ""
        image, (true, *masks) = read_shown(Path(row["image"]), [true, *masks], true)
        panels = [
            draw_outlines("image", f"the image of {identity}", image),
            draw_outlines("true mask", f"the true mask of {identity}", image, true=true),
        ]
        for method, mask in zip(self.runs, masks, strict=True):
            told = f"Dice {format_number(float(self.dice[method].get(identity, np.nan)))}"
            title = "predicted" if len(masks) == 1 else method
            text = f"what the network of {method} predicts for {identity}, over the true mask in white"
            panels.append(draw_outlines(title, text, image, note=told, true=true, predicted=mask))
        return GalleryCase(title=identity, panels=panels, note=note)
