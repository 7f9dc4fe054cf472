"""The first result: ISIC 2017, triangle noise, 100 clean masks of 2,000; plain, clean, joint and pixel, over seeds.

    python benchmarks/isic2017.py SOURCE OUT --seeds 0 1 2 --jobs 2

SOURCE has images/, masks/ and split.csv. Everything runs by the documented commands, one thread a job; what is finished is not run
again, so a stopped benchmark continues. Validation images are predicted at their own size from the last weights. Results, small files
only, go to results/isic2017-triangle/: cases.csv (a row per method, seed and case), runs.csv (a row per run), table.md.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from pixeltrust.metrics import bootstrap_interval
from pixeltrust.runs import Run, environment

METHODS = ("plain", "joint", "clean", "pixel")
SETTINGS = {"model": "unet-small", "image_size": 64, "epochs": 10}
RESULTS = Path(__file__).parents[1] / "results" / "isic2017-triangle"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    for seed in arguments.seeds:
        if not (arguments.out / f"data-{seed}").exists():
            pixeltrust("simulate", arguments.source, arguments.out / f"data-{seed}", "--noise=triangle", "--clean=100", f"--seed={seed}")
    runs = [(method, seed) for seed in arguments.seeds for method in METHODS]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        tables = list(pool.map(lambda run: one_run(arguments.out, *run), runs))
    RESULTS.mkdir(parents=True, exist_ok=True)
    cases = pd.concat(tables, ignore_index=True)
    cases.to_csv(RESULTS / "cases.csv", index=False, float_format="%.6f")
    for seed in arguments.seeds:
        shutil.copy(arguments.out / f"data-{seed}" / "simulation.json", RESULTS / f"simulation-{seed}.json")
    per_run = pd.DataFrame([run_row(arguments.out, cases, method, seed) for method, seed in runs])
    per_run.to_csv(RESULTS / "runs.csv", index=False)
    record = {name: value for name, value in environment().items() if name not in ("command", "threads")}
    (RESULTS / "environment.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    (RESULTS / "table.md").write_text(table(cases, per_run), encoding="utf-8")
    print(table(cases, per_run))


def one_run(out: Path, method: str, seed: int) -> pd.DataFrame:
    """Train, predict and evaluate, as far as it is not done; the metrics of every test case."""
    data, run, name = out / f"data-{seed}", out / "runs" / f"{method}-{seed}", f"{method}-{seed}"
    settings = {"method": method, "seed": seed, **SETTINGS}
    pixeltrust("train", data, "--out", run, "--resume", "--quiet", *(f"--set={key}={value}" for key, value in settings.items()))
    shown, predicted, csv = out / f"test-images-{seed}", out / "predicted" / name, out / f"{name}.csv"
    if not csv.exists():
        shown.mkdir(exist_ok=True)
        for mask in (data / "test").iterdir():
            image = next((data / "images").glob(f"{mask.stem}.*"))
            if not (shown / image.name).exists():
                shutil.copy(image, shown)
        pixeltrust("predict", run, shown, "--out", predicted, "--resume", "--quiet")
        pixeltrust("evaluate", predicted, data / "test", "--out", csv, "--quiet")
    return pd.read_csv(csv).assign(method=method, seed=seed)


def run_row(out: Path, cases: pd.DataFrame, method: str, seed: int) -> dict[str, object]:
    history = Run(out / "runs" / f"{method}-{seed}").read_table("history.csv")
    of_run = cases[(cases.method == method) & (cases.seed == seed)]
    last = history.iloc[-1]
    idle = int(history.all_zero_steps.sum())
    return {
        "method": method,
        "seed": seed,
        "dice": round(of_run.dice.mean(), 4),
        "jaccard": round(of_run.jaccard.mean(), 4),
        "updates": int(last["update"]),
        "seconds": round(last.seconds),
        "all_zero_steps": idle,
    }


def table(cases: pd.DataFrame, per_run: pd.DataFrame) -> str:
    """Dice per seed, the mean with its interval over cases (each averaged over seeds), and paired differences to plain and clean."""
    by_case = cases.pivot_table(index="id", columns="method", values="dice", aggfunc="mean")
    seeds = sorted(cases.seed.unique())
    heads = [*(f"seed {seed}" for seed in seeds), "mean Dice, 95 % interval", "minus plain", "minus clean", "Jaccard", "minutes a run"]
    lines = [f"| method | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for method in METHODS:
        rows = per_run[per_run.method == method].set_index("seed")
        cells = [
            *(f"{rows.dice[seed]:.3f}" for seed in seeds),
            f"{by_case[method].mean():.3f} ({interval(by_case[method], '.3f')})",
            *(against(by_case, method, other) for other in ("plain", "clean")),
            f"{rows.jaccard.mean():.3f}",
            f"{rows.seconds.mean() / 60:.0f}",
        ]
        lines.append(f"| `{method}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def against(by_case: pd.DataFrame, method: str, other: str) -> str:
    difference = by_case[method] - by_case[other]
    return "–" if method == other else f"{difference.mean():+.3f} ({interval(difference, '+.3f')})"


def interval(values: pd.Series, form: str) -> str:
    low, high = bootstrap_interval(values)
    return f"{low:{form}} to {high:{form}}"


def pixeltrust(*words: object) -> None:
    command = [sys.executable, "-m", "pixeltrust.cli", *map(str, words)]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


if __name__ == "__main__":
    main()
