"""The cost of an update of every method, measured by a few updates of each, in turn; and that of a mending, measured by a whole one.

    OUT/costs/  spec.json  cases.csv  cell.json (the measurement)  log.txt: a job like that of a cell, in the same kind of process

Whole updates of `train` are measured, with batches and optimiser, in seconds of the processor; with an accelerator in wall-clock seconds,
after it has finished its work. Set-up, decoding, validation, weight maps and checkpoints do not count. All that a mending does counts: it
trains menders, lets them look at every mask, and writes pictures.
"""

import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from pixeltrust.benchmarking.cell_masks import without_pairs
from pixeltrust.benchmarking.grid import mask_kind
from pixeltrust.benchmarking.mended import mend_masks
from pixeltrust.config import Config
from pixeltrust.data.prefetch import Feed
from pixeltrust.plumbing.errors import PixeltrustError, RunError
from pixeltrust.plumbing.tables import read_table, write_csv
from pixeltrust.training.methods import StepOutcome
from pixeltrust.training.train import train

ROUNDS = 5
WARM = 3  # updates before those that are timed
TIMED = 10

Phases = list[tuple[float, Config]]
"""The trainings that a method is made of, each with the number of its updates in one update of the method."""


def phases_of(method: str, config: Config) -> Phases:
    """Return the trainings that a method of a benchmark is made of.

    `finetuned` is a mix of two; `pruned` trains two networks beforehand, which together make as many updates as it does itself.
    """
    if config.method == "finetuned":
        share = config.finetune_share
        return [(1 - share, replace(config, method="plain")), (share, replace(config, method="clean"))]
    return [(2.0 if mask_kind(method) == "pruned" else 1.0, config)]


def measure(folder: Path, trainings: Mapping[str, Config], mender: Config | None = None, rounds: int = ROUNDS) -> dict[str, Any]:
    """Measure the cost of an update of some trainings, one after the other in each round, and that of a mending.

    Args:
        folder: of the job, with its cases.csv.
        trainings: their settings, each by its name in an error.
        mender: the settings of menders; no mending is measured where not given.
        rounds: how often.

    Returns:
        unit: "processor" or "clock".  seconds: for every round the seconds of an update of every training, in their order.  mending: the
        seconds of a mending of all masks; 0 where none was measured.

    Raises:
        RunError: one of them cannot be trained, or the masks not be mended.
    """
    seconds: list[list[float]] = []
    for _ in range(rounds):
        seconds.append([])
        for name, config in trainings.items():
            try:
                seconds[-1].append(time_updates(folder, config))
            except PixeltrustError as error:
                raise RunError(f"the cost of an update of {name} cannot be measured: {error}") from error
    unit = "clock" if any(map(_is_accelerated, trainings.values())) else "processor"
    return {"unit": unit, "seconds": seconds, "mending": time_mending(folder, mender) if mender else 0.0}


def time_mending(folder: Path, mender: Config) -> float:
    """Return the seconds of a mending of the masks of a folder; what it makes is deleted.

    Raises:
        RunError: the masks cannot be mended.
    """
    shutil.rmtree(folder / "mended", ignore_errors=True)  # left by a kill
    started = _now(mender)
    try:
        mend_masks(folder, mender)
    except PixeltrustError as error:
        raise RunError(f"the cost of mending cannot be measured: {error}") from error
    finally:
        shutil.rmtree(folder / "mended", ignore_errors=True)
    return _now(mender) - started


def time_updates(folder: Path, config: Config) -> float:
    """Return the mean over `TIMED` updates of a training on the cases of a folder, after `WARM` ones; the training is deleted."""
    at: list[float] = []

    def watch(feed: Feed, outcome: StepOutcome) -> Mapping[str, Tensor]:  # noqa: ARG001
        if feed.update in (WARM, WARM + TIMED):
            at.append(_now(config))
        if len(at) == 2:
            raise _EnoughError
        return {}

    config = replace(config, epochs=1, val_fraction=0.0, checkpoint_minutes=float("inf"))
    table, run = folder / "some-cases.csv", folder / "run"
    shutil.rmtree(run, ignore_errors=True)  # left by a kill
    write_csv(one_long_epoch(without_pairs(read_table(folder / "cases.csv")), (WARM + TIMED + 2) * config.batch_size), table)
    try:
        train(table, out=run, config=config, watch=watch, show_progress=False)
    except _EnoughError:
        return (at[1] - at[0]) / TIMED
    finally:
        shutil.rmtree(run, ignore_errors=True)
    raise AssertionError("an epoch ended before the measurement did")


def one_long_epoch(table: pd.DataFrame, noisy: int) -> pd.DataFrame:
    """Return the clean cases and so many noisy ones, repeated where there are fewer, with new ids: so no epoch ends while it measures."""
    cases = table[table["role"] == "noisy"]
    repeated = pd.concat([cases] * -(-noisy // len(cases))).head(noisy)
    rows = pd.concat([repeated, table[table["role"] == "clean"]])
    return rows.assign(id=[f"{number}" for number in range(len(rows))])


class _EnoughError(Exception):
    """Ends a training after the updates that are measured."""


def _now(config: Config) -> float:
    if not _is_accelerated(config):
        return time.process_time()
    torch.accelerator.synchronize()
    return time.perf_counter()


def _is_accelerated(config: Config) -> bool:
    return config.device != "cpu" and torch.accelerator.is_available()
