"""The whole benchmark: check everything, run the cells that have not finished, gather those that have."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import pandas as pd

from pixeltrust.benchmarking.cell_masks import NOISE, CellMasks, FolderMasks, SourceMasks, is_source
from pixeltrust.benchmarking.cells import note_failure, write_json, write_spec
from pixeltrust.benchmarking.grid import CEILING, Cell, Grid, as_grid
from pixeltrust.benchmarking.jobs import Launcher, Local, Workload, run_all
from pixeltrust.benchmarking.matching import match_time
from pixeltrust.benchmarking.mended import OF_MASKS, require_pairs
from pixeltrust.benchmarking.outcome.reading import is_finished, read_cell_state
from pixeltrust.config import Config
from pixeltrust.data.layouts import Layout, layout_options
from pixeltrust.plumbing.errors import RunError
from pixeltrust.plumbing.files import exclusive_lock, make_folder, write_atomically
from pixeltrust.plumbing.processes import ALONE, Ranks, connect
from pixeltrust.plumbing.progress import progress_bar
from pixeltrust.plumbing.summaries import Summary
from pixeltrust.plumbing.text import count
from pixeltrust.training.run_writer import describe_environment

METHODS = ("plain", "joint", "clean", "finetuned", "image", "pixel", "trust")
SEEDS = (0, 1, 2)
FORMAT = 1  # of benchmark.json
COLUMNS = ("method", "noise", "clean", "seed", "dice", "seconds", "status")
"""The first columns of cells.csv."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Benchmark(Summary):
    """The result of a benchmark; `str` gives the summary."""

    out: Path
    cells: pd.DataFrame
    """A row per cell of the grid: `COLUMNS`, then jaccard, val_dice, updates, cpu_seconds, those of mended masks (see `mended.judge_masks`)
    where there are any, error, match. status: done or failed."""

    def in_rows(self) -> pd.DataFrame:
        return self.cells[list(COLUMNS)]

    def __str__(self) -> str:
        failed = self.cells[self.cells["status"] == "failed"]
        lines = [f"{row.method}, {row.noise}, {row.clean} clean, seed {row.seed} failed: {row.error}" for row in failed.itertuples()]
        done = f"{count(len(self.cells) - len(failed), 'cell')} done"
        again = f", {len(failed):,} failed (the same command tries them again)" if len(failed) else ""
        return "\n".join([*lines, f"{done}{again}; the results are in {self.out}"])


def benchmark(
    source: Path,
    *,
    out: Path,
    grid: Grid | Mapping[str, Any] | None = None,
    launcher: Launcher | None = None,
    show_progress: bool = True,
    **layout: Unpack[Layout],
) -> Benchmark:
    """Run a grid; cells that have finished in `out` are not run again, so a stopped benchmark continues and a larger grid adds to it.

    Under `torchrun` every process makes this call and runs its share of the cells; all must see `source` and `out`.

    Example:
        print(pixeltrust.benchmark("isic2017", out="results", grid={"methods": ["plain", "trust"], "seeds": [0, 1]}))

    Args:
        source: a folder with known truth (images/, masks/, split.csv), or a data folder or table with noisy, clean and test cases.
        out: a new or empty folder, or that of a benchmark of the same source and settings.
        grid: what is compared.
        launcher: where the cells run (see `jobs`); processes on this machine where not given.
        show_progress: a progress bar on standard error.
        layout: how a data folder differs from the usual, as for `read_cases`.

    Raises:
        ConfigError, DataError: the grid cannot be run on this source; before any training.
        RunError: `out` is of another benchmark, in use, or cannot be written.
        KeyboardInterrupt: Ctrl-C; every running cell has finished its current update, and continues next time.
    """
    source, out = Path(source), Path(out)
    _, ranks = connect("cpu")
    show_progress = show_progress and ranks.rank == 0
    grid = as_grid(grid).filled(methods=METHODS, seeds=SEEDS)
    masks: CellMasks
    if is_source(source, layout):
        masks = SourceMasks(source, out, classes=grid.classes, show_progress=show_progress)
    else:
        masks = FolderMasks(source, show_progress=show_progress, **layout)
    grid = masks.complete(grid)
    work = Workload(
        cells=grid.cells(), grid=grid, masks=masks, out=out, launcher=launcher or Local(), ranks=ranks, show_progress=show_progress
    )
    require_pairs(work.cells, masks, source)
    with claim_folder(out, source, grid, ranks, **layout):
        with writing_results(out, ranks):
            run_cells(work)
        return Benchmark(out=out, cells=gather_cells(work))


