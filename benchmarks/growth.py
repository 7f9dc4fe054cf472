"""How time and memory grow with the size of the work.

    python benchmarks/growth.py cases --source SOURCE --out results/growth
    OMP_NUM_THREADS=1 python benchmarks/growth.py steps --out results/growth

`cases`: tables of 1,000 to 1,000,000 cases over a few hundred files of SOURCE (images/ and masks/): seconds to read one, seconds to
set up all that `train` has before its network and first update, bytes per case of what then stays, and peak resident memory.

`steps`: milliseconds and peak memory of a plain, an ordinary (`both`) and an exact step of `unet-small`, measured as step.py does,
against the batch (as many noisy as clean images), the image's size and the number of classes; also drawn, in docs/pictures/growth.png.

Memory is always measured in a process of its own, and so is all of `cases`. A table goes to OUT under the name of its command, and the
machine to environment.json.
"""

import argparse
import json
import resource
import sys
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pyarrow as pa

from pixeltrust.config import Config
from pixeltrust.data.batches import Streams, hold_out
from pixeltrust.data.cases import files_by_id, read_cases, table_of
from pixeltrust.training.run_folder import CACHE
from pixeltrust.training.run_writer import RunWriter, describe_environment

CASES = (1_000, 10_000, 100_000, 1_000_000)
FILES = 300
REPEATS = 3
PEAK_UNIT = 2**20 if sys.platform == "darwin" else 2**10  # of a process's peak, in MiB

