"""One cell: train, predict, evaluate, in a process of its own.

    OUT/cells/<cell>/  spec.json  cases.csv  truth.csv (where it is known)  run/  predicted/  test.csv  cell.json  log.txt  failed.json
                         of some methods: halves/ (see `pruning`), mended (see `mended`)

`python -m pixeltrust.benchmarking FOLDER` does what spec.json says and writes cell.json last of all: a cell that has it is finished.
The costs of updates are measured by such a process too (see `costs`). A cell that was stopped continues its training where it was.
"""

import json
import shutil
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import FileLock
from torch import Tensor

from pixeltrust.benchmarking import costs
from pixeltrust.benchmarking.grid import Cell, mask_kind
from pixeltrust.benchmarking.mended import cost_of_mending, judge_masks, mend_once
from pixeltrust.benchmarking.outcome.reading import is_finished, read_json_record
from pixeltrust.benchmarking.pruning import prune, seconds_of_halves
from pixeltrust.config import Config, config_from, to_values
from pixeltrust.data.batches import CaseCache
from pixeltrust.data.cases import read_cases
from pixeltrust.data.fitting import settle
from pixeltrust.data.prefetch import Feed
from pixeltrust.method.batch import to_device
from pixeltrust.method_table import METHODS
from pixeltrust.metrics import mean_of_defined
from pixeltrust.plumbing.children import end_with_parent
from pixeltrust.plumbing.errors import PixeltrustError
from pixeltrust.plumbing.files import make_folder, write_file
from pixeltrust.plumbing.labels import IGNORE
from pixeltrust.plumbing.tables import read_table, write_csv
from pixeltrust.plumbing.text import one_line
from pixeltrust.prediction.measure import measure_cases
from pixeltrust.training.methods import StepOutcome
from pixeltrust.training.run_folder import CACHE, Run
from pixeltrust.training.train import Watch, train

GRACE = 60.0  # seconds that a stopped cell has for its last update and checkpoint


def write_spec(folder: Path, cell: Cell, config: Config, mender: Config, table: pd.DataFrame, truth: pd.DataFrame | None) -> None:
    """Write all that a cell needs, for a process that knows only its folder."""
    make_folder(folder)
    for name, rows in (("cases.csv", table), ("truth.csv", truth)):
        if rows is not None:
            write_csv(rows, folder / name)
    write_json(folder / "spec.json", {"cell": asdict(cell), "config": to_values(config), "mender": to_values(mender)})


def write_costs_spec(folder: Path, trainings: Mapping[str, Config], mender: Config | None, table: pd.DataFrame, rounds: int) -> None:
    """Write all that a measurement of costs needs (see `costs`)."""
    make_folder(folder)
    write_csv(table, folder / "cases.csv")
    values = {name: to_values(config) for name, config in trainings.items()}
    write_json(folder / "spec.json", {"trainings": values, "mender": mender and to_values(mender), "rounds": rounds})


def run_cell(folder: Path) -> None:
    """Do the rest of the work of a cell.

    Raises:
        PixeltrustError: its training, prediction or measurement cannot be done.
    """
    with FileLock(folder / ".lock"):  # a process of a stopped benchmark may still make its last update
        if not is_finished(folder):
            (folder / "failed.json").unlink(missing_ok=True)
            _train_and_measure(folder)


