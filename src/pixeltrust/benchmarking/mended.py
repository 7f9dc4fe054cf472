"""The method `mended`: the noisy masks of a cell are mended by its pairs (see `pixeltrust.mending`), and then trained on as `plain`; and
`mended+finetuned`, which ends on the clean masks.

OUT/mendings/<noise>-<clean>-<seed>-<hash>/   a mending, by all cells of the same cases and settings of menders: the first of them makes
                                              it, those that come meanwhile wait
    cases.csv  mended/ (the folder that `mend` writes)  mending.json (its seconds and those of the processor, of all its goes together)
CELL/mended      a link to it
CELL/masks.csv   where the truth is known, a row per noisy mask: id, its Dice with the truth (given, mended), the expected one
"""

import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock

from pixeltrust.benchmarking.cell_masks import CellMasks
from pixeltrust.benchmarking.grid import Cell, mask_kind
from pixeltrust.benchmarking.outcome.reading import read_json_record
from pixeltrust.benchmarking.outcome.statistics import MASKS
from pixeltrust.config import Config, to_values
from pixeltrust.data.cases import FEWEST_PAIRS, read_cases
from pixeltrust.data.images import map_name
from pixeltrust.data.masks import read_mask
from pixeltrust.mending.estimate import read_estimate
from pixeltrust.mending.run import mend_cases
from pixeltrust.mending.ways import dice_between
from pixeltrust.metrics import mean_of_defined
from pixeltrust.plumbing.errors import DataError
from pixeltrust.plumbing.files import make_folder, write_file
from pixeltrust.plumbing.progress import map_in_threads
from pixeltrust.plumbing.tables import read_table, write_csv
from pixeltrust.plumbing.text import count

OF_MASKS = (*MASKS, "way", "changed")
"""What a cell says of its masks, see `judge_masks`."""
_NOTED_SECONDS = 5.0  # between two notes of the clock: a kill loses no more


def require_pairs(cells: Iterable[Cell], masks: CellMasks, source: Path) -> None:
    """Refuse cells that mend and have too few pairs for it.

    Raises:
        DataError: the first of them, with the number of its pairs.
    """
    for cell in cells:
        if mask_kind(cell.method) == "mended" and (pairs := count_pairs(masks, cell)) < FEWEST_PAIRS:
            raise DataError(
                f"{source}: `mended` learns from pairs (clean cases that have a noisy mask too), {FEWEST_PAIRS} or more, and its "
                f"training {cell.name} has {count(pairs, 'pair')}; keep the noisy masks of clean cases in noisy/, or leave `mended` out"
            )


def count_pairs(masks: CellMasks, cell: Cell) -> int:
    """Return how many pairs a cell has."""
    return int(masks.table(cell)["id"].duplicated().sum())


def mend_once(folder: Path, cell: Cell, config: Config) -> Path:
    """Mend the noisy masks of a cell, or take what another cell has mended; return the table to train on.

    Args:
        folder: of the cell, OUT/cells/<cell>, with its cases.csv.
        config: of the menders.
    """
    cases = (folder / "cases.csv").read_bytes()
    key = hashlib.sha256(cases + json.dumps(to_values(config), sort_keys=True).encode()).hexdigest()[:8]
    shared = folder.parents[1] / "mendings" / f"{replace(cell, method='').name.removeprefix('-')}-{key}"
    make_folder(shared)
    with FileLock(shared / ".lock"):
        if not (shared / "cases.csv").is_file():
            write_file(shared / "cases.csv", cases)
        table = mend_masks(shared, config)
    link = folder / "mended"
    if link.is_dir() and not link.is_symlink():
        shutil.rmtree(link)  # of an earlier version, stopped: cells had mendings of their own
    link.unlink(missing_ok=True)
    link.symlink_to(os.path.relpath(table.parent, folder))
    return table


def mend_masks(folder: Path, config: Config) -> Path:
    """Mend the noisy masks of the cases of a folder, once, and return the table to train on; a mending that was stopped continues.

    Args:
        folder: has the cases.csv.
        config: of the menders.
    """
    mended = folder / "mended"
    if not (mended / "audit.json").is_file():
        with _clocked(folder / "mending.json"):
            cases = read_cases(folder / "cases.csv", may_be_volumes=True, show_progress=False)
            mend_cases(cases, cases.of("noisy"), out=mended, config=config, show_progress=False)
    return mended / "mended.csv"


def cost_of_mending(folder: Path) -> tuple[float, float]:
    """Return the seconds of a cell's mending, by the clock and of the processor, also where another cell has made it; 0 where none was."""
    if not (folder / "mended").exists():
        return 0.0, 0.0
    record = read_json_record((folder / "mended").resolve().parent / "mending.json")
    return float(record["seconds"]), float(record["cpu_seconds"])


@contextmanager
def _clocked(file: Path) -> Iterator[None]:
    """Add the seconds of a block, and those of the processor, to those in a file, now and then, so that a kill loses few."""
    before = read_json_record(file) if file.is_file() else {"seconds": 0.0, "cpu_seconds": 0.0}
    started, cpu_started, ended = time.perf_counter(), time.process_time(), threading.Event()

    def note() -> None:
        seconds, cpu = before["seconds"] + time.perf_counter() - started, before["cpu_seconds"] + time.process_time() - cpu_started
        write_file(file, json.dumps({"seconds": round(seconds, 2), "cpu_seconds": round(cpu, 2)}) + "\n")

    def note_often() -> None:
        while not ended.wait(_NOTED_SECONDS):
            note()

    thread = threading.Thread(target=note_often, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        note()


def judge_masks(folder: Path, config: Config) -> dict[str, Any]:
    """Say how good the mended masks of a cell are expected to be and, where the truth is known, how good they are; write masks.csv.

    Returns:
        masks_given, masks_mended: the mean Dice of the noisy masks with the truth at full size, before and after; None where it is not
        known.  expected, expected_low, expected_high: the estimate of the second, and its interval.  way, changed: what was done, and
        with how many masks (see `mending.estimate`).
    """
    estimate = read_estimate(folder / "mended")
    assert estimate is not None
    known = _measure_masks(folder, config) if (folder / "truth.csv").is_file() else None
    means = {f"masks_{name}": None if known is None else mean_of_defined(known[name].to_numpy()) for name in ("given", "mended")}
    expected = {"expected": estimate.expected.dice, "expected_low": estimate.expected.low, "expected_high": estimate.expected.high}
    return {**means, **expected, "way": estimate.way, "changed": estimate.changed}


def _measure_masks(folder: Path, config: Config) -> pd.DataFrame:
    """Write masks.csv, and return it."""
    truth = read_table(folder / "truth.csv").query("role == 'noisy'").set_index("id")["mask"]
    cases = pd.read_csv(folder / "mended" / "cases.csv", dtype={"id": str}, keep_default_na=False).sort_values("id", ignore_index=True)

    def measure(case: tuple[str, str]) -> dict[str, Any]:
        identity, given = case
        files = {"given": Path(given), "mended": folder / "mended" / "mended" / map_name(identity, len(config.size))}
        true, labels = read_mask(Path(truth[identity]), config), {name: read_mask(file, config) for name, file in files.items()}
        return {"id": identity, **{name: round(dice_between(mask, true, config.classes), 5) for name, mask in labels.items()}}

    listed = list(zip(cases["id"], cases["mask"], strict=True))
    rows = map_in_threads(measure, listed, text="measuring masks", complaint="masks that cannot be read", shown=False)
    table = pd.DataFrame(rows).assign(expected=cases["expected"])
    write_csv(table, folder / "masks.csv")
    return table
