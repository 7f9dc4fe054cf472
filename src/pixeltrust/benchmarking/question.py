"""Does it help on my data? A few short, fair trainings by cross-validation over the clean cases, and an answer in words.

The clean cases are cut into folds. Every method learns from the noisy cases and the clean ones of the other folds, and is measured on the
fold that it has not seen. So every clean case has one Dice per method (and seed), and methods are compared case by case.

    OUT/  as of a benchmark, the page begins with the answer; answer.json  answer.md  scores.csv (id, a column of Dice per method)
"""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Unpack

import pandas as pd

from pixeltrust.benchmarking.answers import FEWEST, Answer, answer_too_few, find_answer
from pixeltrust.benchmarking.cell_masks import FOLDS, FolderMasks, is_source
from pixeltrust.benchmarking.cells import write_json
from pixeltrust.benchmarking.forecast import forecast
from pixeltrust.benchmarking.grid import CEILING, GIVEN, Cell, Grid, as_grid
from pixeltrust.benchmarking.jobs import Launcher, Local, Workload
from pixeltrust.benchmarking.mended import count_pairs, require_pairs
from pixeltrust.benchmarking.outcome.reading import is_finished
from pixeltrust.benchmarking.run import claim_folder, folder_of, run_cells, writing_results
from pixeltrust.config import Config
from pixeltrust.data.cases import FEWEST_PAIRS
from pixeltrust.data.layouts import Layout
from pixeltrust.plumbing.errors import ConfigError, RunError
from pixeltrust.plumbing.files import write_file
from pixeltrust.plumbing.processes import connect
from pixeltrust.plumbing.text import count, some

METHODS = ("plain", "joint", "clean", "finetuned", "trust")
"""Those that are compared; `mended` too, where there are pairs for it."""
SEEDS = (0,)
SETTINGS: dict[str, Any] = {"model": "unet-small", "image_size": 64}
UPDATES = 600  # of each training, about


def question(
    data: Path,
    *,
    out: Path,
    grid: Grid | Mapping[str, Any] | None = None,
    launcher: Launcher | None = None,
    show_progress: bool = True,
    **layout: Unpack[Layout],
) -> Answer:
    """Find out whether another method beats plain training on a user's own data; a question that was stopped continues.

    Example:
        print(pixeltrust.question("lesions", out="answer"))

    Args:
        data: a data folder or table with noisy and clean cases; test cases are not used.
        out: a new or empty folder, or that of the same question.
        grid: methods, seeds and settings; the defaults above where it has none (`epochs` for about `UPDATES`).
        launcher: as in `benchmark`.
        show_progress: as in `benchmark`.
        layout: as in `benchmark`.

    Raises:
        ConfigError, DataError: the data cannot be used, or the grid cannot be used for a question.
        RunError: `out` is of something else or cannot be written, or trainings failed, by their names.
    """
    data, out = Path(data), Path(out)
    if is_source(data, layout):
        raise ConfigError(f"{data}: a source with known truth, not a data folder with noisy/ and clean/; leave --question out")
    _, ranks = connect("cpu")
    show_progress = show_progress and ranks.rank == 0
    masks = FolderMasks(data, show_progress=show_progress, **layout)
    grid = _complete(as_grid(grid), masks)
    if len(set(masks.groups)) < FEWEST:
        return answer_too_few(len(set(masks.groups)))
    cells = _list_cells(grid, masks, grid.methods)
    work = Workload(cells=cells, grid=grid, masks=masks, out=out, launcher=launcher or Local(), ranks=ranks, show_progress=show_progress)
    require_pairs(cells, masks, data)
    with claim_folder(out, data, grid, ranks, **layout), writing_results(out, ranks):
        waiting = [cell for cell in cells if not is_finished(folder_of(cell, out))]
        if show_progress and waiting and grid.match == "updates" and ranks.count == 1 and (told := forecast(work, waiting)):
            print(told, file=sys.stderr, flush=True)
        run_cells(work)
        return ranks.on_rank_0(lambda: _write_answer(cells, out))


def _complete(grid: Grid, masks: FolderMasks) -> Grid:
    """Return the grid with the axes and settings that it leaves out.

    Raises:
        ConfigError: a question has no use for one of its axes.
    """
    if grid.noise or grid.clean:
        raise ConfigError("noise and clean are for a benchmark; a question takes the noisy masks as they are, and all clean cases")
    grid = grid.filled(seeds=SEEDS)
    grid = grid.filled(methods=(*METHODS, "mended") if _has_pairs(grid, masks) else METHODS)
    if "plain" not in grid.methods or len(grid.methods) < 2 or CEILING in grid.methods:
        raise ConfigError("methods: a question compares `plain` with at least one other method (and knows no ceiling)")
    settings = {**SETTINGS, **grid.settings}
    per_epoch = -(-len(masks.cases.of("noisy")) // settings.get("batch_size", Config().batch_size))
    return replace(grid, settings={"epochs": math.ceil(UPDATES / per_epoch), **settings})


def _list_cells(grid: Grid, masks: FolderMasks, methods: Sequence[str]) -> list[Cell]:
    return [
        Cell(method=method, noise=GIVEN, clean=len(masks.clean), seed=seed, fold=fold)
        for seed in grid.seeds
        for fold in range(FOLDS)
        for method in methods
    ]


def _has_pairs(grid: Grid, masks: FolderMasks) -> bool:
    """Return whether `mended` has the pairs that it needs, in every fold."""
    return all(count_pairs(masks, cell) >= FEWEST_PAIRS for cell in _list_cells(grid, masks, ["mended"]))


def _scores(cells: Sequence[Cell], out: Path) -> pd.DataFrame:
    """Return a row per clean case and a column per method: the mean Dice over the seeds.

    Raises:
        RunError: trainings failed.
    """
    missing = [cell.name for cell in cells if not is_finished(folder_of(cell, out))]
    if missing:
        failed = f"{count(len(missing), 'training')} failed ({some(missing)}; each has a log.txt)"
        raise RunError(f"{out}: no answer yet: {failed}; the same command tries them again")
    tables = [pd.read_csv(folder_of(cell, out) / "test.csv", dtype={"id": str}).assign(method=cell.method) for cell in cells]
    scores = pd.concat(tables).pivot_table(index="id", columns="method", values="dice", aggfunc="mean")
    return scores[list(dict.fromkeys(cell.method for cell in cells))]


def _write_answer(cells: Sequence[Cell], out: Path) -> Answer:
    scores = _scores(cells, out)
    answer = replace(find_answer(scores), out=out)
    write_json(out / "answer.json", {**asdict(answer), "out": str(out)})
    write_file(out / "answer.md", f"{answer}\n")
    write_file(out / "scores.csv", scores.to_csv(float_format="%.6f"))
    return answer
