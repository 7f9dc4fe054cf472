"""The whole benchmark: check everything, run what is not finished, gather what is."""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import pandas as pd

from pixeltrust.benchmarking.cells import note_failure, write_json, write_spec
from pixeltrust.benchmarking.grid import CEILING, Cell, Grid
from pixeltrust.benchmarking.jobs import Launcher, Local, run_all
from pixeltrust.benchmarking.masks import NOISE, FolderMasks, Masks, SourceMasks, is_source
from pixeltrust.benchmarking.matching import matched
from pixeltrust.benchmarking.outcome.reading import finished, recorded
from pixeltrust.data.layouts import Layout, layout_options
from pixeltrust.plumbing.errors import RunError
from pixeltrust.plumbing.files import exclusive_lock, make_folder, write_atomically
from pixeltrust.plumbing.processes import ALONE, Ranks, connect
from pixeltrust.plumbing.progress import progress_bar
from pixeltrust.plumbing.text import count
from pixeltrust.training.run_writer import describe_environment

METHODS = ("plain", "joint", "clean", "finetuned", "image", "pixel", "trust")
SEEDS = (0, 1, 2)
FORMAT = 1  # of benchmark.json
COLUMNS = ("method", "noise", "clean", "seed", "dice", "seconds", "status")
"""The first columns of cells.csv."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What a benchmark did; `str` of it is what a person wants to read at its end."""

    out: Path
    cells: pd.DataFrame
    """A row per cell of the grid: `COLUMNS`, then jaccard, val_dice, updates, cpu_seconds, error, match. status: done or failed."""

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
    grid: Grid | None = None,
    launcher: Launcher | None = None,
    show_progress: bool = True,
    **layout: Unpack[Layout],
) -> Benchmark:
    """Run a grid; what is finished in `out` is not run again, so a stopped benchmark continues and a larger grid adds to it.

    Under `torchrun` every process makes this call and runs its share of the cells; all must see `source` and `out`.

    Args:
        source: a folder with known truth (images/, masks/, split.csv), or a data folder or table with noisy, clean and test cases.
        out: a new or empty folder, or that of a benchmark of the same source and settings.
        grid: what is compared.
        launcher: where the cells run (see `jobs`); processes on this machine where not given.
        show_progress: a progress bar on standard error.
        layout: what is other in a data folder than usual, as for `read_cases`.

    Raises:
        ConfigError, DataError: the grid cannot be run on this source; before any training.
        RunError: `out` is of another benchmark, in use, or cannot be written.
        KeyboardInterrupt: Ctrl-C; every running cell has ended after its update in hand, and continues next time.
    """
    source, out = Path(source), Path(out)
    _, ranks = connect("cpu")
    show_progress = show_progress and ranks.rank == 0
    grid = (grid or Grid()).filled(methods=METHODS, seeds=SEEDS)
    masks = masks_from(source, out, show_progress=show_progress, **layout)
    grid = masks.completed(grid)
    with claimed(out, source, grid, ranks, **layout):
        with writing_results(out, ranks):
            run_cells(grid.cells(), grid, masks, out, launcher or Local(), ranks, show_progress=show_progress)
        return Benchmark(out=out, cells=gather(grid.cells(), grid, out))


def masks_from(source: Path, out: Path, *, show_progress: bool, **layout: Unpack[Layout]) -> Masks:
    """A source, or a user's own data, by what lies there."""
    if is_source(source, layout):
        return SourceMasks(source, out, show_progress=show_progress)
    return FolderMasks(source, show_progress=show_progress, **layout)


@contextmanager
def claimed(out: Path, source: Path, grid: Grid, ranks: Ranks = ALONE, **layout: Unpack[Layout]) -> Iterator[None]:
    """The folder of this benchmark, made or recognised, for this process alone and those that share its work."""
    if ranks.rank:
        ranks.barrier()
        yield
        return
    named = " ".join([str(source.resolve()), *layout_options(layout)])
    record: dict[str, Any] = {"format": FORMAT, "source": named, "settings": dict(grid.settings)}
    record |= {"variants": dict(grid.variants), "match": grid.match}
    try:
        known = (out / "benchmark.json").is_file()
        if not known and out.exists() and (not out.is_dir() or any(path.name != ".lock" for path in out.iterdir())):
            raise RunError(f"{out}: has something in it that is no benchmark; choose a new or empty folder")
        make_folder(out)
        with exclusive_lock(out / ".lock", f"{out}: another process is at work on this benchmark; wait for it, or choose another --out"):
            if known:
                _refuse_another(out, record)
            for stale in (out / NOISE).glob(".*.unfinished-*"):  # what a kill left
                shutil.rmtree(stale, ignore_errors=True)
            write_json(out / "benchmark.json", {**record, "grid": grid.record()})
            write_json(out / "environment.json", describe_environment())
            ranks.barrier()
            yield
    except OSError as error:
        raise RunError(f"{error.filename or out}: cannot be read or written: {error.strerror or error}") from None


