"""What an update of every method costs, measured by a few updates of each, by turns; and the epochs that all can have in the same time.

    OUT/costs/  spec.json  cases.csv  cell.json (what was measured)  log.txt: a job like that of a cell, in the same kind of process

Measured are whole updates of `train`, batches and optimiser included, in seconds of the processor; with an accelerator by the clock,
once it has done what it was given. Set-up, decoding, validation, weight maps and checkpoints are not in it.
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

from pixeltrust.benchmarking.grid import masks_of
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
"""Trainings that a method is made of, each with how many of its updates there are in one update of the method."""


def phases_of(method: str, config: Config) -> Phases:
    """The trainings that a method of a benchmark is made of.

    `finetuned` is a mix of two; `pruned` trains two networks beforehand, which together make as many updates as it does itself.
    """
    if config.method == "finetuned":
        share = config.finetune_share
        return [(1 - share, replace(config, method="plain")), (share, replace(config, method="clean"))]
    return [(2.0 if masks_of(method) == "pruned" else 1.0, config)]


def measure(folder: Path, trainings: Mapping[str, Config]) -> dict[str, Any]:
    """What an update of some trainings costs, one after the other in each round.

    Args:
        folder: of the job, with its cases.csv.
        trainings: their settings, each by what it is called in a complaint.

    Returns:
        unit: "processor" or "clock".  seconds: for every round those of an update of every training, in their order.

    Raises:
        RunError: one of them cannot be trained.
    """
    seconds: list[list[float]] = []
    for _ in range(ROUNDS):
        seconds.append([])
        for name, config in trainings.items():
            try:
                seconds[-1].append(seconds_per_update(folder, config))
            except PixeltrustError as error:
                raise RunError(f"what an update of {name} costs cannot be measured: {error}") from error
    return {"unit": "clock" if any(map(_is_accelerated, trainings.values())) else "processor", "seconds": seconds}


def seconds_per_update(folder: Path, config: Config) -> float:
    """The mean over `TIMED` updates of a training on the cases of a folder, after `WARM` ones; the training is thrown away."""
    at: list[float] = []

    def watch(feed: Feed, outcome: StepOutcome) -> Mapping[str, Tensor]:  # noqa: ARG001
        if feed.update in (WARM, WARM + TIMED):
            at.append(_now(config))
        if len(at) == 2:
            raise _EnoughError
        return {}

    config = replace(config, epochs=1, val_fraction=0.0, checkpoint_minutes=float("inf"))
    table, run = folder / "some-cases.csv", folder / "run"
    shutil.rmtree(run, ignore_errors=True)  # what a kill left
    write_csv(one_long_epoch(read_table(folder / "cases.csv"), (WARM + TIMED + 2) * config.batch_size), table)
    try:
        train(table, out=run, config=config, watch=watch, show_progress=False)
    except _EnoughError:
        return (at[1] - at[0]) / TIMED
    finally:
        shutil.rmtree(run, ignore_errors=True)
    raise AssertionError("an epoch ended before the measurement did")


def one_long_epoch(table: pd.DataFrame, noisy: int) -> pd.DataFrame:
    """The clean cases and so many noisy ones, again and again where there are fewer, under ids of their own: no epoch ends meanwhile."""
    found = table[table["role"] == "noisy"]
    chosen = pd.concat([found] * -(-noisy // len(found))).head(noisy)
    rows = pd.concat([chosen, table[table["role"] == "clean"]])
    return rows.assign(id=[f"{number}" for number in range(len(rows))])


class _EnoughError(Exception):
    """All updates that were wanted are made."""


def _now(config: Config) -> float:
    if not _is_accelerated(config):
        return time.process_time()
    torch.accelerator.synchronize()
    return time.perf_counter()


def _is_accelerated(config: Config) -> bool:
    return config.device != "cpu" and torch.accelerator.is_available()
