"""The results as files: tables for programs, tables and figures for people."""

from collections.abc import Iterator
from pathlib import Path

from pixeltrust.benchmarking.outcome.figures import Drawing, clean_figure, cost_figure, dice_figure, weights_figure
from pixeltrust.benchmarking.outcome.reading import read_results
from pixeltrust.benchmarking.outcome.statistics import BenchmarkResults
from pixeltrust.benchmarking.outcome.weight_pictures import CASES, find_cell_with_maps, maps_figure, read_weighed_cases
from pixeltrust.benchmarking.outcome.words import format_markdown, has_several_counts, split_groups
from pixeltrust.pages.charts import to_png
from pixeltrust.plumbing.errors import RunError
from pixeltrust.plumbing.files import make_folder, write_file


def write_results_files(out: Path) -> BenchmarkResults:
    """Write the tables and figures/ of the results so far into the folder of a benchmark.

    Raises:
        RunError: it is not a benchmark, its records cannot be read, or it cannot be written to.
    """
    outcome = read_results(out)
    try:
        write_file(out / "summary.csv", outcome.summary.to_csv(index=False, float_format="%.6g"))
        write_file(out / "shares.csv", outcome.shares.to_csv(index=False, float_format="%.6g"))
        if len(outcome.classes):
            write_file(out / "classes.csv", outcome.classes.to_csv(index=False, float_format="%.6g"))
        write_file(out / "tables.md", format_markdown(outcome.summary, outcome.shares, outcome.classes))
        _write_figures(out / "figures", draw_figures(outcome))
    except OSError as error:
        raise RunError(f"{error.filename or out}: cannot be written: {error.strerror or error}") from None
    return outcome


def draw_figures(outcome: BenchmarkResults) -> Iterator[Drawing]:
    """Yield every figure for which there are numbers; one figure has all kinds of noise."""
    methods = list(outcome.summary["method"].unique())
    for clean, rows in outcome.summary.groupby("clean", sort=True):
        groups = [group for group in split_groups(rows) if group["dice"].notna().any()]
        if groups:
            yield dice_figure(groups, outcome.seed_means, methods, name=f"dice-{clean}")
        with_costs = [group for group in groups if group["cost"].notna().any()]
        if with_costs:
            yield cost_figure(with_costs, methods, name=f"cost-{clean}")
        shares = outcome.shares[outcome.shares["clean"] == clean]
        if len(shares):
            yield weights_figure(shares, methods, name=f"wrong-weight-{clean}")
    if has_several_counts(outcome.summary):
        yield clean_figure(outcome.summary, methods)
    folder = find_cell_with_maps(outcome.cells)
    if folder is not None and (cases := list(read_weighed_cases(folder, CASES))):
        yield maps_figure(cases, f"Weights over training: {folder.name}")


def _write_figures(folder: Path, drawings: Iterator[Drawing]) -> None:
    make_folder(folder)
    written = set()
    for drawing in drawings:
        write_file(folder / f"{drawing.name}.svg", drawing.chart().svg)
        write_file(folder / f"{drawing.name}.png", to_png(drawing.figure))
        written.add(drawing.name)
    for stale in folder.iterdir():  # of an earlier state, without numbers now
        if stale.stem not in written and stale.suffix in (".svg", ".png"):
            stale.unlink()