def run_cells(cells: Sequence[Cell], grid: Grid, masks: Masks, out: Path, launcher: Launcher, ranks: Ranks, *, show_progress: bool) -> None:
    """Run those that are not finished, this rank its share, as many at once as the launcher has place for.

    Where all methods have the same time, what they cost is measured first. A line on standard error for each cell that fails. It ends
    when every rank has run its share.
    """
    config_of = matched(cells, grid, masks, out, launcher, ranks, show_progress=show_progress) if grid.match == "time" else grid.config
    folders = {folder_of(cell, out): cell for cell in cells}
    waiting = ranks.on_rank_0(lambda: [folder for folder in folders if not finished(folder)])

    def record() -> None:
        if ranks.rank == 0:
            write_cells(out, gather(cells, grid, out))

    def ready(folder: Path) -> None:
        cell = folders[folder]
        masks.prepare(cell)
        truth = masks.table(cell, true=True) if masks.knows_truth else None
        table = masks.table(cell) if truth is None or cell.method != CEILING else truth
        write_spec(folder, cell, config_of(cell), table, truth)

    record()
    with progress_bar(show_progress) as bar:
        task = bar.add_task("benchmark", total=len(folders), completed=len(folders) - len(waiting), note="")
        failed = 0
        for folder, error in run_all(ranks.share(waiting), launcher, ready):
            if error:
                failed += 1
                note_failure(folder, error)  # of a process that was killed nobody else can
            if error and show_progress:
                bar.console.print(f"{folder.name} failed: {error}", markup=False, highlight=False)
            note = f"last: {folder.name}" + (f"; {failed:,} failed" if failed else "")
            bar.update(task, advance=1, note=note)
            record()
    ranks.barrier()
    record()


def gather(cells: Sequence[Cell], grid: Grid, out: Path) -> pd.DataFrame:
    """A row per cell; see `Benchmark.cells`. Cells that have not been run have the status `not run`."""
    rows = pd.DataFrame([_row(cell, folder_of(cell, out)) | {"match": grid.match} for cell in cells])
    return rows[[*COLUMNS, *(name for name in rows if name not in COLUMNS)]]


def write_cells(out: Path, cells: pd.DataFrame) -> None:
    """cells.csv, whole or not at all."""
    with write_atomically(out / "cells.csv") as unfinished:
        cells.to_csv(unfinished, index=False)


def folder_of(cell: Cell, out: Path) -> Path:
    """Where a cell works."""
    return out.absolute() / "cells" / cell.name


def _row(cell: Cell, folder: Path) -> dict[str, Any]:
    row: dict[str, Any] = {"method": cell.method, "noise": cell.noise, "clean": cell.clean, "seed": cell.seed}
    row |= {"fold": cell.fold} if cell.fold is not None else {}
    known = recorded(folder)
    names = ("dice", "seconds", "jaccard", "val_dice", "updates", "cpu_seconds")
    return row | {"status": known["status"], **{name: known.get(name) for name in names}, "error": known["error"]}


def _refuse_another(out: Path, record: dict[str, Any]) -> None:
    try:
        written = json.loads((out / "benchmark.json").read_text(encoding="utf-8"))
        before = {"match": "updates", **written}  # as it was before there was a choice
        changed = [name for name in record if before[name] != record[name]]
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{out / 'benchmark.json'}: cannot be read as the record of a benchmark ({error}); choose another --out") from None
    if changed:
        what = ", ".join(f"{name} = {before[name]!r}, now {record[name]!r}" for name in changed)
        raise RunError(f"{out}: was started with another {what}; give the same again (axes may grow), or another --out")


@contextmanager
def writing_results(out: Path, ranks: Ranks = ALONE) -> Iterator[None]:
    """Write tables, figures and page of what is there by now at the end of the block, after Ctrl-C too (see `page.write_results`).

    Raises:
        RunError: as `write_results`; after Ctrl-C nothing but that.
    """
    from pixeltrust.benchmarking.page import write_results  # here, so that the processes of the cells need not load what draws

    try:
        yield
    except KeyboardInterrupt:
        if ranks.rank == 0:
            with suppress(RunError):
                write_results(out)
        raise
    ranks.on_rank_0(lambda: write_results(out))
