"""The page of a demo: given, mended and true masks in pictures, what was expected beside the truth, and what a network learns from them."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pixeltrust.auditing.folder import review_command
from pixeltrust.data.image_files import case_id, image_suffix
from pixeltrust.data.images import read_image
from pixeltrust.data.masks import foreground
from pixeltrust.mending.estimate import Estimate, Quality, read_estimate
from pixeltrust.metrics import METRICS, bootstrap_interval, mean_of_defined
from pixeltrust.pages.charts import Chart, colour_of, draw_dice_strips, draw_differences, draw_training_curves, ink, new_panels, to_svg
from pixeltrust.pages.numbers import format_number, format_range
from pixeltrust.pages.pieces import (
    GalleryCase,
    Number,
    cases_by_role,
    count_cases,
    draw_outlines,
    format_interval,
    list_settings,
    render_page,
    typical_and_worst,
)
from pixeltrust.plumbing.errors import RunError
from pixeltrust.plumbing.text import count
from pixeltrust.training.run_folder import Run

FORMAT = 3  # of demo.json
TRAINED = ("given", "mended")
"""The masks that the network is trained on."""
SHOWN = (3, 2)  # cases from the middle, and from the lower end, in each gallery
MEASURES = ("dice", "jaccard", "sensitivity", "specificity", "surface_distance")  # in the table of a demo


def demo_page(folder: Path) -> str:
    """Return the page as HTML text.

    Raises:
        RunError: the demo has not finished, or files that the page needs are gone or broken.
        DataError: one of its masks is gone or broken.
    """
    record = read_demo_record(folder)
    if not record["finished"]:
        raise RunError(f"{folder}: this demo has not finished; `pixeltrust demo --out {folder}` continues it")
    runs = {masks: Run(folder / "runs" / masks) for masks in TRAINED}
    histories = {masks: run.read_table("history.csv") for masks, run in runs.items()}
    scores = {masks: _read(folder / f"{masks}.csv") for masks in TRAINED}
    if scores["given"]["id"].tolist() != scores["mended"]["id"].tolist():
        raise RunError(f"{folder}: given.csv and mended.csv have different cases")
    given, mended = (scores[masks]["dice"].to_numpy(float) for masks in TRAINED)
    galleries = _Galleries(folder, runs["given"], scores)
    estimate, masks = read_demo_estimate(folder), _read(folder / "masks.csv").set_index("id")
    return render_page(
        "demo.html",
        headline=_headline(estimate, masks),
        story=_story(record, estimate),
        mended=[[galleries.mended(identity, masks) for identity in ids] for ids in typical_and_worst(_gains(masks), *SHOWN)],
        masks=_mask_numbers(estimate, masks),
        verdict=_verdict(estimate, masks),
        mask_charts=[_draw_estimate(estimate, masks), _draw_expected(masks)],
        next_to=folder.resolve().name,
        review=review_command(Path(folder.resolve().name) / "mended"),
        trained=_trained_headline(given, mended),
        training=_training_story(record, runs["given"], histories["given"]),
        numbers=_network_numbers(given, mended),
        charts=[
            draw_dice_strips({"given masks": given, "mended masks": mended}),
            draw_differences(mended - given, better="mended masks", worse="given masks"),
            *draw_training_curves({f"{masks} masks": history for masks, history in histories.items()}),
        ],
        table=_table(scores),
        notes=_undefined_notes(scores),
        test=[
            [galleries.test(identity) for identity in ids]
            for ids in typical_and_worst(pd.Series(mended - given, index=scores["given"]["id"]), *SHOWN)
        ],
        facts=list_settings(runs["given"].config(), leave_out=("method",)),
    )


def read_demo_record(folder: Path) -> dict[str, Any]:
    """Read demo.json.

    Raises:
        RunError: it is broken, or of another version.
    """
    path = folder / "demo.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        written = record["format"]
        if type(written) is int and written != FORMAT:
            version = "an earlier" if written < FORMAT else "a later"
            raise RunError(
                f"{folder}: this demo was made by {version} version of pixeltrust, whose page this one cannot draw; choose another --out"
            )
        if written != FORMAT or "plan" not in record or "finished" not in record:
            raise ValueError("something is missing in it")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: cannot be read as the record of a demo ({error}); choose another --out") from None
    return record


def read_demo_estimate(folder: Path) -> Estimate:
    """Read what the mending of a demo expects.

    Raises:
        RunError: it is gone, or cannot be read.
    """
    estimate = read_estimate(folder / "mended")
    if estimate is None:
        raise RunError(f"{folder / 'mended'}: has no estimate.json any more; remove the folder and run the demo again")
    return estimate


def _read(table: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(table, dtype={"id": str})
    except (OSError, ValueError) as error:
        raise RunError(f"{table}: the numbers of the demo cannot be read: {error}") from None


# --- the masks ----------------------------------------------------------------------------------------------------


def _headline(estimate: Estimate, masks: pd.DataFrame) -> str:
    given, mended = (format_number(mean_of_defined(masks[name].to_numpy(float)), digits=2) for name in ("given", "mended"))
    if estimate.way == "given":
        return f"{count(estimate.pairs, 'pair')} did not show how to mend {count(len(masks), 'mask')}: they stay at a Dice of {given}"
    return f"{count(estimate.pairs, 'corrected mask')} mended {len(masks):,} others: from a Dice of {given} to {mended}"


def _story(record: Mapping[str, Any], estimate: Estimate) -> str:
    return (
        f"{count(estimate.cases, 'made-up image')} have masks that were spoiled on purpose ({record['plan']['noise']} noise). "
        f"{estimate.pairs:,} more have both such a mask and the true one, as when an expert corrects a mask: a pair. From the pairs alone "
        "small networks learned how the masks err. They mended the others, and said how good they expect them to be."
    )


def _gains(masks: pd.DataFrame) -> pd.Series:
    return masks["mended"] - masks["given"]


def _mask_numbers(estimate: Estimate, masks: pd.DataFrame) -> list[Number]:
    given, mended = (masks[name].to_numpy(float) for name in ("given", "mended"))
    nearer, farther = int((mended > given).sum()), int((mended < given).sum())
    told = f"{nearer:,} of {len(masks):,}"
    return [
        *(
            Number(
                what=f"True Dice, {text}",
                value=format_number(mean_of_defined(true)),
                interval=f"expected {format_number(quality.dice)} ({format_range(quality.low, quality.high)})",
                method=name,
            )
            for text, true, quality, name in (
                ("as given", given, estimate.ways["given"], "given"),
                ("once mended", mended, estimate.expected, "mended"),
            )
        ),
        Number(what="Nearer to the truth", value=told, interval=f"masks; {farther:,} are farther from it than before"),
    ]


def _verdict(estimate: Estimate, masks: pd.DataFrame) -> str:
    """Return whether the estimate has held."""
    true, expected = mean_of_defined(masks["mended"].to_numpy(float)), estimate.expected
    if expected.low <= true <= expected.high:
        return "The true Dice of the mended masks lies within the interval of the estimate."
    return (
        f"The true Dice of the mended masks lies {'below' if true < expected.low else 'above'} the interval of the estimate. "
        "An interval of 95 % is missed now and then, more often from few pairs: images on which networks fail may be missing among them."
    )


def _draw_estimate(estimate: Estimate, masks: pd.DataFrame) -> Chart:
    """Draw what is expected of given and of mended masks with its interval, and the truth."""
    figure, (axes,) = new_panels(1)
    words = []
    for row, (name, quality) in enumerate(_expectations(estimate).items()):
        true, colour = mean_of_defined(masks[name].to_numpy(float)), colour_of(f"{name} masks")
        axes.plot([quality.low, quality.high], [row, row], color=colour, linewidth=5, solid_capstyle="butt", alpha=0.5)
        axes.plot(quality.dice, row, marker="D", markersize=6, color=colour, linestyle="none")
        axes.plot(true, row, marker="|", markersize=26, markeredgewidth=2, color=ink("ink"))
        text = f"{name}: expected {quality.dice:.3f}, true {true:.3f}"
        axes.text(0.0, row - 0.36, text, transform=axes.get_yaxis_transform(), color=colour, fontweight="bold")
        words.append(f"{name}: expected {quality.dice:.3f}, 95 % interval {quality.low:.3f} to {quality.high:.3f}, in truth {true:.3f}")
    axes.set(ylim=(1.5, -0.6), yticks=[], xlabel="mean Dice; line: the truth; diamond and bar: expected")
    axes.spines["left"].set_visible(False)
    return Chart(title="All masks: what was expected, and the truth", svg=to_svg(figure), text="; ".join(words))


def _draw_expected(masks: pd.DataFrame) -> Chart:
    """Draw the expected and the true Dice of every mask."""
    figure, (axes,) = new_panels(1)
    for name, column in (("given", "expected_given"), ("mended", "expected")):
        axes.scatter(masks[column], masks[name], s=9, color=colour_of(f"{name} masks"), alpha=0.5, linewidths=0, label=name)
    low = float(np.nanmin(masks[["given", "mended", "expected_given", "expected"]].to_numpy(float))) - 0.02
    axes.plot([low, 1], [low, 1], color=ink("line"), linewidth=1, zorder=0)
    axes.set(xlabel="expected Dice", ylabel="true Dice", xlim=(low, 1), ylim=(low, 1))
    axes.legend(loc="upper left", frameon=False, labelcolor=ink("ink"))
    off = float((masks["mended"] - masks["expected"]).abs().mean())
    text = f"the true Dice of a mended mask is {off:.2f} from the expected one in the mean"
    return Chart(title="Mask by mask", svg=to_svg(figure), text=text)


def _expectations(estimate: Estimate) -> dict[str, Quality]:
    return {"given": estimate.ways["given"], "mended": estimate.expected}


# --- the networks -------------------------------------------------------------------------------------------------


def _trained_headline(given: np.ndarray, mended: np.ndarray) -> str:
    low, high = bootstrap_interval(mended - given)
    means = f"Dice {mean_of_defined(mended):.2f} against {mean_of_defined(given):.2f}"
    if low > 0:
        return f"A network learns more from the mended masks: {means}"
    if high < 0:
        return f"A network learns less from the mended masks: {means}"
    return f"For a network, given and mended masks cannot be told apart here: {means}"


def _training_story(record: Mapping[str, Any], run: Run, history: pd.DataFrame) -> str:
    counts, updates = cases_by_role(run.read_table("cases.csv")), int(history["update"].iloc[-1])
    return (
        f"One network ({record['plan']['model']}) was trained twice by plain training, from the same start and with the same settings, "
        f"{updates:,} updates each: once on the given masks and once on the mended ones, both times with the {counts['clean']:,} clean "
        f"masks among them. Then both were measured on {count_cases(counts['test'], 'test')} that no network had seen."
    )


def _network_numbers(given: np.ndarray, mended: np.ndarray) -> list[Number]:
    difference = mended - given
    return [
        Number(what="Dice, given masks", value=f"{mean_of_defined(given):.3f}", interval=format_interval(given), method="given"),
        Number(what="Dice, mended masks", value=f"{mean_of_defined(mended):.3f}", interval=format_interval(mended), method="mended"),
        Number(
            what="Difference, case by case",
            value=format_number(mean_of_defined(difference), signed=True),
            interval=format_interval(difference, signed=True),
        ),
    ]


def _table(scores: Mapping[str, pd.DataFrame]) -> list[dict[str, Any]]:
    rows = []
    for name in MEASURES:
        metric = METRICS[name]
        digits, unit = min(metric.digits, 3), ", px" if metric.unit == "distance" else ""
        given, mended = (scores[masks][name].to_numpy(float) for masks in TRAINED)
        columns = ((given, False), (mended, False), (mended - given, True))
        cells = []
        for values, signed in columns:
            mean = format_number(mean_of_defined(values), digits=digits, signed=signed)
            cells.append({"value": mean, "interval": format_interval(values, digits=digits, signed=signed)})
        rows.append({"name": f"{metric.title}{unit}", "cells": cells})
    return rows


def _undefined_notes(scores: Mapping[str, pd.DataFrame]) -> Iterable[str]:
    for masks, table in scores.items():
        missing = int((table["surface_distance"].isna() & table["dice"].notna()).sum())
        if missing:
            cases = count_cases(missing, "test")
            yield f"Trained on {masks} masks: {cases} in which nothing was found: their Dice is 0, and the mean distance leaves them out."


class _Galleries:
    """The cases of a demo in pictures."""

    def __init__(self, folder: Path, run: Run, scores: Mapping[str, pd.DataFrame]) -> None:
        self.folder, self.config = folder, run.config()
        self.dice = {masks: dict(zip(table["id"], table["dice"], strict=True)) for masks, table in scores.items()}
        parts = ("source/images", "source/masks", "data/noisy", "mended/mended", *(f"predictions/{masks}" for masks in TRAINED))
        self.files = {part: _files_by_id(folder / part) for part in parts}

    def mended(self, identity: str, masks: pd.DataFrame) -> GalleryCase:
        image, true = self._image_and_truth(identity)
        given, mended = (self._mask(part, identity) for part in ("data/noisy", "mended/mended"))
        dice = {name: format_number(float(masks[name][identity])) for name in ("given", "mended", "expected")}
        panels = [
            draw_outlines("image", f"the image of {identity}", image),
            draw_outlines("given mask", f"the given mask of {identity}", image, noisy=given, note=f"Dice {dice['given']}"),
            draw_outlines("mended mask", f"the mended mask of {identity}", image, predicted=mended, note=f"Dice {dice['mended']}"),
            draw_outlines("true mask", f"the true mask of {identity}", image, true=true),
        ]
        return GalleryCase(title=identity, panels=panels, note=f"expected Dice once mended {dice['expected']}")

    def test(self, identity: str) -> GalleryCase:
        image, true = self._image_and_truth(identity)
        panels = [
            draw_outlines("image", f"the image of {identity}", image),
            draw_outlines("true mask", f"the true mask of {identity}", image, true=true),
        ]
        for masks in TRAINED:
            text = f"what the network trained on {masks} masks predicts for {identity}, over the true mask in white"
            predicted = self._mask(f"predictions/{masks}", identity)
            note = f"Dice {self.dice[masks][identity]:.3f}"
            panels.append(draw_outlines(f"trained on {masks}", text, image, note=note, true=true, predicted=predicted))
        difference = self.dice["mended"][identity] - self.dice["given"][identity]
        return GalleryCase(title=identity, panels=panels, note=f"difference in Dice {format_number(difference, signed=True)}")

    def _image_and_truth(self, identity: str) -> tuple[np.ndarray, np.ndarray]:
        return read_image(self._path("source/images", identity)), self._mask("source/masks", identity)

    def _mask(self, part: str, identity: str) -> np.ndarray:
        return foreground(self._path(part, identity), self.config)

    def _path(self, part: str, identity: str) -> Path:
        if identity not in self.files[part]:
            raise RunError(f"{self.folder / part}: has no file of {identity}, which the page needs; remove it and run the demo again")
        return self.files[part][identity]


def _files_by_id(folder: Path) -> dict[str, Path]:
    try:
        return {case_id(path): path for path in folder.iterdir() if image_suffix(path)}
    except OSError as error:
        raise RunError(f"{folder}: cannot be read ({error.strerror or error}), and the page shows what is in it") from None