def _train_and_measure(folder: Path) -> None:
    spec = read_json_record(folder / "spec.json")
    if "trainings" in spec:
        trainings = {name: config_from(values) for name, values in spec["trainings"].items()}
        mender = config_from(spec["mender"]) if spec["mender"] else None
        write_json(folder / "cell.json", costs.measure(folder, trainings, mender, spec["rounds"]))
        return
    cell, config = Cell(**spec["cell"]), config_from(spec["config"])
    run, is_fresh = folder / "run", not any((folder / name).exists() for name in ("run", "halves"))
    data, settings, kind = folder / "cases.csv", config, mask_kind(cell.method)
    if kind == "mended":
        data = mend_once(folder, cell, config_from(spec["mender"]))
    began = time.process_time()
    if kind == "pruned":
        data, settings = prune(folder, config)
    watch = _watch_weights(folder, config) if METHODS[config.method].takes_gains and (folder / "truth.csv").is_file() else None
    trained = train(data, out=run, config=settings, watch=watch, resume=True, show_progress=False)
    mending, mending_cpu = cost_of_mending(folder)
    cpu = time.process_time() - began + mending_cpu
    shutil.rmtree(folder / CACHE, ignore_errors=True)
    tests = read_table(folder / "cases.csv").query("role == 'test'").to_dict("records")
    cases = measure_cases(Run(run), tests, folder, out=folder / "test.csv", show_progress=False)
    record = {
        **asdict(cell),
        **{name: mean_of_defined(cases[name].to_numpy()) for name in ("dice", "jaccard")},
        "val_dice": trained.val_dice,
        "updates": trained.updates,
        "seconds": sum(trained.seconds.values()) + seconds_of_halves(folder) + mending,
        "cpu_seconds": cpu if is_fresh else None,  # of a training that was not stopped
        **(judge_masks(folder, config) if kind == "mended" else {}),
        "notes": list(trained.notes),
    }
    write_json(folder / "cell.json", record)
    (run / "checkpoint.pt").unlink(missing_ok=True)  # three times the size of the network, and nothing is left to continue


# --- what the weights do, where the truth is known ----------------------------------------------------------------


def _watch_weights(folder: Path, config: Config) -> Watch:
    """Return a watch that reports how every step weighs the pixels whose mask is wrong."""
    trained, true = (read_cases(folder / name, may_be_volumes=True, show_progress=False) for name in ("cases.csv", "truth.csv"))
    truth = CaseCache(true.of("noisy"), settle(config, trained), folder / CACHE)

    def watch(feed: Feed, outcome: StepOutcome) -> Mapping[str, Tensor]:
        assert outcome.weights is not None
        assert feed.where is not None
        weights = outcome.weights
        return measure_wrong_pixels(weights, feed.noisy().masks, to_device(truth.labels_at(feed.where()), weights.device))

    return watch


def measure_wrong_pixels(weights: Tensor, masks: Tensor, truth: Tensor) -> Mapping[str, Tensor]:
    """Measure how the pixels whose mask is wrong are weighed; all (B, *S), without ignored pixels.

    Returns:
        wrong_pixels: their share of all pixels.  wrong_weight: their share of the weight; NaN where all weights are 0.
        wrong_weighed, right_weighed: the share of wrong and of right pixels that have a weight above 0.
    """
    counted = (masks != IGNORE) & (truth != IGNORE)
    wrong, right = counted & (masks != truth), counted & (masks == truth)
    weighed = weights > 0
    return {
        "wrong_pixels": wrong.sum() / counted.sum(),
        "wrong_weight": torch.where(wrong, weights, 0.0).sum() / torch.where(counted, weights, 0.0).sum(),
        "wrong_weighed": (weighed & wrong).sum() / wrong.sum(),
        "right_weighed": (weighed & right).sum() / right.sum(),
    }


# --- the process --------------------------------------------------------------------------------------------------


def try_cell(folder: Path) -> str | None:
    """Run a cell; return why it failed, which failed.json keeps, or None.

    Raises:
        KeyboardInterrupt: Ctrl-C; its checkpoint is written.
    """
    try:
        run_cell(folder)
    except Exception as error:  # whatever it is, the other cells continue
        traceback.print_exc()
        text = str(error) if isinstance(error, PixeltrustError) else f"{type(error).__name__}: {one_line(error)}"
        note_failure(folder, text)
        return text
    return None


def note_failure(folder: Path, error: str) -> None:
    """Write why a cell failed into failed.json."""
    with suppress(OSError):  # such as a full disk, which may be in the log
        write_json(folder / "failed.json", {"error": error})


def main(folder: Path) -> int:
    """Run the cell of a folder as a process; return 0: done, 1: failed, 130: stopped, by Ctrl-C or because standard input closed."""
    end_with_parent(grace=GRACE)
    try:
        return 1 if try_cell(folder) else 0
    except KeyboardInterrupt:
        return 130


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write plain values as JSON, whole or not at all."""
    write_file(path, json.dumps(values, indent=2) + "\n")
