"""A folder of predicted masks measured against a folder of true ones, paired by id."""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from pixeltrust import images, metrics
from pixeltrust.errors import DataError

WORKERS = min(8, os.cpu_count() or 1)
FEW_CASES = 20  # below this many the intervals are markedly too narrow
_NAMED = 5  # of a list in a note, this many by name

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What `evaluate` found."""

    cases: pd.DataFrame
    """One row per case, sorted by id; columns id, then metrics.METRICS. NaN where a metric is not defined."""

    summary: pd.DataFrame
    """One row per metric; columns metric, mean, low, high (95 % interval of the mean), median, cases, undefined.

    `cases` counts those that the mean is over, `undefined` those left out of it."""

    unit: str
    """Of the two distances: "mm" or "px"."""

    notes: list[str]
    """What a reader of the numbers should know, one sentence each; may be empty."""

    def table(self) -> Table:
        """The summary, to be printed by rich."""
        table = Table(title=f"{_cases(len(self.cases))}, distances in {self.unit}", title_justify="left")
        table.add_column("metric")
        for heading in ("mean", "95 % interval", "median", "cases", "undefined"):
            table.add_column(heading, justify="right")
        for row in self.summary.to_dict("records"):
            shown = partial(_shown, digits=2 if row["metric"] in ("hausdorff95", "surface_distance") else 4)
            interval = f"{shown(row['low'])} … {shown(row['high'])}" if row["cases"] > 1 else "–"
            counts = str(row["cases"]), str(row["undefined"])
            table.add_row(row["metric"], shown(row["mean"]), interval, shown(row["median"]), *counts)
        return table


@dataclass(frozen=True, kw_only=True)
class _Pair:
    id: str
    predicted: Path
    truth: Path


@dataclass(frozen=True, kw_only=True)
class _Measured:
    numbers: dict[str, float]
    truth_values: frozenset[int]


def evaluate(predicted: Path, truth: Path, *, classes: int = 1, out: Path | None = None, show_progress: bool = True) -> Evaluation:
    """Measure the predicted masks of all cases that have a true one.

    Distances are in mm where every truth file says how large its pixels are (NIfTI), else in pixels for all cases:
    a mean over two units means nothing.

    Args:
        predicted: folder of mask files, <id>.png or another known ending; subfolders are not looked into.
        truth: folder of mask files. Every one needs a predicted mask of its id and size.
        classes: 1: a file holds 0 and at most one other value, the foreground; a truth file with exactly 0, 1 and 255
            has 255 ignored. K ≥ 2: a file holds 0 … K−1, and 255 in the truth is ignored.
        out: CSV file to write, one row per case, columns id, then metrics.METRICS; an undefined number is empty.
            It is replaced whole or not at all.
        show_progress: a progress bar on standard error.

    Raises:
        DataError: a folder is missing or without masks; masks are missing, doubled, of unequal size, unreadable, or
            hold values that no class has; `out` cannot be written. Names every file that is at fault.
        ValueError: `classes` is not 1 … 255.
    """
    if not 1 <= classes <= metrics.IGNORED:
        raise ValueError(f"classes is {classes}; it must be 1 (binary) or 2 … {metrics.IGNORED}")
    if out is not None:
        _check_writable(out)
    pairs, unused = _paired(_masks_by_id(predicted), _masks_by_id(truth, is_truth=True), predicted=predicted)
    spacings = _read_headers(pairs, show_progress=show_progress)
    unit = "mm" if None not in spacings else "px"
    measured = _measure_all(pairs, spacings if unit == "mm" else [None] * len(pairs), classes, show_progress)
    _check_one_meaning_of_255(pairs, measured, classes=classes)
    cases = pd.DataFrame([{"id": pair.id, **one.numbers} for pair, one in zip(pairs, measured, strict=True)])
    if out is not None:
        _write_csv(out, cases)
    notes = [*_unused_notes(unused), *_unit_notes(spacings), *_case_notes(cases)]
    return Evaluation(cases=cases, summary=summarize(cases), unit=unit, notes=notes)


def summarize(cases: pd.DataFrame) -> pd.DataFrame:
    """One row per metric over the cases where it is defined; see `Evaluation.summary`."""
    columns = cases[list(metrics.METRICS)].astype(np.float64)
    intervals = [metrics.bootstrap_interval(columns[name].to_numpy()) for name in columns]
    return pd.DataFrame(
        {
            "metric": metrics.METRICS,
            "mean": columns.mean().to_numpy(),
            "low": [low for low, _ in intervals],
            "high": [high for _, high in intervals],
            "median": columns.median().to_numpy(),
            "cases": columns.count().to_numpy(),
            "undefined": columns.isna().sum().to_numpy(),
        }
    )


def to_labels(values: np.ndarray, *, classes: int, may_ignore: bool) -> np.ndarray:
    """A mask file's values as labels uint8 (H, W): classes 0 … K−1 and, where allowed, 255 ignored.

    Args:
        values: uint8 (H, W), as the file has them.
        classes: 1 (binary) or K ≥ 2; see `evaluate`.
        may_ignore: whether 255 can mean "ignored"; a prediction ignores nothing.

    Raises:
        ValueError: there are values that no class has.
    """
    present = _present(values)
    if classes == 1:
        return _binary_labels(values, present, may_ignore=may_ignore)
    allowed = {*range(classes), *([metrics.IGNORED] if may_ignore else [])}
    strange = sorted(present - allowed)
    if strange:
        ignored = ", and 255 where ignored" if may_ignore else ""
        raise ValueError(f"holds {_listed(strange)}; with {classes} classes a mask holds 0 … {classes - 1}{ignored}")
    return values


def _binary_labels(values: np.ndarray, present: frozenset[int], *, may_ignore: bool) -> np.ndarray:
    if may_ignore and present == {0, 1, metrics.IGNORED}:
        return values
    if len(present - {0}) > 1:
        held = f"holds the {len(present)} values {_listed(sorted(present))}"
        also = " (or 0, 1 and 255 = ignored)" if may_ignore else ""
        raise ValueError(f"{held}; a mask of one class holds 0 and one other value{also}")
    return (values != 0).astype(np.uint8)


def _present(values: np.ndarray) -> frozenset[int]:
    return frozenset(np.flatnonzero(np.bincount(values.ravel(), minlength=256)).tolist())


def _masks_by_id(folder: Path, *, is_truth: bool = False) -> dict[str, list[Path]]:
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder" if not folder.exists() else f"{folder}: not a folder")
    by_id = defaultdict(list)
    for path in sorted(folder.iterdir()):
        if images.image_suffix(path) and not path.name.startswith(".") and path.is_file():
            by_id[_id(path)].append(path)
    if not by_id:
        meant = is_truth and (folder / "test").is_dir()
        hint = f"; probably {folder / 'test'} was meant" if meant else f" ({', '.join(images.SUFFIXES)})"
        raise DataError(f"{folder}: no mask files in this folder{hint}")
    return dict(by_id)


def _id(path: Path) -> str:
    """The case's id as text that can be compared and written."""
    # a name that is no valid UTF-8 reaches Python with lone surrogates, which no table takes
    name = os.fsencode(images.case_id(path)).decode("utf-8", errors="backslashreplace")
    # macOS may store é as e and an accent: the same id in another spelling
    return unicodedata.normalize("NFC", name)


