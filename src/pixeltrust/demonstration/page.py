"""The page of a demo: plain training against trust, and what the audit made of the masks, in numbers with intervals and in pictures."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pixeltrust.auditing.folder import Audit, read_audit_cases, review_command
from pixeltrust.auditing.page import audited_case
from pixeltrust.data.images import case_id, image_suffix, read_image
from pixeltrust.data.masks import foreground
from pixeltrust.metrics import METRICS, bootstrap_interval, mean_of_defined
from pixeltrust.pages.charts import draw_dice_strips, draw_differences, draw_training_curves
from pixeltrust.pages.numbers import format_number
from pixeltrust.pages.pieces import (
    GalleryCase,
    Number,
    cases_by_role,
    count_cases,
    draw_outlines,
    evenly_spread,
    format_interval,
    list_settings,
    render_page,
    seconds_per_update,
)
from pixeltrust.plumbing.errors import RunError
from pixeltrust.training.run_folder import Run

FORMAT = 2  # of demo.json
TRAINED = ("plain", "trust")
AUDITED, TEST_CASES = 5, 4  # in the galleries of a demo
MEASURES = ("dice", "jaccard", "sensitivity", "specificity", "surface_distance")  # in the table of a demo


def demo_page(folder: Path) -> str:
    """Return the page as HTML text.

    Raises:
        RunError: the demo has not finished, or files that the page needs are gone or broken.
        DataError: the tables of its audit have faults, or one of its masks is gone or broken.
    """
    record = read_demo_record(folder)
    if not record["finished"]:
        raise RunError(f"{folder}: this demo has not finished; `pixeltrust demo --out {folder}` continues it")
    runs = {method: Run(folder / "runs" / method) for method in TRAINED}
    histories = {method: run.read_table("history.csv") for method, run in runs.items()}
    scores = {method: _read(folder / f"{method}.csv") for method in TRAINED}
    if scores["plain"]["id"].tolist() != scores["trust"]["id"].tolist():
        raise RunError(f"{folder}: plain.csv and trust.csv have different cases")
    plain, trust = (scores[method]["dice"].to_numpy(float) for method in TRAINED)
    galleries = _Galleries(folder, runs["trust"], scores)
    masks = _read(folder / "masks.csv").set_index("id")
    return render_page(
        "demo.html",
        headline=_demo_headline(plain, trust),
        story=_demo_story(folder, record, histories),
        numbers=_demo_numbers(plain, trust, histories),
        masks=_mask_numbers(masks),
        audited=[galleries.audited(identity, masks) for identity in evenly_spread(masks["mended"] - masks["given"], AUDITED)],
        review=review_command(folder.resolve() / "audit"),
        case_charts=[draw_dice_strips({"plain": plain, "trust": trust}), draw_differences(trust - plain, better="trust", worse="plain")],
        table=_table(scores),
        notes=_undefined_notes(scores),
        curves=draw_training_curves(histories),
        test=[galleries.test(identity) for identity in evenly_spread(pd.Series(trust - plain, index=scores["trust"]["id"]), TEST_CASES)],
        facts=list_settings(runs["trust"].config(), leave_out=("method",)),
    )


def read_demo_record(folder: Path) -> dict[str, Any]:
    """Read demo.json.

    Raises:
        RunError: it is broken, or of another format.
    """
    path = folder / "demo.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["format"] != FORMAT or "plan" not in record or "finished" not in record:
            raise ValueError(f"of format {record['format']}, wanted {FORMAT}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: cannot be read as the record of a demo ({error}); choose another --out") from None
    return record


def _read(table: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(table, dtype={"id": str})
    except (OSError, ValueError) as error:
        raise RunError(f"{table}: the numbers of the demo cannot be read: {error}") from None


def _demo_headline(plain: np.ndarray, trust: np.ndarray) -> str:
    low, high = bootstrap_interval(trust - plain)
    means = f"{mean_of_defined(trust):.2f} against {mean_of_defined(plain):.2f}"
    if low > 0:
        return f"Training with trust did better than plain training: Dice {means}"
    if high < 0:
        return f"Training with trust did worse than plain training: Dice {means}"
    return f"Training with trust and plain training cannot be told apart here: Dice {means}"


def _demo_story(folder: Path, record: Mapping[str, Any], histories: Mapping[str, pd.DataFrame]) -> str:
    counts = cases_by_role(Run(folder / "runs" / "trust").read_table("cases.csv"))
    updates = int(histories["trust"]["update"].iloc[-1])
    noise = f"{count_cases(counts['noisy'], 'noisy')} have masks that were spoiled on purpose ({record['plan']['noise']} noise)"
    try:
        mean = json.loads((folder / "data" / "simulation.json").read_text(encoding="utf-8"))["mean_dice"]
        agreement = f" and agree with the truth at a mean Dice of {mean:.2f}"
    except (OSError, ValueError, KeyError):
        agreement = ""
    held_out = f" ({counts['held out']} of them are held out, to watch the training)" if counts["held out"] else ""
    return (
        f"{noise}{agreement}; {count_cases(counts['clean'] + counts['held out'], 'clean')} keep their true masks{held_out}. "
        f"One network ({record['plan']['model']}) was trained twice from the same start, {updates:,} updates each: "
        "once with all masks counting alike, and once with trust: every step asks of each noisy pixel whether learning it helps on the "
        "clean cases, remembers the answers, and weighs the pixel by them. "
        f"Then both were measured on {count_cases(counts['test'], 'test')} that neither had seen."
    )


def _demo_numbers(plain: np.ndarray, trust: np.ndarray, histories: Mapping[str, pd.DataFrame]) -> list[Number]:
    cost = {method: seconds_per_update(history) for method, history in histories.items()}
    difference = trust - plain
    return [
        Number(what="Dice, plain training", value=f"{mean_of_defined(plain):.3f}", interval=format_interval(plain), method="plain"),
        Number(what="Dice, with trust", value=f"{mean_of_defined(trust):.3f}", interval=format_interval(trust), method="trust"),
        Number(
            what="Difference, case by case",
            value=format_number(mean_of_defined(difference), signed=True),
            interval=format_interval(difference, signed=True),
        ),
        Number(
            what="Cost of an update",
            value=f"× {cost['trust'] / cost['plain']:.1f}",
            interval=f"{cost['trust']:.2g} s with trust, {cost['plain']:.2g} s plain, on this machine",
        ),
    ]


def _mask_numbers(masks: pd.DataFrame) -> list[Number]:
    given, mended = (masks[name].to_numpy(float) for name in ("given", "mended"))
    nearer, farther = int((mended > given).sum()), int((mended < given).sum())
    return [
        Number(what="Dice of the masks as given", value=f"{mean_of_defined(given):.3f}", interval=format_interval(given)),
        Number(what="Dice of the mended masks", value=f"{mean_of_defined(mended):.3f}", interval=format_interval(mended), method="trust"),
        Number(what="Nearer to the truth", value=f"{nearer:,}", interval=f"of {len(masks):,} masks; {farther:,} are farther from it"),
    ]


def _table(scores: Mapping[str, pd.DataFrame]) -> list[dict[str, Any]]:
    rows = []
    for name in MEASURES:
        metric = METRICS[name]
        digits, unit = min(metric.digits, 3), ", px" if metric.unit == "distance" else ""
        plain, trust = (scores[method][name].to_numpy(float) for method in TRAINED)
        columns = ((plain, False), (trust, False), (trust - plain, True))
        cells = []
        for values, signed in columns:
            mean = format_number(mean_of_defined(values), digits=digits, signed=signed)
            cells.append({"value": mean, "interval": format_interval(values, digits=digits, signed=signed)})
        rows.append({"name": f"{metric.title}{unit}", "cells": cells})
    return rows


def _undefined_notes(scores: Mapping[str, pd.DataFrame]) -> Iterable[str]:
    for method, table in scores.items():
        missing = int((table["surface_distance"].isna() & table["dice"].notna()).sum())
        if missing:
            cases = count_cases(missing, "test")
            yield f"{method}: {cases} in which nothing was found: their Dice is 0, and the mean distance leaves them out."


class _Galleries:
    """The cases of a demo in pictures."""

    def __init__(self, folder: Path, run: Run, scores: Mapping[str, pd.DataFrame]) -> None:
        self.folder, self.config = folder, run.config()
        self.dice = {method: dict(zip(table["id"], table["dice"], strict=True)) for method, table in scores.items()}
        parts = ("source/images", "source/masks", *(f"predictions/{method}" for method in TRAINED))
        self.files = {part: _files_by_id(folder / part) for part in parts}
        self.audit = Audit.read(folder / "audit")
        self.cases = {row["id"]: row for row in read_audit_cases(folder / "audit").to_dict("records")}

    def audited(self, identity: str, masks: pd.DataFrame) -> GalleryCase:
        if identity not in self.cases:
            raise RunError(f"{self.folder / 'audit'}: has no case {identity}, which masks.csv has; remove both and run the demo again")
        panels = audited_case(self.audit, self.cases[identity]).panels
        image, true = self._image_and_truth(identity)
        panels += [draw_outlines("true mask", f"the true mask of {identity}", image, true=true)]
        given, mended = (format_number(float(masks[name][identity])) for name in ("given", "mended"))
        return GalleryCase(title=identity, panels=panels, note=f"Dice {given} as given, {mended} mended")

    def test(self, identity: str) -> GalleryCase:
        image, true = self._image_and_truth(identity)
        panels = [
            draw_outlines("image", f"the image of {identity}", image),
            draw_outlines("true mask", f"the true mask of {identity}", image, true=true),
        ]
        for method in TRAINED:
            text = f"the mask that the {method} network predicts for {identity}, over the true one in white"
            masks = {"true": true, method: foreground(self._path(f"predictions/{method}", identity), self.config)}
            panels.append(draw_outlines(method, text, image, note=f"Dice {self.dice[method][identity]:.3f}", **masks))
        difference = self.dice["trust"][identity] - self.dice["plain"][identity]
        return GalleryCase(title=identity, panels=panels, note=f"difference in Dice {format_number(difference, signed=True)}")

    def _image_and_truth(self, identity: str) -> tuple[np.ndarray, np.ndarray]:
        return read_image(self._path("source/images", identity)), foreground(self._path("source/masks", identity), self.config)

    def _path(self, part: str, identity: str) -> Path:
        if identity not in self.files[part]:
            raise RunError(f"{self.folder / part}: has no file of {identity}, which the page needs; remove it and run the demo again")
        return self.files[part][identity]


def _files_by_id(folder: Path) -> dict[str, Path]:
    try:
        return {case_id(path): path for path in folder.iterdir() if image_suffix(path)}
    except OSError as error:
        raise RunError(f"{folder}: cannot be read ({error.strerror or error}), and the page shows what is in it") from None