@contextmanager
def claim_folder(out: Path, source: Path, grid: Grid, ranks: Ranks = ALONE, **layout: Unpack[Layout]) -> Iterator[None]:
    """Hold the folder of this benchmark, made or recognised, for this process and those that share its work.

    Raises:
        RunError: the folder has something else in it, is in use, or cannot be written.
    """
    if ranks.rank:
        ranks.barrier()
        yield
        return
    named = " ".join([str(source.resolve()), *layout_options(layout)])
    settings, variants = {"val_fraction": Config.val_fraction, **grid.settings}, dict(grid.variants)
    record = {"format": FORMAT, "source": named, "settings": settings, "variants": variants}
    record |= {"mender": dict(grid.mender), "match": grid.match}
    try:
        known = (out / "benchmark.json").is_file()
        if not known and out.exists() and (not out.is_dir() or any(path.name != ".lock" for path in out.iterdir())):
            raise RunError(f"{out}: has something in it that is not a benchmark; choose a new or empty folder")
        make_folder(out)
        with exclusive_lock(out / ".lock", f"{out}: another process works on this benchmark; wait for it, or choose another --out"):
            if known:
                _refuse_another(out, record)
            for stale in (out / NOISE).glob(".*.unfinished-*"):  # left by a kill
                shutil.rmtree(stale, ignore_errors=True)
            write_json(out / "benchmark.json", {**record, "grid": grid.record()})
            write_json(out / "environment.json", describe_environment())
            ranks.barrier()
            yield
    except OSError as error:
        raise RunError(f"{error.filename or out}: cannot be read or written: {error.strerror or error}") from None


def run_cells(work: Workload) -> None:
    """Run the cells that have not finished, this rank its share, as many at once as the launcher has room for.

    Where all methods have the same time, their costs are measured first. A line on standard error tells of each cell that fails. The
    function returns when every rank has run its share.
    """
    config_of = match_time(work) if work.grid.match == "time" else work.grid.config
    cells = {folder_of(cell, work.out): cell for cell in work.cells}
    waiting = work.ranks.on_rank_0(lambda: [folder for folder in cells if not is_finished(folder)])
    _record_cells(work)
    with progress_bar(work.show_progress) as bar:
        task = bar.add_task("benchmark", total=len(cells), completed=len(cells) - len(waiting), note="")
        failed = 0
        prepare = partial(_prepare_cell, work, cells, config_of)
        for folder, error in run_all(work.ranks.share(waiting), work.launcher, prepare):
            if error:
                failed += 1
                note_failure(folder, error)  # a process that was killed could not do it
                if work.show_progress:
                    bar.console.print(f"{folder.name} failed: {error}", markup=False, highlight=False)
            bar.update(task, advance=1, note=f"last: {folder.name}" + (f"; {failed:,} failed" if failed else ""))
            _record_cells(work)
    work.ranks.barrier()
    _record_cells(work)


def _prepare_cell(work: Workload, cells: Mapping[Path, Cell], config_of: Callable[[Cell], Config], folder: Path) -> None:
    """Make the masks of a cell, and write all that its process needs."""
    cell = cells[folder]
    work.masks.prepare(cell)
    truth = work.masks.table(cell, true=True) if work.masks.knows_truth else None
    table = truth if cell.method == CEILING and truth is not None else work.masks.table(cell)
    config = config_of(cell)
    write_spec(folder, cell, config, work.grid.mender_config(config, cell.clean), table, truth)


def _record_cells(work: Workload) -> None:
    """Write cells.csv, whole or not at all."""
    if work.ranks.rank == 0:
        with write_atomically(work.out / "cells.csv") as unfinished:
            gather_cells(work).to_csv(unfinished, index=False)


def gather_cells(work: Workload) -> pd.DataFrame:
    """Return a row per cell; see `Benchmark.cells`. Cells that have not been run have the status `not run`."""
    names = ("dice", "seconds", "jaccard", "val_dice", "updates", "cpu_seconds", *OF_MASKS)
    rows = []
    for cell in work.cells:
        row = {name: value for name, value in asdict(cell).items() if value is not None}
        state = read_cell_state(folder_of(cell, work.out))
        rows.append(row | {"status": state["status"], **{name: state.get(name) for name in names}, "error": state["error"]})
    table = pd.DataFrame(rows).assign(match=work.grid.match)
    table = table.drop(columns=[name for name in OF_MASKS if table[name].isna().all()])
    return table[[*COLUMNS, *(name for name in table if name not in COLUMNS)]]


def folder_of(cell: Cell, out: Path) -> Path:
    """Return the folder in which a cell works."""
    return out.absolute() / "cells" / cell.name


def _refuse_another(out: Path, record: dict[str, Any]) -> None:
    """Raise RunError unless the folder is of a benchmark with this record."""
    try:
        written = json.loads((out / "benchmark.json").read_text(encoding="utf-8"))
        before = {
            "match": "updates",
            "mender": {},
            **written,
        }  # earlier versions had no choice, and held a fifth out where the grid did not say
        before["settings"] = {"val_fraction": 0.2, **before["settings"]}
        changed = [name for name in record if before[name] != record[name]]
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{out / 'benchmark.json'}: cannot be read as the record of a benchmark ({error}); choose another --out") from None
    if changed:
        what = ", ".join(f"{name} = {before[name]!r}, now {record[name]!r}" for name in changed)
        raise RunError(f"{out}: was started with another {what}; give the same again (axes may grow), or another --out")


@contextmanager
def writing_results(out: Path, ranks: Ranks = ALONE) -> Iterator[None]:
    """Write tables, figures and page of the finished cells when the block ends, also after Ctrl-C (see `page.write_results`).

    Raises:
        RunError: as `write_results`, but not after Ctrl-C.
    """
    from pixeltrust.benchmarking.page import write_results  # not at the top: the processes of the cells do not draw

    try:
        yield
    except KeyboardInterrupt:
        if ranks.rank == 0:
            with suppress(RunError):
                write_results(out)
        raise
    ranks.on_rank_0(lambda: write_results(out))
