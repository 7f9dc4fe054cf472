"""The page of a run: how good it is on the test cases of its data, beside a second run or an estimate by folds, and how it was trained."""

import json
from pathlib import Path

from pixeltrust.pages.pieces import Number
from pixeltrust.plumbing.errors import PixeltrustError, RunError
from pixeltrust.prediction.tested import measure_on_tests, show_tests
from pixeltrust.training.page import run_page
from pixeltrust.training.run_folder import Run


def report_run(folder: Path, beside: Path | None = None, *, show_progress: bool = True) -> str:
    """Return the page of a run as HTML text; test cases are predicted and measured where that has not been done.

    Args:
        beside: a second run, or the folder of a question.

    Raises:
        RunError: no epoch has ended yet, the records of a run cannot be read, or `beside` is neither.
        DataError: test images or masks of one of two runs cannot be read.
    """
    run = Run(folder)
    folds = _by_folds(run, beside) if beside is not None and (beside / "answer.json").is_file() else None
    second = Run(beside) if beside is not None and folds is None else None
    try:
        scores = measure_on_tests(run, show_progress=show_progress)
        others = measure_on_tests(second, show_progress=show_progress) if second else None
    except PixeltrustError as error:  # the page of a run whose data are gone has all that is left
        if second:
            raise
        return run_page(run, folds=folds, notes=[f"The test cases could not be measured: {error.fault}."])
    if second and (scores is None or others is None):
        raise RunError(f"{folder} and {second.folder} cannot be compared: both need test cases, and a finished training")
    return run_page(run, show_tests(run, scores, second, others) if scores is not None else None, folds)


def _by_folds(run: Run, answer: Path) -> Number:
    """Return the Dice that a question has found for the method of a run."""
    method = run.config().method
    try:
        record = json.loads((answer / "answer.json").read_text(encoding="utf-8"))
        (dice,) = (row["dice"] for row in record["rows"] if row["method"] == method)
        told = f"mean of {record['cases']:,} clean cases, each by a short training that had not seen it"
        return Number(what=f"Dice by folds, {method}", value=f"{dice:.3f}", interval=told)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{answer}: has no answer about {method!r}: {error}") from None
