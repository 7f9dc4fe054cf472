"""The folder of a benchmark as tables.

OUT/  cells.csv  cells/<cell>/  spec.json  cell.json (of a finished one)  failed.json  test.csv  run/
"""

import json
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from pixeltrust.benchmarking.outcome.statistics import MASKS, OF_CLASSES, SHARES, BenchmarkResults, average_shares
from pixeltrust.plumbing.errors import RunError

CELL = ["method", "noise", "clean", "seed"]
_NUMBERS = ("dice", "jaccard", "seconds", "updates", "cpu_seconds", *MASKS)


def is_finished(folder: Path) -> bool:
    """Return whether a cell has finished."""
    return (folder / "cell.json").is_file()


def read_cell_state(folder: Path) -> dict[str, Any]:
    """Read the state of a cell: its status (done, failed, not run), why it failed, and all of cell.json when it is done.

    Raises:
        RunError: its files cannot be read.
    """
    if is_finished(folder):
        return {**read_json_record(folder / "cell.json"), "status": "done", "error": ""}
    if (folder / "failed.json").is_file():
        return {"status": "failed", "error": str(read_json_record(folder / "failed.json").get("error", ""))}
    return {"status": "not run", "error": ""}


def read_results(out: Path) -> BenchmarkResults:
    """Read all results that there are so far.

    Raises:
        RunError: it is not a benchmark, or its records cannot be read.
    """
    cells = read_cells(out)
    done = cells[cells["status"] == "done"]
    histories = _read_all(done, lambda folder: _read(folder / "run" / "history.csv"), ["epoch", *SHARES])
    return BenchmarkResults(
        cells=cells,
        scores=_read_all(done, _read_scores, ["id", "dice", "jaccard"]),
        shares=average_shares(histories.dropna(subset=["wrong_pixels"])),
    )


def read_cells(out: Path) -> pd.DataFrame:
    """Read a row per cell, as its folder has it now: the cells of cells.csv first, then those of earlier grids.

    Returns:
        The columns method, noise, clean, seed, fold (0 where there are none), status, dice, jaccard, seconds, updates, cpu_seconds (of a
        training on processors alone), error, folder, match (what all methods have in common, see `statistics`); `MASKS` where known.

    Raises:
        RunError: it is not a benchmark, it has no cells yet, or its records cannot be read.
    """
    if not (out / "benchmark.json").is_file():
        raise RunError(f"{out}: not the folder of a benchmark (it has no benchmark.json)")
    listed = _list_cells(out)
    begun = {_key(spec): path.parent for path in sorted((out / "cells").glob("*/spec.json")) if (spec := read_json_record(path)["cell"])}
    keys = [*listed, *(key for key in begun if key not in listed)]
    if not keys:
        raise RunError(f"{out}: it has no cells yet, so there is nothing to report")
    rows = [dict(zip([*CELL, "fold"], key, strict=True)) | _state(begun.get(key)) for key in keys]
    match = read_json_record(out / "benchmark.json").get("match", "updates")
    cells = pd.DataFrame(rows).astype(dict.fromkeys(_NUMBERS, float)).assign(match=match)
    return cells.drop(columns=[name for name in MASKS if cells[name].isna().all()])


def _list_cells(out: Path) -> dict[tuple[Any, ...], None]:
    """Return the cells of cells.csv, in their order; those of the grid where there is no cells.csv yet."""
    if (out / "cells.csv").is_file():
        rows = _read(out / "cells.csv", dtype={"method": str, "noise": str}, keep_default_na=False)
        return {_key(row): None for row in rows.to_dict("records")}
    grid = read_json_record(out / "benchmark.json").get("grid", {})
    axes = [grid.get(name, []) for name in ("noise", "clean", "seeds", "methods")]
    return {(method, noise, clean, seed, 0): None for noise, clean, seed, method in product(*axes)}


def _key(cell: dict[Any, Any]) -> tuple[Any, ...]:
    try:
        return (*(cell[name] for name in CELL), int(cell.get("fold") or 0))
    except (KeyError, ValueError) as error:
        raise RunError(f"the cells of this benchmark cannot be read: {error}") from None


def _state(folder: Path | None) -> dict[str, Any]:
    state = read_cell_state(folder) if folder else {"status": "not run", "error": ""}
    state = {**state, **{name: state.get(name) for name in _NUMBERS}, "folder": folder and str(folder)}
    unknown = {"cpu_seconds": None} if folder and state["status"] == "done" and _ran_on_gpu(folder) else {}
    return {name: state[name] for name in ("status", *_NUMBERS, "error", "folder")} | unknown


def _ran_on_gpu(folder: Path) -> bool:
    """Return whether an accelerator did the work, so that the seconds of the processor say little."""
    environment, spec = folder / "run" / "environment.json", read_json_record(folder / "spec.json")
    has_one = environment.is_file() and read_json_record(environment).get("accelerator") is not None
    return has_one and spec.get("config", {}).get("device") != "cpu"


def _read_all(cells: pd.DataFrame, read: Callable[[Path], pd.DataFrame], columns: Sequence[str]) -> pd.DataFrame:
    """Read some columns of a table of every cell, one below the other, with the cell's names; a column that it lacks is NaN."""
    tables = []
    for cell in cells.to_dict("records"):
        table = read(Path(cell["folder"]))
        table = table.reindex(columns=[*columns, *(name for name in map(str, table) if name.startswith(OF_CLASSES))])
        for place, name in enumerate(CELL):
            table.insert(place, name, cell[name])
        tables.append(table)
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=[*CELL, *columns])


def _read_scores(folder: Path) -> pd.DataFrame:
    return _read(folder / "test.csv", dtype={"id": str}, na_filter=True)


def _read(path: Path, **options: Any) -> pd.DataFrame:
    try:
        return pd.read_csv(path, **options)
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read: {str(error).strip()}") from None


def read_json_record(path: Path) -> dict[str, Any]:
    """Read a JSON file with an object.

    Raises:
        RunError: it cannot be read, or holds something else.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read: {error}") from None
    if not isinstance(values, dict):
        raise RunError(f"{path}: does not hold a record")
    return values
