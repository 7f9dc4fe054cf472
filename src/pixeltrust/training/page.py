"""The page of a run: settings, counts, curves, and the weight maps of a few cases over training."""

import shlex
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pixeltrust.config import Config
from pixeltrust.data.batches import cut_of
from pixeltrust.data.cases import Case
from pixeltrust.data.fitting import channels_of, fit_image, fit_labels, read_spacing
from pixeltrust.data.images import draw_slice, read_image
from pixeltrust.data.masks import foreground, read_mask
from pixeltrust.pages.charts import Chart, draw_heat_legend, draw_training_curves
from pixeltrust.pages.pieces import (
    GalleryCase,
    Number,
    cases_by_role,
    count_cases,
    draw_outlines,
    draw_weights,
    idle_notes,
    list_settings,
    render_page,
    seconds_per_update,
)
from pixeltrust.plumbing.errors import PixeltrustError, RunError
from pixeltrust.plumbing.labels import is_foreground
from pixeltrust.plumbing.text import format_duration
from pixeltrust.training.run_folder import Run


@dataclass(frozen=True, kw_only=True)
class Tested:
    """What a page shows of the test cases: how good the network is, beside another where there is one, and cases in pictures."""

    headline: str
    numbers: list[Number]
    charts: list[Chart]
    typical: list[GalleryCase]
    worst: list[GalleryCase]


def run_page(run: Run, tested: Tested | None = None, folds: Number | None = None, notes: Sequence[str] = ()) -> str:
    """Return the page as HTML text.

    Args:
        tested: how good it is on test cases, where that was measured.
        folds: how good such a training is by cross-validation, where that is known.
        notes: what else a reader should know.

    Raises:
        RunError: no epoch has ended yet, or the records of the run cannot be read.
    """
    config, cases = run.config(), run.read_table("cases.csv")
    if not (run.folder / "history.csv").is_file():
        raise RunError(f"{run.folder}: no epoch has ended yet, so there is nothing to report on; continue it with --resume")
    history = run.read_table("history.csv")
    shown, gone = _maps_over_time(run, cases, config)
    last = history.iloc[-1]
    return render_page(
        "run.html",
        name=run.folder.resolve().name,
        headline=tested.headline if tested else _run_headline(config, last),
        story=_run_story(config, cases, last),
        numbers=[*(tested.numbers if tested else []), *([folds] if folds else []), *_run_numbers(history, cases)],
        tested=tested,
        notes=[*notes, *_run_notes(run, config, history, cases)],
        unmeasured="" if tested or folds else _unmeasured(cases),
        commands=_commands_to_measure(run, cases),
        curves=draw_training_curves({config.method: history}),
        scale=draw_heat_legend(),
        cases=shown,
        gone=gone,
        facts=list_settings(config),
        foot=f"Epoch {int(last['epoch'])} of {config.epochs}.",
    )


def _run_headline(config: Config, last: pd.Series) -> str:
    if np.isnan(last["val_dice"]):
        return f"{config.method.capitalize()} training, {int(last['update']):,} updates"
    return f"{config.method.capitalize()} training reached a Dice of {last['val_dice']:.3f} on the held-out clean cases"


def _run_story(config: Config, cases: pd.DataFrame, last: pd.Series) -> str:
    counts = cases_by_role(cases)
    learned = f"{count_cases(counts['noisy'], 'noisy')} and {count_cases(counts['clean'], 'clean')}"
    text = f"A network ({config.model}) learned from {learned}, in {int(last['update']):,} updates and {format_duration(last['seconds'])}."
    return text + (f" {count_cases(counts['test'], 'test')} are left aside; training does not look at them." if counts["test"] else "")


