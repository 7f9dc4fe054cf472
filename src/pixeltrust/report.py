"""One page about a run, or about a demo: a single HTML file with everything in it, that needs no network."""

import json
from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from pixeltrust import __version__
from pixeltrust.cases import decode_labels
from pixeltrust.charts import Chart, dice_strips, differences, heat, heat_legend, overlay, training_curves
from pixeltrust.config import Config
from pixeltrust.errors import PixeltrustError, RunError
from pixeltrust.files import replacing
from pixeltrust.images import case_id, image_suffix, read_image
from pixeltrust.metrics import bootstrap_interval, mean_of_defined
from pixeltrust.runs import Run

TEST_CASES = 4  # in the gallery of a demo
MEASURES = {
    "dice": ("Dice", 3),
    "jaccard": ("Jaccard", 3),
    "sensitivity": ("sensitivity", 3),
    "specificity": ("specificity", 3),
    "surface_distance": ("distance of the outlines, px", 2),
}


@dataclass(frozen=True, kw_only=True)
class Number:
    """A mean with its interval, as a page shows it."""

    what: str
    value: str
    interval: str
    method: str = ""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One picture of a case; without a source it is a dash."""

    title: str
    text: str
    source: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A case of a gallery."""

    title: str
    panels: list[Panel]
    note: str = ""


def report(folder: Path, *, out: Path | None = None) -> Path:
    """Write one self-contained HTML page about a run folder or a demo.

    Args:
        folder: a run folder (`pixeltrust train`) or the folder of a demo (`pixeltrust demo`).
        out: the file to write; report.html in the folder where not given.

    Returns:
        The file written.

    Raises:
        RunError: the folder is neither, is not far enough, or the page cannot be written.
    """
    folder = Path(folder)
    if (folder / "demo.json").is_file():
        html = _demo_page(folder)
    elif (folder / "config.toml").is_file():
        html = _run_page(Run(folder))
    else:
        raise RunError(f"{folder}: neither a run folder (it has no config.toml) nor a demo (it has no demo.json); nothing to report on")
    out = Path(out) if out is not None else folder / "report.html"
    try:
        with replacing(out) as unfinished:
            unfinished.write_text(html, encoding="utf-8")
    except OSError as error:
        raise RunError(f"{out}: cannot be written: {error.strerror or error}") from None
    return out


# --- a run ----------------------------------------------------------------------------------------------------------


def _run_page(run: Run) -> str:
    config, cases = run.config(), run.read_table("cases.csv")
    if not (run.folder / "history.csv").is_file():
        raise RunError(f"{run.folder}: no epoch has ended yet, so there is nothing to report on; continue it with --resume")
    history = run.read_table("history.csv")
    shown, gone = _maps_over_time(run, cases, config)
    last = history.iloc[-1]
    return _rendered(
        "run.html",
        name=run.folder.resolve().name,
        headline=_run_headline(config, last),
        story=_run_story(config, cases, last),
        numbers=_run_numbers(history, cases),
        notes=_run_notes(run, config, history, cases),
        curves=_pictures(training_curves({config.method: history})),
        scale=_picture(heat_legend()),
        cases=shown,
        gone=gone,
        facts=_facts(config),
        foot=f"Epoch {int(last['epoch'])} of {config.epochs}.",
    )


def _run_headline(config: Config, last: pd.Series) -> str:
    if np.isnan(last["val_dice"]):
        return f"{config.method.capitalize()} training, {int(last['update']):,} updates"
    return f"{config.method.capitalize()} training reached a Dice of {last['val_dice']:.3f} on the held-out clean cases"


def _run_story(config: Config, cases: pd.DataFrame, last: pd.Series) -> str:
    counts = _counts(cases)
    learned = f"{_many(counts['noisy'], 'noisy')} and {_many(counts['clean'], 'clean')}"
    text = f"A network ({config.model}) learned from {learned}, in {int(last['update']):,} updates and {_duration(last['seconds'])}."
    return text + (f" {_many(counts['test'], 'test')} stand by; training does not look at them." if counts["test"] else "")


