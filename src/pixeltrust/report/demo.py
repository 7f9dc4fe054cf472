"""The page of a demo: plain training against pixel weights, in numbers with intervals and in pictures."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pixeltrust.charts import dice_strips, differences, heat_legend, training_curves
from pixeltrust.errors import RunError
from pixeltrust.images import case_id, image_suffix, read_image
from pixeltrust.labels import foreground
from pixeltrust.metrics import bootstrap_interval, mean_of_defined
from pixeltrust.outcome.examples import evenly_spread
from pixeltrust.outcome.words import number
from pixeltrust.report.pieces import (
    Number,
    Panel,
    Shown,
    cases_by_role,
    facts,
    idle_notes,
    interval,
    many,
    outlined,
    per_update,
    picture,
    pictures,
    rendered,
    weighed,
)
from pixeltrust.runs import Run

TEST_CASES = 4  # in the gallery of a demo
MEASURES = {
    "dice": ("Dice", 3),
    "jaccard": ("Jaccard", 3),
    "sensitivity": ("sensitivity", 3),
    "specificity": ("specificity", 3),
    "surface_distance": ("outline distance, px", 2),
}


def demo_page(folder: Path) -> str:
    """The page as HTML text.

    Raises:
        RunError: the demo has not come to its end, or files that it is made of are gone or broken.
    """
    record = _demo_record(folder)
    runs = {method: Run(folder / "runs" / method) for method in ("plain", "pixel")}
    histories = {method: run.read_table("history.csv") for method, run in runs.items()}
    scores = _scores(folder)
    plain, pixel = (scores[method]["dice"].to_numpy(float) for method in ("plain", "pixel"))
    drawn = _Drawn(folder, runs["pixel"], scores)
    return rendered(
        "demo.html",
        headline=_demo_headline(plain, pixel),
        story=_demo_story(folder, record, histories),
        numbers=_demo_numbers(plain, pixel, histories),
        case_charts=pictures([dice_strips({"plain": plain, "pixel": pixel}), differences(pixel - plain, better="pixel", worse="plain")]),
        table=_table(scores),
        notes=_undefined_notes(scores),
        idle=idle_notes(histories["pixel"]),
        curves=pictures(training_curves(histories)),
        scale=picture(heat_legend()),
        noisy=[drawn.noisy(one) for one in record["shown"]],
        test=[drawn.test(one) for one in evenly_spread(pd.Series(pixel - plain, index=scores["pixel"]["id"]), TEST_CASES)],
        facts=facts(runs["pixel"].config(), leave_out=("method",)),
    )


def _demo_record(folder: Path) -> dict[str, Any]:
    try:
        record = json.loads((folder / "demo.json").read_text(encoding="utf-8"))
        finished = record["finished"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{folder / 'demo.json'}: cannot be read as the record of a demo: {error}") from None
    if not finished:
        raise RunError(f"{folder}: this demo has not come to its end; `pixeltrust demo --out {folder}` continues it")
    return record


def _scores(folder: Path) -> dict[str, pd.DataFrame]:
    try:
        scores = {method: pd.read_csv(folder / f"{method}.csv", dtype={"id": str}) for method in ("plain", "pixel")}
    except (OSError, ValueError) as error:
        raise RunError(f"{folder}: the numbers of the demo cannot be read: {error}") from None
    if scores["plain"]["id"].tolist() != scores["pixel"]["id"].tolist():
        raise RunError(f"{folder}: plain.csv and pixel.csv are of other cases")
    return scores


def _demo_headline(plain: np.ndarray, pixel: np.ndarray) -> str:
    low, high = bootstrap_interval(pixel - plain)
    means = f"{mean_of_defined(pixel):.2f} against {mean_of_defined(plain):.2f}"
    if low > 0:
        return f"Pixel weights did better than plain training: Dice {means}"
    if high < 0:
        return f"Pixel weights did worse than plain training: Dice {means}"
    return f"Pixel weights and plain training cannot be told apart here: Dice {means}"


def _demo_story(folder: Path, record: Mapping[str, Any], histories: Mapping[str, pd.DataFrame]) -> str:
    counts = cases_by_role(Run(folder / "runs" / "pixel").read_table("cases.csv"))
    updates = int(histories["pixel"]["update"].iloc[-1])
    noise = f"{many(counts['noisy'], 'noisy')} carry masks that were spoiled on purpose ({record['plan']['noise']} noise)"
    agreement = _agreement(folder)
    watched = f" ({counts['held out']} of them are held out of training, to watch it by)" if counts["held out"] else ""
    return (
        f"{noise}{agreement}; {many(counts['clean'] + counts['held out'], 'clean')} keep their true masks{watched}. "
        f"One network ({record['plan']['model']}) was trained twice from the same start, {updates:,} updates each: "
        "once with all masks counting alike, once with a weight for every noisy pixel, found anew in every step from the clean cases. "
        f"Then both were measured on {many(counts['test'], 'test')} that neither had seen."
    )


def _agreement(folder: Path) -> str:
    try:
        mean = json.loads((folder / "data" / "simulation.json").read_text(encoding="utf-8"))["mean_dice"]
    except (OSError, ValueError, KeyError):
        return ""
    return f" and agree with the truth at a mean Dice of {mean:.2f}"


def _demo_numbers(plain: np.ndarray, pixel: np.ndarray, histories: Mapping[str, pd.DataFrame]) -> list[Number]:
    cost = {method: per_update(history) for method, history in histories.items()}
    difference = pixel - plain
    return [
        Number(what="Dice, plain training", value=f"{mean_of_defined(plain):.3f}", interval=interval(plain), method="plain"),
        Number(what="Dice, pixel weights", value=f"{mean_of_defined(pixel):.3f}", interval=interval(pixel), method="pixel"),
        Number(
            what="Difference, case by case",
            value=number(mean_of_defined(difference), signed=True),
            interval=interval(difference, signed=True),
        ),
        Number(
            what="Cost of an update",
            value=f"× {cost['pixel'] / cost['plain']:.1f}",
            interval=f"{cost['pixel']:.2g} s with weights, {cost['plain']:.2g} s plain, on this machine",
        ),
    ]


def _table(scores: Mapping[str, pd.DataFrame]) -> list[dict[str, Any]]:
    rows = []
    for column, (name, digits) in MEASURES.items():
        plain, pixel = (scores[method][column].to_numpy(float) for method in ("plain", "pixel"))
        columns = ((plain, False), (pixel, False), (pixel - plain, True))
        cells = [
            {
                "value": number(mean_of_defined(values), digits=digits, signed=signed),
                "interval": interval(values, digits=digits, signed=signed),
            }
            for values, signed in columns
        ]
        rows.append({"name": name, "cells": cells})
    return rows


def _table_cell(values: np.ndarray, *, digits: int, signed: bool) -> dict[str, str]:
    mean = number(mean_of_defined(values), digits=digits, signed=signed)
    return {"value": mean, "interval": interval(values, digits=digits, signed=signed)}


def _undefined_notes(scores: Mapping[str, pd.DataFrame]) -> Iterable[str]:
    for method, table in scores.items():
        missing = int((table["surface_distance"].isna() & table["dice"].notna()).sum())
        if missing:
            yield f"{method}: {many(missing, 'test')} with nothing found, so Dice 0 and no distance; the mean distance leaves them out."


class _Drawn:
    """The galleries of a demo."""

    def __init__(self, folder: Path, run: Run, scores: Mapping[str, pd.DataFrame]) -> None:
        self.folder, self.config, self.maps = folder, run.config(), run.weight_maps()
        self.dice = {method: dict(zip(table["id"], table["dice"], strict=True)) for method, table in scores.items()}
        parts = ("source/images", "source/masks", "data/noisy", "predictions/plain", "predictions/pixel")
        self.files = {part: _files_by_id(folder / part) for part in parts}

    def noisy(self, one: str) -> Shown:
        image, true, noisy = self._image(one), self._labels("source/masks", one), self._labels("data/noisy", one)
        panels = [
            outlined("image", f"the image of {one}", image),
            outlined("noisy mask", f"the noisy mask of {one}", image, noisy=noisy),
            outlined("true mask", f"the true mask of {one}", image, true=true),
            self._weights(one, noisy),
            *self._predictions(one, image),
        ]
        return Shown(title=one, panels=panels)

    def test(self, one: str) -> Shown:
        image, true = self._image(one), self._labels("source/masks", one)
        panels = [
            outlined("image", f"the image of {one}", image),
            Panel(title="noisy mask", text="a test case has no noisy mask"),
            outlined("true mask", f"the true mask of {one}", image, true=true),
            Panel(title="weights", text="a test case has no weights"),
            *self._predictions(one, image),
        ]
        return Shown(
            title=one, panels=panels, note=f"difference in Dice {number(self.dice['pixel'][one] - self.dice['plain'][one], signed=True)}"
        )

    def _predictions(self, one: str, image: np.ndarray) -> Iterable[Panel]:
        for method in ("plain", "pixel"):
            score = f"Dice {self.dice[method][one]:.3f}" if one in self.dice[method] else ""
            mask = self._labels(f"predictions/{method}", one)
            text = f"the mask that the {method} network predicts for {one}, over the true one in white"
            yield outlined(method, text, image, note=score, true=self._labels("source/masks", one), **{method: mask})

    def _weights(self, one: str, mask: np.ndarray) -> Panel:
        if self.maps is None or one not in self.maps["ids"]:
            return Panel(title="weights", text="no weights were kept")
        place = int(np.flatnonzero(self.maps["ids"] == one)[0])
        return weighed("weights", one, self.maps["maps"][-1, place], mask)

    def _image(self, one: str) -> np.ndarray:
        return read_image(self._path("source/images", one))

    def _labels(self, part: str, one: str) -> np.ndarray:
        return foreground(self._path(part, one), self.config)

    def _path(self, part: str, one: str) -> Path:
        if one not in self.files[part]:
            raise RunError(f"{self.folder / part}: has no file of {one}, which the page shows; remove the folder and run the demo again")
        return self.files[part][one]


def _files_by_id(folder: Path) -> dict[str, Path]:
    try:
        return {case_id(path): path for path in folder.iterdir() if image_suffix(path)}
    except OSError as error:
        raise RunError(f"{folder}: cannot be read ({error.strerror or error}), and the page shows what is in it") from None