def _paired(found: dict[str, list[Path]], true: dict[str, list[Path]], *, predicted: Path) -> tuple[list[_Pair], list[str]]:
    """The pairs sorted by id, and the ids of predictions that no truth asks for."""
    doubled = [paths for by_id in (found, true) for paths in by_id.values() if len(paths) > 1]
    faults = [f"{paths[0].parent}: {' and '.join(path.name for path in paths)} have one id" for paths in doubled]
    faults += [f"{id}: no mask in {predicted}" for id in sorted(true.keys() - found.keys())]
    if faults:
        raise DataError("Predicted and true masks cannot be paired:", faults)
    pairs = [_Pair(id=id, predicted=found[id][0], truth=true[id][0]) for id in sorted(true)]
    return pairs, sorted(found.keys() - true.keys())


def _read_headers(pairs: list[_Pair], *, show_progress: bool) -> list[tuple[float, float] | None]:
    """The spacing of every truth file, once all sizes are known to agree."""
    complaint = "These masks cannot be compared:"
    return _in_parallel(_read_header, pairs, doing="reading headers", complaint=complaint, show_progress=show_progress)


def _read_header(pair: _Pair) -> tuple[float, float] | None:
    found, real = images.read_size(pair.predicted), images.read_size(pair.truth)
    if found != real:
        raise DataError(f"{pair.predicted}: {_size(found)} pixels, but its truth {pair.truth} has {_size(real)}")
    spacing = images.read_spacing_mm(pair.truth)
    return spacing if spacing and all(0 < step < np.inf for step in spacing) else None


def _measure_all(pairs: list[_Pair], spacings: Sequence[tuple[float, float] | None], classes: int, show_progress: bool) -> list[_Measured]:
    work, items = partial(_measure, classes=classes), list(zip(pairs, spacings, strict=True))
    complaint = "These masks cannot be measured:"
    return _in_parallel(work, items, doing="measuring", complaint=complaint, show_progress=show_progress)