def _run_numbers(history: pd.DataFrame, cases: pd.DataFrame) -> list[Number]:
    last, counts = history.iloc[-1], _counts(cases)
    numbers = [Number(what="Loss", value=f"{last['loss']:.3f}", interval="mean of the last epoch's steps")]
    if not np.isnan(last["val_dice"]):
        held, best = counts["held out"], history.loc[history["val_dice"].idxmax()]
        numbers += [
            Number(what="Dice at the last weights", value=f"{last['val_dice']:.3f}", interval=f"mean of {held} held-out clean cases; for an interval, evaluate on test cases"),
            Number(what="Best Dice", value=f"{best['val_dice']:.3f}", interval=f"after epoch {int(best['epoch'])}; chosen on the same {held} cases, so a little flattering"),
        ]
    return [*numbers, Number(what="Seconds per update", value=f"{_per_update(history):.2g}", interval=f"{_duration(last['seconds'])} in all, with validation")]


def _run_notes(run: Run, config: Config, history: pd.DataFrame, cases: pd.DataFrame) -> list[str]:
    notes = []
    last, counts, idle = history.iloc[-1], _counts(cases), int(history["all_zero_steps"].sum())
    if not run.finished():
        notes.append(f"The run is not finished: {int(last['epoch'])} of {config.epochs} epochs. Continue it with --resume.")
    if idle:
        share = f"{idle:,} of {int(last['update']):,} steps ({idle / last['update']:.0%})"
        notes.append(
            f"In {share} no noisy pixel would have lowered the loss on the clean batch, so all weights were 0 and the noisy masks taught nothing. "
            "A few such steps are usual, late above all; many mean that the noisy masks have nothing left to teach, or contradict the clean ones."
        )
    if not counts["held out"]:
        notes.append(f"Too few clean cases ({counts['clean']}) to hold any out: nothing was chosen, the last weights count, and there is no Dice to show here.")
    return notes


