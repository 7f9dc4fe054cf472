"""Add what benchmarks have finished to the tables that results/ keeps, and make their summary anew.

    python experiments/keep_results.py results/noise-kinds-small OUT [OUT …]

Each OUT is the folder of a `pixeltrust benchmark` of the same source and settings; cells that are kept already stay as they are. Kept are
cells.csv (every cell of the grids, done or not), cases.csv (a row per test case of each finished one), masks.csv (a row per noisy mask of
each that mends) and shares.csv (means over the seeds of one folder, by epoch); summary.csv, classes.csv (where there are several) and
tables.md are made from them. What was compared at equal time (`match = "time"`) has a folder of its own, with the costs of every OUT.
`clean` and `ceiling` never see a noisy mask, so one training of theirs stands for every kind of noise with the same clean cases: in the
summary, not in cells.csv.
"""

import argparse
import shutil
import sys
from pathlib import Path

import pandas as pd

from pixeltrust.benchmarking.outcome.reading import CELL, read_results
from pixeltrust.benchmarking.outcome.statistics import GROUP, summarize_cells, summarize_classes
from pixeltrust.benchmarking.outcome.words import format_markdown

BLIND = ("clean", "ceiling")  # to the noise
MASK = ("id", "given", "mended", "expected")


def added(kept: pd.DataFrame | None, new: pd.DataFrame, key: list[str]) -> pd.DataFrame:
    """Join both; the rows that are kept already stay as they are."""
    parts = [table for table in (kept, new) if table is not None and len(table)]  # an empty one would make all columns objects
    return pd.concat(parts, ignore_index=True).drop_duplicates(key, ignore_index=True) if parts else new


def with_cells(kept: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """Return every cell once, finished if it is finished in either table."""
    both = pd.concat([kept, new[kept.columns.intersection(new.columns)]], ignore_index=True)
    order = both.drop_duplicates(CELL)[CELL]
    done_first = both.sort_values("status", key=lambda status: status != "done", kind="stable").drop_duplicates(CELL)
    return order.merge(done_first, on=CELL, how="left")[list(kept.columns)]


def mended_masks(cells: pd.DataFrame) -> pd.DataFrame:
    """Return a row per noisy mask of every finished cell that mends."""
    done = cells[cells["status"] == "done"].to_dict("records")
    tables = [(cell, file) for cell in done if (file := Path(cell["folder"]) / "masks.csv").is_file()]
    masks = [pd.read_csv(file, dtype={"id": str}).assign(**{name: cell[name] for name in CELL}) for cell, file in tables]
    return pd.concat(masks, ignore_index=True)[[*CELL, *MASK]] if masks else pd.DataFrame(columns=[*CELL, *MASK])


def with_shares(kept: pd.DataFrame | None, new: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds cannot be joined any more: those of more seeds."""
    both = pd.concat([kept, new], ignore_index=True).sort_values("seeds", ascending=False, kind="stable")
    return both.drop_duplicates([*GROUP, "method", "epoch"]).sort_index(ignore_index=True)


def match_of(cells: pd.DataFrame) -> str:
    """Return what all methods had the same of; the earliest tables do not say so."""
    return str(cells["match"].iloc[0]) if "match" in cells else "updates"


def for_every_noise(table: pd.DataFrame, noises: list[str]) -> pd.DataFrame:
    """Repeat the rows of blind methods for all kinds of noise."""
    blind = table[table["method"].isin(BLIND)]
    copies = [blind.assign(noise=noise) for noise in noises]
    key = [name for name in (*CELL, "id") if name in table]
    return pd.concat([table, *copies], ignore_index=True).drop_duplicates(key, ignore_index=True)


def summary_of(cells: pd.DataFrame, cases: pd.DataFrame) -> pd.DataFrame:
    """Summarise every kind of noise that has a finished cell, with methods in the order of the grids."""
    done = cells["status"] == "done"
    noises, methods = list(cells.loc[done, "noise"].unique()), list(cells["method"].unique())
    every = added(for_every_noise(cells[done], noises), cells[cells["noise"].isin(noises)], CELL).assign(fold=0)
    place = {name: number for number, name in enumerate([*noises, *methods])}
    every = every.sort_values(["noise", "clean", "method", "seed"], key=lambda column: column.map(lambda value: place.get(value, value)))
    return summarize_cells(every, for_every_noise(cases, noises))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kept", type=Path)
    parser.add_argument("outs", type=Path, nargs="*")
    asked = parser.parse_args()
    names = ("cells", "cases", "masks", "shares")
    kept = {name: pd.read_csv(file, dtype={"id": str}) for name in names if (file := asked.kept / f"{name}.csv").is_file()}
    cells, cases, masks, shares = map(kept.get, names)
    for out in asked.outs:
        outcome = read_results(out)
        found = outcome.cells.drop(columns=["folder", "fold"])
        if cells is not None and match_of(cells) != match_of(found):
            sys.exit(f"{out} has match = {match_of(found)!r}, {asked.kept} has {match_of(cells)!r}: choose another folder for it")
        before = 0 if cells is None else (cells["status"] == "done").sum()
        cells = found if cells is None else with_cells(cells, found)
        cases = added(cases, outcome.scores, [*CELL, "id"])
        masks = added(masks, mended_masks(outcome.cells), [*CELL, "id"])
        shares = with_shares(shares, outcome.shares)
        print(f"{out}: {(cells['status'] == 'done').sum() - before} cells more")
    asked.kept.mkdir(parents=True, exist_ok=True)
    for out in asked.outs:
        if (out / "costs.json").is_file():
            shutil.copy(out / "costs.json", asked.kept / f"costs-{out.name}.json")
    if masks is not None and len(masks):
        masks.to_csv(asked.kept / "masks.csv", index=False, float_format="%.5g")
    for name, table, form in (("cells", cells, None), ("cases", cases, "%.6f"), ("shares", shares, "%.6g")):
        table.to_csv(asked.kept / f"{name}.csv", index=False, float_format=form)
    summary = summary_of(cells, cases)
    summary.to_csv(asked.kept / "summary.csv", index=False, float_format="%.6g")
    classes = summarize_classes(cases)
    if len(classes):
        classes.to_csv(asked.kept / "classes.csv", index=False, float_format="%.6g")
    (asked.kept / "tables.md").write_text(format_markdown(summary, shares, classes), encoding="utf-8")
    differs = [f"minus_rival{end}" for end in ("", "_low", "_high")]
    shown = [*GROUP, "method", "seeds", "dice", "dice_low", "dice_high", "rival", *differs]
    print(summary.loc[summary["dice"].notna(), shown].round(3).to_string(index=False))


if __name__ == "__main__":
    main()