def _measure(item: tuple[_Pair, tuple[float, float] | None], *, classes: int) -> _Measured:
    pair, spacing = item
    found, real = images.read_labels(pair.predicted), images.read_labels(pair.truth)
    faults, labels = [], []
    for path, values, may_ignore in ((pair.predicted, found, False), (pair.truth, real, True)):
        try:
            labels.append(to_labels(values, classes=classes, may_ignore=may_ignore))
        except ValueError as error:
            faults.append(f"{path}: {error}")
    if faults:
        raise DataError("\n  ".join(faults))
    numbers = metrics.case_metrics(predicted=labels[0], truth=labels[1], classes=classes, spacing=spacing)
    return _Measured(numbers=numbers, truth_values=_present(real))


def _check_one_meaning_of_255(pairs: list[_Pair], measured: list[_Measured], *, classes: int) -> None:
    if classes > 1:
        return
    marked = [(pair.truth, one.truth_values) for pair, one in zip(pairs, measured, strict=True)]
    ignoring = [path for path, values in marked if {1, 255} <= values]
    filled = [path for path, values in marked if 255 in values and 1 not in values]
    if ignoring and filled:
        raise DataError(
            "255 cannot mean both: it is ignored in files of 0, 1 and 255, and the foreground in files of 0 and 255. "
            f"{_cases(len(ignoring))} ignore it; make these use 1 for the foreground:",
            [str(path) for path in filled],
        )


def _in_parallel(work: Callable[[Item], Result], items: Sequence[Item], *, doing: str, complaint: str, show_progress: bool) -> list[Result]:
    """`work` done on all items, in their order; a DataError with all faults together where any item raised one."""

    def attempt(item: Item) -> Result | DataError:
        try:
            return work(item)
        except DataError as error:
            return error

    with ThreadPoolExecutor(WORKERS) as pool, _progress(show_progress) as progress:
        outcomes = list(progress.track(pool.map(attempt, items), total=len(items), description=doing))
    faults = [str(outcome) for outcome in outcomes if isinstance(outcome, DataError)]
    if faults:
        raise DataError(complaint, faults)
    return [outcome for outcome in outcomes if not isinstance(outcome, DataError)]


class _SpeedColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "")


def _progress(shown: bool) -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _SpeedColumn(), TimeRemainingColumn()
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=not shown)


def _check_writable(out: Path) -> None:
    """Before the work, not after it."""
    if out.is_dir():
        raise DataError(f"{out}: a folder; name a file to write")
    if not out.parent.is_dir():
        raise DataError(f"{out}: cannot be written, there is no folder {out.parent}")
    if not os.access(out.parent, os.W_OK):
        raise DataError(f"{out}: cannot be written, {out.parent} is read-only")


def _write_csv(out: Path, cases: pd.DataFrame) -> None:
    try:
        with images.replacing(out) as unfinished:
            cases.to_csv(unfinished, index=False, encoding="utf-8", lineterminator="\n")
    except OSError as error:
        raise DataError(f"{out}: cannot be written: {error}") from None


def _unused_notes(unused: list[str]) -> Iterable[str]:
    if unused:
        yield f"Not measured, for lack of a true mask: {len(unused)} predicted ({_listed(unused)})."


def _unit_notes(spacings: list[tuple[float, float] | None]) -> Iterable[str]:
    without = spacings.count(None)
    if 0 < without < len(spacings):
        unknown = f"{_cases(without)} of {len(spacings)} without a pixel size in mm"
        yield f"Distances are in pixels for all cases: {unknown}."


def _case_notes(cases: pd.DataFrame) -> Iterable[str]:
    empty, missed = cases["dice"].isna(), cases["dice"].notna() & cases["hausdorff95"].isna()
    if empty.any():
        yield f"No foreground in either mask, so no Dice, Jaccard, sensitivity, distances: {_named(cases, empty)}."
    if missed.any():
        yield f"Foreground in only one of the two masks, so Dice 0 and no distances: {_named(cases, missed)}."
    if len(cases) < FEW_CASES:
        yield f"The intervals are too narrow with so few cases ({len(cases)}); trust them from about {FEW_CASES} on."


def _named(cases: pd.DataFrame, chosen: pd.Series) -> str:
    ids = cases.loc[chosen, "id"].tolist()
    return f"{_cases(len(ids))} ({_listed(ids)})"


def _listed(things: Sequence[object]) -> str:
    shown = ", ".join(str(thing) for thing in things[:_NAMED])
    return shown if len(things) <= _NAMED else f"{shown}, …"


def _cases(number: int) -> str:
    return "1 case" if number == 1 else f"{number:,} cases"


def _size(size: tuple[int, int]) -> str:
    return f"{size[1]} × {size[0]}"


def _shown(value: float, digits: int) -> str:
    return "–" if np.isnan(value) else f"{value:.{digits}f}"
