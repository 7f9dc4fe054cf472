"""The same time for every method: as many epochs as the time of the most expensive one allows (`match = "time"`).

    OUT/costs.json  unit (of the seconds: of the processor, or by the clock), base, dearest, epochs (of the dearest: the grid's), methods:
                    of each seconds (of an update; the median over rounds), ratio (to the base's, likewise), beforehand (seconds of a
                    mending), updates_per_epoch, epochs and updates (of the measured number of noisy cases)

Methods in costs.json are not measured again, so a benchmark that continues keeps its numbers of updates. A method that is added to the
grid later is measured beside the base, and gets the time that the first methods had, even if it is dearer than all of them.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from pixeltrust.benchmarking.cell_masks import without_pairs
from pixeltrust.benchmarking.cells import write_costs_spec, write_json
from pixeltrust.benchmarking.costs import ROUNDS, Phases, phases_of
from pixeltrust.benchmarking.grid import Cell, mask_kind
from pixeltrust.benchmarking.jobs import Launcher, Workload, run_all
from pixeltrust.benchmarking.outcome.reading import read_json_record
from pixeltrust.benchmarking.outcome.statistics import BASE
from pixeltrust.config import Config
from pixeltrust.plumbing.errors import RunError
from pixeltrust.plumbing.progress import progress_bar
from pixeltrust.plumbing.text import count

Record = dict[str, Any]
"""The content of costs.json."""


def match_time(work: Workload) -> Callable[[Cell], Config]:
    """Return the settings of every cell, with as many epochs as its method can make in the time that all have.

    The costs of updates are measured on the cases of the first cell, by the first rank.

    Raises:
        RunError: they cannot be measured, or costs.json cannot be read.
    """
    methods = work.ranks.on_rank_0(lambda: _know_costs(work))["methods"]
    return lambda cell: replace(work.grid.config(cell), epochs=methods[cell.method]["epochs"])


def _know_costs(work: Workload) -> Record:
    """Return costs.json, after the methods that it lacks were measured."""
    record = _read(work.out / "costs.json")
    methods = list(dict.fromkeys(cell.method for cell in work.cells))
    missing = [method for method in methods if method not in record["methods"]]
    if missing:
        with progress_bar(work.show_progress) as bar:
            bar.add_task("measuring what an update costs", total=None, note=", ".join(missing))
            record = _measure_methods(work, record, missing, base=record["base"] or (BASE if BASE in methods else methods[0]))
            if work.show_progress:
                epochs = ", ".join(f"{method} {count(record['methods'][method]['epochs'], 'epoch')}" for method in methods)
                bar.console.print(f"in the same time: {epochs}", markup=False, highlight=False)
        write_json(work.out / "costs.json", record)
    return record


def _measure_methods(work: Workload, record: Record, missing: Sequence[str], *, base: str) -> Record:
    """Return the record with the missing methods, measured beside the base."""
    first = replace(work.cells[0], method=BASE)
    work.masks.prepare(first)
    table = work.masks.table(first)
    configs = {method: work.grid.config(replace(first, method=method)) for method in dict.fromkeys([base, *missing])}
    phases = {method: phases_of(method, config) for method, config in configs.items()}
    mending = [method for method in missing if mask_kind(method) == "mended"]
    mender = work.grid.mender_config(configs[mending[0]]) if mending else None
    measured = measure_trainings(trainings_of(phases), mender, table, work.out / "costs", work.launcher)
    noisy = int((without_pairs(table)["role"] == "noisy").sum())
    beforehand = {method: float(measured["mending"]) for method in mending}
    return add_methods({**record, "base": base, "unit": measured["unit"]}, configs, costs_of(phases, measured), noisy, beforehand)


def trainings_of(phases: Mapping[str, Phases]) -> dict[str, Config]:
    """Return every training that methods are made of, once, by a name that says whose it is."""
    trainings: dict[str, Config] = {}
    for method, parts in phases.items():
        for _, config in parts:
            if config not in trainings.values():
                trainings[method if method not in trainings else f"{method} ({config.method})"] = config
    return trainings


def costs_of(phases: Mapping[str, Phases], measured: Record) -> dict[str, list[float]]:
    """Return the seconds of an update of every method, by round, from the result of `costs.measure` for their trainings."""
    trainings = list(trainings_of(phases).values())
    return {
        method: [sum(share * seconds[trainings.index(config)] for share, config in parts) for seconds in measured["seconds"]]
        for method, parts in phases.items()
    }


def add_methods(
    record: Record,
    configs: Mapping[str, Config],
    costs: Mapping[str, Sequence[float]],
    noisy: int,
    beforehand: Mapping[str, float] | None = None,
) -> Record:
    """Return the record with the methods that are not in it yet.

    Args:
        configs: the grid's settings of these methods, and of the base.
        costs: the seconds of an update of each, by round.
        noisy: how many noisy cases there are.
        beforehand: the seconds of what a method does before its training; 0 where not given.
    """
    base, methods = costs[record["base"]], dict(record["methods"])
    new = [method for method in configs if method not in methods]
    for method in new:
        methods[method] = {
            "seconds": median(costs[method]),
            "ratio": median(own / other for own, other in zip(costs[method], base, strict=True)),
            "beforehand": (beforehand or {}).get(method, 0.0),
            "updates_per_epoch": -(-noisy // configs[method].batch_size),
        }

    def epoch_cost(method: str) -> float:
        return methods[method]["ratio"] * methods[method]["updates_per_epoch"]

    def epochs_beforehand(method: str) -> float:
        values = methods[method]
        return values.get("beforehand", 0.0) / (values["seconds"] * values["updates_per_epoch"])

    def cost(method: str, epochs: int) -> float:
        return (epochs_beforehand(method) + epochs) * epoch_cost(method)

    dearest = record["dearest"] or max(configs, key=lambda method: cost(method, configs[method].epochs))
    epochs = record["epochs"] or configs[dearest].epochs
    for method in new:
        own = max(1, round(cost(dearest, epochs) / epoch_cost(method) - epochs_beforehand(method)))
        methods[method] |= {"epochs": own, "updates": own * methods[method]["updates_per_epoch"]}
    return {**record, "dearest": dearest, "epochs": epochs, "methods": methods}


def measure_trainings(
    trainings: Mapping[str, Config], mender: Config | None, table: pd.DataFrame, folder: Path, launcher: Launcher, *, rounds: int = ROUNDS
) -> Record:
    """Return the result of `costs.measure`, by a job in the place of the cells, while none of them runs."""
    shutil.rmtree(folder, ignore_errors=True)
    write_costs_spec(folder, trainings, mender, table, rounds)
    for _, error in run_all([folder], launcher, lambda _: None):
        if error:
            raise RunError(f"{error} (repair that, or leave the method out)")
    measured = read_json_record(folder / "cell.json")
    shutil.rmtree(folder)
    return measured


def _read(path: Path) -> Record:
    """Read costs.json; a benchmark that has none yet gets a record without methods."""
    if not path.is_file():
        return {"unit": None, "base": None, "dearest": None, "epochs": None, "methods": {}}
    try:
        record: Record = json.loads(path.read_text(encoding="utf-8"))
        epochs = {method: values["epochs"] for method, values in record["methods"].items()}
        if epochs and record["base"] in epochs and record["dearest"] in epochs:
            return record
        raise KeyError("methods")

    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{path}: cannot be read as the costs of a benchmark ({error}); remove it, or choose another --out") from None