def _maps_over_time(run: Run, cases: pd.DataFrame, config: Config) -> tuple[list[Shown], str]:
    """The kept weight maps of the run, early, midway and late; and what to say if files are gone."""
    kept = run.weight_maps()
    if kept is None or not len(kept["epochs"]):
        return [], ""
    moments = sorted({0, (len(kept["epochs"]) - 1) // 2, len(kept["epochs"]) - 1})
    paths = {row["id"]: row for row in cases.astype({"id": str}).to_dict("records")}
    shown, gone = [], []
    for place, one in enumerate(map(str, kept["ids"])):
        panels, mask = [], None
        try:
            image, mask = read_image(Path(paths[one]["image"])), _mask(Path(paths[one]["mask"]), config)
            panels = [_outlined("image", f"the image of {one}", image), _outlined("noisy mask", f"the noisy mask of {one}", image, noisy=mask)]
        except (PixeltrustError, KeyError):
            gone.append(one)
        panels += [_weighed(f"epoch {kept['epochs'][moment]}", one, kept["maps"][moment, place], mask) for moment in moments]
        shown.append(Shown(title=one, panels=panels))
    what = "The image or the mask of {} cannot be read any more (moved or deleted?); only the weights are shown."
    return shown, what.format(", ".join(gone)) if gone else ""


# --- a demo ---------------------------------------------------------------------------------------------------------


def _demo_page(folder: Path) -> str:
    record = _demo_record(folder)
    runs = {method: Run(folder / "runs" / method) for method in ("plain", "pixel")}
    histories = {method: run.read_table("history.csv") for method, run in runs.items()}
    scores = _scores(folder)
    plain, pixel = (scores[method]["dice"].to_numpy(float) for method in ("plain", "pixel"))
    drawn = _Drawn(folder, runs["pixel"], scores)
    return _rendered(
        "demo.html",
        headline=_demo_headline(plain, pixel),
        story=_demo_story(folder, record, histories),
        numbers=_demo_numbers(plain, pixel, histories),
        case_charts=_pictures([dice_strips({"plain": plain, "pixel": pixel}), differences(pixel - plain, better="pixel", worse="plain")]),
        table=_table(scores),
        notes=_undefined_notes(scores),
        curves=_pictures(training_curves(histories)),
        scale=_picture(heat_legend()),
        noisy=[drawn.noisy(one) for one in record["shown"]],
        test=[drawn.test(one) for one in _spread(pd.Series(pixel - plain, index=scores["pixel"]["id"]), TEST_CASES)],
        facts=_facts(runs["pixel"].config(), leave_out=("method",)),
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
    counts = _counts(Run(folder / "runs" / "pixel").read_table("cases.csv"))
    updates = int(histories["pixel"]["update"].iloc[-1])
    noise = f"{_many(counts['noisy'], 'noisy')} carry masks that were spoiled on purpose ({record['plan']['noise']} noise)"
    agreement = _agreement(folder)
    return (
        f"{noise}{agreement}; {_many(counts['clean'] + counts['held out'], 'clean')} keep their true masks. "
        f"One network ({record['plan']['model']}) was trained twice from the same start, {updates:,} updates each: "
        "once with all masks counting alike, once with a weight for every noisy pixel, found anew in every step from the clean cases. "
        f"Then both were measured on {_many(counts['test'], 'test')} that neither had seen."
    )


def _agreement(folder: Path) -> str:
    try:
        mean = json.loads((folder / "data" / "simulation.json").read_text(encoding="utf-8"))["mean_dice"]
    except (OSError, ValueError, KeyError):
        return ""
    return f" and agree with the truth at a mean Dice of {mean:.2f}"


def _demo_numbers(plain: np.ndarray, pixel: np.ndarray, histories: Mapping[str, pd.DataFrame]) -> list[Number]:
    cost = {method: _per_update(history) for method, history in histories.items()}
    difference = pixel - plain
    return [
        Number(what="Dice, plain training", value=f"{mean_of_defined(plain):.3f}", interval=_interval(plain), method="plain"),
        Number(what="Dice, pixel weights", value=f"{mean_of_defined(pixel):.3f}", interval=_interval(pixel), method="pixel"),
        Number(what="Difference, case by case", value=_signed(mean_of_defined(difference)), interval=_interval(difference, signed=True)),
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
            {"value": _number(mean_of_defined(values), digits, signed), "interval": _interval(values, digits=digits, signed=signed)}
            for values, signed in columns
        ]
        rows.append({"name": name, "cells": cells})
    return rows


def _undefined_notes(scores: Mapping[str, pd.DataFrame]) -> Iterable[str]:
    for method, table in scores.items():
        missing = int((table["surface_distance"].isna() & table["dice"].notna()).sum())
        if missing:
            yield f"{method}: {_many(missing, 'test')} with nothing found, so Dice 0 and no distance; the mean distance leaves them out."


def _spread(values: pd.Series, count: int) -> list[str]:
    """Ids, evenly spread over the order of their values."""
    ordered = values.dropna().sort_values(kind="stable").index
    places = np.linspace(0, len(ordered) - 1, min(count, len(ordered))).round().astype(int)
    return [str(ordered[place]) for place in places]


class _Drawn:
    """The galleries of a demo."""

    def __init__(self, folder: Path, run: Run, scores: Mapping[str, pd.DataFrame]) -> None:
        self.folder, self.config, self.maps = folder, run.config(), run.weight_maps()
        self.dice = {method: dict(zip(table["id"], table["dice"], strict=True)) for method, table in scores.items()}
        parts = ("source/images", "source/masks", "data/noisy", "predictions/plain", "predictions/pixel")
        self.files = {part: {case_id(path): path for path in (folder / part).iterdir() if image_suffix(path)} for part in parts}

    def noisy(self, one: str) -> Shown:
        image, true, noisy = self._image(one), self._labels("source/masks", one), self._labels("data/noisy", one)
        panels = [
            _outlined("image", f"the image of {one}", image),
            _outlined("noisy mask", f"the noisy mask of {one}", image, noisy=noisy),
            _outlined("true mask", f"the true mask of {one}", image, true=true),
            self._weights(one, noisy),
            *self._predictions(one, image),
        ]
        return Shown(title=one, panels=panels)

    def test(self, one: str) -> Shown:
        image, true = self._image(one), self._labels("source/masks", one)
        panels = [
            _outlined("image", f"the image of {one}", image),
            Panel(title="noisy mask", text="a test case has no noisy mask"),
            _outlined("true mask", f"the true mask of {one}", image, true=true),
            Panel(title="weights", text="a test case has no weights"),
            *self._predictions(one, image),
        ]
        return Shown(title=one, panels=panels, note=f"difference in Dice {_signed(self.dice['pixel'][one] - self.dice['plain'][one])}")

    def _predictions(self, one: str, image: np.ndarray) -> Iterable[Panel]:
        for method in ("plain", "pixel"):
            score = f"Dice {self.dice[method][one]:.3f}" if one in self.dice[method] else ""
            mask = self._labels(f"predictions/{method}", one)
            text = f"the mask that the {method} network predicts for {one}, over the true one in white"
            yield _outlined(method, text, image, note=score, true=self._labels("source/masks", one), **{method: mask})

    def _weights(self, one: str, mask: np.ndarray) -> Panel:
        places = [] if self.maps is None else np.flatnonzero(self.maps["ids"] == one)
        if self.maps is None or not len(places):
            return Panel(title="weights", text="no weights were kept")
        return _weighed("weights", one, self.maps["maps"][-1, places[0]], mask)

    def _image(self, one: str) -> np.ndarray:
        return read_image(self._path("source/images", one))

    def _labels(self, part: str, one: str) -> np.ndarray:
        return _mask(self._path(part, one), self.config)

    def _path(self, part: str, one: str) -> Path:
        if one not in self.files[part]:
            raise RunError(f"{self.folder / part}: has no file of {one}, which the page was to show; remove the folder and run the demo again")
        return self.files[part][one]


# --- pieces ---------------------------------------------------------------------------------------------------------


def _outlined(title: str, text: str, image: np.ndarray, *, note: str = "", **masks: np.ndarray) -> Panel:
    return Panel(title=title, text=text, source=_data_uri(overlay(image, masks), "image/png"), note=note)


def _weighed(title: str, one: str, weights: np.ndarray, mask: np.ndarray | None) -> Panel:
    zero = float((weights == 0).mean())
    text = f"the weights of {one}: {zero:.0%} of its pixels have weight 0, the largest is {float(weights.max()):.1f} times the average"
    source = _data_uri(heat(weights.astype(np.float32), mask), "image/png")
    return Panel(title=title, text=text, source=source, note=f"{zero:.0%} at 0")


def _mask(path: Path, config: Config) -> np.ndarray:
    """Where a mask file has foreground (of any class)."""
    labels, _ = decode_labels(path, classes=config.classes, ignore_label=config.ignore_label)
    return (labels > 0) & (labels < 255)


def _pictures(charts: Iterable[Chart]) -> list[dict[str, str]]:
    return [_picture(chart) for chart in charts]


def _picture(chart: Chart) -> dict[str, str]:
    return {"title": chart.title, "text": chart.text, "source": _data_uri(chart.svg.encode(), "image/svg+xml")}


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{b64encode(content).decode()}"


def _counts(cases: pd.DataFrame) -> dict[str, int]:
    held = cases["held_out"].astype(str).str.lower() == "true"
    roles = cases["role"][~held].value_counts()
    return {role: int(roles.get(role, 0)) for role in ("noisy", "clean", "test")} | {"held out": int(held.sum())}


def _facts(config: Config, leave_out: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    values = {name: value for name, value in asdict(config).items() if value is not None and name not in leave_out}
    return [(name, " × ".join(map(str, value)) if isinstance(value, tuple) else f"{value}") for name, value in values.items()]


def _per_update(history: pd.DataFrame) -> float:
    return float(history["seconds"].iloc[-1] / history["update"].iloc[-1])


def _many(number: int, kind: str) -> str:
    return f"{number:,} {kind} {'case' if number == 1 else 'cases'}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def _signed(value: float) -> str:
    return _number(value, 3, signed=True)


def _number(value: float, digits: int, signed: bool = False) -> str:
    if np.isnan(value):
        return "–"
    return (f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}").replace("-", "−")


def _interval(values: np.ndarray, *, digits: int = 3, signed: bool = False) -> str:
    low, high = bootstrap_interval(values)
    return "no interval" if np.isnan(low) else f"{_number(low, digits, signed)} … {_number(high, digits, signed)}"


def _rendered(template: str, **values: Any) -> str:
    loader = jinja2.PackageLoader("pixeltrust", "templates")
    pages = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return pages.get_template(template).render(version=__version__, **values)
