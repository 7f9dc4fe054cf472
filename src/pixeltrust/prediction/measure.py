"""Measure a run on cases of its own table: predict them, and compare with their masks."""

import shutil
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from pixeltrust.config import Config
from pixeltrust.data.fitting import channels_of
from pixeltrust.data.images import link_channels, link_image
from pixeltrust.data.listings import channel_files
from pixeltrust.plumbing.files import make_folder
from pixeltrust.prediction.evaluate import evaluate
from pixeltrust.prediction.predict import predict
from pixeltrust.training.run_folder import Run


def measure_cases(run: Run, rows: Iterable[dict[Hashable, Any]], folder: Path, *, out: Path, show_progress: bool) -> pd.DataFrame:
    """Predict cases at their own size by the last weights, into `folder`/predicted, and return their measures, which `out` gets.

    Args:
        rows: of a run's table of cases.

    Raises:
        PixeltrustError: a file cannot be read or written.
    """
    config = run.config()
    images, masks, predicted = (folder / name for name in ("images", "masks", "predicted"))
    for stale in (images, masks, predicted):
        shutil.rmtree(stale, ignore_errors=True)
    for gathered in (images, masks):
        make_folder(gathered)
    for row in rows:
        _link_case(row, images, masks, config)
    predict(run.folder, images, out=predicted, show_progress=show_progress)
    evaluation = evaluate(predicted, masks, classes=config.classes, ignore_label=config.ignore_label, out=out, show_progress=show_progress)
    for gathered in (images, masks):
        shutil.rmtree(gathered)
    return evaluation.cases


def _link_case(row: dict[Hashable, Any], images: Path, masks: Path, config: Config) -> None:
    """Link the files of a case into two folders, by its id."""
    link_channels(channel_files(Path(row["image"]), channels_of(config)), images, row["id"])
    link_image(Path(row["mask"]), masks, row["id"])