def _run_numbers(history: pd.DataFrame, cases: pd.DataFrame) -> list[Number]:
    last, counts = history.iloc[-1], cases_by_role(cases)
    numbers = []
    if not np.isnan(last["val_dice"]):
        held, best = counts["held out"], history.iloc[int(np.nanargmax(history["val_dice"].to_numpy()))]
        mean = f"mean of {held} held-out clean cases; for an interval, evaluate on test cases"
        numbers.append(Number(what="Dice at the last weights", value=f"{last['val_dice']:.3f}", interval=mean))
        chosen = f"after epoch {int(best['epoch'])}; chosen on the same {held} cases, so a little flattering"
        numbers.append(Number(what="Best Dice", value=f"{best['val_dice']:.3f}", interval=chosen))
    total = f"{format_duration(last['seconds'])} in all, with checks and saving"
    return [*numbers, Number(what="Seconds per update", value=f"{seconds_per_update(history):.2g}", interval=total)]


def _run_notes(run: Run, config: Config, history: pd.DataFrame, cases: pd.DataFrame) -> list[str]:
    notes, counts = [], cases_by_role(cases)
    if not run.finished():
        notes.append(f"The run is not finished: {int(history['epoch'].iloc[-1])} of {config.epochs} epochs. Continue it with --resume.")
    notes += [f"Warning: {line}" for line in run.warnings()]
    notes += idle_notes(history)
    if config.val_fraction and not counts["held out"]:
        notes.append(
            f"Too few clean cases ({counts['clean']}) to hold any out with val_fraction = {config.val_fraction:g}: "
            "nothing was chosen, the last weights count."
        )
    return notes


def _unmeasured(cases: pd.DataFrame) -> str:
    """Return why a page has no Dice, and where to get one; empty where clean cases were held out."""
    counts = cases_by_role(cases)
    if counts["held out"]:
        return ""
    trained = "No clean case was held out, so that all of them could train; nothing on this page says how good the network is."
    if counts["test"]:
        return f"{trained} {count_cases(counts['test'], 'test')} can tell, as training has not looked at them:"
    return (
        f"{trained} Masks of test cases could tell, but there are none. Folds tell how good such a training is: "
        "every clean case is measured by a network that has not seen it."
    )


def _commands_to_measure(run: Run, cases: pd.DataFrame) -> str:
    """Return the commands that measure the network on the test cases, or a training like it by folds."""
    test = cases[cases["role"] == "test"]
    if test.empty:
        return "pixeltrust benchmark DATA --question --out answer"
    return shlex.join(["pixeltrust", "report", run.folder.resolve().name])


def _picture(row: Mapping[Hashable, Any], config: Config, corner: Sequence[int] | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the image uint8 (H, W, 3) of a case, and where its mask has foreground; of a volume the slice that the weights are of.

    Raises:
        DataError: a file cannot be read.
    """
    case = Case(str(row["id"]), Path(row["image"]), Path(row["mask"]), row["role"], channels=channels_of(config))
    if corner is None:
        return read_image(case.image), foreground(case.mask, config)
    labels = read_mask(case.mask, config)
    labels = fit_labels(labels, read_spacing(case, config), config)[cut_of(corner, config.size)]
    middle = config.size[0] // 2
    image = fit_image(case, config)[cut_of(corner, config.size)]
    return draw_slice(image[0, middle].astype(np.float32)), is_foreground(labels[middle])


def _maps_over_time(run: Run, cases: pd.DataFrame, config: Config) -> tuple[list[GalleryCase], str]:
    """Return the weight maps early, midway and late in training, and a sentence where images or masks are gone."""
    epochs, maps, corners = run.weight_maps_over_time()
    paths = {row["id"]: row for row in cases.astype({"id": str}).to_dict("records")}
    shown, gone = [], []
    for identity, weights in maps.items():
        panels, mask = [], None
        try:
            image, mask = _picture(paths[identity], config, corners.get(identity))
            panels = [
                draw_outlines("image", f"the image of {identity}", image),
                draw_outlines("noisy mask", f"the noisy mask of {identity}", image, noisy=mask),
            ]
        except (PixeltrustError, KeyError):
            gone.append(identity)
        shape = None if mask is None else mask.shape
        panels += [draw_weights(f"epoch {epoch}", identity, one, mask, shape=shape) for epoch, one in zip(epochs, weights, strict=True)]
        shown.append(GalleryCase(title=identity, panels=panels))
    what = "The image or the mask of {} cannot be read any more (moved or deleted?); only the weights are shown."
    return shown, what.format(", ".join(gone)) if gone else ""
