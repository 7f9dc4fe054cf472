"""How long the trainings of a question or a benchmark will take, said before they begin."""

from collections.abc import Sequence
from dataclasses import replace

from pixeltrust.benchmarking.cell_masks import without_pairs
from pixeltrust.benchmarking.costs import TIMED, WARM, Phases, phases_of
from pixeltrust.benchmarking.grid import Cell, mask_kind
from pixeltrust.benchmarking.jobs import Workload
from pixeltrust.benchmarking.matching import costs_of, measure_trainings, trainings_of
from pixeltrust.mending.menders import FOLDS
from pixeltrust.mending.settings import FEWEST_FOR_STRONGER
from pixeltrust.plumbing.progress import progress_bar
from pixeltrust.plumbing.text import count, format_duration

WORTH = 20  # times as many updates to come as a forecast makes itself, or it is not made


def forecast(work: Workload, cells: Sequence[Cell]) -> str:
    """Return how long cells will take, by a few updates of each method; empty where they are nearly as quick as that.

    Args:
        cells: those that have not finished; there is one.
    """
    first = cells[0]
    of_method = {cell.method: cell for cell in cells}
    configs = {method: work.grid.config(cell) for method, cell in of_method.items()}
    phases = {method: phases_of(method, config) for method, config in configs.items()}
    work.masks.prepare(first)
    table = work.masks.table(first)
    noisy = int((without_pairs(table)["role"] == "noisy").sum())
    updates = {method: config.epochs * (config.updates_per_epoch or -(-noisy // config.batch_size)) for method, config in configs.items()}
    menders: dict[str, Phases] = {}
    for method, config in configs.items():
        if mask_kind(method) == "mended":  # a mender learns from pairs; a network like it costs the same
            mender = replace(work.grid.mender_config(config), method="clean")
            menders[f"{method}: menders"] = [((1 - 0.75 * mender.coarse_share) * FOLDS, mender)]
            updates[f"{method}: menders"] = mender.epochs * (mender.updates_per_epoch or 1)
    parts = {**phases, **menders}
    if sum(updates[cell.method] for cell in cells) < WORTH * (WARM + TIMED) * len(trainings_of(parts)):
        return ""
    with progress_bar(work.show_progress) as bar:
        bar.add_task("measuring how long it will take", total=None)
        measured = measure_trainings(trainings_of(parts), None, table, work.out / "costs", work.launcher, rounds=1)
    seconds = {name: costs[0] * updates[name] for name, costs in costs_of(parts, measured).items()}
    mendings = {replace(cell, method=""): seconds[f"{cell.method}: menders"] for cell in cells if mask_kind(cell.method) == "mended"}
    total = sum(seconds[cell.method] for cell in cells) + sum(mendings.values())  # cells of other methods share a mending
    at_once = min(work.launcher.jobs, len(cells))
    made = count(max(updates[method] for method in phases), "update")
    mended = [cell for cell in cells if mask_kind(cell.method) == "mended" and cell.clean >= FEWEST_FOR_STRONGER]
    may_take_longer = any(work.grid.mender_config(configs[cell.method]).stronger_below for cell in mended)
    more = ", and more where masks stay poor and stronger menders are trained" if may_take_longer else ""
    return f"{count(len(cells), 'training')} of up to {made}, {at_once} at once: about {format_duration(total / at_once)}{more}"
