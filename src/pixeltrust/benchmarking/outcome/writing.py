"""The outcome as files: tables for programs, tables and figures for people."""

from collections.abc import Iterator
from pathlib import Path

from pixeltrust.benchmarking.outcome.figures import Drawing, clean_figure, cost_figure, dice_figure, weights_figure
from pixeltrust.benchmarking.outcome.reading import read_results
from pixeltrust.benchmarking.outcome.statistics import BenchmarkResults
from pixeltrust.benchmarking.outcome.weight_pictures import CASES, find_cell_with_maps, maps_figure, read_weighed_cases
from pixeltrust.benchmarking.outcome.words import format_markdown, several_counts, split_groups
from pixeltrust.plumbing.errors import RunError
from pixeltrust.plumbing.files import make_folder, write_file


def write_results_files(out: Path) -> BenchmarkResults:
    """Write summary.csv, shares.csv, tables.md and figures/ into the folder of a benchmark, of what is there by now.

    Raises:
        RunError: it is no benchmark, its records cannot be read, or it cannot be written to.
    """
    outcome = read_results(out)
    try:
        write_file(out / "summary.csv", outcome.summary.to_csv(index=False, float_format="%.6g"))
        write_file(out / "shares.csv", outcome.shares.to_csv(index=False, float_format="%.6g"))
        write_file(out / "tables.md", format_markdown(outcome.summary, outcome.shares))
        _write_figures(out / "figures", draw_figures(outcome))
    except OSError as error:
        raise RunError(f"{error.filename or out}: cannot be written: {error.strerror or error}") from None
    return outcome


def draw_figures(outcome: BenchmarkResults) -> Iterator[Drawing]:
    """Every figure for which there are numbers, with all kinds of noise in one."""
    methods = list(outcome.summary["method"].unique())
    for clean, rows in outcome.summary.groupby("clean", sort=True):
        shown = [group for group in split_groups(rows) if group["dice"].notna().any()]
        if shown:
            yield dice_figure(shown, outcome.seed_means, methods, name=f"dice-{clean}")
        costed = [group for group in shown if group["cost"].notna().any()]
        if costed:
            yield cost_figure(costed, methods, name=f"cost-{clean}")
        shares = outcome.shares[outcome.shares["clean"] == clean]
        if len(shares):
            yield weights_figure(shares, methods, name=f"wrong-weight-{clean}")
    if several_counts(outcome.summary):
        yield clean_figure(outcome.summary, methods)
    folder = find_cell_with_maps(outcome.cells)
    cases = list(read_weighed_cases(folder, CASES)) if folder is not None else []
    if folder is not None and cases:
        yield maps_figure(cases, heading=f"Weights over training: {folder.name}")


def _write_figures(folder: Path, every: Iterator[Drawing]) -> None:
    make_folder(folder)
    known = set()
    for drawing in every:
        write_file(folder / f"{drawing.name}.svg", drawing.chart().svg)
        write_file(folder / f"{drawing.name}.png", drawing.png())
        known |= {f"{drawing.name}.svg", f"{drawing.name}.png"}
    for stale in folder.iterdir():  # of an earlier state, which nothing stands for any more
        if stale.name not in known and stale.suffix in (".svg", ".png"):
            stale.unlink()
