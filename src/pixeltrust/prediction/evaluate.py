"""Measure a folder of predicted masks against a folder of true ones, paired by id."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from rich.table import Table

from pixeltrust import metrics
from pixeltrust.data import images
from pixeltrust.data.image_files import SUFFIXES
from pixeltrust.data.layouts import as_endings, find_best_ending, suffix_option
from pixeltrust.data.listings import Listing, files_by_id
from pixeltrust.data.masks import MaskMeaning, decode_labels, mixture_faults
from pixeltrust.plumbing.errors import DataError, Fault
from pixeltrust.plumbing.files import write_atomically
from pixeltrust.plumbing.labels import IGNORE
from pixeltrust.plumbing.progress import map_in_threads
from pixeltrust.plumbing.summaries import Summary, text_of
from pixeltrust.plumbing.text import count, some

FEW_CASES = 20  # below this many the intervals are markedly too narrow
_Spacing = tuple[float, ...]


@dataclass(frozen=True, kw_only=True, repr=False)
class Evaluation(Summary):
    """The result of `evaluate`."""

    cases: pd.DataFrame
    """One row per case, sorted by id; columns id, then metrics.METRICS, and with three classes or more those by class too (`dice_1`).
    NaN where a metric is undefined."""

    summary: pd.DataFrame
    """One row per metric; columns metric, mean, low, high (95 % interval of the mean), median, cases, undefined.

    `cases` counts the cases in the mean, `undefined` those left out of it."""

    unit: str
    """The unit of the two distances, and of the tolerance: "mm" or "px"."""

    tolerance: float
    """Of the surface Dice."""

    notes: list[str]
    """Sentences that a reader of the numbers should know."""

    out: Path | None = None
    """The CSV file that was written."""

    def __str__(self) -> str:
        return "\n".join([text_of(self.table()), self.in_words()]).strip()

    def in_words(self) -> str:
        return "\n".join([*self.notes, *([f"the cases are in {self.out}"] if self.out else [])])

    def in_rows(self) -> pd.DataFrame:
        columns = [column.header for column in self.table().columns]
        return pd.DataFrame(list(self._rows()), columns=columns)

    def table(self) -> Table:
        """Return the summary as a table for rich."""
        tolerance = f"surface Dice at {self.tolerance:g} {self.unit}"
        table = Table(title=f"{count(len(self.cases), 'case')}, distances in {self.unit}, {tolerance}", title_justify="left")
        table.add_column("metric")
        for heading in ("mean", "95 % interval", "median", "cases", "undefined"):
            table.add_column(heading, justify="right")
        for cells in self._rows():
            table.add_row(*cells)
        return table

    def _rows(self) -> Iterator[tuple[str, ...]]:
        for row in self.summary.to_dict("records"):
            shown = partial(_shown, digits=metrics.metric_of(row["metric"]).digits)
            interval = f"{shown(row['low'])} … {shown(row['high'])}" if row["cases"] > 1 else "–"
            yield row["metric"], shown(row["mean"]), interval, shown(row["median"]), str(row["cases"]), str(row["undefined"])


@dataclass(frozen=True, kw_only=True)
class _Pair:
    id: str
    predicted: Path
    truth: Path


def evaluate(
    predicted: Path,
    truth: Path,
    *,
    classes: int = 1,
    ignore_label: int | None = None,
    mask_suffix: str | Sequence[str] = (),
    tolerance: float = 1.0,
    out: Path | None = None,
    show_progress: bool = True,
) -> Evaluation:
    """Measure the predicted masks of all cases that have a true one.

    Distances are in mm where every truth file says how large its pixels are (NIfTI, volumes), else in pixels for all cases:
    a mean over two units means nothing.

    Example:
        print(pixeltrust.evaluate("predicted", "lesions/test", out="dice.csv"))

    Args:
        predicted: folder of mask files of pictures or volumes, <id>.png or another known ending; subfolders are left out.
        truth: folder of mask files. Every one needs a predicted mask of its id and size, and where it is a volume, on its grid.
        classes: 1: a file holds 0 and at most one other value, the foreground; a truth file with exactly 0, 1 and 255
            has 255 ignored. K ≥ 2: a file holds 0 … K−1, and 255 in the truth is ignored.
        ignore_label: the value that marks ignored pixels in all truth files, 0 … 255, as in `Config`; needed where some
            hold 0, 1 and 255 and others 0 and 255. Predictions ignore nothing.
        mask_suffix: an ending (or several) that is taken off the names of masks which have it, in both folders.
        tolerance: how far surfaces may be apart for the surface Dice to count them as one, in the unit of the distances.
        out: CSV file to write, one row per case, columns as in `Evaluation.cases`; an undefined number is empty.
            It is replaced whole or not at all.
        show_progress: a progress bar on standard error.

    Raises:
        DataError: a folder is missing or without masks; masks are missing, doubled, of unequal size, unreadable, or
            hold values that no class has; with two classes or more, the true ones hold 0 and 255 alone; `out` cannot be
            written. Names every file that is at fault.
        ValueError: `classes` is not 1 … 255, `ignore_label` not 0 … 255, or `tolerance` below 0.
    """
    if not 1 <= classes <= IGNORE:
        raise ValueError(f"classes is {classes}; it must be 1 (binary) or 2 … {IGNORE}")
    if ignore_label is not None and not 0 <= ignore_label <= 255:
        raise ValueError(f"ignore_label is {ignore_label}; it must be 0 … 255")
    if not 0 <= tolerance < np.inf:
        raise ValueError(f"tolerance is {tolerance}; it must be 0 or more")
    if out is not None:
        _check_writable(out)
    endings = as_endings(mask_suffix)
    pairs, unused = _pair(_find_masks(predicted, endings), _find_masks(truth, endings, is_truth=True))
    headers = map_in_threads(_read_header, pairs, text="reading headers", complaint="These masks cannot be compared:", shown=show_progress)
    if len({len(header.size) for header in headers}) > 1:
        axes = {len(header.size): pair.truth for pair, header in zip(pairs, headers, strict=True)}
        raise DataError(f"{truth}: pictures and volumes together: {axes[3]} is a volume, {axes[2]} a picture; measure them apart")
    spacings = [_usable(header.spacing_mm) for header in headers]
    unit = "mm" if None not in spacings else "px"
    measured = map_in_threads(
        partial(_measure, classes=classes, ignore_label=ignore_label, tolerance=tolerance),
        list(zip(pairs, spacings if unit == "mm" else [None] * len(pairs), strict=True)),
        text="measuring",
        complaint="These masks cannot be measured:",
        shown=show_progress,
    )
    if mixed := mixture_faults(kind for _, kind, _ in measured):
        raise DataError("The true masks cannot be understood:", mixed)
    cases = pd.DataFrame([{"id": pair.id, **numbers} for pair, (numbers, _, _) in zip(pairs, measured, strict=True)])
    if out is not None:
        _write_csv(out, cases)
    notes = _notes(cases, unused, spacings, ignored=[share for _, _, share in measured])
    return Evaluation(cases=cases, summary=summarize(cases), unit=unit, tolerance=tolerance, notes=list(notes), out=out)


def summarize(cases: pd.DataFrame) -> pd.DataFrame:
    """Return one row per metric, by class too where `cases` has that, over the cases where it is defined; see `Evaluation.summary`."""
    columns = cases.drop(columns="id").astype(np.float64)
    intervals = [metrics.bootstrap_interval(columns[name].to_numpy()) for name in columns]
    return pd.DataFrame(
        {
            "metric": list(columns),
            "mean": columns.mean().to_numpy(),
            "low": [low for low, _ in intervals],
            "high": [high for _, high in intervals],
            "median": columns.median().to_numpy(),
            "cases": columns.count().to_numpy(),
            "undefined": columns.isna().sum().to_numpy(),
        }
    )


def _find_masks(folder: Path, endings: Sequence[str], *, is_truth: bool = False) -> Listing:
    listing = files_by_id(folder, endings)
    if not listing.files:
        meant = is_truth and (folder / "test").is_dir()
        hint = f"; probably {folder / 'test'} was meant" if meant else f" ({', '.join(SUFFIXES)})"
        raise DataError(f"{folder}: no mask files in this folder{hint}")
    return listing


def _pair(predicted: Listing, true: Listing) -> tuple[list[_Pair], list[str]]:
    """Return the pairs sorted by id, and the ids of predictions without a true mask."""
    missing, unused = true.files.keys() - predicted.files.keys(), predicted.files.keys() - true.files.keys()
    proposed = []
    for longer, shorter in ((missing, unused), (unused, missing)):
        ending, ids = find_best_ending(longer, shorter)
        if ending:
            proposed.append(
                f"{count(len(ids), 'pair')} would match once `{ending}` is taken off: use {suffix_option('--mask-suffix', ending)}"
            )
            missing = missing - {*ids, *(identity.removesuffix(ending) for identity in ids)}
    kind = f"cases without a mask in {predicted.folder}"
    unpredicted = [Fault(f"{identity}: no mask in {predicted.folder}", kind=kind) for identity in sorted(missing)]
    if faults := [*predicted.faults, *true.faults, *proposed, *unpredicted]:
        raise DataError("Predicted and true masks cannot be paired:", faults)
    pairs = [_Pair(id=id, predicted=predicted.files[id], truth=true.files[id]) for id in sorted(true.files)]
    return pairs, sorted(unused)


def _read_header(pair: _Pair) -> images.Header:
    """Check that the sizes and grids of a pair agree, and return the header of the truth."""
    predicted, real = images.read_header(pair.predicted), images.read_header(pair.truth)
    if predicted.size != real.size:
        wrong = f"{pair.predicted}: {_extents(predicted)}, but its truth {pair.truth} has {_extents(real)}"
        repair = "resample them to its grid" if real.grid else "save each at the size of its truth, scaled without smoothing"
        raise DataError(Fault(wrong, kind="predicted masks of another size than their truth", repair=repair))
    if real.grid and predicted.grid and (off := predicted.grid.difference(real.grid)):
        wrong = f"{pair.predicted}: not on the grid of its truth {pair.truth}: {off}"
        raise DataError(Fault(wrong, kind="predicted masks that are not on the grid of their truth", repair="resample them to it"))
    return real


def _extents(header: images.Header) -> str:
    return " × ".join(map(str, reversed(header.size))) + (" voxels" if header.grid else " pixels")


def _usable(spacing: _Spacing | None) -> _Spacing | None:
    return spacing if spacing and all(0 < step < np.inf for step in spacing) else None


def _measure(
    item: tuple[_Pair, _Spacing | None], *, classes: int, ignore_label: int | None, tolerance: float
) -> tuple[dict[str, float], MaskMeaning, float]:
    """Return the metrics of a pair, what 255 means in its truth, and the share of its pixels that are ignored."""
    pair, spacing = item
    decoded = []
    faults: list[str] = []
    for path, may_ignore in ((pair.predicted, False), (pair.truth, True)):
        try:
            decoded.append(decode_labels(path, classes=classes, ignore_label=ignore_label, may_ignore=may_ignore))
        except DataError as error:
            faults.append(error.fault)
    if faults:
        raise DataError(f"{pair.id}: cannot be measured", faults)
    (predicted, _), (real, kind) = decoded
    measured = metrics.case_metrics(predicted=predicted, truth=real, classes=classes, spacing=spacing, tolerance=tolerance)
    return measured, kind, float((real == IGNORE).mean())


def _check_writable(out: Path) -> None:
    """Raise before the work, not after it, where `out` cannot be written."""
    if out.is_dir():
        raise DataError(f"{out}: a folder; name a file to write")
    if not out.parent.is_dir():
        raise DataError(f"{out}: cannot be written, there is no folder {out.parent}")
    if not os.access(out.parent, os.W_OK):
        raise DataError(f"{out}: cannot be written, {out.parent} is read-only")


def _write_csv(out: Path, cases: pd.DataFrame) -> None:
    try:
        with write_atomically(out) as unfinished:
            cases.to_csv(unfinished, index=False, encoding="utf-8", lineterminator="\n")
    except OSError as error:
        raise DataError(f"{out}: cannot be written: {error}") from None


def _notes(cases: pd.DataFrame, unused: list[str], spacings: Sequence[_Spacing | None], ignored: list[float]) -> Iterator[str]:
    """Yield what a reader of the numbers should know; `ignored` are the shares of ignored pixels."""
    if unused:
        yield f"Not measured, for lack of a true mask: {len(unused)} predicted ({some(unused)})."
    if 0 < (without := spacings.count(None)) < len(spacings):
        yield f"Distances are in pixels for all cases: {count(without, 'case')} of {len(spacings)} without a pixel size in mm."
    if some_ignored := sum(share > 0 for share in ignored):
        yield f"Ignored, so counted nowhere: {np.mean(ignored):.1%} of the true masks' pixels, in {count(some_ignored, 'case')}."
    for chosen, what in (
        (cases["dice"].isna(), "No foreground in either mask, so no Dice, Jaccard, sensitivity, distances"),
        (cases["dice"].notna() & cases["hausdorff95"].isna(), "Foreground in only one of the two masks, so Dice 0 and no distances"),
    ):
        if chosen.any():
            ids = cases.loc[chosen, "id"].tolist()
            yield f"{what}: {count(len(ids), 'case')} ({some(ids)})."
    if len(cases) < FEW_CASES:
        yield f"The intervals are too narrow with so few cases ({len(cases)}); trust them from about {FEW_CASES} on."


def _shown(value: float, digits: int) -> str:
    return "–" if np.isnan(value) else f"{value:.{digits}f}"
