"""The folder of a benchmark as tables.

OUT/  cells.csv  cells/<cell>/  spec.json  cell.json (of a finished one)  failed.json  test.csv  run/
"""

import json
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from pixeltrust.benchmarking.outcome.statistics import SHARES, BenchmarkResults, average_shares
from pixeltrust.plumbing.errors import RunError

CELL = ["method", "noise", "clean", "seed"]
_NUMBERS = ("dice", "jaccard", "seconds", "updates", "cpu_seconds")


def is_benchmark(folder: Path) -> bool:
    """Whether a folder is that of a benchmark."""
    return (folder / "benchmark.json").is_file()


def is_finished(folder: Path) -> bool:
    """Whether a cell has come to its end."""
    return (folder / "cell.json").is_file()


def read_cell_state(folder: Path) -> dict[str, Any]:
    """What a cell has written of itself: its status (done, failed, not run), why it failed, and when it is done all of cell.json.

    Raises:
        RunError: that cannot be read.
    """
    if is_finished(folder):
        return {**_json(folder / "cell.json"), "status": "done", "error": ""}
    if (folder / "failed.json").is_file():
        return {"status": "failed", "error": str(_json(folder / "failed.json").get("error", ""))}
    return {"status": "not run", "error": ""}


def read_results(out: Path) -> BenchmarkResults:
    """Everything that is there by now; nothing is written.

    Raises:
        RunError: it is no benchmark, or its records cannot be read.
    """
    cells = read_cells(out)
    done = cells[cells["status"] == "done"]
    histories = _of_all(done, lambda folder: _read(folder / "run" / "history.csv"), ["epoch", *SHARES])
    return BenchmarkResults(
        cells=cells,
        scores=_of_all(done, lambda folder: _read(folder / "test.csv", dtype={"id": str}, na_filter=True), ["id", "dice", "jaccard"]),
        shares=average_shares(histories.dropna(subset=["wrong_pixels"])),
    )


def read_cells(out: Path) -> pd.DataFrame:
    """A row per cell: those of cells.csv, then those of earlier grids; each as its folder has it now.

    Returns:
        The columns method, noise, clean, seed, fold (0 where there are none), status, dice, jaccard, seconds, updates, cpu_seconds (of a
        training on processors alone), error, folder, match (what all methods have the same of, see `statistics`).

    Raises:
        RunError: it is no benchmark, it has no cells yet, or its records cannot be read.
    """
    if not is_benchmark(out):
        raise RunError(f"{out}: not the folder of a benchmark (it has no benchmark.json)")
    listed = _listed(out)
    begun = {_key(spec): path.parent for path in sorted((out / "cells").glob("*/spec.json")) if (spec := _json(path)["cell"])}
    keys = [*listed, *(key for key in begun if key not in listed)]
    if not keys:
        raise RunError(f"{out}: it has no cells yet, so there is nothing to tell")
    rows = [dict(zip([*CELL, "fold"], key, strict=True)) | _state(begun.get(key)) for key in keys]
    match = _json(out / "benchmark.json").get("match", "updates")
    return pd.DataFrame(rows).astype(dict.fromkeys(_NUMBERS, float)).assign(match=match)


def _listed(out: Path) -> dict[tuple[Any, ...], None]:
    """The cells of cells.csv, in their order; before there is one, those of the grid."""
    if (out / "cells.csv").is_file():
        rows = _read(out / "cells.csv", dtype={"method": str, "noise": str}, keep_default_na=False)
        return {_key(row): None for row in rows.to_dict("records")}
    grid = _json(out / "benchmark.json").get("grid", {})
    axes = [grid.get(name, []) for name in ("noise", "clean", "seeds", "methods")]
    return {(method, noise, clean, seed, 0): None for noise, clean, seed, method in product(*axes)}


def _key(cell: dict[Any, Any]) -> tuple[Any, ...]:
    try:
        return (*(cell[name] for name in CELL), int(cell.get("fold") or 0))
    except (KeyError, ValueError) as error:
        raise RunError(f"the cells of this benchmark cannot be read: {error}") from None


def _state(folder: Path | None) -> dict[str, Any]:
    known = read_cell_state(folder) if folder else {"status": "not run", "error": ""}
    state = {**known, **{name: known.get(name) for name in _NUMBERS}, "folder": folder and str(folder)}
    unknown = {"cpu_seconds": None} if folder and known["status"] == "done" and _on_a_gpu(folder) else {}
    return {name: state[name] for name in ("status", *_NUMBERS, "error", "folder")} | unknown


def _on_a_gpu(folder: Path) -> bool:
    """Whether its processor's seconds say little, because another one did the work."""
    environment, spec = folder / "run" / "environment.json", _json(folder / "spec.json")
    has_one = environment.is_file() and _json(environment).get("accelerator") is not None
    return has_one and spec.get("config", {}).get("device") != "cpu"


def _of_all(cells: pd.DataFrame, read: Callable[[Path], pd.DataFrame], columns: Iterable[str]) -> pd.DataFrame:
    """Some columns of a table of every cell, one below the other, with the cell's names; a column that it lacks is NaN."""
    tables = []
    for cell in cells.to_dict("records"):
        table = read(Path(cell["folder"])).reindex(columns=list(columns))
        for place, name in enumerate(CELL):
            table.insert(place, name, cell[name])
        tables.append(table)
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=[*CELL, *columns])


def _read(path: Path, **options: Any) -> pd.DataFrame:
    try:
        return pd.read_csv(path, **options)
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read: {str(error).strip()}") from None


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read: {error}") from None
    if not isinstance(values, dict):
        raise RunError(f"{path}: holds no record")
    return values