STEPS = {"batch": (2, 4, 8, 16, 32), "size": (32, 64, 96, 128, 256), "classes": (1, 4, 16, 64)}  # each with the others as below
USUAL = {"batch": 8, "size": 96, "classes": 1}
AXES = {"batch": "noisy images, and as many clean ones", "size": "pixels a side", "classes": "logits a pixel (1: binary)"}
KINDS = {"plain": "ordinary, noisy batch", "both": "ordinary, both batches", "exact": "exact pixel weights"}
LOOKS = (("#0072b2", "o", "-"), ("#e69f00", "s", "--"), ("#000000", "^", ":"))  # told apart without colours too
FIGURE = Path(__file__).parents[1] / "docs" / "pictures" / "growth.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    of_cases = commands.add_parser("cases", help="tables of more and more cases")
    of_cases.add_argument("--source", type=Path, required=True)
    of_cases.set_defaults(measure=lambda arguments: cases(arguments.source))
    of_steps = commands.add_parser("steps", help="larger and larger batches, images, numbers of classes")
    of_steps.add_argument("--figure", type=Path, default=FIGURE)
    of_steps.set_defaults(measure=lambda arguments: steps(arguments.figure))
    for command in commands.choices.values():
        command.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    table = arguments.measure(arguments)
    arguments.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(arguments.out / f"{arguments.command}.csv", index=False)
    record = {name: value for name, value in describe_environment().items() if name != "command"}
    (arguments.out / "environment.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(table.to_string(index=False))


def alone(work: Callable, *arguments):
    """Return the result of a function that runs in a fresh process."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(work, *arguments).result()


# --- cases ------------------------------------------------------------------------------------------------------------


def cases(source: Path) -> pd.DataFrame:
    """Return a row per number of cases: the median of a few times, and the memory."""
    rows = []
    with TemporaryDirectory() as scratch:
        for count in CASES:
            table = Path(scratch) / f"{count}.parquet"
            alone(write_cases, source, count, table)
            timed = pd.DataFrame([alone(set_up, table, Path(scratch) / "run", False) for _ in range(REPEATS)]).median()
            traced = alone(set_up, table, Path(scratch) / "run", True)
            rows.append(
                {
                    "cases": count,
                    "read_seconds": round(timed["read_seconds"], 2),
                    "set_up_seconds": round(timed["set_up_seconds"], 2),
                    "bytes_per_case": round(traced["bytes"] / count),
                    "peak_mib": round(timed["peak_mib"]),
                }
            )
    return pd.DataFrame(rows)


def write_cases(source: Path, count: int, table: Path) -> None:
    """Write a table. Of a hundred cases one is a test, two are clean; ten neighbours of a role are a group; tests have their own files."""
    images, masks = (files_by_id(source / name).files for name in ("images", "masks"))
    shared = sorted(images.keys() & masks.keys())[:FILES]
    numbers = np.arange(count)
    roles = np.select([numbers % 100 == 0, numbers % 100 <= 2], ["test", "clean"], "noisy")
    tests = FILES // 10
    files = np.where(roles == "test", numbers // 100 % tests, tests + numbers % (len(shared) - tests))
    columns = {
        "id": [f"case-{number:07}" for number in numbers],
        "image": np.array([str(images[one].absolute()) for one in shared])[files],
        "mask": np.array([str(masks[one].absolute()) for one in shared])[files],
        "role": roles,
        "group": [f"{role}-{number // 10}" for role, number in zip(roles, numbers, strict=True)],
    }
    pd.DataFrame(columns).to_parquet(table)


def set_up(table: Path, folder: Path, traced: bool) -> dict[str, float]:
    """Do what `train` does before it builds its network, with pixels in a memory-mapped file, of which none is decoded."""
    config, run = Config(image_size=64, cache_gib=0), RunWriter(folder)
    if traced:
        tracemalloc.start()
    arrow = pa.total_allocated_bytes()
    start = time.perf_counter()
    read = read_cases(table, show_progress=False)
    between = time.perf_counter()
    with run.claimed():
        clean, held = hold_out(read.of("clean"), config, noisy=read.of("noisy"))
        record = table_of(read.of("noisy") + clean + held + read.of("test"), held.texts("id"))
        streams = Streams(read, clean, held, config, folder / CACHE)
        run.create(config, record)
        stop = time.perf_counter()
        kept = tracemalloc.get_traced_memory()[0] + pa.total_allocated_bytes() - arrow
        del streams, record  # counted until here
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / PEAK_UNIT
    return {"read_seconds": between - start, "set_up_seconds": stop - between, "bytes": kept, "peak_mib": peak}


# --- steps ------------------------------------------------------------------------------------------------------------


def steps(figure: Path) -> pd.DataFrame:
    """Return a row per curve, point and kind of step: median and quartiles of its milliseconds, and its peak memory above idle."""
    import measuring
    import step
    from kinds import Cell

    rows, known = [], {}
    for curve, values in STEPS.items():
        for value in values:
            sizes = {**USUAL, curve: value}
            cell = Cell(network="unet-small", size=sizes["size"], noisy=sizes["batch"], clean=sizes["batch"], classes=sizes["classes"])
            if cell not in known:  # the curves meet in one point
                known[cell] = measuring.measure(cell, kinds=tuple(KINDS), rounds=9, warm_updates=1, seconds=12, agreement=False)
                print(step.line(known[cell]), flush=True)
            rows += [{"curve": curve, "value": value, **row} for row in step_rows(known[cell])]
    table = pd.DataFrame(rows)
    draw_steps(table, figure)
    return table


def step_rows(record: dict) -> list[dict[str, float | str]]:
    rows = []
    for kind, seconds in record["seconds"].items():
        low, middle, high = (round(1e3 * float(value), 2) for value in np.percentile(seconds, (25, 50, 75)))
        times = float(np.median(np.divide(seconds, record["seconds"]["both"])))
        row = {"kind": kind, "ms": middle, "ms_low": low, "ms_high": high, "times_both": round(times, 3)}
        rows.append({**row, "peak_mib": round(record["peak_mib"][kind], 1), "rounds": len(seconds), "threads": record["threads"]})
    return rows


def draw_steps(table: pd.DataFrame, file: Path) -> None:
    """Time above, memory below; a column per curve; all axes logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    figure, axes = plt.subplots(2, len(STEPS), figsize=(10.5, 5.6), sharey="row", squeeze=False)
    for column, curve in enumerate(STEPS):
        for axis, measure, text in zip(axes[:, column], ("ms", "peak_mib"), ("ms a step", "peak memory, MiB"), strict=True):
            for (kind, name), (colour, marker, style) in zip(KINDS.items(), LOOKS, strict=True):
                points = table[(table.curve == curve) & (table.kind == kind)]
                axis.plot(points.value, points[measure], style, color=colour, marker=marker, markersize=5, label=name)
                if measure == "ms":
                    axis.fill_between(points.value, points.ms_low, points.ms_high, color=colour, alpha=0.2, linewidth=0)
            axis.set_xscale("log", base=2)
            axis.set_yscale("log")
            axis.set_xticks(STEPS[curve])
            axis.yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
            for scale in (axis.xaxis, axis.yaxis):
                scale.set_minor_locator(NullLocator())
                scale.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
            axis.grid(alpha=0.3)
            if column == 0:
                axis.set_ylabel(text)
        axes[0, column].set_title(described(curve), fontsize=9)
        axes[1, column].set_xlabel(AXES[curve])
    axes[0, 0].legend(fontsize=8, frameon=False)
    figure.suptitle("A step takes time and memory in proportion to the pixels that it sees", fontsize=11)
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)


def described(curve: str) -> str:
    """Return in words what stays the same along the curve."""
    batch, size, classes = (USUAL[name] for name in ("batch", "size", "classes"))
    fixed = {"batch": f"{batch} + {batch} images", "size": f"{size}x{size} pixels", "classes": f"{classes} logit a pixel"}
    return ", ".join(text for name, text in fixed.items() if name != curve)


if __name__ == "__main__":
    main()
